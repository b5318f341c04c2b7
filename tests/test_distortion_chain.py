"""The chain: what truth and image share, what is recorded, and that every draw stands alone."""

import numba
import numpy as np
import pytest
from pydantic import ValidationError

from emsynth.distortion import (
    BlackLevel,
    Chain,
    Drift,
    FlyBack,
    Gain,
    Grid,
    Hum,
    Poisson,
    Quantise,
    ReadNoise,
    RowJitter,
    Streak,
    Window,
    prefilter,
)
from emsynth.distortion.chain import DETECTOR_ORDER, Distorted
from emsynth.draw import Streams
from emsynth.errors import FieldError

COMPILED = not numba.config.DISABLE_JIT
SHAPE = (48, 40) if COMPILED else (16, 20)
TILE = prefilter(1 + np.random.default_rng(0).random((2, 12, 16)), True)
WINDOW = Window(SHAPE, 0.1, rotation=0.2, origin=(3.0, 2.0))
FIXED = {"expected_counts": 20.0, "dwell": 1e-5, "fly_back": 2e-4, "undistorted": 0.0}
SCAN = (
    RowJitter(sigma=1.0, ratio=0.3, correlation=0.5),
    Hum(amplitude=0.5, lines=2, mains=50.0, mechanical=0.5, line_start="free"),
    Drift(distance=3.0, direction=40.0, bend=1.0, bend_direction=200.0),
    FlyBack(amplitude=5.0, amplitude_frame=3.0, settling=2e-4),
)


def look(where: Grid | np.ndarray) -> np.ndarray:
    return WINDOW.gather(TILE, 0.3, True, where)


def run(index: int = 0, **parts: object) -> Distorted:
    return Chain.model_validate(FIXED | parts).run(look, SHAPE, 1, index)


def test_distorted_is_the_field_at_the_recorded_positions() -> None:
    """Without noise, the recorded affine part and float16 displacement reproduce both images bit for bit."""
    for geometry in ("affine", "smooth", "ideal"):
        made = run(scan=SCAN, truth_geometry=geometry)
        scale = np.float32(made.scale)
        np.testing.assert_array_equal(look(made.probe_positions()) * scale, made.distorted)
        np.testing.assert_array_equal(look(made.truth_positions()) * scale, made.truth)
        assert not np.array_equal(made.truth, made.distorted)


def test_geometries_share_what_they_say() -> None:
    """Ideal shares nothing; smooth leaves jitter and fast hum only; all look at the same probe positions."""
    affine, smooth, ideal = (run(scan=SCAN, truth_geometry=g) for g in ("affine", "smooth", "ideal"))
    assert not ideal.affine.any()
    assert ideal.slow is None
    np.testing.assert_array_equal(ideal.truth_positions(), np.indices(SHAPE))
    for other in (affine, smooth):
        np.testing.assert_allclose(other.probe_positions(), ideal.probe_positions(), atol=0.01)
    jitter = run(scan=SCAN[:1], truth_geometry="ideal").displacement
    alone = run(scan=(SCAN[0], *SCAN[2:]), truth_geometry="smooth").displacement
    np.testing.assert_allclose(alone, jitter, atol=0.01)


def test_truth_and_image_share_their_scale() -> None:
    """The truth's mean is the expected count; the image has the same factor."""
    made = run(scan=SCAN)
    assert made.truth.mean() == pytest.approx(20, rel=1e-5)
    assert made.expected_counts == 20


def test_streak_moves_the_truth_along_with_its_content() -> None:
    """A bright column appears at a larger col in the image; the truth shows it there too, by the centroid."""
    shape, line = (4, 60), np.zeros((8, 64))
    line[:, 20] = 1
    window, coefficients = Window(shape, 1.0, origin=(3.0, 29.5)), prefilter(line, True)
    streak = Streak(shape="exponential", decay=3.0, fraction=1.0, beam="blanked")
    chain = Chain.model_validate(FIXED | {"detector": (streak,)})
    made = chain.run(lambda at: window.gather(coefficients, 1.0, True, at), shape, 0, 0)

    def centre(image: np.ndarray) -> float:
        return float(image[1] @ np.arange(60) / image[1].sum())

    assert made.affine[1, 2] == pytest.approx(-streak.centroid())
    assert centre(made.distorted) == pytest.approx(20 + streak.centroid(), abs=0.02)
    assert centre(made.truth) == pytest.approx(20 + streak.centroid(), abs=0.02)
    np.testing.assert_allclose(made.to_truth(np.array([[1.0, 20.0]])), [[1, 20 + streak.centroid()]])


