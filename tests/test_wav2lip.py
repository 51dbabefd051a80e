"""Wav2Lip: the authors' output on the same weights, the mel it hears, dubbing of whole films."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.published import fill, inputs, voice
from tests.synthetic import SyntheticPerson
from tests.test_syncnet import near, recorded
from vivavoce import media, registry, run, speech, train
from vivavoce.data.dubbed import Dubbed
from vivavoce.face.box import face_box
from vivavoce.methods.wav2lip import Wav2Lip
from vivavoce.nn import moments
from vivavoce.nn.mel_encoder import load_published
from vivavoce.nn.wav2lip import SIDES, Discriminator, Generator, masked
from vivavoce.prepare.people import film as dubbing
from vivavoce.prepare.people import people
from vivavoce.speech import windows
from vivavoce.speech.mel_wav2lip import columns
from vivavoce.talker import Talker
from vivavoce.types import InputError


@torch.no_grad()
def test_the_generator_gives_the_authors_output() -> None:
    made = fill(Generator)(inputs()["mel"], inputs()["faces"])
    assert near(made[..., ::4, ::4], "wav2lip")


@torch.no_grad()
def test_the_discriminator_gives_the_authors_output() -> None:
    verdict = fill(Discriminator)(inputs()["faces"][:, :3])
    assert near(verdict, "real")
    assert recorded()["real"].shape == (2, 1)


@pytest.mark.parametrize("side", [24, 48, 192])
def test_other_sizes(side: int) -> None:
    made = Generator(side, 0.1).eval()(torch.zeros(1, 1, 80, 16), torch.rand(1, 6, side, side))
    assert made.shape == (1, 3, side, side)
    assert Discriminator(0.1)(made).shape == (1, 1)


def test_only_sizes_that_halve_to_three_pixels() -> None:
    assert all(side * 2 ** -(5 + more) == 3 for side, more in SIDES.items())
    with pytest.raises(InputError, match="choose from"):
        Generator(100)


def test_the_mask_is_the_lower_half() -> None:
    faces = torch.rand(2, 3, 96, 96) + 0.1
    low = masked(faces)
    assert torch.equal(low[:, :, :48], faces[:, :, :48]) and not low[:, :, 48:].any()


def row(person: SyntheticPerson, **changes: Any) -> Wav2Lip:
    """A tiny method for the made-up person."""
    torch.manual_seed(0)
    method = registry.create("wav2lip", "tiny", **changes)
    assert isinstance(method, Wav2Lip)
    return method


def test_rows_without_the_face_go_through_and_the_rest_changes_below_the_middle_alone() -> None:
    person = SyntheticPerson(size=64, window=(2, 0), dim=640)
    clip = person.clip(slice(0, 4), Wav2Lip.needs)
    assert clip.landmarks is not None and clip.frames is not None
    lost = clip.landmarks.clone()
    lost[1, 30] = float("nan")
    clip = dataclasses.replace(clip, landmarks=lost)
    method = row(person).eval()
    with torch.no_grad():
        made = method.render(None, clip)
        none = method.render(None, dataclasses.replace(clip, landmarks=torch.full_like(lost, float("nan"))))
    assert torch.equal(made[1], clip.frames[1]) and torch.equal(none, clip.frames)
    box = face_box(clip.landmarks)[0]
    middle = int((box[1] + box[3]) / 2 - 0.1 * (box[3] - box[1]))
    assert torch.equal(made[0, :, :middle], clip.frames[0, :, :middle])
    assert (made[0] - clip.frames[0]).abs().max() > 0.05


def test_it_hears_from_one_frame_earlier_on_and_the_expert_from_the_frame_itself() -> None:
    audio = voice()
    rows = windows(speech.encode(speech.load("mel_wav2lip"), audio), *Wav2Lip.window)
    heard = columns(rows)
    with np.load(Path(__file__).parent / "published_sound.npz") as held:  # columns 30 to 93, every other bin
        theirs = torch.from_numpy(held["mel"])
    for t in (11, 14, 21):
        at = (t - 1) * 16 // 5 - 30
        assert (heard[t, 0].T[:, ::2] - theirs[at : at + 16]).abs().max() < 1e-4
    assert bool((heard[0] == -4).all())  # before the recording there is silence


@pytest.mark.parametrize("gan", [0.0, 0.07])
def test_the_weights_of_the_losses_add_up_to_one_and_the_gate_opens_for_good(tmp_path: Path, gan: float) -> None:
    person = SyntheticPerson(window=(2, 0), dim=640)
    config = registry.configure("lip_expert", "tiny", steps=1)
    train.train("lip_expert", SyntheticPerson(window=(0, 2), dim=640), tmp_path, config, preset="tiny")
    method = row(person, expert=str(tmp_path), gan=gan, sync=0.2).train()
    method.setup(person)
    optimizers = method.optimizers()
    assert len(optimizers) == (2 if gan else 1) and not any("expert" in name for name in method.state_dict())
    clip = person.clip(slice(0, 10), method.needs)
    shut = method.update(clip, 0, optimizers)
    assert float(shut["sync"]) == 0 and float(shut["apart"]) > 0 and ("fooled" in shut) == bool(gan)
    method.recent.fill_(0.7499)
    method._watch(torch.tensor(0.7))
    method._watch(torch.tensor(5.0))  # never shuts again
    assert float(method.opened) == 1
    torch.manual_seed(0)
    told = method.update(clip, 1, optimizers)
    assert float(told["sync"]) == pytest.approx(0.2 * float(told["apart"]), rel=1e-5)
    assert all(p.grad is None for p in method._expert[0].parameters())


def test_a_moment_with_a_lost_face_teaches_nothing() -> None:
    person = SyntheticPerson(window=(2, 0), dim=640)
    clip = person.clip(slice(0, 10), Wav2Lip.needs)
    assert clip.landmarks is not None
    clip.landmarks[:] = float("nan")
    method = row(person).train()
    assert float(method.loss(clip)["picture"].detach()) == 0


def test_no_such_expert_is_told_before_training() -> None:
    with pytest.raises(InputError, match="train lip_expert"):
        row(SyntheticPerson(), expert="nowhere").setup(SyntheticPerson())


def test_moments_lie_in_their_windows() -> None:
    assert moments.starts(40, 20).tolist() == [[0, 5, 10, 15], [20, 25, 30, 35]]
    first = moments.starts(8, 20)
    assert first.tolist() == [[0, 1, 2, 3]]
    other = moments.others(first)
    assert not bool((other == first).any()) and other.sort().values.tolist() == first.tolist()
    with pytest.raises(InputError, match="window_rows"):
        moments.starts(5, 20)


def test_other_features_are_refused() -> None:
    with pytest.raises(InputError, match="mel_wav2lip"):
        columns(torch.zeros(3, 2, 384))


def test_the_box_does_not_grow_with_the_mouth() -> None:
    person = SyntheticPerson()
    points = person.clip([0], {"landmarks"}).landmarks
    assert points is not None
    wide = points.clone()
    wide[:, 48:68, 1] += 5
    wide[:, 6:11, 1] += 5
    assert torch.equal(face_box(points), face_box(wide))


@pytest.fixture(scope="module")
def film(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers side by side, then the right one alone, further left, then nobody, then both: three cuts."""
    names = ("1448a660_sbwe5n.mpg", "7afda4c8_lrwp9a.mpg")
    left, right = (list(islice(media.frames(shared_data / "grid_multi" / n), 24)) for n in names)
    both = [np.concatenate(pair, 1) for pair in zip(left, right, strict=True)]
    alone = [np.pad(p, ((0, 0), (0, 360), (0, 0)), constant_values=90) for p in right]
    pictures = [*both[:12], *alone[12:20], *[np.full_like(both[0], 120)] * 4, *both[:8]]
    path = tmp_path_factory.mktemp("film") / "two.mp4"
    with media.Writer(path, both[0].shape[:2], 25) as writer:
        writer.write(np.stack(pictures))
    return path


