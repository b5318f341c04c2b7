"""Evaluate trained networks on a frozen suite, beside oracles and baselines: a page, its figures as JSON, two pictures.

``python -m benchmarks.networks.evaluate stem_hd_v1 --model ours=stem_hd --out FOLDER``; a network is whatever `emsynth
bench` takes for a restorer, and a run that was cut off is gone on with. `--oracle` first makes the table of oracles
where it is missing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from benchmarks.networks import oracle, pictures
from benchmarks.networks.figures import acceptance, summary
from benchmarks.networks.page import page
from emsynth.benchmark import shipped
from emsynth.benchmark.bench import run
from emsynth.benchmark.suite import Suite
from emsynth.cli.progress import Watch
from emsynth.imagery import replacing

RESULTS = Path(__file__).parents[1] / "results"
BESIDE = ("bm3d", "gaussian", "rows_bm3d", "identity")  # tuned baselines that are shown
TARGETS = {"cpu": (2.0, 4.0), "gpu": (4.0, 6.0)}  # gains asked over oracle BM3D and oracle Gaussian, dB


def evaluate(suite: Suite, models: Mapping[str, str], out: Path, over: tuple[float, float] = TARGETS["cpu"],
             workers: int = 1, memory: float = 8.0, watch: Watch | None = None,
             results: Path = RESULTS, oracles: Path = oracle.KEPT_IN) -> dict[str, dict[str, Any]]:
    """Restore a suite by some networks, and write what came of it.

    Parameters
    ----------
    suite : Suite
        A released one.
    models : mapping of str to str
        Name in the table to what `emsynth.restoration.find` accepts.
    out : Path
        Folder for ``<suite>.parquet``, the table of the bench, and of each network ``<suite>-<name>.md``, ``.json``,
        ``-gain.png`` and ``-hardest.png``.
    over : (float, float)
        Gains asked for over oracle BM3D and oracle Gaussian, dB.
    workers, memory
        As of `emsynth.bench`.
    watch : Watch, optional
        Who wants to know how far it is.
    results, oracles : Path
        Folders of the baselines' and the oracles' tables.

    Returns
    -------
    dict
        Name of each network to its `summary` with its ``acceptance``.
    """
    # First what may be missing: a network takes its time.
    beside = [oracle.kept(suite, oracles), _baselines(suite, results)]
    out.mkdir(parents=True, exist_ok=True)
    place = out / f"{suite.name}.parquet"
    own = run(suite, dict(models), workers=workers, memory=memory, out=place, progress=watch,
              resume=place.exists() or Path(f"{place}.journal").exists())
    return {name: _written(suite, pd.concat([own[own["restorer"] == name], *beside], ignore_index=True), name, spec,
                           out, over) for name, spec in models.items()}


def _baselines(suite: Suite, results: Path) -> pd.DataFrame:
    way_out = "python -m benchmarks.results.leaderboards makes it"
    table = oracle.checked(suite, results / f"{suite.name}.parquet", way_out)
    return table[table["restorer"].isin(BESIDE)]


def _written(suite: Suite, table: pd.DataFrame, name: str, spec: str, out: Path,
             over: tuple[float, float]) -> dict[str, Any]:
    stem = f"{suite.name}-{name}"
    told = summary(suite, table, name)
    told["acceptance"] = [{"criterion": what, "figure": figure, "asked": asked, "met": met}
                          for what, figure, asked, met in acceptance(told, over)]
    shown = [pictures.heat_map(told, oracle.BM3D, out / f"{stem}-gain.png"),
             pictures.contact_sheet(suite, pictures.hardest(suite, table, name, oracle.BM3D), spec, name,
                                    out / f"{stem}-hardest.png")]
    for path, text in ((out / f"{stem}.md", page(told, over, [picture.name for picture in shown])),
                       (out / f"{stem}.json", json.dumps(_plain(told), indent=1, ensure_ascii=False) + "\n")):
        with replacing(path) as file:
            file.write(text.encode())
    return told


def _plain(value: Any) -> Any:
    """With null for NaN, and six significant digits."""
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def main() -> None:
    """Evaluate what the command line names."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("suite", choices=shipped.names())
    asked.add_argument("--model", action="append", required=True, metavar="NAME=SPEC")
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--memory", type=float, default=8.0, help="GB for a restorer; 0 for no limit")
    asked.add_argument("--targets", choices=sorted(TARGETS), default="cpu", help="where the networks were trained")
    asked.add_argument("--oracle", action="store_true", help="make the table of oracles where it is missing")
    given = asked.parse_args()
    models = {name: spec for name, equals, spec in (one.partition("=") for one in given.model)}
    if not all(name and spec for name, spec in models.items()):
        asked.error("--model: write NAME=SPEC, such as ours=stem_hd")
    suite = shipped.load(given.suite)
    with Watch(Console(stderr=True), False) as watch:
        if given.oracle:
            oracle.make(suite, workers=given.workers, watch=watch)
        evaluate(suite, models, given.out, TARGETS[given.targets], given.workers, given.memory, watch)
    for name in models:
        print(given.out / f"{suite.name}-{name}.md")


if __name__ == "__main__":
    main()
