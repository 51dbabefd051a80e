"""Convolutions of the Wav2Lip family, and its mel encoder: 80 mel bins x 16 columns (0.2 s of sound) -> one vector.

Attributes bear the names of the published state dicts (`conv_block.0` a convolution, `conv_block.1` batch norm).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from vivavoce.types import InputError

BINS, COLUMNS = 80, 16  # of the mel spectrogram that one vector is made of
WIDTHS = (32, 64, 128, 256, 512)  # channels of the encoder's stages
Pair = int | tuple[int, int]


class Block(nn.Module):
    """Convolution, batch norm, ReLU; with `residual` what entered is added before the ReLU."""

    def __init__(self, entering: int, leaving: int, kernel: Pair = 3, stride: Pair = 1, padding: Pair = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(entering, leaving, kernel, stride, padding), nn.BatchNorm2d(leaving))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv_block(x)
        return functional.relu(made + x if self.residual else made)


class Upward(nn.Module):
    """Transposed convolution, batch norm, ReLU."""

    def __init__(self, entering: int, leaving: int, stride: int = 2, padding: int = 1) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(entering, leaving, 3, stride, padding, output_padding=stride - 1)
        self.conv_block = nn.Sequential(up, nn.BatchNorm2d(leaving))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv_block(x))


class Plain(nn.Module):
    """Convolution and leaky ReLU, without a norm: the discriminator's."""

    def __init__(self, entering: int, leaving: int, kernel: Pair, stride: Pair = 1, padding: Pair = 0) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(entering, leaving, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv_block(x), 0.01)


def residuals(channels: int, count: int) -> list[Block]:
    """So many residual blocks."""
    return [Block(channels, channels, residual=True) for _ in range(count)]


def narrowed(widths: tuple[int, ...], share: float) -> tuple[int, ...]:
    """Channels of a smaller net of the same shape: each times `share`, at least 4."""
    return tuple(max(4, round(w * share)) for w in widths)


def mel_encoder(last: int = 2, share: float = 1.0) -> nn.Sequential:
    """[B,1,80,16] -> [B,512,1,1].

    Args:
        last: residual blocks at 256 channels: 2 in the lip expert, 1 in the generator.
        share: of the published channels, for small nets.
    """
    a, b, c, d, e = narrowed(WIDTHS, share)
    return nn.Sequential(
        Block(1, a), *residuals(a, 2),
        Block(a, b, stride=(3, 1)), *residuals(b, 2),
        Block(b, c, stride=3), *residuals(c, 2),
        Block(c, d, stride=(3, 2)), *residuals(d, last),
        Block(d, e, padding=0), Block(e, e, 1, padding=0),
    )  # fmt: skip


def weights_of(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors out of an authors' checkpoint, flat or read by `assets.state_dict`.

    Optimizer state and counters are left out; the prefixes `state_dict.` and `module.` (of DataParallel) are taken off.
    """
    nested = {k.removeprefix("state_dict."): v for k, v in checkpoint.items() if k.startswith("state_dict.")}
    return {k.removeprefix("module."): v for k, v in (nested or checkpoint).items()}


def load_published(net: nn.Module, checkpoint: dict[str, Tensor], name: str) -> None:
    """Weights of an authors' checkpoint into a net of the published shape. Raises InputError when they are of another net."""
    try:
        net.load_state_dict(weights_of(checkpoint))
    except RuntimeError as error:
        cause = f"these are not its weights ({' '.join(str(error).split())[:160]})"
        raise InputError(name, cause, "give the authors' checkpoint") from error
