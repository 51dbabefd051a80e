"""DeepSpeech 0.1: the graph file is read, and features are those of the authors' definition written out in NumPy."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vivavoce import assets, speech
from vivavoce.speech import deepspeech
from vivavoce.types import RATE, InputError

Array = NDArray[np.float64]
HIDDEN, LETTERS = 16, 29


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(array: NDArray[np.float32]) -> bytes:
    return field(4, array.tobytes())


def listed(array: NDArray[np.float32]) -> bytes:
    """`float_val`, packed: how TensorFlow writes small constants."""
    return field(5, array.tobytes())


def equal(array: NDArray[np.float32]) -> bytes:
    """One `float_val` for all: how TensorFlow writes a constant whose values are all the same."""
    return field(5, array.ravel()[:1].tobytes())


def single(array: NDArray[np.float32]) -> bytes:
    """`float_val`, one field a number: the other form that protobuf allows."""
    return b"".join(varint(5 << 3 | 5) + struct.pack("<f", v) for v in array.ravel())


def constant(name: str, array: NDArray[np.float32], values: Callable[[NDArray[np.float32]], bytes] = packed, kind: int = 1) -> bytes:
    shape = b"".join(field(2, field(1, n)) for n in array.shape)
    tensor = field(1, kind) + field(2, shape) + values(array)
    attributes = field(5, field(1, b"dtype") + field(2, field(6, kind))) + field(5, field(1, b"value") + field(2, field(8, tensor)))
    return field(1, field(1, name.encode()) + field(2, b"Const") + attributes)


def node(name: str, op: str, *inputs: str) -> bytes:
    return field(1, field(1, name.encode()) + field(2, op.encode()) + b"".join(field(3, i.encode()) for i in inputs))


def weights(old: bool = False) -> dict[str, NDArray[np.float32]]:
    """Random ones under the graph's names, those of TensorFlow before 1.2 where asked."""
    random = np.random.default_rng(3)
    kernel, bias = ("weights", "biases") if old else ("kernel", "bias")
    shapes = {"h1": (494, HIDDEN), "h2": (HIDDEN, HIDDEN), "h3": (HIDDEN, 2 * HIDDEN), "h5": (2 * HIDDEN, HIDDEN), "h6": (HIDDEN, LETTERS)}
    shapes |= {f"bidirectional_rnn/{d}/basic_lstm_cell/{kernel}": (3 * HIDDEN, 4 * HIDDEN) for d in ("fw", "bw")}
    found = {n: random.normal(0, 1.5 / s[0] ** 0.5, s) for n, s in shapes.items()}
    found |= {f"b{n}": random.normal(0, 0.3, found[f"h{n}"].shape[1]) for n in (1, 2, 3, 5, 6)}
    found |= {f"bidirectional_rnn/{d}/basic_lstm_cell/{bias}": random.normal(0, 0.3, 4 * HIDDEN) for d in ("fw", "bw")}
    found["b3"][:] = 0.25
    return {n: v.astype(np.float32) for n, v in found.items()}


def graph(found: dict[str, NDArray[np.float32]]) -> bytes:
    """A frozen graph as TensorFlow writes it: constants in all its forms among nodes that are none, and a version at its end."""
    forms = [packed, listed, single]
    forms_of = {n: equal if np.ptp(v) == 0 else packed if v.size > 1000 else forms[k % 3] for k, (n, v) in enumerate(sorted(found.items()))}
    parts = [constant(n, v, forms_of[n]) for n, v in sorted(found.items())]
    parts.insert(3, node("input_node", "Placeholder"))
    parts.insert(5, constant("Reshape/shape", np.array([-1, 494], np.int32), kind=3))
    parts += [constant("LSTMCell/forget", np.float32(1).reshape(()), listed), node("logits", "Reshape", "Add", "Reshape/shape")]
    return b"".join(parts) + field(4, field(1, 24))


def cepstra(sound: Array) -> Array:  # [n] samples at 16 bits -> [S,26], every second frame
    """python_speech_features' mfcc(sound, 16000, numcep=26), one frame and one band at a time."""
    sound = np.append(sound[0], sound[1:] - 0.97 * sound[:-1])
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    corners = np.floor(513 * 700 * (10 ** (mel / 2595) - 1) / 16000).astype(int)
    rows = []
    for at in range(0, len(sound), 320):
        frame = np.pad(sound[at : at + 400], (0, max(0, 400 - len(sound[at : at + 400]))))
        power = np.abs(np.fft.fft(frame, 512)[:257]) ** 2 / 512
        bands = np.zeros(26)
        for j in range(26):
            low, mid, high = corners[j : j + 3]
            bands[j] = sum(power[i] * (i - low) / (mid - low) for i in range(low, mid))
            bands[j] += sum(power[i] * (high - i) / (high - mid) for i in range(mid, high))
        logs = np.log(np.where(bands == 0, np.finfo(float).eps, bands))
        row = np.array([np.sqrt(2 / 26) * sum(logs * np.cos(np.pi * k * (np.arange(26) + 0.5) / 26)) for k in range(26)])
        row *= 1 + 11 * np.sin(np.pi * np.arange(26) / 22)
        row[0] = np.log(power.sum() or np.finfo(float).eps)
        rows.append(row)
    return np.array(rows)


