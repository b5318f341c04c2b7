"""Release a trained network: from the folder of its run to the weights that emsynth ships, their card and pictures.

``python -m benchmarks.networks.release stem_hd --run runs/train_stem_hd --evaluation runs/evaluated_stem_hd``; the
evaluation is made, or gone on with, where it is not one of these weights. Without one the card has no figures of a
suite.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.networks import curves
from benchmarks.networks.card import LICENCE, Facts, card, fragment
from emsynth.benchmark import record, shipped
from emsynth.benchmark.suite import Suite
from emsynth.errors import EmsynthError, RecipeError, StoreError, TrainingError
from emsynth.imagery import replacing
from emsynth.passes import split_of
from emsynth.store.reading import open_reading

if TYPE_CHECKING:
    from emsynth.networks.cgrdn import CGRDN
    from emsynth.training.recipe import TrainingRecipe
    from emsynth.training.validation import Pair

ROOT = Path(__file__).parents[2]
MOST = 15_000_000  # bytes of a file of weights
COST = 0.01  # dB that half precision may cost
PAIRS = 200  # of the validation split
_BEST = 100.0  # dB
_PACKAGES = ("emsynth", "torch", "numpy")
_SPLITS = ("train", "val", "test")
# What is told of the microscopes: name and unit, key, and how many of the key's unit make one.
_OPTICS = (("energy, kV", "energy", 1e3), ("convergence, mrad", "convergence", 1.0),
           ("source size, Å", "source_size", 1.0), ("aperture, mrad", "aperture", 1.0),
           ("spherical aberration, mm", "spherical", 1e7), ("defocus, Å", "defocus", 1.0),
           ("focal spread, Å", "focal_spread", 1.0), ("vibration, Å", "vibration", 1.0))


@dataclass(frozen=True)
class Places:
    """Where a release goes: folders of weights and pictures, and the page of all networks, if it has a part there."""

    weights: Path
    images: Path
    page: Path | None = None


SHIPPED = Places(ROOT / "emsynth" / "restoration" / "weights", ROOT / "docs" / "images", ROOT / "docs" / "networks.md")


def release(name: str, run: Path, into: Places = SHIPPED, evaluation: Path | None = None, unfinished: bool = False,
            library: Path | None = None, pairs: int = PAIRS, tune: Suite | None = None) -> Path:
    """Write the weights of a finished training, its card and its pictures.

    Parameters
    ----------
    name : str
        Under which it is shipped; the suites of that name judge it.
    run : Path
        Folder of the training.
    into : Places
        Where it goes.
    evaluation : Path, optional
        Folder of `benchmarks.networks.evaluate`, which is called where it has none of these weights.
    unfinished : bool
        Take a training that is cut short; the card says so.
    library : Path, optional
        Its fields, where they are not in the place that the recipe names.
    pairs : int
        Pairs of the validation split for the figures by detector.
    tune : Suite, optional
        On which the cost of half precision is measured; by default the tuning split of the network's suite.

    Returns
    -------
    Path
        The card.

    Raises
    ------
    TrainingError
        The training is not finished, does not belong to its recipe, or is too large or too delicate for half precision.
    """
    from emsynth.networks.weights import load_weights, save_weights
    from emsynth.training.validation import Validation

    network, about = load_weights(run / "weights.safetensors")
    recipe = _checked(run, about, unfinished, library)
    about = about | {"digest": recipe.digest, "licence": LICENCE}
    half = half_cost(network, tune or shipped.load(f"{suite_of(name)}_tune"))
    validation = Validation(recipe.library, pairs, recipe.data.building, chains=recipe.data.chains())
    into.weights.mkdir(parents=True, exist_ok=True)
    kept = save_weights(into.weights / f"{name}.safetensors", network, about, half=True)
    facts = Facts(
        name, about, asdict(network.size), sum(p.numel() for p in network.parameters()), kept.stat().st_size,
        _sha256(kept), learnt_from(recipe.library), by_detector(network, validation.pairs), half, _versions(),
        _again(about), not finished(about), changed=curves.changed(curves.read(run / "metrics.csv")))
    if evaluation is not None:
        told, shared = evaluated(name, kept, evaluation, facts)
        facts = replace(facts, told=told, shared=shared)
    written = into.weights / f"{name}.md"
    _write(written, card(facts))
    shown = _pictures(name, run, evaluation, into)
    if into.page is not None:
        _write(into.page, filled(into.page.read_text("utf-8"), name, fragment(facts, shown)))
    return written


def finished(about: Mapping[str, Any]) -> bool:
    """Whether all samples of the recipe were learnt from; each stage has a whole number of steps."""
    ranks = re.match(r"\d+", about["hardware"])
    step = sum(stage["batch"] for stage in about["recipe"]["stages"]) * int(ranks[0] if ranks else 1)
    return bool(about["of_samples"] - about["samples"] < step / 2 + 1)


def _checked(run: Path, about: Mapping[str, Any], unfinished: bool, library: Path | None) -> TrainingRecipe:
    """The recipe of a run, with the place of its fields."""
    from emsynth.training.data import field_library
    from emsynth.training.recipe import TrainingRecipe

    if not finished(about) and not unfinished:
        raise TrainingError(f"{run}: has learnt from {about['samples']:,} of {about['of_samples']:,} samples; go on "
                            f"with it (emsynth train {about['name']} --resume), or release it --unfinished")
    # The recipe in the header, not its digest there: what goes into that may differ from version to version.
    recipe, own = TrainingRecipe.load(run / "recipe.yaml"), TrainingRecipe.model_validate(about["recipe"])
    if recipe.digest != own.digest:
        raise TrainingError(f"{run}/recipe.yaml: is not the recipe of the weights beside it (digest "
                            f"{recipe.digest[:12]}, theirs is {own.digest[:12]}); take the one that emsynth train "
                            "has written there")
    if library is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"library": str(library)})})
    if not recipe.library.exists():
        raise TrainingError(f"{recipe.library}: the fields that it learnt from are not there; name their place "
                            "(--library)")
    field_library(recipe)
    return recipe


def _again(about: Mapping[str, Any]) -> bool:
    """Whether the recipe of that name would make it again."""
    from emsynth.training.recipe import TrainingRecipe

    try:
        return bool(TrainingRecipe.load(about["name"]).digest == about["digest"])
    except RecipeError:
        return False


def suite_of(name: str) -> str:
    """The newest suite that a network is made for."""
    known = [suite for suite in shipped.names() if suite.rpartition("_v")[0] == name]
    if not known:
        raise TrainingError(f"{name}: no suite judges a network of that name; there are {', '.join(shipped.names())}, "
                            "so call it by one of these without its version")
    return max(known, key=lambda suite: int(suite.rpartition("_v")[2]))


def half_cost(network: CGRDN, suite: Suite) -> dict[str, Any]:
    """PSNR over a suite with weights in single and in half precision, dB.

    Returns
    -------
    dict
        ``suite``, ``images``; ``single`` and ``half``, the means; ``worst``, the most that one image loses.

    Raises
    ------
    TrainingError
        The file would be too large, or half precision costs too much.
    """
    from emsynth.metrics import fidelity
    from emsynth.training.validation import restore_all

    weight = 2 * sum(tensor.numel() for tensor in network.state_dict().values())
    if weight > MOST:
        raise TrainingError(f"{suite.name}: weights of {weight / 1e6:.1f} MB in half precision are more than the "
                            f"{MOST / 1e6:.0f} MB that may be shipped; train a smaller network")
    cases = [suite.case(c, s) for c in range(len(suite.conditions)) for s in range(len(suite.scenes))]
    psnr = {kind: np.array([
        min(fidelity.psnr(case.truth, image, data_range=case.data_range), _BEST)
        for case, image in zip(cases, restore_all(restoring, [case.image for case in cases]), strict=True)])
        for kind, restoring in (("single", network), ("half", halved(network)))}
    lost = psnr["single"] - psnr["half"]
    if not lost.mean() < COST:
        raise TrainingError(f"{suite.name}: half precision costs {lost.mean():.3f} dB, and at most {COST} dB may be "
                            "lost; train on, with the moving average of the weights (average)")
    return {"suite": suite.name, "images": len(cases), "worst": float(lost.max()),
            **{kind: float(values.mean()) for kind, values in psnr.items()}}


def halved(network: CGRDN) -> CGRDN:
    """A copy with weights rounded to half precision, computed in single."""
    import copy

    made = copy.deepcopy(network)
    made.load_state_dict({name: tensor.half().float() for name, tensor in network.state_dict().items()})
    return made


def by_detector(network: CGRDN, pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Mean PSNR, SSIM and column error of pairs before (``_distorted``) and after, by detector and of ``all``."""
    from emsynth.training.validation import restore_all

    found: dict[str, list[dict[str, float]]] = {}
    for pair, image in zip(pairs, restore_all(network, [pair.distorted for pair in pairs]), strict=True):
        row = pair.figures(image) | {f"{key}_distorted": value for key, value in pair.before.items()}
        # A pair is named structure, detector, dose.
        found.setdefault(pair.name.rsplit(", ", 2)[1], []).append(row)
    grouped = dict(sorted(found.items())) | {"all": [row for rows in found.values() for row in rows]}
    return {name: {"pairs": float(len(rows)), **{key: _mean([row[key] for row in rows]) for key in rows[0]}}
            for name, rows in grouped.items()}


