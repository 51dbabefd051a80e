"""A person folder of the lineage as a source: sizes, splits, windows, clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.folders import lineage_folder
from tests.synthetic import SyntheticPerson
from vivavoce.data.corpus import Corpus, person_folders
from vivavoce.data.person import Person
from vivavoce.media import write_image
from vivavoce.types import InputError

SIZE, COUNT, GAP = 32, 11, 4  # frame 4 has no face: it has a number but no camera


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lineage_folder(tmp_path / "person", SIZE, COUNT, gap=GAP)


def test_rows_are_true_frame_numbers(folder: Path) -> None:
    person = Person(folder)
    assert person.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert len(Person(folder, split="train")) == 7 and Person(folder, split="val").rows.tolist() == [8, 9, 10]
    clip = person.clip([4], {"frames", "torso", "labels", "camera"})
    true = SyntheticPerson(SIZE, COUNT).clip([5], {"frames", "torso", "labels", "camera"})
    assert clip.index is not None and clip.index.tolist() == [5]
    assert clip.frames is not None and true.frames is not None and torch.allclose(clip.frames, true.frames, atol=1 / 255)
    assert clip.torso is not None and true.torso is not None and torch.allclose(clip.torso, true.torso, atol=1 / 255)
    assert clip.labels is not None and true.labels is not None and torch.equal(clip.labels, true.labels)
    assert clip.camera is not None and true.camera is not None
    assert torch.allclose(clip.camera.pose, true.camera.pose, atol=1e-5)


def test_speech_windows_hold_the_steps_around_the_frame_and_zeros_outside(folder: Path) -> None:
    person = Person(folder, window=(3, 2))
    speech = person.clip([0, 4], {"speech"}).speech
    assert speech is not None and speech.shape == (2, 5, 3)
    assert speech[0, :3].abs().sum() == 0 and speech[0, 3].tolist() == [0, 1, 2]
    assert speech[1, :, 0].tolist() == [3.0 * (2 * 5 + k) for k in (-3, -2, -1, 0, 1)]


def test_another_size_scales_pictures_and_cameras_together(folder: Path) -> None:
    whole, half = Person(folder), Person(folder, size=SIZE // 2)
    a, b = whole.clip([0], {"camera", "frames"}), half.clip([0], {"camera", "frames"})
    assert half.size == (SIZE // 2, SIZE // 2) and b.frames is not None and b.frames.shape[-1] == SIZE // 2
    assert a.camera is not None and b.camera is not None
    assert torch.allclose(b.camera.focal * 2, a.camera.focal) and torch.allclose(b.camera.center * 2, a.camera.center)


def test_pictures_are_read_again_when_they_changed(folder: Path) -> None:
    assert Person(folder).clip([0], {"frames"}).frames is not None
    red = torch.zeros(3, SIZE, SIZE)
    red[0] = 1
    write_image(folder / "gt_imgs" / "0.png", red)
    frames = Person(folder).clip([0], {"frames"}).frames
    assert frames is not None and torch.equal(frames[0], red)


def test_splits_read_at_once_do_not_spoil_each_others_pictures(folder: Path) -> None:
    """Both keep decoded pictures in the same files: training looks at held-out frames in between."""
    train, held = (Person(folder, size=16, split=split) for split in ("train", "val"))
    first = train.clip([0, 1], {"frames"}).frames
    assert first is not None and held.clip([0], {"frames"}).frames is not None
    again, whole = train.clip([0, 1], {"frames"}).frames, Person(folder, size=16).clip([0, 1], {"frames"}).frames
    assert again is not None and whole is not None and torch.equal(first, again) and torch.equal(first, whole)


def test_the_lineages_windowed_and_flat_features_are_read(folder: Path) -> None:
    flat = np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3)
    np.save(folder / "aud_flat.npy", flat)
    speech = Person(folder, speech="flat", window=(0, 2)).clip([2], {"speech"}).speech
    assert speech is not None and speech[0].tolist() == [flat[2].tolist()] * 2
    steps = np.arange(1, 2 * COUNT + 1, dtype=np.float32).repeat(29).reshape(-1, 29)  # step k is k + 1 in all its numbers
    padded = np.pad(steps, ((8, 8), (0, 0)))
    windows = np.stack([padded[2 * t : 2 * t + 16] for t in range(COUNT)])
    for name, rows in (("aud_ds.npy", COUNT), ("aud_ds.npy", COUNT - 1), ("aud.npy", COUNT)):  # one short, as the lineage's loop may be
        (folder / "aud_ds.npy").unlink(missing_ok=True)
        np.save(folder / name, windows[:rows].astype(np.float64))  # what AD-NeRF's script writes
        person = Person(folder, speech="deepspeech", window=(8, 8))
        speech = person.clip(slice(0, len(person)), {"speech"}).speech
        assert speech is not None and np.array_equal(speech.numpy(), windows[person.rows])


def test_features_that_do_not_fit_are_told_in_one_line(folder: Path) -> None:
    for table, cause in (
        (np.zeros((COUNT - 9, 2, 3), np.float16), f"features of {COUNT - 9} frames"),
        (np.zeros((COUNT, 16), np.int64), "not .*speech features"),  # RAD-NeRF's labels for --emb
        (np.zeros((COUNT, 7, 3), np.float32), "not .*speech features"),
    ):
        np.save(folder / "aud_deepspeech.npy", table)
        with pytest.raises(InputError, match=f"{cause}.*--only speech --speech deepspeech"):
            Person(folder, speech="deepspeech").clip([0], {"speech"})


def test_what_is_missing_is_named_with_the_command(folder: Path) -> None:
    person = Person(folder)
    for field, step in (("audio", "audio"), ("points", "landmarks"), ("eyes", "landmarks")):
        with pytest.raises(InputError, match=f"vivavoce prepare .* --only {step}"):
            person.clip([0], {field})
    with pytest.raises(InputError, match="--only cameras"):
        Person(folder.parent)


def test_a_hostile_track_file_is_not_run(folder: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(folder / "exploded"),))

    (folder / "track_params.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="cannot be read"):
        _ = Person(folder).mesh
    assert not (folder / "exploded").exists()


def test_a_corpus_joins_folders_in_the_order_asked(folder: Path) -> None:
    corpus = Corpus([folder, folder])
    assert len(corpus) == 20 and person_folders(folder) == [folder] and person_folders(folder.parent) == [folder]
    index = corpus.clip([19, 0, 12], {"frames"}).index
    assert index is not None and index.tolist() == [10, 0, 2]
