"""Other processes on the GPU of a run, as NVML lists them: its counter charges a run with their joules too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from earlybird.errors import reason

# The first must answer. The others are of clients of an MPS server and of displays, and not every driver has them.
_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
)  # fmt: skip
_NAMESPACE = Path("/proc/self/ns/pid")
_FIRST_NAMESPACE = "pid:[4026531836]"  # that of the machine, a constant of Linux


def most_others(*counts: int | None) -> int | None:
    """Most other processes of several looks; None where one of them could not tell and none saw any.

    Example:
        >>> most_others(0, 3, None), most_others(0, None), most_others(0, 0)
        (3, None, 0)
    """
    known = [count for count in counts if count is not None]
    most = max(known, default=0)
    return most if most or (known and len(known) == len(counts)) else None


def is_split(handle: Any) -> bool:
    """True if the card of this NVML handle is in MIG mode: processes run on instances of it, and joules are its own."""
    import pynvml  # type: ignore[import-untyped]

    with suppress(pynvml.NVMLError):  # cards that know no MIG
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    return False


class CardWatch:
    """Looks for other processes on a card on which this one computes.

    What a list can tell depends on whose pids it has:

    - This process is in it: the others are counted. In a container with pids of its own those of other containers are
      not in it, so that a list of this process alone tells nothing.
    - This process is not in it, but others are: they bear the pids of another namespace, and one of them is this one.
    - It is empty: NVML shows this process nobody, not even itself; nothing is known.

    reason: why the last look could not tell, or "".

    Args:
        handle: NVML's, of a whole card.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.reason = ""
        self._most: int | None = None
        self._last: int | None = None

    def start(self) -> None:
        """Begin a stretch with a look."""
        self._last = self._most = self._look()

    def look(self) -> None:
        """Look once more."""
        self._last = self._look()
        self._most = most_others(self._most, self._last)

    def take(self) -> int | None:
        """Most others seen since the stretch began, None where that is not known; the last look begins the next one."""
        most, self._most = self._most, self._last
        return most

    def _look(self) -> int | None:
        import pynvml

        try:
            listed = {process.pid for process in getattr(pynvml, _LISTS[0])(self._handle)}
        except Exception as error:  # whatever a driver may raise
            self.reason = f"NVML lists no processes: {reason(error)}"
            return None
        for name in _LISTS[1:]:
            with suppress(Exception):
                listed |= {process.pid for process in getattr(pynvml, name)(self._handle)}
        self.reason = _why_unknown(listed)
        return None if self.reason else len(listed) - 1


def _why_unknown(listed: set[int]) -> str:
    """Reason why these pids do not tell how many others there are; empty where they do."""
    if not listed:
        return "NVML lists nobody, not even this process"
    if listed == {os.getpid()} and _has_own_pids():
        return "in this container NVML lists its own processes alone"
    return ""


def _has_own_pids() -> bool:
    """True in a container with pids of its own; False on the machine itself, and where nobody can tell."""
    try:
        return os.readlink(_NAMESPACE) != _FIRST_NAMESPACE
    except OSError:
        return False
