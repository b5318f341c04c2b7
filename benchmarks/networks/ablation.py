"""Networks compared at equal time: variants of a training recipe, trained in turns, judged on a frozen suite.

``python -m benchmarks.networks.ablation --out FOLDER`` goes on where it was cut off, and writes a page of what came
of it. What equal time means, and what is looked at, is said there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from benchmarks.networks import oracle
from benchmarks.networks.ablation_page import page
from benchmarks.networks.empty import empty_images, left_in
from benchmarks.networks.evaluate import RESULTS
from benchmarks.networks.figures import (
    by_error,
    counting_family,
    cuts,
    hallucination,
    over_conditions,
    overall,
    responses,
    wide,
)
from benchmarks.networks.turns import TURN, train_in_turns
from emsynth.benchmark import bench, shipped
from emsynth.benchmark.suite import Suite
from emsynth.cli.progress import Watch
from emsynth.errors import TrainingError
from emsynth.imagery import replacing
from emsynth.training.recipe import TrainingRecipe

HERE = Path(__file__).parent
BESIDE = ("bm3d", "gaussian", "identity")  # tuned baselines that are shown
_LATTICE_FIELDS = 3  # of as many fields of the mix, one of a lattice
_NEVER = 10**9  # samples, or minutes


@dataclass(frozen=True)
class Variant:
    """What is changed in a training recipe.

    Attributes
    ----------
    about : str
        For people.
    network : mapping
        Numbers of the network.
    losses : mapping, optional
        Weights of the losses of every stage, those of the paper where not given; by default the recipe's own.
    lattices : bool
        Whether clean crystals without strain are all that is learnt from.
    """

    about: str
    network: Mapping[str, int]
    losses: Mapping[str, float] | None = None
    lattices: bool = False


VARIANTS = {
    "exact": Variant("the network of the paper, without Fourier units", {"fourier": 0}),
    "fourier": Variant("with Fourier units of 16 channels", {"fourier": 16}),
    "fourier_basket": Variant("with Fourier units, and the paper's losses without the adversarial one",
                              {"fourier": 16}, {"adversarial": 0.0}),
    "exact_lattices": Variant("without Fourier units, from perfect lattices alone", {"fourier": 0}, lattices=True),
    "fourier_lattices": Variant("with Fourier units, from perfect lattices alone", {"fourier": 16}, lattices=True),
}


def recipe_of(base: TrainingRecipe, name: str, variant: Variant) -> TrainingRecipe:
    """The training recipe of a variant; on the CPU, where time can be counted for each of several.

    Raises
    ------
    TrainingError
        Lattices are all that is wanted, and the recipe's mixture has none.
    """
    content = base.content()
    content["name"] = name
    content["network"] |= variant.network
    content["hardware"] |= {"accelerator": "cpu", "devices": 1, "nodes": 1}
    # Validations and checkpoints are made between turns, when no clock runs.
    content["validation"]["every"], content["checkpoint"] = _NEVER, float(_NEVER)
    content["data"] |= {"threads": 0, "workers": 0}
    if variant.losses is not None:
        for stage in content["stages"]:
            stage["losses"] = dict(variant.losses)
    if variant.lattices:
        content["data"] |= {"set": [*content["data"]["set"], *_lattices(base)], "library": None}
    return TrainingRecipe.model_validate(content)


def _lattices(base: TrainingRecipe) -> list[str]:
    building = json.loads(base.data.building.model_dump_json(by_alias=True))
    crystals = [member | {"contamination": None} for member in (building["specimen"] or {}).get("members", [])
                if member["specimen"]["kind"] == "crystal"]
    if not crystals:
        raise TrainingError(f"data.recipe: {building['name']} has no mixture with a crystal in it, so perfect lattices "
                            "cannot be had alone; leave these variants out")
    return [f"fields={max(1, building['fields'] // _LATTICE_FIELDS)}", "image.perfect=1",
            f"specimen={json.dumps({'kind': 'mixture', 'members': crystals})}"]


def judge(suite: Suite, weights: Mapping[str, str], out: Path, workers: int = 1, watch: Watch | None = None,
          results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Figures of the networks on a suite, and of the tuned baselines where their table is kept."""
    place = out / f"{suite.name}.parquet"
    table = bench.run(suite, dict(weights), workers=workers, memory=8.0, out=place, progress=watch,
                      resume=place.exists() or Path(f"{place}.journal").exists())
    kept = results / f"{suite.name}.parquet"
    if kept.exists():
        beside = oracle.checked(suite, kept, "")
        asked = {(c.family, c.severity) for c in suite.conditions}
        rows = [name in BESIDE and (family, severity) in asked for name, family, severity in
                zip(beside["restorer"], beside["family"], beside["severity"], strict=True)]
        table = pd.concat([table, beside[rows]], ignore_index=True)
    images = wide(suite, table)
    return {str(name): _figures(suite, table, images[images["restorer"] == name], str(name))
            for name in table["restorer"].unique()}


