"""Sentences about a data set that its README and its metadata share, each true of what the data set contains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from emsynth.card.facts import CONVOLUTION, MULTISLICE, PRISM, SUPPLIED, SURVEY, WAVES, Facts, span

_LIMITS = {
    MULTISLICE: "Multislice of independent neutral atoms: no charge transfer, no bonding, no magnetism; no inelastic "
                "scattering other than phonons.",
    PRISM: "The PRISM fields are approximations of multislice, with their deviation on record in the field's "
           "provenance.",
    CONVOLUTION: "The convolution fields are a sum of atomic responses without interference between columns: an "
                 "approximation of multislice, with its deviation on record in the field's provenance.",
    SURVEY: "The phenomenological fields apply a law to each pixel of a procedural specimen, and no wave is "
            "propagated. Contrast has the right sign and about the right size; intensities are not quantitative, and "
            "no ranking of restorers on atom columns can rest on them.",
    SUPPLIED: "The truths are images that somebody supplied. Where they come from, what noise is in them and who may "
              "be shown them is not on record here.",
}


def description(facts: Facts) -> str:
    """What the data set is, in one paragraph."""
    size = facts.store.attributes["recipe"]["image"]["size"]
    physics = counts(facts.counts["physics"])
    return (f"{counted(facts.store.samples, 'pair')} of a clean and a distorted electron micrograph of {size} × {size} "
            f"pixels, cut from {counted(len(facts.fields), 'field')} (pairs by physics: {physics}). Each pair keeps "
            "where the probe really was, which pixels are defective, what the truth shows and the recipe that was "
            "drawn for it.")


def counts(words: Counter[str], most: int = 12) -> str:
    """``"HAADF 40, BF 24"``: the most frequent first."""
    order = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(order) - most:,} more" if len(order) > most else ""
    return ", ".join(f"{word} {count:,}" for word, count in order[:most]) + more


def counted(number: int, noun: str) -> str:
    """``"1 field"``, ``"1,024 fields"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def energies(fields: Sequence[dict[str, Any]]) -> str:
    """Beam energies in kV: all, where they are few."""
    found = sorted({float(f["microscope"]["energy"]) / 1e3 for f in fields if "microscope" in f})
    if not found:
        return "not known"
    return (", ".join(f"{e:g}" for e in found) if len(found) <= 5 else span(found)) + " kV"


def limits(facts: Facts) -> list[str]:
    """What the data set is not, by the physics that is in it."""
    found = [text for physics, text in _LIMITS.items() if physics in facts.physics]
    if facts.physics & {PRISM, CONVOLUTION} and MULTISLICE not in facts.physics:
        found.insert(0, _LIMITS[MULTISLICE])
    if facts.physics & WAVES:
        vibrating = any(field.get("phonon_configurations") for field in facts.fields)
        found += ["Thermal vibrations are uncorrelated, isotropic and at room temperature." if vibrating
                  else "The lattices are static: no thermal vibrations."]
        found += ["Defects, boundaries and surfaces are not relaxed beyond rigid shifts."]
    return [*found, "Every distortion is a model with drawn parameters. A real instrument has others, and joint "
                    "distributions that no recipe knows: test on real images too."]


def uses(facts: Facts) -> list[str]:
    """What it may be used for."""
    found = ["training and judging restorers: denoising, correction of scan distortions, and both together"]
    if has_columns(facts):
        found += ["finding atom columns, whose places, elements and intensities are kept"]
    return [*found, "comparing methods at a known dose, with the truth at hand"]


def has_columns(facts: Facts) -> bool:
    """Whether any sample has atom columns."""
    return facts.ranges.get("column_count", (0.0, 0.0))[1] > 0


def collection(facts: Facts) -> str:
    """How the truths came about."""
    if facts.supplied:
        return "The truths are cut from images that the maker of the data set supplied; the distortions are simulated."
    return "Everything is simulated; no instrument and no person took part."


def preprocessing(facts: Facts) -> list[str]:
    """What was done to the clean fields."""
    chain = facts.store.recipe.distort
    parts = (("scan", chain.scan), ("detector", chain.detector), ("camera", chain.camera), ("artefact", chain.artefact))
    found = [f"Distortions of the {name}: {', '.join(s.stage for s in stages)}." for name, stages in parts if stages]
    return ["A window was cut out of a field by interpolation with cubic splines.", *found]
