"""Who transforms and multiplies: SciPy, Intel's MKL where it is installed, or CuPy on a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import scipy.fft

from emsynth.errors import FieldError

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Backend:
    """Arrays and Fourier transforms of one device.

    Attributes
    ----------
    name : str
        ``"scipy"``, ``"mkl"`` or ``"cupy"``; it determines the last bits of a field.
    arrays : module
        NumPy, or what stands for it on the device.
    fft2, ifft2 : callable
        Transforms of the last two axes of a complex64 array, which may be overwritten.
    batch : int
        Waves that run together: on a processor a few, so that they stay in its cache.
    """

    name: str
    arrays: Any
    fft2: Callable[[Any], Any]
    ifft2: Callable[[Any], Any]
    batch: int

    def fetch(self, array: Any) -> Any:
        """The array in the memory of the processor."""
        return array.get() if hasattr(array, "get") else array


def name_of(device: Device) -> str:
    """Name of the backend that `backend` gives; nothing heavy is imported.

    The environment variable ``EMSYNTH_FFT=scipy`` passes MKL over.
    """
    if device == "gpu":
        return "cupy"
    mkl = os.environ.get("EMSYNTH_FFT") != "scipy" and importlib.util.find_spec("mkl_fft") is not None
    return "mkl" if mkl else "scipy"


@contextmanager
def transforms() -> Iterator[None]:
    """While it lasts, SciPy's own transforms are MKL's where that is installed."""
    if name_of("cpu") == "mkl":
        from mkl_fft.interfaces import scipy_fft

        with scipy.fft.set_backend(scipy_fft, only=True):
            yield
    else:
        yield


def backend(device: Device) -> Backend:
    """The backend of a device.

    Raises
    ------
    FieldError
        Where there is no GPU, or no CuPy to use it.
    """
    return _made(name_of(device))


@cache
def _made(name: str) -> Backend:
    return {"cupy": _cupy, "mkl": _mkl, "scipy": _scipy}[name]()


def _scipy() -> Backend:
    return Backend("scipy", np, lambda a: scipy.fft.fft2(a, overwrite_x=True),
                   lambda a: scipy.fft.ifft2(a, overwrite_x=True), 8)


def _mkl() -> Backend:
    import mkl_fft

    return Backend("mkl", np, lambda a: mkl_fft.fft2(a, axes=(-2, -1), out=a),
                   lambda a: mkl_fft.ifft2(a, axes=(-2, -1), out=a), 8)


def _cupy() -> Backend:
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as reason:  # not installed, no driver, no device: each fails in its own way
        raise FieldError(f"simulate.device: gpu needs CuPy and a GPU that it can use ({type(reason).__name__}: "
                         f"{reason}); install CuPy for your CUDA, or set simulate.device to cpu") from None
    return Backend("cupy", cupy, cupy.fft.fft2, cupy.fft.ifft2, 64)
