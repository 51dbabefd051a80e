"""EGSTalker: a head of 3-D Gaussians that speech moves through agent attention (SMC 2025, arXiv 2510.08587).

Of the paper: canonical Gaussians started from the tracked mesh, dense planes (K-planes) as their features, the four tokens
speech, eyes, camera and "nothing" through Taylor-KAN layers, agent attention from Gaussians to tokens, offsets of place,
shape, opacity and colour, a static stage and a moving stage.
Different, and why: the agents are Gaussians spread over the head, not the first of the list, so every region has one; the
attention's weights do not depend on the frame, so a trained head keeps them and a frame costs one small matrix product; each
Gaussian has free features beside the planes' (EmbedTalk, 2026); torso and background are learned with the head instead of
copied from the frame that is asked for; the deformation is bounded, so nothing flies away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vivavoce import losses
from vivavoce.face import mesh as face_mesh
from vivavoce.face import points as face_points
from vivavoce.face import regions
from vivavoce.method import Renderer
from vivavoce.nn.attention import AgentAttention, spread
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.gaussians import Gaussians
from vivavoce.nn.kan import kan
from vivavoce.nn.planes import Planes
from vivavoce.nn.torso import Torso
from vivavoce.registry import register
from vivavoce.render import splats
from vivavoce.types import Camera, Clip, Source


@dataclass
class Config:
    """Settings of egs_talker."""

    steps: int = 3000  # training steps
    coarse: int = 400  # of them with a head that does not move, before speech joins
    batch: int = 8  # rows a step
    warm: int = 500  # steps in which the speech net learns mouth shapes from the landmarks, before the first picture
    size: int = 512  # longest side of the training images, px
    points: int = 24_000  # Gaussians at the start
    most: int = 40_000  # Gaussians at most
    grow_every: int = 150  # steps between two rounds of splitting and dropping
    grow_until: float = 0.5  # share of the steps after which the set stays as it is
    grow_share: float = 0.08  # of the Gaussians split a round
    planes: tuple[int, ...] = (32, 64, 128)  # cells of the feature planes, one number a level
    channels: int = 16  # features of a plane
    embedding: int = 16  # free features of each Gaussian
    width: int = 64  # features of a Gaussian and of a token
    hidden: int = 64  # of the deformation decoder
    agents: int = 64  # Gaussians that listen for the others
    reach: float = 0.03  # metres a Gaussian can move from its place
    dropout: float = 0.2  # of speech features, while training
    noise: float = 0.15  # standard deviations added to the head's pose (not to the camera), while training
    rate: float = 1e-3  # of the networks; the other rates keep their ratio to it
    lips: float = 1.0  # weight of the mouth's box in the loss
    structure: float = 0.2  # weight of (1 - SSIM) / 2 in the loss
    mask: float = 0.1  # weight of the head's outline in the loss
    flow_cells: int = 12  # of the torso's flow along each side
    seed: int = 0  # of everything random


HEAD = (regions.HEAD, regions.HAIR, regions.INNER_MOUTH, regions.TEETH)  # classes the Gaussians draw
SETUP = frozenset({"camera", "frames", "labels", "torso", "background", "body"})


class Heard(NamedTuple):
    """The parts of the deformation that depend on no frame."""

    agents: Tensor  # [A,D] features of the agents
    own: Tensor  # [N,hidden] each Gaussian's part of the decoder's first layer
    weights: Tensor  # [N,A] how much each Gaussian listens to each agent


class Moved(NamedTuple):
    """The Gaussians of T rows."""

    means: Tensor  # [T,N,3] metres
    quaternions: Tensor  # [T,N,4]
    scales: Tensor  # [T,N,3] metres
    opacities: Tensor  # [T,N]
    colours: Tensor  # [T,N,3]
    offsets: Tensor | None  # [T,N,14] before the bounds


def pose_code(camera: Camera, center: Tensor) -> Tensor:  # T rows, [3,3] -> [T,6]
    """Small turn of the head away from `center` (axis times sine, rad) and its place before the camera (metres)."""
    turn = camera.pose[:, :3, :3] @ center.t()
    axis = torch.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], 1) / 2
    place = -(camera.pose[:, :3, :3].transpose(1, 2) @ camera.pose[:, :3, 3:])[..., 0]
    return torch.cat([axis, place], 1)


@register(
    family="gaussian",
    paper="EGSTalker: Real-Time Audio-Driven Talking Head Generation with Efficient Gaussian Deformation, arXiv 2510.08587",
    origin="https://github.com/ZhuTianheng/EGSTalker",
    license="none stated (not used: written from the paper's facts)",
)
class EgsTalker(Renderer):
    """One person's head as Gaussians that speech, eyes and camera move, over a learned torso and background."""

    needs: ClassVar[frozenset[str]] = frozenset({"camera", "speech", "eyes", "body"})
    loss_needs: ClassVar[frozenset[str]] = frozenset({"frames", "labels", "mouth"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            steps=24, coarse=4, batch=2, size=48, points=300, most=400, grow_every=6, planes=(8, 16), channels=4, embedding=4,
            width=16, hidden=16, agents=8, flow_cells=4, rate=3e-3, warm=60,
        ),
        "cpu": dict(steps=3500, coarse=250, batch=4, size=256, points=7_000, most=10_000, planes=(32, 64), agents=48, grow_every=90),
        "small": dict(steps=2000, coarse=300, batch=8, size=256, points=10_000, most=16_000),
        "full": {},
    }  # fmt: skip
    speech = "whisper"
    window = (16, 8)

    size: Tensor
    focal: Tensor
    pose_mean: Tensor
    pose_deviation: Tensor
    pose_center: Tensor
    agents: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._build(config.points, 8, (config.size, config.size))

    def _build(self, count: int, speech: int, size: tuple[int, int]) -> None:
        """The parts, for so many Gaussians, features of speech and pixels; a checkpoint decides them when one is loaded."""
        c: Config = self.config
        self.gaussians = Gaussians(count, c.embedding)
        self.planes = Planes(resolutions=tuple(c.planes), channels=c.channels)
        self.feature = nn.Sequential(nn.Linear(self.planes.width + 27 + c.embedding, c.width), nn.LayerNorm(c.width))
        self.audio = SpeechCode(speech, sum(self.window), c.width, dropout=c.dropout)
        self.token_audio = kan(c.width, c.width, c.width)
        self.token_eyes = kan(2, c.width, c.width)
        self.token_camera = kan(6, c.width, c.width)
        self.token_nothing = nn.Parameter(torch.randn(c.width) * 0.1)
        self.token_norm = nn.LayerNorm(c.width)  # else speech starts a hundred times weaker than a Gaussian's own features
        self.attention = AgentAttention(c.width)
        self.hear = nn.Linear(c.width, c.hidden)
        self.deform = nn.Linear(c.hidden, 14)
        nn.init.normal_(self.deform.weight, std=2e-3)
        nn.init.zeros_(self.deform.bias)
        self.torso = Torso(size, 6, c.flow_cells)
        self.register_buffer("size", torch.tensor(size))
        self.register_buffer("focal", torch.tensor(float(size[0])))  # px, of the training images
        self.register_buffer("pose_mean", torch.zeros(6))
        self.register_buffer("pose_deviation", torch.ones(6))
        self.register_buffer("pose_center", torch.eye(3))
        self.register_buffer("agents", torch.zeros(min(c.agents, count), dtype=torch.long))

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As torch's, with as many Gaussians, speech features and pixels as the checkpoint has."""
        device = self.size.device
        size = tuple(state_dict["torso.picture"].shape[1:])
        self._build(len(state_dict["gaussians.means"]), len(state_dict["audio.mean"]), size)
        self.to(device)
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def setup(self, source: Source) -> None:
        """Gaussians over the tracked head, coloured from a few frames; torso, background and statistics of the signals."""
        rows = torch.linspace(0, len(source) - 1, min(len(source), 1500)).long()
        every = source.clip(rows, {"camera", "speech", "landmarks"})
        some = source.clip(torch.linspace(0, len(source) - 1, min(len(source), 24)).long(), SETUP)
        assert every.camera is not None and every.speech is not None and every.landmarks is not None and some.camera is not None
        assert some.body is not None and some.frames is not None and some.labels is not None
        assert some.torso is not None and some.background is not None
        self._build(self.config.points, every.speech.shape[2], source.size)
        self.audio.fit(every.speech)
        self.audio.learn(every.speech, face_points.mouth_shapes(every.landmarks), self.config.warm)
        u, _, v = torch.linalg.svd(every.camera.pose[:, :3, :3].mean(0))
        self.pose_center.copy_(u @ v)
        self.focal.copy_(every.camera.focal[0, 0])
        raw = pose_code(every.camera, self.pose_center)
        self.pose_mean.copy_(raw.mean(0))
        self.pose_deviation.copy_(raw.std(0).clamp_min(1e-3))
        near = self.code(some.camera).square().sum(1).argsort()[:8]  # rows in which the head is nearest to its mean pose
        head = torch.isin(some.labels, torch.tensor(HEAD))
        triangles, lips = torch.from_numpy(face_mesh.triangles()), torch.tensor(regions.LIPS_INNER)
        mesh: Tensor = source.mesh  # type: ignore[attr-defined]
        seeds = face_points.head_points(mesh, triangles, lips, some.camera[near[:1]], head[near[0]], self.config.points)
        colours = face_points.colours_of(seeds.means, some.camera, some.frames)
        colours[seeds.part == 2] = torch.tensor([0.35, 0.18, 0.17])  # the mouth's inside, unseen in the mean picture
        if len(seeds.means) != self.config.points:  # a head without a pixel beside the mesh has no shell
            self.gaussians = Gaussians(len(seeds.means), self.config.embedding)
        self.gaussians.start(seeds.means, colours, (seeds.spacing * 0.75).clamp(2e-4, 8e-3))
        margin = 0.1 * (seeds.means.amax(0) - seeds.means.amin(0))
        self.planes.low.copy_(seeds.means.amin(0) - margin)
        self.planes.high.copy_(seeds.means.amax(0) + margin)
        self.agents = spread(seeds.means, self.config.agents)
        self.torso.start(some.torso[near], some.body[near], some.background[0])

    def code(self, camera: Camera) -> Tensor:  # T rows -> [T,6]
        """The head's pose in standard deviations of the training rows, no farther than three: nobody trained beyond."""
        return ((pose_code(camera, self.pose_center) - self.pose_mean) / self.pose_deviation).clamp(-3, 3)

    def encode(self, source: Clip | None = None) -> Heard:
        """All that no frame changes: what each Gaussian is like and which agents it listens to."""
        g = self.gaussians
        place = (g.means - self.planes.low) / (self.planes.high - self.planes.low) * 2 - 1
        waves = torch.cat([place * torch.pi / 2 * 2**k for k in range(4)], 1)  # smooth from the first step on, unlike new planes
        features = self.feature(torch.cat([8 * self.planes(g.means), place, waves.sin(), waves.cos(), g.embeddings], 1))
        agents = features[self.agents]
        return Heard(agents, self.hear(features), self.attention.weights(features, agents))

    def _offsets(self, heard: Heard, clip: Clip, code: Tensor) -> Tensor:  # -> [T,N,14]
        """Change of every Gaussian in every row: place 3, shape 3, turn 4, opacity 1, colour 3."""
        assert clip.speech is not None and clip.eyes is not None
        said = self.token_audio(self.audio(clip.speech))
        tokens = [said, self.token_eyes(clip.eyes * 2 - 1), self.token_camera(code), self.token_nothing.expand_as(said)]
        values = self.attention.values(heard.agents, self.token_norm(torch.stack(tokens, 1)))  # [T,A,D]
        return self.deform(torch.relu(heard.own + heard.weights @ (values @ self.hear.weight.t())))

    def moved(self, heard: Heard | None, clip: Clip, code: Tensor) -> Moved:
        """The Gaussians of every row, as the splats want them; without `heard` the head does not move."""
        g, rows = self.gaussians, len(code)
        parts = (p.expand(rows, *p.shape) for p in (g.means, g.quaternions, g.log_scales, g.logits, g.colours))
        means, turns, scales, logits, colours = parts
        offsets = None
        if heard is not None:
            offsets = self._offsets(heard, clip, code)
            place, shape, turn, opacity, colour = offsets.split((3, 3, 4, 1, 3), dim=2)
            means = means + torch.tanh(place) * self.config.reach
            scales, turns = scales + 0.5 * torch.tanh(shape), turns + 0.5 * torch.tanh(turn)
            logits, colours = logits + 4 * torch.tanh(opacity[..., 0]), colours + 0.5 * torch.tanh(colour)
        return Moved(means, turns, scales.exp(), logits.sigmoid(), colours, offsets)

    def _draw(self, clip: Clip, heard: Heard | None, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Frames [T,3,H,W], alpha of the head [T,H,W], the torso's flow, and the offsets (None: a head that does not move)."""
        assert clip.camera is not None and clip.body is not None
        code = self.code(clip.camera)
        if self.training:  # a pose known exactly is the number of its frame, and the frame is learned by heart
            code = code + self.config.noise * torch.randn_like(code)
        behind, flow = self.torso(code, clip.body, size)
        head = self.moved(heard, clip, code)
        drawn = splats.render(*head[:5], clip.camera, size)
        return drawn.image + (1 - drawn.alpha[:, None]) * behind, drawn.alpha, flow, head.offsets

    def render(self, identity: Heard | None, clip: Clip) -> Tensor:  # -> [T,3,H,W] in [0, 1]
        """Frames as large as the cameras' focal length says: twice that of training gives twice its height and width."""
        assert clip.camera is not None
        zoom, (x, y) = float(clip.camera.focal[0, 0]) / float(self.focal), clip.camera.center[0].tolist()
        height, width = self.size.tolist()
        near = zip((height * zoom, width * zoom), (2 * y, 2 * x), strict=True)  # a centred camera knows the last pixel too
        rows, columns = (round(middle if abs(middle - scaled) < 2 else scaled) for scaled, middle in near)
        return self._draw(clip, identity if identity is not None else self.encode(), (rows, columns))[0].clamp(0, 1)

    def loss(self, clip: Clip) -> dict[str, Tensor]:
        return self._losses(clip, moving=True)

    def _losses(self, clip: Clip, moving: bool) -> dict[str, Tensor]:
        c: Config = self.config
        assert clip.frames is not None and clip.labels is not None and clip.mouth is not None
        target, size = clip.frames, (clip.frames.shape[2], clip.frames.shape[3])
        frames, alpha, flow, offsets = self._draw(clip, self.encode() if moving else None, size)
        head = torch.isin(clip.labels, torch.tensor(HEAD, device=clip.labels.device))
        mouth = losses.boxes(clip.mouth, size)
        still = offsets[..., :11].abs().mean() if offsets is not None else alpha.new_zeros(())
        return {
            "colour": losses.l1(frames, target) + 10 * (frames - target).square().mean(),
            "lips": c.lips * losses.l1(frames, target, mouth),
            "structure": c.structure * losses.dssim(frames, target, 8, 0, 4),
            "mask": c.mask * (alpha - head.to(alpha)).abs().mean(),
            "smooth": 1e-2 * losses.bending(flow) + 1e-3 * self.planes.variation() + 1e-4 * still,
        }

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """One Adam; the rates of places, shapes and pictures are those of the Gaussian-splatting family, in metres."""
        g, rate = self.gaussians, self.config.rate
        groups: list[tuple[list[nn.Parameter], float]] = [
            ([g.means], 0.05), ([g.quaternions], 1), ([g.log_scales], 5), ([g.logits], 30), ([g.colours], 5), ([g.embeddings], 5),
            (list(self.planes.parameters()), 5), ([self.torso.picture], 2), ([self.torso.plate], 1),
        ]  # fmt: skip
        named = {id(p) for parameters, _ in groups for p in parameters}
        groups.append(([p for p in self.parameters() if id(p) not in named], 1))
        entries = [{"params": p, "lr": rate * factor, "base": rate * factor} for p, factor in groups]
        return [torch.optim.Adam(entries, eps=1e-15, fused=True)]

    def update(self, clip: Clip, step: int, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step: a still head first, then the moving one; Gaussians split and dropped now and then."""
        c: Config = self.config
        values = self._losses(clip, moving=step >= c.coarse)
        optimizer = optimizers[0]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * 0.05 ** (step / max(c.steps, 1))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(values.values())).sum().backward()
        self.gaussians.watch()
        optimizer.step()
        if step and step % c.grow_every == 0 and step < c.grow_until * c.steps:
            self.gaussians.control(optimizer, c.grow_share, c.most)
            self.agents = spread(self.gaussians.means.detach(), c.agents)
        return {name: value.detach() for name, value in values.items()}