@pytest.mark.real
def test_one_of_two_people_is_dubbed_across_cuts(film: Path) -> None:
    found = people(media.frames(film))
    assert (found.frames, len(found)) == (32, 2)
    with pytest.raises(InputError, match=r"--face 1\.\.2"):
        found.choose(0, str(film))
    with pytest.raises(InputError, match="number 3"):
        found.choose(3, str(film))
    one, two = (np.isfinite(found.choose(k, "film")).all((1, 2)) for k in (1, 2))
    assert one.tolist() == [True] * 12 + [False] * 12 + [True] * 8
    assert two.tolist() == [True] * 20 + [False] * 4 + [True] * 8
    source = dubbing(film, 2)
    talker = Talker(row(SyntheticPerson()), source, {"mel_wav2lip": speech.load("mel_wav2lip")})
    made = talker(voice(40 / 25))  # longer than the film: it is played to and fro
    true = torch.from_numpy(np.stack(list(media.frames(film)))).permute(0, 3, 1, 2) / 255
    changed = (made[:32] - true).abs().amax(1) > 0.02
    assert not changed[20:24].any() and not changed[:12, :, :360].any() and not changed[12:20, :, 360:].any()
    assert all(changed[t, 100:].any() for t in (0, 5, 13, 19, 25, 31))
    assert (made[33] - true[30])[:, :100].abs().max() < 0.06  # out of the kept pictures


