"""The discriminator that a CGRDN is trained against: a conditional PatchGAN, and the noise that its inputs get."""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = (64, 128, 256, 512, 1)
STRIDES = (2, 2, 2, 1, 1)
NOISE = (0.001, 0.10)
"""Least and largest deviation of the noise on the inputs, in deviations of the truth."""


class PatchDiscriminator(nn.Module):
    """Scores whether patches of an image are a truth or a restored one, given the distorted image [1]_.

    Five 4×4 convolutions, padded by 1, of strides 2, 2, 2, 1, 1; batch normalisation from the second to the fourth,
    LeakyReLU (slope 0.2) after all but the last. 2,764,609 parameters. Each score sees 70 × 70 pixels. Maps twice
    (N, 1, H, W), sides from 24 pixels on, to logits (N, 1, H/8 - 2, W/8 - 2), sides rounded down.

    References
    ----------
    .. [1] Isola, Zhu, Zhou and Efros, Image-to-image translation with conditional adversarial networks, CVPR (2017).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, last = 2, len(CHANNELS) - 1
        for n, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
            # Batch normalisation takes a bias away again.
            normalised = 0 < n < last
            layers.append(nn.Conv2d(before, channels, 4, stride=stride, padding=1, bias=not normalised))
            if normalised:
                layers.append(nn.BatchNorm2d(channels))
            if n < last:
                layers.append(nn.LeakyReLU(0.2))
            before = channels
        self.layers = nn.Sequential(*layers)

    def forward(self, distorted: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Score a batch."""
        scores: torch.Tensor = self.layers(torch.cat([distorted, image], 1))
        return scores


def with_noise(image: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """An input of the discriminator, each sample with Gaussian noise at probability 0.5.

    The deviation of the noise is uniform between 0.001 and 0.10 deviations of the sample's truth. Truth and restored
    overlap then, and the discriminator cannot tell them apart by a trace that no eye would see.

    Parameters
    ----------
    image, truth : torch.Tensor
        (N, 1, H, W).
    generator : torch.Generator
        All randomness: with its state kept in a checkpoint, training goes on as if it had never stopped. Numbers are
        drawn on its device, so that one on the CPU gives the same ones whatever the images are on.
    """
    def drawn(kind: str, *shape: int) -> torch.Tensor:
        numbers: torch.Tensor = getattr(torch, kind)(shape, generator=generator, device=generator.device)
        return numbers.to(image.device)

    samples = len(image)
    low, high = NOISE
    chosen = drawn("rand", samples, 1, 1, 1) < 0.5
    share = low + (high - low) * drawn("rand", samples, 1, 1, 1)
    deviation = truth.detach().float().std((1, 2, 3), keepdim=True, correction=0)
    return image + (chosen * share * deviation * drawn("randn", *image.shape)).to(image.dtype)