def _figures(suite: Suite, table: pd.DataFrame, rows: pd.DataFrame, name: str) -> dict[str, Any]:
    parts = cuts(suite)
    return {"overall": overall(rows), "counting": counting_family(suite),
            "scenes": {str(n): float(of) for n, of in rows.groupby("scene")["psnr"].mean().items()},
            "cuts": {title: {label: over_conditions(rows[chosen(rows)], "psnr") for label, chosen in cut.items()}
                     for title, cut in parts.items()},
            "cuts_of_mean_error": {title: {label: by_error(rows[chosen(rows)]) for label, chosen in cut.items()}
                                   for title, cut in parts.items()},
            "responses": responses(suite, table, name, 3), "hallucination": hallucination(rows)}


def ablation(base: TrainingRecipe, suite: Suite, variants: Mapping[str, Variant], minutes: float, out: Path,
             turn: float = TURN, workers: int = 1, watch: Watch | None = None,
             console: Console | None = None) -> dict[str, Any]:
    """Train, judge, and return all that the page tells; kept in ``ablation.json``."""
    recipes = {name: recipe_of(base, name, variant) for name, variant in variants.items()}
    trained = train_in_turns(recipes, out, minutes, turn, console, watch)
    weights = {name: one["weights"] for name, one in trained.items()}
    stages = [{"name": stage.name, "batch": stage.batch, "patch": stage.patch or base.data.building.image.size}
              for stage in base.stages]
    told = {"recipe": base.name, "suite": suite.name, "digest": suite.digest, "images": len(suite),
            "minutes": minutes, "turn": turn, "threads": base.hardware.threads, "precision": base.hardware.precision,
            "stages": stages, "variants": {name: variant.about for name, variant in variants.items()},
            "trained": trained, "judged": judge(suite, weights, out, workers, watch),
            "empty": left_in(weights, empty_images(suite.shape))}
    with replacing(out / "ablation.json") as file:
        plain = json.loads(json.dumps(told), parse_constant=lambda _: None)  # JSON has no NaN
        file.write((json.dumps(plain, indent=1) + "\n").encode())
    return told


def _of_severities(suite: Suite, severities: Sequence[int]) -> Suite:
    rows = [n for n, c in enumerate(suite.conditions) if c.severity in severities]
    return replace(suite, conditions=tuple(suite.conditions[n] for n in rows), codes=suite.codes[rows],
                   step=suite.step[rows], offset=suite.offset[rows], scale=suite.scale[rows])


def main() -> None:
    """Compare what the command line names."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--recipe", default="train_tem_hd")
    asked.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    asked.add_argument("--suite", default="tem_hd_v1", choices=shipped.names())
    asked.add_argument("--severities", type=int, nargs="+", help="of the suite; by default all")
    asked.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    asked.add_argument("--minutes", type=float, default=20.0, help="of processor time for each network")
    asked.add_argument("--turn", type=float, default=TURN, help="seconds of processor time of each turn")
    asked.add_argument("--workers", type=int, default=1, help="images that are judged at the same time")
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--page", type=Path, default=HERE / "ABLATION.md")
    given = asked.parse_args()
    suite = shipped.load(given.suite)
    if given.severities:
        suite = _of_severities(suite, given.severities)
    console = Console(file=sys.stderr, highlight=False)
    with Watch(Console(stderr=True), False) as watch:
        told = ablation(TrainingRecipe.load(given.recipe, given.set), suite,
                        {name: VARIANTS[name] for name in given.variants}, given.minutes, given.out, given.turn,
                        given.workers, watch, console)
    given.page.write_text(page(told), encoding="utf-8")
    print(given.page)


if __name__ == "__main__":
    main()