@pytest.mark.parametrize("geometry", ["affine", "smooth", "ideal"])
def test_to_truth_inverts_the_truth_positions(geometry: str) -> None:
    """A column at the window px that a truth pixel looks at lies at that pixel of the truth."""
    parts = (Drift(distance=3.0, direction=40.0, bend=1.0, bend_direction=200.0),)
    made = run(scan=parts, truth_geometry=geometry)
    pixels = np.indices(SHAPE)[:, 3:-3, 3:-3].reshape(2, -1).T
    looked = made.truth_positions()[:, pixels[:, 0], pixels[:, 1]].T
    np.testing.assert_allclose(made.to_truth(looked), pixels, atol=1e-4)


def test_identity_pair() -> None:
    """An undistorted sample loses all its stages; image and truth are equal, nothing is displaced."""
    chain = Chain.model_validate(FIXED | {"undistorted": 1.0, "scan": SCAN, "detector": (Poisson(), Gain(gain=2.0))})
    drawn = chain.draw(Streams(0, 0))
    made = drawn.run(look, SHAPE, 0, 0)
    np.testing.assert_array_equal(made.truth, made.distorted)
    for part in (made.displacement, made.affine, made.mask):
        assert not part.any()
    assert (drawn.undistorted, drawn.scan, drawn.detector) == (1, (), ())


def full_chain() -> Chain:
    half = {"probability": 0.5}
    scan = (RowJitter(**half), Hum(**half), Drift(**half), FlyBack(**half))
    detector = (Poisson(), Streak(**half), ReadNoise(**half), Gain(), Quantise(**half))
    return Chain(undistorted=0.03, scan=scan, detector=detector)


def test_drawing_a_drawn_chain_changes_nothing() -> None:
    """Presence is settled once; a drawn chain is a chain."""
    for index in range(40):
        drawn = full_chain().draw(Streams(0, index), "distort")
        assert drawn.draw(Streams(0, index), "distort") == drawn
        assert drawn.draw(Streams(9, 9), "elsewhere") == drawn
        assert Chain.model_validate_json(drawn.model_dump_json()) == drawn


def test_probability_is_the_share_of_samples() -> None:
    """Stages come with their probability, identity pairs with theirs; within five standard errors."""
    drawn = [full_chain().draw(Streams(0, index)) for index in range(400)]
    assert np.mean([c.undistorted for c in drawn]) == pytest.approx(0.03, abs=5 * np.sqrt(0.03 / 400))
    kept = [any(s.stage == "hum" for s in c.scan) for c in drawn if not c.undistorted]
    assert np.mean(kept) == pytest.approx(0.5, abs=5 * 0.5 / 20)


def test_removing_a_stage_leaves_the_others_alone() -> None:
    """Values, presence and random numbers of a stage do not depend on its neighbours."""
    chain = full_chain()
    fewer = chain.model_copy(update={"scan": chain.scan[1:], "detector": chain.detector[1:]})
    for index in range(20):
        all_of_it, rest = chain.draw(Streams(0, index), "d"), fewer.draw(Streams(0, index), "d")
        for part, tag in (("scan", "row_jitter"), ("detector", "poisson")):
            assert tuple(s for s in getattr(all_of_it, part) if s.stage != tag) == getattr(rest, part)
    noise = [run(detector=d).distorted for d in ((Poisson(),), (Poisson(), Gain(gain=1.0)))]
    np.testing.assert_array_equal(*noise)


def test_scan_stages_add_up_in_any_order() -> None:
    """The same bytes however the scan stages are listed."""
    one, other = run(scan=SCAN), run(scan=SCAN[::-1])
    np.testing.assert_array_equal(one.displacement, other.displacement)
    np.testing.assert_array_equal(one.distorted, other.distorted)


