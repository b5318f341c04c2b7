"""The model card of a network that comes with emsynth: what it learnt from, how well it does, and where it fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.networks.oracle import BM3D, GAUSSIAN
from benchmarks.networks.page import losses, number, table

LICENCE = "CC-BY-4.0"
_FOR = {"stem_hd": ("STEM images at atomic resolution", "stem"), "tem_hd": ("HRTEM images", "tem")}
_RESTORERS = (BM3D, GAUSSIAN, "bm3d", "gaussian", "identity")
_BESIDE = """Means over the images of a condition, then over conditions. Restorers marked "(oracle)" are tuned on the
truth of each image, which nobody can do on a micrograph; the other baselines are tuned for each condition and know
which it is, the network does not. identity is the image as it is."""
_NEVER = """- **Real micrographs.** All images of its training are simulated.
- **Pixels of another size** than {pixels} Å: columns are then wider or narrower than any that it has seen. Nothing is
  resampled for you; `emsynth restore` says so where the file has a pixel size.
- **Other optics** than those above: other probes, other apertures, aberrations beyond the table.
- **Other instruments**: {others}, diffraction patterns, spectra.
- **Structures of other lattices** than those listed are restored as what was learnt suggests. What is rare in the
  training (single vacancies, dopants, adatoms) is what it is most tempted to make ordinary.
- **Damage that emsynth does not model**, and images that were filtered, resampled, stretched or compressed before."""
_FROM_HEADER = """python - > {file} <<'END'
import json
from emsynth.networks.weights import about_weights
from emsynth.restoration.shipped import shipped
print(json.dumps(about_weights(shipped()["{name}"])[1]["recipe"]))
END"""
_OTHERS = {"stem_hd": "SEM, TEM on a camera", "tem_hd": "SEM, STEM"}


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes
    ----------
    name : str
        Under which it is shipped.
    about : mapping
        What the trainer has written about the weights.
    size : mapping
        Numbers of the network.
    parameters, weight : int
        Of the network, and bytes of its file.
    sha256 : str
        Of that file.
    learnt : mapping
        Of the field library: ``fields``, ``structures`` and ``prototypes`` by split, ``specimens``, ``detectors``,
        ``optics``, ``physics``.
    detectors : mapping
        Figures on validation pairs by detector, and of ``all``.
    half : mapping
        What half precision costs: ``suite``, ``images``, ``single``, ``half``, ``worst``, in dB.
    versions : mapping
        Of the packages at release.
    again : bool
        Whether the shipped training recipe of that name is the one that made it.
    unfinished : bool
        Whether the training was cut short.
    told : mapping, optional
        The evaluation; None where there is none.
    shared : sequence of str
        Prototypes of the suite's structures that it has learnt from.
    changed : sequence of int
        Samples after which the recipe was changed on the way, as far as the images of the validation tell.
    """

    name: str
    about: Mapping[str, Any]
    size: Mapping[str, int]
    parameters: int
    weight: int
    sha256: str
    learnt: Mapping[str, Any]
    detectors: Mapping[str, Mapping[str, float]]
    half: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    again: bool = True
    unfinished: bool = False
    told: Mapping[str, Any] | None = None
    shared: Sequence[str] = ()
    changed: Sequence[int] = ()


def card(facts: Facts) -> str:
    """The card as Markdown, under the header that Hugging Face reads."""
    parts = [_header(facts), f"# {facts.name}", *_what(facts), "## Use it", _use(facts), "## What it learnt from",
             *_learnt(facts), "## How it was trained", *_trained(facts), "## How well it does", *_figures(facts),
             "## By detector", *_detectors(facts), "## Known failures", *_failures(facts), "## What it has never seen",
             _never(facts), "## Licence, and how to make it again", *_again(facts)]
    return "\n\n".join(parts) + "\n"


def _header(facts: Facts) -> str:
    tags = ["microscopy", "electron-microscopy", *([_FOR[facts.name][1]] if facts.name in _FOR else []), "denoising",
            "image-restoration", "emsynth"]
    return "\n".join(["---", f"license: {LICENCE.lower()}", "library_name: emsynth", "pipeline_tag: image-to-image",
                      "tags:", *(f"- {tag}" for tag in tags), "metrics:", "- psnr", "- ssim", "---"])


def _what(facts: Facts) -> Iterator[str]:
    if facts.unfinished:
        yield (f"**Not finished: trained on {facts.about['samples']:,} of {facts.about['of_samples']:,} samples. For "
               "trials only.**")
    fourier = " with Fourier units, which see the whole image" if facts.size.get("fourier") else ""
    yield (f"Restores {_FOR.get(facts.name, ('images',))[0]}: takes out noise and what the instrument has added, and "
           f"fills in what it has lost. A CGRDN{fourier}; {facts.parameters:,} parameters, trained on simulated images "
           "alone.")


