"""Croissant metadata of a data set: JSON-LD by the vocabulary of MLCommons, version 1.0, with its part on responsible
AI; see mlcommons.org/croissant.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from emsynth.card import wording
from emsynth.card.facts import Facts
from emsynth.card.publication import Publication
from emsynth.card.table import INDEX, SCALARS
from emsynth.store.manifest import sha256

# The context that the specification prescribes.
_TERMS = ("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet",
          "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
          "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform")
_CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", **{term: f"cr:{term}" for term in _TERMS}, "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}}
_TYPES = {"s": "sc:Text", "i": "sc:Integer", "f": "sc:Float"}
_SPDX = re.compile(r"[A-Za-z0-9.+-]+")


def metadata(facts: Facts, publication: Publication, files: dict[str, Path], citation: str) -> str:
    """The document.

    Parameters
    ----------
    facts : Facts
        What the data set is made of.
    publication : Publication
        What the publisher says.
    files : dict
        Files of the card by their names in the data set: ``samples.csv`` and those beside it.
    citation : str
        How to cite the data set, as BibTeX.

    Returns
    -------
    str
        JSON-LD; the same data set and publication give the same text.
    """
    about = {
        "@context": _CONTEXT, "@type": "sc:Dataset", "name": facts.name, "description": wording.description(facts),
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "identifier": f"sha256:{facts.total}", "version": publication.version, "datePublished": publication.date,
        "license": licence_address(str(facts.store.attributes["licence"])), "citeAs": citation, **_given(publication),
        "keywords": ["electron microscopy", "image restoration", "synthetic data", *sorted(facts.instruments)],
        **_responsible(facts), "distribution": [*(_file(n, p) for n, p in files.items()), *_sets(facts)],
        "recordSet": [_records()]}
    return json.dumps(about, indent=1, ensure_ascii=False) + "\n"


def licence_address(licence: str) -> str:
    """Where the text of a licence with an SPDX identifier is; anything else stays as it is."""
    return f"https://spdx.org/licenses/{licence}.html" if _SPDX.fullmatch(licence) else licence


def _given(publication: Publication) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if publication.title:
        found["alternateName"] = publication.title
    if publication.creators:
        found["creator"] = [{"@type": "sc:Person", "name": name} for name in publication.creators]
    if publication.contact:
        found["maintainer"] = {"@type": "sc:Person", "name": publication.contact}
    if publication.url:
        found["url"] = publication.url
    return found


def _responsible(facts: Facts) -> dict[str, Any]:
    return {
        "rai:dataCollection": wording.collection(facts),
        "rai:dataCollectionType": ["Simulation"] if not facts.supplied else ["Others"],
        "rai:dataPreprocessingProtocol": wording.preprocessing(facts),
        "rai:dataAnnotationProtocol": ["Annotations (displacement, mask, class map, atom columns) are the simulation's "
                                       "own parameters; nobody annotated anything."],
        "rai:dataUseCases": wording.uses(facts), "rai:dataLimitations": wording.limits(facts),
        "rai:dataBiases": ["Structures, instruments and distortions are those of the recipe, in its shares, and not "
                           "those of any laboratory."],
        "rai:personalSensitiveInformation": ["Not known: the images were supplied." if facts.supplied
                                             else "None: everything is simulated."]}


def _file(name: str, path: Path) -> dict[str, Any]:
    kinds = {".csv": "text/csv", ".png": "image/png", ".md": "text/markdown"}
    return {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name,
            "encodingFormat": kinds[path.suffix], "contentSize": f"{path.stat().st_size} B", "sha256": sha256(path)}


def _sets(facts: Facts) -> list[dict[str, Any]]:
    described = {"arrays": (sorted(f"{a.name}/**" for a in facts.arrays), "Zarr v3 arrays of the pairs, in shards"),
                 "fields": (["fields/**"], "the clean fields, a Zarr v3 group each"),
                 "manifests": (["manifest/*.json"], "SHA-256 of every file of the data set")}
    return [{"@type": "cr:FileSet", "@id": name, "name": name, "description": about, "includes": patterns,
             "encodingFormat": "application/json" if name == "manifests" else "application/vnd.zarr"}
            for name, (patterns, about) in described.items()]


def _records() -> dict[str, Any]:
    columns = [(INDEX, "sc:Integer", "index of the sample"),
               *((a.name, _TYPES[a.dtype[0]], f"{a.about} [{a.units}]" if a.units else a.about) for a in SCALARS)]
    return {"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "key": {"@id": f"samples/{INDEX}"},
            "description": "The scalars of every sample; NaN where one is not known.",
            "field": [{"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "description": about,
                       "dataType": kind, "source": {"fileObject": {"@id": "samples.csv"}, "extract": {"column": name}}}
                      for name, kind, about in columns]}
