"""Network parts: known values, plain loops, gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from vivavoce.nn.attention import AgentAttention, spread
from vivavoce.nn.audio import SpeechCode
from vivavoce.nn.gaussians import Gaussians
from vivavoce.nn.kan import TaylorKan, kan
from vivavoce.nn.planes import PAIRS, Planes
from vivavoce.nn.torso import Torso, inverse


def bilinear(plane: torch.Tensor, u: float, v: float) -> torch.Tensor:  # [C,R,R], places in cells -> [C]
    """The loop twin: u along the last axis."""
    last = plane.shape[-1] - 1
    u, v = min(max(u, 0.0), last), min(max(v, 0.0), last)
    a, b = min(int(u), last - 1), min(int(v), last - 1)
    out = torch.zeros(plane.shape[0], dtype=plane.dtype)
    for i, j in itertools.product((0, 1), (0, 1)):
        weight = (u - a if i else 1 - u + a) * (v - b if j else 1 - v + b)
        out += weight * plane[:, b + j, a + i]
    return out


@pytest.mark.parametrize("combine", ["multiply", "add", "concatenate"])
def test_planes_equal_a_plain_loop(combine: str) -> None:
    torch.manual_seed(0)
    planes = Planes((-1.0, 0.0, -2.0), (1.0, 3.0, 2.0), (4, 7), 3, combine).double()
    points = torch.rand(9, 3, dtype=torch.double) * 6 - 3  # some lie outside the box
    got = planes(points)
    assert got.shape == (9, planes.width)
    for row, point in zip(got, points, strict=True):
        unit = ((point - planes.low) / (planes.high - planes.low)).tolist()
        want = []
        for level, cells in zip(planes.levels, (4, 7), strict=True):
            read = [bilinear(level[k].detach(), unit[a] * (cells - 1), unit[b] * (cells - 1)) for k, (a, b) in enumerate(PAIRS)]
            joined = {"multiply": read[0] * read[1] * read[2], "add": read[0] + read[1] + read[2], "concatenate": torch.cat(read)}
            want.append(joined[combine])
        assert torch.allclose(row.detach(), torch.cat(want))


def test_planes_gradients_and_variation() -> None:
    planes = Planes(resolutions=(4,), channels=2).double()
    points = (torch.rand(5, 3, dtype=torch.double) * 1.6 - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(planes, (points,), eps=1e-7, atol=1e-4)
    nn.init.constant_(planes.levels[0], 0.3)
    assert planes.variation() == 0
    with pytest.raises(ValueError, match="combine"):
        Planes(combine="subtract")


def test_taylor_kan_known_values_and_gradients() -> None:
    layer = TaylorKan(2, 1).double()
    with torch.no_grad():
        layer.base.zero_()
        layer.bias.fill_(0.5)
        layer.coefficients.copy_(torch.tensor([[[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]]]))
    x = torch.tensor([[2.0, 3.0]], dtype=torch.double)
    assert layer(x).item() == pytest.approx(0.5 + (1 + 4 + 12) + (-1 + 9))
    with torch.no_grad():
        layer.base.fill_(1.0)
    assert layer(x).item() == pytest.approx(25.5 + float(torch.nn.functional.silu(x).sum()))
    assert torch.autograd.gradcheck(layer, (torch.randn(3, 2, dtype=torch.double, requires_grad=True),))
    assert kan(3, 5, 7)(torch.randn(2, 4, 3)).shape == (2, 4, 7)


def test_agent_attention_equals_a_plain_loop() -> None:
    torch.manual_seed(1)
    attention = AgentAttention(8, sharpness=4).double()
    points, agents, tokens = (torch.randn(*s, dtype=torch.double) for s in ((6, 8), (3, 8), (2, 4, 8)))
    got = attention(points, agents, tokens)
    assert got.shape == (2, 6, 8)
    names = attention.agent(agents)
    for t in range(2):
        heard = []
        for a in range(3):
            logits = torch.stack([names[a] @ tokens[t, k] / 8**0.5 for k in range(4)])
            heard.append(sum(w * tokens[t, k] for k, w in enumerate(logits.softmax(0))))
        for n in range(6):
            logits = torch.stack([points[n] @ names[a] / 2**0.5 for a in range(3)])
            want = sum(w * heard[a] for a, w in enumerate(logits.softmax(0)))
            assert torch.allclose(got[t, n], want)


def test_spread_points_are_far_apart() -> None:
    corners = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 0]])
    cloud = torch.cat([corners + 0.1 * torch.rand(4, 3), corners, torch.full((50, 3), 5.0)])
    chosen = cloud[spread(cloud, 5)]
    assert torch.cdist(chosen, chosen).fill_diagonal_(99).min() > 6
    assert len(spread(cloud[:3], 9)) == 3


def test_speech_code_is_standardised_and_of_each_row_alone() -> None:
    torch.manual_seed(0)
    speech = torch.randn(40, 24, 12) * torch.arange(1, 13) + 5
    code = SpeechCode(12, 24, 16, 8, dropout=0.5)
    code.fit(speech)
    flat = ((speech.reshape(-1, 12) - code.mean) / code.deviation) @ code.narrow.weight.detach().t()
    assert torch.allclose(flat.std(0), torch.ones(8), atol=0.05)  # principal directions, whitened
    code.eval()
    codes = code(speech).detach()
    size = codes.square().mean(1, keepdim=True)
    raw = codes * torch.rsqrt(1 - size / 4)  # before the bound
    assert torch.allclose(raw.mean(0), torch.zeros(16), atol=1e-3) and torch.allclose(raw.std(0), torch.ones(16), atol=1e-3)
    assert code(speech * 100).square().mean(1).max() < 4
    assert torch.allclose(codes[7:9], code(speech[7:9]), atol=1e-4)
    code(speech).square().sum().backward()
    assert all(p.grad is not None and p.grad[..., :1].abs().sum() > 0 for p in code.parameters())


def test_torso_still_moved_and_resized() -> None:
    torch.manual_seed(0)
    torso = Torso((16, 20), cells=4)
    straight = torch.rand(3, 4, 16, 20)
    straight[:, 3] = (straight[:, 3] > 0.5).float()
    plate = torch.rand(3, 16, 20)
    still = torch.eye(2, 3).repeat(3, 1, 1)
    torso.start(straight, still, plate)
    nn.init.zeros_(torso.flow[2].weight)
    picture, flow = torso(torch.randn(2, 6), still[:2], (16, 20))
    alpha = straight[0, 3:]  # bodies that lie the same: the first picture alone
    assert flow.abs().max() == 0
    premultiplied = straight[0, :3] * alpha
    want = premultiplied + (1 - alpha) * plate
    assert torch.allclose(picture[1], want, atol=1e-5)
    assert torso(torch.zeros(1, 6), still[:1], (32, 40))[0].shape == (1, 3, 32, 40)
    shift = 2 * 3 / 20  # three pixels, in half pictures
    nn.init.constant_(torso.flow[2].bias[: 4 * 4], float(torch.atanh(torch.tensor(shift / 0.3 * 0.999))))
    with torch.no_grad():
        moved, _ = torso(torch.zeros(1, 6), still[:1], (16, 20))
    want = premultiplied[..., 8] + (1 - alpha[..., 8]) * plate[..., 5]  # pixel 5 shows the torso's pixel 8
    assert torch.allclose(moved[0, ..., 5], want, atol=5e-3)


def test_torso_lies_where_the_body_does() -> None:
    torch.manual_seed(0)
    body = torch.eye(2, 3).repeat(3, 1, 1)
    body[:, 0, 2] = torch.tensor([0, 4, -4]) * 2 / 20  # 4 pixels to the right, to the left
    body[:, 1, 2] = torch.tensor([0, -2, 2]) * 2 / 16
    wide = torch.rand(4, 24, 32)
    wide[3] = 1
    frames = torch.stack([wide[:, 4 - y : 20 - y, 6 - x : 26 - x] for x, y in ((0, 0), (4, -2), (-4, 2))])
    torso = Torso((16, 20), cells=4)
    torso.start(frames, body, torch.zeros(3, 16, 20))
    nn.init.zeros_(torso.flow[2].weight)
    assert torch.allclose(torso.picture[:, 3:-3, 5:-5], wide[:, 7:17, 11:21], atol=1e-5)  # sharp: all came back to one place
    picture, _ = torso(torch.randn(3, 6), body, (16, 20))
    assert torch.allclose(picture[..., 5:-5, 9:-9], frames[:, :3, 5:-5, 9:-9], atol=1e-5)
    turned = torch.tensor([[[1.1, -0.2, 0.3], [0.1, 0.9, -0.2]]])
    square = torch.tensor([[[0.0, 0.0, 1.0]]])
    both = torch.cat([turned, square], 1) @ torch.cat([inverse(turned), square], 1)
    assert torch.allclose(both[0], torch.eye(3), atol=1e-6)


def grown() -> tuple[Gaussians, torch.optim.Adam]:
    torch.manual_seed(0)
    gaussians = Gaussians(10, 4)
    gaussians.start(torch.randn(10, 3) * 0.1, torch.rand(10, 3), torch.full((10,), 0.004))
    optimizer = torch.optim.Adam([{"params": [p], "lr": 1e-3} for p in gaussians.parameters()])
    weight = torch.arange(10.0)[:, None]  # row 9 is pushed hardest
    loss = (gaussians.means * weight).sum() + sum(p.square().sum() for p in gaussians.parameters())
    loss.backward()
    gaussians.watch()
    optimizer.step()
    with torch.no_grad():
        gaussians.logits[2] = -8.0  # faint
        gaussians.log_scales[4] = 0.0  # a metre wide
        gaussians.log_scales[9, 1] = -4.0  # longest along its second axis
    return gaussians, optimizer


def test_density_control_changes_the_set_and_the_optimizer_together() -> None:
    gaussians, optimizer = grown()
    before = {n: getattr(gaussians, n).detach().clone() for n in Gaussians.NAMES}
    moments = {n: optimizer.state[getattr(gaussians, n)]["exp_avg"].clone() for n in Gaussians.NAMES}
    rows, fresh = gaussians.control(optimizer, share=0.13, most=50)
    assert rows.tolist() == [0, 1, 3, 5, 6, 7, 8, 9, 9] and fresh.tolist() == [False] * 8 + [True]
    assert len(gaussians) == 9 and len(gaussians.push) == 9
    for name in Gaussians.NAMES:
        now = getattr(gaussians, name)
        state = optimizer.state[now]
        assert torch.equal(state["exp_avg"][:8], moments[name][rows[:8]])
        assert state["exp_avg"][8].abs().sum() == 0 and state["exp_avg_sq"][8].abs().sum() == 0
        assert any(now is p for g in optimizer.param_groups for p in g["params"])
        if name not in ("means", "log_scales"):
            assert torch.equal(now.detach(), before[name][rows])
    halves = gaussians.means.detach()[7:]
    assert torch.allclose(halves.mean(0), before["means"][9], atol=1e-6)
    assert float((halves[0] - halves[1]).norm()) == pytest.approx(1.2 * 2.718281828**-4, rel=1e-4)
    assert gaussians.log_scales[8, 1].item() == pytest.approx(-4 + torch.tensor(0.7).log().item())
    assert len(optimizer.state) == len(Gaussians.NAMES)
    sum(p.square().sum() for p in gaussians.parameters()).backward()
    optimizer.step()  # the new rows train on


def test_density_control_stops_at_the_limit() -> None:
    gaussians, optimizer = grown()
    gaussians.control(optimizer, share=0.9, most=8)
    assert len(gaussians) == 8


def test_speech_code_learns_shapes_that_speech_tells() -> None:
    torch.manual_seed(0)
    speech = torch.randn(200, 24, 6)
    told = torch.stack([speech[:, 16, 0], 0.3 * speech[:, 10, 1]], 1) @ torch.randn(2, 9)
    code = SpeechCode(6, 24, 16, 16, dropout=0.0)
    code.fit(speech)
    assert code.learn(speech, told, 250, batch=64) < 0.3
    assert all(p.grad is None for p in code.parameters()) and code.training
    assert SpeechCode(6, 24, 16, 16, dropout=0.0).learn(speech, torch.randn(200, 9), 1) > 0.8  # nothing is told in one step
