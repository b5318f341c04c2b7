"""The released suites: what was promised of them holds in the frozen bytes."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

from emsynth.benchmark import shipped
from emsynth.benchmark.plan import load_plan, planned
from emsynth.distortion.severity import severity
from emsynth.errors import IntegrityError, StoreError, SuiteError

NAMES = ("stem_hd_v1", "tem_hd_v1", "sem_hd_v1")


@pytest.fixture(scope="module", params=NAMES)
def suite(request):
    """Each suite that judges."""
    return shipped.load(request.param)


def test_all_plans_are_released():
    """Every plan has its file, its checksum and its size of at most 25 MB."""
    assert {entry.name for entry in shipped.registered()} == set(planned())
    for entry in shipped.registered():
        path, _ = shipped.place(entry.name)
        assert path.stat().st_size == entry.bytes <= 25e6


def test_enough_of_everything(suite):
    """At least 16 images of 128² px a condition; five severities of each family, combined among them."""
    assert len(suite.scenes) >= 16
    assert min(suite.shape) >= 128
    assert "combined" in suite.families
    assert {(c.family, c.severity) for c in suite.conditions} == {(f, n) for f in suite.families for n in range(1, 6)}


def test_chains_are_those_of_the_table(suite):
    """Each condition is the committed table's, number by number."""
    families = load_plan(suite.name).families
    for condition in suite.conditions:
        assert condition.chain == severity(families[condition.family], condition.severity).model_dump(mode="json")


def test_severities_get_worse(suite):
    """The root mean square error over all scenes rises with severity in every family."""
    for family in suite.families:
        worse = []
        for number, condition in enumerate(suite.conditions):
            if condition.family == family:
                cases = [suite.case(number, scene) for scene in range(len(suite.scenes))]
                worse.append(np.mean([np.sqrt(np.mean(np.square(case.image - case.truth, dtype=np.float64)))
                                      / case.data_range for case in cases]))
        assert np.all(np.diff(worse) > 0), (family, worse)


def test_truths_are_accurate(suite):
    """The standard error of the phonon mean is at most 3 %."""
    for scene in suite.scenes:
        reached = scene.about.get("standard_error", {})
        assert bool(reached) == (scene.physics == "multislice")
        assert max(reached.values(), default=0.0) <= 0.03


def test_truths_of_twins_differ_in_single_columns(suite):
    """A twin's truth is its partner's but for the probes: at the median pixel they agree within 0.5 % of the range."""
    for scene in suite.scenes:
        if scene.partner is not None:
            exposure = suite.scale[0, [scene.index, scene.partner]]
            step = np.abs(exposure[0] * scene.truth - exposure[1] * suite.scenes[scene.partner].truth)
            largest = np.ptp(exposure[0] * scene.truth)
            assert np.median(step) < 0.005 * largest
            assert step.max() > 0.03 * largest


def test_probes_of_every_kind():
    """STEM and TEM have twins with shifts, dopants and vacancies."""
    for name in ("stem_hd_v1", "tem_hd_v1"):
        kinds = [probe.kind for scene in shipped.load(name).scenes for probe in scene.probes]
        assert {kind: kinds.count(kind) >= 5 for kind in ("shift", "dopant", "vacancy")} == {
            "shift": True, "dopant": True, "vacancy": True}


def test_a_changed_byte(tmp_path):
    """A copy of a released suite in which one byte differs is refused, wherever it lies."""
    path, _ = shipped.place("sem_hd_v1_tune")
    copy = tmp_path / path.name
    shutil.copyfile(path, copy)
    assert shipped.load(copy).name == "sem_hd_v1_tune"
    raw = bytearray(copy.read_bytes())
    raw[1234567] ^= 1
    copy.write_bytes(raw)
    with pytest.raises(IntegrityError, match="bytes have changed"):
        shipped.load(copy)


def test_a_released_name_is_not_for_others(tmp_path):
    """Other bytes under another file name, which call themselves a released suite, are no such thing."""
    path, _ = shipped.place("sem_hd_v1_tune")
    forged = tmp_path / "mine.zip"
    forged.write_bytes(path.read_bytes())
    with zipfile.ZipFile(forged, "a") as packed:
        packed.comment = b"mine"
    with pytest.raises(IntegrityError, match="calls itself sem_hd_v1_tune"):
        shipped.load(forged)


def test_a_damaged_file_is_told_in_a_line(tmp_path, capfd):
    """Also where its checksum is not known; and zarr says nothing more."""
    path, _ = shipped.place("sem_hd_v1_tune")
    raw = bytearray(path.read_bytes())
    raw[1234567] ^= 1
    (tmp_path / "mine.zip").write_bytes(raw)
    with pytest.raises(StoreError, match=r"bytes have changed in image/"):
        shipped.load(tmp_path / "mine.zip")
    assert capfd.readouterr().err == ""


def test_an_unknown_suite():
    """The message lists those that there are, and guesses."""
    with pytest.raises(SuiteError, match=r"did you mean 'stem_hd_v1'\? there are .*tem_hd_v1"):
        shipped.load("stem_hd_v11")
    with pytest.raises(SuiteError, match=r"no such file; give a suite's \.zip"):
        shipped.load("nowhere/stem.zip")
