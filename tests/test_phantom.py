"""STEM and TEM at low magnification: each law of the model on a specimen of which the answer is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from emsynth.draw import Streams
from emsynth.errors import FieldError
from emsynth.microscope import SurveyStem, SurveyTem
from emsynth.simulation.phantom import BAND_LIMIT, diffraction, haadf_path, image
from emsynth.specimen._morphology_materials import velocity
from emsynth.specimen.morphology import MATERIALS, Morphology, Relief

STREAMS = Streams(2, 1)
STEM = SurveyStem(diffraction=0.0, channelling=0.0).draw(STREAMS, "microscope")
TEM = SurveyTem(diffraction=0.0, defocus=0.0, illumination=0.0).draw(STREAMS, "microscope")


def slab(name: str, thickness: float, shape: tuple[int, int] = (64, 64), grain: int = -1) -> Relief:
    flat = np.full(shape, thickness)
    return Relief(height=flat, thickness=flat[None], material=(MATERIALS[name],), grain=np.full(shape, grain, np.int16),
                  orientation=np.zeros((grain + 1, 3)), sampling=(20.0, 20.0), family="film")


def busy(streams: Streams = STREAMS, shape: tuple[int, int] = (192, 192), family: str = "grains") -> Relief:
    return Morphology(family=family, extent=2e4, size=0.1, thickness=400.0).draw(streams, "s").build(streams, shape)


@pytest.mark.parametrize("name", ["carbon", "silicon", "gold"])
def test_dark_field_is_linear_in_a_thin_thickness(name: str) -> None:
    thin = 0.01 * haadf_path(MATERIALS[name], 200e3, float(STEM.inner), float(STEM.outer))
    one, two = (image(slab(name, n * thin), STEM, STREAMS)["HAADF"].mean() for n in (1, 2))
    assert one == pytest.approx(1 - math.exp(-0.01), rel=1e-5)
    assert two == pytest.approx(2 * one, rel=0.01)


def test_dark_field_goes_by_atoms_and_their_number_to_the_power_1_7() -> None:
    gold, carbon = MATERIALS["gold"], MATERIALS["carbon"]
    ratio = haadf_path(carbon, 200e3, 60, 200) / haadf_path(gold, 200e3, 60, 200)
    assert ratio == pytest.approx(gold.atoms / carbon.atoms * (79 / 6) ** 1.7, rel=1e-12)


def test_dark_field_of_gold_is_of_the_size_that_multislice_gives() -> None:
    """5 nm of gold scatter about a tenth of a 200 kV beam to 60-200 mrad (Rutherford: 0.10); a factor 2 is allowed."""
    assert 0.04 < 50.0 / haadf_path(MATERIALS["gold"], 200e3, 60, 200) < 0.2


def test_dark_field_never_exceeds_the_beam() -> None:
    """A thick crystal along an axis, which channelling would make brighter than all of the beam."""
    relief = dataclasses.replace(slab("gold", 1e5, grain=0), orientation=np.array([[0.0, 6.0, 0.0]]))
    bright = image(relief, STEM.model_copy(update={"channelling": 0.3, "bending": 0.0}), STREAMS)["HAADF"]
    assert 0.99 < bright.max() <= 1.0 + 1e-6


def test_bright_field_falls_by_what_is_scattered_beyond_the_detector() -> None:
    path = MATERIALS["carbon"].elastic_path(200e3) / (1 - float(STEM.passed))
    assert image(slab("carbon", 700.0), STEM, STREAMS)["BF"].mean() == pytest.approx(math.exp(-700.0 / path), rel=1e-5)


def test_elastic_mean_free_path_of_carbon_and_gold() -> None:
    """About 150-200 nm and 7-9 nm at 100 kV (Reimer & Kohl 2008, table 5.2, for 2 and 19.3 g/cm³)."""
    assert 1300 < MATERIALS["carbon"].elastic_path(100e3) < 2200
    assert 60 < MATERIALS["gold"].elastic_path(100e3) < 100


def test_tem_falls_exponentially_and_vacuum_is_the_incident_beam() -> None:
    signal = [image(slab("silica", t), TEM, STREAMS)["camera"].mean() for t in (0.0, 500.0, 1000.0)]
    silica = MATERIALS["silica"]
    rate = ((1 - float(TEM.passed)) / silica.elastic_path(200e3)
            + float(TEM.filtered) / silica.inelastic_path(200e3))
    assert signal[0] == pytest.approx(1.0, abs=1e-6)
    assert signal[1] == pytest.approx(math.exp(-500.0 * rate), rel=1e-5)
    assert signal[2] == pytest.approx(signal[1] ** 2, rel=1e-5)


def test_a_crystal_in_the_bragg_position_has_fringes_of_equal_thickness() -> None:
    """At s = 0 of one reflection, darkest at half an extinction distance and brighter again at a whole one."""
    silicon = MATERIALS["silicon"]
    extinction = silicon.extinction * velocity(200e3) / velocity(100e3)
    left = []
    for part in (0.05, 0.5, 1.0):
        relief = slab("silicon", part * extinction, grain=0)
        relief = dataclasses.replace(relief, orientation=np.array([[0.0, 6.0, 0.0]]))
        left.append(float(diffraction(relief, 200e3, 0.0, STREAMS).mean()))
    assert left[0] > 0.9
    assert left[1] < 0.3
    assert left[2] > left[1] + 0.2


def test_amorphous_material_does_not_diffract() -> None:
    assert np.all(diffraction(slab("carbon", 500.0), 200e3, 5.0, STREAMS) == 1)


def test_underfocus_has_a_bright_fringe_outside_an_edge_and_overfocus_a_dark_one() -> None:
    relief = slab("carbon", 300.0, (128, 128))
    inside = np.broadcast_to((np.arange(128) >= 32) & (np.arange(128) < 96), (128, 128)).astype(float)
    relief = dataclasses.replace(relief, thickness=relief.thickness * inside)
    under, over = (image(relief, TEM.model_copy(update={"defocus": df}), STREAMS)["camera"][0] for df in (2e5, -2e5))
    assert under[:32].max() > 1.02
    assert over[:32].min() < 0.98
    assert under[:8].mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("microscope", [SurveyStem(), SurveyTem(illumination=0.0, bending=0.0)], ids=["stem", "tem"])
def test_a_rolled_specimen_gives_the_rolled_image(microscope: SurveyStem | SurveyTem) -> None:
    """Nothing knows where the border is; what bends the foil is no part of the relief, so it is off."""
    drawn = microscope.draw(STREAMS, "microscope").model_copy(update={"bending": 0.0})
    relief = busy()
    rolled = dataclasses.replace(relief, height=np.roll(relief.height, (31, -50), (0, 1)),
                                 thickness=np.roll(relief.thickness, (31, -50), (1, 2)),
                                 grain=np.roll(relief.grain, (31, -50), (0, 1)))
    for name, picture in image(relief, drawn, STREAMS).items():
        np.testing.assert_allclose(image(rolled, drawn, STREAMS)[name], np.roll(picture, (31, -50), (0, 1)), atol=1e-5)


@pytest.mark.parametrize("family", ["grains", "holes", "particles"])
@pytest.mark.parametrize("microscope", [SurveyStem(probe_size=0.0), SurveyTem(probe_size=0.0)], ids=["stem", "tem"])
def test_nothing_is_left_beyond_the_band_limit(family: str, microscope: SurveyStem | SurveyTem) -> None:
    """Less than 10⁻⁶ of the power apart from the mean, though the probe asked for is a point."""
    for picture in image(busy(family=family), microscope.draw(STREAMS, "m"), STREAMS).values():
        power = np.abs(np.fft.fft2(picture.astype(float))) ** 2
        power[0, 0] = 0
        f = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192)[None])
        assert power[f > BAND_LIMIT + 1e-3].sum() < 1e-6 * power.sum()


def test_images_are_what_the_contract_says() -> None:
    for microscope in (SurveyStem(), SurveyTem()):
        made = image(busy(), microscope.draw(STREAMS, "m"), STREAMS)
        assert tuple(made) == microscope.detectors
        assert all(p.dtype == np.float32 and p.shape == (192, 192) and p.min() >= 0 for p in made.values())


def test_every_random_map_has_a_stream_of_its_own() -> None:
    """So that switching one off leaves the others as they were; and other streams give another image."""
    asked: list[str] = []

    class Spy(Streams):
        def generator(self, name: str) -> np.random.Generator:
            asked.append(name)
            return super().generator(name)

    relief, lit = busy(), TEM.model_copy(update={"diffraction": 1.0, "illumination": 0.3})
    seen = image(relief, lit, Spy(2, 1))["camera"]
    assert len(asked) == len(set(asked)) == 3
    assert np.array_equal(seen, image(relief, lit, STREAMS)["camera"])
    assert not np.array_equal(seen, image(relief, lit, Streams(2, 2))["camera"])


def test_a_bulk_is_refused() -> None:
    given = Morphology(family="spheres", extent=2e4, size=0.1, support="bulk").draw(STREAMS, "s")
    relief = given.build(STREAMS, (64, 64))
    with pytest.raises(FieldError, match=r"specimen\.support: no beam passes .* use support: film"):
        image(relief, STEM, STREAMS)
