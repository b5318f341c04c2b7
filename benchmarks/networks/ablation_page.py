"""The page of an ablation: findings and tables as Markdown, all of it from the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.networks.empty import NOISE, WHITE
from benchmarks.networks.page import number, table

COMPARED = (  # a variant, another, and how the first differs from it
    ("fourier", "exact", "Fourier units"),
    ("fourier_lattices", "exact_lattices", "Fourier units where perfect lattices are all that is seen"),
    ("exact_lattices", "exact", "Perfect lattices alone, without Fourier units"),
    ("fourier_lattices", "fourier", "Perfect lattices alone, with Fourier units"),
    ("fourier_basket", "fourier", "The paper's losses without the adversarial one, in place of the recipe's"),
)
_SHOWN = 3  # of a list of gains or losses
_ALIKE = 0.05  # of a figure: what differs by less is as much
_PSNR = """A mean PSNR is the mean over the images of a condition, then over conditions; images that are next to
undamaged rule it, and the PSNR of the mean error beside it is that of the root mean square error averaged over the
images of a condition, then the mean over conditions. Baselines, where they are shown, are tuned for each condition, and
know which it is. `false structure` is the periodic part of what is left in amorphous regions and in vacuum, `residual`
all of it, both in % of the truth's range. Responses are recovered over true change of single columns at severity 3; 1
is right."""
_EMPTY = """Images of nothing but noise about a constant, as large as those of the suite. `left` is the variance of the
restored image over that of the noise; `in one frequency` the power of its strongest Fourier coefficient over that of
all (a wave would have 50 %, half of it in its conjugate). Means over images; time is the median of processor time."""


@dataclass(frozen=True)
class Figure:
    """A row of the table: how it is called, where it is, and how it is written."""

    title: str
    of: Callable[[Mapping[str, Any]], float]
    form: str = ".2f"
    unit: str = ""


def _overall(key: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda judged: judged["overall"].get(key, math.nan)


def _left(part: str, key: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda judged: judged["hallucination"][part][key]


def _response(kind: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda judged: judged["responses"].get(kind, (math.nan,))[0]


def _empty(kind: str, key: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda judged: judged["empty"][kind][key] if "empty" in judged else math.nan


FIGURES = (
    Figure("PSNR", _overall("psnr"), unit=" dB"),
    Figure("PSNR of the mean error", _overall("psnr_of_mean_error"), unit=" dB"),
    Figure("SSIM", _overall("ssim"), ".4f"),
    Figure("column position error", _overall("column_error"), unit=" pm"),
    Figure("columns missed", _overall("missed"), ".2%"),
    Figure("columns invented", _overall("invented"), ".2%"),
    *(Figure(f"response to a {kind}", _response(kind)) for kind in ("shift", "dopant", "vacancy")),
)
INVENTIONS = (
    Figure("columns invented", _overall("invented"), ".2%"),
    Figure("false structure in amorphous scenes", _left("amorphous", "false_structure"), ".3f", " %"),
    Figure("false structure in scenes with vacuum", _left("with vacuum", "false_structure"), ".3f", " %"),
    Figure("residual in amorphous scenes", _left("amorphous", "empty_residual"), ".3f", " %"),
    Figure("residual in scenes with vacuum", _left("with vacuum", "empty_residual"), ".3f", " %"),
    Figure(f"{WHITE} left in an empty image", _empty(WHITE, "left"), ".2%"),
    Figure(f"share of that in one frequency ({WHITE})", _empty(WHITE, "one"), ".2%"),
)


def page(told: Mapping[str, Any]) -> str:
    """Markdown of what `benchmarks.networks.ablation.ablation` returns."""
    judged = {name: of | ({"empty": told["empty"][name]} if name in told["empty"] else {})
              for name, of in told["judged"].items()}
    names = list(judged)
    parts = [f"# Networks at equal time: {told['recipe']} on {told['suite']}", _conditions(told), "## What came of it",
             *_findings(judged, told["empty"][NOISE]), "## Variants", _variants(told), "## On the suite", _PSNR,
             _rows(FIGURES, judged)]
    for title in ("family", "content", "severity"):
        labels = [label for label in judged[names[0]]["cuts"][title]
                  if any(math.isfinite(of["cuts"][title][label]) for of in judged.values())]
        parts += [f"PSNR by {title}, dB; of the mean error in brackets:",
                  table(("", *names), [(label, *(_both(of, title, label) for of in judged.values()))
                                       for label in labels])]
    parts += ["## What is invented", _rows(INVENTIONS[:5], judged), "## In empty images", _EMPTY, _noise(told)]
    return "\n\n".join(parts) + "\n"


def _conditions(told: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{stage['name']} (batches of {stage['batch']}, {stage['patch']} px)"
                       for stage in told["stages"])
    threads = f"{told['threads']} thread" + ("s" if told["threads"] != 1 else "") if told["threads"] else "all cores"
    return (f"`python -m benchmarks.networks.ablation --recipe {told['recipe']} --suite {told['suite']} --minutes "
            f"{told['minutes']:g} --out FOLDER`. Each variant was trained once, for {told['minutes']:g} minutes of "
            f"processor time, on {threads} in {told['precision']}. All of them took turns of {told['turn']:g} s in one "
            f"process, so that a busy machine slowed all alike. The clock is the processor time of the process during "
            f"a variant's steps; making batches, which is not counted, was done once for all that learn from the same "
            f"data, and they got the same batches in the same order. The stages of the recipe, {stages}, have the "
            f"share of that time that they have of the recipe's pixels, with their own learning rates; a decay to the "
            f"end of a stage ends when its time does. The same seed gave the first weights. Judged on "
            f"{told['images']:,} images of {told['suite']}, digest {told['digest'][:12]}.")


def _variants(told: Mapping[str, Any]) -> str:
    rows = [(name, about, f"{one['parameters']:,}", f"{one['seconds'] / 60:.2f}", f"{one['steps']:,}",
             f"{one['samples']:,}", number(told["empty"][name][WHITE]["seconds"], ".3f"))
            for name, about in told["variants"].items() for one in (told["trained"][name],)]
    return table(("variant", "what it is", "parameters", "processor time [min]", "steps", "samples",
                  "processor time of an image [s]"), rows)


def _rows(figures: tuple[Figure, ...], judged: Mapping[str, Mapping[str, Any]]) -> str:
    return table(("", *judged), [(figure.title + (f" [{figure.unit.strip()}]" if figure.unit else ""),
                                  *(number(figure.of(of), figure.form) for of in judged.values()))
                                 for figure in figures])


def _both(judged: Mapping[str, Any], title: str, label: str) -> str:
    return f"{number(judged['cuts'][title][label])} ({number(judged['cuts_of_mean_error'][title][label])})"


def _noise(told: Mapping[str, Any]) -> str:
    kinds = list(told["empty"][NOISE])
    rows = [(name, *(number(of[kind][key], ".2%") for kind in kinds for key in ("left", "one")))
            for name, of in told["empty"].items()]
    return table(("", *(f"{kind}: {what}" for kind in kinds for what in ("left", "in one frequency"))), rows)


def _findings(judged: Mapping[str, Mapping[str, Any]], noise: Mapping[str, Mapping[str, float]]) -> list[str]:
    found = [_finding(judged[one], judged[other], f"{title} ({one} against {other})")
             for one, other, title in COMPARED if one in judged and other in judged]
    plain = (f"White noise itself has {noise[WHITE]['one']:.2%} of its power in its strongest frequency. Each variant "
             "was trained from one seed only: small differences may be chance.")
    return [*found, plain]


def _finding(one: Mapping[str, Any], other: Mapping[str, Any], title: str) -> str:
    """What changes from the other variant to the one: on the whole, where most and least, and what is invented."""
    scenes = np.array([one["scenes"][key] - other["scenes"][key] for key in other["scenes"]])
    deviation = scenes.std(ddof=1) / math.sqrt(len(scenes)) if len(scenes) > 1 else math.nan
    spread = f", standard error {deviation:.2f} over scenes" if math.isfinite(deviation) else ""
    gain, by_error = ((of(one) - of(other)) for of in (_overall("psnr"), _overall("psnr_of_mean_error")))
    said = [f"**{title}**: mean PSNR {gain:+.2f} dB{spread} ({by_error:+.2f} dB of the mean error)."]
    for cut, plural in (("family", "families"), ("content", "contents")):
        gains = {label: one["cuts"][cut][label] - other["cuts"][cut][label] for label in one["cuts"][cut]}
        said.append(_gains({label: value for label, value in gains.items() if math.isfinite(value)}, plural))
    kept = [f"{figure.title} {_said(figure, figure.of(one))} against {_said(figure, figure.of(other))}"
            for figure in FIGURES[3:] if figure.title != INVENTIONS[0].title
            and math.isfinite(figure.of(one)) and math.isfinite(figure.of(other))]
    said += [f"Columns: {'; '.join(kept)}."] if kept else []
    more, alike, less = ([], [], [])  # type: tuple[list[str], list[str], list[str]]
    for figure in INVENTIONS:
        now, before = figure.of(one), figure.of(other)
        if math.isfinite(now) and math.isfinite(before):
            into = alike if abs(now - before) <= _ALIKE * abs(before) else more if now > before else less
            into.append(f"{figure.title} {_said(figure, now)} against {_said(figure, before)}")
    said += [f"{word}: {'; '.join(what)}." for word, what in
             (("Invents more", more), ("Invents less", less), ("As much, within 5 %", alike)) if what]
    return " ".join(part for part in said if part)


def _said(figure: Figure, value: float) -> str:
    return number(value, figure.form) + figure.unit


def _gains(gains: Mapping[str, float], plural: str) -> str:
    if not gains:
        return ""
    order = sorted(gains, key=lambda label: gains[label], reverse=True)
    up = [f"{label} {gains[label]:+.2f} dB" for label in order if gains[label] > 0][:_SHOWN]
    down = [f"{label} {gains[label]:+.2f} dB" for label in order[::-1] if gains[label] < 0][:_SHOWN]
    said = [f"Better in {sum(value > 0 for value in gains.values())} of {len(gains)} {plural}"]
    said += [f"most in {', '.join(up)}"] if up else []
    said += [f"worst in {', '.join(down)}"] if down else []
    return "; ".join(said) + "."
