"""Restorers that misbehave: each costs the image that it failed on, and the bench goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import bad_restorers as bad
import numpy as np
import pandas as pd
import pytest
from test_bench import Listener, run, same, steady
from toy_suite import toy_suite

from emsynth.benchmark.selection import Patience
from emsynth.benchmark.trial import Status

SUITE = toy_suite(2, families=("poisson",), severities=(1,))
FAULTS = {
    "wrong_shape": ("wrong_shape", "returned shape (47, 48), not an image of shape (48, 48)"),
    "transparent": ("wrong_shape", "returned shape (4, 48, 48), not"),
    "reshaping": ("wrong_shape", "returned shape (1, 48, 48), not an image of shape (48, 48)"),
    "nothing": ("wrong_shape", "returned None; is a return missing?"),
    "complex_numbers": ("exception", "TypeError: returned values of type complex64, not real numbers"),
    "words": ("exception", "TypeError: returned values of type <U1"),
    "nan": ("not_finite", "1 of 2304 pixels are NaN or infinite"),
    "infinite": ("not_finite", "pixels are NaN or infinite"),
    "raising": ("exception", "ValueError: this image is too noisy (bad_restorers.py:"),
    "exiting": ("exception", "SystemExit: 3"),
    "leaving": ("killed", "its process ended itself with code 4"),
    "crashing": ("killed", "its process died of SIGSEGV"),
    "slain": ("killed", "its process was killed, most often by the system for want of memory"),
    "hungry": ("killed", "wanted more memory than it may have: MemoryError"),
    "gluttonous": ("killed", "wanted more memory than it may have: MemoryError"),
    "endless": ("timeout", "took longer than 2 s"),
}
HARMLESS = ("talking", "writing_in_place", "snooping", "good")


@pytest.fixture(scope="module")
def made() -> pd.DataFrame:
    """All of them in one bench, good ones at the end."""
    everyone = {name: getattr(bad, name) for name in (*FAULTS, *HARMLESS)}
    return run(everyone | {"flat": bad.flat}, suite=SUITE, scenes=[0], timeout=2, memory=0.2)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_recorded_for_its_image(made: pd.DataFrame, name: str) -> None:
    """It has the status and the words, and no time."""
    rows = made[made["restorer"] == name]
    status, words = FAULTS[name]
    assert set(rows["status"]) == {status}
    assert all(words in message for message in rows["message"])
    assert rows[rows["metric"] == "time"]["value"].isna().all()


@pytest.mark.parametrize("name", FAULTS)
def test_a_failed_image_counts_as_the_mean_of_its_input(made: pd.DataFrame, name: str) -> None:
    """As if the restorer had returned that everywhere: worse than doing nothing, and not out of the table."""
    failed, expected = (steady(made[made["restorer"] == one])["value"] for one in (name, "flat"))
    assert failed.tolist() == expected.tolist()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_no_fault(made: pd.DataFrame, name: str) -> None:
    """Printing, writing into the input, looking around."""
    rows = made[made["restorer"] == name]
    assert set(rows["status"]) == {"ok"}
    assert (rows[rows["metric"] == "time"]["value"] > 0).all()


def test_good_restorers_do_not_suffer(made: pd.DataFrame) -> None:
    """The figures of a good restorer are the same alone and after all the bad ones."""
    same(made[made["restorer"] == "good"], run(suite=SUITE, scenes=[0]))


def test_what_a_restorer_prints_does_not_reach_the_table(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither standard output, which is the leaderboard's, nor the progress."""
    run(bad.talking, suite=SUITE, scenes=[0])
    assert "spoiling" not in "".join(capfd.readouterr())


def test_a_restorer_cannot_see_the_truth(made: pd.DataFrame) -> None:
    """Not even one that looks through the frames of its callers: it returns its input."""
    value = made[(made["restorer"] == "snooping") & (made["metric"] == "mean")]["value"].item()
    assert value == float(SUITE.case(0, 0).image.mean())