def _use(facts: Facts) -> str:
    return (f"```sh\npip install 'emsynth[train,io]'\nemsynth restore {facts.name} image.dm4 --picture\n```\n\n"
            f'```python\nimport emsynth\n\nrestored = emsynth.restore(image, "{facts.name}")   # (H, W)\n```\n\n'
            "Any unit goes in, the same comes out. Look at the residual before you use the numbers: docs/restore.md of "
            "emsynth's repository says what to distrust.")


def _learnt(facts: Facts) -> Iterator[str]:
    learnt = facts.learnt
    data, digest = facts.about["data"], facts.about["data_digest"][:12]
    fields = sum(learnt["fields"].values())
    yield (f"The {fields:,} fields of `{data}` (digest {digest}; {_counts(learnt['physics'])}). "
           "Every sample is a new window on one of them, distorted anew. No prototype of a structure is in two splits; "
           "training saw the train split alone.")
    yield _plain(("split", "fields", "structures"), [
        (split, f"{learnt['fields'][split]:,}", ", ".join(learnt["structures"][split])) for split in learnt["fields"]])
    low, high = facts.about["pixel_size"]
    yield _plain(("", "range"), [
        ("specimens, in fields", _counts(learnt["specimens"])), ("detectors, in fields", _counts(learnt["detectors"])),
        ("pixel, Å", f"{low:g} to {high:g}"),
        *((name, " to ".join(f"{end:g}" for end in sorted(set(of)))) for name, of in learnt["optics"].items())])


def _trained(facts: Facts) -> Iterator[str]:
    about, size = facts.about, facts.size
    stages = about["recipe"]["stages"]
    yield _plain(("", ""), [
        ("recipe", f"`{about['name']}`, digest {about['digest'][:12]}"),
        ("network", ", ".join(f"{name} {value}" for name, value in size.items())),
        ("steps, samples", f"{about['steps']:,}, {about['samples']:,} of {about['of_samples']:,}"),
        ("hours", f"{about['hours']:.2f}"), ("hardware, precision", str(about["hardware"])),
        ("average of the weights", f"decay {about['recipe']['average']:g}"),
        *((when, ", ".join(f"{name} {value}" for name, value in of.items())) for when, of in (
            ("versions of the training", about.get("versions", {})), ("versions at release", facts.versions)) if of),
        ("file", f"{facts.weight / 1e6:.2f} MB in half precision, SHA-256 {facts.sha256}")])
    yield table(("stage", "samples", "batch", "patch, px", "highest learning rate", "losses"), [
        (stage["name"], f"{stage['samples']:,}", str(stage["batch"]), str(stage["patch"] or "whole windows"),
         f"{stage['rate']['peak']:g}", ", ".join(f"{name} {of:g}" for name, of in stage["losses"].items() if of))
        for stage in stages])
    half = facts.half
    yield (f"Half precision of the weights changes the mean PSNR over {half['images']:,} images of {half['suite']} by "
           f"{half['half'] - half['single']:+.4f} dB, and lowers none by more than {half['worst']:.4f} dB. Images are "
           "restored in single precision.")


def _figures(facts: Facts) -> Iterator[str]:
    told = facts.told
    if told is None:
        yield "Not evaluated on a suite yet."
        return
    yield (f"On the frozen suite {told['suite']} (digest {told['digest'][:12]}), {told['images']:,} images"
           + (f", of which it failed on {told['failures']:,}." if told["failures"] else ", none of which it failed on.")
           + (f" Of the prototypes of the suite's structures it has learnt from {', '.join(facts.shared)}, in other "
              "specimens, and from no other." if facts.shared else
              " It has learnt from none of the prototypes of the suite's structures."))
    yield _acceptance(told)
    names = [name for name in (told["network"], *_RESTORERS) if name in told["overall"]]
    shown = (("psnr", "PSNR [dB]", ".2f"), ("psnr_of_mean_error", "PSNR of the mean error [dB]", ".2f"),
             ("ssim", "SSIM", ".4f"), ("column_error", "position error [pm]", ".2f"), ("missed", "missed", ".4f"),
             ("invented", "invented", ".4f"))
    yield _BESIDE
    yield table(("restorer", *(title for _, title, _ in shown)), [
        (name, *(_number(told["overall"][name].get(key), form) for key, _, form in shown)) for name in names])
    for title in ("family", "severity", "content", "electrons per pixel"):
        if title in told["cuts"]:
            yield f"Mean PSNR by {title}, dB:"
            yield _cut(told["cuts"][title], told["network"])


