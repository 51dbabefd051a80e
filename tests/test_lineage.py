"""Folders of older repositories train here, and ours are read by what is known of theirs."""

from __future__ import annotations

import json
import shlex
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.lineage_folders import COUNT, FAMILIES, SIZE, SPLIT, Maker, ad_nerf, dyn_tet, er_nerf, gene_face, seed_egs, talking_gaussian
from tests.synthetic import FEATURES, LoudnessEncoder
from vivavoce import registry, speech
from vivavoce.cli import main
from vivavoce.data.person import Person
from vivavoce.face import pose, regions
from vivavoce.media import read_image
from vivavoce.prepare import prepare
from vivavoce.train import train
from vivavoce.types import InputError

pytestmark = pytest.mark.assets  # their heads are made from the canonical face

SPEECH = {"rad_nerf": "esperanto", "talking_gaussian": "hubert", "gene_face": "esperanto", "seed_egs": "ds"}
SPEECH |= {"sync_talk": "whisper", "dyn_tet": "whisper"}  # the others have DeepSpeech; these have no features
Family = Callable[[Path], Maker]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Maker]:
    family: Family = request.param
    return family.__name__, family(tmp_path)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech features that need no weights."""
    monkeypatch.setattr(speech, "load", lambda name, device="cpu": LoudnessEncoder())


def test_a_folder_of_each_family_is_read(made: tuple[str, Maker]) -> None:
    name, maker = made
    person = Person(maker.place)
    assert person.rows.tolist() == list(range(COUNT)) and len(Person(maker.place, split="val")) == COUNT - SPLIT
    clip = person.clip(slice(None), {"frames", "labels", "camera", "landmarks", "background", "eyes", "body", "audio"})
    assert clip.camera is not None and clip.frames is not None and clip.labels is not None and clip.eyes is not None
    truth = maker.truth
    away = pose.project(clip.camera, torch.from_numpy(truth.mesh).float()).numpy() - truth.seen(truth.mesh)
    assert np.abs(away).max() < 1e-2  # px
    assert (clip.frames[7] * 255 - torch.tensor(maker.drawn[7][0]).permute(2, 0, 1)).abs().mean() < 3  # JPEG
    labels = np.stack([label for _, label in maker.drawn])
    head = np.isin(clip.labels.numpy(), (regions.HEAD, regions.HAIR, regions.INNER_MOUTH))
    assert np.array_equal(head, np.isin(labels, (1, 4, 5)))
    assert np.array_equal(clip.labels.numpy() == regions.CLOTH, labels == 3)
    shut = int(truth.blink.argmax())
    assert float(clip.eyes[shut].max()) < 0.4 and float(clip.eyes[0].min()) > 0.8, name


def test_the_mesh_laid_on_lies_on_the_true_head(made: tuple[str, Maker]) -> None:
    _, maker = made
    mesh = Person(maker.place).mesh.numpy()
    assert mesh.shape == (468, 3)
    seen = maker.truth.seen(mesh) - maker.truth.seen(maker.truth.mesh)
    assert np.abs(seen).mean() < 0.5 and np.linalg.norm(mesh - maker.truth.mesh, axis=1).mean() < 0.006  # px, metres


@pytest.mark.parametrize(("family", "encoder", "dim"), [
    (ad_nerf, "deepspeech", 29), (er_nerf, "esperanto", 44), (talking_gaussian, "hubert", 1024), (seed_egs, "ds", 768),
    (gene_face, "hubert", 1024),
])  # fmt: skip
def test_speech_of_theirs_belongs_to_its_frame(tmp_path: Path, family: Family, encoder: str, dim: int) -> None:
    maker = family(tmp_path)
    rows = Person(tmp_path, speech=encoder, window=(2, 2)).clip([4, 20], {"speech"}).speech
    assert rows is not None and rows.shape == (2, 4, dim)
    opening = maker.truth.opening
    expected = [[opening[k - 1], opening[k - 1], opening[k], opening[k]] for k in (4, 20)]
    assert np.allclose(rows[..., 0], expected, atol=1e-3)


def test_each_family_trains(made: tuple[str, Maker], tmp_path: Path, heard: None) -> None:
    """What is missing is told with a command; the command helps; egs_talker trains."""
    name, maker = made
    feature = SPEECH.get(name, "deepspeech")
    method = registry.find("egs_talker").cls
    options = {"size": 48, "split": "train", "speech": feature, "window": method.window}
    needs = method.needs | method.loss_needs | {"torso", "background", "landmarks"}
    for _ in range(2):
        try:
            Person(maker.place, **options).clip([0], needs)
            break
        except InputError as error:
            assert error.remedy.startswith(f"run: vivavoce prepare {maker.place} --only ")
            assert main(shlex.split(error.remedy)[2:]) == 0
    person = Person(maker.place, **options)
    assert person.clip([0], needs).missing(needs) == []
    config = registry.configure("egs_talker", "tiny")
    config.steps, config.warm, config.coarse, config.batch, config.points, config.most = 3, 2, 1, 1, 150, 200
    run = train("egs_talker", person, tmp_path / "run", config, speech=feature)
    assert (run / "model.safetensors").is_file()
    losses = np.genfromtxt(run / "log.csv", delimiter=",", names=True)
    assert np.isfinite(np.atleast_1d(losses["colour"])).all()


def test_speech_is_added_and_nothing_of_theirs_is_lost(tmp_path: Path, heard: None) -> None:
    maker = ad_nerf(tmp_path)
    before = {p.name: p.read_bytes() for p in [tmp_path / "aud.npy", tmp_path / "aud.wav", *sorted((tmp_path / "ori_imgs").iterdir())]}
    prepare(tmp_path, only="speech")
    table = np.load(tmp_path / "aud_whisper.npy")
    assert table.shape == (COUNT, 2, FEATURES)
    loud = (maker.truth.opening / np.sqrt(2)) * 12000 / 32768
    assert np.corrcoef(table[:, 0, 0], loud)[0, 1] > 0.99
    assert (tmp_path / "aud_ds.npy").read_bytes() == before["aud.npy"] and (tmp_path / "aud_source.wav").read_bytes() == before["aud.wav"]
    with wave.open(str(tmp_path / "aud.wav")) as sound:
        assert (sound.getnchannels(), sound.getframerate(), sound.getnframes()) == (1, 16000, COUNT * 640)
    assert all((tmp_path / "ori_imgs" / n).read_bytes() == b for n, b in before.items() if n.endswith((".jpg", ".lms")))
    stamp = (tmp_path / "aud_whisper.npy").stat().st_mtime_ns
    prepare(tmp_path, only="speech")
    assert (tmp_path / "aud_whisper.npy").stat().st_mtime_ns == stamp


def test_the_body_without_its_head_is_added(tmp_path: Path) -> None:
    ad_nerf(tmp_path)
    with pytest.raises(InputError, match="--only torso"):
        Person(tmp_path).clip([0], {"torso"})
    prepare(tmp_path, only="torso")
    torso = np.asarray(Image.open(tmp_path / "torso_imgs" / "3.png"))
    labels = read_image(tmp_path / "parsing" / "3.png")
    assert (torso[(labels == (255, 0, 0)).all(2)][:, 3] > 120).mean() > 0.95
    assert not (tmp_path / "landmarks.npy").exists()  # what the step does not need is not made


def test_everything_missing_at_once(tmp_path: Path, heard: None) -> None:
    dyn_tet(tmp_path)
    lms = (tmp_path / "ori_imgs" / "0.lms").read_bytes()
    prepare(tmp_path)
    assert {p.name for p in tmp_path.glob("*.npy")} >= {"aud_whisper.npy", "body.npy"}
    assert (tmp_path / "ori_imgs" / "0.lms").read_bytes() == lms
    clip = Person(tmp_path).clip([0, 5], {"body", "speech", "frames", "torso"})
    assert clip.speech is not None and clip.speech.shape[2] == FEATURES


def test_a_hole_in_the_pictures_is_told(tmp_path: Path) -> None:
    er_nerf(tmp_path)
    (tmp_path / "ori_imgs" / "5.jpg").unlink()
    with pytest.raises(InputError, match="without a gap"):
        prepare(tmp_path, only="speech")
    assert (tmp_path / "ori_imgs" / "4.jpg").is_file()


def test_pictures_lost_later_are_told_and_the_others_stay(tmp_path: Path, heard: None) -> None:
    er_nerf(tmp_path)
    prepare(tmp_path, only="speech")
    (tmp_path / "ori_imgs" / "5.jpg").unlink()
    with pytest.raises(InputError, match="pictures were lost"):
        prepare(tmp_path, only="body")
    assert (tmp_path / "ori_imgs" / "4.jpg").is_file()


def test_poses_counted_without_faceless_frames_find_their_frames(tmp_path: Path) -> None:
    """RAD-NeRF's tracker passes over frame 9 and gives its number to the pose of frame 10, and so on."""
    maker = er_nerf(tmp_path)
    (tmp_path / "ori_imgs" / "9.lms").unlink()
    matrices = np.delete(maker.truth.matrices(), 9, 0)
    for name, rows in (("train", range(SPLIT)), ("val", range(SPLIT, COUNT - 1))):
        path = tmp_path / f"transforms_{name}.json"
        frames = [{"img_id": k, "aud_id": k, "transform_matrix": matrices[k].tolist()} for k in rows]
        path.write_text(json.dumps({**json.loads(path.read_text()), "frames": frames}))
    person = Person(tmp_path)
    assert person.rows.tolist() == [k for k in range(COUNT) if k != 9]
    camera = person.clip(slice(None), {"camera"}).camera
    assert camera is not None
    away = pose.project(camera, torch.from_numpy(maker.truth.mesh).float()).numpy() - np.delete(maker.truth.seen(maker.truth.mesh), 9, 0)
    assert np.abs(away).max() < 1e-2
    assert len(Person(tmp_path, split="val")) == COUNT - 1 - SPLIT


