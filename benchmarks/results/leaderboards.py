"""Make the leaderboards: every baseline on every frozen suite, and the networks that come with emsynth on their own.

``python -m benchmarks.results.leaderboards`` goes on where it was cut off, and restores again by those alone that are
not what they were.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emsynth.benchmark import leaderboard, shipped
from emsynth.benchmark.bench import run
from emsynth.benchmark.reference import KEPT_IN, RESTORER, reference, write_reference
from emsynth.benchmark.standing import scores
from emsynth.benchmark.suite import Suite
from emsynth.builder.workers import usable_cores
from emsynth.cli.progress import Watch
from emsynth.restoration.shipped import shipped as networks

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
RESTORERS = ("identity", "gaussian", "median", "wiener", "tv", "nlm", "wavelet", "bm3d", "rows_bm3d")
FOOT = "\nMade by `python -m benchmarks.results.leaderboards`; what the columns mean: " \
       "[docs/benchmark.md](../../docs/benchmark.md), what is in the suite: [docs/suites.md](../../docs/suites.md).\n"


def entered(suite: str, restorers: Sequence[str] = RESTORERS) -> dict[str, str]:
    """Who stands in the leaderboard of a suite, name to what it is: baselines, and the shipped network made for it.

    ``stem_hd`` is made for ``stem_hd_v1``: another modality would tell nothing about it.
    """
    own = {name: str(path) for name, path in networks().items() if suite.rpartition("_v")[0] == name}
    return {name: name for name in restorers} | own


def make(suite: Suite, folder: Path, restorers: Sequence[str] | Mapping[str, Any] = RESTORERS, workers: int = 1,
         report: Path | None = None, watch: Watch | None = None, references: Path = KEPT_IN,
         judge: str = RESTORER) -> Path:
    """Restore a suite, keep the table, write its leaderboard; the file of the latter.

    The figures of the reference, the restorer `judge`, are kept the first time, and never again: a score must not move.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{suite.name}.parquet"
    table = run(suite, restorers, workers=workers, out=out, resume=out.exists() or Path(f"{out}.journal").exists(),
                report=report, progress=watch)
    if not (references / f"{suite.name}.json").exists():
        write_reference(suite, table, references, judge)
    page = folder / f"{suite.name}.md"
    page.write_text(text(suite, table, references), encoding="utf-8")
    return page


def text(suite: Suite, table: pd.DataFrame, references: Path = KEPT_IN) -> str:
    """The page of a table."""
    return leaderboard.markdown(suite, scores(suite, table, reference(suite, references))) + FOOT


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("suites", nargs="*", default=list(shipped.names()))
    asked.add_argument("--restorer", action="append")
    asked.add_argument("--workers", type=int, default=usable_cores())
    asked.add_argument("--report", type=Path, help="folder for the HTML reports, which are not committed")
    given = asked.parse_args()
    from rich.console import Console

    for name in given.suites:
        with Watch(Console(stderr=True), False) as progress:
            made = make(shipped.load(name), HERE, given.restorer or entered(name), given.workers,
                        given.report and given.report / f"{name}.html", progress)
        print(made)
