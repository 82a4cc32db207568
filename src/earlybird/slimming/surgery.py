"""The cut: `slim` gives a smaller ordinary module, `masked` the dense one with the same channels at zero.

Modules are narrowed in place in a deep copy, so the result is of the caller's own class with the caller's own forward.
`groups.py` says what may be cut; a mask that asks for more is a `MaskError`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlybird.copying import copied, full_name, own_tensors
from earlybird.core import ChannelGroups, ChannelMask, realised_ratio
from earlybird.errors import MaskError, SlimError, require_type
from earlybird.slimming.channels import ChannelTable, Flags
from earlybird.slimming.check import check_cut, difference
from earlybird.slimming.groups import groups_of, policy_of, protect_channels
from earlybird.slimming.layers import kind_of
from earlybird.slimming.selection import SELECTING_NORMS, Norm, let_gather_, let_scatter_
from earlybird.slimming.tracing import REMOVE_HOOK, ExampleInput

KeptIndices = dict[str, tuple[Tensor | None, ...]]


def slim(
    model: nn.Module,
    mask: ChannelMask,
    example_input: ExampleInput,
    groups: ChannelGroups | None = None,
    *,
    check: bool = True,
) -> nn.Module:
    """A new, physically smaller module that computes what `masked(model, mask)` computes.

    Weights, statistics and buffers are the kept part of the caller's, who keeps the model untouched. Device, dtype,
    memory format, `requires_grad` and the training flags carry over. A norm that gathers from a residual stream becomes
    a `SelectBatchNorm`, one that writes to a stream a `ScatterBatchNorm`.

    Args:
        model: the dense network.
        mask: which channels stay, drawn with the groups of this network.
        example_input: a tensor, or a tuple of tensors, with the batch first.
        groups: what the mask was drawn with; by default `channel_groups(model, example_input)`.
        check: run the slim and the masked network on the example, in both modes, and compare (`check.py`).

    Raises:
        SlimError: the network cannot be traced, or the check found a difference.
        MaskError: the mask cuts a protected channel, disagrees inside a tie, leaves a layer no channel, or names other
            layers or widths; or `groups` belong to another network.

    Warns:
        UserWarning: a forward hook or a replaced forward of yours keeps channels from being cut.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> mask = ChannelMask({"1": torch.tensor([True, False, True, False])})
        >>> slim(net, mask, torch.zeros(1, 3, 8, 8))[3].in_channels
        2
    """
    cuts, indices = _cuts(model, mask, example_input, groups)
    small = copied(model, _narrowed(model, indices))
    for name, module in small.named_modules():
        if name in cuts:
            _tell_sizes_(module, cuts[name])
            if isinstance(module, Norm) and not isinstance(module, SELECTING_NORMS):
                _let_select_(module, cuts[name])
    if check:
        check_cut(masked(model, mask), small, example_input)
    return small


def certify(model: nn.Module, mask: ChannelMask, example_input: ExampleInput, small: nn.Module) -> float:
    """Largest relative error of `small` against `masked(model, mask)`, over eval and train mode (`check.difference`).

    Returns:
        0 for equal outputs; about 1e-6 is float32 rounding.
    """
    return difference(masked(model, mask), small, example_input).worst


def kept_indices(
    model: nn.Module, mask: ChannelMask, example_input: ExampleInput, groups: ChannelGroups | None = None
) -> KeptIndices:
    """Source of each parameter and buffer of the slim network, for slicing momentum and the like.

    Returns:
        Name in the dense model -> one entry per dimension: the kept indices, int64 on the CPU, or None where the whole
        dimension stays.

    Raises:
        SlimError, MaskError: as `slim`.
    """
    return _cuts(model, mask, example_input, groups)[1]


def sliced(tensor: Tensor, indices: tuple[Tensor | None, ...]) -> Tensor:
    """The part of a tensor that one entry of `kept_indices` keeps, as a new tensor in the same memory format."""
    kept = tensor.detach()
    for dim, index in enumerate(indices):
        if index is not None:
            kept = kept.index_select(dim, index.to(tensor.device))
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: -strides[dim])
    inverse = [order.index(dim) for dim in range(tensor.dim())]
    return kept.permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)


def expanded(tensor: Tensor, shape: torch.Size, indices: tuple[Tensor | None, ...]) -> Tensor:
    """The inverse of `sliced`: a tensor of the dense `shape`, zeros where nothing was kept, on the tensor's device."""
    dense = tensor.new_zeros(shape)
    places = [torch.arange(size) if index is None else index for size, index in zip(shape, indices, strict=True)]
    dense[torch.meshgrid(*places, indexing="ij") if places else ...] = tensor.detach()
    return dense


