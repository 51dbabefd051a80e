"""Mozilla DeepSpeech 0.1 features: 29 scores of letters at 50 Hz, in plain torch from the authors' frozen TensorFlow graph.

Hannun et al., "Deep Speech: Scaling up end-to-end speech recognition" (arXiv 1412.5567), in Mozilla's form: 26 cepstra every 20 ms
with 9 steps of context on both sides, three dense layers, an LSTM in each direction, two dense layers. AD-NeRF and those after it
were trained with it (`aud_ds.npy`). The weights are Mozilla's release 0.1.0 (MPL-2.0), asset `deepspeech_0_1`.

What differs from the lineage's script, so that a stream and a file give the same numbers:

* The LSTM that runs backwards starts FUTURE steps after each block of BLOCK steps, or where the sound ends, and not always where
  the sound ends (Zhang et al., arXiv 1510.08983: 200 ms are enough). The one that runs forwards is exact, from the first step on.
* Features are whitened with constants, not with the mean and deviation of the recording. Over 43 recordings those were
  -1.3 +- 1.5 and 10.7 +- 1.5 (read aloud, broadcast, studio; silence makes the outliers).

Recordings are at 16 bits there: a sample of 1.0 is 32768 here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vivavoce import assets
from vivavoce.protobuf import fields, integers, message
from vivavoce.speech import Stream
from vivavoce.types import HOP, RATE, STEPS, InputError

Pair = tuple[Tensor, Tensor]  # hidden state and cells of an LSTM

STEP = HOP // STEPS  # samples
CEPSTRA, CONTEXT = 26, 9
BLOCK, FUTURE = 4, 12  # steps of 20 ms: made at once; heard by the backward LSTM before it reaches them
FRAME, FFT = 400, 512  # samples
EMPHASIS, LIFTER = 0.97, 22
MEAN, SPREAD = -2.0, 11.0  # of all features of ordinary recordings
CLIP = 20.0  # of the rectified units
TINY = 2.0**-52  # energy of digital silence
BATCH = 64  # windows at once

# Field numbers of TensorFlow's messages.
NODE = 1  # GraphDef
NAME, OP, ATTRIBUTE = 1, 2, 5  # NodeDef; attributes are a map
KEY, VALUE = 1, 2  # an entry of a map
TENSOR = 8  # AttrValue
TYPE, SHAPE, CONTENT, FLOATS = 1, 2, 4, 5  # TensorProto: all values as bytes, or floats
DIM, SIZE = 2, 1  # TensorShapeProto; its Dim
FLOAT32 = 1  # a TYPE


def constants(graph: bytes | memoryview) -> dict[str, NDArray[np.float32]]:
    """Every float constant of a frozen TensorFlow graph, by the name of its node. Raises ValueError or IndexError when it is none."""
    found: dict[str, NDArray[np.float32]] = {}
    for field, node in fields(graph):
        if field != NODE:
            continue
        parts = list(fields(message(node)))
        words = {number: str(message(value), "utf-8") for number, value in parts if number in (NAME, OP)}
        if words.get(OP) != "Const":
            continue
        entries = [dict(fields(message(value))) for number, value in parts if number == ATTRIBUTE]
        tensors = [dict(fields(message(e[VALUE]))).get(TENSOR) for e in entries if bytes(message(e[KEY])) == b"value"]
        for tensor in tensors:
            if tensor is not None and (array := _array(message(tensor))) is not None:
                found[words[NAME]] = array
    return found


def _array(tensor: memoryview) -> NDArray[np.float32] | None:
    """A TensorProto of floats; None for one of another type."""
    kind: int | memoryview = 0
    shape: list[int] = []
    values: list[memoryview] = []
    for field, value in fields(tensor):
        if field == TYPE:
            kind = value
        elif field == SHAPE:
            shape = [integers(dict(fields(message(dim))).get(SIZE, 0))[0] for part, dim in fields(message(value)) if part == DIM]
        elif field in (CONTENT, FLOATS):
            values.append(message(value))
    if kind != FLOAT32:
        return None
    array = np.frombuffer(values[0] if len(values) == 1 else b"".join(values), "<f4")
    return np.broadcast_to(array[0], shape) if len(array) == 1 else array.reshape(shape)  # one value may stand for all


class Network(nn.Module):
    """The network after the cepstra. `h1` to `h6` have the names of the graph's matrices; all hidden layers are equally wide."""

    def __init__(self, hidden: int, letters: int) -> None:
        super().__init__()
        self.h1 = nn.Linear((2 * CONTEXT + 1) * CEPSTRA, hidden)
        self.h2 = nn.Linear(hidden, hidden)
        self.h3 = nn.Linear(hidden, 2 * hidden)
        self.ahead = nn.LSTM(2 * hidden, hidden)
        self.back = nn.LSTMCell(2 * hidden, hidden)
        self.h5 = nn.Linear(2 * hidden, hidden)
        self.h6 = nn.Linear(hidden, letters)

    def forward(self, x: Tensor, inside: Tensor, ahead: Pair, block: int) -> tuple[Tensor, Pair]:  # [m,S,494], [m,S] bool -> [m * block,29]
        """Scores of the first `block` steps of each window, and the forward LSTM after them; `inside`: not before or after the sound."""
        for layer in (self.h1, self.h2, self.h3):
            x = layer(x).clamp(0, CLIP)
        forward, ahead = self.ahead(x[:, :block].flatten(0, 1), ahead)  # the blocks follow each other without a gap
        driven = F.linear(x, self.back.weight_ih, self.back.bias_ih + self.back.bias_hh)  # all steps at once: most of the work
        h = c = x.new_zeros(len(x), self.back.hidden_size)
        backward: list[Tensor] = []
        for step in reversed(range(x.shape[1])):
            i, f, new, o = (driven[:, step] + h @ self.back.weight_hh.T).chunk(4, 1)
            c = (f.sigmoid() * c + i.sigmoid() * new.tanh()) * inside[:, step, None]
            h = o.sigmoid() * c.tanh()
            backward.insert(0, h)
        both = torch.cat([forward, torch.stack(backward[:block], 1).flatten(0, 1)], 1)
        return self.h6(self.h5(both).clamp(0, CLIP)), ahead


