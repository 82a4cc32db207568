"""What a rule is given and what it passes on: calls, tensor values and sizes, all in terms of channel slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from earlybird.errors import SlimError
from earlybird.slimming.slots import Flags, SlotBook, Slots


@dataclass(frozen=True)
class Channels:
    """A tensor value.

    Attributes:
        slots: `[channels]` slot of each channel along `dim`.
        zero: `[channels]` whether the channel is zero everywhere once its slot's keys are masked.
        dim: which dimension the channels lie on, counted from 0.
        shape: shape on the example input.
        is_stream: an add made it, and no conv, linear or norm came since.
        is_normed: a norm came since its slots were made.
    """

    slots: Slots
    zero: Flags
    dim: int
    shape: tuple[int, ...]
    is_stream: bool = False
    is_normed: bool = False


@dataclass(frozen=True)
class Size:
    """A number read from a shape; `slots` are the channels it counts, None where it counts none."""

    value: int
    slots: Slots | None = None


@dataclass(frozen=True)
class Call:
    """One call of the graph, its nodes replaced by the values above.

    Attributes:
        key: unique in the network; the mode is part of it.
        where: path of the module it stands in, or of the module called.
        operation: class or function name, for messages.
        shape: output shape (the value itself where no tensor comes out).
        mutates_live_value: it writes in place into a tensor that a later operation reads.
        breaks_ties: residual policy `select`.
    """

    key: str
    where: str
    operation: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: Any
    module: nn.Module | None = None
    mutates_live_value: bool = False
    breaks_ties: bool = False

    def refusal(self, why: str) -> SlimError:
        """The error that names module path and operation."""
        return SlimError(f"operation {self.operation!r} in module {self.where or 'the network'!r}: {why}")

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Argument by position, or by keyword."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


Rule = Callable[[Call, SlotBook], Any]


def tensors_in(arguments: Any) -> list[Channels]:
    """Every tensor value in a nest of arguments, in order."""
    if isinstance(arguments, Channels):
        return [arguments]
    if isinstance(arguments, Mapping):
        arguments = arguments.values()
    elif not isinstance(arguments, (list, tuple)):
        return []
    return [x for argument in arguments for x in tensors_in(argument)]


def only_input(call: Call) -> Channels:
    """The one tensor of an operation that takes one and gives one."""
    found = tensors_in([call.args, call.kwargs])
    if len(found) != 1 or (isinstance(call.shape, (tuple, list)) and call.shape and not isinstance(call.shape[0], int)):
        raise call.refusal("it must take one tensor and give one tensor here")
    return found[0]


def width_mismatch(call: Call) -> SlimError:
    """The refusal of a broadcast over channels."""
    return call.refusal("its channels do not line up one to one; slimming has no rule for this broadcast")


def named(call: Call) -> str:
    """Module path and operation, for reasons."""
    return f"'{call.where}': {call.operation}" if call.where else call.operation