def _acceptance(told: Mapping[str, Any]) -> str:
    return table(("criterion", "figure", "asked", "met"), [
        (one["criterion"], one["figure"], one["asked"], "yes" if one["met"] else "**no**")
        for one in told["acceptance"]])


def _cut(found: Mapping[str, Mapping[str, float | None]], net: str) -> str:
    names = [name for name in (net, BM3D, GAUSSIAN, "identity") if name in next(iter(found.values()))]
    return table(("", *names, f"over {BM3D}", f"over {GAUSSIAN}"), [
        (label, *(_number(of[name]) for name in names), _gain(of, net, BM3D), _gain(of, net, GAUSSIAN))
        for label, of in found.items()])


def _gain(of: Mapping[str, float | None], net: str, other: str) -> str:
    own, beside = of[net], of[other]
    return "-" if own is None or beside is None else number(own - beside, "+.2f")


def _detectors(facts: Facts) -> Iterator[str]:
    yield ("Pairs of the validation split, distorted as in the training; means over pairs. A suite shows the images of "
           "one detector, these are of all that were learnt from."
           + (" F1, F2 and so on are the images of a through-focus series." if "F1" in facts.detectors else ""))
    yield table(("detector", "pairs", "PSNR, distorted [dB]", "restored", "SSIM, distorted", "restored",
                 "position error, distorted [pm]", "restored"), [
        (name, f"{of['pairs']:,.0f}", *(_number(of[key], form) for metric, form in (
            ("psnr", ".2f"), ("ssim", ".3f"), ("column_error", ".1f")) for key in (f"{metric}_distorted", metric)))
        for name, of in facts.detectors.items()])


def _failures(facts: Facts) -> Iterator[str]:
    told = facts.told
    if told is None:
        yield "Not known before it is evaluated."
        return
    missed = [one for one in told["acceptance"] if not one["met"]]
    if missed:
        yield "Asked of it and not met: " + "; ".join(
            f"{one['criterion']} ({one['figure']}, asked: {one['asked']})" for one in missed) + "."
    yield "Where its mean PSNR is below that of another restorer, worst first:"
    yield "\n".join(losses(told))


def _never(facts: Facts) -> str:
    low, high = facts.about["pixel_size"]
    return _NEVER.format(pixels=f"{low:g} to {high:g}", others=_OTHERS.get(facts.name, "other kinds of microscopes"))


def _again(facts: Facts) -> Iterator[str]:
    yield (f"Weights: [{LICENCE}](https://creativecommons.org/licenses/by/4.0/). They were trained on data that "
           "emsynth made; emsynth itself is under GPL-3.0-or-later.")
    named = facts.about["name"]
    if facts.changed:
        when = " and ".join(f"{n:,}" for n in facts.changed)
        yield (f"The recipe was changed on the way: at {when} samples other images were validated than before. What is "
               "told here is its last state, which from the beginning makes a similar network, not this one.")
    if not facts.again:
        yield (f"`recipes/{named}.yaml` is not, or no longer, the recipe that made it; that one is in the header of "
               "the weights:")
        yield f"```sh\n{_FROM_HEADER.format(name=facts.name, file=f'{named}.yaml')}\n```"
    yield (f"```sh\nemsynth train {named}{'' if facts.again else '.yaml'}\n"
           f"python -m benchmarks.networks.release {facts.name} --run runs/{named} "
           f"--evaluation runs/evaluated_{facts.name}\n```")


def fragment(facts: Facts, pictures: Sequence[tuple[str, str]]) -> str:
    """What the page of all networks says of one; pictures as (text, file relative to that page)."""
    about, told = facts.about, facts.told
    rows = [("network", f"{facts.parameters:,} parameters, {facts.weight / 1e6:.2f} MB"),
            ("trained on", f"{about['samples']:,} samples in {about['hours']:.1f} h, {about['hardware']}")]
    if told is not None:
        net, psnr = told["network"], {name: of["psnr"] for name, of in told["overall"].items()}
        rows += [(f"mean PSNR on {told['suite']}", ", ".join(
            f"{name} {_number(psnr[name])} dB" for name in (net, BM3D, GAUSSIAN, "identity") if name in psnr)),
            ("criteria met", f"{sum(one['met'] for one in told['acceptance'])} of {len(told['acceptance'])}")]
    parts = [f"[Model card](../emsynth/restoration/weights/{facts.name}.md)", _plain(("", ""), rows),
             *(f"![{text}]({file})" for text, file in pictures)]
    if facts.unfinished:
        parts.insert(0, "**Not finished: for trials only.**")
    return "\n\n".join(parts)


def _plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of words, which start at the left."""
    return table(head, rows).replace("---:", "---")


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in found.items())


def _number(value: float | None, form: str = ".2f") -> str:
    return number(math.nan if value is None else value, form)