def _mean(values: Sequence[float]) -> float:
    there = [value for value in values if math.isfinite(value)]
    return float(np.mean(there)) if there else math.nan


def learnt_from(library: Path) -> dict[str, Any]:
    """What is in a field library: fields, structures and prototypes by split, and what the microscopes were like."""
    readable = open_reading(library)
    abouts = [readable.field_about(number) for number in range(readable.store.fields)]
    made = [about["provenance"] for about in abouts]
    of: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
    for one in made:
        of[split_of(str(one["specimen"]["prototype"]))].append(one["specimen"])
    ranges = {name: [one["microscope"][key] / unit for one in made if key in one.get("microscope", {})]
              for name, key, unit in _OPTICS}
    if any("defocus" in one for one in made):  # of each image of a focal series
        ranges["defocus, Å"] = [value for one in made for value in one.get("defocus", {}).values()]
    ranges["thickness, Å"] = [one["specimen"]["thickness"] for one in made if one["specimen"].get("thickness")]
    return {
        "fields": {split: len(found) for split, found in of.items() if found},
        **{key: {split: sorted({str(one[key[:-1]]) for one in found}) for split, found in of.items() if found}
           for key in ("structures", "prototypes")},
        "physics": dict(Counter(str(one["physics"]) for one in made).most_common()),
        "specimens": dict(Counter(str(one["specimen"].get("kind", "image")) for one in made).most_common()),
        "detectors": dict(Counter(str(name) for about in abouts for name in about["detectors"]).most_common()),
        "optics": {name: (_short(min(values)), _short(max(values))) for name, values in ranges.items() if values}}


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def evaluated(name: str, weights: Path, folder: Path, facts: Facts) -> tuple[dict[str, Any], list[str]]:
    """The evaluation of these very weights, made where there is none; the prototypes that training and suite share."""
    from benchmarks.networks.evaluate import TARGETS, evaluate

    suite = shipped.load(suite_of(name))
    place = folder / f"{suite.name}-{name}.json"
    if not (place.exists() and _restored_by(folder / f"{suite.name}.parquet", name) == facts.sha256):
        target = "gpu" if "cuda" in facts.about["hardware"] else "cpu"
        evaluate(suite, {name: str(weights)}, folder, TARGETS[target])
    learnt = facts.learnt["prototypes"].get("train", [])
    return json.loads(place.read_text("utf-8")), sorted({scene.prototype for scene in suite.scenes} & set(learnt))


