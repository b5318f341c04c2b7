"""The families of morphology by name; each draws one kind of specimen on a canvas."""

from __future__ import annotations

from collections.abc import Callable

from emsynth.specimen._morphology_bodies import aggregates, facets, fibres, flakes, particles, spheres, vesicles
from emsynth.specimen._morphology_canvas import Canvas
from emsynth.specimen._morphology_ground import ground
from emsynth.specimen._morphology_sections import film, fracture, grains, holes, lamellae, porous, tracks


def mixed(canvas: Canvas) -> None:
    """One family on another: a polycrystal, a film, tracks or fibres that carry particles, aggregates or crystals."""
    rng = canvas.generator("mixed")
    below = str(rng.choice(["grains", "film", "holes", "fibres"]))
    above = str(rng.choice(["particles", "aggregates", "particles", "fibres" if below != "fibres" else "particles"]))
    if below in ("film", "fibres"):
        ground(canvas)
    FAMILIES[below](canvas)
    canvas.body = canvas.extra
    canvas.size *= float(rng.uniform(0.3, 0.9))
    canvas.coverage = min(canvas.coverage, 0.35)
    FAMILIES[above](canvas)


Family = Callable[[Canvas], None]
FAMILIES: dict[str, Family] = {
    "particles": particles,
    "spheres": spheres,
    "grains": grains,
    "fibres": fibres,
    "lamellae": lamellae,
    "holes": holes,
    "film": film,
    "aggregates": aggregates,
    "porous": porous,
    "facets": facets,
    "flakes": flakes,
    "fracture": fracture,
    "tracks": tracks,
    "vesicles": vesicles,
    "mixed": mixed,
}
# Families that are their own ground.
GROUNDLESS = frozenset({"grains", "lamellae", "holes", "porous", "fracture", "mixed"})
