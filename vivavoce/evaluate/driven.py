"""The motion that a generator makes of a person's sound, for a renderer to draw: faces are heard then, and not told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vivavoce.data.person import Person
from vivavoce.evaluate.subject import Subject
from vivavoce.types import Clip, Motion

ROWS = 8  # of speech at once: a row of dit_motion's holds seconds of it


class Driven:
    """Expressions of the first `count` rows of a split, from its sound alone; begun anew where frames do not follow one another.

    Raises InputError where the folder lacks the speech features that the generator hears.
    """

    def __init__(self, driver: Subject, folder: Path, split: str, count: int, device: str) -> None:
        generator = driver.drives(device)
        speech = str(driver.about.get("speech") or generator.speech or "whisper")
        person = Person(folder, split=split, speech=speech, window=generator.window, device=device)
        portrays = generator.space == "blendshapes"  # such motion begins from the face of the first row, as in Talker
        made = []
        with torch.no_grad():
            for begin, length in person.spans.tolist():
                state = generator.start(person.clip([0], {"units"}) if portrays else Clip())
                for at in range(begin, min(begin + length, count), ROWS):
                    clip = person.clip(range(at, min(at + ROWS, begin + length, count)), {"speech"})
                    motion, state = generator.generate(clip, state)
                    made.append(motion.expression)
        self.expression: Tensor = torch.cat(made)  # [count,E]

    def __call__(self, motion: Motion, at: int) -> Motion:
        """The motion of the rows from `at` on, with the head's pose as it is and the expression as made."""
        rows = self.expression[at : at + len(motion)]
        return replace(motion, expression=rows.to(motion.expression))
