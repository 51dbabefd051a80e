"""Beat alignment: does the head move to the rhythm of the voice? (as SadTalker's and DAWN's tables have it)

Beats of the motion are the local minima of the head's speed, smoothed; those of the sound are onsets: local maxima of the rise of
the spectrum. The reference takes librosa's beat tracker for the second, so figures compare within this package alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vivavoce.metrics.checked import checked
from vivavoce.types import HOP

SIGMA = 5.0  # frames, of the smoothing of the speed
WIDTH = 3.0  # frames, of the bell in which beats count as together
STRONG = 1.0  # standard deviations above the mean that an onset stands out


def motion_beats(rotation: Tensor) -> Tensor:  # [T,3] rad -> [B] frames
    """Frames in which the head is slowest between two movements."""
    checked("beat alignment", rotation, least=3)
    speed = rotation.double().diff(dim=0).norm(dim=1)
    reach = int(4 * SIGMA + 0.5)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.double) / SIGMA) ** 2)
    index = torch.arange(-reach, len(speed) + reach)
    folded = index % (2 * len(speed))  # mirrored at both ends: d c b a | a b c d | d c b a
    padded = speed[torch.where(folded < len(speed), folded, 2 * len(speed) - 1 - folded)]
    smooth = functional.conv1d(padded[None, None], (bell / bell.sum())[None, None])[0, 0]
    inner = (smooth[1:-1] < smooth[:-2]) & (smooth[1:-1] < smooth[2:])
    return inner.nonzero()[:, 0] + 1


def sound_beats(audio: Tensor) -> Tensor:  # [N] at 16 kHz -> [B] frames
    """Frames in which a syllable sets in."""
    checked("beat alignment", audio, least=2 * HOP)
    window = torch.hann_window(2 * HOP, dtype=torch.double)
    spectrum = torch.stft(audio.double(), 2 * HOP, HOP, window=window, return_complex=True).abs()
    rise = torch.log1p(100 * spectrum / spectrum.max().clamp(min=1e-9)).diff(dim=1).clamp(min=0).mean(0)
    peak = (rise[1:-1] > rise[:-2]) & (rise[1:-1] >= rise[2:]) & (rise[1:-1] > rise.mean() + STRONG * rise.std())
    return peak.nonzero()[:, 0] + 2


def beat_alignment(first: Tensor, second: Tensor) -> float:  # [A], [B] frames -> 0..1
    """Mean over `first` of exp(-d^2 / (2 WIDTH^2)), d: frames to the nearest of `second`. NaN where either has none."""
    if not len(first) or not len(second):
        return float("nan")
    apart = (first[:, None] - second).abs().min(1).values.double()
    return float(torch.exp(-(apart**2) / (2 * WIDTH**2)).mean())