def test_a_response_fails_with_its_partner() -> None:
    """A change recovered from a failed image and a good one would be none."""
    level = (SUITE.case(0, 0).image.mean() + SUITE.case(0, 1).image.mean()) / 2

    def fails_on_the_darker(image: np.ndarray) -> np.ndarray:
        if image.mean() < level:
            raise ValueError
        return image

    found = run({"some": fails_on_the_darker, "none": bad.flat}, suite=SUITE, scenes=[1]).set_index("metric")
    some, none = (found[found["restorer"] == name] for name in ("some", "none"))
    assert set(some["status"]) == {"ok"}
    assert some["value"]["response_shift"] == none["value"]["response_shift"]
    assert some["value"]["psnr"] != none["value"]["psnr"]


@pytest.mark.parametrize("workers", [1, 3])
def test_patience_ends_after_three_in_a_row(workers: int) -> None:
    """An endless restorer is tried on 3 images of a condition; the user is told, whatever the number of workers."""
    heard = Listener()
    table = run(bad.endless, suite=toy_suite(4, families=("poisson",), severities=(1,)), timeout=0.3, workers=workers,
                progress=heard)
    messages = table[table["metric"] == "psnr"]["message"].tolist()
    assert messages == ["took longer than 0.3 s"] * 3 + ["not tried: 3 images in a row took longer than 0.3 s"]
    assert sum("the rest of poisson-1 is not tried" in note for note in heard.notes) == 1


def test_patience_ends_for_the_suite_after_nine_in_a_row() -> None:
    """Three conditions of three; one image in time begins the count again."""
    told: list[str] = []
    patience = Patience("slow", 1.0, told.append)

    def show(statuses: Sequence[Status]) -> list[bool]:
        tried = []
        for n, status in enumerate(statuses):
            condition = f"c{n // 4}"
            reason = patience.given_up(condition)
            tried.append(not reason)
            patience.saw(condition, reason.status if reason else status, reason.message if reason else "")
        return tried

    assert show(["timeout", "timeout", "ok", "timeout"] * 3) == [True] * 12
    patience = Patience("slow", 1.0, told.append)
    assert show(["timeout"] * 20) == ([True] * 3 + [False]) * 3 + [False] * 8
    assert told[-1].startswith("slow: 9 images in a row took longer than 1 s; the rest of the suite is not tried")
    patience = Patience("slow", 1.0, told.append)
    assert show(["killed"] * 20) == [True] * 9 + [False] * 11
    assert told[-1].endswith("ended the restorer's process; the rest of the suite is not tried and counts as killed")
    patience = Patience("slow", 1.0, told.append)
    assert show(["killed", "timeout"] * 10) == [True] * 9 + [False] * 11
    assert told[-1].endswith("counts as timeout")


def test_a_restorer_that_always_crashes_is_given_up() -> None:
    """After 9 images and what is restored together with the ninth; the table says killed of all."""
    suite = toy_suite(4, families=("poisson",), severities=(1, 2, 3))
    made = run(bad.leaving, suite=suite)
    made = made[made["metric"] == "psnr"]
    assert set(made["status"]) == {"killed"}
    assert made["message"].str.startswith("not tried").tolist() == [False] * 10 + [True] * 2


def test_no_process_outlives_the_bench() -> None:
    """Neither the restorer's, nor the judge's, nor what the restorer started."""
    def starting(image: np.ndarray) -> np.ndarray:
        import subprocess

        started = subprocess.Popen(["sleep", "600"])
        return image + started.pid

    suite = toy_suite(1, families=("poisson",), severities=(1,))
    table = run(starting, suite=suite)
    mean = table[table["metric"] == "mean"]["value"].item()
    pid = round(mean - float(suite.case(0, 0).image.mean()))
    until = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that was killed stays until somebody asks for its exit code.
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"
