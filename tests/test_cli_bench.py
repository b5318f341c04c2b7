"""What a user of `emsynth bench` sees: the leaderboard on stdout, all else on stderr, and one line for a mistake."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from toy_suite import toy_suite
from typer.testing import CliRunner, Result

from emsynth.benchmark import bench, reference, shipped, standing, table
from emsynth.benchmark.reference import reference_of
from emsynth.benchmark.score import error, psnr_of
from emsynth.cli import app
from emsynth.cli.progress import Watch
from emsynth.errors import SuiteError

SUITE = toy_suite(2, families=("poisson",), severities=(1, 3))
GOOD, MOODY = "bad_restorers:good", "bad_restorers:moody"
QUICK = ("--restorer", GOOD, "--workers", "1")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """`emsynth bench toy_v1` finds the toy suite, and measures it quickly."""
    monkeypatch.setattr(shipped, "load", lambda name: SUITE)
    monkeypatch.setattr(bench, "run", partial(bench.run, measure="bad_restorers:measure"))


def test_the_leaderboard_is_all_that_stdout_gets(toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Markdown, where stdout is no terminal; failures are told on stderr, and are no failure of the bench."""
    monkeypatch.setattr(standing, "reference_for", lambda suite, table: reference_of(suite, table, MOODY))
    done = call("toy_v1", *QUICK, "--restorer", MOODY)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# toy_v1: Gaussian columns")
    assert "bad\\_restorers:good" in done.stdout
    assert f"{MOODY}: failed on 2 of 4 images; poisson-3, scene 0: exception: ValueError: dark" in done.stderr
    assert "bench: 100%" in done.stderr


def test_without_a_reference_there_is_a_table_and_a_word_about_it(toy: None, tmp_path: Path) -> None:
    """The run is not lost where nothing is kept to compare it with."""
    out = tmp_path / "made.csv"
    done = call("toy_v1", *QUICK, "--out", out, "--severities", "3", "--quiet")
    assert done.exit_code == 0
    made = table.read_table(out)
    psnr = psnr_of(error(made[made["metric"] == "psnr"]["value"].to_numpy()).mean())
    assert f"| bad\\_restorers:good | - | {psnr:.2f} |" in done.stdout
    assert "no score: toy_v1: no reference is kept for it" in done.stderr
    assert "100%" not in done.stderr
    assert set(table.read_table(out)["severity"]) == {3}
    again = call("toy_v1", *QUICK, "--out", out)
    assert again.exit_code == 1
    assert f"error: {out}: is already there; go on with --resume, begin again with --overwrite" in again.stderr


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["stem_hd_v1", "--resume", "--overwrite"], 2, "give either --resume"),
    (["stem_hd_v1", "--resume"], 2, "give --out, too"),
    (["stem_hd_v1", "--severities", "bad"], 2, "give whole numbers"),
    (["stem_hd_v1", "--timeout", "0"], 2, "give a number of seconds above 0"),
    (["stem_hd_v1", "--timeout", "nan"], 2, "--timeout nan: give a number of seconds above 0"),
    (["stem_hd_v1", "--memory", "inf"], 2, "--memory inf: give a number of GB"),
    (["stem_hd_v1", "--memory", "-1"], 2, "--memory -1: give a number of GB"),
    (["no_such_suite_at_all"], 1, "error: no_such_suite_at_all: no such suite"),
    (["no/such/suite.zip"], 1, "error: no/such/suite.zip: no such file")])
def test_a_wrong_call_is_told_in_a_line(arguments: list[str], code: int, said: str) -> None:
    """Exit 2 for usage, 1 for what is not there; no traceback."""
    done = call(*arguments)
    assert done.exit_code == code
    # A usage error is drawn in a box, which breaks lines.
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("name", "said"), [
    ("gausian", "did you mean 'gaussian'?"),
    ("bad_restorers:goof", "bad_restorers:goof: module 'bad_restorers' has no 'goof'; did you mean 'good'?"),
    ("model.safetensors", "model.safetensors: "),
    ("gaussian", "gaussian: toy_v1: its baselines were not tuned")])
def test_a_restorer_that_cannot_be_had_is_named(toy: None, name: str, said: str) -> None:
    """Before anything is restored, in a line."""
    done = call("toy_v1", "--restorer", name)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_changed_suite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loader says of changed bytes is what the user reads."""
    def load(name: str) -> None:
        raise SuiteError("stem_hd_v1.zip: its bytes are not those that were released")

    monkeypatch.setattr(shipped, "load", load)
    done = call("stem_hd_v1")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: stem_hd_v1.zip: its bytes are not those that were released\n"


def test_the_real_measures_are_taken_in_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """End to end with a baseline that needs no tuning, a report, and nothing replaced by a stand-in but the suite."""
    suite = toy_suite(2, families=("poisson",), severities=(3,))
    monkeypatch.setattr(shipped, "load", lambda name: suite)
    monkeypatch.setattr(standing, "reference_for", lambda suite, table: reference_of(suite, table, "identity"))
    monkeypatch.setattr(reference, "reference", lambda suite: None)
    out, report = tmp_path / "made.csv", tmp_path / "made.html"
    done = call("toy_v1", *QUICK, "--restorer", "identity", "--out", out, "--report", report)
    assert done.exit_code == 0, done.output
    made = table.read_table(out)
    bias = made[(made["metric"] == "mean_bias") & (made["restorer"] == GOOD)]["value"]
    assert bias.to_numpy() == pytest.approx(50, abs=1)
    assert "data:image/png" in report.read_text()
    assert "# toy_v1" in done.stdout


def test_a_bench_in_which_nothing_succeeded_has_failed(toy: None) -> None:
    """A script has to notice."""
    done = call("toy_v1", "--restorer", "bad_restorers:raising", "--workers", "1")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: no image of any restorer succeeded")


def test_a_name_can_be_given(toy: None) -> None:
    """And stands in the table as it was given."""
    done = call("toy_v1", "--restorer", "mine:two:=bad_restorers:good", "--workers", "1")
    assert done.exit_code == 0, done.output
    assert "| mine:two: |" in done.stdout


def _terminal() -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, width=80, force_terminal=True, color_system=None, legacy_windows=False), shown


def test_names_are_shown_as_they_are() -> None:
    """Neither as pictures nor as colours, in notes and in the bar."""
    console, shown = _terminal()
    with Watch(console) as watch:
        watch.begin("bench", 2)
        watch.step(1, "[red]:two:")
        watch.note("mine:two: [bold]failed")
    assert "mine:two: [bold]failed" in shown.getvalue()
    assert "[red]:two:" in shown.getvalue()


def test_times_are_whole_on_a_narrow_terminal() -> None:
    """However long the names are; they are cut instead."""
    console, shown = _terminal()
    with Watch(console) as watch:
        watch.begin("bench", 3)
        watch.step(1, "0 failed, 3.2/s, my_package.with_a_long_name:and_a_long_function everything_at_once-5")
    [last] = [line for line in shown.getvalue().splitlines() if "33 %" in line][-1:]
    assert re.search(r"33 % 0:00:\d\d left (-:--:--|0:00:\d\d) 0 failed, 3\.2/s", last), last
    assert "…" in last
