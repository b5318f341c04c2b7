"""SEM: each law of the phenomenological model on a surface of which the answer is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from emsynth.draw import Streams
from emsynth.microscope import SurfaceSem
from emsynth.simulation.phantom import BAND_LIMIT
from emsynth.simulation.surface import backscatter_coefficient, image, secondary_yield, shares, tilt_exponent
from emsynth.specimen.morphology import MATERIALS, Morphology, Relief

STREAMS = Streams(4, 2)
PLAIN = SurfaceSem(energy=5e3, probe_size=0.0, tilt_cap=75.0, edge=0.0, shadow=0.0, asymmetry=0.0, channelling=0.0,
                   second_kind=0.0, charging=0.0).draw(STREAMS, "microscope")
FULL = SurfaceSem(energy=5e3, probe_size=0.0, edge=0.5, shadow=0.9, asymmetry=0.0, second_kind=1.0).draw(STREAMS, "m")


def bulk(name: str, height: np.ndarray | None = None) -> Relief:
    height = np.zeros((96, 96)) if height is None else height
    return Relief(height=height, thickness=np.full((1, *height.shape), 1e7), material=(MATERIALS[name],),
                  grain=np.full(height.shape, -1, np.int16), orientation=np.zeros((0, 3)), sampling=(20.0, 20.0),
                  family="film", bulk=True)


def roof(degrees: float, shape: tuple[int, int] = (32, 256)) -> np.ndarray:
    """Two planes of one tilt, which meet at columns 0 and 128."""
    across = np.abs((np.arange(shape[1]) - shape[1] // 2) * 20.0)
    return np.broadcast_to(across * math.tan(math.radians(degrees)), shape).copy()


def busy(family: str = "facets", shape: tuple[int, int] = (192, 192)) -> Relief:
    given = Morphology(family=family, extent=2e4, size=0.1, support="bulk").draw(STREAMS, "s")
    return given.build(STREAMS, shape)


@pytest.mark.parametrize("name", ["carbon", "silicon", "gold"])
def test_a_flat_surface_gives_the_yield_of_its_material(name: str) -> None:
    """Whatever edges, shadows and spread are switched on, a plane without tilt has δ0 and η."""
    for microscope in (PLAIN, FULL):
        made = image(bulk(name), microscope, STREAMS)
        assert made["SE"].mean() == pytest.approx(secondary_yield(MATERIALS[name], 5e3), rel=1e-5)
        assert made["BSE"].mean() == pytest.approx(backscatter_coefficient(MATERIALS[name].number), rel=1e-5)


@pytest.mark.parametrize("name", ["carbon", "gold"])
@pytest.mark.parametrize("degrees", [20.0, 45.0, 60.0])
def test_a_tilted_plane_gives_one_over_cosine_to_the_n(name: str, degrees: float) -> None:
    made = image(bulk(name, roof(degrees)), PLAIN, STREAMS)["SE"]
    flat = secondary_yield(MATERIALS[name], 5e3)
    n = tilt_exponent(MATERIALS[name].number)
    np.testing.assert_allclose(made[:, 20:108], flat / math.cos(math.radians(degrees)) ** n, rtol=1e-3)


def test_exponents_reach_from_light_to_heavy() -> None:
    assert tilt_exponent(4) == pytest.approx(1.3)
    assert tilt_exponent(92) == pytest.approx(0.65)
    assert tilt_exponent(6) > tilt_exponent(29) > tilt_exponent(79)


def test_tilt_counts_up_to_the_cap_only() -> None:
    made = [image(bulk("silicon", roof(tilt)), PLAIN, STREAMS)["SE"][:, 40:90].mean() for tilt in (75.0, 82.0)]
    assert made[1] == pytest.approx(made[0], rel=1e-3)


def test_a_tilted_plane_is_not_in_its_own_shadow_nor_an_edge() -> None:
    """The middle of a long slope, seen with edges and shadows: the tilt's law stands."""
    height = roof(30.0, (16, 512))
    kept = {"second_kind": 0.0, "tilt_cap": 75.0, "channelling": 0.0, "shadow_radius": 0.05, "escape_length": 40.0}
    made = image(bulk("silicon", height), FULL.model_copy(update=kept), STREAMS)["SE"]
    expected = secondary_yield(MATERIALS["silicon"], 5e3) / math.cos(math.radians(30)) ** tilt_exponent(14)
    np.testing.assert_allclose(made[:, 100:150], expected, rtol=2e-3)


def test_the_universal_curve_has_its_maximum_where_it_should() -> None:
    for name in ("carbon", "copper", "silica"):
        material = MATERIALS[name]
        at = np.geomspace(100, 2e4, 2001)
        curve = np.array([secondary_yield(material, e) for e in at])
        assert curve.max() == pytest.approx(material.yield_most, rel=0.03)
        assert at[curve.argmax()] == pytest.approx(material.energy_most, rel=0.05)


def test_backscattering_grows_with_atomic_number_and_is_reimers() -> None:
    eta = [backscatter_coefficient(z) for z in range(4, 93)]
    assert np.all(np.diff(eta) > 0)
    assert backscatter_coefficient(6) == pytest.approx(0.064, abs=0.003)
    assert backscatter_coefficient(29) == pytest.approx(0.302, abs=0.005)
    assert backscatter_coefficient(79) == pytest.approx(0.487, abs=0.01)


def test_bse_of_two_materials_side_by_side_follows_their_number() -> None:
    order = ["carbon", "silicon", "copper", "silver", "gold"]
    made = [image(bulk(name), FULL, STREAMS)["BSE"].mean() for name in order]
    assert np.all(np.diff(made) > 0)


