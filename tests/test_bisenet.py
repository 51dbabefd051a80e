"""BiSeNet: shapes, loading of the published form, and that it learns; with the published weights, a real face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vivavoce import assets
from vivavoce.face import regions
from vivavoce.media import frames
from vivavoce.nn.bisenet import AUXILIARY, MEAN, STD, BiSeNet
from vivavoce.turns import one_thread_each


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict in the form of 79999_iter.pth, with statistics of batch norms that are not those of a fresh net."""
    torch.manual_seed(seed)
    net = BiSeNet()
    for name, value in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    extra = {f"{a}conv.conv.weight": torch.zeros(64, 128, 3, 3) for a in AUXILIARY}
    return {**net.state_dict(), **extra}


def test_names_and_shapes_are_those_of_the_published_file() -> None:
    own = BiSeNet().state_dict()
    assert len(own) == 177  # of its 191, 14 belong to the auxiliary heads
    for name, shape in (
        ("cp.resnet.conv1.weight", (64, 3, 7, 7)),
        ("cp.resnet.layer3.0.downsample.0.weight", (256, 128, 1, 1)),
        ("cp.arm16.conv_atten.weight", (128, 128, 1, 1)),
        ("cp.conv_avg.conv.weight", (128, 512, 1, 1)),
        ("ffm.conv2.weight", (256, 64, 1, 1)),
        ("conv_out.conv_out.weight", (19, 256, 1, 1)),
    ):
        assert tuple(own[name].shape) == shape


def test_folding_batch_norms_changes_nothing(tmp_path: Path) -> None:
    weights = state()
    torch.save(weights, tmp_path / "79999_iter.pth")
    loaded = torch.load(tmp_path / "79999_iter.pth", weights_only=True)
    plain = BiSeNet().eval()
    plain.load_state_dict({k: v for k, v in weights.items() if not k.startswith(AUXILIARY)})
    pictures = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    x = (pictures / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        expected, found = plain(x), BiSeNet.published(loaded)(x)
    assert expected.shape == (2, 19, 4, 8)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_another_state_dict_is_refused() -> None:
    weights = state()
    weights.pop("ffm.conv1.weight")
    with pytest.raises(RuntimeError, match=r"ffm\.conv1\.weight"):
        BiSeNet.published(weights)


def test_labels_have_the_pictures_size_and_do_not_depend_on_the_batch() -> None:
    net = BiSeNet.published(state())
    pictures = torch.randint(0, 256, (3, 3, 90, 70), dtype=torch.uint8)
    together = net.labels(pictures, side=64)
    assert together.shape == (3, 90, 70) and together.dtype == torch.uint8 and int(together.max()) < 19
    alone = torch.cat([net.labels(p[None], side=64) for p in pictures])
    assert (together == alone).float().mean() > 0.999


def test_it_learns_where_things_are() -> None:
    with one_thread_each():
        learns()


def learns() -> None:
    torch.manual_seed(0)
    net = BiSeNet()
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    truth = torch.where((x - 32) ** 2 + (y - 28) ** 2 < 300, 1, torch.where(y > 48, 16, 0))
    picture = torch.stack([(truth == 1) * 1.0, (truth == 16) * 1.0, (truth == 0) * 1.0])[None].repeat(2, 1, 1, 1)
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(10):
        scores = torch.nn.functional.interpolate(net(picture), (64, 64), mode="bilinear", align_corners=True)
        loss = torch.nn.functional.cross_entropy(scores, truth.expand(2, -1, -1))
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        scores = torch.nn.functional.interpolate(net(picture), (64, 64), mode="bilinear", align_corners=True)
    assert (scores.argmax(1)[0] == truth).float().mean() > 0.93


@pytest.mark.real
@pytest.mark.assets
def test_the_published_weights_know_a_real_face(shared_data: Path, asset: Callable[[str], Path]) -> None:
    asset("face_parsing")
    picture = torch.from_numpy(next(frames(shared_data / "video" / "dfrf_cnn2.mp4"))).permute(2, 0, 1)
    found = BiSeNet.published(assets.state_dict("face_parsing")).labels(picture[None])[0].numpy()
    labels = np.array(regions.FROM_CELEBAMASK)[found]
    assert set(np.unique(labels)) >= {regions.BACKGROUND, regions.HEAD, regions.NECK, regions.CLOTH, regions.HAIR}
    assert (labels[:60, :60] == regions.BACKGROUND).all() and (labels[-20:, 200:320] == regions.CLOTH).mean() > 0.9
    assert labels[320, 256] == regions.HEAD and 0.03 < (labels == regions.HEAD).mean() < 0.3
    assert {2, 3, 4, 5, 10, 12, 13} <= set(np.unique(found))  # brows, eyes, nose, lips
