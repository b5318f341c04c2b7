"""A restorer made from a CGRDN: it normalises the image, mirrors odd sides, and cuts what is large into tiles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import NetworkError, RestorerError
from emsynth.restoration.level import about_mean
from emsynth.restoration.protocol import Floats
from emsynth.restoration.shipped import shipped
from emsynth.restoration.tiling import Tiles, blended, mirrored, overlap_for
from emsynth.streams import generator

if TYPE_CHECKING:
    from emsynth.networks.cgrdn import CGRDN

_WHOLE = 2**20  # px up to which an image is not cut
_AT_ONCE = 2**18  # px of small tiles that the network gets at once
_LEAST = 32  # px, to which smaller images are mirrored
_TILE = 768  # px, the most of the exact network
_PROBE = (64, 640)  # px; half of its length is more than the paper's largest network sees to either side
_AGREE = 1e-4  # of the range, a tenth of what tiles are promised to differ by


class NeuralRestorer:
    """A restorer that runs a CGRDN, exact or with Fourier units.

    The network sees the whole image less its mean and divided by its deviation, both computed in double precision,
    whether it is cut into tiles or not, and what it returns is scaled back: ``a·x + b`` in gives ``a·y + b`` out for
    any a above 0. The mean is kept, and single extreme pixels are replaced before (`emsynth.restoration.level`). A
    constant image is returned as it is. Odd sides, and sides below 32 px, are mirrored.

    Parameters
    ----------
    model : str, path or CGRDN
        Name of a network that is shipped, a ``.safetensors`` file, or the network itself, which is used as and where
        it is.
    tile : int, optional
        Side of the tiles, px, even; at least the image's for no tiles. By default an image of up to 1 Mpx is restored
        as a whole and a larger one in tiles of up to 768 px; a network with Fourier units, which sees all of what it
        is given, has tiles of the side on which it was trained (``about["patch"]``; 128 px where that is not known).
    overlap : int, optional
        Of neighbouring tiles, px, even, up to half of a tile. By default what the exact network needs for tiles to
        differ by less than 0.1 % of the range from the whole, which is measured, and half of a tile for one with
        Fourier units.
    threads : int, optional
        Of the processor; PyTorch's own number by default.

    Attributes
    ----------
    name : str
        As given, or ``cgrdn``.
    path : Path or None
        Of the file of weights.
    about : dict
        What is written about the weights.

    Raises
    ------
    RestorerError
        PyTorch is not installed, there is no such file, it is damaged or not one of emsynth's, or a number is not
        allowed.
    """

    def __init__(self, model: str | os.PathLike[str] | CGRDN, tile: int | None = None, overlap: int | None = None,
                 threads: int | None = None) -> None:
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise RestorerError(f"threads: {threads!r} is not a whole number from 1 on")
        if tile is not None or overlap is not None:
            Tiles(2**20 if tile is None else tile, 0 if overlap is None else overlap)
        self._made_from = (model, tile, overlap, threads)
        self._tile, self._overlap, self._threads = tile, overlap, threads
        self._margin: int | None = None
        self.about: dict[str, Any] = {}
        if isinstance(model, str | os.PathLike):
            self.name = os.fspath(model)
            self.path: Path | None = shipped().get(self.name, Path(model))
            self._network, self.about = _loaded(self.path)
        else:
            if not hasattr(model, "size") or not hasattr(model, "parameters"):
                raise RestorerError(f"{type(model).__name__} is not a CGRDN; give one, a .safetensors file, or a "
                                    f"shipped name ({', '.join(shipped()) or 'there is none yet'})")
            self.name, self.path, self._network = "cgrdn", None, model

    def __call__(self, image: NDArray[Any], /) -> NDArray[Any]:
        """Restore one image.

        Parameters
        ----------
        image : ndarray (H, W)
            Real numbers in any unit.

        Returns
        -------
        ndarray (H, W), float32, or float64 where that was given
            In the same unit.

        Raises
        ------
        RestorerError
            It is no grey image, not all of it is finite, something is masked, or its numbers are too large or small.
        """
        kind = check_image(image)
        return about_mean(np.asarray(image), self._normalised, kind, self.name)

    def tiles(self, shape: tuple[int, int]) -> Tiles:
        """How an image of this shape, px, is cut."""
        longest = max(*shape, _LEAST)
        longest += longest % 2
        fourier = bool(self._network.size.fourier)
        side = self._tile or (self._patch if fourier else longest if shape[0] * shape[1] <= _WHOLE else 0)
        if side >= longest:
            return Tiles(longest, 0)
        if self._overlap is not None:
            return Tiles(side or _fitting(longest, self._overlap), self._overlap)
        overlap = side // 2 if fourier else overlap_for(self.margin)
        side = side or _fitting(longest, overlap)
        return Tiles(side, min(overlap, side // 2) // 2 * 2)

    @property
    def margin(self) -> int:
        """How far from its border a tile differs from the whole, px, by more than 0.01 % of the range.

        Measured once, on noisy dots of both signs that are cut in two.
        """
        if self._margin is None:
            with self._settled():
                self._margin = _margin(self)
        return self._margin

    def run(self, images: Floats) -> Floats:
        """What the network makes of normalised images, (N, H, W), of even sides."""
        import torch

        with torch.inference_mode():
            given = torch.from_numpy(np.ascontiguousarray(images[:, None])).to(next(self._network.parameters()).device)
            returned: Floats = self._network(given).float().cpu().numpy()[:, 0]
        return returned

    def laid_out(self, tile: int | None, overlap: int | None, threads: int | None) -> NeuralRestorer:
        """The same network with other tiles."""
        return NeuralRestorer(self._made_from[0], tile, overlap, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return NeuralRestorer, self._made_from

    @property
    def _patch(self) -> int:
        """Side of the patches that the network was trained on, px."""
        from emsynth.networks.weights import trained_side

        return trained_side(self.about)

    def _normalised(self, image: Floats) -> Floats:
        rows, cols = image.shape
        given, tiles = mirrored(image, 2, _LEAST), self.tiles((rows, cols))
        with self._settled():
            restored = blended(given, tiles, self.run, _AT_ONCE)
        return restored[:rows, :cols]

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """The number of threads that was asked for."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def check_image(image: Any, place: str = "the image") -> np.dtype[Any]:
    """The type of what is restored from an image; RestorerError where it cannot be restored.

    Parameters
    ----------
    image : ndarray (H, W)
        Whatever was given for it.
    place : str
        What a message calls it.

    Returns
    -------
    dtype
        float64 for float64 and wider, float32 otherwise.
    """
    if not isinstance(image, np.ndarray):
        raise RestorerError(f"{place}: {type(image).__name__} is not an array; give a 2-D NumPy array")
    if np.ma.is_masked(image):
        raise RestorerError(f"{place}: {np.ma.count_masked(image)} of {image.size} pixels are masked; fill them first, "
                            "e.g. image.filled(image.mean())")
    if image.dtype.kind not in "fiu":
        raise RestorerError(f"{place}: holds {image.dtype}, not real numbers; {_way_out(image.dtype)}")
    if image.ndim != 2 or not image.size:
        raise RestorerError(f"{place}: has shape {image.shape}; give a grey image, 2-D and with pixels")
    bad = ~np.isfinite(image)
    if bad.any():
        row, col = np.argwhere(bad)[0]
        raise RestorerError(f"{place}: {int(bad.sum())} of {image.size} pixels are NaN or infinite, the first at row "
                            f"{row}, column {col}; replace them, e.g. by numpy.nan_to_num(image, nan=..., posinf=...)")
    return np.dtype(np.float64 if image.dtype.kind == "f" and image.dtype.itemsize > 4 else np.float32)


