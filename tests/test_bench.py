"""The table of a bench: the same whoever makes it and however often it is interrupted, and where it comes from."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bad_restorers as some
import numpy as np
import pandas as pd
import pytest
from toy_suite import toy_suite

from emsynth.benchmark import bench, record, table
from emsynth.benchmark.journal import Journal, beside
from emsynth.benchmark.reference import reference_of
from emsynth.errors import RestorerError, StoreError, StoreExistsError, SuiteError

MEASURE = "bad_restorers:measure"
SUITE = toy_suite(severities=(1,))
KEYS = ["restorer", "family", "severity", "scene", "metric"]


class Listener:
    """Keeps what is said of a run."""

    def __init__(self) -> None:
        self.total, self.notes = 0.0, list[str]()

    def begin(self, phase: str, total: float) -> None:
        self.total = total

    def step(self, amount: float, what: str) -> None:
        pass

    def note(self, message: str) -> None:
        self.notes.append(message)


def run(restorers: Any = some.good, **changes: Any) -> pd.DataFrame:
    return bench.run(changes.pop("suite", SUITE), restorers, **{"measure": MEASURE, **changes})


def steady(made: pd.DataFrame) -> pd.DataFrame:
    """All but the times, which are never the same."""
    return made[made["metric"] != table.TIME].reset_index(drop=True)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(steady(one), steady(other), check_exact=True)


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    return run([some.good, some.drawing])


def test_workers_and_order_change_no_figure(plain: pd.DataFrame) -> None:
    """Two workers, in a second run, with the restorers the other way round, measure the same; one of them draws."""
    turned = run([some.drawing, some.good], workers=2)
    same(plain.sort_values(KEYS, ignore_index=True), turned.sort_values(KEYS, ignore_index=True))


def test_rows_are_in_the_order_of_what_was_asked(plain: pd.DataFrame) -> None:
    """Restorers as given, conditions and scenes as in the suite, metrics as measured with the time at the end."""
    assert tuple(plain.columns) == table.COLUMNS
    seen = plain.drop_duplicates(["restorer", "family", "scene"])[["restorer", "family", "scene"]].to_numpy().tolist()
    assert seen == [[r, f, s] for r in ("good", "drawing") for f in ("poisson", "row_jitter") for s in range(4)]
    assert plain["metric"][:7].tolist() == ["psnr", "mean", "time", "psnr", "mean", "response_shift", "time"]


def test_figures_are_those_of_the_restored_image(plain: pd.DataFrame) -> None:
    """What is measured is the restorer's image of that condition and scene."""
    for n, condition in enumerate(SUITE.conditions):
        for scene in range(4):
            row = plain[(plain.restorer == "good") & (plain.family == condition.family) & (plain.scene == scene)
                        & (plain.metric == "mean")]
            assert row["value"].item() == float((SUITE.case(n, scene).image * np.float32(0.5)).mean())


def test_a_twin_is_measured_with_its_partner_even_where_that_is_not_asked_for(plain: pd.DataFrame) -> None:
    """The response of a scene alone is that of a whole run, and there are no rows of its partner."""
    alone = run(scenes=[1])
    assert set(alone["scene"]) == {1}
    whole = steady(plain[(plain.restorer == "good") & (plain.scene == 1)])
    same(alone, whole)
    assert "response_shift" in set(alone["metric"])


def test_only_what_is_asked_for(plain: pd.DataFrame) -> None:
    """Families and severities choose among the rows of a whole run."""
    part = run(families=["row_jitter"], severities=[1])
    same(part, plain[(plain.restorer == "good") & (plain.family == "row_jitter")])


@pytest.mark.parametrize(("asked", "said"), [
    ({"families": ["rain"]}, "has no family rain; it has poisson, row_jitter"),
    ({"severities": [4]}, "has no severity 4; it has 1"),
    ({"scenes": [9]}, "has no scene 9"),
    ({"families": []}, "no family is asked for")])
