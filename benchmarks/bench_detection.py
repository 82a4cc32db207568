"""What Early-Bird detection costs against an epoch of training: VGG16 at full width, three ratios, one run.

CPU seconds, median of several; the training step is timed in the same process, so the ratio holds on a shared machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from earlybird import EarlyBird, bn_scale, channel_groups, draw_mask, mask_distance
from earlybird.models import build_model
from earlybird.settings.method import DRAWS

RATIOS = (0.3, 0.5, 0.7)
IMAGES, BATCH_SIZE = 50_000, 128
PAPER_EPOCHS = 160


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of `work`, all threads together, after one call that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main() -> None:
    torch.manual_seed(0)
    model = build_model("vgg16", num_classes=10)
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.dim() == 1:
            parameter.data.uniform_(0.1, 1.0)
    groups = channel_groups(model, torch.zeros(1, 3, 32, 32))
    x, y = torch.randn(BATCH_SIZE, 3, 32, 32), torch.randint(10, (BATCH_SIZE,))

    def train_step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(model(x).float(), y)
        loss.backward()
        model.zero_grad(set_to_none=True)

    def draw_and_compare() -> None:
        scores = bn_scale(model)
        masks = [draw_mask(scores, ratio, groups) for ratio in RATIOS]
        for mask, earlier in zip(masks, previous, strict=True):
            mask_distance(mask, earlier, groups)

    previous = [draw_mask(bn_scale(model), ratio, groups) for ratio in RATIOS]
    detector = EarlyBird(list(RATIOS), groups, window=10_000)  # never fires: only draws and distances are timed
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    step = cpu_seconds(train_step, 5)
    epoch = step * -(-IMAGES // BATCH_SIZE)
    functions, update = cpu_seconds(draw_and_compare, 21), cpu_seconds(lambda: detector.update(model), 21)
    print(f"VGG16, {groups.num_units} units, {torch.get_num_threads()} threads, ratios {RATIOS}")
    print(f"epoch of {IMAGES} images: {epoch:8.1f} CPU s (one bf16 step of {BATCH_SIZE}: {1e3 * step:.0f} ms)")
    for label, seconds in (("draw + distance, 3 ratios", functions), ("EarlyBird.update, 3 ratios", update)):
        print(f"{label}: {1e3 * seconds:6.2f} CPU ms = {100 * seconds / epoch:.4f} % of an epoch")
    for epochs in (PAPER_EPOCHS, 40):
        draws = DRAWS / epochs
        share = 100 * draws * update / epoch
        print(f"clock scaled, T = {epochs}: {draws:g} draws per epoch = {share:.4f} % of an epoch")


if __name__ == "__main__":
    main()
