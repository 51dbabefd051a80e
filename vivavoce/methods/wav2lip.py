"""Wav2Lip: the mouth of any film drawn anew to another sound; pose, eyes and everything else stay as they are.

Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild" (ACM MM 2020, arXiv 2008.10010). A U-Net
fills in the lower half of a 96 px face from the sound and another picture of the same face. It learns by L1, by a frozen lip expert
(`--expert RUN`, trained as `lip_expert`, or the authors' file) whose say begins when its loss has fallen below 0.75, and in the preset
`gan` by a discriminator of lower halves. The authors' `wav2lip.pth` and `wav2lip_gan.pth` load and give the authors' output.

Different, and why:
* The authors train frame t on the sound that begins one frame earlier and dub with the sound that begins with it, so their films are
  one frame early; here both begin one frame earlier, which also costs 40 ms less delay.
* Their expert's weight is 0.01 without the discriminator in the code, 0.03 in the paper; 0.03 is taken for both.
* The gate looks at the running mean over the training steps, not at an evaluation every 3000 steps.
* Faces are cut by `face/box.py`, whose box does not grow with the mouth; the authors' follows the chin.
* Only the lower half goes back into the picture, with a soft edge; the authors put back the whole square with a hard one.
* 192 and 384 px: one and two stages more than published, trained like it; the expert sees them at 96 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, distributed

from vivavoce import assets
from vivavoce.face.box import face_box, fill
from vivavoce.face.crop import crop, paste
from vivavoce.method import Renderer
from vivavoce.nn import moments
from vivavoce.nn.lip_expert import LipExpert, expert_of, lips, sync_loss
from vivavoce.nn.wav2lip import Discriminator, Generator, disbelief, masked
from vivavoce.registry import register
from vivavoce.speech.mel_wav2lip import columns
from vivavoce.types import Clip, Source

MEMORY = 0.98  # of the running mean that opens the gate
SEAM, EDGE = 0.12, 0.08  # of the crop's side: over which the lower half fades into the upper, and into what lies around


@dataclass
class Config:
    """Settings of wav2lip."""

    steps: int = 60_000  # training steps
    batch: int = 4  # windows a step
    window_rows: int = 20  # consecutive rows a window: four moments of five
    side: int = 96  # px of the face crops: 96, 192 or 384
    share: float = 1.0  # of the published channels; 1 is the published network
    size: int = 0  # longest side of the frames that faces are cut out of, px; 0: as they are
    rate: float = 1e-4  # of Adam
    expert: str = ""  # run folder of lip_expert, or the authors' lipsync_expert.pth; "": none
    sync: float = 0.03  # weight of the expert, once its gate is open
    gate: float = 0.75  # loss of the expert below which it opens
    gan: float = 0.0  # weight of the discriminator; 0: none
    speech_dim: int = 640  # features a step of mel_wav2lip
    seed: int = 0  # of everything random


class Drawn(NamedTuple):
    """Of the moments of a step."""

    losses: dict[str, Tensor]
    made: Tensor  # [n*5,3,S,S] blue green red
    true: Tensor  # [n*5,3,S,S]
    apart: Tensor  # loss of the expert, whatever its weight


@register(
    family="dubbing",
    paper="A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild, ACM MM 2020, arXiv 2008.10010",
    origin="https://github.com/Rudrabha/Wav2Lip",
    license="none stated; weights trained on LRS2, research only (not used: written from the paper's facts)",
)
class Wav2Lip(Renderer):
    """See the module. Rows whose landmarks are NaN, where the face was not found, go through as they are."""

    needs = frozenset({"frames", "landmarks", "speech"})
    speech = "mel_wav2lip"
    window = (2, 0)  # the sound from one frame earlier on
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gan": {"gan": 0.07},
        "high": {"side": 192},
        "high_gan": {"side": 192, "gan": 0.07},
        "small": {"share": 0.25, "steps": 3000},
        "tiny": {"side": 24, "share": 0.06, "batch": 1, "window_rows": 10, "steps": 6, "rate": 2e-3},
    }
    config: Config
    opened: Tensor
    recent: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = Generator(config.side, config.share)
        self.judge = Discriminator(config.share) if config.gan else None
        self.register_buffer("opened", torch.zeros(()))  # 1 from when the expert has a say
        self.register_buffer("recent", torch.full((), 2.0))  # running mean of its loss
        self._expert: list[LipExpert] = []  # not a part of this network: it is neither trained nor saved with it

    def setup(self, source: Source) -> None:
        """Raises InputError at once when there is no such expert."""
        if self.config.expert:
            expert_of(self.config.expert)

    def _mouths(self, clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
        """Face crops [T,3,S,S] blue green red, mel [T,1,80,16], and rows with a face [T]."""
        assert clip.frames is not None and clip.landmarks is not None and clip.speech is not None
        places = torch.nan_to_num(face_box(clip.landmarks))
        return crop(clip.frames, fill(places, self.config.side)).flip(1), columns(clip.speech), moments.seen(clip)

    def _draw(self, clip: Clip) -> Drawn:
        c = self.config
        faces, mel, known = self._mouths(clip)
        first = moments.starts(len(clip), c.window_rows)
        rows, other = (moments.rows(f).to(faces.device) for f in (first, moments.others(first)))
        whole = (known[rows] & known[other]).all(1)  # moments in which no face was lost, [n]
        true, reference = faces[rows].flatten(0, 1), faces[other].flatten(0, 1)
        made = self.net(mel[rows.flatten()], torch.cat([masked(true), reference], 1)).float()
        weight = whole.repeat_interleave(moments.FRAMES).float()
        made = torch.where(weight[:, None, None, None] > 0, made, true)
        difference = (made - true).abs().mean((1, 2, 3)).sum() / weight.sum().clamp(min=1)
        apart = made.new_zeros(())
        if c.expert:
            mouths = lips(made.unflatten(0, rows.shape).flip(2))
            apart = sync_loss(self._ask(mel[rows[:, 1]], mouths).where(whole, 1.0), torch.ones_like(whole))
        said = c.sync * self.opened if c.expert else self.opened.new_zeros(())
        losses = {"picture": (1 - said - c.gan) * difference}
        if c.expert:
            losses["sync"] = said * apart
        if self.judge is not None:
            losses["fooled"] = c.gan * disbelief(self.judge(made), True)
        return Drawn(losses, made, true, apart.detach())

    def _ask(self, mel: Tensor, mouths: Tensor) -> Tensor:  # -> [n]
        """What the expert says; the sound of a moment begins with it, which is what the second of its rows hears."""
        if not self._expert:
            self._expert.append(expert_of(self.config.expert, mouths.device))
        return self._expert[0].agreement(mel, mouths)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        """L1 of the whole crop, the expert's and the discriminator's say, each with its weight; the three weights add up to one."""
        return self._draw(clip).losses

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator, and for the discriminator where there is one (then with momentum 0.5)."""
        betas = (0.9, 0.999) if self.judge is None else (0.5, 0.999)
        nets = [self.net] if self.judge is None else [self.net, self.judge]
        return [torch.optim.Adam(net.parameters(), lr=self.config.rate, betas=betas) for net in nets]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """The generator's step, then the discriminator's on the same pictures. `apart` is the expert's loss before its weight."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        drawn = self._draw(clip)
        torch.stack(list(drawn.losses.values())).sum().backward()
        optimizers[0].step()
        told = {name: value.detach() for name, value in drawn.losses.items()}
        if self.config.expert:
            self._watch(drawn.apart)
            told["apart"] = drawn.apart
        if self.judge is not None:
            optimizers[1].zero_grad(set_to_none=True)
            doubt = disbelief(self.judge(drawn.true), True) + disbelief(self.judge(drawn.made.detach()), False)
            doubt.backward()
            optimizers[1].step()
            told["judged"] = doubt.detach()
        return told

    @torch.no_grad()
    def _watch(self, apart: Tensor) -> None:
        """Opens the expert's gate for good once the running mean of its loss lies below the threshold; the same in every process."""
        apart = apart.clone()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(apart)
            apart /= distributed.get_world_size()
        self.recent.lerp_(apart.to(self.recent), 1 - MEMORY)
        self.opened.copy_(torch.maximum(self.opened, (self.recent < self.config.gate).to(self.opened)))

    def render(self, identity: None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """The frames of `clip` with another mouth; the reference is the frame itself, as the authors dub."""
        assert clip.frames is not None and clip.landmarks is not None
        known = moments.seen(clip)
        if not bool(known.any()):
            return clip.frames.clone()
        some = clip[known.nonzero()[:, 0].cpu()] if not bool(known.all()) else clip
        assert some.frames is not None and some.landmarks is not None
        faces, mel, _ = self._mouths(some)
        made = self.net(mel, torch.cat([masked(faces), faces], 1)).float().flip(1)
        where = fill(face_box(some.landmarks), self.config.side)
        drawn = torch.cat([
            paste(some.frames[t : t + 1], made[t : t + 1], where[t : t + 1], lower_half(self.config.side)) for t in range(len(some))
        ])  # fmt: skip
        out = clip.frames.clone()
        out[known] = drawn.clamp(0, 1)
        return out

    @classmethod
    def from_authors(cls, state_dict: dict[str, Tensor]) -> Wav2Lip:
        """From `wav2lip.pth` or `wav2lip_gan.pth`. Raises InputError for another file."""
        method = cls(replace(Config(), expert=""))
        method.net = Generator.from_authors(state_dict)
        return method.eval()

    @classmethod
    def shipped(cls, seed: int = 0) -> Wav2Lip:
        """With the authors' weights where the user has them (catalogue: wav2lip_gan). Raises InputError saying where they are."""
        return cls.from_authors(assets.state_dict("wav2lip_gan"))


def lower_half(side: int) -> Tensor:  # -> [1,1,S,S]
    """How much of a crop goes back into its picture: the lower half, fading upwards and towards its sides and bottom."""
    at = (torch.arange(side) + 0.5) / side
    down = ((at - 0.5 + SEAM / 2) / SEAM).clamp(0, 1) * ((1 - at) / EDGE).clamp(0, 1)
    across = (torch.minimum(at, 1 - at) / EDGE).clamp(0, 1)
    t = down[:, None] * across
    return (t * t * (3 - 2 * t))[None, None]
