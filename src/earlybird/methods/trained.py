"""`TrainedDense`: a dense network that was trained already, and what that had cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from earlybird.errors import MethodError


@dataclass(frozen=True)
class TrainedDense:
    """The end of a finished `dense` run.

    Attributes:
        weights: state dict of the network (CPU).
        journal: metrics and costs of its training as a `Journal` has them, of phase "search": whoever starts from it
            owes all of it.
    """

    weights: Mapping[str, Tensor]
    journal: Mapping[str, Any]

    def load_into(self, model: nn.Module) -> nn.Module:
        """`model` with these weights, in place.

        Raises:
            MethodError: they are of another network.
        """
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise MethodError("the dense run is of another network; give one of the same --model and --data") from error
        return model
