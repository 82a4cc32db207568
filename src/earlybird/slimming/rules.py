"""Every operation that slimming knows: visible dicts from module class, function or method name to its rule.

A rule takes the call and the `SlotBook`, enters what the call reads, writes, ties or pins into the book, and returns
the value that flows on. An operation that stands in no dict is never guessed: the walk keeps all that it reads whole.
Adding an operation means adding a line here, and a function only where the family is new.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from earlybird.slimming.calls import Rule
from earlybird.slimming.flow_rules import (
    add,
    clamp,
    concatenate,
    divide,
    expand_as,
    keeps_zero,
    loses_zero,
    multiply,
    pad,
    passes_on,
    pooling,
    power,
    softmax,
    spatial_mean,
)
from earlybird.slimming.shape_rules import (
    attribute,
    channel_shuffle,
    chunk,
    created,
    expand,
    flatten,
    item,
    metadata,
    permute,
    reshape,
    reshape_as,
    size,
    split,
    squeeze,
    transpose,
    unsqueeze,
)

MODULE_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys([nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish], keeps_zero),
    **dict.fromkeys([nn.ELU, nn.CELU, nn.SELU, nn.Tanh, nn.Softsign, nn.Tanhshrink], keeps_zero),
    **dict.fromkeys([nn.Hardshrink, nn.Softshrink], keeps_zero),
    **dict.fromkeys([nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d], passes_on),
    **dict.fromkeys([nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Softplus], loses_zero),
    nn.Hardtanh: clamp,
    **dict.fromkeys([nn.Softmax, nn.LogSoftmax], softmax),
    **dict.fromkeys([nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d], pooling),
    **dict.fromkeys([nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d], pooling),
    **dict.fromkeys([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d], pooling),
    **dict.fromkeys([nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d], pooling),
    **dict.fromkeys([nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d], pooling),
    **dict.fromkeys([nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d], pooling),
    **dict.fromkeys([nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d], pooling),
    nn.Flatten: flatten,
    nn.ChannelShuffle: channel_shuffle,
}

FUNCTION_RULES: dict[Callable[..., Any], Rule] = {
    **dict.fromkeys([F.relu, torch.relu, F.relu_, torch.relu_, F.relu6, F.leaky_relu, F.gelu, F.silu], keeps_zero),
    **dict.fromkeys([F.hardswish, F.elu, F.celu, F.selu, F.mish, F.softsign, F.tanhshrink], keeps_zero),
    **dict.fromkeys([torch.tanh, F.tanh, torch.abs, torch.neg, torch.sin, torch.sqrt, torch.square], keeps_zero),
    **dict.fromkeys([torch.clone, torch.erf, operator.neg, operator.abs], keeps_zero),
    **dict.fromkeys([F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout], passes_on),
    **dict.fromkeys([torch.sigmoid, F.sigmoid, F.hardsigmoid, F.softplus, F.logsigmoid, torch.exp], loses_zero),
    **dict.fromkeys([F.hardtanh, torch.clamp], clamp),
    **dict.fromkeys([operator.pow, torch.pow], power),
    **dict.fromkeys([F.softmax, F.log_softmax, torch.softmax, torch.log_softmax], softmax),
    **dict.fromkeys([F.max_pool1d, F.max_pool2d, F.max_pool3d], pooling),
    **dict.fromkeys([torch.max_pool1d, torch.max_pool2d, torch.max_pool3d], pooling),
    **dict.fromkeys([F.avg_pool1d, F.avg_pool2d, F.avg_pool3d], pooling),
    **dict.fromkeys([F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d], pooling),
    **dict.fromkeys([F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d], pooling),
    **dict.fromkeys([F.interpolate, F.upsample], pooling),
    F.pad: pad,
    **dict.fromkeys([torch.mean, torch.sum], spatial_mean),
    **dict.fromkeys([operator.add, operator.iadd, torch.add, operator.sub, operator.isub, torch.sub], add),
    **dict.fromkeys([operator.mul, operator.imul, torch.mul], multiply),
    **dict.fromkeys([operator.truediv, operator.itruediv, torch.div, operator.floordiv], divide),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], concatenate),
    torch.flatten: flatten,
    torch.reshape: reshape,
    torch.permute: permute,
    **dict.fromkeys([torch.transpose, torch.swapaxes], transpose),
    torch.unsqueeze: unsqueeze,
    torch.squeeze: squeeze,
    torch.chunk: chunk,
    torch.split: split,
    **dict.fromkeys([F.channel_shuffle, torch.channel_shuffle], channel_shuffle),
    getattr: attribute,
    operator.getitem: item,
}

METHOD_RULES: dict[str, Rule] = {
    **dict.fromkeys(["relu", "relu_", "tanh", "tanh_", "abs", "neg", "sqrt", "square", "clone"], keeps_zero),
    **dict.fromkeys(["contiguous", "detach", "float", "half", "double", "bfloat16", "to", "type_as"], passes_on),
    **dict.fromkeys(["sigmoid", "sigmoid_", "exp"], loses_zero),
    **dict.fromkeys(["clamp", "clamp_"], clamp),
    **dict.fromkeys(["pow"], power),
    **dict.fromkeys(["softmax", "log_softmax"], softmax),
    **dict.fromkeys(["mean", "sum"], spatial_mean),
    **dict.fromkeys(["add", "add_", "sub", "sub_"], add),
    **dict.fromkeys(["mul", "mul_"], multiply),
    **dict.fromkeys(["div", "div_"], divide),
    "flatten": flatten,
    **dict.fromkeys(["view", "reshape"], reshape),
    **dict.fromkeys(["view_as", "reshape_as"], reshape_as),
    "permute": permute,
    **dict.fromkeys(["transpose", "swapaxes"], transpose),
    "expand": expand,
    "expand_as": expand_as,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "chunk": chunk,
    "split": split,
    "size": size,
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_empty"], created),
    **dict.fromkeys(["dim", "ndimension", "is_floating_point"], metadata),
}