def carry_optimizer_state_(
    new: Optimizer, old: Optimizer, small: nn.Module, dense: nn.Module, indices: KeptIndices
) -> None:
    """Give `new`, an optimizer over `small`, the state that `old` gathered over `dense`.

    A state tensor of a parameter's shape (momentum, Adam's moments) is cut as the parameter was; anything else (a step
    count) is copied. Parameters that `old` never stepped stay without state. Settings such as the learning rate are the
    new optimizer's own.

    Args:
        new: made over the slim network's parameters, of the same class as `old`.
        old: the optimizer of the dense network.
        small: what `slim` gave.
        dense: what it was cut from.
        indices: `kept_indices(dense, mask, example_input, groups)`.

    Raises:
        SlimError: a parameter of the slim network is not one of the dense one, narrowed.

    Example:
        >>> optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
        >>> carry_optimizer_state_(optimizer, dense_optimizer, small, model, kept_indices(model, mask, images))
    """
    before = dict(dense.named_parameters())
    for name, parameter in small.named_parameters():
        source = before.get(name)
        if source is None or name not in indices:
            raise SlimError(f"parameter {name!r} of the slim network is not in the dense one; give the two of one cut")
        if source in old.state:
            state = old.state[source].items()
            new.state[parameter] = {key: _carried(value, source, parameter, name, indices) for key, value in state}


def _carried(value: object, source: Tensor, parameter: Tensor, name: str, indices: KeptIndices) -> object:
    if not isinstance(value, Tensor) or value.numel() <= 1:
        if isinstance(value, (list, tuple, dict)):
            kind = type(value).__name__
            raise SlimError(f"the state of {name!r} holds a {kind}; such an optimizer cannot be carried over a cut")
        return value.detach().clone() if isinstance(value, Tensor) else value
    if value.shape != source.shape:
        told = f"the state of {name!r} has shape {list(value.shape)}, the parameter {list(source.shape)}"
        raise SlimError(f"{told}; such an optimizer cannot be carried over a cut")
    cut = sliced(value, indices[name])
    if cut.shape != parameter.shape:
        told = f"the state of {name!r} would have shape {list(cut.shape)}, the parameter has {list(parameter.shape)}"
        raise SlimError(f"{told}; give the indices of this cut")
    return cut.to(parameter.device)


@torch.no_grad()
def masked(model: nn.Module, mask: ChannelMask, example_input: ExampleInput | None = None) -> nn.Module:
    """A deep copy with the removed channels at zero: scale and shift of a norm, rows and bias of a conv or linear.

    Args:
        model: the dense network.
        mask: which channels stay.
        example_input: if given, the mask is first checked to be one that `slim` takes, under the default policy.

    Raises:
        MaskError: the mask names a module that has no channels to mask, or another width.
    """
    if example_input is not None:
        groups_of(protect_channels(model, example_input, "auto")).check(mask)
    model = copied(model)
    modules = dict(model.named_modules())
    for name, keep in mask.items():
        weight = getattr(modules.get(name), "weight", None)
        width = _by_output(modules[name], weight).shape[0] if isinstance(weight, Tensor) else None
        if width != keep.numel():
            found = "no such layer" if width is None else f"{width} channels"
            told = f"layer {name!r}: the mask has {keep.numel()} channels, the network {found}"
            raise MaskError(f"{told}; draw the mask from this network")
        zero_channels_(modules[name], keep)
    return model


@torch.no_grad()
def zero_channels_(module: nn.Module, keep: Tensor) -> None:
    """Set what makes the removed output channels of one layer to zero, in place: weight and bias.

    Args:
        module: a conv, linear or norm with a scale.
        keep: bool `[out channels]`.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    for parameter in (_by_output(module, weight), getattr(module, "bias", None)):
        if parameter is not None:
            parameter[~keep.to(parameter.device)] = 0


def _by_output(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight with its output channels first; a view, so that zeros reach the parameter."""
    kind = kind_of(module)
    return weight.transpose(0, 1) if kind is not None and kind.is_transposed else weight


@dataclass(frozen=True)
class _Cut:
    """Kept channels of one module: bool `[in]`, `[out]`, and for a norm what flows on, zeros included."""

    keep_in: Flags
    keep_out: Flags
    keep_wide: Flags


