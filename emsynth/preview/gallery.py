"""The gallery: every family of distortions at its five severities, as one picture of one field."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Chain, Distorted, Grid, Window, prefilter
from emsynth.distortion.chain import ARTEFACT_ORDER, CAMERA_ORDER, DETECTOR_ORDER, SCAN_ORDER, Gather
from emsynth.distortion.severity import LEVELS, Family, families, family, severity
from emsynth.errors import StoreError
from emsynth.passes import simulate
from emsynth.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scene = Callable[[bool], tuple[Gather, Window]]  # by whether a camera sees it

# All lengths of the page in dots: a panel shows each pixel as one dot.
_LABEL, _GAP, _VALUES, _HEADING, _COLUMNS, _EDGE, _BETWEEN = 156, 3, 15, 30, 22, 10, 34
_DOTS = 100
_SIDE = 112
_PIXEL = 0.2  # Å, so that a panel is nearly six cells wide
_ROTATION = 0.12  # rad; a lattice along the rows would hide what happens along them
_SEED = 7  # with which rare events are about as frequent as their rates say
_GREYS = 64
_ROOM = 0.2  # of the truth's range, above and below it
_INK, _SOFT = "#1a1a1a", "#555555"
_OVERRIDES = ("samples=1", "fields=1", "specimen.structure=SrTiO3", "specimen.zone_axis=[0, 0, 1]",
              "microscope.energy=80e3", "microscope.convergence=26", "microscope.defocus=0")  # fmt: skip

# Sections by block of the page: heading, and which families stand there.
_SECTIONS = (
    (("Scan", SCAN_ORDER), ("STEM and SEM detector", DETECTOR_ORDER)),
    (("TEM camera", CAMERA_ORDER), ("After the detector", ARTEFACT_ORDER),
     ("All together", ("combined_stem", "combined_sem", "combined_tem"))),
)  # fmt: skip


def field_scene() -> Scene:
    """A window on one field of the shipped quickstart recipe: SrTiO₃ [001] at 80 kV.

    HAADF for what scans, and the ABF picture of the same pass, a bright field of low contrast, for cameras: the
    distortions are the camera's, the image formation is not.
    """
    field = simulate(Recipe.load("quickstart", _OVERRIDES), 0)
    window = Window((_SIDE, _SIDE), _PIXEL, rotation=_ROTATION, origin=(1.0, 1.0))

    def scene(camera: bool) -> tuple[Gather, Window]:
        coefficients = prefilter(field.image[-1, field.detectors.index("ABF" if camera else "HAADF")], field.periodic)

        def gather(grid: Grid) -> NDArray[np.float32]:
            return window.gather(coefficients, field.sampling, field.periodic, grid)

        return gather, window

    return scene


def draw_gallery(scene: Scene, names: Sequence[str]) -> Figure:
    """One row for each family: the truth of severity 1, then the image at severities 1 to 5.

    Every image has the same seed and index, and black and white at its own truth's 0.2 and 99.8 percentiles, less and
    plus a fifth of their distance. Along a row the truth changes by scale and offset (and by what the scan and the
    user share with it) only, except after a gamma, so that all that changes to the eye is the distortion.

    Parameters
    ----------
    scene : callable
        Gives a gather and its square window, the same for all.
    names : sequence of str
        Families to draw.

    Returns
    -------
    Figure
        With one axes for each panel.
    """
    # Matplotlib takes a second to import; no pyplot, which would keep figures in a global state.
    from matplotlib.figure import Figure

    side, blocks = scene(False)[1].shape[0], _arranged(names)
    row, across = side + _VALUES + _GAP, _LABEL + (1 + len(LEVELS)) * (side + _GAP)
    height = max(sum(_HEADING + row * len(rows) for _, rows in block) for block in blocks) + _COLUMNS + 2 * _EDGE
    width = len(blocks) * (across + _BETWEEN) - _BETWEEN + 2 * _EDGE
    figure = Figure(figsize=(width / _DOTS, height / _DOTS), dpi=_DOTS, facecolor="white")
    for n, block in enumerate(blocks):
        left, top = _EDGE + n * (across + _BETWEEN), _EDGE
        _write_columns(figure, left, top, side)
        top += _COLUMNS
        for heading, rows in block:
            _write(figure, left, top + 20, heading, size=11, weight="bold")
            top += _HEADING
            for name in rows:
                _draw_row(figure, left, top, family(name), scene, side)
                top += row
    return figure


def _arranged(names: Sequence[str]) -> list[list[tuple[str, list[str]]]]:
    """Families under their headings, by block of the page; what a camera shares with a detector stands there."""
    left = list(names)
    blocks = []
    for block in _SECTIONS:
        found = []
        for heading, tags in block:
            rows = [name for name in left if name in tags]
            left = [name for name in left if name not in tags]
            found += [(heading, rows)] if rows else []
        blocks += [found] if found else []
    return blocks


def _write_columns(figure: Figure, left: float, top: float, side: int) -> None:
    for n, text in enumerate(("truth", *(f"severity {level}" for level in LEVELS))):
        middle = left + _LABEL + n * (side + _GAP) + side / 2
        _write(figure, middle, top + 14, text, size=9, weight="bold", ha="center")


def _draw_row(figure: Figure, left: float, top: float, row: Family, scene: Scene, side: int) -> None:
    gather, window = scene(row.camera)
    chains = [severity(row.name, level) for level in LEVELS]
    made = [chain.run(gather, window.shape, _SEED, 0, window.pixel) for chain in chains]
    _write(figure, left, top + 14, row.name, size=8.5, weight="bold")
    for n, name in enumerate(row.shown):
        _write(figure, left, top + 30 + 14 * n, _quantity(chains[0], name)[1].removeprefix(f"{row.name}."),
               size=7.5, color=_SOFT)
    for n, (image, of) in enumerate([(made[0].truth, made[0]), *((m.distorted, m) for m in made)]):
        at = left + _LABEL + n * (side + _GAP)
        _show(figure, (at, top, side, side), image, grey_range(of))
        if n:
            values = ", ".join(f"{_quantity(chains[n - 1], name)[0]:g}" for name in row.shown)
            _write(figure, at + side / 2, top + side + 11, values, size=7.5, color=_SOFT, ha="center")


def _quantity(chain: Chain, name: str) -> tuple[float, str]:
    """Value of a shown number, and its name with its unit."""
    tag, _, key = name.rpartition(".")
    stages = (*chain.scan, *chain.detector, *chain.camera, *chain.artefact)
    owner = next(stage for stage in stages if stage.stage == tag) if tag else chain
    extra = type(owner).model_fields[key].json_schema_extra
    unit = extra["unit"] if isinstance(extra, dict) else "1"
    return float(getattr(owner, key)), name if unit == "1" else f"{name} / {unit}"


def grey_range(made: Distorted) -> tuple[float, float]:
    """Intensities that are black and white."""
    low, high = (float(v) for v in np.percentile(made.truth, (0.2, 99.8)))
    room = _ROOM * ((high - low) or 1.0)
    return low - room, high + room


def _show(figure: Figure, box: tuple[float, float, float, float], image: NDArray[np.float32],
          grey: tuple[float, float]) -> None:
    width, height = figure.get_size_inches() * _DOTS
    left, top, wide, tall = box
    axes = figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))
    axes.imshow(image, cmap="gray", vmin=grey[0], vmax=grey[1], interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _write(figure: Figure, left: float, baseline: float, text: str, **style: Any) -> None:
    width, height = figure.get_size_inches() * _DOTS
    figure.text(left / width, 1 - baseline / height, text, **{"color": _INK, "va": "baseline"} | style)


def png(figure: Figure) -> bytes:
    """The figure in 64 greys, which the eye does not tell from 256, at half of the size."""
    from PIL import Image

    drawn, held = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DOTS)
    with Image.open(drawn) as image:
        grey = np.asarray(image.convert("L"))
    picture = Image.fromarray(np.rint(grey * ((_GREYS - 1) / 255)).astype(np.uint8), "P")
    picture.putpalette([round(n * 255 / (_GREYS - 1)) for n in range(_GREYS) for _ in range(3)])
    picture.save(held, "PNG", optimize=True)
    return held.getvalue()


def write_gallery(out: Path, figure: Figure) -> None:
    """Write a gallery as PNG; StoreError where that fails."""
    try:
        out.write_bytes(png(figure))
    except OSError as reason:
        raise StoreError(f"{out}: cannot be written ({reason.strerror or reason}); give another file") from reason


def main() -> None:
    """Draw all families into the file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m emsynth.preview.gallery", description=__doc__)
    parser.add_argument("out", type=Path, help="PNG file to write")
    write_gallery(parser.parse_args().out, draw_gallery(field_scene(), families()))


if __name__ == "__main__":
    main()
