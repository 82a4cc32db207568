"""Layer kinds: what a conv, linear, norm or PReLU does with channels, and where it keeps their number.

A kind is one row of `LAYER_KINDS`. Propagation reads its rule, surgery its tensors and sizes, `rebuild.py` its name and
sizes. How a layer's channels are scored stands in `core/criteria.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn

from earlybird.core.criteria import CONVS, TRANSPOSED_CONVS
from earlybird.slimming.calls import Call, Channels, OwnTensor, Rule, Unfollowed, only_input, refuse_other_ranks
from earlybird.slimming.select import GATHERING, GATHERING_NORMS, SCATTERING_NORMS, Norm
from earlybird.slimming.slots import Flags, SlotBook, Slots


@dataclass(frozen=True)
class LayerKind:
    """A kind of layer whose tensors have a place for each channel.

    Attributes:
        name: as files of slim networks call it.
        rule: what a call does with channels.
        classes: and their subclasses; only calls of these very classes are followed as modules.
        outputs: attribute with the number of output channels.
        inputs: attribute with the number of input channels, where it is another one.
        other_sizes: further attributes that tell its size.
        tensors: those with a place for each output channel, in the order a function takes them after the input.
        is_transposed: its weight has the inputs on dimension 0 and the outputs on dimension 1.
        channel_dim: of its input.
        functions: function -> class whose forward it is.
    """

    name: str
    rule: Rule
    classes: tuple[type[nn.Module], ...]
    outputs: str
    inputs: str | None = None
    other_sizes: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ("weight", "bias")
    is_transposed: bool = False
    channel_dim: int = 1
    functions: Mapping[Callable[..., Any], type[nn.Module]] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[str, ...]:
        """Attributes that tell its size."""
        return (*([self.inputs] if self.inputs else []), self.outputs, *self.other_sizes)

    def weight_shape(self, module: nn.Module) -> tuple[int, ...]:
        """First dimensions of the weight, by the sizes of `module`; kernels left out."""
        outputs = int(getattr(module, self.outputs))
        if self.inputs is None:
            return (outputs,)
        inputs, groups = int(getattr(module, self.inputs)), int(getattr(module, "groups", 1))
        return (inputs, outputs // groups) if self.is_transposed else (outputs, inputs // groups)


def conv(call: Call, book: SlotBook) -> Channels:
    """Full conv: reads every input channel, writes fresh ones. Depthwise: passes channels on, each `k` times."""
    module, x = _weighted(call), _input_on(call, 1)
    refuse_other_ranks(call, x)
    if 1 < module.groups < module.in_channels:
        return _grouped_conv(call, book, module, x)
    if module.groups == 1:
        return _dense(call, book, x, module.out_channels)
    book.producers[call.where] = None
    book.read_by(call.where, x.slots)
    multiplier = module.out_channels // module.groups
    slots: Slots = np.repeat(x.slots, multiplier)
    zero: Flags = np.repeat(x.zero, multiplier)
    book.written_by(call.where, slots)
    if call.where in book.keyed:
        zero = np.ones_like(zero)
    elif module.bias is not None:  # Nothing takes the bias out of a removed channel.
        zero = np.zeros_like(zero)
    return replace(x, slots=slots, zero=zero, shape=call.shape, is_stream=False)


def _grouped_conv(call: Call, book: SlotBook, module: Any, x: Channels) -> Channels:
    """One weight holds all groups side by side, so each group loses the same places, of inputs and of outputs."""
    _tie_across(book, x.slots, module.groups)
    result = _dense(call, book, x, module.out_channels)
    _tie_across(book, result.slots, module.groups)
    return result


def _tie_across(book: SlotBook, slots: Slots, groups: int) -> None:
    places = slots.reshape(groups, -1)
    book.tie(np.tile(places[0], groups - 1), places[1:].reshape(-1))


def transposed_conv(call: Call, book: SlotBook) -> Channels:
    """As a full conv."""
    module, x = _weighted(call), _input_on(call, 1)
    refuse_other_ranks(call, x)
    if module.groups != 1:
        raise Unfollowed("no rule for a grouped transposed convolution")
    return _dense(call, book, x, module.out_channels)


def linear(call: Call, book: SlotBook) -> Channels:
    """Reads every input feature along the last dimension, writes fresh ones."""
    module, x = _weighted(call), only_input(call)
    if x.dim != len(x.shape) - 1:
        raise Unfollowed("the channels must lie on the last dimension")
    return _dense(call, book, x, module.out_features)


def _dense(call: Call, book: SlotBook, x: Channels, width: int) -> Channels:
    book.producers[call.where] = None
    book.read_by(call.where, x.slots)
    book.reads(call.where, x.slots, x.zero)
    slots = book.fresh(call.where, width)
    book.written_by(call.where, slots)
    return Channels(slots, np.full(width, call.where in book.keyed), x.dim, call.shape)


def batch_norm(call: Call, book: SlotBook) -> Channels:
    """Passes channels on and masks them; a selecting one gathers from its input, or writes at full width."""
    module = call.module
    assert isinstance(module, Norm)
    if module.affine:
        _weighted(call)
    x = _input_on(call, 1)
    book.read_by(call.where, x.slots)
    if x.is_stream and call.where not in book.streams_into_norms:
        book.streams_into_norms.append(call.where)
    slots = _gathered(call, book, x)
    book.written_by(call.where, slots)
    slots = _scattered(call, book, slots)
    if not module.affine:  # Nothing to mask by: in eval mode it turns a zero into -mean / std.
        return Channels(slots, np.zeros(len(slots), dtype=bool), 1, call.shape)
    book.masked_by(call.where, x.is_normed)
    return Channels(slots, np.ones(len(slots), dtype=bool), 1, call.shape, is_normed=True)


def _gathered(call: Call, book: SlotBook, x: Channels) -> Slots:
    reason = f"'{call.where}' gathers from it at full width"
    if isinstance(call.module, GATHERING_NORMS):  # Cut once already: it may drop more, its input may not.
        book.pin(x.slots, reason)
        return book.fresh(call.where, call.module.num_features)
    selects = book.gathering.get(call.where)
    if selects is None:
        return x.slots
    book.pin(x.slots[selects], reason)
    return np.where(selects, book.fresh(call.where, len(selects)), x.slots)


def _scattered(call: Call, book: SlotBook, slots: Slots) -> Slots:
    reason = f"'{call.where}' writes it at full width"
    if isinstance(call.module, SCATTERING_NORMS):
        wide = book.fresh(f"{call.where}:wide", call.module.width)
        book.pin(wide, reason)
        return wide
    scatters = book.scattering.get(call.where)
    if scatters is None:
        return slots
    wide = book.fresh(f"{call.where}:wide", len(scatters))
    book.pin(wide[scatters], reason)
    book.wide[call.where] = np.where(scatters, wide, slots)
    return book.wide[call.where]


def channelwise(call: Call, book: SlotBook) -> Channels:
    """PReLU with a slope for each channel, instance norm without a shift: narrowed with what flows through."""
    x = _input_on(call, 1)
    book.read_by(call.where, x.slots)
    book.written_by(call.where, x.slots)
    return replace(x, shape=call.shape)


def prelu(call: Call, book: SlotBook) -> Channels:
    """One slope for all is an activation; one for each channel is narrowed."""
    module = _weighted(call)
    return channelwise(call, book) if module.num_parameters > 1 else replace(only_input(call), shape=call.shape)


def instance_norm(call: Call, book: SlotBook) -> Channels:
    """Over space within each channel: a zero channel stays zero unless something shifts it."""
    module: Any = call.module
    if module.affine or module.track_running_stats:
        raise Unfollowed("its shift makes a zero channel something else")
    refuse_other_ranks(call, _input_on(call, 1))
    return channelwise(call, book)


def _weighted(call: Call) -> Any:
    module = call.module
    assert module is not None
    if module._parameters.get("weight") is None:
        raise Unfollowed("its weight is not a plain parameter (a reparametrisation holds it)")
    if getattr(module, "bias", None) is not None and module._parameters.get("bias") is None:
        raise Unfollowed("its bias is not a plain parameter (a reparametrisation holds it)")
    return module


def _input_on(call: Call, dim: int) -> Channels:
    x = only_input(call)
    if x.dim != dim:
        raise Unfollowed(f"the channels must lie on dimension {dim}")
    return x


_STATISTICS = ("running_mean", "running_var", "weight", "bias")
_CHANNELS: dict[str, Any] = {"inputs": "in_channels", "outputs": "out_channels", "other_sizes": ("groups",)}

# The first kind that fits counts.
LAYER_KINDS = (
    LayerKind("gather", batch_norm, GATHERING_NORMS, "num_features", tensors=(*_STATISTICS, "index")),
    LayerKind("scatter", batch_norm, SCATTERING_NORMS, "num_features", None, ("width",), (*_STATISTICS, "index")),
    LayerKind(
        "norm", batch_norm, (*GATHERING, Norm), "num_features", tensors=_STATISTICS, functions={F.batch_norm: Norm}
    ),
    LayerKind(
        "instance_norm",
        instance_norm,
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        "num_features",
        tensors=_STATISTICS,
    ),
    LayerKind(
        "conv", conv, CONVS, **_CHANNELS, functions=dict(zip((F.conv1d, F.conv2d, F.conv3d), CONVS, strict=True))
    ),
    LayerKind("transposed_conv", transposed_conv, TRANSPOSED_CONVS, **_CHANNELS, is_transposed=True),
    LayerKind(
        "linear", linear, (nn.Linear,), "out_features", "in_features", channel_dim=-1, functions={F.linear: nn.Linear}
    ),
    LayerKind("prelu", prelu, (nn.PReLU,), "num_parameters", tensors=("weight",)),
)
_KIND_OF_CLASS = {kind_class: kind for kind in reversed(LAYER_KINDS) for kind_class in kind.classes}
_KIND_OF_FUNCTION = {function: kind for kind in LAYER_KINDS for function in kind.functions}


def kind_of(module: nn.Module) -> LayerKind | None:
    """Kind of a layer or of a subclass of one; None for another module."""
    return next((kind for kind in LAYER_KINDS if isinstance(module, kind.classes)), None)


def layer_of(call: Call, target: Any, modules: Mapping[str, nn.Module]) -> tuple[Call, LayerKind | None]:
    """The call as the call of a layer, with the layer's kind; as it is, with None, where it is no layer.

    A function that takes all its tensors from one module of the right class is that module's call: so subclasses with a
    forward of their own are followed (a BatchNorm with an activation inside, a conv that pads by itself).
    """
    if call.module is not None:
        return call, _KIND_OF_CLASS.get(type(call.module))
    kind = _KIND_OF_FUNCTION.get(target) if callable(target) else None
    if kind is None:
        return call, None
    tensors = {name: call.argument(place, name) for place, name in enumerate(kind.tensors, 1)}
    paths = {tensor.path for tensor in tensors.values() if isinstance(tensor, OwnTensor)}
    path = paths.pop() if len(paths) == 1 else None
    module = modules.get(path) if path is not None else None
    if path is None or module is None or not isinstance(module, kind.functions[target]):
        return call, None
    if not _is_its_forward(call, module, tensors):
        return call, None
    return replace(call, module=module, where=path, args=(call.argument(0, "input"),), kwargs={}), kind


def _is_its_forward(call: Call, module: nn.Module, tensors: Mapping[str, Any]) -> bool:
    """Whether weight and bias are the module's own, and its groups."""
    for name, tensor in tensors.items():
        if isinstance(tensor, OwnTensor) and tensor.name != name:
            return False
        if name in ("weight", "bias") and (tensor is None) != (getattr(module, name) is None):
            return False
        if tensor is not None and not isinstance(tensor, OwnTensor):
            return False
    return call.argument(6, "groups", 1) == getattr(module, "groups", 1) or isinstance(module, Norm)
