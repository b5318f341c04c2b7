"""How a suite is made: twins that differ in single columns, one truth for all conditions, bytes that stay."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from emsynth.benchmark import fields, freezing, shipped
from emsynth.benchmark.plan import Probes, SuitePlan, load_plan, planned
from emsynth.benchmark.probes import CHANGES, SHIFTS, twins
from emsynth.distortion import Grid
from emsynth.draw import Streams
from emsynth.errors import IntegrityError, StoreError, SuiteError
from emsynth.specimen.defects import Defects
from emsynth.store.frozen import FrozenArray, read_frozen, write_frozen

PROBES = Probes(shift=4, dopant=4, vacancy=3, neighbour=1.6)


@pytest.fixture(scope="module")
def lattice():
    """A box of L1_2, which only a suite may use."""
    streams = Streams(5, 0)
    drawn = Defects(structure="Ni3Al", zone_axis=(0, 0, 1), thickness=20, box=20).draw(streams, "specimen")
    return drawn.build(streams, "suite")


@pytest.fixture(scope="module")
def tiny() -> SuitePlan:
    """A suite of two scenes that takes a second: a TEM lattice with its twin, and an amorphous film."""
    content = load_plan("tem_hd_v1").model_dump()
    content |= {"name": "tiny_v1", "size": 96, "batches": 2, "severities": (1, 4),
                "families": {"conversion": "conversion", "combined": "combined_tem"}}
    content["simulate"]["phonons"] |= {"tolerance": 0.5, "minimum": 2}
    kept = {scene["name"]: scene for scene in content["scenes"]}
    one = kept["ni3al_001"] | {"probes": PROBES.model_dump()}
    one["specimen"] |= {"thickness": 20.0, "box": 20.0}
    film = kept["germanium"] | {"specimen": kept["germanium"]["specimen"] | {"thickness": 10.0}}
    return SuitePlan.model_validate(content | {"scenes": (one, film)})


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The tiny suite, frozen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "LARGEST_ERROR", 1.0)
        patch.setenv("EMSYNTH_CACHE", str(tmp_path_factory.mktemp("cache")))
        arrays, attributes = freezing.frozen(tiny)
    path = tmp_path_factory.mktemp("suite") / "tiny_v1.zip"
    write_frozen(path, arrays, attributes)
    return path, arrays, attributes


def test_twins_vibrate_alike(lattice):
    """All atoms that both twins have come first, in the same order: phonons are drawn atom after atom."""
    perfect, perturbed, planted = twins(lattice, PROBES, Streams(5, 0))
    missing = sum(one.kind == "vacancy" for one in planted)
    assert len(perfect.atoms) - len(perturbed.atoms) == missing == 3
    moved = np.linalg.norm(perfect.atoms.positions[:-missing] - perturbed.atoms.positions, axis=1)
    assert np.count_nonzero(moved > 1e-9) == sum(lattice.columns.count[one.column] for one in planted
                                                 if one.kind == "shift")


def test_probes_are_what_they_say(lattice):
    """Shifts are 10 to 30 pm, dopants brighten a column by Z^1.7 within what was drawn, columns keep apart."""
    perfect, perturbed, planted = twins(lattice, PROBES, Streams(5, 1))
    side = perfect.atoms.cell.lengths()[[1, 0]]
    place = perfect.columns.position[[one.column for one in planted]]
    for n, one in enumerate(planted):
        gap = np.abs(place[np.arange(len(place)) != n] - place[n])
        assert np.hypot(*np.minimum(gap, side - gap).T).min() >= PROBES.spacing
        if one.kind == "shift":
            assert SHIFTS[0] <= np.hypot(*one.shift) <= SHIFTS[1]
            np.testing.assert_allclose(perturbed.columns.position[one.column] - place[n], one.shift, atol=1e-12)
    swapped = np.flatnonzero(perfect.atoms.numbers[:-3] != perturbed.atoms.numbers)
    change = (perturbed.atoms.numbers[swapped] ** 1.7 - perfect.atoms.numbers[swapped] ** 1.7).sum()
    column = np.mean([(perfect.atoms.numbers**1.7).sum() / len(perfect.columns)])
    assert CHANGES[0] / 2 < change / column / 4 < 1.5 * CHANGES[1]


def test_a_full_box_is_refused(lattice):
    """More probes than there is room for: the message says how many fit."""
    with pytest.raises(SuiteError, match="has room for"):
        twins(lattice, Probes(shift=50), Streams(5, 0))


def test_over_cells_is_the_mean_over_cells():
    """Keeping a cell's own frequencies is the mean over the cells, and a periodic image is left alone."""
    rng = np.random.default_rng(3)
    image = rng.random((1, 1, 24, 30)).astype(np.float32)
    mean = image.reshape(1, 1, 2, 12, 3, 10).mean(axis=(2, 4))
    np.testing.assert_allclose(fields.over_cells(image, (2, 3)), np.tile(mean, (1, 1, 2, 3)), atol=1e-7)


