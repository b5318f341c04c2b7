"""Morphologies: what a relief promises, whatever the family."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from emsynth.draw import Streams
from emsynth.errors import StructureError
from emsynth.specimen.morphology import SPLITS, Morphology, Relief, split_of

SHAPE = (192, 192)
STREAMS = Streams(5, 3)


def made(family: str, streams: Streams = STREAMS, shape: tuple[int, int] = SHAPE, **keys: object) -> Relief:
    given = {"extent": 2e4, "size": 0.08, "support": "film", **keys}
    return Morphology(family=family, **given).draw(streams, "specimen").build(streams, shape)


@pytest.fixture(scope="module", params=SPLITS)
def relief(request: pytest.FixtureRequest) -> Relief:
    return made(request.param)


def test_maps_are_finite_and_of_one_shape(relief: Relief) -> None:
    assert relief.height.shape == relief.grain.shape == relief.class_map.shape == SHAPE
    assert relief.thickness.shape == (len(relief.material), *SHAPE)
    assert np.isfinite(relief.height).all()
    assert relief.thickness.min() >= 0
    assert relief.thickness.max() > 0
    assert relief.sampling == pytest.approx((2e4 / 192,) * 2)


def test_the_border_is_a_place_like_any_other(relief: Relief) -> None:
    """Steps across the border are as large as elsewhere: the maps continue as their own repetition."""
    for values in (relief.height, relief.thickness.sum(0)):
        for axis in (0, 1):
            steps = np.abs(np.diff(np.concatenate([values, np.take(values, [0], axis)], axis), axis=axis))
            lines = np.sort(steps.mean(1 - axis))
            assert np.take(steps, -1, axis).mean() <= 1.05 * lines[-2] + 1e-9


def test_classes_are_what_the_grains_and_the_thickness_say(relief: Relief) -> None:
    """Vacuum only where there is nothing, a grain's class where there is a crystal, an orientation for each grain."""
    solid = relief.thickness.sum(0) >= 5.0
    assert np.array_equal(relief.class_map == 0, ~solid)
    assert np.array_equal(relief.class_map[solid] >= 2, relief.grain[solid] >= 0)
    assert relief.grain.max() == len(relief.orientation) - 1
    if not any(m.crystalline for m in relief.material):
        assert relief.grain.max() == -1


def test_the_same_streams_give_the_same_specimen_and_others_another(relief: Relief) -> None:
    assert np.array_equal(made(relief.family).height, relief.height)
    assert not np.array_equal(made(relief.family, Streams(5, 4)).height, relief.height)


def test_cells_reach_across_the_border() -> None:
    """Cells of sites moved by whole pixels are the moved cells, wherever the border then lies."""
    from emsynth.specimen._morphology_canvas import Canvas

    canvas = Canvas(shape=(48, 64), step=2.0, size=20.0, coverage=0.5, aspect=1.0, spread=0.3, roughness=0.0,
                    film=100.0, support="film", body="gold", ground="carbon", extra="silver", crystalline={},
                    generator=lambda name: STREAMS.generator(name))
    sites = canvas.sites("cells", 9)
    one, other = canvas.cells(sites), canvas.cells(np.mod(sites + 2.0 * np.array([17, 29]), canvas.side))
    assert np.array_equal(np.roll(one.owner, (17, 29), (0, 1)), other.owner)
    np.testing.assert_allclose(np.roll(one.gap, (17, 29), (0, 1)), other.gap, atol=1e-6)


def test_height_and_thickness_agree_for_bodies_on_a_film() -> None:
    """Where particles stand above a film of even thickness there is more material than beside them."""
    relief = made("particles", roughness=0.0, coverage=0.2, material="silica", ground="carbon")
    silica = relief.thickness[[m.name for m in relief.material].index("silica")]
    above = relief.height > np.median(relief.height) + 300
    assert above.mean() > 0.02
    assert silica[above].mean() > 10 * silica[~above].mean()