def _cuts(
    model: nn.Module, mask: ChannelMask, example_input: ExampleInput, groups: ChannelGroups | None
) -> tuple[dict[str, _Cut], KeptIndices]:
    """Kept channels of each layer, and with them kept indices of each tensor."""
    require_type(
        "the mask", mask, ChannelMask, MaskError, "give a ChannelMask, such as that of draw_mask or ticket.mask"
    )
    if groups is not None:
        require_type("groups", groups, ChannelGroups, MaskError, "make them with channel_groups(model, example_input)")
    protection = protect_channels(model, example_input, "auto" if groups is None else policy_of(groups))
    fresh = groups_of(protection)
    hooks = [reason for reason in fresh.reasons_to_stay() if reason.endswith(REMOVE_HOOK)]
    if groups is not None and not _restricts(groups, fresh):
        told = f"the channel groups belong to another network or policy{', or: '.join(['', *hooks[:1]])}"
        raise MaskError(f"{told}; make them with channel_groups(model, example_input, {groups.policy!r})")
    (groups or fresh).check(mask)
    if hooks:
        told = f"the mask removes {realised_ratio(mask):.3f} of its channels; others stay: {hooks[0]}"
        warnings.warn(told, stacklevel=3)
    table, classes = protection.table, protection.classes
    removed = np.zeros(table.size, dtype=bool)
    for name, keep in mask.items():
        if name in table.outputs:  # Else a layer that never runs.
            removed[classes[table.outputs[name][~keep.numpy()]]] = True
    kept = ~removed[classes]
    cuts: dict[str, _Cut] = {}
    for name, outputs in table.outputs.items():
        cuts[name] = _Cut(kept[table.inputs[name]], kept[outputs], kept[table.wide.get(name, outputs)])
        if not kept[outputs].any():
            raise MaskError(f"layer {name!r} would keep no channel; draw the mask with min_channels=1 or more")
    return cuts, _kept_indices(model, table, cuts, kept)


def _restricts(groups: ChannelGroups, fresh: ChannelGroups) -> bool:
    """True if `groups` are `fresh`, possibly with whole units protected on top (`keep`, units without a score)."""
    if groups.digest() == fresh.digest():
        return True
    if groups.widths() != fresh.widths():
        return False
    own = torch.cat(list(groups.unit_of.values()))
    new = torch.cat([fresh.unit_of[name] for name in groups.unit_of])
    free = own >= 0
    pairs = set(zip(own[free].tolist(), new[free].tolist(), strict=True))
    inner = {unit for _, unit in pairs}
    one_to_one = len(pairs) == len({unit for unit, _ in pairs}) == len(inner)
    return one_to_one and -1 not in inner and inner.isdisjoint(new[~free].tolist())


def _kept_indices(model: nn.Module, table: ChannelTable, cuts: dict[str, _Cut], kept: Flags) -> KeptIndices:
    found: KeptIndices = {}
    for path, module, name, tensor in own_tensors(model):
        entry: tuple[Tensor | None, ...] = (None,) * tensor.dim()
        if (path, name) in table.own:
            dim, ids = table.own[path, name]
            entry = (*entry[:dim], _index(kept[ids]), *entry[dim + 1 :])
        elif path in cuts:
            entry = _indices_of(module, name, cuts[path], entry)
        found[full_name(path, name)] = entry
    return found


def _indices_of(module: nn.Module, name: str, cut: _Cut, whole: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Indices of the layer's own tensors; a subclass may hold others, which stay."""
    kind = kind_of(module)
    if kind is None or name not in kind.tensors or not whole:
        return whole
    # Every group of a grouped conv reads the same places of its own inputs.
    inputs, groups = len(cut.keep_in), int(getattr(module, "groups", 1))
    one_group = np.ones(1, dtype=bool) if groups == inputs else cut.keep_in[: inputs // groups]
    channels = [_index(cut.keep_out), _index(one_group)][: len(whole)]
    return (*(channels[::-1] if kind.is_transposed and len(whole) > 1 else channels), *whole[2:])


def _index(keep: Flags) -> Tensor | None:
    return None if keep.all() else torch.from_numpy(np.flatnonzero(keep))


def _narrowed(model: nn.Module, indices: KeptIndices) -> dict[int, Tensor]:
    """For `deepcopy`: what stands in the slim network for each tensor that loses channels; no other copy is made."""
    memo: dict[int, Tensor] = {}
    for path, _, name, tensor in own_tensors(model):
        entry = indices[full_name(path, name)]
        if any(index is not None for index in entry):
            part = sliced(tensor, entry)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(part, tensor.requires_grad) if is_parameter else part
    return memo


def _tell_sizes_(module: nn.Module, cut: _Cut) -> None:
    kind = kind_of(module)
    assert kind is not None
    inputs, outputs = int(cut.keep_in.sum()), int(cut.keep_out.sum())
    sizes = {kind.outputs: outputs} | ({kind.inputs: inputs} if kind.inputs else {})
    if 1 < getattr(module, "groups", 1) == len(cut.keep_in):  # Depthwise.
        sizes["groups"] = inputs
    for name, size in sizes.items():
        setattr(module, name, size)


def _let_select_(norm: Norm, cut: _Cut) -> None:
    """Let a norm that drops channels by itself gather the kept ones, or write them to their places."""
    if cut.keep_out.sum() < cut.keep_in.sum():
        index = np.cumsum(cut.keep_in)[cut.keep_out] - 1  # Where each channel lies in what still arrives.
        let_gather_(norm, torch.from_numpy(index))
    elif cut.keep_out.sum() < cut.keep_wide.sum():
        index = np.cumsum(cut.keep_wide)[cut.keep_out] - 1
        let_scatter_(norm, torch.from_numpy(index), int(cut.keep_wide.sum()))