def test_the_twin_is_unbiased():
    """The average over cells plus the mean difference has the expectation of the twin, and less of its noise."""
    rng = np.random.default_rng(8)
    cell, change = np.add.outer(np.arange(6.0), np.arange(6.0)), np.zeros((12, 12))
    change[3, 4] = 5.0
    noise = rng.normal(0, 1, (400, 1, 1, 12, 12))
    field = _field()
    one = [dataclasses.replace(field, image=(np.tile(cell, (2, 2)) + 10 + n).astype(np.float32)) for n in noise]
    other = [dataclasses.replace(a, image=a.image + (change * (1 + 0.1 * n)).astype(np.float32))
             for a, n in zip(one, noise, strict=True)]
    clean, twin = fields._averaged(one, other, (2, 2), by_contrast=False)
    truth = np.tile(cell, (2, 2)) + 10 + change
    deviation = twin.image[0, 0] - truth
    # 400 configurations of 4 cells: a standard error of 1/40; of the mean over configurations alone, 1/20.
    assert deviation.std() == pytest.approx(1 / 40, rel=0.35)
    assert clean.provenance["standard_error"]["D"] == pytest.approx(1 / 40 / clean.image.mean(), rel=0.2)


def _field():
    from emsynth.simulation.field import Field
    from emsynth.specimen.base import Columns

    return Field(image=np.zeros((1, 1, 12, 12), np.float32), sampling=(0.1, 0.1), periodic=True, columns=Columns.none(),
                 thickness=np.array([10.0]), detectors=("D",), band_limit=1.0, mistilt=(0.0, 0.0), entrance=0.0,
                 repeats=(True, True), provenance={"specimen": {"prototype": "x"}})


def test_all_conditions_share_one_truth():
    """Displacements that a specimen's own lie could explain are moved into it, so that the truth stays where it is."""
    from emsynth import view
    from emsynth.distortion import Window
    from emsynth.distortion.severity import severity

    image = np.fft.irfft2(np.fft.rfft2(np.random.default_rng(1).random((64, 64))) * _low(64), s=(64, 64)) + 1
    field = dataclasses.replace(_field(), image=image[None, None].astype(np.float32))
    window = Window((32, 32), 0.1, origin=(3.0, 3.0))
    sight = view.Sight(field, "D", window)
    chain = severity("drift", 5)
    affine = np.vstack([chain.positions((32, 32), 3, 7).truth_grid().affine, [0, 0, 1]])
    assert np.abs(affine - np.eye(3)).max() > 0.5
    settled = chain.run(freezing._Settled(sight, np.linalg.inv(affine)), (32, 32), 3, 7)
    still = sight(Grid((32, 32), np.eye(2, 3)))
    np.testing.assert_allclose(settled.truth / settled.scale, still, rtol=2e-6)
    assert np.abs(settled.distorted - settled.truth).max() > 1e-3 * settled.truth.max()


def test_twins_are_exposed_alike():
    """A brighter twin is given more electrons, as many per unit of intensity as its partner."""
    from types import SimpleNamespace

    from emsynth import view
    from emsynth.distortion import Window
    from emsynth.distortion.severity import severity

    field = dataclasses.replace(_field(), image=np.random.default_rng(1).random((1, 1, 12, 12)).astype(np.float32) + 1)
    sight = view.Sight(field, "D", Window((32, 32), 0.1, origin=(0.6, 0.6)))
    truth, mean = freezing._clean(sight)
    seen = freezing._Seen(SimpleNamespace(truth=truth, sampling=0.1, name="x"), sight, mean, 0, dose=mean / 1.25)
    made = freezing._distorted(severity("poisson", 3), seen, 3, 7)
    assert made.truth.mean() == pytest.approx(1.25 * float(severity("poisson", 3).expected_counts), rel=1e-5)


def _low(n: int):
    row, col = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)
    return np.exp(-((row**2 + col**2) / 0.05**2))


def test_counts_stay_whole(made):
    """The converter's step is a power of two where the chain has none: a multiple of one electron is kept exactly."""
    from emsynth.distortion.severity import severity

    chain, rng = severity("poisson", 4), np.random.default_rng(0)
    clean = rng.random((32, 32)).astype(np.float32)
    counted = chain.run(lambda grid: clean.copy(), (32, 32), 1, 1)
    codes, step, offset = freezing._converted(counted)
    np.testing.assert_array_equal((offset + step * codes).astype(np.float32), counted.distorted)
    assert set(np.unique(counted.distorted % 1)) == {0.0}