def from_graph(found: dict[str, NDArray[np.float32]]) -> Network:
    """The network with the constants of Mozilla's graph. Raises KeyError, ValueError or RuntimeError when they are another network's."""
    with torch.device("meta"):  # half a gigabyte: the graph's numbers become the network's own, not copies beside it
        network = Network(found["h1"].shape[1], found["h6"].shape[1])
    state: dict[str, Tensor] = {}
    for number in (1, 2, 3, 5, 6):
        state |= {f"h{number}.weight": torch.tensor(found[f"h{number}"].T), f"h{number}.bias": torch.tensor(found[f"b{number}"])}
    for direction, ours, ending in (("fw", "ahead", "_l0"), ("bw", "back", "")):
        cell = f"bidirectional_rnn/{direction}/basic_lstm_cell"
        names = ("kernel", "bias") if f"{cell}/kernel" in found else ("weights", "biases")  # before TensorFlow 1.2
        kernel, bias = (torch.tensor(found[f"{cell}/{name}"]) for name in names)
        # TensorFlow's gates are input, new, forget, output, and its cell adds 1 to the forget gate; torch's are input, forget, new, output.
        i, j, f, o = kernel.T.chunk(4)
        weight = torch.cat([i, f, j, o])
        i, j, f, o = bias.chunk(4)
        wide = 2 * network.back.hidden_size
        state |= {f"{ours}.weight_ih{ending}": weight[:, :wide].contiguous(), f"{ours}.weight_hh{ending}": weight[:, wide:].contiguous()}
        state |= {f"{ours}.bias_ih{ending}": torch.cat([i, f + 1, j, o]), f"{ours}.bias_hh{ending}": torch.zeros_like(bias)}
    network.load_state_dict(state, assign=True)
    return network


