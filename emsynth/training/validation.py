"""Validation during training: fixed pairs of the val split of a field library, and how well a network restores them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.distortion import Chain
from emsynth.errors import FieldError, TrainingError
from emsynth.metrics import columns, fidelity, targets
from emsynth.passes import split_of
from emsynth.recipe import Recipe
from emsynth.sample import Sample, render
from emsynth.store.reading import Readable, open_reading
from emsynth.streams import Streams

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Network = Callable[["torch.Tensor"], "torch.Tensor"]
Place = str | os.PathLike[str]

SPLIT = "val"
HIGHEST_PSNR = 100.0  # dB
# How columns are aimed at, Å: expected width, and how far one may be listed and moved by a blur; as the suites do it.
WIDTH, BESIDE, BLURRED = 0.42, 0.12, 0.04
_COUNTING = ("poisson", "compound_poisson", "conversion", "counting")  # stages that do
_PICOMETRES = 100.0  # per Å
_SHOWN = 4  # pairs of a picture
_TRIES = 8  # windows on one field that may show nothing before it is left out
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Pair:
    """One truth, what was made of it, and the columns that a restorer is asked for.

    Attributes
    ----------
    truth, distorted : ndarray (H, W), float32
        In ADU, of even sides.
    target : Target or None
        Columns of the truth; None where it shows none that could be judged.
    sampling : float
        Size of a pixel, Å.
    name : str
        What it shows, for people.
    """

    truth: Floats
    distorted: Floats
    target: targets.Target | None
    sampling: float
    name: str

    def figures(self, image: Floats) -> dict[str, float]:
        """PSNR in dB, SSIM and column error in pm of a restored (H, W) image; all NaN where it is not finite."""
        found = dict.fromkeys(("psnr", "ssim", "column_error"), np.nan)
        if not np.isfinite(image).all():
            return found
        span = float(np.ptp(self.truth))
        if span > 0.0:
            found["psnr"] = min(fidelity.psnr(self.truth, image, data_range=span), HIGHEST_PSNR)
            found["ssim"] = fidelity.ssim(self.truth, image, data_range=span)
        if self.target is not None:
            away = columns.distances(self.target.fit, self.target.refit(image), self.target.radius)[self.target.kept]
            found["column_error"] = _PICOMETRES * self.sampling * float(np.sqrt(np.mean(away**2)))
        return found

    @cached_property
    def before(self) -> dict[str, float]:
        """The same of the distorted image."""
        return self.figures(self.distorted)


class Validation:
    """Fixed pairs of the val split, the same in every run.

    The fields are taken in turn; each pair is a window of its own with distortions of its own, drawn by the library's
    seed. None is left undistorted: a mean of decibels would be ruled by those.

    Parameters
    ----------
    library : path, or sequence of paths
        Data sets of which the fields are finished.
    count : int
        How many pairs.
    recipe : Recipe, optional
        Whose `image` and `distort` take the place of the library's own.
    size : int, optional
        Side of the images, px; that of the recipe where it is not given.
    chains : sequence of (float, Chain), optional
        What to distort by in place of one `distort` section, each pair by one of these, drawn with these weights.

    Raises
    ------
    TrainingError
        There is no field of the val split, or none of them shows anything.
    StoreError
        A library cannot be read, or its fields are not finished.
    """

    def __init__(self, library: Place | Sequence[Place], count: int, recipe: Recipe | None = None,
                 size: int | None = None, chains: Sequence[tuple[float, Chain]] = ()) -> None:
        if count < 1:
            raise TrainingError(f"validation: {count} pairs are none; give 1 or more")
        places = [library] if isinstance(library, str | os.PathLike) else list(library)
        shelves = [_Shelf(open_reading(place), recipe, size, tuple(chains)) for place in places]
        fields = [(shelf, number) for shelf in shelves for number in shelf.fields]
        if not fields:
            raise TrainingError(
                f"{', '.join(shelf.readable.label for shelf in shelves)}: no field is of the {SPLIT} split (all "
                f"{sum(shelf.readable.store.fields for shelf in shelves):,} are of others), so training cannot be "
                "validated; build more fields (--set fields=N), or structures of other prototypes")
        self.pairs = _pairs(fields, count)

    def run(self, network: Network, batch: int = _BATCH) -> dict[str, float]:
        """Restore all pairs and measure them.

        Parameters
        ----------
        network : callable
            (N, 1, H, W) float32 to the same, in units of the input's deviation about its mean. A module is put into
            evaluation for the time, and gets its input on its own device.
        batch : int
            Images of one size that are restored together.

        Returns
        -------
        dict
            ``psnr`` and ``psnr_distorted`` (dB, at most 100 of an image), ``ssim`` and ``ssim_distorted``,
            ``column_error`` and ``column_error_distorted`` (pm), each the mean over the images that have it and NaN
            where none has, or where a restored image is not finite; and ``images``.
        """
        restored = restore_all(network, [pair.distorted for pair in self.pairs], batch)
        after = [pair.figures(image) for pair, image in zip(self.pairs, restored, strict=True)]
        found: dict[str, float] = {}
        for name in ("psnr", "ssim", "column_error"):
            has = [n for n, pair in enumerate(self.pairs) if np.isfinite(pair.before[name])]
            for ending, rows in (("", after), ("_distorted", [pair.before for pair in self.pairs])):
                found[name + ending] = float(np.mean([rows[n][name] for n in has])) if has else np.nan
        return found | {"images": float(len(self.pairs))}

    @cached_property
    def shown(self) -> list[Pair]:
        """The pairs of a picture: from the easiest to the hardest, in even steps of the distorted image's PSNR."""
        order = sorted(self.pairs, key=lambda pair: -np.nan_to_num(pair.before["psnr"]))
        at = np.linspace(0, len(order) - 1, min(_SHOWN, len(order)) + 2)[1:-1]
        return [order[round(n)] for n in at] if len(order) > _SHOWN else order

    def picture(self, path: Place, network: Network) -> Path:
        """Write a PNG of four pairs, easy to hard: distorted, restored, truth, residual; the folder is made.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        from emsynth.imagery import replacing
        from emsynth.training.picture import draw

        target = Path(path)
        restored = restore_all(network, [pair.distorted for pair in self.shown], _BATCH)
        drawn = draw(self.shown, restored, target.stem.replace("_", " "))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(drawn)
        return target


@dataclass(frozen=True, eq=False)
class _Shelf:
    """One library, and the recipe that its pairs are rendered by."""

    readable: Readable
    other: Recipe | None
    size: int | None
    chains: tuple[tuple[float, Chain], ...]

    def recipe_of(self, sample: int) -> Recipe:
        """What sample `sample` is rendered by."""
        if not self.chains:
            return self.recipe
        places = np.cumsum([weight for weight, _ in self.chains])
        at = Streams(self.recipe.seed, sample).uniform("validation.chain") * places[-1]
        chain = self.chains[int(np.searchsorted(places, at))][1]
        return self.recipe.model_copy(update={"distort": chain.model_copy(update={"undistorted": 0.0})})

    @cached_property
    def recipe(self) -> Recipe:
        own = self.readable.store.recipe
        chosen = self.other or own
        image = chosen.image if self.size is None else chosen.image.model_copy(update={"size": self.size})
        # A pair for every turn of a field: its number does not bound what may be drawn of it.
        return own.model_copy(update={"image": image, "samples": own.fields * 10**9,
                                      "distort": chosen.distort.model_copy(update={"undistorted": 0.0})})

    @cached_property
    def fields(self) -> list[int]:
        """Those of the val split."""
        self.readable.check_finished("field", self.readable.store.fields)
        return [number for number in range(self.readable.store.fields) if split_of(str(
            self.readable.field_about(number)["provenance"]["specimen"]["prototype"])) == SPLIT]


def _pairs(fields: Sequence[tuple[_Shelf, int]], count: int) -> list[Pair]:
    """Field after field, so that each is read once; as many of each as of any other, or one more of the first."""
    shares = [len(range(n, count, len(fields))) for n in range(len(fields))]
    pairs = [pair for (shelf, number), share in zip(fields, shares, strict=True)
             for pair in _of_field(shelf, number, share)]
    if not pairs:
        raise TrainingError(f"{fields[0][0].readable.label}: none of the {len(fields):,} fields of the {SPLIT} split "
                            "shows anything in the windows of the recipe; give smaller pixels, or a background")
    return pairs


def _of_field(shelf: _Shelf, number: int, share: int) -> Iterator[Pair]:
    if not share:
        return
    field = shelf.readable.field(number)
    for turn in range(share + _TRIES):
        sample = number + turn * shelf.recipe.fields
        try:
            made = render(shelf.recipe_of(sample), sample, field)
        except FieldError:  # a window that does not fit, or shows nothing
            continue
        yield _pair(made)
        share -= 1
        if not share:
            return


def _pair(sample: Sample) -> Pair:
    rows, cols = (side // 2 * 2 for side in sample.truth.shape)
    truth, distorted = sample.truth[:rows, :cols], sample.distorted[:rows, :cols]
    level = sample.black_level if _counted(sample.drawn) else None
    target = targets.aim(truth, sample.columns.position, WIDTH / sample.sampling, level, BESIDE / sample.sampling,
                         BLURRED / sample.sampling)
    counts = float(f"{sample.expected_counts:.3g}")
    name = f"{sample.structure}, {sample.detector}, {counts:,g} e/px"
    return Pair(truth, distorted, target, sample.sampling, name)


def _counted(drawn: Recipe) -> bool:
    """Whether electrons were counted, so that the variance grows with the signal."""
    return any(getattr(stage, "stage", "") in _COUNTING for stage in drawn.distort.stages)


def restore_all(network: Network, images: Sequence[Floats], batch: int = _BATCH) -> list[Floats]:
    """Restore images, those of one size together; each in units of its own deviation about its own mean.

    Parameters
    ----------
    network : callable
        (N, 1, H, W) to the same.
    images : sequence of ndarray (H, W), float32
        Of even sides. A constant one is returned as it is.
    batch : int
        How many at a time.
    """
    import torch

    restored = [image.copy() for image in images]
    device = next((p.device for p in getattr(network, "parameters", tuple)()), torch.device("cpu"))
    # In double precision: the mean of a bright image is to be kept.
    scale = [(float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))) for image in images]
    sizes: dict[tuple[int, ...], list[int]] = {}
    for n, image in enumerate(images):
        if scale[n][1] > 0.0:
            sizes.setdefault(image.shape, []).append(n)
    with _evaluating(network), torch.inference_mode():
        for members in sizes.values():
            for first in range(0, len(members), batch):
                part = members[first:first + batch]
                given = np.stack([(images[n].astype(np.float64) - scale[n][0]) / scale[n][1] for n in part])
                output = network(torch.from_numpy(given.astype(np.float32))[:, None].to(device))
                for n, image in zip(part, output[:, 0].float().cpu().numpy(), strict=True):
                    restored[n] = (image.astype(np.float64) * scale[n][1] + scale[n][0]).astype(np.float32)
    return restored


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    """A module in evaluation for the time."""
    was = bool(getattr(network, "training", False))
    try:
        if was:
            network.eval()
        yield
    finally:
        if was:
            network.train()
