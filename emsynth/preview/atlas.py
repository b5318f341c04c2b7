"""The atlas: every family of specimens, as one picture of each, with its columns and its class map.

``python -m emsynth.preview.atlas docs/images`` writes ``specimens.png`` and ``morphologies.png``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import StoreError
from emsynth.passes import simulate
from emsynth.recipe import Recipe
from emsynth.simulation.field import Field
from emsynth.specimen.morphology import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT = "#1a1a1a", "#555555"
# Vacuum, amorphous, and grains in turn.
_CLASSES = ("#ffffff", "#c9c9c9", "#7ba6c9", "#d99a6c", "#8fbf8f", "#c48fbf", "#d6c36a", "#7fc4bd")
_SEED = 4
_BOX = 44.0  # Å

# Heading and specimen of each panel; the values are such as the recipes draw.
ATOMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("crystal: SrTiO₃ [001]", {"kind": "crystal", "structure": "SrTiO3", "zone_axis": [0, 0, 1], "thickness": 60}),
    ("crystal: mistilt 15 mrad", {"kind": "crystal", "structure": "Au", "zone_axis": [0, 1, 1], "thickness": 60,
                                  "mistilt": 15, "mistilt_azimuth": 30}),
    ("defects: vacancies", {"kind": "defects", "structure": "GaAs", "zone_axis": [0, 1, 1], "thickness": 40,
                            "vacancies": 0.12}),
    ("defects: substitution", {"kind": "defects", "structure": "Al", "zone_axis": [0, 0, 1], "thickness": 40,
                               "substitution": 0.1, "dopant": "Ag"}),
    ("defects: wedge and steps", {"kind": "defects", "structure": "MgO", "zone_axis": [0, 0, 1],
                                  "thickness": 60, "wedge": 6, "exit_steps": 3}),
    ("defects: strain", {"kind": "defects", "structure": "Cu", "zone_axis": [0, 0, 1], "thickness": 40,
                         "strain": 0.02}),
    ("defects: dislocations", {"kind": "defects", "structure": "Al", "zone_axis": [0, 1, 1], "thickness": 40,
                               "dislocations": 1}),
    ("defects: precipitate", {"kind": "defects", "structure": "Al", "zone_axis": [0, 0, 1], "thickness": 40,
                              "precipitate": "Cu", "precipitate_diameter": 26, "precipitate_aspect": 0.3}),
    ("boundary: twin", {"kind": "boundary", "structure": "Au", "zone_axis": [1, -1, 0], "plane": [1, 1, 1],
                        "thickness": 40, "width": 22, "minimum_box": 44}),
    ("boundary: tilt Σ5", {"kind": "boundary", "structure": "MgO", "zone_axis": [0, 0, 1], "sigma": 5, "thickness": 40,
                           "width": 22, "minimum_box": 44}),
    ("edge with steps", {"kind": "edge", "structure": "Au", "zone_axis": [0, 1, 1], "thickness": 40, "box": 48,
                         "vacuum": 16, "steps": 3}),
    ("edge, wedge-shaped", {"kind": "edge", "structure": "CeO2", "zone_axis": [0, 1, 1], "thickness": 40, "box": 48,
                            "vacuum": 14, "wedge": 15, "edge_thickness": 6}),
    ("particle: Wulff on a-C", {"kind": "nanoparticle", "structure": "Pt", "diameter": 28, "zone_axis": [0, 1, 1],
                                "support_thickness": 15, "box": 48, "film": "seamless"}),
    ("particle: icosahedron", {"kind": "nanoparticle", "structure": "Au", "shape": "icosahedron", "diameter": 28,
                               "zone_axis": [0, 0, 1], "support_thickness": 0, "box": 48}),
    ("particle: decahedron on a-C", {"kind": "nanoparticle", "structure": "Au", "shape": "decahedron", "diameter": 30,
                                     "zone_axis": [0, 1, 1], "support_thickness": 15, "box": 48}),
    ("particle: rod", {"kind": "nanoparticle", "structure": "ZnO", "shape": "rod", "diameter": 20, "aspect": 2.0,
                       "support_thickness": 0, "box": 58}),
    ("particle: random cut and turn", {"kind": "nanoparticle", "structure": "CeO2", "shape": "random",
                                       "orientation": "random", "diameter": 28, "support_thickness": 15, "box": 48}),
    ("two particles, overlapping", {"kind": "nanoparticle", "structure": "Pd", "shape": "truncated_octahedron",
                                    "count": 2, "arrangement": "overlapping", "orientation": "random", "diameter": 24,
                                    "support_thickness": 15, "box": 54}),
    ("layer: MoS₂ with vacancies", {"kind": "layer", "structure": "MoS2 layer", "vacancies": 0.04, "box": 44}),
    ("layers: graphene, twisted", {"kind": "layer", "structure": "graphene", "layers": 2, "twist": 13.17, "box": 44}),
    ("layer: WSe₂ with a hole", {"kind": "layer", "structure": "WSe2 layer", "hole": 16, "box": 44}),
    ("amorphous carbon", {"kind": "amorphous", "material": "C", "thickness": 30, "box": 44}),
    ("contaminated edge", {"kind": "edge", "structure": "Si", "zone_axis": [0, 1, 1], "thickness": 30, "box": 48,
                           "vacuum": 14, "contaminated": True}),
    ("garnet Y₃Al₅O₁₂ [111]", {"kind": "defects", "structure": "Y3Al5O12", "zone_axis": [1, 1, 1],
                                          "thickness": 30, "vacancies": 0.02, "box": 44}),
)


def field_of(specimen: dict[str, Any]) -> Field:
    """The panel's field: the image of a corrected TEM at 300 kV, by multislice, white atoms in dark surroundings."""
    asked = {"box": _BOX, **specimen} if specimen["kind"] == "defects" else dict(specimen)
    member: dict[str, Any] = {"specimen": asked}
    if asked.pop("contaminated", False):
        member["contamination"] = {"share": 1, "thickness": 20}
    return simulate(Recipe.model_validate({
        "name": "atlas", "seed": _SEED, "samples": 1, "fields": 1, "image": {"detector": "any"},
        "specimen": {"kind": "mixture", "members": [member]},
        # Overfocus against a negative Cs: bright atoms (Jia, Lentzen and Urban, Science 299, 870, 2003).
        "microscope": {"kind": "tem", "energy": 300e3, "spherical": -1.5e5, "defocus": -60, "focal_spread": 20,
                       "illumination": 0.1, "aperture": 30},
        "simulate": {"max_angle": 45, "thicknesses": 1, "film_thicknesses": 1,
                     "phonons": {"model": "debye_waller"}}}), 0)