def _restored_by(out: Path, name: str) -> str:
    """SHA-256 of the weights that a table of a bench was made with; empty where that is not known."""
    try:
        return str(next((one["digest"] for one in record.read_record(out)["restorers"] if one["name"] == name), ""))
    except StoreError:
        return ""


def _pictures(name: str, run: Path, evaluation: Path | None, into: Places) -> list[tuple[str, str]]:
    """Draw the training curves and take over the pictures of the evaluation; text and place of each for the page."""
    into.images.mkdir(parents=True, exist_ok=True)
    drawn = curves.draw(run, into.images / f"training_{name}.png", name)
    shown = [(f"Training curves of {name}", drawn)]
    for part, text in (("gain", "gain over oracle BM3D by family and severity"), ("hardest", "the hardest images")):
        made = None if evaluation is None else evaluation / f"{suite_of(name)}-{name}-{part}.png"
        if made is not None and made.exists():
            shown.append((f"{name}: {text}", Path(shutil.copyfile(made, into.images / f"{name}_{part}.png"))))
    return [(text, f"{path.parent.name}/{path.name}") for text, path in shown]


def filled(page: str, name: str, text: str) -> str:
    """A page with the part of one network replaced."""
    begin, end = f"<!-- {name}: made by benchmarks.networks.release -->", f"<!-- end of {name} -->"
    found = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    if not found.search(page):
        raise TrainingError(f"docs/networks.md: has no part for {name}; write '{begin}' and '{end}' where it should be")
    return found.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def main() -> None:
    """Release what the command line names."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("name", help="stem_hd or tem_hd")
    asked.add_argument("--run", type=Path, required=True, help="folder of the training")
    asked.add_argument("--evaluation", type=Path, help="folder of benchmarks.networks.evaluate")
    asked.add_argument("--unfinished", action="store_true", help="take a training that is cut short")
    asked.add_argument("--into", type=Path, help="folder for everything, in place of emsynth's own")
    asked.add_argument("--library", type=Path, help="fields that it learnt from, where they are elsewhere")
    asked.add_argument("--pairs", type=int, default=PAIRS, help="of the validation split")
    given = asked.parse_args()
    into = SHIPPED if given.into is None else Places(given.into, given.into)
    try:
        print(release(given.name, given.run, into, given.evaluation, given.unfinished, given.library, given.pairs))
    except EmsynthError as reason:
        sys.exit(f"release: {reason}")


if __name__ == "__main__":
    main()
