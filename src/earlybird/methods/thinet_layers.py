"""Which layers ThiNet can cut: those whose channels one convolution or linear layer reads, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups
from earlybird.errors import SlimError


@dataclass(frozen=True)
class ReadLayer:
    """A set of units that go or stay one by one, and what reads them.

    Attributes:
        reader: path of the conv or linear that sums over them.
        unit_of_input: int64 `[in channels]` of the reader: which unit each input belongs to, or -1 where it stays.
    """

    reader: str
    unit_of_input: Tensor

    @property
    def units(self) -> Tensor:
        """Int64 `[C]`: the units, ascending."""
        ascending: Tensor = torch.unique(self.unit_of_input[self.unit_of_input >= 0])
        return ascending

    @property
    def place_of_input(self) -> Tensor:
        """Int64 `[in channels]`: the place of each input's unit in `units`, or -1."""
        place = torch.searchsorted(self.units, self.unit_of_input.clamp_min(0))
        return torch.where(self.unit_of_input >= 0, place, -1)


def prunable_layers(model: nn.Module, groups: ChannelGroups, example_input: Tensor) -> list[ReadLayer]:
    """The layers that ThiNet can cut, in the order in which the network runs their readers.

    Args:
        model: the network; it is left as found.
        groups: its units.
        example_input: images to run it on in eval mode, as sampling does.

    Raises:
        SlimError: there is none; the message says why.
    """
    modules = dict(model.named_modules())
    readers_of = Counter(
        unit for units in groups.reader_unit_of.values() for unit in units[units >= 0].unique().tolist()
    )
    evaluated = _run_in_eval_mode(model, example_input)
    found, refused = [], []
    for name, units in groups.reader_unit_of.items():
        mine = units[units >= 0].unique().tolist()
        if not mine:
            continue
        if any(readers_of[unit] > 1 for unit in mine):
            refused.append(f"what {name!r} reads is read by another layer too")
        elif name not in evaluated:
            refused.append(f"{name!r} runs in training only")
        elif (why := _why_not_sampled(modules[name])) is not None:
            refused.append(f"{name!r} is {why}")
        else:
            found.append(ReadLayer(name, units))
    if not found:
        why = "; ".join(refused[:2]) or "no layer has channels that may go; `earlybird inspect` says why"
        raise SlimError(f"no layer has channels that one 2-d convolution or linear layer alone reads ({why})")
    return found


@torch.no_grad()
def _run_in_eval_mode(model: nn.Module, example_input: Tensor) -> set[str]:
    """Paths of the modules that an evaluation calls."""
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _, __, path=path: called.add(path))
        for path, module in model.named_modules()
    ]
    was_training = model.training
    try:
        model.eval()(example_input)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return called


def _why_not_sampled(reader: nn.Module) -> str | None:
    if isinstance(reader, nn.Linear):
        return None
    if not isinstance(reader, nn.Conv2d):
        return f"a {type(reader).__name__}, whose outputs are not sampled here"
    return "a grouped convolution" if reader.groups > 1 else None
