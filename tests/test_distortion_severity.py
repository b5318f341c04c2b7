"""Severities: plain chains, calibrated to fall from 1 to 5; and the picture that shows them."""

from itertools import pairwise
from pathlib import Path
from typing import get_args

import numba
import numpy as np
import pytest
from PIL import Image

from emsynth.distortion import ArtefactStage, CameraStage, Chain, DetectorStage, Grid, ScanStage
from emsynth.distortion.severity import (
    LEVELS,
    calibrate,
    families,
    family,
    quality,
    reference_scene,
    severity,
    table,
)
from emsynth.distortion.stage import MaskBit, Stage
from emsynth.draw import extremes, number
from emsynth.errors import RecipeError
from emsynth.preview.gallery import draw_gallery, grey_range, write_gallery

COMPILED = not numba.config.DISABLE_JIT
compiled_only = pytest.mark.skipif(not COMPILED, reason="too many pixels for interpreted kernels; runs compiled")
TAGS = [kind.model_fields["stage"].default for union in (ScanStage, DetectorStage, CameraStage, ArtefactStage)
        for kind in get_args(get_args(union)[0])]  # fmt: skip


def stages(chain: Chain) -> list[Stage]:
    return [*chain.scan, *chain.detector, *chain.camera, *chain.artefact]


def flat(grid: Grid) -> np.ndarray:
    return np.ones(grid.shape, dtype=np.float32) + np.indices(grid.shape)[0].astype(np.float32) / grid.shape[0]


def test_every_stage_has_a_family() -> None:
    """A new stage needs its severities; only what truth and image share has none."""
    alone = [name for name in families() if not name.startswith("combined_")]
    assert sorted(alone) == sorted(set(TAGS) - {"gain", "black_level"})
    for name in alone:
        assert all(name in [stage.stage for stage in stages(severity(name, level))] for level in LEVELS)


@pytest.mark.parametrize("name", families())
def test_severities_are_plain_chains(name: str) -> None:
    """Nothing is left to be drawn or to chance, and no two severities are alike."""
    chains = [severity(name, level) for level in LEVELS]
    for chain in chains:
        assert not list(chain.distributions())
        assert number(chain.undistorted) == 0
        assert all(number(stage.probability) == 1 for stage in stages(chain))
    assert len({chain.model_dump_json() for chain in chains}) == len(LEVELS)


@pytest.mark.parametrize("name", families())
def test_good_days_lie_within_what_recipes_draw(name: str) -> None:
    """Severities 1 to 3 are no stronger than the default distribution of any number of a stage."""
    for level in (1, 2, 3):
        for stage in stages(severity(name, level)):
            for key, declared in type(stage).model_fields.items():
                value = getattr(stage, key)
                if key not in ("stage", "probability") and not isinstance(value, str):
                    drawn = extremes(declared.default)
                    assert min(drawn) <= value <= max(drawn), (stage.stage, key)


@compiled_only
@pytest.mark.compiled
@pytest.mark.parametrize("name", families())
def test_calibration(name: str) -> None:
    """Quality falls with every level, and is what the table records, to what other random numbers would change."""
    found = calibrate(name)
    assert all(worse < better for better, worse in pairwise(found))
    np.testing.assert_allclose(found, family(name).qualities, atol=1.0,
                               err_msg="python -m emsynth.distortion.severity prints what to record")


def test_severity_is_a_function_of_seed_and_index() -> None:
    """The same key gives the same image, another index another one."""
    runs = [severity("read_noise", 3).run(flat, (12, 16), 1, index).distorted for index in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_psnr_of_white_noise() -> None:
    """Noise of deviation σ on a truth of range P gives 20 lg(P/σ), within five standard errors."""
    made = severity("read_noise", 2).run(flat, (64, 64), 0, 0)
    sigma, error = 3.0, 5 * 10 / np.log(10) * np.sqrt(2 / 64**2)
    assert quality(made, "psnr") == pytest.approx(20 * np.log10(np.ptp(made.truth) / sigma), abs=error)


def test_quality_of_damage_and_cover() -> None:
    """Defects count in psnr only; what is cropped or covered counts in clear only."""
    hit = severity("dead_pixels", 5).run(flat, (64, 64), 0, 0)
    assert (hit.mask & MaskBit.DEFECT).any()
    assert quality(hit, "psnr_undamaged") == 99 > quality(hit, "psnr")
    covered = severity("border", 5).run(flat, (64, 64), 0, 0)
    assert quality(covered, "psnr") == 99
    assert quality(covered, "clear") == pytest.approx(100 * np.mean(covered.mask == 0))
    cropped = severity("resample", 3).run(flat, (64, 64), 0, 0)
    assert quality(cropped, "clear") == pytest.approx(25)


def test_reference_scene_fills_its_range() -> None:
    """Atoms rise above a flat support where a probe scans; in a camera they are dark, with a third of the contrast."""
    bright, dark = (gather(Grid((96, 96), np.eye(2, 3))) for gather, _ in
                    (reference_scene(False, 96), reference_scene(True, 96)))  # fmt: skip
    np.testing.assert_allclose(dark, 1 - bright / 3, atol=1e-5)
    assert 0.15 <= bright.min() < 0.2
    assert 0.9 < bright.max() <= 1.001


def test_combined_is_that_of_stem() -> None:
    """The synonym gives the same chains, and is not listed twice."""
    assert severity("combined", 2) == severity("combined_stem", 2)
    assert "combined" not in families()


@pytest.mark.parametrize(
    ("name", "level", "said"),
    [("row_jiter", 1, "did you mean 'row_jitter'"), ("gain", 1, "truth and image share it"),
     ("poisson", 0, "take 1"), ("poisson", 6, "barely usable"), ("poisson", True, "no level True")],
)  # fmt: skip
def test_messages_name_what_is_allowed(name: str, level: int, said: str) -> None:
    """A wrong family or level is told with the way out."""
    with pytest.raises(RecipeError, match=said):
        severity(name, level)


def test_what_the_gallery_shows_varies_or_explains() -> None:
    """Each family names numbers that its chains have; only those that differ between severities tell anything."""
    for each in table().values():
        assert each.shown
        assert len(each.levels) == len(each.qualities) == len(LEVELS)


def test_gallery(tmp_path: Path) -> None:
    """A panel for the truth and for each severity of each family, a dot per pixel, in a PNG of few greys."""
    names, side = ("row_jitter", "poisson", "gain_map", "read_noise", "jpeg", "combined_stem"), 24
    figure = draw_gallery(lambda camera: reference_scene(camera, side), names)
    assert len(figure.axes) == len(names) * (1 + len(LEVELS))
    boxes = [axes.get_position().transformed(figure.transFigure) for axes in figure.axes]
    np.testing.assert_allclose([(box.width, box.height) for box in boxes], side)
    assert not any(box.overlaps(other) for n, box in enumerate(boxes) for other in boxes[:n])
    out = tmp_path / "gallery.png"
    write_gallery(out, figure)
    with Image.open(out) as picture:
        assert picture.size == tuple(np.rint(figure.get_size_inches() * 100))
        assert len(picture.getcolors() or ()) <= 64


def test_grey_range_depends_on_the_truth_alone() -> None:
    """So that along a row only the distortion changes what is seen."""
    made = [severity("read_noise", level).run(flat, (24, 24), 0, 0) for level in (1, 5)]
    assert grey_range(made[0]) == grey_range(made[1])
    low, high = grey_range(made[0])
    assert low < made[0].truth.min() < made[0].truth.max() < high