def test_a_film_of_one_frame_and_one_that_is_not_long_enough(tmp_path: Path) -> None:
    media.write_image(tmp_path / "a.png", np.zeros((50, 70, 3), np.uint8))
    source = Dubbed(tmp_path / "a.png", np.full((1, 68, 2), np.nan), size=36)
    assert source.size == (26, 36) and source.clip([0, 0]).frames is not None
    with pytest.raises(InputError, match="camera"):
        source.clip([0], {"camera"})
    with pytest.raises(InputError, match="ends before"):
        Dubbed(tmp_path / "a.png", np.zeros((3, 68, 2))).clip(slice(0, 3))


@pytest.mark.real
def test_run_dubs_a_film_and_says_what_it_needs(film: Path, shared_data: Path, tmp_path: Path) -> None:
    config = registry.configure("wav2lip", "tiny", steps=1)
    trained = train.train("wav2lip", SyntheticPerson(window=(2, 0), dim=640), tmp_path / "run", config, preset="tiny")
    sound = tmp_path / "a.wav"
    media.write_audio(sound, [voice(20 / 25)])
    with pytest.raises(InputError, match="--renderer"):
        run.speak(trained, sound, tmp_path / "out.mp4")
    report = run.speak(film, sound, tmp_path / "out.mp4", run.Options(renderer=str(trained), face=1))
    made, true = (np.stack(list(islice(media.frames(path), 20))).astype(int) for path in (report.out, film))
    assert report.frames == 20 and made.shape == true.shape
    away = np.abs(made - true).max(-1)
    assert away[:12, 100:, :360].max() > 60 and away[:, :, 360:].max() < 60 and away[12:20].max() < 60  # what the codec changes is less


def test_the_authors_file_dubs_where_the_user_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in the small: a net of the published shape with a tenth of its channels stands for the published one."""
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"wav2lip_gan\.pth"):
        Wav2Lip.shipped()
    small = partial(Generator, 96, 0.1)
    torch.save({"state_dict": {f"module.{k}": v for k, v in fill(small).state_dict().items()}}, tmp_path / "wav2lip_gan.pth")
    monkeypatch.setenv("VIVAVOCE_ASSETS", str(tmp_path))
    monkeypatch.setattr(Generator, "from_authors", classmethod(lambda cls, state: _loaded(small(), state)))
    method = Wav2Lip.shipped()
    with torch.no_grad():
        assert torch.equal(method.net(inputs()["mel"], inputs()["faces"]), fill(small)(inputs()["mel"], inputs()["faces"]))


def _loaded(net: Generator, state: dict[str, torch.Tensor]) -> Generator:
    load_published(net, state, "wav2lip")
    return net.eval()
