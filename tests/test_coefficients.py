"""Files of face coefficients in every known form, a folder's own, one person's as another's, and playing them back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import io

from tests.folders import lineage_folder
from tests.synthetic import SyntheticPerson
from vivavoce import registry, run, train
from vivavoce.cli import export
from vivavoce.data import coefficients
from vivavoce.data.person import Person
from vivavoce.data.playback import playback
from vivavoce.types import Clip, InputError

COUNT = 11


def vectors(seed: int = 0) -> np.ndarray:  # [T,257]
    return np.random.default_rng(seed).normal(size=(COUNT, 257)).astype(np.float32)


def wanted(rows: np.ndarray) -> np.ndarray:  # [T,257] -> [T,70]
    return np.concatenate([rows[:, 80:144], rows[:, 224:227], rows[:, 254:257]], 1)


def tracked(folder: Path, seed: int, basis: torch.Tensor | None = None) -> Path:
    """A folder whose tracker found something."""
    made = lineage_folder(folder, 32, COUNT)
    g = torch.Generator().manual_seed(seed)
    rows = {"id": torch.zeros(1, 100), "exp": torch.zeros(COUNT, 79), "focal": torch.tensor([40.0])}
    rows["exp"][:, :20] = torch.randn(COUNT, 20, generator=g)
    rows |= {"euler": torch.randn(COUNT, 3, generator=g), "trans": torch.randn(COUNT, 3, generator=g)}
    if basis is not None:
        rows["basis"] = basis
    torch.save(rows, made / "track_params.pt")
    return made


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    rows = vectors()
    seventy = wanted(rows)
    near = np.stack([np.roll(seventy, 13 - k, 0) for k in range(27)], 1)  # [T,27,70], the middle one is the frame's
    forms = {"deep3d": rows, "sadtalker": np.pad(seventy, ((0, 0), (0, 3)), constant_values=9), "plain": seventy, "batch": seventy[None]}
    forms |= {"windows": near, "across": near.transpose(0, 2, 1)}
    for name, table in forms.items():
        np.save(tmp_path / f"{name}.npy", table)
        assert np.array_equal(coefficients.read(tmp_path / f"{name}.npy"), seventy), name
    np.save(tmp_path / "bare.npy", seventy[:, :64])
    assert np.array_equal(coefficients.read(tmp_path / "bare.npy")[:, :64], seventy[:, :64])
    io.savemat(tmp_path / "talker.mat", {"coeff_3dmm": seventy, "other": np.zeros((3, 3))})
    io.savemat(tmp_path / "only.mat", {"anything": rows})
    assert all(np.array_equal(coefficients.read(tmp_path / n), seventy) for n in ("talker.mat", "only.mat"))


@pytest.mark.parametrize("table", [np.zeros((5, 80)), np.zeros((0, 70)), np.zeros(70), np.full((4, 70), np.nan), np.array(["a"])])
def test_other_tables_are_refused_in_one_line(tmp_path: Path, table: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", table)
    with pytest.raises(InputError, match=r"x\.npy") as told:
        coefficients.read(tmp_path / "x.npy")
    assert "\n" not in str(told.value)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    for name in ("a.npy", "b.mat"):
        (tmp_path / name).write_bytes(b"no table")
        with pytest.raises(InputError, match="not a table of coefficients"):
            coefficients.read(tmp_path / name)
    io.savemat(tmp_path / "two.mat", {"a": np.zeros((2, 70)), "b": np.zeros((2, 70))})
    with pytest.raises(InputError, match=r"coeff_3dmm"):
        coefficients.read(tmp_path / "two.mat")
    with pytest.raises(InputError, match="no such file"):
        coefficients.read(tmp_path / "none.npy")


def test_a_folder_gives_its_trackers_rows(tmp_path: Path) -> None:
    folder = tracked(tmp_path / "person", 0)
    track = torch.load(folder / "track_params.pt", weights_only=True)
    motion = Person(folder, split="val", space="bfm").clip([1], {"motion"}).motion
    assert motion is not None and motion.space == "bfm" and motion.expression.shape == (1, 70)
    row = torch.cat([track["exp"][9, :64], track["euler"][9], track["trans"][9]])  # the second held-out frame is frame 9
    assert torch.equal(motion.expression[0], row)
    np.save(folder / "face_recon3dmm.npy", vectors())
    assert np.array_equal(coefficients.of_folder(folder), wanted(vectors()))
    (folder / "face_recon3dmm.npy").unlink()
    (folder / "track_params.pt").unlink()
    with pytest.raises(InputError, match="--only tracking"):
        Person(folder, space="bfm").clip([0], {"motion"})


def test_one_persons_movement_is_found_again_in_anothers_basis(tmp_path: Path) -> None:
    """The target's basis holds the source's in another order and of other lengths: the face moves the same."""
    basis = torch.randn(20, 468, 3, generator=torch.Generator().manual_seed(1)) * 1e-3
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    other = basis[order] * torch.linspace(0.8, 1.3, 20)[:, None, None]
    one, two = tracked(tmp_path / "one", 0, basis), tracked(tmp_path / "two", 1, other)
    rows, home = coefficients.of_folder(one), coefficients.of_folder(two)
    found = coefficients.retarget(rows, one, two)
    assert np.allclose(found[:, :64].mean(0), home[:, :64].mean(0), atol=1e-5)
    theirs, ours = (
        torch.einsum("tk,kvc->tvc", torch.from_numpy(r[:, :20] - r[:, :20].mean(0)), b) for r, b in ((rows, basis), (found, other))
    )
    assert float((theirs - ours).norm() / theirs.norm()) < 0.02
    shifted = coefficients.retarget(rows, None, two)
    assert np.allclose(shifted[:, :64] - home[:, :64].mean(0), rows[:, :64] - rows[:, :64].mean(0), atol=1e-5)


def test_playing_back_does_not_care_how_rows_are_cut(tmp_path: Path) -> None:
    folder = tracked(tmp_path / "person", 0)
    np.save(tmp_path / "drive.npy", vectors(3))
    for drive in (tmp_path / "drive.npy", folder):
        player = playback(drive, folder, "bfm")
        whole, _ = player.generate(Clip(speech=torch.zeros(30, 2, 80)), player.start(Clip()))
        state, pieces = player.start(Clip()), []
        for count in (1, 9, 20):
            part, state = player.generate(Clip(speech=torch.zeros(count, 2, 80)), state)
            pieces.append(part.expression)
        assert torch.equal(torch.cat(pieces), whole.expression) and whole.space == "bfm"
        assert torch.equal(whole.expression[COUNT:].flip(0)[-COUNT:], whole.expression[:COUNT])  # to and fro
    shaky, calm = (playback(tmp_path / "drive.npy", folder, "bfm", smooth=s).motion.expression for s in (0.0, 3.0))
    assert float(calm.diff(dim=0).abs().mean()) < 0.5 * float(shaky.diff(dim=0).abs().mean())
    with pytest.raises(InputError, match="nothing that drives"):
        playback(tmp_path / "drive.npy", folder, "landmarks")


def test_a_file_or_anothers_video_drives_a_trained_run(tmp_path: Path) -> None:
    """Through the same door as speech: the frames follow the rows that are played. And its head is written as a mesh."""
    folder = tracked(tmp_path / "person", 0)
    made = SyntheticPerson(32, COUNT)
    clip = made.clip(slice(None), {"points", "units"})
    np.save(folder / "landmarks.npy", clip.points)
    np.save(folder / "blendshapes.npy", clip.units)
    track = torch.load(folder / "track_params.pt", weights_only=True)
    torch.save(track | {"vertices": made.mesh[None] * 10}, folder / "track_params.pt")
    config = registry.configure("dyntet", "tiny", steps=2, size=32)
    train.train("dyntet", Person(folder, split="train", space="bfm"), folder / "runs" / "dyntet", config, extra={"folder": str(folder)})
    other = shutil.copytree(folder, tmp_path / "other")
    np.save(tmp_path / "drive.npy", 3 * vectors(3))
    films = []
    for drive in (tmp_path / "drive.npy", other):
        talker, size, _ = run.build(folder / "runs" / "dyntet", run.Options(drive=str(drive), device="cpu"))
        films.append(talker(torch.zeros(640 * 5)))
        assert films[-1].shape == (5, 3, *size)
    assert float((films[0] - films[1]).abs().max()) > 0.01
    export.do(export.Export(folder / "runs" / "dyntet", "glb", tmp_path / "mesh", frames=3, texture=64))
    export.do(export.Export(folder / "runs" / "dyntet", "obj", frames=2, texture=64))
    assert (tmp_path / "mesh" / "head.glb").read_bytes()[:4] == b"glTF"
    names = {p.name for p in (folder / "runs" / "dyntet" / "mesh" / "obj").iterdir()}
    assert names == {"8.obj", "8.mtl", "9.obj", "9.mtl", "skin.png"}  # the first held-out frame is frame 8
    with pytest.raises(InputError, match="nothing that drives"):
        run.build(folder / "runs" / "dyntet", run.Options(drive=str(folder / "bc.jpg"), device="cpu"))
