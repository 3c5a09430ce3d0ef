"""What a process keeps of the memory that it frees."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from foveal.engine import distributed
if {kept}:
    distributed.start('cpu')
def step():
    for size in (100, 60, 10, 100):  # MB, of which glibc would map all anew
        torch.ones(size * 250_000)
for _ in range(4):  # until the heap is as large as a step needs it
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='other C libraries have no mallopt')
def test_freed_memory_serves_the_next_step() -> None:
    faults = [
        int(subprocess.run([sys.executable, '-c', STEPS.format(kept=kept)], check=True, capture_output=True).stdout)
        for kept in (True, False)
    ]
    # a page has 4 KB: 270 MB have 66,000 pages, and fewer where the kernel clears several at once
    assert faults[0] < 100 < faults[1]
