"""Evaluation of runs on a folder whose pictures are known exactly."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from tests.folders import lineage_folder
from vivavoce import __version__, registry
from vivavoce.cli import main
from vivavoce.evaluate import BY_KEY, Options, Result, blocks, evaluate, gathered, measure, write
from vivavoce.evaluate.faces import Track
from vivavoce.evaluate.measure import Judges, Measure
from vivavoce.evaluate.relative import PIVOT, relative
from vivavoce.evaluate.table import notes
from vivavoce.face.box import fill
from vivavoce.face.crop import crop
from vivavoce.face.pose import euler_from_matrix, matrix_from_euler
from vivavoce.face.regions import LIDS_LEFT, LIDS_RIGHT
from vivavoce.media import frames, pixels, probe, read_image, write_audio
from vivavoce.method import Generator, Renderer
from vivavoce.metrics import expert_sync, lse
from vivavoce.nn.lip_expert import LipExpert
from vivavoce.nn.perceptual import Perceptual
from vivavoce.types import Clip, InputError, Motion

SIZE, COUNT, TRAIN = 32, 14, 8
HELD = COUNT - TRAIN


@dataclass
class Config:
    """How wrong the made-up method is."""

    shift: float = 0.0
    broken: int = -1  # frame that is not a number
    other: float = 0.0


class Copy(Renderer):
    """Draws the background and no person: errors are known."""

    needs = frozenset({"background", "camera", "speech"})
    speech = "whisper"
    drawn: ClassVar[list[int]] = []
    said: ClassVar[list[Tensor]] = []  # first score of each block

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.tensor(0.0))

    def render(self, identity: object, clip: Clip) -> Tensor:
        assert clip.background is not None and clip.index is not None
        Copy.drawn += clip.index.tolist()
        if self.config.broken == -2:
            raise ZeroDivisionError("of its own")
        if clip.motion is not None:
            Copy.said.append(clip.motion.expression[:, 0])
        made = (clip.background + self.config.shift + self.weight).clone()
        made[clip.index == self.config.broken] = torch.nan
        return made


class Dub(Renderer):
    """Draws into the true frame."""

    needs = frozenset({"frames"})

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.tensor(0.0))

    def render(self, identity: object, clip: Clip) -> Tensor:
        assert clip.frames is not None
        return clip.frames * 0.9


class Hum(Generator):
    """Makes motion: the number of the row that it has come to."""

    needs = frozenset({"speech"})
    space = "blendshapes"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.space = "landmarks" if config.other else Hum.space

    def start(self, source: Clip) -> int:
        return 0

    def generate(self, clip: Clip, state: int) -> tuple[Motion, int]:
        assert clip.speech is not None
        rows = len(clip.speech)
        score = torch.arange(state, state + rows).float()[:, None].expand(-1, 52)
        return Motion(torch.zeros(rows, 3), torch.zeros(rows, 3), torch.ones(rows, 1), score), state + rows


class Found:
    """What a landmarker that sees one face would say: points that spread with the picture's brightness."""

    score = 1.0

    def __init__(self, picture: np.ndarray) -> None:
        wide = 5 + picture.mean() / 50
        self.landmarks68 = (np.random.default_rng(0).random((68, 2)) * wide).astype(np.float32)
        self.points = (np.random.default_rng(1).random((478, 3)) * wide).astype(np.float32)
        self.mouth_open = float(picture.std())
        self.blendshapes = np.full(52, picture.mean() / 255, np.float32)


class Sees:
    """An identity network that sees the mean colour."""

    def __call__(self, frames: Tensor, landmarks: Tensor) -> Tensor:
        return torch.nn.functional.normalize(frames.mean((2, 3)), dim=1)


@cache
def network() -> Perceptual:
    """Any network will do where only the book-keeping is tested; the true one is in test_perceptual.py."""
    torch.manual_seed(0)
    return Perceptual().eval()


