"""The curves of a training as a figure: losses, validation, learning rate and speed against samples, its stages marked.

A line breaks where the loss or the images of the validation are others than before.

``python -m benchmarks.networks.curves tem_hd --run runs/train_tem_hd`` writes docs/images/training_tem_hd.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emsynth.errors import TrainingError
from emsynth.imagery import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_DOTS, _INK, _SOFT, _OWN, _OTHER = 160, "#1a1a1a", "#6b6b6b", "#1f5fa8", "#c4561a"
_SMOOTH = 50  # parts of a training over which its losses are averaged
_ALIKE = 1e-6  # figures of distorted images that differ by more are those of others
_VALIDATED = (("val_psnr", "PSNR of the validation [dB]", ".2f"), ("val_ssim", "SSIM of the validation", ".3f"),
              ("val_column_error", "column error of the validation [pm]", ".2f"))


def draw(run: Path, out: Path, name: str) -> Path:
    """Draw the metrics of a run as PNG.

    Parameters
    ----------
    run : Path
        Folder of the training.
    out : Path
        The picture.
    name : str
        Of the network, for its title.

    Raises
    ------
    TrainingError
        It has no metrics.
    """
    from matplotlib.figure import Figure

    table = read(run / "metrics.csv")
    figure = Figure(figsize=(9.0, 7.2), dpi=_DOTS, layout="constrained", facecolor="white")
    panels: Any = figure.subplots(3, 2, sharex=True)
    loss, rate, speed = panels[0, 0], panels[1, 1], panels[2, 1]
    _losses(loss, table)
    for axes, validated in zip((panels[0, 1], panels[1, 0], panels[2, 0]), _VALIDATED, strict=True):
        _validation(axes, table, *validated)
    panels[0, 1].legend(fontsize=7, loc="center right", facecolor="white", edgecolor="none", framealpha=1.0)
    trained = table[table["lr"].notna()]
    rate.plot(trained["samples"] / 1e3, trained["lr"], color=_OWN, lw=1.2)
    rate.set(yscale="log")
    rate.set_title("learning rate", size=8, color=_INK, loc="left")
    _speed(speed, trained)
    for axes in panels.flat:
        _stages(axes, table, named=axes in panels[0])
        axes.tick_params(which="both", labelsize=7, color=_SOFT, labelcolor=_INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("samples, thousands", size=8, color=_INK)
    title = f"{name}: training on {int(table['samples'].max()):,} samples"
    figure.suptitle(title, size=10, color=_INK, x=0.01, ha="left")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        figure.savefig(file, format="png", dpi=_DOTS, metadata={"Software": "emsynth"})
    return out


def read(path: Path) -> pd.DataFrame:
    """Rows of metrics, in the order of their samples; TrainingError where there are none."""
    if not path.is_file():
        raise TrainingError(f"{path}: there are no metrics; name the folder of a training (--run)")
    table = pd.read_csv(path)
    if not len(table) or not {"samples", "stage", "loss", "lr"} <= set(table):
        raise TrainingError(f"{path}: holds no metrics of a training")
    return table.sort_values("samples", kind="stable")


def changed(table: pd.DataFrame) -> list[int]:
    """Samples at which other images were validated than before: the recipe was changed between a stop and going on."""
    if "val_psnr_distorted" not in table:
        return []
    rows = table[table["val_psnr_distorted"].notna()]
    return [int(n) for n in rows["samples"][_others(rows["val_psnr_distorted"])]]


def _others(figures: pd.Series[float]) -> pd.Series[bool]:
    """Where a figure of the distorted images is another than before."""
    return figures.diff().abs() > _ALIKE


def _losses(axes: Axes, table: pd.DataFrame) -> None:
    """What is descended, stage by stage: each may have a loss of its own."""
    window = max(1, round(table["loss"].notna().sum() / _SMOOTH))
    for _, part in table[table["loss"].notna()].groupby("stage", sort=False):
        axes.plot(part["samples"] / 1e3, part["loss"], color=_OWN, lw=0.6, alpha=0.3)
        mean = part["loss"].rolling(window, center=True, min_periods=1).mean()
        axes.plot(part["samples"] / 1e3, mean, color=_OWN, lw=1.4)
    axes.set_title(f"loss, and its mean over {window:,} rows" if window > 1 else "loss", size=8, color=_INK, loc="left")


def _validation(axes: Axes, table: pd.DataFrame, column: str, title: str, form: str) -> None:
    axes.set_title(title, size=8, color=_INK, loc="left")
    if column not in table or not table[column].notna().any():
        return
    rows, before = table[table[column].notna()], f"{column}_distorted"
    for number, (_, part) in enumerate(rows.groupby(_others(rows[before]).cumsum())):
        at, named = part["samples"] / 1e3, "" if number == 0 else "_"
        axes.plot(at, part[column], color=_OWN, lw=1.2, marker="o", ms=2.5, label=f"{named}restored")
        axes.plot(at, part[before], color=_SOFT, lw=1.0, ls="--", marker="_", ms=4, label=f"{named}distorted")
    last = rows.iloc[-1]
    axes.annotate(format(last[column], form), (last["samples"] / 1e3, last[column]), xytext=(0, 5),
                  textcoords="offset points", size=7, color=_OWN, ha="right", va="bottom",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.margins(y=0.12)


def _speed(axes: Axes, trained: pd.DataFrame) -> None:
    at = trained["samples"] / 1e3
    axes.plot(at, trained["samples_per_second"], color=_OWN, lw=0.9)
    axes.set_ylim(bottom=0)
    axes.set_title("samples/s (blue), time spent waiting for data [%] (orange)", size=8, color=_INK, loc="left")
    waiting: Any = axes.twinx()
    waiting.plot(at, 100 * trained["waiting"], color=_OTHER, lw=0.9)
    waiting.set_ylim(0, max(10.0, 1.2 * float(np.nanmax(100 * trained["waiting"]))))
    waiting.tick_params(labelsize=7, color=_OTHER, labelcolor=_OTHER)
    for side in ("top", "left"):
        waiting.spines[side].set_visible(False)


def _stages(axes: Axes, table: pd.DataFrame, named: bool) -> None:
    """A line where each stage begins, and its name at the first panels' foot."""
    first = 0.0
    for name, part in table.groupby("stage", sort=False):
        if first:
            axes.axvline(first, color=_SOFT, lw=0.7, ls=":")
        if named:
            axes.annotate(str(name), (first, 0), xycoords=("data", "axes fraction"), xytext=(3, 3),
                          textcoords="offset points", size=7, color=_SOFT)
        first = float(part["samples"].max()) / 1e3


def main() -> None:
    """Draw what the command line names."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("name", help="of the network, for the name of the picture")
    asked.add_argument("--run", type=Path, required=True, help="folder of the training")
    asked.add_argument("--into", type=Path, default=IMAGES, help="folder of the picture")
    given = asked.parse_args()
    try:
        print(draw(given.run, given.into / f"training_{given.name}.png", given.name))
    except TrainingError as reason:
        sys.exit(f"curves: {reason}")


if __name__ == "__main__":
    main()
