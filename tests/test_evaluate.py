"""Evaluation of a run on a folder whose pictures are known exactly."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.folders import lineage_folder
from vivavoce import evaluate as module
from vivavoce.evaluate import evaluate
from vivavoce.media import read_image
from vivavoce.method import Renderer
from vivavoce.nn.perceptual import Perceptual
from vivavoce.types import Clip, InputError

SIZE, COUNT = 32, 12


class Copy(Renderer):
    """Draws the background and no person: errors are known."""

    needs = frozenset({"background", "camera"})
    speech = "whisper"

    def render(self, identity: object, clip: Clip) -> Tensor:
        assert clip.background is not None
        return clip.background.clone()


class Found:
    """What a landmarker that sees one face would say: points that move with the picture's mean."""

    score = 1.0

    def __init__(self, picture: np.ndarray) -> None:
        self.landmarks68 = np.full((68, 2), picture.mean(), np.float32) + np.arange(68)[:, None]
        self.mouth_open = float(picture.mean())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    folder = lineage_folder(tmp_path / "person", SIZE, COUNT)
    about = {"method": "copy", "preset": "", "folder": str(folder), "size": None}
    monkeypatch.setattr(module, "load_run", lambda path, device: (Copy(None), about))
    monkeypatch.setattr(module, "Landmarker", lambda: lambda picture: [Found(picture)])
    torch.manual_seed(0)
    judge = Perceptual()  # any network will do where only the book-keeping is tested; the true one is in test_perceptual.py
    monkeypatch.setattr(Perceptual, "pretrained", lambda net, device: judge.eval())
    return tmp_path / "run", folder


def test_every_protocol_has_its_row_and_pasting_helps(run: tuple[Path, Path]) -> None:
    rows = {r.protocol: r for r in evaluate(run[0])}
    assert list(rows) == ["synthesised", "synthesised, plate", "pasted", "ground truth"]
    assert all(r.frames == COUNT - 8 and r.lost == 0 for r in rows.values())
    assert rows["ground truth"].psnr > 60 and rows["ground truth"].lmd == 0  # the folder is lossless
    assert rows["synthesised"].psnr < rows["pasted"].psnr < rows["ground truth"].psnr
    assert rows["synthesised"].psnr == pytest.approx(rows["synthesised, plate"].psnr, abs=0.01)
    assert rows["synthesised"].lpips > rows["pasted"].lpips > rows["ground truth"].lpips >= 0


def test_the_figure_is_the_mean_over_frames_of_what_anyone_computes(run: tuple[Path, Path]) -> None:
    row = next(r for r in evaluate(run[0]) if r.protocol == "synthesised")
    made = read_image(run[1] / "bc.jpg") / 255
    wanted = [10 * np.log10(1 / np.mean((made - read_image(run[1] / "ori_imgs" / f"{i}.png") / 255) ** 2)) for i in range(8, COUNT)]
    assert row.psnr == pytest.approx(float(np.mean(wanted)), abs=0.01)


def test_tables_and_sheet_are_written(run: tuple[Path, Path]) -> None:
    evaluate(run[0])
    table = list(csv.reader((run[0] / "eval.csv").open()))
    assert table[0][:3] == ["protocol", "frames", "psnr"] and len(table) == 5
    assert json.loads((run[0] / "eval.json").read_text())["split"] == "val"
    assert "synthesised, plate" in (run[0] / "eval.md").read_text()
    assert read_image(run[0] / "eval.png").shape == (4 * SIZE, 3 * SIZE, 3)


def test_without_the_weights_of_lpips_all_else_is_measured(
    run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(net: str, device: object) -> Perceptual:
        raise InputError("lpips_alexnet", "not here, and there is no network", "run: vivavoce assets fetch lpips_alexnet")

    monkeypatch.setattr(Perceptual, "pretrained", refuse)
    rows = evaluate(run[0])
    assert all(np.isnan(r.lpips) and r.psnr > 0 for r in rows)
    assert "assets fetch lpips_alexnet" in caplog.text
    assert all(r["lpips"] is None for r in json.loads((run[0] / "eval.json").read_text())["rows"])


def test_a_run_without_a_person_is_refused(run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: dict[str, Any] = {"method": "copy", "preset": ""}
    monkeypatch.setattr(module, "load_run", lambda path, device: (torch.nn.Identity(), nothing))
    with pytest.raises(InputError, match="only a renderer"):
        evaluate(run[0])
