"""Every operation that slimming knows: visible dicts from module class, function or method name to its rule.

A rule takes the call and the `SlotBook`, enters what the call reads, writes, ties or pins into the book, and returns
the value that flows on. An operation that stands in no dict is refused by name, never guessed (`method.md` section 4).
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
    concatenate,
    divide,
    keeps_zero,
    loses_zero,
    multiply,
    pooling,
    softmax,
    spatial_mean,
)
from earlybird.slimming.layer_rules import batch_norm, conv, linear
from earlybird.slimming.select import SELECT_NORMS, SELECTING
from earlybird.slimming.shape_rules import flatten, item, reshape, shape_attribute, size

MODULE_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys([nn.Conv1d, nn.Conv2d, nn.Conv3d], conv),
    nn.Linear: linear,
    **dict.fromkeys([*SELECTING, *SELECT_NORMS], batch_norm),
    **dict.fromkeys([nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Identity], keeps_zero),
    **dict.fromkeys([nn.ELU, nn.Mish, nn.Tanh], keeps_zero),
    **dict.fromkeys([nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d], keeps_zero),
    **dict.fromkeys([nn.Sigmoid, nn.Hardsigmoid], loses_zero),
    **dict.fromkeys([nn.Softmax, nn.LogSoftmax], softmax),
    **dict.fromkeys([nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d], pooling),
    **dict.fromkeys([nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d], pooling),
    **dict.fromkeys([nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d], pooling),
    **dict.fromkeys([nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d], pooling),
    nn.Flatten: flatten,
}

FUNCTION_RULES: dict[Callable[..., Any], Rule] = {
    **dict.fromkeys([F.relu, torch.relu, F.relu_, torch.relu_, F.relu6, F.leaky_relu, F.gelu, F.silu], keeps_zero),
    **dict.fromkeys([F.hardswish, F.elu, F.mish, torch.tanh, F.tanh], keeps_zero),
    **dict.fromkeys([F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout], keeps_zero),
    **dict.fromkeys([torch.sigmoid, F.sigmoid, F.hardsigmoid], loses_zero),
    **dict.fromkeys([F.softmax, F.log_softmax, torch.softmax, torch.log_softmax], softmax),
    **dict.fromkeys([F.max_pool1d, F.max_pool2d, F.max_pool3d], pooling),
    **dict.fromkeys([torch.max_pool1d, torch.max_pool2d, torch.max_pool3d], pooling),
    **dict.fromkeys([F.avg_pool1d, F.avg_pool2d, F.avg_pool3d], pooling),
    **dict.fromkeys([F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d], pooling),
    **dict.fromkeys([F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d], pooling),
    **dict.fromkeys([torch.mean, torch.sum], spatial_mean),
    **dict.fromkeys([operator.add, operator.iadd, torch.add, operator.sub, operator.isub, torch.sub], add),
    **dict.fromkeys([operator.mul, operator.imul, torch.mul], multiply),
    **dict.fromkeys([operator.truediv, operator.itruediv, torch.div, operator.floordiv], divide),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], concatenate),
    torch.flatten: flatten,
    torch.reshape: reshape,
    getattr: shape_attribute,
    operator.getitem: item,
}

METHOD_RULES: dict[str, Rule] = {
    **dict.fromkeys(["relu", "relu_", "tanh", "contiguous", "clone", "detach", "float"], keeps_zero),
    **dict.fromkeys(["sigmoid", "sigmoid_"], loses_zero),
    **dict.fromkeys(["softmax", "log_softmax"], softmax),
    **dict.fromkeys(["mean", "sum"], spatial_mean),
    **dict.fromkeys(["add", "add_", "sub", "sub_"], add),
    **dict.fromkeys(["mul", "mul_"], multiply),
    **dict.fromkeys(["div", "div_"], divide),
    "flatten": flatten,
    **dict.fromkeys(["view", "reshape"], reshape),
    "size": size,
}
