"""The losses of the training, against numbers worked out by hand and the properties that they are there for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from emsynth.streams import generator

torch = pytest.importorskip("torch", reason="torch is not installed (extra train)")

from emsynth.training import losses  # noqa: E402
from emsynth.training.losses import Basket, generator_loss  # noqa: E402

EVERY = Basket(log_mse=0.5)
NONE = dict.fromkeys(Basket.model_fields, 0.0)
COMPARED = sorted(losses.COMPARISONS)


def noise(name, *shape):
    return torch.from_numpy(generator(0, 0, f"test losses {name}").standard_normal(shape).astype(np.float32))


def images(*values):
    """A batch of one image of the given rows."""
    return torch.tensor(values, dtype=torch.float32)[None, None]


def value(name, restored, truth):
    """One loss by name, in the units in which it is defined."""
    return float(losses.COMPARISONS[name](restored, truth))


@pytest.mark.parametrize("name", COMPARED)
def test_a_truth_has_no_loss(name):
    """And whatever is not the truth has."""
    truth = noise("truth", 2, 1, 20, 18)
    assert value(name, truth, truth) == pytest.approx(0, abs=1e-7)
    assert value(name, 1.3 * truth + 0.2 * noise("other", 2, 1, 20, 18) + 0.1, truth) > 0.01


@pytest.mark.parametrize(("name", "expected"), [
    ("l1", 1.0), ("l2", 2.5), ("mean", 0.5), ("std", 1.5), ("gradient_x", 2.0), ("gradient_y", 2.0),
    ("log_mse", math.log1p(2.5 / 1e-6)), ("fourier", (2**0.125 + 4**0.125) / 2 - 1e-3**0.125)])
def test_values_by_hand(name, expected):
    """Of an image of four pixels against zeros."""
    restored = images([0.0, 3.0], [-1.0, 0.0])
    assert value(name, restored, torch.zeros_like(restored)) == pytest.approx(expected, rel=1e-5)


def test_a_gradient_along_a_row_is_not_one_down_a_column():
    """Stripes are seen by the one that crosses them."""
    stripes, flat = images(*[[0.0, 1.0, 0.0, 1.0]] * 4), torch.zeros(1, 1, 4, 4)
    assert value("gradient_x", stripes, flat) == 1
    assert value("gradient_y", stripes, flat) == 0


def test_the_fourier_loss_of_a_point():
    """A single wrong pixel has the same magnitude at every frequency."""
    point = torch.zeros(1, 1, 16, 12)
    point[0, 0, 3, 5] = 256.0
    assert value("fourier", point, torch.zeros_like(point)) == pytest.approx(2 - 1e-3**0.125, rel=1e-5)


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_the_local_statistics_against_a_loop(side):
    """Windows are clipped at the border."""
    image = noise("box", 1, 1, 19, 21)
    found = losses._local(image, side)
    for row, col in ((0, 0), (9, 10), (18, 20), (1, 19)):
        window = image[0, 0, max(0, row - side // 2):row + side // 2, max(0, col - side // 2):col + side // 2]
        expected = window.mean(), max(float(window.std(correction=0)), 0.1)
        for one, other in zip(found, expected, strict=True):
            assert float(one[0, 0, row, col]) == pytest.approx(float(other), abs=1e-5)


def test_whitening_does_not_see_a_slow_background():
    """Faint detail on a strong smooth background counts as if the background were not there."""
    truth, restored = noise("detail", 1, 1, 64, 64), noise("restored", 1, 1, 64, 64)
    slope = torch.linspace(0, 1, 64)[None, None, None]
    alone, bent = (value("whitening", restored + b, truth + b) for b in (0 * slope, 3 * slope + slope**2))
    assert bent == pytest.approx(alone, rel=0.02)
    assert value("whitening", restored + 300, truth + 300) == pytest.approx(alone, rel=1e-3)


def test_whitening_lifts_what_is_faint():
    """The same relative error in a dim half counts as much as in a bright one."""
    texture = noise("texture", 1, 1, 64, 64)
    bright = torch.ones(1, 1, 1, 64)
    bright[..., 32:] = 4.0
    truth = texture * bright
    found = []
    for half in (slice(8, 24), slice(40, 56)):
        wrong = truth.clone()
        wrong[..., half] *= 1.5
        found.append(value("whitening", wrong, truth))
    assert found[0] == pytest.approx(found[1], rel=0.1)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("turned", [lambda image: image.flip(2), lambda image: image.flip(3)])
def test_a_flip_changes_nothing(name, turned):
    """Up is as good as down."""
    restored, truth = noise("flip a", 2, 1, 24, 20), noise("flip b", 2, 1, 24, 20)
    # An even window is half a pixel off, towards the first pixel.
    within = 0.15 if name == "whitening" else 1e-4
    assert value(name, turned(restored), turned(truth)) == pytest.approx(value(name, restored, truth), rel=within)


def test_a_transposition_exchanges_the_gradients():
    """And leaves the rest."""
    restored, truth = noise("flip a", 2, 1, 24, 24), noise("flip b", 2, 1, 24, 24)
    exchanged = {"gradient_x": "gradient_y", "gradient_y": "gradient_x"}
    for name in COMPARED:
        within = 0.03 if name == "fourier" else 1e-4  # a half of the spectrum, of which the edges count once
        assert value(exchanged.get(name, name), restored.mT, truth.mT) == pytest.approx(
            value(name, restored, truth), rel=within)


@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_contrast_does_not_count(scale):
    """Both images times a number have the same losses, in all parts."""
    truth, restored = noise("contrast a", 3, 1, 32, 32) + 2, noise("contrast b", 3, 1, 32, 32) + 2
    parts, scaled = (generator_loss(EVERY, s * restored, s * truth)[1] for s in (1, scale))
    assert {name: float(part) for name, part in scaled.items()} == pytest.approx(
        {name: float(part) for name, part in parts.items()}, rel=1e-3)


def test_a_truth_without_contrast_is_not_divided_by_it():
    """Below a deviation of 0.1 the truth counts as if it had that."""
    flat = torch.zeros(1, 1, 8, 8)
    assert float(generator_loss(Basket(**NONE | {"l1": 1.0}), flat + 0.1, flat)[0]) == pytest.approx(1)


def test_the_total_is_the_weighted_sum():
    """And a weight of 0 leaves a part out."""
    truth, restored = noise("total a", 2, 1, 16, 16), noise("total b", 2, 1, 16, 16)
    basket = Basket(l2=0.0)
    total, parts = generator_loss(basket, restored, truth, (torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)))
    assert set(parts) == set(Basket.model_fields) - {"l2", "log_mse"}
    assert float(total) == pytest.approx(sum(getattr(basket, name) * float(part) for name, part in parts.items()))
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("truth", [
    torch.zeros(2, 1, 16, 16), torch.full((2, 1, 16, 16), 1e4), noise("g", 2, 1, 16, 16)])
@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-4, 1.0, 1e4])
def test_gradients_are_finite(name, truth, off):
    """At the truth, next to it and far away, of a constant truth, too."""
    restored = (truth + off * noise("off", 2, 1, 16, 16)).requires_grad_()
    generator_loss(Basket(**NONE | {"l1": 1e-9} | {name: 1.0}), restored, truth)[0].backward()
    assert bool(torch.isfinite(restored.grad).all())
    if off == 1:
        assert float(restored.grad.abs().max()) > 1e-6


def test_every_sample_counts_by_its_decibels():
    """Halving the error of a good sample is worth what halving that of a bad one is."""
    truth, error = noise("db a", 2, 1, 16, 16), noise("db b", 2, 1, 16, 16)
    start, good, bad = (value("log_mse", truth + error * torch.tensor(sizes).reshape(2, 1, 1, 1), truth)
                        for sizes in ([0.1, 1.0], [0.05, 1.0], [0.1, 0.5]))
    assert start - bad == pytest.approx(math.log(2), rel=1e-3)
    assert start - good == pytest.approx(math.log(2), rel=0.01)


def test_the_adversarial_losses_by_hand():
    """Relativistic averages of two logits each."""
    def entropy(logit, label):
        chance = 1 / (1 + math.exp(-logit))
        return -label * math.log(chance) - (1 - label) * math.log(1 - chance)

    real, restored = torch.tensor([2.0, 1.0]), torch.tensor([0.5, -1.5])  # means 1.5 and -0.5
    above, below = (2.5, 1.5), (-1.0, -3.0)
    assert float(losses.adversarial_discriminator(real, restored)) == pytest.approx(
        sum(entropy(a, 0.95) for a in above) / 2 + sum(entropy(b, 0.0) for b in below) / 2, rel=1e-5)
    assert float(losses.adversarial_generator(real, restored)) == pytest.approx(
        sum(entropy(a, 0.0) for a in above) / 2 + sum(entropy(b, 0.95) for b in below) / 2, rel=1e-5)
    assert float(losses.adversarial_generator(real, real)) == float(losses.adversarial_discriminator(real, real))


@pytest.mark.parametrize("name", [*COMPARED, "adversarial_generator", "adversarial_discriminator"])
def test_reduced_precision_does_not_reach_the_losses(name):
    """Within autocast they are what they are without."""
    loss = getattr(losses, name)
    restored, truth = noise("cast a", 2, 1, 16, 16).bfloat16(), noise("cast b", 2, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(restored, truth)
    assert found.dtype == torch.float32
    assert float(found) == float(loss(restored.float(), truth))


def test_a_basket_is_the_papers_and_strict():
    """A negative weight, an unknown loss and a basket without a comparison are refused."""
    assert list(Basket().model_dump().values()) == [5, 4, 0.2, 0.4, 8, 4, 0.8, 0.8, 5e-4, 0]
    for wrong, message in (({"l1": -1}, "greater than or equal to 0"), ({"l3": 1}, "unknown key"),
                           (NONE | {"adversarial": 1.0}, "no loss that compares")):
        with pytest.raises(ValidationError, match=message):
            Basket(**wrong)