def judges(*args: Any, **kwargs: Any) -> Judges:
    return Judges(lambda p: [Found(p)], {"fid": "not asked for"}, network(), Sees())  # type: ignore[list-item, arg-type]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a person and the methods above in the registry."""
    lineage_folder(tmp_path / "ann", SIZE, COUNT, train=TRAIN)
    write_audio(tmp_path / "ann" / "aud.wav", [torch.zeros(COUNT * 640)])
    known = registry._modules
    monkeypatch.setattr(registry, "_modules", lambda: {**known(), "copy": "", "dub": "", "hum": ""})
    monkeypatch.setitem(sys.modules, Copy.__module__, sys.modules[__name__])
    for name, cls, family in (("copy", Copy, "mesh"), ("dub", Dub, "dubbing"), ("hum", Hum, "motion")):
        monkeypatch.setitem(registry._cards, name, registry.Card(name, cls, family, "", "", "", ""))
    monkeypatch.setattr(Judges, "summon", judges)
    Copy.drawn.clear()
    Copy.said.clear()
    return tmp_path


def trained(place: Path, name: str, method: str = "copy", weight: float = 0.0, **about: Any) -> Path:
    """A run folder as training leaves it."""
    run = place / name
    run.mkdir(parents=True, exist_ok=True)
    config = {"shift": 0.0, "broken": -1, "other": 0.0} | about.pop("config", {})
    page = {"method": method, "preset": "small", "config": config, "folder": str(place / "ann"), "size": None, "speech": "whisper"} | about
    (run / "config.json").write_text(json.dumps(page))
    save_file({"weight": torch.tensor(weight)}, run / "model.safetensors")
    (run / "log.csv").write_text("step,seconds,loss,gpu_gigabytes\n0,1,2,3.5\n60,70,1,4.5\n99,120,1,\n")
    return run


