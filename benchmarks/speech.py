"""Seconds a minute of sound takes each speech encoder, its peak memory, and how soon it answers live.

    python benchmarks/speech.py [--encoders whisper hubert] [--seconds 60] [--device cuda] [--threads 2] [--out table.csv]

Where an encoder's weights are not on this machine, a network of the same size with random weights stands in: it takes as long.
`--file` measures on a recording instead of noise. Each encoder runs in a process of its own. `live_share` is the
time that the pushes of a live stream take against that of the sound: above 1 it falls behind. With one thread on a CPU, processor
time is measured (a busy machine does not count), else wall time.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vivavoce import speech
from vivavoce.media import audio
from vivavoce.speech import deepspeech, wav2vec2
from vivavoce.types import FPS, HOP, RATE, InputError

CHUNK = 10 * FPS * HOP  # samples pushed at once, as `prepare` does


def sized(name: str, device: str) -> tuple[speech.Encoder, bool]:
    """The encoder, and whether its weights are the real ones."""
    try:
        return speech.load(name, device), True
    except InputError:
        pass
    if name == "deepspeech":
        return deepspeech.DeepSpeech(deepspeech.Network(2048, 29).to(device)), False
    import transformers

    large = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    sizes: dict[str, Any] = {} if name == "wav2vec2" else dict(large, do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)
    known = wav2vec2.MODELS[name]
    kind = transformers.Wav2Vec2ForCTC if known.scores else transformers.Wav2Vec2Model
    if name == "hubert":
        network = transformers.HubertModel(transformers.HubertConfig(**sizes))
    else:
        network = kind(transformers.Wav2Vec2Config(**sizes))
    return wav2vec2.Wav2Vec2(network.to(device), name, known.past, known.block, known.future), False


def measure(name: str, device: str, seconds: float, threads: int, file: Path | None) -> dict[str, Any]:
    """One encoder on so many seconds, in chunks of ten as `prepare` pushes them."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 and device == "cpu" else time.perf_counter
    sound = audio(file)[: int(seconds * RATE)] if file else 0.1 * torch.randn(int(seconds * RATE))
    encoder, real = sized(name, device)
    encoder.push(sound[: 2 * RATE], encoder.start())  # kernels are chosen
    state, steps, begun = encoder.start(), 0, clock()
    for chunk in sound.split(CHUNK):
        made, state = encoder.push(chunk, state)
        steps += len(made.cpu())
    steps += len(encoder.push(sound[:0], state, last=True)[0].cpu())
    taken = clock() - begun
    state, live = encoder.start(), []
    for chunk in sound[: 5 * RATE].split(HOP):
        begun = clock()
        made, state = encoder.push(chunk, state)
        if len(made.cpu()):
            live.append((clock() - begun, len(made)))
    share = sum(t for t, _ in live[1:]) / sum(n for _, n in live[1:]) / 0.02
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"encoder": name, "weights": "real" if real else "random", "numbers": encoder.dim, "looks_ahead_ms": encoder.lookahead}
    return row | {"s_per_minute": round(taken * 60 * RATE / len(sound), 2), "live_share": round(share, 3), "peak_mb": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="*", default=speech.names())
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--file", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.one:
        print(json.dumps(measure(o.one, o.device, o.seconds, o.threads, o.file)))
        return
    rows = []
    for name in o.encoders:
        done = subprocess.run([sys.executable, *sys.argv, "--one", name], stdout=subprocess.PIPE, check=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    if o.out:
        with o.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