def test_edges_are_drawn_through_the_pixels() -> None:
    """Beads cover part of a pixel at their edge: without that, coverage would be all or nothing."""
    from emsynth.specimen._morphology_shapes import ellipsoid

    row, col = (np.arange(-20.0, 21.0)[:, None], np.arange(-20.0, 21.0)[None])
    cover = ellipsoid(15.3, 15.3, 15.3, 0.0, 1.0)(row, col)[2]
    assert cover.sum() == pytest.approx(np.pi * 15.3**2, rel=2e-3)
    assert ((cover > 0.05) & (cover < 0.95)).sum() > 40


def test_a_sphere_is_as_thick_as_it_is_wide() -> None:
    from emsynth.specimen._morphology_shapes import ellipsoid

    row, col = (np.arange(-20.0, 21.0)[:, None], np.arange(-20.0, 21.0)[None])
    height, thickness, _ = ellipsoid(15.0, 15.0, 15.0, 0.0, 1.0)(row, col)
    assert height[20, 20] == thickness[20, 20] == pytest.approx(30.0)
    assert thickness.sum() == pytest.approx(4 / 3 * np.pi * 15.0**3, rel=0.01)


def test_one_key_leaves_the_random_numbers_of_the_others() -> None:
    """The material and the film's thickness change no shape; naming one material leaves the other as drawn."""
    one = made("grains", material="copper", thickness=200.0)
    other = made("grains", material="iron", thickness=400.0)
    assert np.array_equal(one.grain, other.grain)
    assert np.array_equal(one.height, other.height)
    drawn = made("tracks")
    assert made("tracks", material="tungsten").material[0] == drawn.material[0]


def test_a_drawn_morphology_draws_to_itself() -> None:
    drawn = Morphology().draw(STREAMS, "specimen")
    assert not list(drawn.distributions())
    assert drawn.draw(Streams(9, 9), "specimen") == drawn


def test_every_split_has_a_family_and_every_family_a_split() -> None:
    from emsynth.specimen._morphology_families import FAMILIES, GROUNDLESS

    assert set(SPLITS.values()) == {"train", "val", "test"}
    assert set(FAMILIES) == set(SPLITS) > GROUNDLESS
    assert {split_of(f"morphology {name}") for name in SPLITS} == {"train", "val", "test"}
    assert split_of("rocksalt") is None
    assert split_of("morphology") is None


def test_mixed_shows_nothing_of_what_is_kept_for_validation_and_test(monkeypatch: pytest.MonkeyPatch) -> None:
    from emsynth.specimen import _morphology_families as families

    seen: set[str] = set()
    for name in SPLITS:
        if name != "mixed":
            monkeypatch.setitem(families.FAMILIES, name, lambda canvas, name=name: seen.add(name))
    for index in range(40):
        made("mixed", Streams(1, index), (64, 64), material="gold", size=0.1)
    assert len(seen) >= 5
    assert {SPLITS[name] for name in seen} == {"train"}


def test_what_is_narrower_than_four_pixels_is_refused() -> None:
    with pytest.raises(StructureError, match=r"size: 0\.01 of the extent is 1\.9 px .* use a size of 0\.021"):
        made("particles", size=0.01)


def test_unknown_words_are_refused_with_those_that_are_known() -> None:
    with pytest.raises((ValidationError, StructureError), match=r"'cheese' is not a family.*particles"):
        Morphology(family="cheese")
    with pytest.raises((ValidationError, StructureError), match=r"no material 'cheese'.*polymer"):
        Morphology(material="cheese")
    with pytest.raises((ValidationError, StructureError), match="support"):
        Morphology(support="cheese")


def test_sections_without_a_bulk_let_a_beam_through() -> None:
    """A gold foil is thinned to four mean free paths, whatever thickness is asked."""
    relief = made("grains", material="gold", ground="gold", thickness=2e4)
    assert np.median(relief.thickness.sum(0)) < 1.5 * 4 * relief.material[0].elastic_path(200e3)
    assert made("grains", support="bulk").bulk
    assert made("grains", support="bulk").thickness.sum(0).min() > 1e6
