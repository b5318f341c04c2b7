"""`emsynth.restore`: an image, or a stack of frames, restored by a network or by anything that can be called."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import RestorerError
from emsynth.restoration.finding import find
from emsynth.restoration.network import Network
from emsynth.restoration.neural import NeuralRestorer, check_image
from emsynth.restoration.protocol import Baseline, apply

if TYPE_CHECKING:
    from emsynth.networks.cgrdn import CGRDN

_COLOURS = (3, 4)


def restore(image: NDArray[Any], model: str | os.PathLike[str] | Callable[[NDArray[Any]], Any] | CGRDN, *,
            tile: int | None = None, overlap: int | None = None, threads: int | None = None,
            dtype: Literal["same"] | None = None) -> NDArray[Any]:
    """Restore an image or a stack of frames.

    Parameters
    ----------
    image : ndarray (H, W) or (N, H, W)
        Real numbers in any unit, which is kept. Each frame of a stack is restored by itself.
    model : str, path, callable or CGRDN
        Name of a network that is shipped, a ``.safetensors`` file that emsynth wrote, an ``.onnx`` file,
        ``module:function``, a function image -> image, or a network.
    tile, overlap, threads : int, optional
        As in `emsynth.restoration.neural.NeuralRestorer`; for networks in files; an
        ONNX file runs on one thread by default, and whole unless its metadata say otherwise.
    dtype : "same", optional
        Return the type of `image`: integers are rounded and held within the range of their type. By default integers
        are restored to float32, because a restored count is no whole number; float32 and float64 stay what they are,
        float16 becomes float32 and wider types float64. Networks compute in float32 about the image's mean, in units
        of its deviation, whatever its type; other restorers are given float32.

    Returns
    -------
    ndarray, of the shape of `image`

    Raises
    ------
    RestorerError
        The model cannot be had, or the image cannot be restored: it is coloured, complex or boolean, holds NaN, or
        something in it is masked.
    """
    if dtype not in (None, "same"):
        raise RestorerError(f"dtype: {dtype!r} is neither 'same' nor None; convert what is returned with .astype")
    frames = _frames(image)
    kinds = [check_image(frame, "the image" if image.ndim == 2 else f"frame {n}") for n, frame in enumerate(frames)]
    restorer = _restorer(model, tile, overlap, threads)
    restored = np.empty(frames.shape, image.dtype if dtype else kinds[0])
    for n, frame in enumerate(frames):
        restored[n] = _as_type(_restored(np.asarray(frame), restorer), restored.dtype)
    return restored.reshape(image.shape)


def _frames(image: Any) -> NDArray[Any]:
    """The image as a stack."""
    if not isinstance(image, np.ndarray):
        raise RestorerError(f"the image: {type(image).__name__} is not an array; give a NumPy array")
    if image.ndim not in (2, 3) or not image.size:
        raise RestorerError(f"the image: has shape {image.shape}; give (H, W), or (N, H, W) for a stack of frames")
    if image.ndim == 3 and image.shape[2] in _COLOURS:
        raise RestorerError(f"the image: shape {image.shape} looks like {image.shape[2]} colour channels; convert it "
                            "to grey, e.g. image[..., :3].mean(axis=2), or restore frames so narrow one by one")
    return image if image.ndim == 3 else image[None]


def _restorer(model: Any, tile: int | None, overlap: int | None, threads: int | None) -> Callable[[NDArray[Any]], Any]:
    if isinstance(model, str | os.PathLike):
        found = find(os.fspath(model))
    else:
        found = NeuralRestorer(model) if hasattr(model, "state_dict") and hasattr(model, "size") else model
    if isinstance(found, Baseline):
        raise RestorerError(f"{found.name}: is a baseline, which has yet to be told the noise and tuned; give "
                            f"emsynth.restoration.BASELINES[{found.name!r}].tuned(values, condition), or a network")
    if not callable(found):
        raise RestorerError(f"{type(found).__name__} is not a restorer; give a name, a path or a function image -> "
                            "image")
    if tile is overlap is threads is None:
        return found
    if not isinstance(found, NeuralRestorer | Network):
        raise RestorerError("tile, overlap and threads: are for networks in files only (.safetensors, .onnx), and this "
                            "is something else that is called; leave them out")
    return found.laid_out(tile, overlap, threads)


def _restored(frame: NDArray[Any], restorer: Callable[[NDArray[Any]], Any]) -> NDArray[Any]:
    if isinstance(restorer, NeuralRestorer | Network):
        return np.asarray(restorer(frame))
    return apply(restorer, frame.astype(np.float32))


def _as_type(restored: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if kind.kind == "f":
        return np.asarray(np.clip(restored, np.finfo(kind).min, np.finfo(kind).max), kind)
    limits = np.iinfo(kind)
    # The largest whole number of 64 bits is no double: the largest double below the next one is, and is cut to fit.
    largest = np.nextafter(float(limits.max) + 1, 0)
    return np.asarray(np.clip(np.rint(restored.astype(np.float64)), limits.min, largest).astype(kind))