def lstm(x: Array, kernel: Array, bias: Array) -> Array:
    """TensorFlow's BasicLSTMCell with forget bias 1, over the rows of x."""
    h = c = np.zeros(HIDDEN)
    rows = []
    for row in x:
        i, j, f, o = np.split(np.concatenate([row, h]) @ kernel + bias, 4)
        c = c / (1 + np.exp(-(f + 1))) + np.tanh(j) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        rows.append(h)
    return np.array(rows)


def logits(found: dict[str, NDArray[np.float32]], sound: Array) -> Array:
    """The whole network over the whole sound, with the constants for its mean and deviation."""
    w = {n.replace("weights", "kernel").replace("biases", "bias"): v.astype(np.float64) for n, v in found.items()}
    features = np.pad(cepstra(sound), ((9, 9), (0, 0)))
    x = np.array([features[t : t + 19].ravel() for t in range(len(features) - 18)])
    x = (x - deepspeech.MEAN) / deepspeech.SPREAD
    for n in (1, 2, 3):
        x = np.clip(x @ w[f"h{n}"] + w[f"b{n}"], 0, 20)
    cell = "bidirectional_rnn/{}/basic_lstm_cell/{}"
    ahead, back = ((cell.format(d, "kernel"), cell.format(d, "bias")) for d in ("fw", "bw"))
    x = np.concatenate([lstm(x, *(w[n] for n in ahead)), lstm(x[::-1], *(w[n] for n in back))[::-1]], 1)
    return np.clip(x @ w["h5"] + w["b5"], 0, 20) @ w["h6"] + w["b6"]


def voice(seconds: float) -> torch.Tensor:
    """A buzz that comes and goes, rounded to 16 bits."""
    t = torch.arange(int(seconds * RATE)) / RATE
    sound = 0.2 * torch.sin(2 * torch.pi * (120 * t + 20 * t * t)).sign() * torch.sin(5 * t).abs()
    sound += 0.01 * torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    sound[-1] = 0  # what follows the sound is silence to us; the authors cut after the emphasis, which reaches one sample further
    return (sound * 32768).round() / 32768


def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> speech.Encoder:
    path = tmp_path / "graph.pb"
    path.write_bytes(data)
    monkeypatch.setattr(assets, "path", lambda name: path)
    return speech.load("deepspeech")


@pytest.mark.parametrize("old", [False, True], ids=["kernel", "weights"])
def test_a_graph_file_gives_the_scores_of_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    found, sound = weights(old), voice(1.6)
    loaded = encoder(tmp_path, monkeypatch, graph(found))
    assert isinstance(loaded, deepspeech.DeepSpeech) and loaded.dim == LETTERS
    wanted = logits(found, sound.double().numpy() * 32768)
    whole = deepspeech.DeepSpeech(loaded.network, block=4, future=100)  # the backward LSTM starts where the sound ends
    ours = speech.encode(whole, sound).flatten(0, 1).numpy()
    assert ours.shape == wanted.shape == (80, LETTERS)
    assert np.abs(ours - wanted).max() < 2e-3 * np.abs(wanted).max()
    live = speech.encode(loaded, sound).flatten(0, 1).numpy()
    assert np.abs(live[-12:] - wanted[-12:]).max() < 2e-3 * np.abs(wanted).max()  # the end of the sound is known there
    assert 0 < np.abs(live - wanted).max() < 0.5 * np.abs(wanted).max()


def test_a_pause_in_a_recording_is_not_made_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for constants in place of each window's mean and deviation: soft noise stays away from a voice."""
    loaded = encoder(tmp_path, monkeypatch, graph(weights()))
    assert isinstance(loaded, deepspeech.DeepSpeech)
    loud = voice(1.0)[None]
    loudness = [float(loaded.cepstra(sound).mean((0, 1))[0]) for sound in (loud, 0.01 * loud)]
    assert abs(loudness[0] - loudness[1] - 2 * np.log(100)) < 1e-3


def test_constants_have_names_shapes_and_values() -> None:
    found = weights()
    read = deepspeech.constants(graph(found))
    assert set(read) == {*found, "LSTMCell/forget"}
    assert all(np.array_equal(read[n], v) for n, v in found.items())
    assert read["LSTMCell/forget"].shape == () and read["LSTMCell/forget"] == 1


def broken() -> dict[str, bytes]:
    found = weights()
    return {
        "another network": graph({n: v for n, v in found.items() if n != "h5"}),
        "another width": graph(found | {"h1": found["h1"][:100]}),
        "another shape": graph(found).replace(field(2, field(1, 494)), field(2, field(1, 495))),
        "cut short": graph(found)[:-4000],
        "no graph": b"<!doctype html> not found",
        "words": b"\xff" * 300,
        "nothing": b"",
    }


@pytest.mark.parametrize("name", broken())
def test_a_file_that_is_not_the_graph_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(InputError, match=r"not the graph of DeepSpeech 0\.1.*assets fetch deepspeech_0_1"):
        encoder(tmp_path, monkeypatch, broken()[name])