def test_what_a_suite_has_not_is_named(asked: dict[str, Any], said: str) -> None:
    """A wrong choice is refused with what there is."""
    with pytest.raises(SuiteError, match=said):
        run(**asked)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_read_as_it_was_returned(tmp_path: Path, suffix: str) -> None:
    """Bit for bit, failed images included; nothing else is left in the folder but the record."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    out = tmp_path / f"made{suffix}"
    made = run(some.moody, suite=toy_suite(2), out=out)
    assert {"ok", "exception"} == set(made["status"])
    pd.testing.assert_frame_equal(table.read_table(out), made, check_exact=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([out.name, f"{out.name}.json"])


def test_the_record_says_where_a_table_comes_from(tmp_path: Path) -> None:
    """Suite, restorers, versions, platform, failures; nothing about the user or the host."""
    made = run(some.moody, suite=toy_suite(2), out=tmp_path / "made.csv", timeout=30)
    text = (tmp_path / "made.csv.json").read_text()
    told = json.loads(text)
    assert (told["suite"], told["digest"]) == ("toy_v1", toy_suite(2).digest)
    assert told["limits"] == {"timeout": 30, "memory": 4.0}
    assert told["versions"]["numpy"] == np.__version__
    [restorer] = told["restorers"]
    assert (restorer["name"], restorer["source"]) == ("moody", "bad_restorers.py")
    images = made[made["metric"] == "psnr"]["status"].value_counts().to_dict()
    assert restorer["statuses"] == images == {"exception": 2, "ok": 6}
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text


def test_callables_of_all_kinds_take_part() -> None:
    """A lambda and a closure, which no module holds, go to the worker with their code; names may be given."""
    by = np.float32(0.25)
    made = run({"quarter": lambda image: image * by, "half": some.good}, scenes=[0])
    mean = made[made["metric"] == "mean"].set_index("restorer")["value"]
    assert mean["quarter"].to_numpy() == pytest.approx(mean["half"].to_numpy() / 2)


def test_what_cannot_be_sent_is_refused_with_a_way_out() -> None:
    """Rather than run unguarded."""
    with pytest.raises(RestorerError, match=r"Heavy: cannot be sent .*holds a device.*module:function"):
        run(some.Heavy())


@pytest.mark.parametrize(("given", "said"), [
    (7, "int is not a restorer"), ([[some.good]], "list is not a restorer"), ([], "no restorer is given")])
def test_what_is_no_restorer_is_refused(given: Any, said: str) -> None:
    """Before anything is restored."""
    with pytest.raises(RestorerError, match=said):
        run([given] if given == 7 else given)


def test_two_restorers_of_one_name_are_refused() -> None:
    """Their rows could not be told apart."""
    with pytest.raises(RestorerError, match="good: 2 restorers have this name"):
        run([some.good, some.good])


def _kill_during(out: Path, images: int) -> None:
    """Run the bench in another process and kill it once so many images are kept."""
    code = ("from emsynth.benchmark import bench; import bad_restorers as some; from toy_suite import toy_suite; "
            f"bench.run(toy_suite(severities=(1,)), [some.good, some.slow], out={str(out)!r}, measure={MEASURE!r})")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}) as process:
        until = time.monotonic() + 60
        while not beside(out).exists() or beside(out).read_bytes().count(b"\n") <= images:
            assert process.poll() is None, "the bench ended by itself"
            assert time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench that was killed among the images of its second restorer; its journal is all that is left."""
    out = tmp_path_factory.mktemp("killed") / "made.csv"
    _kill_during(out, 10)
    assert not out.exists()
    return out


def _copied(killed: Path, folder: Path, change: Callable[[bytes], bytes] = lambda content: content) -> Path:
    out = folder / killed.name
    beside(out).write_bytes(change(beside(killed).read_bytes()))
    return out


@pytest.fixture(scope="module")
def whole() -> pd.DataFrame:
    return run([some.good, some.slow])


def test_a_killed_bench_goes_on(killed: Path, tmp_path: Path, whole: pd.DataFrame) -> None:
    """The table is that of a run that was left alone; what was kept is not restored again, a torn line is no harm."""
    out, heard = _copied(killed, tmp_path, lambda content: content + b'{"entry": {"rest'), Listener()
    same(run([some.good, some.slow], out=out, resume=True, progress=heard), whole)
    assert heard.total <= 16 - 10
    assert not beside(out).exists()
    again = Listener()
    same(run([some.good, some.slow], out=out, resume=True, progress=again), whole)
    assert again.total == 0
    added = Listener()
    run([some.good, some.slow, some.smooth], out=out, resume=True, progress=added)
    assert added.total == 8
    with pytest.raises(StoreError, match="would lose 16 images"):
        run([some.smooth], out=out, resume=True)


def test_a_changed_restorer_is_restored_again(killed: Path, tmp_path: Path, whole: pd.DataFrame) -> None:
    """What is kept of a restorer of the same name that is not the same is not used, and the user is told."""
    out, heard = _copied(killed, tmp_path), Listener()
    made = run({"good": some.smooth, "slow": some.slow}, out=out, resume=True, progress=heard)
    assert any("good: is not the restorer that it was" in note for note in heard.notes)
    assert 8 <= heard.total < 16
    fresh = run({"good": some.smooth})
    same(made[made["restorer"] == "good"], fresh)


@pytest.mark.parametrize(("change", "said"), [
    ((SUITE.digest.encode(), b"0" * 64), "cannot go on: digest was 000000000000"),
    ((b'"numpy": "', b'"numpy": "1'), "cannot go on: numpy was")])
