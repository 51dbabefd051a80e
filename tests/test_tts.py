"""Text to speech through the extra's real program and voice."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from vivavoce import tts
from vivavoce.types import InputError


def test_words_become_sound(tmp_path: Path) -> None:
    short, long = (tts.say(text, tmp_path / name) for text, name in [("Yes.", "a.wav"), ("Yes, and a good deal more than that.", "b.wav")])
    lengths = []
    for path in (short, long):
        with wave.open(str(path)) as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            lengths.append(file.getnframes() / file.getframerate())
            assert np.abs(sound.astype(int)).max() > 2000
    assert 0.1 < lengths[0] < lengths[1] < 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "b.wav"]


@pytest.mark.parametrize("text", ["", "  \n", "?!..."])
def test_nothing_to_say(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to say"):
        tts.say(text, tmp_path / "a.wav")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tts, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'vivavoce\[tts\]'"):
        tts.say("Hello", tmp_path / "a.wav")


def test_a_broken_voice_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no net")
    with pytest.raises(InputError, match="speech program failed"):
        tts.say("Hello", tmp_path / "out" / "a.wav", tmp_path / "bad.onnx")
    assert not list((tmp_path / "out").iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        tts.say("Hello", tmp_path / "file" / "a.wav")