def test_every_version_has_its_row_its_truth_and_the_means_that_anyone_computes(place: Path) -> None:
    (result,) = evaluate([trained(place, "a")])
    assert list(result.made) == list(result.truth) == ["synthesised", "synthesised, plate", "pasted"]
    made, true = result.made["synthesised"], result.truth["synthesised"]
    assert made["psnr"] < result.made["pasted"]["psnr"] and made["lpips"] > result.made["pasted"]["lpips"]  # type: ignore[operator]
    assert true["psnr"] is None and true["lmd"] == 0 and true["csim"] == pytest.approx(1)  # the folder is lossless: plate = original
    images = [read_image(place / "ann" / "ori_imgs" / f"{k}.png") / 255.0 for k in range(TRAIN, COUNT)]
    plate = read_image(place / "ann" / "bc.jpg") / 255.0
    assert made["psnr"] == pytest.approx(np.mean([peak_signal_noise_ratio(i, plate, data_range=1) for i in images]), abs=1e-4)
    options = dict(data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert made["ssim"] == pytest.approx(np.mean([structural_similarity(i, plate, **options) for i in images]), abs=1e-5)
    assert made["mouth"] == 0 and made["lost"] == 0 and true["mouth"] == pytest.approx(1)
    assert made["ms_ssim"] is None and "161 px" in result.notes["ms_ssim"]
    assert made["av"] is None and "100" in result.notes["av"]
    assert result.costs["minutes"] == 2 and result.costs["steps"] == 100 and result.costs["fps"]
    assert result.costs["gigabytes"] == 4.5  # the most of all rows; one without (resumed on a CPU) is none
    assert str(result.protocol) == f"val, 6 frames 8-13, {SIZE} x {SIZE} px, v1" and not result.told


def test_the_table_in_all_its_forms(place: Path) -> None:
    runs = [trained(place, "a"), trained(place, "b", config={"shift": 0.2})]
    results = evaluate(runs, out=place / "out")
    names = [p.name for p in write(results, place / "out", pictures=True)]
    assert names == ["eval.csv", "eval.md", "eval.html", "eval.xlsx", "eval.png"]
    rows = list(csv.DictReader((place / "out" / "eval.csv").open()))
    assert [r["method"] for r in rows] == ["ground truth", "a", "b"] * 3 and {r["person"] for r in rows} == {"ann"}
    assert float(rows[1]["PSNR dB"]) == results[0].made["synthesised"]["psnr"] and rows[1]["FID"] == ""
    from openpyxl import load_workbook

    book = load_workbook(place / "out" / "eval.xlsx")
    assert book.sheetnames == ["figures", "DynTet", "notes"]
    assert [c.value for c in book["DynTet"][1]][3:] == ["PSNR", "LPIPS", "LMD mouth", "LMD eye", "identity cosine", "N"]
    assert book["DynTet"]["D3"].value == pytest.approx(results[0].made["synthesised"]["psnr"])
    markdown = (place / "out" / "eval.md").read_text()
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert f"| a (copy), small, 100 steps | {SIZE} |" in markdown and "FID: not asked for" in markdown
    best = f"{max(r.made['synthesised']['psnr'] for r in results):.2f}"  # type: ignore[type-var]
    assert f"**{best}**" in markdown
    page = (place / "out" / "eval.html").read_text()
    assert page.count("data:video/mp4;base64,") == page.count("data:image/webp;base64,") == 2 and not re.search(r"(src|href)='?http", page)
    kept = place / "out" / "results" / f"a-ann-val-6-{SIZE}x{SIZE}"
    assert sorted(p.name for p in kept.iterdir()) == ["eval.json", "film.mp4", "frames.webp"]
    assert read_image(kept / "frames.webp").shape == (3 * SIZE, 4 * SIZE, 3)
    assert next(frames(kept / "film.mp4")).shape == (SIZE, 2 * SIZE, 3) and probe(kept / "film.mp4").frames == HELD
    assert read_image(place / "out" / "eval.png").shape[0] == 3 * SIZE


def test_what_was_judged_is_not_judged_again(place: Path) -> None:
    run = trained(place, "a")
    (first,) = evaluate([run])
    Copy.drawn.clear()
    assert evaluate([run]) == [first] and not Copy.drawn
    evaluate([run], options=Options(again=True))
    assert len(Copy.drawn) == HELD
    evaluate([run], options=Options(frames=4))  # another protocol
    trained(place, "a", weight=0.01)
    Copy.drawn.clear()
    assert evaluate([run])[0].weights != first.weights and len(Copy.drawn) == HELD  # other weights
    file = next((run / "eval").glob("*-val-6-*/eval.json"))
    file.write_text(file.read_text()[:100])
    Copy.drawn.clear()
    evaluate([run])
    assert len(Copy.drawn) == HELD  # damaged
    assert not list((run / "eval").glob("*.part")) and not list((run / "eval").glob("*.old"))


def test_what_fails_half_way_leaves_nothing_that_counts(place: Path) -> None:
    run = trained(place, "a", config={"broken": 12})
    with pytest.raises(InputError, match="frame 12 holds values that are not numbers"):
        evaluate([run])
    assert not list(run.rglob("eval.json")) and not list(run.rglob("film.mp4"))


def test_figures_are_not_compared_across_protocols(place: Path) -> None:
    runs = [trained(place, "a"), trained(place, "b", size=40)]
    with pytest.raises(InputError, match=r"a and b: frame size on ann differ .*--size 32 .*--apart"):
        evaluate(runs)
    assert not Copy.drawn  # said before the work, not after it
    results = evaluate(runs, options=Options(apart=True))
    with pytest.raises(InputError, match="frame size"):
        write(results, place)
    assert len(blocks(results)) == 6 and all(len(b.rows) == 2 for b in blocks(results))
    assert len(blocks(evaluate(runs, options=Options(size=40)))) == 3
    part = evaluate([runs[0]], options=Options(frames=4))
    with pytest.raises(InputError, match="a and a: frames on ann differ"):
        write([results[0], *part], place)


def test_several_people_have_blocks_of_their_own(place: Path) -> None:
    lineage_folder(place / "bob", 40, 11, train=TRAIN)
    people = [place / "ann", place / "bob"]
    runs = [trained(place, "copy_ann"), trained(place, "copy_bob", folder="/moved/bob"), trained(place, "dub", "dub")]
    results = evaluate(runs, people)
    assert [(r.label, r.person) for r in results] == [("copy_ann", "ann"), ("dub", "ann"), ("copy_bob", "bob"), ("dub", "bob")]
    assert [b.person for b in blocks(results)] == ["ann"] * 3 + ["bob"] * 3
    assert "no aud.wav" in results[2].notes["silence"]
    names = [p.name for p in write(results, place / "out", pictures=True)]
    assert names[-2:] == ["eval-ann.jpg", "eval-bob.jpg"]
    assert read_image(place / "out" / "eval-bob.jpg").shape[0] == 3 * 40  # the truth and two methods
    table = (place / "out" / "eval.md").read_text().split("\n\n")[1].splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table[2:]] == ["ground truth", "copy, small, 100 steps", "dub, small, 100 steps"]
    assert "<h2>All</h2>" in (place / "out" / "eval.html").read_text()
    (stranger,) = evaluate([runs[0]], [place / "bob"])
    assert any("copy_ann: has learnt ann, and is judged on bob" in n for n in notes([stranger]))


