"""A network from an ONNX file: one channel in, one channel out, on one thread."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from emsynth.errors import RestorerError
from emsynth.restoration.protocol import Floats

NORMALISATIONS = ("standard", "none")


class Network:
    """A restorer that runs an ONNX file with onnxruntime.

    The network gets float32 of shape (1, 1, H, W) and returns the same. By default it sees each image less its own
    mean, divided by its own standard deviation, and what it returns is scaled back. The file's metadata may say
    otherwise: ``emsynth.normalise`` is ``standard`` or ``none``, ``emsynth.multiple`` a number of pixels of which both
    sides are to be a multiple: the image is mirrored at its lower and right ends, and what comes back is cropped.

    Parameters
    ----------
    path : str
        Of the file.

    Raises
    ------
    RestorerError
        onnxruntime is not installed, there is no such file, or it is not a network of this kind.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        runtime = _runtime()
        if not Path(path).is_file():
            raise RestorerError(f"{path}: there is no such file")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
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
        multiple = about.get("emsynth.multiple", "1")
        if self._normalise not in NORMALISATIONS:
            raise RestorerError(f"{path}: metadata emsynth.normalise: {self._normalise!r} is neither "
                                f"{' nor '.join(NORMALISATIONS)}")
        if not (multiple.isdecimal() and 1 <= int(multiple) <= 4096):
            raise RestorerError(f"{path}: metadata emsynth.multiple: {multiple!r} is not a whole number of 1 to 4096")
        self._multiple = int(multiple)

    def __call__(self, image: Floats, /) -> Floats:
        """Restore one image."""
        shift, scale = 0.0, 1.0
        if self._normalise == "standard":
            shift, scale = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64)) or 1.0
        given = ((image - shift) / scale).astype(np.float32)
        rows, cols = image.shape
        wide = np.pad(given, ((0, -rows % self._multiple), (0, -cols % self._multiple)), mode="symmetric")
        returned = np.asarray(self._session.run([self._output], {self._input: wide[None, None]})[0])
        if returned.shape != (1, 1, *wide.shape):
            raise RestorerError(f"{self.name}: returned shape {returned.shape} for {(1, 1, *wide.shape)}")
        return np.ascontiguousarray(returned[0, 0, :rows, :cols] * scale + shift, np.float32)

    def check_shape(self, shape: tuple[int, int]) -> None:
        """RestorerError where the network was exported for images of another shape only."""
        wide = tuple(side + -side % self._multiple for side in shape)
        if any(isinstance(fixed, int) and fixed != side for fixed, side in zip(self._sides, wide, strict=True)):
            raise RestorerError(f"{self.name}: takes images of {' × '.join(map(str, self._sides))} only, and these are "
                                f"{shape[0]} × {shape[1]}; export it again with both sides left open (dynamic axes)")

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, (self.name,)

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