def filterbank() -> Tensor:  # -> [257,26]
    """Triangles equally wide on the mel scale from 0 to 8 kHz, with corners on whole bins of the spectrum and height 1."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    hertz = 700 * (10 ** (torch.linspace(0, top, CEPSTRA + 2, dtype=torch.float64) / 2595) - 1)
    corners = ((FFT + 1) * hertz / RATE).floor()
    low, mid, high = corners[:-2], corners[1:-1], corners[2:]
    at = torch.arange(FFT // 2 + 1)[:, None]
    return torch.minimum((at - low) / (mid - low), (high - at) / (high - mid)).clamp(min=0).float()


def transform() -> Tensor:  # -> [26,26]
    """Log energies of the bands -> cepstra: the orthonormal cosine transform, its middle coefficients lifted."""
    k = torch.arange(CEPSTRA, dtype=torch.float64)
    cosines = torch.cos(math.pi / CEPSTRA * (k[:, None] + 0.5) * k) * math.sqrt(2 / CEPSTRA)
    return (cosines * (1 + LIFTER / 2 * torch.sin(math.pi * k / LIFTER))).float()  # the first column is not used


@dataclass(frozen=True)
class State:
    """Of a stream: samples, and the forward LSTM."""

    stream: Stream
    ahead: Pair


class DeepSpeech:
    """The encoder (see speech.Encoder).

    Args:
        network: its device is where features are made.
        block: steps made at once.
        future: steps that the backward LSTM hears before it comes to a block.
    """

    name = "deepspeech"

    def __init__(self, network: Network, block: int = BLOCK, future: int = FUTURE) -> None:
        self.block, self.future = block, future
        self.lookahead = -(-((block + future + CONTEXT - 2) * STEP + FRAME) // 16)  # ms
        self.network = network.eval().requires_grad_(False)
        self.dim = network.h6.out_features
        self.device = network.h6.weight.device
        self.bank, self.transform = filterbank().to(self.device), transform().to(self.device)

    def start(self) -> State:
        width = 1 + (self.block + self.future + 2 * CONTEXT - 1) * STEP + FRAME  # one sample before the first frame, for the emphasis
        zeros = torch.zeros(1, self.network.back.hidden_size, device=self.device)
        return State(Stream.begin(width, self.block * STEP, CONTEXT * STEP + 1, self.device), (zeros, zeros))

    @torch.no_grad()
    def push(self, samples: Tensor, state: State, last: bool = False) -> tuple[Tensor, State]:  # [n] -> [m,29]
        first, ahead = state.stream.given * self.block, state.ahead
        windows, steps, stream = state.stream.push(samples, last)
        end = first + steps if last else 1 << 60  # number of the first step after the sound
        made = [windows.new_zeros(0, self.dim)]
        for part in windows.split(BATCH) if len(windows) else ():
            place = first + self.block * torch.arange(len(part), device=self.device)[:, None]
            place = place + torch.arange(-CONTEXT, self.block + self.future + CONTEXT, device=self.device)
            inside = (place >= 0) & (place < end)
            # Outside the sound there are zeros in place of cepstra, as in the authors' code, and the LSTMs have not begun or have ended.
            features = (self.cepstra(part) * inside[..., None] - MEAN) / SPREAD
            context = features.unfold(1, 2 * CONTEXT + 1, 1).transpose(2, 3).flatten(2)
            scores, ahead = self.network(context, inside[:, CONTEXT:-CONTEXT], ahead, self.block)
            made.append(scores)
            first += self.block * len(part)
        return torch.cat(made)[:steps], State(stream, ahead)

    def cepstra(self, windows: Tensor) -> Tensor:  # [m,1 + (S - 1) * 320 + 400] -> [m,S,26]
        """Those of python_speech_features with its defaults, of every second of its frames; the first is the log energy."""
        sound = windows * 32768
        frames = (sound[:, 1:] - EMPHASIS * sound[:, :-1]).unfold(1, FRAME, STEP)
        power = torch.fft.rfft(frames, FFT).abs().square() / FFT
        energy = power.sum(-1, keepdim=True).clamp(min=TINY).log()
        return torch.cat([energy, ((power @ self.bank).clamp(min=TINY).log() @ self.transform)[..., 1:]], -1)


def load(device: str | torch.device = "cpu") -> DeepSpeech:
    """Raises InputError when the weights cannot be had or are not those of DeepSpeech 0.1."""
    path = assets.path("deepspeech_0_1")
    try:
        network = from_graph(constants(np.memmap(path, np.uint8, "r").data))
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        cause = f"not the graph of DeepSpeech 0.1 ({' '.join(str(error).split())})"
        raise InputError(path, cause, "run: vivavoce assets fetch deepspeech_0_1 --again") from error
    return DeepSpeech(network.to(device))
