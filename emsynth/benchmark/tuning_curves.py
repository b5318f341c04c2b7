"""The tuning curves as a figure: one panel for each baseline's main parameter, one line for each condition."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from emsynth.benchmark.tuning import Tuning
from emsynth.restoration import BASELINES, Parameter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_PANEL = 3.6  # inches
_DOTS = 130
_MARKS = {"interior": "o", "identity": "<", "smallest": "s", "largest": "s", "end": "X"}


def draw_curves(tuning: Tuning) -> bytes:
    """Gain of each baseline over the image as it was, against the parameters that have a scale, as PNG.

    A mark shows what was chosen: a disc inside the range, a triangle at the identity, a square at the smallest or
    largest there is, a cross at an end of a range that was too narrow.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(name, parameter) for name, baseline in BASELINES.items() if name in tuning.found
              for parameter in baseline.parameters if parameter.scale != "choice"]
    rows = max(1, math.ceil(len(panels) / _COLUMNS))
    figure = Figure(figsize=(_COLUMNS * _PANEL, rows * _PANEL * 0.8 + 1.2), dpi=_DOTS, layout="constrained")
    families = _families(tuning)
    for place, (name, parameter) in enumerate(panels):
        axes = figure.add_subplot(rows, _COLUMNS, place + 1)
        _draw_panel(axes, name, parameter, tuning.found[name], families)
    handles = [_line(colour) for colour in families.values()]
    figure.legend(handles, list(families), loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    figure.suptitle(f"{tuning.suite}: what each baseline gains on the tune split, darker lines severer", fontsize=9)
    written = io.BytesIO()
    FigureCanvasAgg(figure).print_png(written)  # type: ignore[no-untyped-call]
    return written.getvalue()


def _draw_panel(axes: Axes, name: str, parameter: Parameter, found: dict[str, dict[str, Any]],
                families: dict[str, Any]) -> None:
    for condition, record in found.items():
        family, _, severity = condition.rpartition("-")
        curve = record["curves"][parameter.name]
        chosen = record["values"][parameter.name]
        gains = [score - record["input"] for _, score in curve]
        look = {"color": families[family], "alpha": 0.3 + 0.14 * int(severity)}
        axes.plot([_place(parameter, value) for value, _ in curve], gains, lw=0.8, **look)
        axes.plot(_place(parameter, chosen), record["psnr"] - record["input"], ms=3.5, **look,
                  marker=_MARKS[record["ends"][parameter.name]])
    axes.set_title(f"{name}: {parameter.name}", fontsize=8)
    axes.set_xlabel(f"{parameter.name} [{parameter.unit}]", fontsize=7)
    axes.set_ylabel("gain in PSNR [dB]", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -6))
    axes.axhline(0, color="0.6", lw=0.5)
    _label(axes, parameter)


def _label(axes: Axes, parameter: Parameter) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if parameter.scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, (1.0, 3.0), numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        # 0, the identity, has a place of its own at the left.
        axes.axvline(_place(parameter, 0.0), color="0.85", lw=4, zorder=0)
    else:
        axes.set_xticks(range(len(parameter.values)), [f"{value:g}" for value in parameter.values])


def _place(parameter: Parameter, value: Any) -> float:
    if parameter.scale == "log":
        return float(value) or parameter.low / 2
    return float(parameter.values.index(value))


def _families(tuning: Tuning) -> dict[str, Any]:
    from matplotlib import colormaps

    names = dict.fromkeys(condition.rpartition("-")[0] for found in tuning.found.values() for condition in found)
    return {name: colormaps["tab20" if len(names) > 10 else "tab10"](place) for place, name in enumerate(names)}


def _line(colour: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour)
