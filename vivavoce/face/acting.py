"""What a user asks of a face beside the words: emotion, gaze, head, blinks; one schema for settings, the page and live use.

Emotions are told as the muscles that make them (Ekman and Friesen, EMFACS 1983: the action units of each prototype), in the 52
blendshapes that stand for those units. They are added to what a face does while it speaks, so any generator of blendshapes can have
them, with no training on actors; the mouth keeps room for the words (`SPEAKING`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vivavoce.face import blendshapes, idle
from vivavoce.face.regions import BLENDSHAPES
from vivavoce.types import InputError

# Both sides of a score alike, by its name without Left or Right. Action units: happy 6 12; sad 1 4 15; angry 4 5 7 23; surprised 1 2 5 26;
# afraid 1 2 4 5 20; disgusted 9 10 15.
EMOTIONS: dict[str, dict[str, float]] = {
    "happy": {"mouthSmile": 0.6, "cheekSquint": 0.5, "eyeSquint": 0.3, "mouthDimple": 0.2},
    "sad": {"browInnerUp": 0.7, "browDown": 0.2, "mouthFrown": 0.5, "mouthShrugLower": 0.2, "eyeSquint": 0.15},
    "angry": {"browDown": 0.8, "eyeSquint": 0.3, "eyeWide": 0.2, "mouthPress": 0.3, "noseSneer": 0.3},
    "surprised": {"browInnerUp": 0.7, "browOuterUp": 0.7, "eyeWide": 0.6, "jawOpen": 0.1},
    "afraid": {"browInnerUp": 0.8, "browOuterUp": 0.3, "browDown": 0.2, "eyeWide": 0.6, "mouthStretch": 0.4},
    "disgusted": {"noseSneer": 0.7, "mouthUpperUp": 0.3, "browDown": 0.3, "mouthFrown": 0.3},
}
SPEAKING = 0.5  # share of an emotion's mouth that stays where the voice moves the mouth at full
BLINK = 0.7  # blink score of shut eyes
FULL = 30.0  # degrees of gaze at which a look's score is 1


@dataclass
class Acting:
    """What is asked for; a method's Config may inherit it. Read whenever a frame is made, so it can change while a face speaks."""

    emotion: str = ""  # happy, sad, angry, surprised, afraid, disgusted
    emotion_amount: float = 1.0  # 0 none, 1 as usual
    gaze_x: float = 0.0  # degrees: + to the person's left
    gaze_y: float = 0.0  # degrees: + up
    head_pitch: float = 0.0  # degrees added to the head's pose, in the order and with the signs of face/pose.py
    head_yaw: float = 0.0  # degrees
    head_roll: float = 0.0  # degrees
    blinks: float = 1.0  # of the usual blinks, how deep

    def living(self, roots: Tensor, rest: Tensor, frame: Tensor, seed: int) -> Tensor:  # [T,52], [52], [T] -> [T,52]
        """Blendshape roots with this seed's blinks; `rest`: roots of the same face at rest, whose lids are the open ones."""
        lids = roots.new_tensor([n.startswith("eyeBlink") for n in BLENDSHAPES])
        shut = (blendshapes.curve(BLINK * lids) - rest).clamp(min=0) * lids
        return roots + self.blinks * idle.blink(frame, seed)[:, None] * shut

    def felt(self, expression: Tensor, spoken: Tensor) -> Tensor:  # [T,52], [T] 0..1 -> [T,52]
        """Scores with emotion and gaze; `spoken`: how far the voice has the mouth. Raises InputError for an emotion that is not there."""
        if self.emotion and self.emotion not in EMOTIONS:
            raise InputError(f"emotion {self.emotion!r}", "there is no such", f"choose from: {', '.join(EMOTIONS)}")
        wanted = torch.zeros(len(BLENDSHAPES))
        for name, amount in EMOTIONS.get(self.emotion, {}).items():
            for side in ("", "Left", "Right"):
                if name + side in BLENDSHAPES:
                    wanted[BLENDSHAPES.index(name + side)] = self.emotion_amount * amount
        mouth = torch.tensor([n.startswith(("jaw", "mouth")) for n in BLENDSHAPES]).to(expression)
        room = 1 - (1 - SPEAKING) * mouth * spoken[:, None]
        expression = expression + wanted.to(expression) * room * (1 - expression)  # what is there already is not added twice
        return (expression + self._looks().to(expression)).clamp(0, 1)

    def facing(self, rotation: Tensor) -> Tensor:  # [T,3] rad -> [T,3] rad
        """The head's pose, turned as asked."""
        asked = [math.radians(v) for v in (self.head_pitch, self.head_yaw, self.head_roll)]
        return rotation + rotation.new_tensor(asked)

    def _looks(self) -> Tensor:  # [52]
        """Both eyes to one side: the left eye's out is the right eye's in."""
        across, up = self.gaze_x / FULL, self.gaze_y / FULL
        looks = {"eyeLookOutLeft": across, "eyeLookInRight": across, "eyeLookInLeft": -across, "eyeLookOutRight": -across}
        looks |= {f"eyeLook{way}{side}": v for way, v in (("Up", up), ("Down", -up)) for side in ("Left", "Right")}
        return torch.tensor([max(0.0, looks.get(n, 0.0)) for n in BLENDSHAPES])