def test_a_suite_comes_back(made, tiny):
    """What is read is what was frozen: images in electrons, truths, columns, probes, partners."""
    path, _, _ = made
    suite = shipped.parse(path)
    assert [scene.content for scene in suite.scenes] == ["lattice", "perturbed", "amorphous"]
    assert suite.scenes[1].partner == 0
    assert {probe.kind for probe in suite.scenes[1].probes} == {"shift", "dopant", "vacancy"}
    assert [condition.name for condition in suite.conditions] == ["conversion-1", "conversion-4", "combined-1",
                                                                  "combined-4"]
    case = suite.case(0, 2)
    np.testing.assert_allclose(case.truth, suite.scale[0, 2] * suite.scenes[2].truth, rtol=1e-6)
    assert case.truth.mean() == pytest.approx(case.condition.expected_counts, rel=1e-5)
    assert np.std(case.image - case.truth) < 0.2 * case.data_range
    with pytest.raises(SuiteError, match="has no condition"):
        suite.condition("conversion-9")
    with pytest.raises(SuiteError, match="has no image"):
        suite.case(0, 3)


def test_twins_see_the_same_noise(made):
    """Far from the probes a twin's image differs from its partner's by what the truths differ by, and no more."""
    suite = shipped.parse(made[0])
    for number in range(len(suite.conditions)):
        one, other = suite.case(number, 0), suite.case(number, 1)
        assert suite.scale[number, 0] == pytest.approx(suite.scale[number, 1] * suite.scenes[1].truth.mean()
                                                       / suite.scenes[0].truth.mean(), rel=0.05)
        noise = np.std(one.image - one.truth)
        change = np.median(np.abs((other.image - one.image) - (other.truth - one.truth)))
        assert change < 0.3 * noise


def test_probes_show_in_the_truth(made):
    """The truths differ where the probes are, and hardly elsewhere."""
    suite = shipped.parse(made[0])
    step = np.abs(suite.case(0, 1).truth - suite.case(0, 0).truth)
    near = np.zeros(step.shape, bool)
    for row, col in suite.scenes[1].columns[[probe.column for probe in suite.scenes[1].probes]]:
        near |= np.hypot(*(np.indices(step.shape) - np.array([row, col])[:, None, None])) < 4
    assert step[near].max() > 5 * np.median(step[~near])


def test_the_same_content_gives_the_same_bytes(made, tmp_path):
    """A suite that is written twice has one checksum."""
    path, arrays, attributes = made
    again = write_frozen(tmp_path / "again.zip", arrays, attributes)
    assert again == shipped.parse(path).digest


def test_a_changed_byte_is_refused(made, tmp_path):
    """One byte of a released file is enough, and the message says what to do."""
    raw = bytearray(made[0].read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "changed.zip").write_bytes(raw)
    with pytest.raises(IntegrityError, match="bytes have changed; get the file again"):
        read_frozen(tmp_path / "changed.zip", shipped.parse(made[0]).digest)


def test_what_is_no_suite_is_refused(tmp_path):
    """Any other file, or any other Zarr group, is named as what it is not."""
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(StoreError, match="is not a frozen file"):
        shipped.parse(tmp_path / "text.zip")
    write_frozen(tmp_path / "other.zip", {"a": FrozenArray(np.zeros(3), ("x",), (3,))}, {"name": "other"})
    with pytest.raises(StoreError, match="is not a suite of this version"):
        shipped.parse(tmp_path / "other.zip")


def test_xarray_reads_a_suite(made):
    """A suite is a Zarr group with named dimensions, for whoever wants no more than that."""
    import xarray as xr
    import zarr

    with zarr.storage.ZipStore(made[0], mode="r") as store:
        found = xr.open_zarr(store, consolidated=False)
        assert found["image"].dims == ("condition", "scene", "y", "x")
        assert found.attrs["name"] == "tiny_v1"


def test_an_inaccurate_field_is_refused(tiny, monkeypatch, tmp_path):
    """A standard error above that of suites is told with the scene and the way out."""
    monkeypatch.setenv("EMSYNTH_CACHE", str(tmp_path))
    monkeypatch.setattr(fields, "LARGEST_ERROR", 1e-6)
    with pytest.raises(SuiteError, match=r"germanium: the standard error .* raise simulate.phonons.maximum"):
        fields.fields_of(tiny, 1)


@pytest.mark.parametrize("name", planned())
def test_plans_use_what_is_reserved_for_them(name):
    """No prototype of a suite can be drawn by a building recipe; morphologies are of a split that is not trained on."""
    from emsynth.specimen.morphology import SPLITS
    from emsynth.specimen.table import reserved, structure

    plan = load_plan(name)
    for scene in plan.scenes:
        kind = scene.specimen.kind
        if kind == "morphology":
            assert SPLITS[str(scene.specimen.family)] == ("test" if plan.split == "score" else "val")
        elif kind != "amorphous":
            assert reserved(structure(str(scene.specimen.structure)).prototype) == plan.purpose


def test_a_plan_of_nothing(tmp_path):
    """An unknown plan lists those that there are; a wrong one says where it is wrong."""
    with pytest.raises(SuiteError, match=r"no plan of a suite; there are .*stem_hd_v1"):
        load_plan("stem_hd_v9")
    wrong = load_plan("sem_hd_v1").model_dump(mode="json") | {"size": 3}
    (tmp_path / "wrong.yaml").write_text(json.dumps(wrong))
    with pytest.raises(SuiteError, match="size"):
        load_plan(Path(tmp_path / "wrong.yaml"))
