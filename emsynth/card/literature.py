"""The works that a data set stands on: those whose methods its fields and its recipe really contain."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from emsynth.card.facts import CONVOLUTION, PRISM, SURVEY, WAVES, Facts
from emsynth.distortion.split import affine_split
from emsynth.draw import extremes

_AMORPHOUS = re.compile(r"(^| on )a-(C|Si|Ge)$")
_ENTRY = re.compile(r"^\.\. \[\d+\] (.*)$")
_STAGE = "stage "
_DOIS = {"npj Comput. Mater. 10:10 (2024)": "10.1038/s41524-023-01188-0"}


@dataclass(frozen=True)
class Work:
    """A publication, and what of the data set it is cited for."""

    text: str
    purpose: str


def works(facts: Facts) -> list[Work]:
    """The works to cite, in the order in which a data set is made; each once."""
    purposes: dict[str, list[str]] = {}
    for work in (*_software(facts), *_simulation(facts), *_stages(facts)):
        known = purposes.setdefault(work.text, [])
        if work.purpose not in known:
            known.append(work.purpose)
    return [Work(text, _spoken(purpose)) for text, purpose in purposes.items()]


def _spoken(purposes: list[str]) -> str:
    """Purposes in words, the stages together."""
    stages = [name.removeprefix(_STAGE) for name in purposes if name.startswith(_STAGE)]
    named = f"{_STAGE.strip()}{'s' if len(stages) > 1 else ''} {', '.join(stages)}"
    return ", ".join([*(name for name in purposes if not name.startswith(_STAGE)), *([named] if stages else [])])


def sources(facts: Facts) -> dict[str, list[str]]:
    """Where the structures and their thermal vibrations are from: structures by source, as the fields say."""
    found: dict[str, list[str]] = {}
    for field in facts.fields:
        specimen = field["specimen"]
        for key in ("reference", "thermal_source"):
            if specimen.get(key):
                names = found.setdefault(str(specimen[key]), [])
                names += [specimen["structure"]] if specimen["structure"] not in names else []
    return {source: sorted(names) for source, names in sorted(found.items())}


def _software(facts: Facts) -> Iterator[Work]:
    version = facts.store.attributes["versions"].get("emsynth", "of unknown version")
    yield Work("The emsynth developers, emsynth: physically simulated and distorted electron micrographs, version "
               f"{version}.", "the data set")
    if facts.physics & WAVES:
        yield Work("Madsen and Susi, The abTEM code: transmission electron microscopy from first principles, Open "
                   "Research Europe 1:24 (2021), doi:10.12688/openreseurope.13015.2.", "potentials and multislice")
        yield Work("Hjorth Larsen et al., The atomic simulation environment, J. Phys.: Condens. Matter 29, 273002 "
                   "(2017), doi:10.1088/1361-648X/aa680e.", "atomic structures")
    yield Work("Zarr core specification, version 3, zarr-specs.readthedocs.io.", "the format")


def _simulation(facts: Facts) -> Iterator[Work]:
    """Works by what the fields' provenance says of them."""
    for applies, purpose, text in _RULES:
        if any(applies(field) for field in facts.fields):
            yield Work(text, purpose)


Rule = tuple[Callable[[dict[str, Any]], bool], str, str]


def _waves(field: dict[str, Any]) -> bool:
    return field["physics"] in WAVES


def _survey(*kinds: str) -> Callable[[dict[str, Any]], bool]:
    return lambda field: (field["physics"] == SURVEY
                          and field.get("microscope", {}).get("kind") in kinds)


def _superposed(field: dict[str, Any]) -> bool:
    return "superposed" in str(field.get("method")) or field["physics"] == PRISM


def _transmission(field: dict[str, Any]) -> bool:
    return _waves(field) and field.get("microscope", {}).get("kind") == "tem"


def _vibrating(field: dict[str, Any]) -> bool:
    return _waves(field) and int(field.get("phonon_configurations", 0)) > 0


def _amorphous(field: dict[str, Any]) -> bool:
    specimen = field["specimen"]
    return _waves(field) and ("contamination" in specimen or bool(_AMORPHOUS.search(str(specimen["structure"]))))


def _wulff(field: dict[str, Any]) -> bool:
    return _waves(field) and field["specimen"].get("shape") == "wulff"