def draw_specimens(panels: Sequence[tuple[str, dict[str, Any]]] = ATOMS, across: int = 4) -> Figure:
    """Two pictures for each family: the image, and the class map with the columns on it.

    Parameters
    ----------
    panels : sequence of (str, dict)
        Heading and specimen of each.
    across : int
        Families beside each other.
    """
    from matplotlib.figure import Figure

    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.2 * across, 2.45 * down), dpi=100, facecolor="white")
    grid = figure.subplots(down, 2 * across, squeeze=False)
    figure.subplots_adjust(left=0.005, right=0.995, top=1 - 0.25 / (2.45 * down), bottom=0.005, wspace=0.03,
                           hspace=0.18)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, (heading, specimen) in enumerate(panels):
        row, col = divmod(number, across)
        _panel(grid[row, 2 * col], grid[row, 2 * col + 1], heading, field_of(specimen))
    return figure


def _panel(left: Axes, right: Axes, heading: str, field: Field) -> None:
    image, shown = field.image[-1, 0], 44.0
    tiles = [max(1, round(shown / side)) if endless else 1
             for side, endless in zip(field.extent, field.repeats, strict=True)]
    whole = np.tile(image, tiles)
    extent = (0.0, field.extent[1] * tiles[1], field.extent[0] * tiles[0], 0.0)
    low, high = np.quantile(whole, [0.002, 0.998])
    left.imshow(whole, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    left.set_title(heading, fontsize=8.5, color=_INK, loc="left", pad=3)
    right.imshow(_coloured(np.tile(field.classes, tiles) if field.classes.size > 1 else field.classes), extent=extent,
                 interpolation="nearest")
    position, _ = field.columns_at(float(field.thickness[-1]))
    for r in range(tiles[0]):
        for c in range(tiles[1]):
            at = np.mod(position, field.extent) + np.array([r, c]) * field.extent
            right.scatter(at[:, 1], at[:, 0], s=np.sqrt(field.columns.number) * 0.25, c=_INK, linewidths=0)
    right.set_title(f"{extent[1]:.0f} × {extent[2]:.0f} Å", fontsize=7.5, color=_SOFT, loc="right", pad=3)
    for axes in (left, right):
        axes.set_xlim(0, extent[1])
        axes.set_ylim(extent[2], 0)


def _coloured(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colours = np.array([[int(c[i:i + 2], 16) for i in (1, 3, 5)] for c in _CLASSES], np.uint8)
    grain = (classes.astype(np.int64) - 2) % (len(_CLASSES) - 2) + 2
    return colours[np.where(classes < 2, classes, grain)]


def draw_morphologies(families: Sequence[str] = tuple(SPLITS), size: int = 640) -> Figure:
    """One row for each family of morphologies: SE, BSE, HAADF and TEM at low magnification.

    Parameters
    ----------
    families : sequence of str
        Families of `emsynth.specimen.morphology`.
    size : int
        Rows and columns of a field.
    """
    from matplotlib.figure import Figure

    shown = [("sem", "SE"), ("sem", "BSE"), ("stem_survey", "HAADF"), ("tem_survey", "camera")]
    figure = Figure(figsize=(8.4, 2.2 * len(families)), dpi=100, facecolor="white")
    grid = figure.subplots(len(families), len(shown), squeeze=False)
    figure.subplots_adjust(left=0.005, right=0.995, top=1 - 0.3 / (2.2 * len(families)), bottom=0.002, wspace=0.02,
                           hspace=0.1)
    for row, family in zip(grid, families, strict=True):
        for axes, (kind, detector) in zip(row, shown, strict=True):
            axes.set_axis_off()
            field = _survey(family, kind, size)
            image = field.image[0, field.detectors.index(detector)]
            low, high = np.quantile(image, [0.005, 0.995])
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
            name = "TEM" if kind == "tem_survey" else detector
            heading = f"{family}: {name}" if detector == "SE" else name
            axes.set_title(heading, fontsize=8.5, color=_INK, loc="left", pad=3)
    return figure


def _survey(family: str, kind: str, size: int) -> Field:
    surface = kind == "sem"
    return simulate(Recipe.model_validate({
        "name": "atlas", "seed": _SEED, "samples": 1, "fields": 1,
        "image": {"size": 64, "pixel_size": {"dist": "log_uniform", "low": 5, "high": 5000}, "detector": "any"},
        "specimen": {"kind": "morphology", "family": family, "extent": 2e4, "size": 0.06,
                     "support": "bulk" if surface else "film"},
        "microscope": {"kind": kind}, "simulate": {"kind": "phenomenological", "size": size}}), 0)


def _write(figure: Figure, out: Path) -> None:
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    # Few colours: a third of the size.
    Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(out, optimize=True)


def main() -> None:
    """Command line."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("folder", type=Path)
    given = ask.parse_args()
    for name, figure in (("specimens.png", draw_specimens()), ("morphologies.png", draw_morphologies())):
        try:
            _write(figure, given.folder / name)
        except OSError as reason:
            raise StoreError(f"{given.folder / name}: cannot be written ({reason.strerror or reason}); give another "
                             f"folder") from reason


if __name__ == "__main__":
    main()
