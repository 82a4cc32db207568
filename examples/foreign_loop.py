"""Early-Bird training in a loop of your own: plain PyTorch, four functions of earlybird.

    python examples/foreign_loop.py

Trains a small network on scikit-learn's digits (`pip install 'earlybird[demo]'`) in a few seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from earlybird import EarlyBird, bn_l1_subgradient_, channel_groups, slim

EPOCHS = 30
PENALTY = 2e-3  # stronger than the paper's 1e-4: this run has 690 steps, the paper's 31,360


def make_model():
    def block(n_in, n_out):
        return [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]

    head = [nn.Flatten(), nn.Linear(64 * 4 * 4, 10)]
    return nn.Sequential(*block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 64), *head)


def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train_one_epoch(model, loader, optimizer, after_backward=None):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if after_backward:
            after_backward()
        optimizer.step()


def main():
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(x[:1440], y[:1440]), batch_size=64, shuffle=True)
    model, example_input = make_model(), x[:1]
    optimizer = make_optimizer(model)

    groups = channel_groups(model, example_input)
    detector = EarlyBird(prune_ratio=0.5, groups=groups)
    for _ in range(EPOCHS):
        train_one_epoch(model, loader, optimizer, after_backward=lambda: bn_l1_subgradient_(model, PENALTY))
        if ticket := detector.update(model):
            break
    else:
        raise SystemExit(f"no stable mask: train longer or raise epsilon; distances {detector.distances}")
    small = slim(model, ticket.mask, example_input, groups)
    optimizer = make_optimizer(small)  # the old one holds the old tensors

    for _ in range(ticket.drawn_after, EPOCHS):
        train_one_epoch(small, loader, optimizer)
    small.eval()
    accuracy = (small(x[1440:]).argmax(1) == y[1440:]).float().mean()
    size = [sum(p.numel() for p in m.parameters()) for m in (model, small)]
    print(f"ticket after {ticket.drawn_after} of {EPOCHS} epochs; parameters {size[0]:,} -> {size[1]:,}")
    print(f"test accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
