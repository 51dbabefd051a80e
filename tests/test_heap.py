"""Memory that threads leave free goes back to the system."""

import subprocess
import sys

import pytest

# Blocks of 100 kB lie in heaps, not beside them; freeing one of 20 MB makes glibc keep as much at the end of each heap.
LEFT = """
import threading
from pathlib import Path
from vivavoce import heap

def held():  # MB
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")) / 1024

heap.one_heap()
bytes(20_000_000)
before, together = held(), threading.Barrier(9)

def work():
    some = [b"x" * 100_000 for _ in range(150)]
    together.wait()
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
with heap.trimmed(10):
    for thread in threads:
        thread.start()
    together.wait()
    most = held() - before
    together.wait()
    for thread in threads:
        thread.join()
print(most, held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps heaps of threads")
def test_what_many_threads_held_is_given_back():
    run = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True)
    most, left = map(float, run.stdout.split())
    assert most > 100
    assert left < 10


FAULTS = """
import resource, sys
from vivavoce import heap

if sys.argv[1] == "keep":
    heap.keep()
for k in range(12):
    if k == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 64_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc maps large pieces anew")
def test_what_is_kept_is_not_mapped_anew():
    mapped, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("anew", "keep")
    )
    assert kept < 0.1 * mapped
