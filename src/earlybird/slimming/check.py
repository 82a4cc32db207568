"""The numeric check: run two networks that should compute the same side by side.

First as they are; where that disagrees by more than rounding, again in float64, which tells a wrong cut from a network
that amplifies rounding (BatchNorm over two images of 1x1 does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlybird.copying import copied
from earlybird.errors import SlimError
from earlybird.slimming.tracing import ExampleInput, as_tuple, doubled, random_state_kept, remove_user_hooks_

# Relative errors that float32 rounding explains (`docs/method.md` section 4, measured in `docs/slimming-timm.md`).
EVAL_TOLERANCE = 1e-5
TRAIN_TOLERANCE = 1e-4
_HALF_TOLERANCE = 3e-2
_DOUBLE_TOLERANCE = 1e-7

_REPORT = (
    "its forward may read a size that the cut changes (out_channels, groups, ...); protect the part it comes from with "
    "keep=[...], and please report the network"
)

# Class name -> attribute that makes it random in train mode; torchvision's and timm's by name, they are no dependency.
_RANDOM = {"StochasticDepth": "p", "DropPath": "drop_prob", "DropBlock2d": "drop_prob"}


@dataclass(frozen=True)
class Difference:
    """Largest relative difference of two networks' outputs, relative to the largest magnitude of the expected output.

    Attributes:
        eval_error: in eval mode; 0 for equal outputs, about 1e-6 is float32 rounding.
        train_error: in train mode with dropout and stochastic depth at 0; None where the network is random all the
            same, so that nothing can be compared.
        dtype: "float64" where the networks were compared a second time, else "native".
    """

    eval_error: float
    train_error: float | None
    dtype: str = "native"

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.eval_error, self.train_error or 0.0)


def difference(expected: nn.Module, actual: nn.Module, example_input: ExampleInput) -> Difference:
    """Compare `actual` with `expected` in both modes; both networks and the random state stay as found.

    Args:
        expected, actual: two networks on one device with the same inputs and outputs.
        example_input: a tensor, or a tuple of tensors. Constant float tensors are replaced by noise; a batch of 1 is
            repeated to 2 in train mode.
    """
    with random_state_kept(), torch.no_grad():
        device = next((p.device for p in expected.parameters()), torch.device("cpu"))
        inputs = tuple(_input(x, device) for x in as_tuple(example_input))
        try:
            native = _difference(expected, actual, inputs)
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise SlimError(f"the network, masked or slim, does not run on the example: {why}; {_REPORT}") from error
        if within_rounding(native, expected):
            return native
        try:
            inputs = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
            wide = _difference(copied(expected).double(), copied(actual).double(), inputs)
        except (RuntimeError, TypeError):  # A dtype written into the forward, or a device without float64.
            return native
        return Difference(wide.eval_error, wide.train_error, "float64")


def within_rounding(found: Difference, network: nn.Module) -> bool:
    """True if rounding explains the difference, at the precision of `network`."""
    precision = {p.dtype for p in network.parameters()}
    if found.dtype == "float64":
        eval_tolerance = train_tolerance = _DOUBLE_TOLERANCE
    elif precision & {torch.float16, torch.bfloat16}:
        eval_tolerance = train_tolerance = _HALF_TOLERANCE
    else:
        eval_tolerance, train_tolerance = EVAL_TOLERANCE, TRAIN_TOLERANCE
    return found.eval_error <= eval_tolerance and (found.train_error is None or found.train_error <= train_tolerance)


def check_cut(expected: nn.Module, actual: nn.Module, example_input: ExampleInput) -> None:
    """Raise where rounding does not explain `difference`.

    Raises:
        SlimError: the networks differ, or the slim one does not run.
    """
    if any(tensor.is_meta for tensor in actual.parameters()):
        raise SlimError(
            "the network is on meta, without numbers to compare; give check=False, or load its weights first"
        )
    found = difference(expected, actual, example_input)
    if not within_rounding(found, expected):
        raise SlimError(
            f"the slim network is not the masked one: relative difference {found.eval_error:.1e} in eval mode, "
            f"{found.train_error if found.train_error is None else format(found.train_error, '.1e')} in train mode "
            f"({found.dtype}); {_REPORT}"
        )


def _difference(expected: nn.Module, actual: nn.Module, inputs: tuple[Any, ...]) -> Difference:
    eval_error = _error(_outputs(actual, inputs, False), _outputs(expected, inputs, False))
    inputs = tuple(doubled(x) for x in inputs)
    wanted = _outputs(expected, inputs, True)
    train_error = _error(_outputs(actual, inputs, True), wanted)
    if train_error > TRAIN_TOLERANCE and _error(_outputs(expected, inputs, True), wanted) > 0:
        return Difference(eval_error, None)  # It does not even agree with itself.
    return Difference(eval_error, train_error)


def _input(x: Any, device: torch.device) -> Any:
    if not isinstance(x, Tensor):
        return x
    noise = torch.Generator().manual_seed(0)
    if x.is_floating_point() and (x.is_meta or x.numel() == 0 or bool(x.min() == x.max())):
        x = torch.randn(x.shape, generator=noise).to(x.dtype)
    return x.detach().to(device)


def _outputs(network: nn.Module, inputs: tuple[Any, ...], training: bool) -> list[Tensor]:
    network = copied(network)
    network.train(training)
    remove_user_hooks_(network)
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif type(module).__name__ in _RANDOM:
            setattr(module, _RANDOM[type(module).__name__], 0.0)
    outputs = network(*inputs)
    if hasattr(outputs, "__dict__") and not isinstance(outputs, (Tensor, dict, tuple)):
        outputs = vars(outputs)  # A data class, a model output of transformers: something that has leaves.
    return [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def _error(actual: list[Tensor], expected: list[Tensor]) -> float:
    if len(actual) != len(expected) or any(a.shape != e.shape for a, e in zip(actual, expected, strict=False)):
        return float("inf")
    return max((_relative_error(a, e) for a, e in zip(actual, expected, strict=True)), default=0.0)


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    if expected.is_complex():
        return _relative_error(torch.view_as_real(actual), torch.view_as_real(expected))
    if not expected.is_floating_point():
        return 0.0 if torch.equal(actual, expected) else float("inf")
    finite = expected.isfinite()
    if not torch.equal(finite, actual.isfinite()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    gap, scale = (actual - expected)[finite].abs().max(), expected[finite].abs().max()
    return float(gap / scale.clamp_min(torch.finfo(torch.float32).tiny))