def test_action_units_that_are_a_placeholder_are_not_believed(tmp_path: Path) -> None:
    maker = seed_egs(tmp_path)
    eyes = Person(tmp_path).clip(slice(None), {"eyes"}).eyes
    assert eyes is not None and np.corrcoef(eyes[:, 0], maker.truth.blink)[0, 1] < -0.9


def test_a_damaged_table_of_theirs_is_told(tmp_path: Path) -> None:
    er_nerf(tmp_path)
    (tmp_path / "au.csv").write_text("frame, AU45_c\n1, 0\n")
    with pytest.raises(InputError, match=r"AU45_r.*--only units"):
        Person(tmp_path).clip([0], {"eyes"})
    np.save(tmp_path / "bs.npy", np.zeros((COUNT, 7)))
    with pytest.raises(InputError, match=r"bs\.npy.*--only landmarks"):
        Person(tmp_path).clip([0], {"eyes"})


def test_cameras_of_another_video_are_told(tmp_path: Path) -> None:
    er_nerf(tmp_path)
    for k in range(COUNT):
        path = tmp_path / "ori_imgs" / f"{k}.lms"
        np.savetxt(path, SIZE - np.loadtxt(path), "%f")  # upside down
    with pytest.raises(InputError, match="do not belong to one head"):
        _ = Person(tmp_path).mesh