def test_samples_differ_and_repeat() -> None:
    """Another index is another sample, the same index the same bytes."""
    parts = {"scan": SCAN, "detector": (Poisson(), ReadNoise(sigma=1.0))}
    np.testing.assert_array_equal(run(3, **parts).distorted, run(3, **parts).distorted)
    assert not np.array_equal(run(3, **parts).distorted, run(4, **parts).distorted)


def test_detector_output_units_are_shared() -> None:
    """On average the image is the truth: gain and black level are in both, counting noise averages out."""
    amplifier = (Gain(gain=4.0), BlackLevel(level=0.2), Quantise(levels=4096, full_scale=8.0))
    made = run(detector=(Poisson(), ReadNoise(sigma=1.0), *amplifier))
    rest = (made.distorted - made.truth).astype(np.float64)
    assert abs(rest.mean()) < 5 * 4 * np.sqrt(21 / rest.size)
    assert made.gain == 4
    # The operator leaves room for four deviations of the brightest pixel's counting and read noise.
    peak = (made.truth.max() - made.black_level) / made.gain
    brightest = made.gain * (peak + 4 * np.sqrt(peak + 2))
    assert made.black_level == pytest.approx(0.2 * brightest, rel=1e-5)
    # Full scale begins above the black level.
    assert made.step == pytest.approx(8.2 * brightest / 4095, rel=1e-5)
    np.testing.assert_allclose(made.distorted / made.step, np.round(made.distorted / made.step), atol=1e-3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"detector": [{"stage": "gain"}, {"stage": "poisson"}]}, "'poisson' acts before 'gain'; move it up"),
        ({"detector": [{"stage": "gain"}, {"stage": "gain"}]}, "'gain' stands 2 times; keep one"),
        ({"scan": [{"stage": "hum"}, {"stage": "hum"}]}, "'hum' stands 2 times; keep one"),
        ({"scan": [{"stage": "row_jitter", "sigma": -1}]}, "-1 px is outside 0 to 20 px"),
        ({"detector": [{"stage": "poisson"}, {"stage": "compound_poisson"}]}, "both count the electrons; keep one"),
        ({"camera": [{"stage": "conversion"}, {"stage": "counting"}]}, "both count the electrons; keep one"),
        ({"camera": [{"stage": "xray"}], "scan": [{"stage": "hum"}]}, "a chain with a camera has no scan stages"),
        ({"camera": [{"stage": "xray"}], "detector": [{"stage": "hits"}]}, "a chain with a camera has no detector"),
        ({"artefact": [{"stage": "jpeg"}, {"stage": "smooth"}]}, "'smooth' acts before 'jpeg'; move it up"),
        ({"detector": [{"stage": "pulse_spread"}]}, "put 'poisson' before it"),
        ({"detector": [{"stage": "hits", "probability": 1.5}]}, "1.5 is outside 0 to 1"),
    ],
)
def test_mistakes_say_the_way_out(parts: dict[str, object], message: str) -> None:
    """Order, doubles and ranges."""
    with pytest.raises(ValidationError, match=message):
        Chain.model_validate(parts)


def test_dark_window_is_refused() -> None:
    """Nothing scales vacuum to an expected count."""
    with pytest.raises(FieldError, match="vacuum"):
        Chain.model_validate(FIXED).run(lambda at: np.zeros(SHAPE, np.float32), SHAPE, 0, 0)


def test_an_undrawn_chain_does_not_run() -> None:
    """Ranges are not numbers."""
    with pytest.raises(TypeError, match="draw"):
        Chain().run(look, SHAPE, 0, 0)


def test_every_stage_has_its_place() -> None:
    """The union's order is the physical one, from electrons to digital numbers."""
    assert DETECTOR_ORDER[:2] == ("beam_noise", "poisson")
    assert DETECTOR_ORDER[-1] == "quantise"
    assert DETECTOR_ORDER.index("streak") < DETECTOR_ORDER.index("gain") < DETECTOR_ORDER.index("saturation")
