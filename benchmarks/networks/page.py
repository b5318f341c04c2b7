"""The page of a network: its figures as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.networks.figures import MIDDLE, acceptance
from benchmarks.networks.oracle import BM3D, GAUSSIAN

_SHOWN = 12  # of a list of losses
_ABOUT = """A mean PSNR is the mean over the images of a condition, then over conditions. It is ruled by images that are
next to undamaged, where 60 dB or 100 dB are alike to the eye; so the PSNR of the mean error stands beside it: that of
the root mean square error averaged over the images of a condition, then the mean over conditions. Restorers marked
"(oracle)" are tuned on the truth of each image: a bound of what tuning could give, which nobody can run on a
micrograph. The other baselines are tuned for each condition, and know which it is; a network does not."""
_COUNTING = """The counting deviation of an image's mean is √((n F + v) / N) / n of it: n electrons per pixel, F the
excess of the variance over the mean of what is counted, v the variance of what is added, N pixels taken as independent.
The family of counting alone is where counting decides; elsewhere other damage (lost rows, a shifted view) may move the
mean of the distorted image itself: images whose mean is within three deviations as they are stand by themselves."""
_INVENTED = """Residual in amorphous regions and in vacuum, % of the truth's range: its periodic part, and all of it."""


def page(told: Mapping[str, Any], over: tuple[float, float], pictures: Sequence[str] = ()) -> str:
    """Markdown of a `summary`.

    Parameters
    ----------
    told : mapping
        The summary.
    over : (float, float)
        Gains asked for over oracle BM3D and oracle Gaussian, dB.
    pictures : sequence of str
        Files that are shown at the end, relative to the page.
    """
    net, failed = told["network"], told["failures"]
    parts = [f"# {net} on {told['suite']}",
             f"{told['suite']}, digest {told['digest'][:12]}, {told['images']:,} images"
             + (f", of which {net} failed on {failed:,}." if failed else "."),
             _ABOUT, "## What is asked of it", _acceptance(told, over), "## Over all conditions", _overall(told)]
    for title in told["cuts"]:
        parts += [f"## Mean PSNR by {title}, dB", _cut(told["cuts"][title], net),
                  f"PSNR of the mean error by {title}, dB:", _cut(told["cuts_of_mean_error"][title], net)]
    parts += ["## Response to single columns", "Recovered over true change, 95 % interval over pairs of twins; 1 is "
              "right.", _responses(told), "## Mean intensity", _COUNTING, _means(told),
              "## What it invents", _INVENTED, _empty(told), "## Where it loses", "\n".join(losses(told))]
    parts += [f"![{name}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column left, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float, form: str = ".2f") -> str:
    """A number, or a dash where there is none."""
    return format(value, form) if math.isfinite(value) else "-"


def _acceptance(told: Mapping[str, Any], over: tuple[float, float]) -> str:
    return table(("criterion", "figure", "asked", "met"),
                 [(what, figure, limit, "yes" if met else "**no**") for what, figure, limit, met in
                  acceptance(told, over)])


def _overall(told: Mapping[str, Any]) -> str:
    shown = (("psnr", "PSNR [dB]", ".2f"), ("psnr_of_mean_error", "PSNR of the mean error [dB]", ".2f"),
             ("ssim", "SSIM", ".4f"), ("column_error", "position error [pm]", ".2f"), ("missed", "missed", ".4f"),
             ("invented", "invented", ".4f"), ("intensity_error", "column intensity [%]", ".2f"),
             ("row_jitter", "row jitter [px]", ".3f"))
    return table(("restorer", *(title for _, title, _ in shown)),
                 [(name, *(number(found[key], form) for key, _, form in shown))
                  for name, found in told["overall"].items()])


def _cut(found: Mapping[str, Mapping[str, float]], net: str) -> str:
    names = list(next(iter(found.values())))
    return table(("", *names, f"{net} over {BM3D}", f"over {GAUSSIAN}"),
                 [(label, *(number(of[name]) for name in names), number(of[net] - of[BM3D], "+.2f"),
                   number(of[net] - of[GAUSSIAN], "+.2f")) for label, of in found.items()])


def _responses(told: Mapping[str, Any]) -> str:
    rows = []
    for severity, of in told["responses"].items():
        kinds = sorted({kind for found in of.values() for kind in found})
        for name, found in of.items():
            if int(severity) == MIDDLE or name == told["network"]:
                slopes = (found.get(kind, (math.nan,) * 3) for kind in kinds)
                rows.append((severity, name, *(f"{number(v)} ({number(low)} to {number(high)})"
                                               for v, low, high in slopes)))
    return table(("severity", "restorer", *kinds), rows) if kinds else "No scene of the suite has probes."


def _means(told: Mapping[str, Any]) -> str:
    parts = (("counting", f"{told['counting_family']} alone"), ("sound", "sound as they are"), ("all", "all images"))
    return table(("restorer", "mean bias [%]", "mean size of the bias [%]",
                  *(text for _, part in parts for text in (f"{part}: within 3 deviations", "worst"))),
                 [(name, number(kept["bias"], "+.3f"), number(kept["size"], ".3f"),
                   *(text for part, _ in parts for text in (number(kept[f"within_{part}"], ".1%"),
                                                            number(kept[f"worst_{part}"], ".1f"))))
                  for name, kept in told["mean"].items()])


def _empty(told: Mapping[str, Any]) -> str:
    parts = list(next(iter(told["hallucination"].values())))
    return table(("restorer", *(f"{part}: {what}" for part in parts for what in ("periodic", "all"))),
                 [(name, *(number(found[part][metric], ".3f") for part in parts
                           for metric in ("false_structure", "empty_residual")))
                  for name, found in told["hallucination"].items()])


def losses(told: Mapping[str, Any]) -> list[str]:
    """Where the mean PSNR is below that of another restorer, a line each."""
    said = []
    for other, of in told["loses"].items():
        for what, found in of.items():
            listed = ", ".join(f"{name} ({value:+.2f} dB)" for name, value in found[:_SHOWN])
            more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            said.append(f"- Below {other} in {len(found)} {what}" + (f": {listed}{more}." if found else "."))
    return said
