"""Two pictures of a network: its gain over oracle BM3D in each condition, and the hardest images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.networks.figures import wide
from emsynth.benchmark.suite import Case, Floats, Suite
from emsynth.benchmark.tuning import tuned_restorer
from emsynth.imagery import replacing
from emsynth.restoration import Baseline, apply, find

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS, _PANEL, _GAP, _INK, _SOFT = 200, 1.92, 0.08, "#1a1a1a", "#6b6b6b"
_BESIDE = "bm3d"


def heat_map(told: Mapping[str, Any], other: str, path: Path) -> Path:
    """Gain in mean PSNR over another restorer, family by severity, dB."""
    from matplotlib.figure import Figure

    gain = told["gain"]
    families, severities = list(told["cuts"]["family"]), sorted({int(key.rpartition("-")[2]) for key in gain})
    values = np.array([[gain.get(f"{family}-{severity}", np.nan) for severity in severities] for family in families])
    limit = max(1.0, float(np.nanpercentile(np.abs(values), 95)))
    figure = Figure(figsize=(5.2, 1.1 + 0.36 * len(families)), dpi=_DOTS, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (row, col), value in np.ndenumerate(values):
        axes.text(col, row, f"{value:+.1f}", ha="center", va="center", size=8,
                  color="white" if abs(value) > 0.65 * limit else _INK)
    axes.set_xticks(range(len(severities)), [str(n) for n in severities], size=8)
    axes.set_yticks(range(len(families)), families, size=8)
    axes.tick_params(length=0)
    axes.set_xlabel("severity", size=8, color=_INK)
    axes.set_title(f"{told['network']} on {told['suite']}: gain over {other}, dB", size=9, color=_INK, loc="left")
    for side in axes.spines.values():
        side.set_visible(False)
    return _write(figure, path)


def hardest(suite: Suite, table: pd.DataFrame, network: str, other: str) -> list[tuple[int, int]]:
    """(condition, scene) of the image of each content on which the network did worst, then where it lost most.

    Its lowest PSNR of each content and of scenes with vacuum, each in another family as far as there are some; last the
    largest loss against another restorer.
    """
    images = wide(suite, table)
    own = images[images["restorer"] == network].sort_values("psnr", kind="stable")
    number = {(c.family, c.severity): n for n, c in enumerate(suite.conditions)}
    rows: list[Any] = []
    taken: set[str] = set()
    parts = [own[own["content"] == content] for content in dict.fromkeys(s.content for s in suite.scenes)]
    for part in [*parts, own[own["vacuum"]]]:
        free = part[~part["family"].isin(taken)]
        if len(part):
            rows.append((free if len(free) else part).iloc[0])
            taken.add(rows[-1]["family"])
    key = ["family", "severity", "scene"]
    beside = images[images["restorer"] == other].set_index(key)["psnr"]
    loss = (own.set_index(key)["psnr"] - beside).reset_index(name="gain")
    rows.append(loss.sort_values("gain", kind="stable").iloc[0])
    return list(dict.fromkeys((number[row["family"], row["severity"]], int(row["scene"])) for row in rows))


def contact_sheet(suite: Suite, cases: Sequence[tuple[int, int]], spec: str, network: str, path: Path) -> Path:
    """Distorted, BM3D as it is tuned for the condition, network, truth and the network's residual of some images."""
    from matplotlib.figure import Figure

    pitch, titles = _PANEL + 0.32, ("Distorted", _BESIDE, network, "Truth", f"{network} less truth")
    width, height = len(titles) * (_PANEL + _GAP) + _GAP, 0.42 + len(cases) * pitch + 0.22
    figure = Figure(figsize=(width, height), dpi=_DOTS, facecolor="white")
    for col, title in enumerate(titles):
        figure.text((_GAP + col * (_PANEL + _GAP) + _PANEL / 2) / width, 1 - 0.36 / height, title, size=8.5,
                    color=_INK, ha="center", va="bottom")
    for row, (condition, scene) in enumerate(cases):
        case = suite.case(condition, scene)
        beside, own = (restored(suite, case, one) for one in (_BESIDE, spec))
        low, span = float(case.truth.min()), case.data_range or 1.0
        for col, image in enumerate((case.image, beside, own, case.truth, own - case.truth)):
            axes = figure.add_axes(((_GAP + col * (_PANEL + _GAP)) / width, 1 - (0.42 + row * pitch + _PANEL) / height,
                                    _PANEL / width, _PANEL / height))
            colours, least, most = ("gray", low, low + span) if col < 4 else ("RdBu_r", -span / 4, span / 4)
            axes.imshow(image, cmap=colours, vmin=least, vmax=most, interpolation="nearest")
            axes.set_axis_off()
            if col < 3:
                name = "" if col else f"\n{case.scene.name}, {case.condition.name}"
                axes.text(0, -0.02, f"{_psnr(case, image):.1f} dB{name}", size=6.5, color=_SOFT,
                          transform=axes.transAxes, va="top")
    about = "Greys: the truth's range. Colours: red is too bright, blue too dark, full at a quarter of that range."
    figure.text(_GAP / width, 0.06 / height, about, size=6.5, color=_SOFT, va="bottom")
    return _write(figure, path)


def restored(suite: Suite, case: Case, spec: str) -> Floats:
    """One image restored by a restorer; a baseline as it is tuned for the condition."""
    found: Any = find(spec)
    ready: Callable[[Floats], Floats] = (
        tuned_restorer(suite.name, found.name, case.condition) if isinstance(found, Baseline) else found)
    return apply(ready, case.image)


def _psnr(case: Case, image: Floats) -> float:
    from emsynth.metrics.fidelity import psnr

    return psnr(case.truth, image, data_range=case.data_range)


def _write(figure: Figure, path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=_DOTS, metadata={"Software": "emsynth"})
    return path


