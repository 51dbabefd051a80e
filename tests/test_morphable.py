"""Face models: both loaders on small files in the formats of the real ones, and what the files may not do."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models import MOVES, PEOPLE, SKINS, save_table, shapes, surface, take, write_bfm, write_ict
from vivavoce import assets
from vivavoce.face import mesh, morphable_bfm, morphable_ict
from vivavoce.face.morphable import dense, normals
from vivavoce.face.regions import LANDMARKS_68
from vivavoce.types import InputError


@pytest.fixture
def bfm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mesh.vertices()  # read before the catalogue is narrowed to this folder
    write_bfm(tmp_path)
    take(monkeypatch, tmp_path)
    return tmp_path


def test_basel_model_from_the_scan(bfm: Path) -> None:
    model = morphable_bfm.load()
    mean, triangles = surface()
    identity, expression = shapes(mean)
    assert torch.allclose(model.mean, mean - mean.mean(0), atol=1e-6)
    assert torch.allclose(model.identity, identity, atol=1e-7)
    assert torch.allclose(model.expression, expression, atol=1e-7)
    assert model.landmarks.tolist() == list(LANDMARKS_68)
    assert torch.equal(model.triangles, triangles)
    assert model.texture is not None and model.colour is not None
    assert model.texture.shape == (SKINS, len(mean), 3)
    assert 0.3 < float(model.colour.mean()) < 0.8
    assert not model.bounded


def test_basel_model_as_the_lineage_converts_it(bfm: Path) -> None:
    scanned = morphable_bfm.load()
    save_table(
        bfm / "3DMM_info.npy",
        morphable_bfm.convert(bfm / "01_MorphableModel.mat", bfm / "exp_info.npy", bfm / "topology_info.npy"),
    )
    (bfm / "01_MorphableModel.mat").unlink()
    (bfm / "exp_info.npy").unlink()
    converted = morphable_bfm.load()
    for name in ("mean", "identity", "expression", "colour", "texture", "triangles"):
        assert torch.equal(getattr(scanned, name), getattr(converted, name)), name


def test_triangles_that_face_inwards_are_turned(bfm: Path) -> None:
    mean, triangles = surface()
    assert torch.equal(morphable_bfm.outward(mean, triangles[:, [0, 2, 1]]), triangles)


def test_missing_basel_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, tmp_path)
    with pytest.raises(InputError) as told:
        morphable_bfm.load()
    for word in ("01_MorphableModel.mat", "https://faces.dmi.unibas.ch/bfm/", "VIVAVOCE_ASSETS", "--tracker ict"):
        assert word in str(told.value)


@pytest.mark.parametrize("name", ["exp_info.npy", "topology_info.npy", "keys_info.npy", "3DMM_info.npy"])
def test_pickles_run_no_code(bfm: Path, name: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(bfm / "ran"),)

    save_table(bfm / name, {"tris": Bomb(), "mu_exp": Bomb()})
    with pytest.raises(InputError, match="no dictionary of arrays"):
        morphable_bfm.load()
    assert not (bfm / "ran").exists()


@pytest.mark.parametrize("name", ["01_MorphableModel.mat", "exp_info.npy", "topology_info.npy", "keys_info.npy"])
def test_damaged_files_are_told(bfm: Path, name: str) -> None:
    (bfm / name).write_bytes((bfm / name).read_bytes()[:200])
    with pytest.raises(InputError):
        morphable_bfm.load()


def test_parts_that_do_not_fit_are_told(bfm: Path) -> None:
    table = morphable_bfm.dictionary(bfm / "keys_info.npy")
    save_table(bfm / "keys_info.npy", {**table, "keyinds": table["keyinds"] + 10**6})
    with pytest.raises(InputError, match="landmark list names vertices"):
        morphable_bfm.load()


def same(a: morphable_ict.Morphable, b: morphable_ict.Morphable) -> None:
    assert torch.equal(a.triangles, b.triangles) and torch.equal(a.landmarks, b.landmarks)
    for name in ("mean", "identity", "expression"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=2e-6), name


def test_ict_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh.vertices()
    write_ict(tmp_path / "ict_facekit.npz")
    take(monkeypatch, tmp_path)
    model = morphable_ict.load()
    mean, _ = surface()
    identity, expression = shapes(mean)
    assert torch.allclose(model.mean, mean, atol=1e-6)  # the throat is left out
    assert model.identity.shape[0] == PEOPLE and model.expression.shape[0] == MOVES
    assert torch.allclose(model.expression, expression, atol=1e-5) and torch.allclose(model.identity, identity, atol=1e-5)
    assert model.bounded and model.names[0] == "move0"
    assert int(model.triangles.max()) == len(mean) - 1


def test_ict_from_its_objects(tmp_path: Path) -> None:
    """Folder and archive of the project give what the packed file gives."""
    write_ict(tmp_path / "a.npz")
    packed = morphable_ict.read(tmp_path / "a.npz")
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    with np.load(tmp_path / "a.npz") as held:
        marks = str(held["vertex_indices_json"])
        neutral, quads = held["neutral"], held["faces_quad"]
        moved = {f"identity{k:03d}": d for k, d in enumerate(held["identity_delta"])}
        moved |= dict(zip(held["expression_names"].tolist(), held["expression_delta"], strict=True))
    for name, change in {"generic_neutral_mesh": np.zeros_like(neutral), **moved}.items():
        lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in neutral + change]
        lines += ["vt 0 0", "f " + "\nf ".join(" ".join(f"{c + 1}/1" for c in q if c >= 0) for q in quads)]
        (folder / f"{name}.obj").write_text("\n".join(lines) + "\n")
    (folder / "vertex_indices.json").write_text(marks)
    same(packed, morphable_ict.from_objects(folder))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as bundle:
        for path in folder.iterdir():
            bundle.write(path, f"ICT-FaceKit-da5f95/FaceXModel/{path.name}")
    morphable_ict.pack(tmp_path / "b.zip", tmp_path / "b.npz")
    same(packed, morphable_ict.read(tmp_path / "b.npz"))
    (folder / "vertex_indices.json").unlink()
    with pytest.raises(InputError, match="no folder of ICT-FaceKit"):
        morphable_ict.from_objects(folder)


def test_ict_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ict_facekit.npz").write_bytes(b"PK\x03\x04 not at all")
    with pytest.raises(InputError, match="cannot be read as ICT-FaceKit"):
        morphable_ict.read(tmp_path / "ict_facekit.npz")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as bundle:
        bundle.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="not the archive of ICT-FaceKit"):
        morphable_ict.pack(tmp_path / "c.zip", tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


def test_dense_points_lie_where_they_belong(tmp_path: Path) -> None:
    write_ict(tmp_path / "ict_facekit.npz")
    model = morphable_ict.read(tmp_path / "ict_facekit.npz")
    assert float((dense(model) == torch.arange(468)).float().mean()) > 0.97  # the model is the canonical face itself
    facing = normals(model.mean, model.triangles)
    assert torch.allclose(facing.norm(dim=1), torch.ones(len(facing)), atol=1e-4)
    assert float(facing[4, 2]) > 0.5  # the tip of the nose looks at the viewer


@pytest.mark.real
def test_real_ict(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = morphable_ict.read(shared_data / "models" / "ict_facekit.npz")
    assert model.identity.shape[0] == 100 and model.expression.shape[0] == 57
    points = dense(model)
    rest, jaw = model.mean[points], model.expression[model.names.index("jawOpen")][points]
    assert float(rest[152, 1]) < float(rest[10, 1]) and float((rest[33] - rest[263]).norm()) > 0.08  # metres
    assert float(jaw[17, 1]) < -0.01 < 0.01 * float(jaw[0, 1] > -0.004)  # the lower lip goes down, the upper one stays
    assert float(jaw[14, 1]) < 4 * float(jaw[13, 1])
    assert torch.equal(points[list(LANDMARKS_68[17:])], model.landmarks[17:])


def test_arrays_reads_plain_files_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert assets.arrays(tmp_path / "a.npy").tolist() == [0, 1, 2]