def _way_out(kind: np.dtype[Any]) -> str:
    if kind.kind == "c":
        return "restore its modulus or its real part"
    if kind.names:
        return "it looks like colour: convert it to grey, e.g. by the mean of its channels"
    return "convert it to float32"


def _loaded(path: Path) -> tuple[CGRDN, dict[str, Any]]:
    try:
        import torch

        from emsynth.networks.weights import load_weights
    except ModuleNotFoundError as error:
        lacking = (error.name or "torch").partition(".")[0]
        raise RestorerError(f"{path}: needs {lacking}, which is not installed; pip install 'emsynth[train]'") from error
    try:
        network, about = load_weights(path)
    except NetworkError as reason:
        raise RestorerError(str(reason)) from None
    for weights in network.parameters():
        if weights.ndim == 4:  # in this order a processor is a third quicker
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
    return network, about


def _fitting(length: int, overlap: int) -> int:
    """The side of the fewest tiles of up to `_TILE` px, or twice the overlap, that cover a length: none too large."""
    most = max(_TILE, 2 * overlap)
    count = -(-(length - overlap) // (most - overlap))
    side = -(-(length + (count - 1) * overlap) // count)
    return max(side + side % 2, 2 * overlap)


def _margin(restorer: NeuralRestorer) -> int:
    """The largest distance, px, from a cut at which what a piece is restored to is not that of the whole."""
    probe, middle, margin = _probe(), _PROBE[1] // 2, 0
    for turn in range(4):  # the cut is at the left, below, at the right, above
        whole = restorer.run(np.rot90(probe, turn)[None])[0]
        restored = restorer.run(np.rot90(probe[:, middle:], turn)[None])[0]
        error = np.rot90(whole, -turn)[:, middle:] - np.rot90(restored, -turn)
        apart = np.flatnonzero(np.abs(error).max(0) > _AGREE * np.ptp(whole))
        margin = max(margin, int(apart[-1]) + 1 if apart.size else 0)
    return margin


def _probe() -> Floats:
    """Noisy dots on a grid, some bright and some dark, of mean 0 and deviation 1."""
    row, col = np.indices(_PROBE)
    dots = np.cos(2 * np.pi * row / 12.8) * np.cos(2 * np.pi * (col + row / 3) / 11.3) ** 3
    dots += generator(0, 0, "restoration margin").standard_normal(_PROBE)
    return np.asarray((dots - dots.mean()) / dots.std(), np.float32)
