from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of many sizes that live together and then go, like a step's activations.
PROGRAM = """
import resource, sys
import torch
from earlybird.cli.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step(): [torch.empty(m << 20, dtype=torch.uint8).fill_(1) for m in (4, 12, 40, 3, 36, 8)]
for _ in range(2): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_is_not_faulted_in_again():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    default, kept = faults("default"), faults("keep")
    assert kept < default / 5, f"{default} page faults by default, {kept} with memory kept"


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    from earlybird.cli import allocator

    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
