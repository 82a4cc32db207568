"""Costs of the operations that PyTorch runs: MACs by operand width, what the paper charges beyond them, bytes moved.

`MacCounter` takes PyTorch's formulas (`torch.utils.flop_counter`), one mended and three added. Of operations without a
formula most multiply nothing (activations, norms, copies); the rest is named, for a cost of 0 would look measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, flop_registry

aten = torch.ops.aten
_Found = TypeVar("_Found")

# Operations without products of two tensors: their work grows with what they read, and no convention counts it.
# `_forward`, `_backward`, `_backward_data` and a trailing `_` are left off; pointwise operations, views and (in recent
# versions of PyTorch) reductions are known by their tags.
_NAMES = """
_adaptive_avg_pool2d _local_scalar_dense _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
_prelu_kernel _safe_softmax _softmax _sparse_coo_tensor_unsafe _sparse_coo_tensor_with_dims_and_tensors _to_copy
_unique2 _unsafe_index _unsafe_index_put _unsafe_view _weight_norm_interface adaptive_avg_pool2d adaptive_max_pool2d
all amax amin any arange argmax argmin as_strided avg_pool1d avg_pool2d avg_pool3d batch_norm_elemt
batch_norm_gather_stats batch_norm_stats bernoulli bincount bucketize cat clone col2im constant_pad_nd copy
cudnn_batch_norm cummax cummin cumsum detach embedding embedding_dense empty empty_like empty_strided equal expand
fill flip full full_like gather hardsigmoid hardswish histc im2col index index_add index_copy index_put index_select
is_nonzero item lift_fresh linalg_vector_norm linspace logspace logsumexp masked_fill masked_scatter max
max_pool2d_with_indices max_pool3d_with_indices mean median min mkldnn_max_pool2d multinomial native_batch_norm
native_channel_shuffle native_dropout native_group_norm native_layer_norm new_empty new_empty_strided new_full
new_ones new_zeros nll_loss nll_loss2d nonzero norm normal ones ones_like pixel_shuffle pixel_unshuffle prod rand
randn randperm reflection_pad1d reflection_pad2d reflection_pad3d repeat replication_pad1d replication_pad2d
replication_pad3d resize rms_norm roll rot90 scalar_tensor scatter scatter_add searchsorted select select_scatter set
slice slice_scatter sort split_with_sizes_copy stack std std_mean sum topk tril triu uniform unique2 unsafe_split
unsafe_split_with_sizes upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
upsample_nearest3d upsample_trilinear3d var var_mean view_copy zero zeros zeros_like
"""
NO_PRODUCTS = frozenset(_NAMES.split())


class Watch(TorchDispatchMode, Generic[_Found]):
    """Collects what `look` finds in each operation that is run inside, modules and functional calls alike.

    Args:
        look: (operation, arguments, keywords, result) -> a cost or a name; what is 0 or empty is left out of `found`.
    """

    def __init__(self, look: Callable[[Any, Any, Any, Any], _Found]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[_Found] = []
        self._look = look

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if found := self._look(func, args, kwargs, result):
            self.found.append(found)
        return result


class MacCounter:
    """Counter of multiply-accumulates inside a `with` block.

    Args:
        autocast_bits: width in bits that autocast gives to float32 operands of products; 32 where none is on. On the
            meta device autocast does not run, and every operation that has a formula here is on its list.

    Attributes:
        by_width: "16x16" (bits of the two operands) -> MACs.
    """

    def __init__(self, autocast_bits: int = 32) -> None:
        self.by_width: Counter[str] = Counter()
        self._autocast_bits = autocast_bits
        mapping = {op: self._watched(op, formula) for op, formula in _formulas().items()}
        self._flops = FlopCounterMode(display=False, custom_mapping=mapping)
        # Outside the counter, which takes composite operations apart: what is seen here was really run.
        self._seen = Watch(lambda func, *_: "" if _is_known(func) else str(func.overloadpacket))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all widths."""
        return self.by_width.total()

    @property
    def uncounted(self) -> list[str]:
        """Operations that have no formula and may hide products, in the order they were met."""
        return list(dict.fromkeys(self._seen.found))

    def __enter__(self) -> Self:
        self._seen.__enter__()  # type: ignore[no-untyped-call]
        self._flops.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._flops.__exit__(*error)
        self._seen.__exit__(*error)  # type: ignore[no-untyped-call]

    def _watched(self, operation: Any, formula: Callable[..., int]) -> Callable[..., int]:
        first = 1 if operation in _BIAS_FIRST else 0

        def count(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            flops = formula(*args, out_val=out_val, **kwargs)
            types = (operand.dtype for operand in args[first : first + 2])
            bits = sorted(self._autocast_bits if dtype == torch.float32 else 8 * dtype.itemsize for dtype in types)
            self.by_width["x".join(map(str, bits))] += flops // 2
            return flops

        count._get_raw = True  # type: ignore[attr-defined]  # FlopCounterMode then hands over tensors, not shapes
        return count


# Of these the first argument is added, not multiplied.
_BIAS_FIRST = frozenset({aten.addmm, aten.baddbmm, aten.addmv})


@cache
def _is_known(func: Any) -> bool:
    """True of an operation that has a formula, or that cannot hide products."""
    if func.overloadpacket in _formulas() or func.is_view or _is_tagged(func):
        return True
    if func.namespace not in ("aten", "prim"):
        return False
    name = func.overloadpacket.__name__.removesuffix("_")
    name = name.removesuffix("_backward_data").removesuffix("_backward").removesuffix("_forward")
    # The backward of a pointwise operation is one too, and does not always say so.
    forward = getattr(aten, name, None)
    overloads = [getattr(forward, overload) for overload in forward.overloads()] if forward is not None else []
    return name in NO_PRODUCTS or any(map(_is_tagged, overloads))


def _is_tagged(func: Any) -> bool:
    tags = (torch.Tag.pointwise, torch.Tag.inplace_view, getattr(torch.Tag, "reduction", None))
    return any(tag in func.tags for tag in tags if tag is not None)


@cache
def _formulas() -> dict[Any, Callable[..., int]]:
    """Operation -> FLOPs of its raw arguments."""
    return {op: formula for op, formula in flop_registry.items() if hasattr(op, "overloads")} | {
        aten.convolution_backward: _conv_backward_flops,
        **dict.fromkeys((aten.mv, aten.addmv, aten.dot, aten.vdot), _product_flops),
    }


def _conv_backward_flops(grad: Tensor, x: Tensor, weight: Tensor, *args: Any, out_val: object, **kwargs: Any) -> int:
    # PyTorch's own formula forgets to divide the weight's gradient by the groups, which makes a depthwise convolution
    # cost its channel count too much. Each of the two gradients is as many products as the forward pass.
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, output_mask = args
    flops: int = conv_flop_count(list(x.shape), list(weight.shape), list(grad.shape), transposed=transposed)
    gradients = bool(output_mask[0]) + bool(output_mask[1])  # of the input, of the weight
    return flops * gradients


def _product_flops(*operands: Tensor, out_val: object, **kwargs: Any) -> int:
    """Matrix times vector, or vector times vector, the last two operands: each element of the first is used once."""
    return 2 * operands[-2].numel()


def _window(args: Sequence[Any], output: Tensor) -> int:
    sides = list(args[1]) if isinstance(args[1], Sequence) else [args[1]]
    return 0 if _is_global(output) else math.prod(sides if len(sides) > 1 else sides * 2)


def _adaptive_window(args: Sequence[Any], output: Tensor) -> int:
    sizes = zip(args[0].shape[2:], output.shape[2:], strict=True)
    return 0 if _is_global(output) else math.prod(math.ceil(into / out) for into, out in sizes)


def _is_global(output: Tensor) -> bool:
    return output.shape[-2:] == (1, 1)


# Operation -> FLOPs of (arguments, output) for each element of the output that the paper (You et al. 2020) charges
# beyond 2 * MAC. Global pooling and residual adds are free.
PAPER_EXTRA_FLOPS: dict[Any, Callable[[Sequence[Any], Tensor], int]] = {
    aten.native_batch_norm: lambda args, output: 2,
    **dict.fromkeys((aten.relu, aten.relu_, aten.hardtanh, aten.hardtanh_), lambda args, output: 1),  # hardtanh: ReLU6
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.avg_pool2d), _window),
    **dict.fromkeys((aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d), _adaptive_window),
}


def paper_extra_flops(func: Any, args: Sequence[Any], kwargs: Any, result: Any) -> int:
    """FLOPs that the paper charges for an operation beyond 2 * MAC."""
    output = result[0] if isinstance(result, tuple) else result
    formula = PAPER_EXTRA_FLOPS.get(func.overloadpacket)
    return formula(args, output) * output.numel() if formula else 0


_MOVES_NOTHING = frozenset(
    {"_unsafe_view", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided"}
)


def moved_bytes(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Bytes of an operation: its operands and its result once; views and allocations move nothing."""
    name = func.overloadpacket.__name__
    if func.namespace == "prim" or func.is_view or name in _MOVES_NOTHING:
        return 0
    # In-place operations on lists return nothing, and yet write their first argument.
    written = args[0] if result is None and name.endswith("_") else result
    tensors = (value for value in pytree.tree_leaves((args, kwargs, written)) if isinstance(value, Tensor))
    dense = (tensor for tensor in tensors if tensor.layout == torch.strided)
    # What was expanded is read once.
    return sum(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) for tensor in dense)