def test_one_that_breaks_loses_nobody_else(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, begun = trained(place, "good"), trained(place, "bad", config={"broken": 12}), _begun(place)
    crash = trained(place, "crash", config={"broken": -2})
    monkeypatch.chdir(place)
    assert main(["eval", *map(str, (bad, begun, good, crash, "lip_expert", place / "ann")), "--data", "ann", "--out", "o"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for line in (
        "bad on ann: .*frame 12 holds",
        "a: no weights yet",
        "crash on ann: it broke .ZeroDivisionError: of its own",
        "lip_expert: it judges lips",
    ):
        assert re.search(f"not in the table: .*{line}", shown), line
    assert (place / "o" / "eval.md").read_text().count("not in the table: ") == 5
    assert [r["method"] for r in csv.DictReader((place / "o" / "eval.csv").open())] == ["ground truth", "good"] * 3
    assert main(["eval", str(bad), str(begun)]) == 2  # nobody is left


def test_a_generator_drives_a_renderer_and_is_heard(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copy, "needs", frozenset({"background", "camera", "motion"}))
    monkeypatch.setattr(Copy, "space", "blendshapes")
    monkeypatch.setattr(Hum, "shipped", lambda seed: Hum(Config()), raising=False)
    np.save(place / "ann" / "blendshapes.npy", np.full((COUNT, 52), 0.7, np.float32))
    run = trained(place, "copy_ann")
    told, driven = evaluate([run, f"{run}+hum"], out=place / "out")
    assert told.told and not driven.told and driven.title == "copy+hum, small, 100 steps" and driven.driver == "hum"
    assert driven.weights == f"{told.weights}+vivavoce {__version__}" and "motion" not in driven.reads and "speech" in driven.reads
    assert torch.allclose(Copy.said[0], torch.tensor(0.7)) and [float(s[0]) for s in Copy.said[-HELD // 2 :]] == [0, 2, 4]  # in one breath
    better = replace(told, made={k: {**v, "lmd": 0.01, "psnr": 99.0} for k, v in told.made.items()})
    worse = replace(driven, made={k: {**v, "lmd": 3.0, "psnr": 9.0} for k, v in driven.made.items()})
    third = replace(worse, label="third", made={k: {**v, "lmd": 2.0} for k, v in worse.made.items()})
    block = blocks([better, worse, third])[0]
    assert [block.best(BY_KEY[k]) for k in ("lmd", "psnr")] == [2.0, 99.0]  # nobody is praised for lips that were told
    assert evaluate([f"{run}+hum"], out=place / "out") == [driven]
    assert any("copy+hum: the face is moved by what the generator" in n for n in notes([driven]))


def test_tables_are_merged_without_drawing(place: Path) -> None:
    runs = [trained(place, "a"), trained(place, "b", config={"shift": 0.2})]
    results = evaluate(runs, out=place / "here")
    write(results, place / "here")
    (place / "there").mkdir()
    for k, folder in enumerate(sorted((place / "here" / "results").iterdir())):
        shutil.copytree(folder, place / "there" / f"machine{k}")
    Copy.drawn.clear()
    assert main(["eval", "--merge", str(place / "there"), "--out", str(place / "again")]) == 0
    for name in ("eval.csv", "eval.md", "eval.html"):
        assert (place / "again" / name).read_text() == (place / "here" / name).read_text()
    assert not Copy.drawn
    more = trained(place, "c", config={"shift": 0.1})
    assert main(["eval", str(more), "--merge", str(place / "there"), "--out", str(place / "more"), "--pictures"]) == 0
    assert [r["method"] for r in csv.DictReader((place / "more" / "eval.csv").open())] == ["ground truth", "a", "b", "c"] * 3
    assert read_image(place / "more" / "eval.png").shape[0] == 4 * SIZE and len(Copy.drawn) == HELD
    newer = json.loads((place / "there" / "machine0" / "eval.json").read_text()) | {"date": "2999-01-01"}
    (place / "there" / "newer").mkdir()
    (place / "there" / "newer" / "eval.json").write_text(json.dumps(newer))
    merged = gathered([place / "there"])
    assert len(merged) == 2 and {r.date for r in merged} == {"2999-01-01", results[0].date}
    write(merged, place / "again")
    assert "no pictures beside its eval.json" in (place / "again" / "eval.html").read_text()
    for wrong, said in ((place / "ann", "no eval.json in it"), (runs[0] / "log.csv", "not an eval.json")):
        with pytest.raises(InputError, match=said):
            gathered([wrong])
    (place / "there" / "newer" / "eval.json").write_text("{}")
    with pytest.raises(InputError, match="another version"):
        gathered([place / "there"])


def test_a_method_that_draws_into_the_true_frame_has_the_pasted_version_alone(place: Path) -> None:
    results = evaluate([trained(place, "a"), trained(place, "d", "dub")])
    assert list(results[1].made) == ["pasted"] and results[1].told
    assert [len(b.rows) for b in blocks(results)] == [2, 2, 3]
    assert any("draws into the true frame" in n for n in notes(results)) and any(
        n.startswith("d: the lips are told") for n in notes(results)
    )


def test_a_folder_prepared_anew_is_told(place: Path) -> None:
    (one,) = evaluate([trained(place, "a")])
    other = replace(one, label="z", prepared="other")
    assert any("prepared in different ways" in n for n in notes([one, other]))


Wrong = Callable[[Path], tuple[list[Any], list[Any], Options]]


def _gone(place: Path) -> tuple[list[Any], list[Any], Options]:
    return [trained(place, "a", folder=str(place / "gone"))], [], Options()


def _crowd(place: Path) -> tuple[list[Any], list[Any], Options]:
    (place / "crowd").mkdir()
    return [trained(place, "a", folder=str(place / "crowd"))], [], Options()


def _empty(place: Path) -> tuple[list[Any], list[Any], Options]:
    table = json.loads((place / "ann" / "transforms_val.json").read_text())
    (place / "ann" / "transforms_val.json").write_text(json.dumps(table | {"frames": []}))
    return [trained(place, "a")], [], Options()


def _begun(place: Path) -> Path:
    run = trained(place, "a")
    (run / "model.safetensors").unlink()
    return run


WRONG: dict[str, tuple[Wrong, str]] = {
    "no run": (lambda p: ([], [], Options()), "no run is given; give run folders"),
    "no such run": (lambda p: ([p / "nothing"], [], Options()), "no such run folder; train it"),
    "no run folder": (lambda p: ([p], [], Options()), "not a run folder"),
    "a person": (lambda p: ([p / "ann"], [], Options()), "is a person folder where a run is wanted; train one: .* eval face_warp"),
    "a person with runs": (
        lambda p: ([trained(p, "ann/runs/a").parents[1]], [], Options()),
        "a run of this person: .*eval .*ann/runs/a; or",
    ),
    "training still": (lambda p: ([_begun(p)], [], Options()), "no weights yet"),
    "an expert": (lambda p: (["lip_expert"], [p / "ann"], Options()), "draws no frames; let it judge the others: --expert RUN"),
    "two renderers": (lambda p: (["face_warp+face_warp"], [p / "ann"], Options()), "not a renderer and the generator that drives it"),
    "two spaces": (
        lambda p: ([f"face_warp+{trained(p, 'a', 'hum', config={'other': 1})}"], [], Options()),
        "spaces differ: hum makes 'landmarks', face_warp reads 'blendshapes'",
    ),
    "not driven": (lambda p: ([f"{trained(p, 'a')}+speech_motion"], [], Options()), "nothing drives copy: it hears"),
    "another's": (
        lambda p: ([trained(p, "a", folder=str(p / "else"))], [p / "ann", p / "ann/ori_imgs"], Options()),
        "it has learnt .*else, which is none of the people given; add --data",
    ),
    "a generator": (
        lambda p: (
            [trained(p, "a", "hum", config={"other": 1})],
            [],
            Options(),
        ),
        "it makes motion and draws no frames; give it with a renderer that reads 'landmarks'",
    ),
    "untrained": (lambda p: (["egs_talker"], [p / "ann"], Options()), "has to be trained first"),
    "as it comes, on nobody": (lambda p: (["face_warp"], [], Options()), "was not trained on anybody; say on whom"),
    "folder gone": (_gone, "the folder that it was trained on is not there .*--data FOLDER"),
    "several people": (_crowd, "trained on several people .*--data FOLDER"),
    "no such person": (lambda p: ([trained(p, "a")], [p / "bob"], Options()), "no such person folder"),
    "one frame": (lambda p: ([trained(p, "a")], [], Options(frames=1)), "1 frame of split 'val': nothing moves"),
    "tiny": (lambda p: ([trained(p, "a")], [], Options(size=24)), "24 x 24 px are too small"),
    "empty": (_empty, "no frame of split 'val'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_clear_line(place: Path, case: str) -> None:
    make, said = WRONG[case]
    runs, folders, options = make(place)
    with pytest.raises(InputError, match=said) as error:
        evaluate(runs, folders, options)
    assert "\n" not in str(error.value)


def test_a_method_that_needs_no_training_is_named_as_it_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copy, "shipped", lambda seed: Copy(Config()), raising=False)
    (result,) = evaluate(["copy"], [place / "ann"], out=place / "out")
    assert result.weights.startswith("vivavoce ") and result.costs["minutes"] == 0 and result.title == "copy"
    Copy.drawn.clear()
    assert evaluate(["copy"], [place / "ann"], out=place / "out") == [result] and not Copy.drawn


def test_runs_of_one_name_keep_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [trained(place, "x/egs"), trained(place, "y/egs", weight=0.1), place / "x/egs"]
    lineage_folder(place / "other" / "ann", SIZE, 11, train=TRAIN)
    monkeypatch.setattr(Copy, "source_needs", frozenset({"frames"}))  # a portrait method draws everybody
    results = evaluate(runs, [place / "ann", place / "other" / "ann"], out=place / "out")
    assert [(r.label, r.person) for r in results] == [(a, b) for b in ("ann", "other-ann") for a in ("egs", "y-egs")]
    apart = evaluate([runs[1]], [place / "ann"])
    Copy.drawn.clear()
    assert evaluate(runs[:2], [place / "ann"])[1] == replace(apart[0], label="y-egs") and not Copy.drawn[HELD:]  # found by another name


def test_a_place_that_cannot_be_written_is_told(place: Path) -> None:
    (place / "full").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot be written .*--out"):
        evaluate([trained(place, "a")], out=place / "full")
    with pytest.raises(InputError, match="cannot be written"):
        write([], place / "full")


def test_what_cannot_be_had_is_blank_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*args: Any) -> Any:
        raise InputError("the file", "not here", "run: vivavoce assets fetch it")

    for owner, name in ((Perceptual, "pretrained"), (measure, "Identity"), (measure.lse, "syncnet"), (measure, "cpbd")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(measure, "Landmarker", lambda most: None)
    made = Judges.summon("cpu")
    assert made.lpips is made.identity is made.syncnet is None and not made.sharp
    assert {"lpips", "csim", "lse_c", "lse_d", "cpbd"} <= made.notes.keys() and "assets fetch" in made.notes["lse_d"]
    assert "--fid" in made.notes["fid"] and "assets fetch it" in caplog.text
    monkeypatch.setattr(measure, "Inception", refuse)
    with pytest.raises(InputError, match="not here"):
        Judges.summon("cpu", fid=True)


def held(thing: Any, seen: set[int]) -> int:
    """Bytes of all tensors and arrays that are reachable."""
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, Tensor | np.ndarray):
        return int(thing.nbytes)
    if isinstance(thing, array):
        return len(thing) * thing.itemsize
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple | set) else vars(thing).values()
    return sum(held(part, seen) for part in parts if not isinstance(part, int | float | str | Judges | type(None) | type(len)))


def test_memory_does_not_grow_with_the_frames() -> None:
    judge = replace(judges(), lpips=None, identity=None)
    picture = {name: torch.rand(4, 3, SIZE, SIZE) for name in ("made", "original", "plate", "pasted")}

    def kept(blocks: int) -> int:
        taken = Measure(judge, 4 * blocks, False, None, None)
        for k in range(blocks):
            taken.add(4 * k, picture, [True] * 4)
        taken.figures()
        return held(taken, set())

    few, many = kept(1), kept(6)
    assert many - few == 20 * 4 * 4 * 4  # frames x streams x scalars x bytes; a frame itself is 12 kB


def test_one_result_is_json_that_anyone_reads(place: Path) -> None:
    (result,) = evaluate([trained(place, "a")])
    page = json.loads((result.place / "eval.json").read_text())
    assert page["format"] == 1 and page["made"]["pasted"]["psnr"] == result.made["pasted"]["psnr"]
    assert page["reads"] == ["background", "camera", "speech"] and isinstance(result, Result)
    assert "NaN" not in json.dumps(page) and len(page["weights"]) == 12


class Lips(LipExpert):
    """Sees the mean of the crops and hears the mean of the mel: any judge will do."""

    def see(self, lips: Tensor) -> Tensor:
        return torch.nn.functional.normalize(lips.flatten(2).mean(2) + 0.1)

    def hear(self, mel: Tensor) -> Tensor:
        return torch.nn.functional.normalize((mel.flatten(1)[:, ::85][:, :15] + 4.1).abs())


class Sync(torch.nn.Module):
    """The same for SyncNet."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def see(self, windows: Tensor) -> Tensor:
        return windows.flatten(2).mean(2) / 20

    def hear(self, sounds: Tensor) -> Tensor:
        return sounds.flatten(1)[:, :3]


def test_sync_of_streamed_frames_is_that_of_the_whole_clip() -> None:
    count = 30
    generator = torch.Generator().manual_seed(0)
    made, sound = torch.rand(count, 3, 64, 64, generator=generator), torch.rand(count * 640, generator=generator) - 0.5
    places = torch.tensor([10.0, 12, 50, 56]) + torch.rand(count, 4, generator=generator)
    judge = replace(judges(), lpips=None, identity=None, sharp=False, syncnet=Sync(), expert=Lips(0.01))
    taken = Measure(judge, count, True, sound, places)
    for at in range(0, count, 8):
        piece = made[at : at + 8]
        taken.add(at, {"pasted": piece, "original": 1 - piece}, [True] * len(piece))
    figures = taken.figures()[0]["pasted"]
    whole = lse.lse(lse.crops(pixels(made), places.double().numpy()), sound, judge.syncnet)
    assert figures["lse_d"] == pytest.approx(whole.distance, rel=1e-4) and figures["lse_c"] == pytest.approx(whole.confidence, rel=1e-3)
    ours = expert_sync.expert_sync(crop(made, fill(places, 96)), measure.mels(sound), Lips(0.01))
    assert figures["expert_d"] == pytest.approx(ours.distance, abs=1e-5) and ours.confidence > 0
    assert taken.notes((64, 64), {"pasted": figures}).keys().isdisjoint({"lse_c", "lse_d"})


def test_a_face_is_followed_through_losses_and_cuts() -> None:
    def face(bright: int, eyes: float = 0.8) -> Any:
        found = Found(np.full((8, 8), bright))
        for upper, lower in (*LIDS_RIGHT, *LIDS_LEFT):
            found.points[lower] = found.points[upper] + np.array([0, eyes, 0])
        found.mouth_open = bright / 100
        return found

    real, made = Track(), Track()
    for k in range(50):
        true = face(k, 0.1 if k in (10, 11, 30, 31, 32) else 0.8)
        real.add(true, true, k != 25)
        made.add(None if k == 40 else face(k + 20), true, k != 25)
    said, truth = made.figures(real, None, None), real.figures(real, None, None)
    assert truth["blinks"] == 60 and said["blinks"] == 0 and said["lost"] == 1 and truth["lost"] == 0  # two in two seconds
    assert truth["lmd"] == truth["lvd"] == 0 and said["lmd"] > 0 and said["lvd"] == pytest.approx(0, abs=1e-5)  # larger, moving alike
    assert said["f_lmd"] > 0 and said["mouth"] == pytest.approx(1) and said["blendshapes"] == pytest.approx(20 / 255, abs=1e-6)
    assert np.isnan(said["av"]) and np.isnan(said["silence"])
    empty = Track()
    for _ in range(50):
        empty.add(None, face(1), True)
    nothing = empty.figures(real, None, None)
    assert nothing["lost"] == 50 and np.isnan([nothing[k] for k in ("lmd", "lvd", "mouth", "blinks", "jitter")]).all()


def test_a_portrait_is_told_how_the_head_moved_since_its_picture() -> None:
    def head(turned: Tensor, at: tuple[float, float, float]) -> Motion:
        turn = matrix_from_euler(turned)
        place = torch.tensor(at) - turn @ torch.tensor(PIVOT)  # so that the pivot lies there
        return Motion(turned[None], place[None], torch.ones(1, 1), torch.full((1, 52), 0.3))

    own, far = torch.tensor([0.1, -0.2, 0.05]), (0.02, 0.01, -0.8)
    source = head(own, far)
    still = relative(source, source)
    assert torch.allclose(still.rotation, torch.zeros(1, 3), atol=1e-6) and torch.allclose(still.translation, torch.zeros(1, 3), atol=1e-6)
    more = matrix_from_euler(torch.tensor([0.0, 0.3, 0.0])) @ matrix_from_euler(own)
    turned = relative(head(euler_from_matrix(more), far), source)
    assert torch.allclose(turned.rotation, torch.tensor([[0.0, 0.3, 0.0]]), atol=1e-6)
    assert turned.translation.abs().max() < 1e-6 and float(turned.scale) == pytest.approx(1)
    nearer = relative(head(own, (0.02, 0.02, -0.4)), source)  # twice as near: twice as large, and where it is seen
    assert float(nearer.scale) == pytest.approx(2)
    assert torch.allclose(nearer.translation, torch.tensor([[0.02, 0.03, 0.0]]), atol=1e-6)
    assert torch.equal(nearer.expression, source.expression)