_RULES: tuple[Rule, ...] = (
    (_waves, "multislice", "Cowley and Moodie, The scattering of electrons by atoms and crystals. I. A new theoretical "
     "approach, Acta Cryst. 10, 609 (1957), doi:10.1107/S0365110X57002194."),
    (_waves, "parametrisation of the potentials", "Lobato and Van Dyck, An accurate parameterization for scattering "
     "factors, electron densities and electrostatic potentials for neutral atoms that obey all physical constraints, "
     "Acta Cryst. A70, 636 (2014), doi:10.1107/S205327331401643X."),
    (_vibrating, "frozen phonons", "Loane, Xu and Silcox, Thermal vibrations in convergent-beam electron diffraction, "
     "Acta Cryst. A47, 267 (1991)."),
    (_superposed, "images from a superposition of plane waves", "Ophus, A fast image simulation algorithm for scanning "
     "transmission electron microscopy, Adv. Struct. Chem. Imaging 3, 13 (2017), doi:10.1186/s40679-017-0046-1."),
    (lambda field: "superposed" in str(field.get("method")), "transmission cross coefficients",
     "Hopkins, On the diffraction theory of optical images, Proc. R. Soc. A 217, 408 (1953)."),
    (lambda field: field["physics"] == CONVOLUTION, "incoherent imaging as a convolution",
     "Pennycook and Jesson, High-resolution Z-contrast imaging of crystals, Ultramicroscopy 37, 14 (1991)."),
    (_transmission, "envelope of the illumination", "Frank, The envelope of electron microscopic transfer functions "
     "for partially coherent illumination, Optik 38, 519 (1973)."),
    (_amorphous, "potential of the quenched amorphous films", "Tersoff, Modeling solid-state chemistry: interatomic "
     "potentials for multicomponent systems, Phys. Rev. B 39, 5566 (1989)."),
    (_wulff, "surface energies of Wulff's shapes", "Vitos, Ruban, Skriver and Kollár, The surface energy of metals, "
     "Surf. Sci. 411, 186 (1998)."),
    (_survey("stem_survey"), "scattering onto the dark-field detector", "Reimer and Kohl, Transmission Electron "
     "Microscopy, Springer (2008), section 5.1."),
    (_survey("stem_survey"), "power of the atomic number", "Krivanek et al., Nature 464, 571 (2010)."),
    (_survey("stem_survey", "tem_survey"), "elastic mean free path", "Langmore and Smith, Ultramicroscopy 46, 349 "
     "(1992)."),
    (_survey("stem_survey", "tem_survey"), "two-beam diffraction contrast", "Hirsch et al., Electron Microscopy of "
     "Thin Crystals, Krieger (1977), section 8.3."),
    (_survey("tem_survey"), "Fresnel fringes by the transport of intensity", "Teague, J. Opt. Soc. Am. 73, 1434 "
     "(1983)."),
    (_survey("sem"), "secondary electrons over energy", "Lin and Joy, Surf. Interface Anal. 37, 895 (2005)."),
    (_survey("sem"), "yields and their tilt", "Reimer, Scanning Electron Microscopy, Springer (1998)."),
    (_survey("sem"), "backscattering over tilt", "Drescher, Reimer and Seidel, Z. angew. Phys. 29, 331 (1970)."),
    (_survey("sem"), "range of the electrons", "Kanaya and Okayama, J. Phys. D 5, 43 (1972)."),
    (_survey("sem"), "sky view of a point", "Dozier and Frew, IEEE Trans. Geosci. Remote Sens. 28, 963 (1990)."),
)


def _stages(facts: Facts) -> Iterator[Work]:
    """What the docstrings of the stages cite that may happen to a pair of this recipe."""
    chain = facts.store.recipe.distort
    for stage in (*chain.scan, *chain.detector, *chain.camera, *chain.artefact):
        if max(extremes(stage.probability)) > 0:
            for text in cited(type(stage)):
                yield Work(text, f"{_STAGE}{stage.stage}")
    if any(max(extremes(stage.probability)) > 0 for stage in chain.scan):
        for text in cited(affine_split):
            yield Work(text, "affine part of the displacement")


def cited(documented: object) -> list[str]:
    """Entries of the section References of a docstring, each on one line."""
    _, _, listed = (inspect.getdoc(documented) or "").partition("References\n----------\n")
    found: list[str] = []
    for line in listed.partition("\n\n")[0].splitlines():
        entry = _ENTRY.match(line)
        if entry:
            found.append(entry[1])
        elif found:
            found[-1] += f" {line.strip()}"
    return [_with_doi(text) for text in found]


def _with_doi(text: str) -> str:
    doi = next((doi for work, doi in _DOIS.items() if work in text), None)
    return f"{text.rstrip('.')}, doi:{doi}." if doi else text
