"""PRISM against plain multislice, on specimens that its window was not chosen on.

``python -m emsynth.simulation.prism_check`` runs both on every case of `CASES` (four minutes of one core) and
writes ``prism.json``, which decides what `prism.check_offered` lets through. Boxes are the smallest that two windows
fit into, where PRISM deviates most.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.draw import Streams, number
from emsynth.microscope import Microscope
from emsynth.simulation.convolution_check import DETECTORS, scope
from emsynth.simulation.field import Field
from emsynth.simulation.plan import Simulation, plan_for
from emsynth.specimen.base import Specimen

# Largest relative rms deviation of a detector that is offered.
LIMIT = 0.02
# Of the random displacements.
SEED = 7


def particle() -> Specimen:
    """An icosahedron of gold, turned at random, on carbon."""
    from emsynth.specimen.particle import Nanoparticle

    return Nanoparticle.model_validate({
        "structure": "Au", "shape": "icosahedron", "diameter": 14.0, "orientation": "random", "zone_axis": (1, 1, 0),
        "support_thickness": 10.0, "film": "seamless", "box": 40.5}).build(Streams(5, 0))


def edge(structure: str, box: float) -> Specimen:
    """A crystal against vacuum."""
    from emsynth.specimen.edge import Edge

    return Edge.model_validate({"structure": structure, "zone_axis": (0, 0, 1), "thickness": 20.0, "box": box,
                                "vacuum": 12.0, "steps": 1}).build(Streams(5, 0))


def vacancies() -> Specimen:
    """Gallium arsenide with empty sites."""
    from emsynth.specimen.defects import Defects

    return Defects.model_validate({"structure": "GaAs", "zone_axis": (0, 0, 1), "thickness": 20.0, "box": 39.0,
                                   "vacancies": 0.05}).build(Streams(5, 0))


@dataclass(frozen=True)
class Case:
    """One comparison: a specimen under a microscope."""

    name: str
    build: Callable[[], Specimen]
    microscope: Microscope


CASES = (
    Case("GaAs [001] 20 Å, a twentieth vacant", vacancies, scope(80e3, 22.0, 70.0, focal_spread=20.0, source_size=0.4)),
    Case("SrTiO3 [001] 20 Å, an edge", lambda: edge("SrTiO3", 39.0),
         scope(80e3, 24.0, 50.0, coma=400.0, astigmatism=10.0, source_size=0.7)),
    Case("MgO [001] 20 Å, an edge, defocus -60 Å, coma 500 Å", lambda: edge("MgO", 44.0),
         scope(80e3, 23.0, 60.0, defocus=-60.0, coma=500.0, astigmatism=15.0)),
    Case("Au icosahedron 14 Å on 10 Å of carbon", particle, scope(80e3, 27.0, defocus=10.0, focal_spread=30.0)),
)


def displaced(specimen: Specimen) -> Specimen:
    """One thermal configuration, for both physics.

    Heights stay as they are: they move a picture little, and the slices are laid between the planes of the atoms.
    """
    atoms: Any = specimen.atoms[list(range(len(specimen.atoms)))]
    sigma = np.array([specimen.thermal[symbol] for symbol in atoms.get_chemical_symbols()])
    atoms.positions[:, :2] += np.random.default_rng(SEED).normal(size=(len(atoms), 2)) * sigma[:, None]
    return replace(specimen, atoms=atoms)


def deviations(reference: NDArray[np.float32], found: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Deviations (detector,) of PRISM's pictures (detector, H, W).

    ``deviation`` is the rms of the difference by the rms of multislice, ``by_mean`` the same by the mean,
    ``by_contrast`` by the standard deviation of the picture, and ``mean`` the mean of PRISM by that of multislice.
    """
    seen, made = reference.astype(np.float64), found.astype(np.float64)
    rms = np.sqrt(np.square(made - seen).mean(axis=(-2, -1)))
    mean = seen.mean(axis=(-2, -1))
    return {"deviation": rms / np.sqrt(np.square(seen).mean(axis=(-2, -1))), "by_mean": rms / mean,
            "by_contrast": rms / seen.std(axis=(-2, -1)), "mean": made.mean(axis=(-2, -1)) / mean}


def compare(case: Case) -> tuple[dict[str, Any], Field, Field]:
    """Both physics for one case: what the record says of it, multislice's field, PRISM's field."""
    from emsynth.simulation import multislice

    specimen = displaced(case.build())
    fields, seconds = {}, {}
    usual = {"max_angle": 110.0, "phonons": {"minimum": 0, "maximum": 0}, "film_thicknesses": 1, "thicknesses": 1}
    prism = Simulation.model_validate({**usual, "physics": "prism"})
    planned = plan_for(specimen, case.microscope, prism)
    if planned.interpolation == 1:
        raise ValueError(f"{case.name}: two windows do not fit into {min(planned.box):.1f} Å")
    for settings in (prism, Simulation.model_validate(usual)):
        start = time.process_time()
        fields[settings.physics] = multislice.simulate(specimen, case.microscope, settings, Streams(11, 1))
        seconds[settings.physics] = round(time.process_time() - start, 1)
    reference, found = fields["multislice"], fields["prism"]
    said = {
        "specimen": case.name, "energy": number(case.microscope.energy),
        "convergence": number(case.microscope.convergence), "inner": case.microscope.detector_angles()["HAADF"][0],
        "probe": round(case.microscope.wavelength / (number(case.microscope.convergence) * 1e-3), 3),
        "box": [round(side, 2) for side in planned.box], "depth": round(planned.depth, 2),
        "interpolation": planned.interpolation, "window": round(min(planned.box) / planned.interpolation, 2),
        "seconds": seconds,
        **{key: {name: round(float(value), 5) for name, value in zip(reference.detectors, values, strict=True)}
           for key, values in deviations(reference.image[-1], found.image[-1]).items()}}
    return said, reference, found


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The record: what was measured, and what follows for what is offered."""
    worst = {name: max(case["deviation"][name] for case in cases) for name in DETECTORS}
    return {
        "measure": "rms of PRISM - multislice by rms of multislice (by_mean: by its mean; by_contrast: by its standard "
                   "deviation); one thermal configuration; seconds of one core",
        "limit": LIMIT, "worst": worst, "offered": [name for name in DETECTORS if worst[name] <= LIMIT],
        "checked": {"inner_least": min(case["inner"] for case in cases), "probe_widest": max(c["probe"] for c in cases),
                    "interpolation": sorted({case["interpolation"] for case in cases})},
        "cases": cases,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the cases and write the record."""
    parser = argparse.ArgumentParser(prog="python -m emsynth.simulation.prism_check", description=__doc__)
    parser.add_argument("--pictures", type=Path, help="folder for the pictures of both, as .npz")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_name("prism.json"))
    parser.add_argument("--only", default="", help="cases whose name holds this; the record then is only printed")
    asked = parser.parse_args(arguments)
    cases = []
    for case in CASES:
        if asked.only not in case.name:
            continue
        said, reference, found = compare(case)
        cases.append(said)
        print(case.name, said["deviation"], said["seconds"], flush=True)
        if asked.pictures:
            asked.pictures.mkdir(parents=True, exist_ok=True)
            np.savez(asked.pictures / f"{case.name.replace(' ', '_')}.npz", multislice=reference.image,
                     prism=found.image)
    text = json.dumps(summary(cases), indent=1, ensure_ascii=False) + "\n"
    if asked.only:
        sys.stdout.write(text)
    else:
        asked.record.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