def test_a_thin_coat_changes_the_secondaries_before_the_backscattered_electrons() -> None:
    """30 nm of carbon on gold: secondaries come from the carbon, backscattered electrons mostly from the gold."""
    relief = bulk("gold")
    coated = dataclasses.replace(relief, thickness=np.stack([relief.thickness[0], np.full((96, 96), 300.0)]),
                                 material=(MATERIALS["gold"], MATERIALS["carbon"]))
    at_20 = PLAIN.model_copy(update={"energy": 20e3})
    made = image(coated, at_20, STREAMS)
    assert made["SE"].mean() == pytest.approx(secondary_yield(MATERIALS["carbon"], 20e3), rel=0.01)
    assert made["BSE"].mean() > 0.9 * backscatter_coefficient(79)


def test_shares_add_up_to_what_is_solid() -> None:
    relief = busy()
    np.testing.assert_allclose(shares(relief, 30.0).sum(0), 1.0, atol=1e-6)
    nothing = dataclasses.replace(relief, thickness=np.zeros_like(relief.thickness))
    assert shares(nothing, 30.0).sum() == 0


def test_edges_are_bright_and_pits_are_dark() -> None:
    """A trench: its rim is brighter than the flat, its bottom darker, where that is switched on."""
    height = np.zeros((96, 96))
    height[:, 40:56] = -800.0
    flat = secondary_yield(MATERIALS["silicon"], 5e3)
    edged = image(bulk("silicon", height), PLAIN.model_copy(update={"edge": 0.6}), STREAMS)["SE"]
    dim = PLAIN.model_copy(update={"shadow": 0.9, "shadow_radius": 0.3})
    shaded = image(bulk("silicon", height), dim, STREAMS)["SE"]
    plain = image(bulk("silicon", height), PLAIN, STREAMS)["SE"]
    assert edged[:, 36].mean() > 1.02 * plain[:, 36].mean()
    # Of an endless trench 800 Å deep and 320 Å wide, the middle sees 1/√26 of the sky.
    assert 0.15 < shaded[:, 46:50].mean() / flat < 0.5
    np.testing.assert_allclose(plain[:, 46:50], flat, rtol=5e-3)
    np.testing.assert_allclose(shaded[:, 0:10], flat, rtol=0.03)


def test_the_detector_favours_the_side_that_faces_it() -> None:
    """With the detector along +col: the slope that falls towards +col is the brighter one; a flat has what it had."""
    lit = PLAIN.model_copy(update={"asymmetry": 0.5, "azimuth": 0.0})
    made = image(bulk("silicon", roof(30.0)), lit, STREAMS)["SE"]
    falling, rising = made[:, 40:90].mean(), made[:, 160:220].mean()
    assert falling / rising == pytest.approx((1 + 0.5 * 0.5) / (1 - 0.5 * 0.5), rel=1e-2)
    flat = image(bulk("silicon"), lit, STREAMS)["SE"].mean()
    assert flat == pytest.approx(secondary_yield(MATERIALS["silicon"], 5e3))


def test_charging_brightens_insulators_only() -> None:
    half = np.zeros((2, 96, 96))
    half[0, :, :48], half[1, :, 48:] = 1e7, 1e7
    relief = dataclasses.replace(bulk("silicon"), thickness=half, material=(MATERIALS["copper"], MATERIALS["silica"]))
    plain, charged = (image(relief, PLAIN.model_copy(update={"charging": c}), STREAMS)["SE"] for c in (0.0, 0.8))
    ratio = charged / plain
    assert ratio[:, 70:74].mean() > 1.2 > 1.0 > ratio[:, 22:26].mean()
    plain, charged = (image(bulk("copper"), PLAIN.model_copy(update={"charging": c}), STREAMS)["SE"] for c in (0, 0.8))
    assert np.array_equal(plain, charged)


@pytest.mark.parametrize("family", ["facets", "fracture", "mixed"])
def test_a_rolled_specimen_gives_the_rolled_image(family: str) -> None:
    relief = busy(family)
    rolled = dataclasses.replace(relief, height=np.roll(relief.height, (17, -40), (0, 1)),
                                 thickness=np.roll(relief.thickness, (17, -40), (1, 2)),
                                 grain=np.roll(relief.grain, (17, -40), (0, 1)))
    whole = FULL.model_copy(update={"asymmetry": 0.4, "channelling": 0.2, "charging": 0.4})
    for name, picture in image(relief, whole, STREAMS).items():
        # Differences of heights are taken in single precision.
        np.testing.assert_allclose(image(rolled, whole, STREAMS)[name], np.roll(picture, (17, -40), (0, 1)), rtol=1e-4,
                                   atol=1e-5)


@pytest.mark.parametrize("family", ["spheres", "fracture", "tracks"])
def test_nothing_is_left_beyond_the_band_limit(family: str) -> None:
    """Less than 10⁻⁶ of the power apart from the mean, though the probe asked for is a point."""
    for picture in image(busy(family), FULL, STREAMS).values():
        power = np.abs(np.fft.fft2(picture.astype(float))) ** 2
        power[0, 0] = 0
        f = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192)[None])
        assert power[f > BAND_LIMIT + 1e-3].sum() < 1e-6 * power.sum()


def test_images_are_what_the_contract_says() -> None:
    made = image(busy(), SurfaceSem().draw(STREAMS, "m"), STREAMS)
    assert tuple(made) == SurfaceSem.detectors
    assert all(p.dtype == np.float32 and p.shape == (192, 192) and p.min() >= 0 for p in made.values())
    assert 0.01 < made["SE"].mean() < 5
    assert made["BSE"].max() < 1.5
