"""A network from an ONNX file: one channel in, one channel out."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import RestorerError
from emsynth.restoration.level import about_mean
from emsynth.restoration.neural import check_image
from emsynth.restoration.protocol import Floats
from emsynth.restoration.tiling import Tiles, blended, mirrored

NORMALISATIONS = ("standard", "none")
LEVELS = ("returned", "kept")


class Network:
    """A restorer that runs an ONNX file with onnxruntime.

    The network gets float32 of shape (1, 1, H, W) and returns the same. By default it sees each image less its own
    mean, divided by its own standard deviation, and what it returns is scaled back. The file's metadata may say
    otherwise: ``emsynth.normalise`` is ``standard`` or ``none``, ``emsynth.multiple`` a number of pixels of which both
    sides are to be a multiple, and ``emsynth.least`` the smallest side: the image is mirrored at its lower and right
    ends, and what comes back is cropped. ``emsynth.level``, ``returned`` or ``kept``, is whether extreme pixels are
    replaced before and the mean is given back after, as `emsynth.restoration.level` does it for a network of emsynth.
    ``emsynth.tile`` is the side of the tiles, px, into which larger images are cut; without it they are not.

    Parameters
    ----------
    path : str
        Of the file.
    tile, overlap : int, optional
        Side of the tiles and what neighbours have in common, px, even; half of a tile by default. An overlap needs
        a tile, here or in the file.
    threads : int, optional
        Of the processor; one by default.

    Raises
    ------
    RestorerError
        onnxruntime is not installed, there is no such file, it is not a network of this kind, or a number is not
        allowed.
    """

    def __init__(self, path: str, tile: int | None = None, overlap: int | None = None,
                 threads: int | None = None) -> None:
        self.name = path
        self._made_from = (path, tile, overlap, threads)
        runtime = _runtime()
        if not Path(path).is_file():
            raise RestorerError(f"{path}: there is no such file")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads or 1, 1
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RestorerError(f"{path}: cannot be loaded as ONNX ({' '.join(str(error).split())}); export it "
                                "again") from error
        self._sides = self._session.get_inputs()[0].shape[2:] if self._session.get_inputs() else []
        self._input = self._one_image(self._session.get_inputs(), "input")
        self._output = self._one_image(self._session.get_outputs(), "output")
        about = self._session.get_modelmeta().custom_metadata_map
        self._normalise = self._word(about, "normalise", NORMALISATIONS)
        self._kept = self._word(about, "level", LEVELS) == "kept"
        if self._kept and self._normalise == "none":
            raise RestorerError(f"{path}: metadata emsynth.level: 'kept' needs emsynth.normalise: standard; export it "
                                "again")
        self._multiple, self._least = self._number(about, "multiple", 1), self._number(about, "least", 1)
        self._tiles = self._laid_out(about, tile, overlap)

    def __call__(self, image: NDArray[Any], /) -> NDArray[Any]:
        """Restore one image; float32 comes back, or float64 where that was given."""
        kind = check_image(image)
        if self._normalise == "none":
            return self._tiled(np.asarray(image, np.float32)).astype(kind)
        return about_mean(np.asarray(image), self._tiled, kind, self.name, self._kept)

    def check_shape(self, shape: tuple[int, int]) -> None:
        """RestorerError where the network was exported for images of another shape only."""
        most = self._tiles.side if self._tiles else max(*shape, self._least) + self._multiple
        given = [max(side, self._least) for side in shape]
        wide = tuple(min(side + -side % self._multiple, most) for side in given)
        if any(isinstance(fixed, int) and fixed != side for fixed, side in zip(self._sides, wide, strict=True)):
            raise RestorerError(f"{self.name}: takes images of {' × '.join(map(str, self._sides))} only, and these are "
                                f"{shape[0]} × {shape[1]}; export it again with both sides left open (dynamic axes)")

    def laid_out(self, tile: int | None, overlap: int | None, threads: int | None) -> Network:
        """The same network with other tiles."""
        return Network(self.name, tile, overlap, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, self._made_from

    def _tiled(self, image: Floats) -> Floats:
        """What the network makes of an image of any size, (H, W)."""
        rows, cols = image.shape
        wide = mirrored(image, self._multiple, self._least)
        if self._tiles is None or max(wide.shape) <= self._tiles.side:
            restored = self._run(wide[None])[0]
        else:
            restored = blended(mirrored(wide, 2), self._tiles, self._run, 1)
        return np.asarray(restored[:rows, :cols])

    def _run(self, images: Floats) -> Floats:
        """What the network makes of images, (N, H, W), one after the other."""
        return np.stack([self._one(image) for image in images])

    def _one(self, image: Floats) -> Floats:
        returned = np.asarray(self._session.run([self._output], {self._input: image[None, None]})[0])
        if returned.shape != (1, 1, *image.shape):
            raise RestorerError(f"{self.name}: returned shape {returned.shape} for {(1, 1, *image.shape)}")
        return np.asarray(returned[0, 0], np.float32)

    def _laid_out(self, about: dict[str, str], tile: int | None, overlap: int | None) -> Tiles | None:
        """How images are cut: as was asked for, else as the file says."""
        if tile is None:
            tile = self._number(about, "tile", 0)
            if not tile and overlap is not None:
                raise RestorerError(f"overlap: {overlap!r} px of which tiles? {self.name} names none; give a tile as "
                                    "well")
            if not tile:
                return None
            try:
                Tiles(tile, 0)
            except RestorerError as reason:
                raise RestorerError(f"{self.name}: metadata emsynth.{reason}") from None
        return Tiles(tile, tile // 4 * 2 if overlap is None and isinstance(tile, int) else overlap or 0)

    def _word(self, about: dict[str, str], name: str, allowed: tuple[str, ...]) -> str:
        """A word in the metadata, by default the first of those that are allowed."""
        word = about.get(f"emsynth.{name}", allowed[0])
        if word not in allowed:
            raise RestorerError(f"{self.name}: metadata emsynth.{name}: {word!r} is neither {' nor '.join(allowed)}")
        return word

    def _number(self, about: dict[str, str], name: str, default: int) -> int:
        """A number of pixels in the metadata."""
        text = about.get(f"emsynth.{name}", str(default))
        if not (text.isdecimal() and min(default, 1) <= int(text) <= 4096):
            raise RestorerError(f"{self.name}: metadata emsynth.{name}: {text!r} is not a whole number of 1 to 4096")
        return int(text)

    def _one_image(self, ends: list[Any], which: str) -> str:
        shapes = [f"{end.name} {end.type} {end.shape}" for end in ends]
        # What is left open has no number.
        fits = len(ends) == 1 and ends[0].type == "tensor(float)" and len(ends[0].shape) == 4 and all(
            size == 1 for size in ends[0].shape[:2] if isinstance(size, int))
        if not fits:
            raise RestorerError(f"{self.name}: needs one {which}, float32 of shape (1, 1, H, W); it has "
                                f"{', '.join(shapes) or 'none'}")
        return str(ends[0].name)


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RestorerError("an ONNX file needs onnxruntime, which is not installed; pip install 'emsynth[onnx]'"
                            ) from error
