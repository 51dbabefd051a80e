"""Speech encoders: a stream equals a file, look-ahead is what is stated, and the networks are the authors' ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vivavoce import speech
from vivavoce.speech import deepspeech, mel, mel_wav2lip, wav2vec2, whisper
from vivavoce.types import HOP, RATE, InputError

STEP = HOP // 2


def tiny_whisper(folder: Path) -> speech.Encoder:
    torch.manual_seed(1)
    network = whisper.Network(80, 1500, 32, 2, 3)
    network.positional_embedding.normal_(0, 0.5)
    return whisper.Whisper(network)


def tiny_wav2vec2(folder: Path, name: str = "wav2vec2") -> speech.Encoder:
    """The encoder of that name with small random weights, saved and read as the real ones are."""
    transformers = pytest.importorskip("transformers", reason="the extra wav2vec2 is not installed")
    torch.manual_seed(1)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, conv_dim=(8,) * 7, pad_token_id=0)
    if name != "wav2vec2":  # the large ones normalise each layer, and before it
        sizes |= dict(do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)
    if name == "hubert":
        model = transformers.HubertForCTC(transformers.HubertConfig(**sizes))  # saved with its letters, which are not used
    elif wav2vec2.MODELS[name].scores:
        model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(vocab_size={"esperanto": 44}.get(name, 32), **sizes))
        torch.nn.init.normal_(model.lm_head.weight)
    else:
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**sizes))
    model.save_pretrained(folder / name)
    return wav2vec2.load(name=name, model=str(folder / name))


def tiny_deepspeech(folder: Path) -> speech.Encoder:
    torch.manual_seed(1)
    network = deepspeech.Network(24, 29)
    for name, value in network.named_parameters():
        value.data.normal_(0, 0.1 if "bias" in name else 1.5 * value.shape[-1] ** -0.5)
    return deepspeech.DeepSpeech(network)


MAKERS: dict[str, Callable[[Path], speech.Encoder]] = {
    "mel": lambda folder: speech.load("mel"),
    "mel_wav2lip": lambda folder: speech.load("mel_wav2lip"),
    "whisper": tiny_whisper,
    "deepspeech": tiny_deepspeech,
    **{name: partial(tiny_wav2vec2, name=name) for name in wav2vec2.NAMES},
}


@pytest.fixture(params=speech.names(), scope="module")
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> speech.Encoder:
    """Every encoder of the package, with small random weights where it has weights."""
    return MAKERS[request.param](tmp_path_factory.mktemp("weights"))


def noise(count: int, seed: int = 0) -> Tensor:
    """Noise that grows louder and softer, with a digital silence in it."""
    sound = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.1
    sound = sound * torch.sin(torch.arange(count) / 3000).abs()
    sound[count // 3 : count // 3 + count // 10] = 0
    return sound


def streamed(encoder: speech.Encoder, audio: Tensor, sizes: list[int]) -> Tensor:
    """All steps of a stream cut into those sizes, ended by an empty chunk as a live stream is."""
    state, steps, at = encoder.start(), [], 0
    for size in sizes:
        made, state = encoder.push(audio[at : at + size], state)
        steps.append(made)
        at += size
    assert at >= len(audio)
    steps.append(encoder.push(audio[:0], state, last=True)[0])
    return torch.cat(steps)


def test_every_encoder_has_a_maker_here() -> None:
    assert set(MAKERS) == set(speech.names())


@pytest.mark.parametrize("cut", ["20 ms", "random", "one chunk"])
def test_a_stream_gives_the_features_of_a_file(encoder: speech.Encoder, cut: str) -> None:
    audio = noise(RATE * 2 + 123)
    random = np.random.default_rng(0).integers(0, 2000, 200).tolist()
    sizes = {"20 ms": [STEP] * (len(audio) // STEP + 1), "random": random, "one chunk": [len(audio)]}[cut]
    whole = speech.encode(encoder, audio)
    assert whole.shape == (51, 2, encoder.dim)
    assert whole.std(0).mean() > 1e-3  # they say something of the sound
    assert (streamed(encoder, audio, sizes) - whole.flatten(0, 1)).abs().max() <= 1e-5 * whole.abs().max().clamp(min=1)


@pytest.mark.parametrize("count", [0, 1, 640, 641, 3000])
def test_short_audio_gives_two_steps_for_every_frame_begun(encoder: speech.Encoder, count: int) -> None:
    features = speech.encode(encoder, noise(3000)[:count])
    assert features.shape == (-(-count // HOP), 2, encoder.dim)
    assert torch.isfinite(features).all()


def test_silence_is_finite_and_the_same_at_every_block(encoder: speech.Encoder) -> None:
    features = speech.encode(encoder, torch.zeros(RATE * 7)).flatten(0, 1)
    assert torch.isfinite(features).all()
    assert (features[120:160] - features[220:260]).abs().max() < 1e-4  # 100 steps are whole blocks for all; far from both ends


def test_look_ahead_is_no_more_and_no_less_than_stated(encoder: speech.Encoder) -> None:
    audio, other = noise(RATE * 3)[: 2 * RATE + 8000], noise(RATE * 3, seed=5)[: 2 * RATE + 8000]
    whole = speech.encode(encoder, audio).flatten(0, 1)
    used = 0.0
    for step in (31, 40, 43, 44, 47, 48, 50):  # the first and the last of blocks of 1, 4, 20 and 50; one whose last sound is not silence
        heard = (step + 1) * STEP + encoder.lookahead * 16
        changed = torch.cat([audio[:heard], other[heard:]])
        assert (speech.encode(encoder, changed).flatten(0, 1)[: step + 1] - whole[: step + 1]).abs().max() <= 1e-5
        steps, _ = encoder.push(audio[:heard], encoder.start())
        assert len(steps) > step  # and a live stream has given the step by then
        nearer = torch.cat([audio[: heard - 64], other[heard - 64 :]])  # 4 ms sooner
        used = max(used, float((speech.encode(encoder, nearer).flatten(0, 1)[: step + 1] - whole[: step + 1]).abs().max()))
    assert used > 1e-6


def moved(encoder: speech.Encoder, device: str) -> speech.Encoder:
    """The same encoder somewhere else."""
    if isinstance(encoder, mel.Mel | mel_wav2lip.MelWav2Lip):
        return type(encoder)(device)
    assert isinstance(encoder, whisper.Whisper | deepspeech.DeepSpeech | wav2vec2.Wav2Vec2)
    network = copy.deepcopy(encoder.network).to(device)
    if isinstance(encoder, wav2vec2.Wav2Vec2):
        known = wav2vec2.MODELS[encoder.name]
        return wav2vec2.Wav2Vec2(network, encoder.name, known.past, known.block, known.future)
    return type(encoder)(network)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features_from_sound_in_main_memory(encoder: speech.Encoder) -> None:
    audio = noise(RATE * 2)
    there = streamed(moved(encoder, "cuda"), audio, [7000] * 5)
    here = streamed(moved(encoder, "cpu"), audio, [7000] * 5)
    assert there.is_cuda and (there.cpu() - here).abs().max() < 5e-3 * here.abs().max()  # convolutions have 10 bits there


def test_stereo_and_integers_are_refused_in_one_line(encoder: speech.Encoder) -> None:
    for wrong in (torch.zeros(2, 640), torch.zeros(640, dtype=torch.int16)):
        with pytest.raises(InputError, match="mono"):
            encoder.push(wrong, encoder.start())


def test_an_unknown_encoder_names_those_there_are() -> None:
    with pytest.raises(InputError, match="whisper"):
        speech.load("whisperer")


def test_windows_of_a_stream_are_those_of_a_file() -> None:
    features = torch.arange(60.0).reshape(15, 2, 2)
    whole = speech.windows(features, 5, 4)
    assert whole.shape == (15, 9, 2)
    assert torch.equal(whole[4], features.reshape(-1, 2)[3:12])  # steps 2t - 5 .. 2t + 3
    cutter, rows = speech.Windows(5, 4, 2), []
    for piece in features.reshape(-1, 2).split(7):
        rows.append(cutter.push(piece))
    rows.append(cutter.push(torch.zeros(0, 2), last=True))
    assert torch.equal(torch.cat(rows), whole)


def test_filterbank_is_slaneys() -> None:
    """Against numbers of the filter file in OpenAI's package, and against the definition point by point."""
    bank = mel.filterbank(400).T.double().numpy()
    assert bank.shape == (80, 201) and (bank > 1e-9).sum() == 391
    assert abs(bank[0, 1] - 0.02486259) < 1e-8 and abs(bank[79, 192] - 0.00316471) < 1e-8 and abs(bank.max() - 0.025880683) < 1e-8
    to_hertz = [m * 200 / 3 if m < 15 else 1000 * math.exp(math.log(6.4) / 27 * (m - 15)) for m in np.linspace(0, 45.245640471924965, 82)]
    for k in (3, 40, 77):
        low, mid, high = to_hertz[k : k + 3]
        triangle = np.interp(np.arange(201) * 40.0, [low, mid, high], [0, 2 / (high - low), 0])
        assert np.abs(bank[k] - triangle).max() < 1e-8


