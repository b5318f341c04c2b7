"""The table of a bench: the same whoever makes it and however often it is interrupted, and where it comes from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_restorers as some
import numpy as np
import pandas as pd
import pytest
from toy_suite import toy_suite

from emsynth.benchmark import bench, record, table
from emsynth.benchmark.journal import Journal, beside
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
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([out.name, "made.json"])


def test_the_record_says_where_a_table_comes_from(tmp_path: Path) -> None:
    """Suite, restorers, versions, platform, failures; nothing about the user or the host."""
    made = run(some.moody, suite=toy_suite(2), out=tmp_path / "made.csv", timeout=30)
    text = (tmp_path / "made.json").read_text()
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
    with pytest.raises(StoreError, match=r"made\.json: does not say"):
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
    with Journal(beside(tmp_path / "made.csv"), {}), pytest.raises(StoreError, match="another bench is writing it"):
        run(out=tmp_path / "made.csv", overwrite=True)
