"""What a restored image is judged by in training: the losses of Lobato et al., one of ours, and the adversarial ones.

All images here are (N, 1, H, W) in units of the deviation of the network's input. Everything is worked out in single
precision, whatever the network ran in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.nn import functional

from emsynth.training.basket import Basket as Basket

Comparison = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FLOOR = 0.1
"""Least deviation that a truth, or a window of one, is divided by."""
WINDOWS = ((2, 1.0), (4, 1.33), (8, 1.66), (16, 2.0))
"""Sides of the whitening windows in pixels, and their weights before they are divided by their sum."""
ROOT = 0.125
"""Exponent of the Fourier loss."""
SMALL_COEFFICIENT = 1e-3
"""Below this magnitude a Fourier coefficient of the difference counts as next to nothing."""
SMALL_ERROR = 1e-6
"""Below this share of the variance of a truth a mean squared error counts as next to nothing: 60 dB."""
REAL = 0.95
"""What the adversarial losses call a real image; a 1 would make the discriminator too sure."""

def _in_single(compare: Comparison) -> Comparison:
    """In single precision, also within autocast to a reduced one: variances and logarithms need it."""
    @functools.wraps(compare)
    def wrapped(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return compare(first.float(), second.float())
    return wrapped


def in_truths_deviations(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """An image divided by the deviation of its truth, at least 0.1: easy and hard samples weigh alike."""
    return image.float() / truth.float().std((1, 2, 3), keepdim=True, correction=0).clamp_min(FLOOR)


@_in_single
def l1(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean absolute error."""
    return (restored - truth).abs().mean()