def test_mel_finds_a_tone_in_its_bin_and_a_tenth_of_the_amplitude_is_half_a_unit() -> None:
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(RATE) / RATE)
    loud, soft = (speech.encode(speech.load("mel"), tone * gain).flatten(0, 1)[20] for gain in (0.5, 0.05))
    centre = mel.filterbank(640)[40].argmax()  # 1000 Hz is bin 40 of a spectrum of 640 samples
    assert abs(int(loud.argmax()) - int(centre)) <= 1
    assert abs(float(loud.max() - soft.max()) - 0.5) < 1e-3


def plain(weights: dict[str, np.ndarray], spectrum: np.ndarray, heads: int, layers: int) -> np.ndarray:
    """Whisper's encoder written from the paper in NumPy, one head and one step of a convolution at a time."""
    erf = np.vectorize(math.erf)

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + erf(x / math.sqrt(2)))

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def convolve(x: np.ndarray, name: str, stride: int) -> np.ndarray:  # [C,T]
        padded = np.pad(x, ((0, 0), (1, 1)))
        places = range(0, x.shape[1], stride)
        return np.stack([np.tensordot(weights[f"{name}.weight"], padded[:, t : t + 3]) + weights[f"{name}.bias"] for t in places], 1)

    x = gelu(convolve(gelu(convolve(spectrum, "conv1", 1)), "conv2", 2)).T
    x = x + weights["positional_embedding"][: len(x)]
    for i in range(layers):
        name = f"blocks.{i}"
        y = norm(x, f"{name}.attn_ln")
        q, k, v = (linear(y, f"{name}.attn.{part}") for part in ("query", "key", "value"))
        width = q.shape[1] // heads
        for h in range(heads):
            s = slice(h * width, (h + 1) * width)
            scores = np.exp(q[:, s] @ k[:, s].T / math.sqrt(width))
            y[:, s] = scores / scores.sum(1, keepdims=True) @ v[:, s]
        x = x + linear(y, f"{name}.attn.out")
        x = x + linear(gelu(linear(norm(x, f"{name}.mlp_ln"), f"{name}.mlp.0")), f"{name}.mlp.2")
    return norm(x, "ln_post")


