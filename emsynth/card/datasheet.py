"""README of a data set: the header that Hugging Face reads, and a text in the order of a datasheet.

The order is that of Gebru et al., Datasheets for Datasets, Commun. ACM 64(12), 86 (2021).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from emsynth.card import literature, wording
from emsynth.card.facts import Facts, Group, span
from emsynth.card.publication import Publication
from emsynth.distortion import Chain
from emsynth.draw import Drawable
from emsynth.preview.resolved import rows, shown

# Data licences that Hugging Face has a word for.
_LICENCES = frozenset((
    "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odc-by", "pddl", "mit", "apache-2.0", "unlicense"))
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"),
          (1e8, "10M<n<100M"), (1e9, "100M<n<1B"), (float("inf"), "1B<n<10B"))
_TAGS = {"stem": "stem", "tem": "tem", "stem_survey": "stem", "tem_survey": "tem", "sem": "sem"}
_MOST = 60  # rows of structures
_MISSING = "not stated"


def readme(facts: Facts, publication: Publication, citation: str) -> str:
    """The whole text; the same data set and publication give the same bytes.

    Parameters
    ----------
    facts : Facts
        What the data set is made of.
    publication : Publication
        What the publisher says.
    citation : str
        How to cite the data set, as BibTeX.
    """
    title, works = publication.title or facts.name, literature.works(facts)
    numbers = {work.text: n for n, work in enumerate(works, start=1)}
    parts = [
        _header(facts, title), f"# {title}", wording.description(facts),
        "![Truth, distorted image and displacement of a few samples](samples.png)",
        "## Motivation", *_motivation(publication), "## Composition", *_composition(facts),
        "## Collection process", *_collection(facts), "## Preprocessing and distortion", *_distortion(facts, numbers),
        "## Uses", *_uses(facts), "## Distribution", *_distribution(facts, publication),
        "## Maintenance", *_maintenance(publication), "## How to open it", *_opening(facts),
        "## Citation", *_citations(citation, works)]
    return "\n\n".join(parts) + "\n"


def _header(facts: Facts, title: str) -> str:
    licence = str(facts.store.attributes["licence"])
    known = licence.lower() in _LICENCES
    named = [f"license: {licence.lower()}"] if known else ["license: other", f"license_name: {json.dumps(licence)}"]
    size = next(word for limit, word in _SIZES if facts.store.samples < limit)
    instruments = sorted({_TAGS.get(kind, kind) for kind in facts.instruments})
    tags = ["microscopy", "electron-microscopy", *instruments, "denoising", "image-restoration", "zarr", "emsynth",
            *([] if facts.supplied else ["synthetic"])]
    return "\n".join([
        "---", *named, f"pretty_name: {json.dumps(title, ensure_ascii=False)}", "size_categories:", f"- {size}",
        "task_categories:", "- image-to-image", "tags:", *(f"- {tag}" for tag in tags), "configs:",
        "- config_name: samples", "  data_files:", "  - split: pairs", "    path: samples.csv", "---"])


def _motivation(publication: Publication) -> Iterator[str]:
    yield ("Micrographs that are taken in one shot are noisy, streaked and wobbly. Whoever trains or judges a network "
           "that restores them needs pairs: a clean image, and what a real instrument would have made of it. Here both "
           "are known, and so is everything in between.")
    yield (f"Created by: {', '.join(publication.creators) or _MISSING}. Funding: {_MISSING}.")


def _composition(facts: Facts) -> Iterator[str]:
    store = facts.store
    yield _table(("", ""), [
        ("pairs", f"{store.samples:,}"), ("splits", wording.counts(facts.counts["split"])),
        ("fields (clean wide images that the pairs are cut from)", f"{len(facts.fields):,}"),
        ("physics, in pairs", wording.counts(facts.counts["physics"])),
        ("detectors, in pairs", wording.counts(facts.counts["detector"])),
        *((name, f"{span(facts.ranges[key])} {unit}".rstrip()) for name, key, unit in (
            ("pixel", "sampling", "Å"), ("thickness", "thickness", "Å"),
            ("electrons per pixel, mean over the truth", "expected_counts", ""),
            ("gain", "gain", "ADU per electron"), ("atom columns in a window", "column_count", ""),
        ) if key in facts.ranges)])
    shared = sorted(name for name, count in Counter(g.prototype for g in facts.groups).items() if count > 1)
    apart = (f"In more than one split: {', '.join(shared)}." if shared else
             "No image is in two splits, under whatever name." if facts.supplied else
             "No structure prototype is in two splits: the same lattice at another pixel size is the same image.")
    yield f"{apart} Pairs of one split share fields; they are not independent draws of specimens."
    yield _structures(facts.groups)
    if facts.unknown:
        yield "Not known, and kept as NaN: " + ", ".join(
            f"{name} of {wording.counted(count, 'pair')}" for name, count in facts.unknown.items()) + "."
    yield "Arrays (Zarr v3):"
    yield _table(("array", "shape", "type", "unit", "what it is"),
                 [(f"`{a.name}`", a.shape, a.dtype, a.units, a.about) for a in facts.arrays])
    yield ("`fields/<j>` holds the clean fields with their atom columns and provenance, `samples.csv` the scalars of "
           "every pair as a table. " + ("The images were supplied; whether they are confidential, or about people, is "
                                        "not on record." if facts.supplied else "Nothing is about people."))


def _structures(groups: Sequence[Group]) -> str:
    lines = [(g.split, g.prototype, wording.counts(g.structures, 8), f"{g.pairs:,}") for g in groups[:_MOST]]
    text = _table(("split", "prototype", "structures, in pairs", "pairs"), lines)
    more = len(groups) - _MOST
    return f"{text}\n\n{more:,} more prototypes: see samples.csv." if more > 0 else text


def _collection(facts: Facts) -> Iterator[str]:
    yield wording.collection(facts)
    yield _table(("physics", "fields", "pairs", "microscope", "energy", "phonon configurations",
                  "standard error of the phonon mean", "deviation from multislice on record"),
                 [_physics(facts, physics) for physics in sorted(facts.physics)])
    methods = Counter(re.sub(r"\d+(\.\d+)?", "n", str(f["method"])) for f in facts.fields if "method" in f)
    if methods:
        yield "How: " + "; ".join(f"{method} ({wording.counted(count, 'field')})"
                                  for method, count in sorted(methods.items())) + "."
    kinds = Counter(str(field["specimen"].get("kind", _MISSING)) for field in facts.fields)
    dirty = sum("contamination" in field["specimen"] for field in facts.fields)
    yield (f"Specimens, in fields: {wording.counts(kinds)}"
           + (f"; {dirty:,} of them under amorphous contamination." if dirty else "."))
    sources = literature.sources(facts)
    if sources:
        yield "Where structures and their thermal vibrations are from:"
        yield "\n".join(f"- {source}: {', '.join(names)}" for source, names in sources.items())
    about = facts.store.attributes
    made = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    where = about["platform"]
    yield (f"Made with {made}, on {where['system']} {where['machine']} ({where['libc']}), from the seed "
           f"{about['recipe']['seed']}.")


def _physics(facts: Facts, physics: str) -> tuple[str, ...]:
    fields = facts.made_by(physics)
    kinds = Counter(str(f["microscope"].get("kind", "stem")) for f in fields if "microscope" in f)
    phonons = [int(f["phonon_configurations"]) for f in fields if "phonon_configurations" in f]
    return (physics, f"{len(fields):,}", f"{facts.counts['physics'][physics]:,}",
            ", ".join(sorted(kinds)) or "not known", wording.energies(fields),
            (span(phonons) if max(phonons) else "none, a static lattice") if phonons else "no atoms",
            _by_detector(fields, "standard_error"), _by_detector(fields, "deviation"))


def _by_detector(fields: Sequence[dict[str, Any]], key: str) -> str:
    found: dict[str, list[float]] = {}
    for field in fields:
        for detector, value in (field.get(key) or {}).items():
            found.setdefault(detector, []).append(100 * float(value))
    return ", ".join(f"{detector} {span(values, 2)} %" for detector, values in sorted(found.items())) or "–"


def _distortion(facts: Facts, numbers: dict[str, int]) -> Iterator[str]:
    recipe = facts.store.recipe
    chain = recipe.distort
    yield ("Each pair is a window on one field: " + "; ".join(
        f"{row.key} {row.value}" for row in rows(recipe.image) if not row.part and row.key != "size") + ".")
    yield _principle(chain)
    timed = [] if chain.camera else [f"dwell {shown(chain.dwell, 's')}", f"fly-back {shown(chain.fly_back, 's')}"]
    yield "; ".join((f"Expected counts {shown(chain.expected_counts, 'electrons per pixel')}", *timed,
                     f"share of pairs without any distortion {shown(chain.undistorted)}")) + "."
    listed = [(part, stage) for part in ("scan", "detector", "camera", "artefact") for stage in getattr(chain, part)]
    if listed:
        yield _table(("part", "stage", "share of pairs", "drawn from", "what it is"),
                     [(part, f"`{stage.stage}`", shown(stage.probability), _drawn(stage), _first(stage, numbers))
                      for part, stage in listed])
        yield "Numbers in brackets are those of the citations below; \"ours\" is a choice of emsynth's own."
    else:
        yield "The recipe has no stage of scan, detector, camera or artefact: the pairs are identical."
    yield "The clean fields are kept, undistorted, so that they can be distorted afresh."


def _principle(chain: Chain) -> str:
    units = "Both are in the detector's units"
    if chain.camera:
        return (f"A camera sees all pixels at once: truth and image show the same window. {units}; blur, noise and "
                "defects of the camera, and what follows it, are in the image alone.")
    return ("The scan distorts positions, not pictures: truth and image are each interpolated once from the field, at "
            "where the probe should have been and where it was. What the truth shares of the displacement: "
            f"{chain.truth_geometry}. {units}: the expected value of the image is the truth, apart from scan "
            "displacement, streaks, saturation, defects and what follows the detector.")


def _drawn(stage: Drawable) -> str:
    return "; ".join(f"{row.key} {row.value}" for row in rows(stage) if row.key != "probability") or "–"


def _first(stage: Drawable, numbers: dict[str, int]) -> str:
    """The first paragraph about a stage, with its citations by their numbers in the whole list."""
    paragraph = " ".join((type(stage).__doc__ or "").strip().partition("\n\n")[0].split())
    works = literature.cited(type(stage))
    return re.sub(r"\[(\d+)\]_", lambda found: f"[{numbers.get(works[int(found[1]) - 1], '?')}]", paragraph)


def _uses(facts: Facts) -> Iterator[str]:
    yield "It is for:"
    yield "\n".join(f"- {use}" for use in wording.uses(facts))
    yield "It is not for measuring a material, and not the only evidence that a restorer works. Known limits:"
    yield "\n".join(f"- {limit}" for limit in wording.limits(facts))


def _distribution(facts: Facts, publication: Publication) -> Iterator[str]:
    about = facts.store.attributes
    yield _table(("", ""), [
        ("licence", str(about["licence"])), ("version", publication.version), ("dated", publication.date),
        ("where", publication.url or _MISSING),
        ("size", f"{facts.bytes:,} bytes in {facts.files:,} files, without the card"),
        ("format", f"Zarr v3, emsynth's format version {about['format_version']}"),
        ("checksum of all", f"`sha256:{facts.total}`"), ("recipe", f"`{about['recipe_digest']}`")])
    yield ("The checksum of all is the identifier of the data set: it is over the SHA-256 of every file, which "
           "`manifest/` lists. `emsynth verify` reads every file and compares.")


def _maintenance(publication: Publication) -> Iterator[str]:
    yield f"Maintained by: {publication.contact or _MISSING}."
    yield ("The data do not change under one checksum; a corrected data set has another one, and another version. The "
           "recipe stands in `zarr.json` in full: with the versions above, on such a platform, `emsynth replay` "
           "renders any pair again and compares the bytes.")


def _opening(facts: Facts) -> Iterator[str]:
    name, splits = facts.store.path.resolve().name, facts.counts["split"]
    split = "train" if "train" in splits else min(splits)
    yield f"""```python
import xarray

data = xarray.open_zarr("{name}", consolidated=False)   # any other Zarr v3 reader will do
pairs = data.isel(sample=data.split.load() == "{split}")
truth, distorted = pairs.truth[0].values, pairs.distorted[0].values
```"""
    yield "zarr-python may warn that README.md and other plain files are no part of its hierarchy; they are not."
    yield f"""```python
import emsynth

# Distorted afresh from the clean fields; fresh=False gives the stored pairs.
for batch in emsynth.stream("{name}", batch_size=32, split="{split}"):
    batch.truth, batch.distorted
```"""


def _citations(citation: str, works: Sequence[literature.Work]) -> Iterator[str]:
    yield f"```bibtex\n{citation}\n```"
    yield "And the methods that are in it:"
    yield "\n".join(f"{n}. {work.text} For: {work.purpose}." for n, work in enumerate(works, start=1))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar within a cell would end it."""
    ruled = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in ruled)
