"""Oracles of BM3D and of the Gaussian filter on a whole suite: each tuned on the truth of each image, made once.

``python -m benchmarks.networks.oracle stem_hd_v1`` goes on where it was cut off; BM3D's takes ten minutes of two cores
and more. The tables are committed, so that nobody has to make them again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console

from emsynth.benchmark import record, shipped
from emsynth.benchmark.bench import run
from emsynth.benchmark.score import ORACLE
from emsynth.benchmark.suite import Suite
from emsynth.benchmark.table import read_table
from emsynth.cli.progress import Watch
from emsynth.errors import SuiteError

KEPT_IN = Path(__file__).parent / "oracle"
BASELINES = ("bm3d", "gaussian")
BM3D, GAUSSIAN = (f"{name}{ORACLE}" for name in BASELINES)


def make(suite: Suite, folder: Path = KEPT_IN, workers: int = 1, watch: Watch | None = None) -> Path:
    """Tune the baselines on every image of a suite, and keep the table; a finished one is left as it is."""
    out = folder / f"{suite.name}.parquet"
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begun = Path(f"{out}.journal").exists()
        run(suite, BASELINES, workers=workers, out=out, resume=begun, oracle=True, progress=watch)
    return out


def kept(suite: Suite, folder: Path = KEPT_IN) -> pd.DataFrame:
    """Rows of the oracles alone; SuiteError where they are not those of this suite, or there are none."""
    table = checked(suite, folder / f"{suite.name}.parquet",
                    f"python -m benchmarks.networks.oracle {suite.name} makes it, in half an hour or so")
    return table[table["restorer"].isin([BM3D, GAUSSIAN])]


def checked(suite: Suite, path: Path, way_out: str) -> pd.DataFrame:
    """A table of a bench of this very suite."""
    if not path.exists():
        raise SuiteError(f"{path}: there is no such table; {way_out}")
    digest = record.read_record(path)["digest"]
    if digest != suite.digest:
        raise SuiteError(f"{path}: belongs to a suite of digest {digest[:12]}, {suite.name} has {suite.digest[:12]}; "
                         "remove it")
    return read_table(path)


def main() -> None:
    """Make the tables of some suites."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("suites", nargs="+")
    asked.add_argument("--workers", type=int, default=1)
    given = asked.parse_args()
    for name in given.suites:
        with Watch(Console(stderr=True), False) as watch:
            print(make(shipped.load(name), workers=given.workers, watch=watch))


if __name__ == "__main__":
    main()
