"""Every operation that slimming follows: one table from module class, function or method name to its rule.

A rule takes the call and the `ChannelTable`, enters what the call reads, writes, ties or keeps, and returns the value
that flows on. What stands in no table (layers have their own, `layers.py`) is never guessed: all that it reads stays
whole. A new operation is one line here, and a function only where its family is new.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import earlybird.slimming.flow_rules as flow
import earlybird.slimming.shape_rules as shape
from earlybird.slimming.flow_rules import keeps_zero, loses_zero, passes_on, pooling
from earlybird.slimming.operands import Rule

RULES: dict[type[nn.Module] | Callable[..., Any] | str, Rule] = {
    # Element by element, f(0) = 0.
    **dict.fromkeys(
        [nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_", nn.ReLU6, F.relu6], keeps_zero
    ),
    **dict.fromkeys(
        [nn.LeakyReLU, F.leaky_relu, nn.RReLU, nn.ELU, F.elu, nn.CELU, F.celu, nn.SELU, F.selu], keeps_zero
    ),
    **dict.fromkeys([nn.GELU, F.gelu, nn.SiLU, F.silu, nn.Mish, F.mish, nn.Hardswish, F.hardswish], keeps_zero),
    **dict.fromkeys([nn.Tanh, F.tanh, torch.tanh, "tanh", "tanh_", nn.Tanhshrink, F.tanhshrink], keeps_zero),
    **dict.fromkeys([nn.Softsign, F.softsign, nn.Hardshrink, nn.Softshrink, torch.sin, torch.erf], keeps_zero),
    **dict.fromkeys([torch.abs, operator.abs, "abs", torch.neg, operator.neg, "neg"], keeps_zero),
    **dict.fromkeys([torch.sqrt, "sqrt", torch.square, "square", torch.clone, "clone"], keeps_zero),
    # The same values, often the very tensor.
    **dict.fromkeys([nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, torch.dropout], passes_on),
    **dict.fromkeys([F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, "stochastic_depth", "to", "type_as"], passes_on),
    **dict.fromkeys(["contiguous", "detach", "float", "half", "double", "bfloat16"], passes_on),
    # Element by element, f(0) != 0, or as the arguments say.
    **dict.fromkeys([nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_", torch.exp, "exp"], loses_zero),
    **dict.fromkeys([nn.Hardsigmoid, F.hardsigmoid, nn.LogSigmoid, F.logsigmoid, nn.Softplus, F.softplus], loses_zero),
    **dict.fromkeys([nn.Hardtanh, F.hardtanh, torch.clamp, "clamp", "clamp_"], flow.clamp),
    **dict.fromkeys([operator.pow, torch.pow, "pow"], flow.power),
    # Over space, or along one dimension.
    **dict.fromkeys([nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, F.max_pool1d, F.max_pool2d, F.max_pool3d], pooling),
    **dict.fromkeys([torch.max_pool1d, torch.max_pool2d, torch.max_pool3d], pooling),
    **dict.fromkeys([nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d], pooling),
    **dict.fromkeys([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d], pooling),
    **dict.fromkeys([F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d], pooling),
    **dict.fromkeys([nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d], pooling),
    **dict.fromkeys([F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d], pooling),
    **dict.fromkeys([nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, F.interpolate, F.upsample], pooling),
    **dict.fromkeys([nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d], pooling),
    **dict.fromkeys([nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d], pooling),
    F.pad: flow.pad,
    **dict.fromkeys([nn.Softmax, F.softmax, torch.softmax, "softmax"], flow.softmax),
    **dict.fromkeys([nn.LogSoftmax, F.log_softmax, torch.log_softmax, "log_softmax"], flow.softmax),
    **dict.fromkeys([torch.mean, "mean", torch.sum, "sum"], flow.spatial_mean),
    # Several tensors.
    **dict.fromkeys([operator.add, operator.iadd, torch.add, "add", "add_"], flow.add),
    **dict.fromkeys([operator.sub, operator.isub, torch.sub, "sub", "sub_"], flow.add),
    **dict.fromkeys([operator.mul, operator.imul, torch.mul, "mul", "mul_"], flow.multiply),
    **dict.fromkeys([operator.truediv, operator.itruediv, operator.floordiv, torch.div, "div", "div_"], flow.divide),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], flow.concatenate),
    # Shapes.
    **dict.fromkeys([nn.Flatten, torch.flatten, "flatten"], shape.flatten),
    **dict.fromkeys([torch.reshape, "reshape", "view"], shape.reshape),
    **dict.fromkeys(["reshape_as", "view_as"], shape.reshape_as),
    **dict.fromkeys([torch.permute, "permute"], shape.permute),
    **dict.fromkeys([torch.transpose, torch.swapaxes, "transpose", "swapaxes"], shape.transpose),
    "expand": shape.expand,
    "expand_as": shape.expand_as,
    **dict.fromkeys([torch.unsqueeze, "unsqueeze"], shape.unsqueeze),
    **dict.fromkeys([torch.squeeze, "squeeze"], shape.squeeze),
    **dict.fromkeys([torch.chunk, "chunk"], shape.chunk),
    **dict.fromkeys([torch.split, "split"], shape.split),
    **dict.fromkeys([nn.ChannelShuffle, F.channel_shuffle, torch.channel_shuffle], shape.channel_shuffle),
    operator.getitem: shape.item,
    # Facts about a tensor.
    getattr: shape.attribute,
    "size": shape.size,
    **dict.fromkeys(["dim", "ndimension", "is_floating_point"], shape.metadata),
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_empty"], shape.created),
}


def rule_of(target: Any) -> Rule | None:
    """Rule of a module class, a function or a method name; None where slimming has none."""
    if isinstance(target, type) and issubclass(target, tuple):
        return shape.named_tuple
    is_torchvisions = getattr(target, "__name__", "") == "stochastic_depth"  # Slimming does not import torchvision.
    return RULES.get("stochastic_depth" if is_torchvisions else target)
