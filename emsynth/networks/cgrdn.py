"""CGRDN, the concatenated grouped residual dense network of Lobato et al., and our variant with Fourier units."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn

from emsynth.errors import NetworkError


@dataclass(frozen=True)
class Size:
    """The numbers that make a CGRDN.

    Attributes
    ----------
    layers, growth : int
        Dense 3×3 convolutions of a residual dense block, and the channels that each adds.
    width : int
        Channels everywhere else; 64 in the paper.
    groups, blocks : int
        Groups in series, and residual dense blocks in each; 4 and 4 in the paper.
    fourier : int
        Channels inside the Fourier unit in front of each block; 0 for the paper's network, which has none.
    """

    layers: int = 8
    growth: int = 32
    width: int = 64
    groups: int = 4
    blocks: int = 4
    fourier: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "fourier" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise NetworkError(f"network.{name}: {value!r} is not a whole number from {least} on")


class Dense(nn.Module):
    """Residual dense block: convolutions of which each sees all before it, fused to `width` channels, plus the input.

    Maps (N, width, H, W) to the same shape.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(size.width + n * size.growth, size.growth, 3, padding=1)
                                    for n in range(size.layers))
        self.fuse = nn.Conv2d(size.width + size.layers * size.growth, size.width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Add what the dense layers find."""
        seen = features
        for layer in self.layers:
            # One pile that grows: of as many piles as layers, gradients are added source by source, which takes longer.
            seen = torch.cat([seen, torch.relu(layer(seen))], 1)
        added: torch.Tensor = features + self.fuse(seen)
        return added


class FourierUnit(nn.Module):
    """Two pointwise convolutions on the spectrum, plus the input: every pixel sees the whole image at once.

    x + conv(irfft2(conv ReLU conv [re, im] rfft2(ReLU conv x))), orthonormal transforms [1]_: a lattice is sparse
    there. Transforms are in single precision, whatever else is reduced. Maps (N, width, H, W) to the same shape.

    References
    ----------
    .. [1] Chi, Jiang and Mu, Fast Fourier convolution, NeurIPS 33 (2020), whose spectral transform it resembles.
    """

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, inside, 1)
        self.first = nn.Conv2d(2 * inside, 2 * inside, 1)
        self.second = nn.Conv2d(2 * inside, 2 * inside, 1)
        self.leave = nn.Conv2d(inside, width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Add what the spectrum says."""
        entered = torch.relu(self.enter(features)).float()
        spectrum = torch.fft.rfft2(entered, norm="ortho")
        parts = torch.cat([spectrum.real, spectrum.imag], 1)
        parts = self.second(torch.relu(self.first(parts))).float()
        real, imaginary = parts.chunk(2, 1)
        inverse = torch.fft.irfft2(torch.complex(real, imaginary), s=features.shape[-2:], norm="ortho")
        added: torch.Tensor = features + self.leave(inverse)
        return added


class Group(nn.Module):
    """Grouped residual dense block: blocks in series, their outputs concatenated and fused, plus the input."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(size) for _ in range(size.blocks))
        self.fuse = nn.Conv2d(size.blocks * size.width, size.width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Add what the blocks find."""
        added: torch.Tensor = features + self.fuse(_chained(self.blocks, features))
        return added


def _block(size: Size) -> nn.Module:
    dense = Dense(size)
    return nn.Sequential(FourierUnit(size.width, size.fourier), dense) if size.fourier else dense


def _chained(parts: nn.ModuleList, features: torch.Tensor) -> torch.Tensor:
    """Outputs of parts in series, (N, parts * width, H, W)."""
    outputs = []
    for part in parts:
        features = part(features)
        outputs.append(features)
    return torch.cat(outputs, 1)


class CGRDN(nn.Module):
    """The generator: (N, 1, H, W) with even sides in, the restored images out.

    Input and output are in units of the input's deviation about its mean (`emsynth.restoration.neural` does that for
    a single image). There are no normalisation layers, no attention and no dropout.

    Parameters
    ----------
    size : Size
        Its numbers; ``Size()`` is the paper's largest but one, 8/32 with 7,035,521 parameters.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, Deep convolutional neural networks to restore single-shot electron
       microscopy images, npj Comput. Mater. 10, 10 (2024).
    """

    def __init__(self, size: Size | None = None) -> None:
        super().__init__()
        self.size = size or Size()
        width = self.size.width
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, width, 4, stride=2, padding=1)
        self.groups = nn.ModuleList(Group(self.size) for _ in range(self.size.groups))
        self.fuse = nn.Conv2d(self.size.groups * width, width, 1)
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.leave = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Restore a batch."""
        features = self.down(self.enter(image))                          # (N, width, H/2, W/2)
        features = features + self.fuse(_chained(self.groups, features))
        restored: torch.Tensor = image + self.leave(self.up(features))    # (N, 1, H, W)
        return restored

    @property
    def parameters_in_all(self) -> int:
        """How many numbers there are to be learnt."""
        return sum(parameter.numel() for parameter in self.parameters())