def test_another_suite_or_version_is_refused(killed: Path, tmp_path: Path, change: tuple[bytes, bytes],
                                             said: str) -> None:
    """A table is of one suite and one set of versions; what is kept stays as it is."""
    out = _copied(killed, tmp_path, lambda content: content.replace(*change))
    before = beside(out).read_bytes()
    with pytest.raises(StoreError, match=rf"{said}.*--overwrite"):
        run([some.good, some.slow], out=out, resume=True)
    assert beside(out).read_bytes() == before


def test_images_that_took_too_long_are_tried_again_with_more_time(tmp_path: Path) -> None:
    """And only these: the others do not depend on how long they may take."""
    out, heard = tmp_path / "made.csv", Listener()
    asked = {"scenes": [2], "families": ["poisson"], "out": out}
    first = run({"a": some.hasty, "b": some.good}, timeout=0.5, **asked)
    assert first[first["status"] == "timeout"]["restorer"].unique().tolist() == ["a"]
    then = run({"a": some.hasty, "b": some.good}, timeout=20, resume=True, progress=heard, **asked)
    assert set(then["status"]) == {"ok"}
    assert heard.total == 1


def test_nothing_is_replaced_unasked(killed: Path, tmp_path: Path) -> None:
    """Neither a table nor a journal, until --overwrite says so."""
    out = _copied(killed, tmp_path)
    with pytest.raises(StoreExistsError, match="not finished; go on with --resume, begin again with --overwrite"):
        run(out=out)
    beside(out).unlink()
    out.write_text("somebody's")
    with pytest.raises(StoreExistsError, match="already there"):
        run(out=out)
    with pytest.raises(StoreError, match=r"made\.csv\.json: does not say"):
        run(out=out, resume=True)
    assert out.read_text() == "somebody's"
    made = run(out=out, overwrite=True, scenes=[2])
    pd.testing.assert_frame_equal(table.read_table(out), made)


def test_what_was_to_be_replaced_is_not_gone_on_with(tmp_path: Path) -> None:
    """A bench that was begun with --overwrite and killed goes on without the figures of the table it was to replace."""
    out, heard = tmp_path / "made.csv", Listener()
    asked = {"scenes": [2], "out": out}
    run(**asked)
    with Journal(beside(out), record.head(SUITE)) as journal:
        journal.begin(alone=True)
    run(resume=True, progress=heard, **asked)
    assert heard.total == 2


@pytest.mark.parametrize(("name", "said"), [
    ("made.txt", "written as .csv or .parquet"), ("no/made.csv", "there is no folder"), (".", "written as")])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str, said: str) -> None:
    """With what is wrong and the way out."""
    with pytest.raises(StoreError, match=said):
        run(out=tmp_path / name)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is restored."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"needs pyarrow: pip install 'emsynth\[parquet\]'"):
        run(out=tmp_path / "made.parquet")


def test_one_table_is_written_by_one_bench(tmp_path: Path) -> None:
    """A second one at the same place is refused while the first runs."""
    pytest.importorskip("fcntl", reason="file locks are there on Unix only")
    with Journal(beside(tmp_path / "made.csv"), {}):
        for asked in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(StoreError, match="another bench is writing it"):
                run("no_such_restorer", out=tmp_path / "made.csv", **asked)


def test_a_file_that_is_not_the_benchs_stays(tmp_path: Path) -> None:
    """Neither results.json, which is somebody's, nor a record without its table, unasked."""
    mine, record_of_old = tmp_path / "made.json", tmp_path / "made.csv.json"
    mine.write_text("my settings")
    run(out=tmp_path / "made.csv", scenes=[2])
    assert mine.read_text() == "my settings"
    (tmp_path / "made.csv").unlink()
    with pytest.raises(StoreExistsError, match=rf"{record_of_old.name}: is already there"):
        run(out=tmp_path / "made.csv")


def test_a_report_that_could_not_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    """Of a suite without a reference, unless the whole of the baseline is in the run."""
    with pytest.raises(SuiteError, match=r"no report can be made: toy_v1: no reference is kept .*add gaussian"):
        run(out=tmp_path / "made.csv", report=tmp_path / "made.html")
    assert not list(tmp_path.iterdir())


