"""The doctor: it reports what is true here, gives a command for what is missing, and survives anything."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from vivavoce import assets, doctor
from vivavoce.catalogue import CATALOGUE


def findings(area: str) -> list[doctor.Finding]:
    return [f for f in doctor.examine() if f.area == area]


def test_every_area_is_looked_at_and_every_fault_has_a_remedy() -> None:
    found = doctor.examine()
    areas = {f.area for f in found}
    assert areas >= {
        "python",
        "torch",
        "cuda",
        "numba",
        "video",
        "libx264",
        "aac",
        "h264_nvenc",
        "face nets",
        "assets",
        "licences",
        "cache",
        "disk",
    }
    assert all(f.text and "\n" not in f.text for f in found)
    assert all(f.remedy for f in found if not f.ok)
    assert findings("torch")[0].text.startswith(torch.__version__)
    assert findings("libx264")[0].ok and findings("aac")[0].ok


def test_absent_weights_and_licences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIVAVOCE_ASSETS", "")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "cache"))
    first = findings("assets")[0]
    assert not first.ok and first.remedy == "run: vivavoce assets fetch face_landmarker"
    restricted = CATALOGUE["3ddfa_v2"]
    kept = assets.cache() / restricted.file
    kept.parent.mkdir(parents=True)
    with kept.open("wb") as file:
        file.truncate(restricted.size)
    assert findings("licences")[0].ok and "3ddfa_v2" in findings("licences")[0].text
    monkeypatch.setenv("VIVAVOCE_COMMERCIAL_ONLY", "1")
    assert not findings("licences")[0].ok
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    assert findings("network")


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(blocker / "below"))
    (found,) = findings("cache")
    assert not found.ok and "VIVAVOCE_CACHE" in found.remedy


def test_a_broken_installation_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av" or name.startswith("av."):
            raise ImportError("libavcodec.so.62: cannot open shared object file")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", broken)
    (found,) = findings("video")
    assert not found.ok and "libavcodec" in found.text and found.remedy.startswith("run: pip install")


def test_what_a_gpu_host_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "numba" else specs(name))
    assert not findings("numba")[0].ok and findings("numba")[0].remedy == "run: pip install numba"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    if not torch.cuda.is_available():
        (card,) = findings("cuda")
        assert not card.ok and "torch" in card.remedy


def test_only_a_risky_threading_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_threading_layer", lambda: "workqueue")
    assert not findings("numba")[0].ok and "libgomp" in findings("numba")[0].remedy
