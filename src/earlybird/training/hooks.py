"""Where a method meets the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

if TYPE_CHECKING:  # The state calls the hooks, so the modules would import each other.
    from earlybird.training.state import FitState


class Hooks(Protocol):
    """What `fit` calls; a method that needs only some of it inherits `NoHooks`."""

    def at_start(self, state: FitState) -> bool:
        """The phase begins (a checkpoint of it that is taken up does not); True ends it before its first step."""
        ...

    def after_backward(self, model: nn.Module, step: int) -> None:
        """The gradients of global step `step` (0-based) are there and may be changed."""

    def after_step(self, state: FitState) -> bool:
        """`state.step` steps are done; True ends the phase here. Weights may be changed, nothing else."""
        ...

    def settle(self, state: FitState) -> None:
        """After `after_step`, and where an epoch is over after its row of metrics, before anything is saved."""

    def note(self) -> str:
        """A few words for the progress line."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for the checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""


class NoHooks:
    """Plain training: touches nothing, keeps nothing, says nothing."""

    def at_start(self, state: FitState) -> bool:
        """Go on."""
        return False

    def after_backward(self, model: nn.Module, step: int) -> None:
        """Leave the gradients alone."""

    def after_step(self, state: FitState) -> bool:
        """Go on."""
        return False

    def settle(self, state: FitState) -> None:
        """Nothing is left to do."""

    def note(self) -> str:
        """Nothing."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
