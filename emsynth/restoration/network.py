"""A network from an ONNX file: one channel in, one channel out."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import RestorerError
from emsynth.restoration.neural import check_image
from emsynth.restoration.protocol import Floats
from emsynth.restoration.tiling import Tiles, blended, mirrored

NORMALISATIONS = ("standard", "none")


class Network:
    """A restorer that runs an ONNX file with onnxruntime.

    The network gets float32 of shape (1, 1, H, W) and returns the same. By default it sees each image less its own
    mean, divided by its own standard deviation, and what it returns is scaled back. The file's metadata may say
    otherwise: ``emsynth.normalise`` is ``standard`` or ``none``, ``emsynth.multiple`` a number of pixels of which both
    sides are to be a multiple: the image is mirrored at its lower and right ends, and what comes back is cropped.
    ``emsynth.tile`` is the side of the tiles, px, into which larger images are cut; without it they are not.

    Parameters
    ----------
    path : str
        Of the file.
    tile, overlap : int, optional
        Side of the tiles and what neighbours have in common, px, even; half of a tile by default.
    threads : int, optional
        Of the processor; one by default.

    Raises
    ------
    RestorerError
        onnxruntime is not installed, there is no such file, or it is not a network of this kind.
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
        self._normalise = about.get("emsynth.normalise", "standard")
        if self._normalise not in NORMALISATIONS:
            raise RestorerError(f"{path}: metadata emsynth.normalise: {self._normalise!r} is neither "
                                f"{' nor '.join(NORMALISATIONS)}")
        self._multiple = self._number(about, "multiple", 1)
        tile = tile or self._number(about, "tile", 0)
        self._tiles = Tiles(tile, tile // 4 * 2 if overlap is None else overlap) if tile else None

    def __call__(self, image: NDArray[Any], /) -> NDArray[Any]:
        """Restore one image; float32 comes back, or float64 where that was given."""
        kind = check_image(image)
        shift, scale = 0.0, 1.0
        if self._normalise == "standard":
            if image.min() == image.max():
                return image.astype(kind)
            shift, scale = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
        given = ((image.astype(np.float64) - shift) / scale).astype(np.float32)
        rows, cols = image.shape
        wide = mirrored(given, self._multiple)
        if self._tiles is None or max(wide.shape) <= self._tiles.side:
            restored = self._run(wide[None])[0]
        else:
            restored = blended(mirrored(wide, 2), self._tiles, self._run, 1)
        return np.asarray(restored[:rows, :cols].astype(np.float64) * scale + shift, kind)

    def check_shape(self, shape: tuple[int, int]) -> None:
        """RestorerError where the network was exported for images of another shape only."""
        most = self._tiles.side if self._tiles else max(shape) + self._multiple
        wide = tuple(min(side + -side % self._multiple, most) for side in shape)
        if any(isinstance(fixed, int) and fixed != side for fixed, side in zip(self._sides, wide, strict=True)):
            raise RestorerError(f"{self.name}: takes images of {' × '.join(map(str, self._sides))} only, and these are "
                                f"{shape[0]} × {shape[1]}; export it again with both sides left open (dynamic axes)")

    def laid_out(self, tile: int | None, overlap: int | None, threads: int | None) -> Network:
        """The same network with other tiles."""
        return Network(self.name, tile, overlap, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, self._made_from

    def _run(self, images: Floats) -> Floats:
        """What the network makes of images, (N, H, W), one after the other."""
        return np.stack([self._one(image) for image in images])

    def _one(self, image: Floats) -> Floats:
        returned = np.asarray(self._session.run([self._output], {self._input: image[None, None]})[0])
        if returned.shape != (1, 1, *image.shape):
            raise RestorerError(f"{self.name}: returned shape {returned.shape} for {(1, 1, *image.shape)}")
        return np.asarray(returned[0, 0], np.float32)

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
