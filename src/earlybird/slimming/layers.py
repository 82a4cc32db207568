"""Layer kinds: what a conv, linear, norm or PReLU does with channels, and where it keeps their number.

A kind is one row of `LAYER_KINDS`. Propagation reads its rule, surgery its tensors and sizes, saved networks its name
and sizes. How a layer's channels are scored stands in `core/criteria.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn

from earlybird.core.criteria import CONVS, TRANSPOSED_CONVS
from earlybird.slimming.channels import Call, ChannelIds, Channels, ChannelTable, Flags, OwnTensor, Rule, Unfollowed
from earlybird.slimming.selection import GATHERING, GATHERING_NORMS, SCATTERING_NORMS, Norm


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


def conv(call: Call, table: ChannelTable) -> Channels:
    """Full conv: reads every input channel, writes fresh ones. Depthwise: passes channels on, each `k` times."""
    module, x = _weighted(call), _input_on(call, 1)
    call.refuse_other_ranks(x)
    if module.groups == 1:
        return _dense(call, table, x, module.out_channels)
    if isinstance(module, TRANSPOSED_CONVS):
        raise Unfollowed("no rule for a grouped transposed convolution")
    if module.groups < module.in_channels:  # One weight holds all groups side by side: each loses the same places.
        table.tie_places(x.ids, module.groups)
        result = _dense(call, table, x, module.out_channels)
        table.tie_places(result.ids, module.groups)
        return result
    table.producers[call.where] = None
    table.read_by(call.where, x.ids)
    multiplier = module.out_channels // module.groups
    ids: ChannelIds = np.repeat(x.ids, multiplier)
    zero: Flags = np.repeat(x.zero, multiplier)
    table.written_by(call.where, ids)
    if call.where in table.keyed:
        zero = np.ones_like(zero)
    elif module.bias is not None:  # Nothing takes the bias out of a removed channel.
        zero = np.zeros_like(zero)
    return replace(x, ids=ids, zero=zero, shape=call.shape, is_stream=False)


def linear(call: Call, table: ChannelTable) -> Channels:
    """Reads every input feature along the last dimension, writes fresh ones."""
    module, x = _weighted(call), call.only_input()
    if x.dim != len(x.shape) - 1:
        raise Unfollowed("the channels must lie on the last dimension")
    return _dense(call, table, x, module.out_features)


def _dense(call: Call, table: ChannelTable, x: Channels, width: int) -> Channels:
    table.producers[call.where] = None
    table.read_by(call.where, x.ids)
    table.reads(call.where, x.ids, x.zero)
    ids = table.fresh(call.where, width)
    table.written_by(call.where, ids)
    return Channels(ids, np.full(width, call.where in table.keyed), x.dim, call.shape)


def batch_norm(call: Call, table: ChannelTable) -> Channels:
    """Passes channels on and masks them; a selecting one gathers from its input, or writes at full width."""
    module = call.module
    assert isinstance(module, Norm)
    if module.affine:
        _weighted(call)
    x = _input_on(call, 1)
    table.read_by(call.where, x.ids)
    if x.is_stream and call.where not in table.streams_into_norms:
        table.streams_into_norms.append(call.where)
    ids = _gathered(call, table, x)
    table.written_by(call.where, ids)
    ids = _scattered(call, table, ids)
    if not module.affine:  # Nothing to mask by: in eval mode it turns a zero into -mean / std.
        return Channels(ids, np.zeros(len(ids), dtype=bool), 1, call.shape)
    table.norms[call.where] = table.norms.get(call.where, True) and x.is_normed
    return Channels(ids, np.ones(len(ids), dtype=bool), 1, call.shape, is_normed=True)


def _gathered(call: Call, table: ChannelTable, x: Channels) -> ChannelIds:
    reason = f"'{call.where}' gathers from it at full width"
    if isinstance(call.module, GATHERING_NORMS):  # Cut once already: it may drop more, its input may not.
        table.keep(x.ids, reason)
        return table.fresh(call.where, call.module.num_features)
    selects = table.gathering.get(call.where)
    if selects is None:
        return x.ids
    table.keep(x.ids[selects], reason)
    return np.where(selects, table.fresh(call.where, len(selects)), x.ids)


def _scattered(call: Call, table: ChannelTable, ids: ChannelIds) -> ChannelIds:
    reason = f"'{call.where}' writes it at full width"
    if isinstance(call.module, SCATTERING_NORMS):
        wide = table.fresh(f"{call.where}:wide", call.module.width)
        table.keep(wide, reason)
        return wide
    scatters = table.scattering.get(call.where)
    if scatters is None:
        return ids
    wide = table.fresh(f"{call.where}:wide", len(scatters))
    table.keep(wide[scatters], reason)
    table.wide[call.where] = np.where(scatters, wide, ids)
    return table.wide[call.where]


def channelwise(call: Call, table: ChannelTable) -> Channels:
    """PReLU with a slope for each channel, instance norm without a shift: narrowed with what flows through."""
    x = _input_on(call, 1)
    table.read_by(call.where, x.ids)
    table.written_by(call.where, x.ids)
    return replace(x, shape=call.shape)


def prelu(call: Call, table: ChannelTable) -> Channels:
    """One slope for all is an activation; one for each channel is narrowed."""
    module = _weighted(call)
    return channelwise(call, table) if module.num_parameters > 1 else replace(call.only_input(), shape=call.shape)


def instance_norm(call: Call, table: ChannelTable) -> Channels:
    """Over space within each channel: a zero channel stays zero unless something shifts it."""
    module: Any = call.module
    if module.affine or module.track_running_stats:
        raise Unfollowed("its shift makes a zero channel something else")
    call.refuse_other_ranks(_input_on(call, 1))
    return channelwise(call, table)


def _weighted(call: Call) -> Any:
    module = call.module
    assert module is not None
    if module._parameters.get("weight") is None:
        raise Unfollowed("its weight is not a plain parameter (a reparametrisation holds it)")
    if getattr(module, "bias", None) is not None and module._parameters.get("bias") is None:
        raise Unfollowed("its bias is not a plain parameter (a reparametrisation holds it)")
    return module


def _input_on(call: Call, dim: int) -> Channels:
    x = call.only_input()
    if x.dim != dim:
        raise Unfollowed(f"the channels must lie on dimension {dim}")
    return x


_STATS = ("running_mean", "running_var", "weight", "bias")
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_CONV_FUNCTIONS = dict(zip((F.conv1d, F.conv2d, F.conv3d), CONVS, strict=True))
_CHANNELS: dict[str, Any] = {"inputs": "in_channels", "outputs": "out_channels", "other_sizes": ("groups",)}

# The first kind that fits counts.
LAYER_KINDS = (
    LayerKind("gather", batch_norm, GATHERING_NORMS, "num_features", tensors=(*_STATS, "index")),
    LayerKind("scatter", batch_norm, SCATTERING_NORMS, "num_features", None, ("width",), (*_STATS, "index")),
    LayerKind("norm", batch_norm, (*GATHERING, Norm), "num_features", tensors=_STATS, functions={F.batch_norm: Norm}),
    LayerKind("instance_norm", instance_norm, _INSTANCE_NORMS, "num_features", tensors=_STATS),
    LayerKind("conv", conv, CONVS, **_CHANNELS, functions=_CONV_FUNCTIONS),
    LayerKind("transposed_conv", conv, TRANSPOSED_CONVS, **_CHANNELS, is_transposed=True),
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


def layer_of(call: Call, modules: Mapping[str, nn.Module]) -> tuple[Call, LayerKind | None]:
    """The call as the call of a layer, with the layer's kind; as it is, with None, where it is no layer.

    A function that takes all its tensors from one module of the right class is that module's call: so subclasses with a
    forward of their own are followed (a BatchNorm with an activation inside, a conv that pads by itself).
    """
    if call.module is not None:
        return call, _KIND_OF_CLASS.get(call.target)
    kind = _KIND_OF_FUNCTION.get(call.target)
    if kind is None:
        return call, None
    tensors = {name: call.argument(place, name) for place, name in enumerate(kind.tensors, 1)}
    paths = {tensor.path for tensor in tensors.values() if isinstance(tensor, OwnTensor)}
    path = paths.pop() if len(paths) == 1 else None
    module = modules.get(path) if path is not None else None
    is_right_class = module is not None and isinstance(module, kind.functions[call.target])
    if path is None or module is None or not is_right_class or not _is_its_forward(call, module, tensors):
        return call, None
    return replace(call, module=module, where=path, args=(call.argument(0, "input"),), kwargs={}), kind


def _is_its_forward(call: Call, module: nn.Module, tensors: Mapping[str, Any]) -> bool:
    """True if weight and bias are the module's own, and its groups."""
    for name, tensor in tensors.items():
        if isinstance(tensor, OwnTensor) and tensor.name != name:
            return False
        if name in ("weight", "bias") and (tensor is None) != (getattr(module, name) is None):
            return False
        if tensor is not None and not isinstance(tensor, OwnTensor):
            return False
    return call.argument(6, "groups", 1) == getattr(module, "groups", 1) or isinstance(module, Norm)
