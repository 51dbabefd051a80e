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
