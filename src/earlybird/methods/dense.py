"""`dense`: the unpruned network, trained for the whole schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class Dense:
    """Train the unpruned network for the whole schedule."""

    name: ClassVar[str] = "dense"

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """The network as it was initialised, with all T epochs before it."""
        from earlybird.methods.candidate import Candidate

        return Candidate(task.build(), phase="train", start_step=0, end_step=task.session.total_steps)

    def restore(self, task: Task) -> Candidate:
        """The same: its weights come from the checkpoint."""
        return self.search(task, None)