def test_a_failed_report_leaves_a_finished_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is written, and there is nothing to go on with."""
    monkeypatch.setattr("emsynth.benchmark.reference.reference", lambda suite: None)
    monkeypatch.setattr("emsynth.benchmark.report.write_report", lambda *arguments: 1 / 0)
    monkeypatch.setattr("emsynth.benchmark.standing.reference_for",
                        lambda suite, made: reference_of(suite, made, "good"))
    with pytest.raises(ZeroDivisionError):
        run(out=tmp_path / "made.csv", report=tmp_path / "made.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.csv", "made.csv.json"]


@pytest.mark.parametrize(("given", "said"), [
    ({"gaussian": some.good}, "gaussian: is the name of a baseline, and this is another"),
    (some.gaussian, "gaussian: is the name of a baseline, and this is another"),
    (["gaussian=bad_restorers:good"], "gaussian: is the name of a baseline, and this is another"),
    ({"mine (oracle)": some.good}, "are those of oracles"),
    ({"": some.good}, "'' is not a name"),
    (["=bad_restorers:good"], "'' is not a name"),
    ({7: some.good}, "7 is not a name"),
    ({"a\nb": some.good}, "one line of printable characters")])
def test_names_that_would_mislead_are_refused(given: Any, said: str) -> None:
    """A leaderboard is read by its names."""
    with pytest.raises(RestorerError, match=re.escape(said)):
        run(given)


def test_a_name_may_be_given_with_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one name can then be told apart; a file with = in its path is a file."""
    made = run(["one=bad_restorers:good", "two=bad_restorers:good"], scenes=[2])
    assert made["restorer"].unique().tolist() == ["one", "two"]
    with pytest.raises(RestorerError, match=r"lr=0\.1/net\.onnx: (there is no such file|.*onnxruntime)"):
        run("runs/lr=0.1/net.onnx")
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1.onnx").write_bytes(b"junk")
    with pytest.raises(RestorerError, match=r"lr=0\.1\.onnx"):
        run("lr=0.1.onnx")


@pytest.mark.parametrize(("asked", "said"), [
    ({"timeout": float("nan")}, "timeout nan: give"), ({"timeout": float("inf")}, "timeout inf: give"),
    ({"timeout": 0}, "timeout 0: give"), ({"timeout": "5"}, "timeout 5: give"),
    ({"memory": float("inf")}, "memory inf: give"), ({"memory": -1}, "memory -1: give"),
    ({"workers": 0}, "workers 0: give"), ({"workers": 1.5}, "workers 1.5: give")])
def test_limits_that_make_no_sense_are_refused(asked: dict[str, Any], said: str) -> None:
    """In a line, before anything is loaded."""
    with pytest.raises(RestorerError, match=said):
        run("no_such_restorer", **asked)


def test_a_restorer_that_never_returns_the_same_is_told(tmp_path: Path) -> None:
    """Once on stderr, and in the record, also of a run that goes on; one that draws from a seeded generator is not."""
    out = tmp_path / "made.csv"
    for n, asked in enumerate(({}, {"resume": True})):
        heard = Listener()
        run({"drifting": some.drifting, "drawing": some.drawing}, scenes=[2], out=out, progress=heard, **asked)
        told = [note for note in heard.notes if "cannot be reproduced" in note]
        assert told == ["drifting: returns other figures for the same image: its results cannot be reproduced"], n
        restorers = json.loads((tmp_path / "made.csv.json").read_text())["restorers"]
        assert [one["reproducible"] for one in restorers] == [False, True]


def test_a_tuning_split_is_told() -> None:
    """Baselines were tuned on it."""
    heard = Listener()
    run(suite=replace(SUITE, split="tune"), scenes=[2], progress=heard)
    assert "toy_v1: a tuning split: no figure of it is to be quoted" in heard.notes


def test_one_of_a_kind_needs_no_list() -> None:
    """A family, a severity and a scene alone."""
    made = run(families="poisson", severities=1, scenes=2)
    assert len(made) == 3


@pytest.mark.parametrize(("suite", "restorers", "error", "said"), [
    (None, some.good, SuiteError, "NoneType is not a suite"), (SUITE, 7, RestorerError, "int is not a restorer"),
    (SUITE, None, RestorerError, "NoneType is not a restorer")])
def test_what_is_neither_suite_nor_restorer_is_told(suite: Any, restorers: Any, error: type, said: str) -> None:
    """Rather than with Python's words for it."""
    with pytest.raises(error, match=said):
        run(restorers, suite=suite)


def test_a_family_without_that_severity_is_told() -> None:
    """Rather than an empty table made."""
    suite = replace(SUITE, conditions=(SUITE.conditions[0], replace(SUITE.conditions[1], severity=2)))
    with pytest.raises(SuiteError, match="poisson has no severity 2"):
        run(suite=suite, families="poisson", severities=2)


def test_twins_meet_the_same_global_random_numbers():
    """What a restorer draws from NumPy's global generator is no difference between twins; other scenes differ."""
    from emsynth.benchmark import trial

    def drawn(scene):
        trial._seed(toy_suite().case(0, scene))
        return np.random.random()  # noqa: NPY002 - it is the global one that is meant

    assert drawn(0) == drawn(1) != drawn(2)