def test_whisper_network_equals_the_definition() -> None:
    torch.manual_seed(3)
    network = whisper.Network(80, 50, 24, 3, 2).double()
    with torch.no_grad():
        for value in network.state_dict().values():
            value.normal_(0, 0.3)
    spectrum = torch.randn(80, 60, dtype=torch.float64)
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    with torch.no_grad():
        ours = network(spectrum[None])[0].numpy()
    assert ours.shape == (30, 24)
    assert np.abs(ours - plain(weights, spectrum.numpy(), 3, 2)).max() < 1e-10
    weights |= {"ln_post.weight": np.ones(24), "ln_post.bias": np.zeros(24)}
    with torch.no_grad():
        first = network(spectrum[None], layers=1)[0].numpy()
    assert np.abs(first - plain(weights, spectrum.numpy(), 3, 1)).max() < 1e-10


@pytest.mark.assets
def test_whisper_tiny_en_gives_openais_numbers(asset: Callable[[str], Path]) -> None:
    """Against openai-whisper 20250625 on the same half minute of a swept tone: spectrum and features at one moment."""
    network = whisper.from_authors(torch.load(asset("whisper_tiny_en"), weights_only=True)).eval()
    t = torch.arange(30 * RATE, dtype=torch.float64) / RATE
    sound = (0.3 * torch.sin(2 * math.pi * (120 * t + 15 * t * t)) * (1 + torch.sin(6 * math.pi * t)) / 2).float()
    frames = torch.nn.functional.pad(sound[None], (200, 200), mode="reflect")[0].unfold(0, 400, 160)[:3000]
    spectrum = mel.log_mel(frames, torch.hann_window(400), mel.filterbank(400))
    spectrum = torch.maximum(spectrum, spectrum.max() - 2)  # the floor of their offline code
    assert torch.allclose(spectrum[1000, ::20], torch.tensor([-0.65932548, -0.48164237, -0.65932548, -0.65932548]), atol=1e-4)
    with torch.no_grad():
        features = network(spectrum.T[None])[0]
    recorded = torch.tensor([0.55925047, 0.04947795, 0.08336502, 0.14093800, 0.65672344, -0.25967476])
    assert features.shape == (1500, 384)
    assert torch.allclose(features[700, ::64], recorded, atol=2e-3)


