"""What every test shares: the data folder, thread limits, a cache of weights that is read but never half-written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("NUMBA_NUM_THREADS", str(min(4, os.cpu_count() or 1)))  # before numba is imported anywhere
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait sleep: two workers of tests share the cores
os.environ.setdefault("TYRO_FORCE_COLOR", "0")
os.environ.pop("COLUMNS", None)  # a worker of tests has one; what is printed would be cut to it for good
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # images of Python set it: each process that a test starts would compile everything anew

import pytest
import torch

from vivavoce import assets
from vivavoce.types import InputError

sys.dont_write_bytecode = False
ROOT = Path(__file__).resolve().parent.parent
THREADS = max(1, min(4, os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))  # of torch, in this worker


def data_folder() -> Path | None:
    """The folder of recordings: VIVAVOCE_DATA, or ../shared/data beside the checkout."""
    given = os.environ.get("VIVAVOCE_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    return folder if (folder / "MANIFEST.md").is_file() else None


def pytest_configure(config: pytest.Config) -> None:
    folder = data_folder()
    if folder is not None:  # weights that lie there need not be fetched
        models = [str(folder / "models"), os.environ.get("VIVAVOCE_ASSETS", "")]
        os.environ["VIVAVOCE_ASSETS"] = os.pathsep.join(m for m in models if m)


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.set_num_threads(THREADS)  # each time: the first kernel of numba gives torch as many threads as it has itself
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("real") and data_folder() is None:
        pytest.skip("the recordings are not here: set VIVAVOCE_DATA to their folder")


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of whoever runs the tests do not reach them; what a test logs goes into its own folder."""
    for name in ("VIVAVOCE_OFFLINE", "VIVAVOCE_COMMERCIAL_ONLY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIVAVOCE_LOGS", str(tmp_path / "logs"))
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recordings; the test is skipped, saying so, when it is not on this machine."""
    folder = data_folder()
    if folder is None:
        pytest.skip("the recordings are not here: set VIVAVOCE_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def asset() -> Callable[[str], Path]:
    """`asset(name)`: the path of a catalogued file, fetched when it is not here; skipped by name when it cannot be had."""

    def get(name: str) -> Path:
        try:
            return assets.path(name)
        except InputError as error:
            pytest.skip(f"weights not here and not to be had: {error}")

    return get
