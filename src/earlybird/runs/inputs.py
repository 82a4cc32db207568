"""Network and data of a configuration: built, loaded, and checked against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from earlybird.core import Ticket
from earlybird.data import Augment, Batches, DataBundle, MemoryImages, eval_batches, load_data
from earlybird.data.images import PUBLISHED, DataSizes
from earlybird.errors import ModelError
from earlybird.methods.retrain import load_ticket_weights
from earlybird.models import check_model_name
from earlybird.runs.folder import NetworkSpec
from earlybird.settings.run import DataConfig, ModelConfig, RunConfig
from earlybird.training.compute import Compute
from earlybird.training.low_resolution import smaller_side


def network_and_data(config: RunConfig, ticket: Ticket | None = None) -> tuple[NetworkSpec, DataBundle, nn.Module]:
    """Build the network of a configuration, if the ticket to start from is one of it, and load its data.

    Raises:
        EarlyBirdError: unknown or missing model or data, or a network that cannot take these images, or is not the
            ticket's.
    """
    check_model_name(config.model.name)
    bundle = load_bundle(config.data, config.training.seed)
    spec = network_spec(config.model, DataSizes.of(bundle))
    if ticket is not None and (unmade := spec.unmade()) is not None:  # Settings beside a ticket may promise anything.
        load_ticket_weights(unmade, ticket)
    model = spec.build(config.training.seed)
    spec.check(model)
    return spec, bundle, model


def network_spec(model: ModelConfig, sizes: DataSizes) -> NetworkSpec:
    """Network of a configuration for data of these sizes."""
    return NetworkSpec(model.name, sizes.classes, sizes.image_shape[0], sizes.image_shape[1], model.width)


def refuse_smaller_images(spec: NetworkSpec, model: nn.Module) -> None:
    """Raise unless the network takes the images of `training.low_resolution` too.

    Raises:
        ModelError: it does not, or there are none.
    """
    side = smaller_side(spec.image_size)
    if side >= spec.image_size:
        told = f"images of {spec.image_size} pixels a side have no even side near 3/4 of it"
        raise ModelError(f"{told}; give --training.low_resolution 0")
    try:
        replace(spec, image_size=side).check(model)
    except ModelError as error:
        told = f"--training.low_resolution trains on images of {side} pixels a side: {error}"
        raise ModelError(f"{told}; or give --training.low_resolution 0") from error


def data_sizes(data: DataConfig) -> DataSizes:
    """Sizes of a configuration's data, which are read unless these are published; of a folder's pictures some headers.

    Raises:
        EarlyBirdError: unknown or missing data, or more training images asked for than there are.
    """
    if data.name in PUBLISHED:
        return PUBLISHED[data.name].split(data.image_size, data.train_images, data.val_fraction)
    return DataSizes.of(load_bundle(data, seed=0, decode=False))


def evaluation_batches(
    bundle: DataBundle, split: Literal["train", "val", "test"], batch_size: int, compute: Compute, workers: int
) -> Batches:
    """Batches of one split for a network placed by `compute`; see `eval_batches`."""
    return eval_batches(
        bundle, split, batch_size=batch_size, device=compute.device, workers=workers,
        memory_format=compute.memory_format,
    )  # fmt: skip


def load_bundle(data: DataConfig, seed: int, *, decode: bool = True) -> DataBundle:
    """Load the data set of a configuration; `decode` as in `load_data`."""
    return load_data(
        data.name, root=data.root, download=data.download, image_size=data.image_size, val_fraction=data.val_fraction,
        seed=seed, cache_dir=data.cache, train_images=data.train_images, decode=decode,
    )  # fmt: skip


def resolve_augment(data: DataConfig, bundle: DataBundle) -> Augment:
    """Augmentation for `auto`: digits are not mirrored, folders get the ImageNet protocol."""
    if data.augment != "auto":
        return data.augment
    if not isinstance(bundle.train, MemoryImages):
        return "imagenet"
    return "none" if data.name == "digits" else "crop_flip"
