"""Restorers that do what a restorer must not, some that are good, and a quick measure."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import numpy as np


def good(image):
    return image * np.float32(0.5)


def smooth(image):
    return (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3


def flat(image):
    return np.full_like(image, image.mean(dtype=np.float64))


def slow(image):
    time.sleep(0.05)
    return image


def wrong_shape(image):
    return image[1:]


def reshaping(image):
    image.resize((1, *image.shape), refcheck=False)
    return image


def transparent(image):
    return np.broadcast_to(image, (4, *image.shape))


def complex_numbers(image):
    return image + 1j


def words(image):
    return np.full(image.shape, "a")


def nothing(image):
    return None


def nan(image):
    image[3, 4] = np.nan
    return image


def infinite(image):
    return image.astype(np.float64) * 1e300


def raising(image):
    raise ValueError("this image is too noisy")


def exiting(image):
    sys.exit(3)


def leaving(image):
    os._exit(4)


def crashing(image):
    ctypes.string_at(0)


def slain(image):
    os.kill(os.getpid(), 9)


def hungry(image):
    return np.ones((1 << 40,))


def gluttonous(image):
    held = []
    while True:
        held.append(np.ones(1 << 24))


def endless(image):
    while True:
        pass


def talking(image):
    print("spoiling the table")
    print("spoiling the progress", file=sys.stderr)
    os.write(1, b"spoiling both\n")
    return image


def writing_in_place(image):
    image[:] = 0
    return image


def drawing(image):
    return image + np.random.standard_normal(image.shape)  # noqa: NPY002


def meddling(image):
    np.mean = np.ndarray.mean = None
    return image


def moody(image):
    """Fails on dark images."""
    if image.mean() < 100:
        raise ValueError("dark")
    return image


class Heavy:
    """Cannot be sent anywhere."""

    def __reduce__(self):
        raise TypeError("holds a device")

    def __call__(self, image):
        return image


def measure(case, restored, partner=None):
    """Stands in for the metrics where the metrics are not what is tested."""
    error = float(np.sqrt(np.mean((restored - case.truth).astype(np.float64) ** 2)))
    found = {"psnr": 20 * float(np.log10(case.data_range / max(error, 1e-9))), "mean": float(restored.mean())}
    if partner is not None:
        known, twin = partner
        found["response_shift"] = float(np.abs(restored - twin).sum() / np.abs(case.truth - known.truth).sum())
    return found


def gaussian(image):
    """Has the name of a baseline."""
    return image


_calls = []


def drifting(image):
    _calls.append(image)
    return image + len(_calls)


def hasty(image):
    time.sleep(1.0)
    return image


def snooping(image):
    """Looks for the truth wherever it might be."""
    frame = sys._getframe(1)
    while frame is not None:
        for value in frame.f_locals.values():
            truth = getattr(value, "truth", getattr(getattr(value, "scene", None), "truth", None))
            if getattr(truth, "shape", None) == image.shape:
                return truth
        frame = frame.f_back
    return image


def enormous(image):
    return np.where(np.indices(image.shape).sum(0) % 2, 3e38, -3e38)
