"""Preparation of a run, configuration to `Task`: data, device, network, precision, session.

What "auto" means is settled here, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from earlybird.data import Augment, Batches, DataBundle, MemoryImages, eval_batches, load_data, train_batches
from earlybird.data.images import subset
from earlybird.data.randomness import stratified_indices
from earlybird.data.sizes import PUBLISHED, DataSizes
from earlybird.energy import find_counter, measure_idle
from earlybird.errors import ModelError, first_line
from earlybird.methods.task import Task
from earlybird.models import check_model_name
from earlybird.runs.folder import RunFolder
from earlybird.runs.saved_model import NetworkSpec
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.run import DataConfig, ModelConfig, RunConfig
from earlybird.training.compute import Compute, choose_device, choose_precision
from earlybird.training.session import Journal, Progress, Session, StopFlag


@dataclass(frozen=True)
class Prepared:
    """Prepared run: the task, and what the record needs of its network and data."""

    task: Task
    spec: NetworkSpec
    bundle: DataBundle
    resolved: dict[str, Any]
    workers: int

    def test_batches(self) -> Batches:
        """Batches of the test set; read it once."""
        compute, settings = self.task.session.compute, self.task.session.settings
        return evaluation_batches(self.bundle, "test", settings.eval_batch_size, compute, self.workers)


def prepare(config: RunConfig, folder: RunFolder, resolved: dict[str, Any], stop: StopFlag, quiet: bool) -> Prepared:
    """Load data and network, settle device and precision, and write the value of each "auto" into the folder.

    `resolved` is what an earlier start settled; it is reused, so that a resumed run keeps its numbers.

    Raises:
        EarlyBirdError: unknown or missing model or data, or a network that cannot take these images.
    """
    settings = config.training
    spec, bundle, model = network_and_data(config)
    device = choose_device(settings.device)
    precision = resolved.get("precision")
    if precision is None:
        shape = (settings.batch_size, *spec.example_input().shape[1:])
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        precision = choose_precision(settings.precision, model, batch, device)
    compute = Compute(device, precision)
    session = _session(config, bundle, compute, folder, stop, quiet)
    measure_idle(session.energy)  # now, while nothing runs
    settled = {
        "precision": precision, "device": str(device), "augment": resolve_augment(config.data, bundle),
        "threads": torch.get_num_threads(), "steps_per_epoch": session.steps_per_epoch,
        "total_steps": session.total_steps,
    }  # fmt: skip
    if isinstance(config.method, EarlyBirdTraining):
        settled["schedule"] = config.method.resolved_schedule
    if (round_to := getattr(config.method, "round_to", None)) is not None:
        settled["round_to"] = round_to
    folder.write_config(config, settled)
    image_shape = (bundle.in_channels, bundle.image_size, bundle.image_size)
    sample = partial(_sample, config, bundle, compute)
    task = Task(spec.build, image_shape, session, folder.path, settings.seed, bundle.num_classes, sample)
    return Prepared(task, spec, bundle, settled, config.data.workers)


def network_and_data(config: RunConfig) -> tuple[NetworkSpec, DataBundle, nn.Module]:
    """Build the network of a configuration and load its data.

    Raises:
        EarlyBirdError: unknown or missing model or data, or a network that cannot take these images.
    """
    check_model_name(config.model.name)
    bundle = load_bundle(config.data, config.training.seed)
    spec = network_spec(config.model, DataSizes.of(bundle))
    model = spec.build(config.training.seed)
    check_network(model, spec)
    return spec, bundle, model


def network_spec(model: ModelConfig, sizes: DataSizes) -> NetworkSpec:
    """Network of a configuration for data of these sizes."""
    return NetworkSpec(model.name, sizes.classes, sizes.image_shape[0], sizes.image_shape[1], model.width)


def data_sizes(data: DataConfig) -> DataSizes:
    """Sizes of a configuration's data; the data are read unless their sizes are published.

    Raises:
        EarlyBirdError: unknown or missing data, or more training images asked for than there are.
    """
    if data.name in PUBLISHED:
        return PUBLISHED[data.name].split(data.image_size, data.train_images, data.val_fraction)
    return DataSizes.of(load_bundle(data, seed=0))


def _session(
    config: RunConfig, bundle: DataBundle, compute: Compute, folder: RunFolder, stop: StopFlag, quiet: bool
) -> Session:
    settings, workers = config.training, config.data.workers
    train = train_batches(
        bundle, batch_size=settings.batch_size, seed=settings.seed, augment=resolve_augment(config.data, bundle),
        device=compute.device, workers=workers, memory_format=compute.memory_format,
    )  # fmt: skip
    val = None
    if bundle.val is not None:
        val = evaluation_batches(bundle, "val", settings.eval_batch_size, compute, workers)
    return Session(
        train, val, settings, compute, folder.checkpoints, Journal(folder.write_rows),
        Progress(train.steps_per_epoch, settings.epochs, quiet=quiet), stop, find_counter(compute.device),
    )  # fmt: skip


def _sample(config: RunConfig, bundle: DataBundle, compute: Compute, images: int) -> Batches:
    """Sample of training images, each class by its share, not augmented; the same ones for the same seed."""
    chosen = stratified_indices(bundle.train.labels, images, config.training.seed)
    sample = replace(bundle, train=subset(bundle.train, chosen))
    return evaluation_batches(sample, "train", config.training.eval_batch_size, compute, config.data.workers)


def evaluation_batches(
    bundle: DataBundle, split: Literal["train", "val", "test"], batch_size: int, compute: Compute, workers: int
) -> Batches:
    """Batches of one split for a network placed by `compute`; see `eval_batches`."""
    return eval_batches(
        bundle, split, batch_size=batch_size, device=compute.device, workers=workers,
        memory_format=compute.memory_format,
    )  # fmt: skip


def load_bundle(data: DataConfig, seed: int) -> DataBundle:
    """Load the data set of a configuration."""
    return load_data(
        data.name, root=data.root, download=data.download, image_size=data.image_size, val_fraction=data.val_fraction,
        seed=seed, cache_dir=data.cache, train_images=data.train_images,
    )  # fmt: skip


def resolve_augment(data: DataConfig, bundle: DataBundle) -> Augment:
    """Augmentation for `auto`: digits are not mirrored, folders get the ImageNet protocol."""
    if data.augment != "auto":
        return data.augment
    if not isinstance(bundle.train, MemoryImages):
        return "imagenet"
    return "none" if data.name == "digits" else "crop_flip"


@torch.no_grad()
def check_network(model: nn.Module, spec: NetworkSpec) -> None:
    """Raise `ModelError` unless the network takes these images and gives one number per class."""
    was_training = model.training
    example = spec.example_input()
    try:
        logits = model.eval()(example)
    except Exception as error:
        raise ModelError(
            f"model {spec.name!r} cannot take images of shape {tuple(example.shape[1:])} ({first_line(error)}); "
            "choose another --data.image_size or another --model"
        ) from error
    finally:
        model.train(was_training)
    if tuple(logits.shape) != (1, spec.num_classes):
        raise ModelError(
            f"model {spec.name!r} gives {tuple(logits.shape)} for one image; the data has {spec.num_classes} classes, "
            f"so it must give (1, {spec.num_classes})"
        )
