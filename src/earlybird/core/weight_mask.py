"""`WeightMask`: the single weights that stay in a lottery ticket (Frankle & Carbin 2019) or by SNIP (Lee et al. 2019).

A masked network keeps its shape: removed weights are held at zero, which saves no work on dense hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.core.criteria import weighted_layers
from earlybird.core.mask import BoolTensors
from earlybird.core.ticket import TensorFormat, kept_flags
from earlybird.errors import MaskError, NonFiniteError, TicketError, path_given, require

_FILE = TensorFormat("weight mask", "earlybird_weight_mask", 1, "run the search again", "weight-mask.safetensors")


class WeightMask(BoolTensors):
    """Immutable map from a parameter's name to a bool tensor of its shape, True = keep.

    Raises:
        MaskError: a value is no bool tensor, or has no element.

    Example:
        >>> mask = keep_largest({"fc.weight": torch.tensor([[0.1, -3.0], [2.0, 0.2]]).abs()}, 0.5)
        >>> mask["fc.weight"].tolist()
        [[False, True], [True, False]]
    """

    __slots__ = ()

    _what, _shape, _dimensions = "weight mask of", "the parameter's shape", None

    def __repr__(self) -> str:
        return f"WeightMask({len(self)} tensors, {self.kept} of {self.total} weights kept)"

    @property
    def total(self) -> int:
        """Weights covered by the mask."""
        return sum(flags.numel() for flags in self._keep.values())

    @property
    def kept(self) -> int:
        """Weights that stay."""
        return sum(self.kept_counts().values())

    @property
    def realised_ratio(self) -> float:
        """Fraction of the weights that is removed, in [0, 1]; 0.0 for an empty mask."""
        return 1.0 - self.kept / self.total if self.total else 0.0

    def check(self, model: nn.Module) -> None:
        """Raise unless every masked parameter is in the network with this shape.

        Raises:
            MaskError: one is not.
        """
        parameters = dict(model.named_parameters())
        for name, flags in self._keep.items():
            found = parameters.get(name)
            if found is None or found.shape != flags.shape:
                has = "no such parameter" if found is None else f"shape {list(found.shape)}"
                raise MaskError(f"the weight mask has {name!r} of shape {list(flags.shape)}, the network {has}")

    def save(self, path: str | Path, **notes: Any) -> None:
        """Write the mask and JSON values beside it, replacing an older file in one step that survives a crash.

        Raises:
            TicketError: the notes are no JSON.
            OSError: the disk is full or refuses.
        """
        tensors = {f"keep.{name}": flags.to(torch.uint8) for name, flags in self._keep.items()}
        _FILE.save(path_given("path", path, TicketError), {"parameters": list(self._keep), "notes": notes}, tensors)

    @classmethod
    def load(cls, path: str | Path) -> tuple[WeightMask, dict[str, Any]]:
        """Read a mask and its notes back.

        Raises:
            TicketError: the file is missing, of another kind, truncated, or fails its sha256.
        """

        def parse(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[WeightMask, dict[str, Any]]:
            mask = cls({name: kept_flags(tensors, f"keep.{name}") for name in header["parameters"]})
            return mask, dict(header["notes"])

        return _FILE.load(path_given("path", path, TicketError), parse)


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter name -> weight of every convolution and linear layer, each shared one once; biases and norms are not.

    Weights of other layers (an attention's packed projection) are not either: they stay, and no ratio counts them.

    Raises:
        MaskError: the network has none, or one is no plain parameter: a reparametrisation holds it.
    """
    wanted = set()
    for name, module, weight in weighted_layers(model):
        if module._parameters.get("weight") is None:
            raise MaskError(f"the weight of {name!r} is no plain parameter (a reparametrisation holds it)")
        wanted.add(id(weight))
    found = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in wanted}
    if not found:
        raise MaskError("the network has no convolution and no linear layer whose weights could be removed")
    return found


def keep_largest(scores: Mapping[str, Tensor], prune_ratio: float, within: WeightMask | None = None) -> WeightMask:
    """Keep the weights with the highest scores, all tensors ranked together; `round(prune_ratio * N)` go.

    Of equal scores the earlier goes. What `within` has removed stays removed and counts among those that go.

    Args:
        scores: parameter name -> score of each weight, of the parameter's shape; higher = keep.
        prune_ratio: fraction of all N weights to remove, in [0, 1).
        within: an earlier mask to go on from.

    Raises:
        ConfigError: `prune_ratio` is outside [0, 1).
        NonFiniteError: a score is NaN or infinite.
        MaskError: there are no scores, or `within` is of other tensors.
    """
    require("prune_ratio", prune_ratio, 0.0 <= prune_ratio < 1.0, "a number in [0, 1)")
    if not scores:
        raise MaskError("there are no scores; score at least one tensor of weights")
    flat = torch.cat([score.detach().to("cpu", torch.float32).flatten() for score in scores.values()])
    if not bool(torch.isfinite(flat).all()):
        name = next(name for name, score in scores.items() if not bool(torch.isfinite(score).all()))
        raise NonFiniteError(f"{name!r}: a score is NaN or infinite; the training has diverged (lower lr)")
    if within is not None:
        if {n: s.shape for n, s in within.items()} != {n: s.shape for n, s in scores.items()}:
            raise MaskError("the earlier weight mask is of other tensors than the scores")
        flat = torch.where(torch.cat([within[name].flatten() for name in scores]), flat, -torch.inf)
    keep = torch.ones(flat.numel(), dtype=torch.bool)
    keep[torch.sort(flat, stable=True).indices[: round(prune_ratio * flat.numel())]] = False
    keep &= flat > -torch.inf
    parts = keep.split([score.numel() for score in scores.values()])
    return WeightMask({name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)})


@torch.no_grad()
def mask_weights_(model: nn.Module, mask: WeightMask) -> None:
    """Set removed weights to zero, in place.

    Raises:
        MaskError: the mask is of another network.
    """
    mask.check(model)
    parameters = dict(model.named_parameters())
    for name in mask:
        parameters[name].masked_fill_(~mask[name].to(parameters[name].device), 0)
