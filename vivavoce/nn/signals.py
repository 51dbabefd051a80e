"""What is known of one person before the first picture is drawn: rows that statistics are made of, what is head in them, and what
speech does to the mouth. The same for every family of methods of one person.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vivavoce.face import points as face_points
from vivavoce.face import regions
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.silence import Silence, not_speech
from vivavoce.render.layers import grow
from vivavoce.types import Camera, Source

HEAD = (regions.HEAD, regions.HAIR, regions.INNER_MOUTH, regions.TEETH)  # classes of a picture that belong to the head
SETUP = frozenset({"camera", "frames", "labels", "torso", "background", "body"})  # fields that a head is begun from
SURE = 1500  # rows of which statistics are made
PRETTY = 24  # rows of which the first colours are made
NEAR = 8  # of them nearest to the mean pose make the torso
OUTLINE = 3  # px at 512 on each side of the head's outline, where labels do not say how much of it is seen


def settled(head: Tensor) -> Tensor:  # [T,H,W] of 0 and 1 -> [T,H,W]
    """1 where the labels can be believed, 0 within `OUTLINE` of the head's outline: there they waver, and hair ends softly."""
    pixels = OUTLINE * head.shape[1] // 512
    return (grow(head, pixels) == grow(head, -pixels)).to(head)


class Signals(NamedTuple):
    """What is known of training rows spread over the source, before a first picture is drawn."""

    camera: Camera
    speech: Tensor  # [T,W,D]
    landmarks: Tensor  # [T,68,2] px
    audio: Tensor  # [T,640]
    encoder: str  # that made `speech`, "" where nobody says
    frames: int  # numbers of frames lie below this


def signals(source: Source) -> Signals:
    """Of so many rows that statistics are sure."""
    rows = torch.linspace(0, len(source) - 1, min(len(source), SURE)).long()
    every = source.clip(rows, {"camera", "speech", "landmarks", "audio"})
    assert every.camera is not None and every.speech is not None and every.landmarks is not None and every.audio is not None
    frames = int(every.index.max()) + 1 if every.index is not None else 0
    return Signals(every.camera, every.speech, every.landmarks, every.audio, getattr(source, "speech", ""), frames)


def listen(every: Signals, audio: SpeechCode, silence: Silence, warm: int) -> None:
    """`audio` gets its statistics, and `warm` steps in which it learns what speech does to the mouth; `silence`, when nobody speaks."""
    audio.fit(every.speech)
    audio.learn(every.speech, face_points.mouth_shapes(every.landmarks), warm)
    before = audio.training
    codes = audio.eval()(every.speech)
    audio.train(before)
    silence.fit(every.speech, every.audio, every.landmarks, codes, not_speech(every.encoder) if every.encoder else None)