@_in_single
def l2(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean squared error."""
    return (restored - truth).square().mean()


@_in_single
def mean(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Absolute difference of the means of a sample, averaged over samples."""
    return (restored - truth).mean((1, 2, 3)).abs().mean()


@_in_single
def std(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Absolute difference of the standard deviations of a sample, averaged over samples.

    A constant image has a deviation of 0, and gets no gradient from here.
    """
    return (restored.std((1, 2, 3), correction=0) - truth.std((1, 2, 3), correction=0)).abs().mean()


@_in_single
def gradient_x(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the forward differences along a row."""
    return (restored - truth).diff(dim=3).abs().mean()


@_in_single
def gradient_y(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the forward differences down a column."""
    return (restored - truth).diff(dim=2).abs().mean()


@_in_single
def whitening(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Multi-local whitening: mean absolute error of both images, whitened by the truth around each pixel.

    For windows of k = 2, 4, 8 and 16 pixels, both images less the truth's mean in the window around each pixel are
    divided by the truth's deviation in it, at least 0.1. Both are whitened again, by the deviation of the whole truth
    so whitened, sample by sample, at least 0.1 (of its mean nothing is left in a difference). The window of pixel i is
    i - k/2 to i + k/2 - 1, down and across; what is beyond the border is left out of it. The four errors are averaged
    with weights 1, 1.33, 1.66 and 2. What is faint counts as much as what is strong, and a background that is smooth in
    both images counts for nothing. Where the truth is flat, 1 in the difference is 10 here, and 100 where all of it is.
    """
    total = sum(weight for _, weight in WINDOWS)
    parts = []
    # Small variances are differences of two means: large offsets would swallow them.
    level = truth.mean((1, 2, 3), keepdim=True)
    for side, weight in WINDOWS:
        middle, spread = _local(truth - level, side)
        whitened = (truth - level - middle) / spread
        again = whitened.std((1, 2, 3), keepdim=True, correction=0).clamp_min(FLOOR)
        parts.append(weight / total * ((restored - truth) / (spread * again)).abs().mean())
    return torch.stack(parts).sum()


def _local(image: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation, at least 0.1, in a window around each pixel."""
    middle = _box_mean(image, side)
    variance = _box_mean(image.square(), side) - middle.square()
    return middle, variance.clamp_min(FLOOR**2).sqrt()


def _box_mean(image: torch.Tensor, side: int) -> torch.Tensor:
    """Mean in a square window around each pixel, of what is inside the image."""
    rows, cols = image.shape[-2:]
    down = functional.avg_pool2d(image, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    across = functional.avg_pool2d(down, (1, side), 1, (0, side // 2), count_include_pad=False)
    return across[..., :rows, :cols]  # an even window gives one more than there are pixels


@_in_single
def fourier(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean of the eighth roots of the magnitudes of ``rfft2(restored - truth)``, which is not normalised.

    The root of a magnitude a is (a² + ε²)^(1/16) - ε^(1/8) with ε = 1e-3: 0 at 0, where the plain root is infinitely
    steep. White noise of deviation d in the difference has a = d √(HW), 100,000 times ε at 128² for d = 1.
    """
    difference = torch.fft.rfft2(restored - truth)
    power = difference.real.square() + difference.imag.square()
    roots: torch.Tensor = (power + SMALL_COEFFICIENT**2).pow(ROOT / 2) - SMALL_COEFFICIENT**ROOT
    return roots.mean()


@_in_single
def log_mse(restored: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean squared error of a sample, averaged over samples (ours).

    log(1 + m / ε), m the mean squared error and ε = 1e-6. Where m is above ε that is log m but for a constant: halving
    the error of a sample is worth the same wherever it stands, as it is to a PSNR averaged over images, so that good
    samples are not forgotten for the sake of bad ones. ε is 60 dB below the variance of the truth, by whose deviation
    both images have been divided: nothing is to be had from going further, and the gradient of a perfect image is 0.
    """
    share = (restored - truth).square().mean((1, 2, 3))
    logarithms: torch.Tensor = torch.log1p(share / SMALL_ERROR)
    return logarithms.mean()


def _of_average(real: torch.Tensor, restored: torch.Tensor, real_label: float, restored_label: float) -> torch.Tensor:
    """Relativistic average cross entropy: each score counts by how far it is above the mean score of the other kind."""
    above, below = real - restored.mean(), restored - real.mean()
    entropy = functional.binary_cross_entropy_with_logits
    return (entropy(above, torch.full_like(above, real_label))
            + entropy(below, torch.full_like(below, restored_label)))


@_in_single
def adversarial_discriminator(real: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """What the discriminator is to make small: relativistic average cross entropy [1]_ of its logits.

    H(C(truth) - mean C(restored), 0.95) + H(C(restored) - mean C(truth), 0), H the binary cross entropy of a logit and
    a label, averaged; the means are over the patches of all samples given.

    Parameters
    ----------
    real, restored : torch.Tensor
        Logits of `PatchDiscriminator` for the truth, and for the restored images, which no gradient is to go through.

    References
    ----------
    .. [1] Jolicoeur-Martineau, The relativistic discriminator: a key element missing from standard GAN, ICLR (2019).
    """
    return _of_average(real, restored, REAL, 0.0)


@_in_single
def adversarial_generator(real: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """What the generator is to make small: `adversarial_discriminator` with the labels exchanged.

    H(C(restored) - mean C(truth), 0.95) + H(C(truth) - mean C(restored), 0).
    """
    return _of_average(real, restored, 0.0, REAL)


COMPARISONS: dict[str, Comparison] = {
    "l1": l1, "l2": l2, "whitening": whitening, "fourier": fourier, "mean": mean, "std": std,
    "gradient_x": gradient_x, "gradient_y": gradient_y, "log_mse": log_mse}


def generator_loss(basket: Basket, restored: torch.Tensor, truth: torch.Tensor,
                   logits: tuple[torch.Tensor, torch.Tensor] | None = None
                   ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Weighted sum of the losses of a basket, and each of them.

    Both images are divided by the deviation of the truth first, at least 0.1, sample by sample, so that no loss
    depends on the contrast of a sample.

    Parameters
    ----------
    basket : Basket
        Weights; what has a weight of 0 is not worked out.
    restored, truth : torch.Tensor
        (N, 1, H, W) in units of the input's deviation.
    logits : tuple of two torch.Tensor, optional
        Of the discriminator, for the truth and for the restored images; without them the adversarial loss is left out.

    Returns
    -------
    total : torch.Tensor
        To go back from.
    parts : dict of str to torch.Tensor
        Each loss before its weight, by its name in the basket, without gradient.
    """
    pair = in_truths_deviations(restored, truth), in_truths_deviations(truth, truth)
    parts = {name: compare(*pair) for name, compare in COMPARISONS.items() if getattr(basket, name)}
    if basket.adversarial and logits is not None:
        parts["adversarial"] = adversarial_generator(*logits)
    total = torch.stack([getattr(basket, name) * part for name, part in parts.items()]).sum()
    return total, {name: part.detach() for name, part in parts.items()}