def test_something_else_than_whisper_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivavoce import assets

    torch.save({"weights": torch.zeros(3)}, tmp_path / "tiny.en.pt")
    monkeypatch.setattr(assets, "path", lambda name: tmp_path / "tiny.en.pt")
    with pytest.raises(InputError, match="not a Whisper checkpoint"):
        whisper.load()


def test_wav2vec2_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="the extra wav2vec2 is not installed")
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    with pytest.raises(InputError, match="hf download"):
        wav2vec2.load(model=str(tmp_path / "nothing"))


def test_weights_in_a_folder_of_the_users_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_wav2vec2(tmp_path, "hubert")
    (tmp_path / "hubert").rename(tmp_path / "hubert-large-ls960-ft")
    monkeypatch.setenv("VIVAVOCE_ASSETS", str(tmp_path))
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    found = speech.load("hubert")
    assert (found.name, found.dim) == ("hubert", 32)
    assert torch.equal(speech.encode(found, noise(RATE)), speech.encode(made, noise(RATE)))


def test_wav2vec2_windows_equal_the_model_on_the_whole_sound_where_context_suffices(tmp_path: Path) -> None:
    """With a block that spans the sound, the features are those of transformers' model on the normalised sound."""
    encoder = tiny_wav2vec2(tmp_path)
    assert isinstance(encoder, wav2vec2.Wav2Vec2)
    audio = noise(100 * STEP)
    one = wav2vec2.Wav2Vec2(encoder.network, "wav2vec2", past=0, block=100, future=0)
    padded = torch.nn.functional.pad(audio, (40, 40))
    with torch.no_grad():
        direct = encoder.network(((padded - padded.mean()) / padded.std(correction=0))[None]).last_hidden_state[0]
    assert torch.allclose(speech.encode(one, audio).flatten(0, 1), direct, atol=1e-4)
