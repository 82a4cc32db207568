from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of many sizes that live together and then go, like a step's activations, from where torch gets them.
PROGRAM = """
import ctypes, resource
from earlybird.cli.main import keep_freed_memory
libc = ctypes.CDLL(None)
libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
def step():
    blocks = []
    for size in (m << 20 for m in (4, 12, 40, 3, 36, 8)):
        blocks.append(libc.aligned_alloc(64, size))
        libc.memset(blocks[-1], 1, size)
    for block in blocks: libc.free(block)
def faults():
    for _ in range(2): step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
default = faults()
assert keep_freed_memory()
print(default, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_is_not_faulted_in_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    default, kept = map(int, done.stdout.split())
    assert kept < default / 5, f"{default} page faults by default, {kept} with memory kept"


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    from earlybird.cli import main

    monkeypatch.setattr(main.sys, "platform", "darwin")
    assert main.keep_freed_memory() is False
