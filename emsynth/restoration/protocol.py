"""What a restorer is, one image in and one image out, and what a shipped baseline adds: parameters to be tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from emsynth.errors import RestorerError

Floats = NDArray[np.float32]
Value = float | int | bool | str
Values = Mapping[str, Value]


class Restorer(Protocol):
    """Anything that is called with an image and returns one.

    The image is 2-D float32 in ADU, as the instrument gave it; so is what is returned, of the same shape, all finite.
    """

    def __call__(self, image: Floats, /) -> Floats:
        """Restore one image."""


class Noise(Protocol):
    """What a baseline may know of the noise: the attributes of a benchmark's condition that it uses.

    Attributes
    ----------
    expected_counts : float
        Electrons per pixel, mean over the truth.
    gain, black_level : float
        ADU per electron, and ADU where nothing is detected.
    counted : bool
        Whether there is counting noise.
    variance : float
        Of what is added to the counts, electrons squared.
    excess : float
        Variance over mean of what is counted.
    """

    @property
    def expected_counts(self) -> float: ...
    @property
    def gain(self) -> float: ...
    @property
    def black_level(self) -> float: ...
    @property
    def counted(self) -> bool: ...
    @property
    def variance(self) -> float: ...
    @property
    def excess(self) -> float: ...


@dataclass(frozen=True)
class Parameter:
    """One parameter of a baseline, with the values among which it is tuned.

    Attributes
    ----------
    name, unit, about : str
        What it is.
    scale : {"log", "steps", "choice"}
        ``log``: any number between `low` and `high`, and 0 where that is the identity. ``steps``: one of `values`,
        which are in order. ``choice``: one of `values`, which have no order, and so no ends.
    low, high : float
        Range that is searched first (``log``).
    limit : float
        Where it makes no sense to go on beyond `high` (``log``).
    values : tuple
        What there is to choose from (``steps`` and ``choice``).
    identity_end : bool
        Whether the lower end (0, or the first value) removes nothing: an optimum there is no fault of the range.
    smallest : bool
        Whether nothing lies below the lower end, though it is no identity: no patch is smaller than a pixel.
    largest : bool
        Whether nothing lies above the upper end, because it is as wide as an image.
    start : float, int, bool or str
        Its value while others are tuned for the first time.
    """

    name: str
    unit: str
    about: str
    scale: Literal["log", "steps", "choice"]
    low: float = 0.0
    high: float = 0.0
    limit: float = 0.0
    values: tuple[Value, ...] = ()
    identity_end: bool = False
    smallest: bool = False
    largest: bool = False
    start: Value = 1.0


def strength(unit: str, about: str, low: float, high: float, limit: float, start: float = 1.0,
             name: str = "strength") -> Parameter:
    """A parameter on a logarithmic scale whose 0 is the identity."""
    return Parameter(name, unit, about, "log", low, high, limit, identity_end=True, start=start)


Method = Callable[[Floats, Noise, Values], NDArray[Any]]


@dataclass(frozen=True)
class Baseline:
    """A classical method of which the best parameters are sought for each condition.

    Attributes
    ----------
    name : str
    title, assumes, source : str
        What it is, what it takes for granted, where its code comes from and under which licence.
    parameters : tuple of Parameter
        In the order in which they are tuned.
    method : callable
        (image, noise, values) -> restored image.
    quick : bool
        Whether there is time to tune more finely, and all else anew for each combination of choices.
    """

    name: str
    title: str
    assumes: str
    source: str
    parameters: tuple[Parameter, ...]
    method: Method
    quick: bool = False

    def tuned(self, values: Values, condition: Noise) -> TunedBaseline:
        """The restorer with these values, for images of this condition; RestorerError for names that it lacks."""
        known = {parameter.name for parameter in self.parameters}
        if wrong := sorted(set(values) ^ known):
            raise RestorerError(f"{self.name}: takes values for {', '.join(sorted(known)) or 'nothing'}; "
                                f"unknown or missing: {', '.join(wrong)}")
        return TunedBaseline(self.name, tuple(sorted(values.items())), condition)

    def parameters_for(self, noise: Noise) -> tuple[Parameter, ...]:
        """Those parameters with the choices that this noise leaves: nothing is stabilised that was not counted."""
        countless = not noise.counted and noise.excess <= 1
        return tuple(_fixed(parameter, False) if countless and parameter.name == "stabilise" else parameter
                     for parameter in self.parameters)


def _fixed(parameter: Parameter, value: Value) -> Parameter:
    return Parameter(parameter.name, parameter.unit, parameter.about, "choice", values=(value,), start=value)


@dataclass(frozen=True)
class TunedBaseline:
    """A baseline with its values for one condition: a restorer, which can be sent to another process.

    Attributes
    ----------
    name : str
        Of the baseline.
    values : tuple of (str, value)
        One for each parameter.
    noise : Noise
        What it knows of the noise.
    """

    name: str
    values: tuple[tuple[str, Value], ...]
    noise: Noise

    def __call__(self, image: Floats, /) -> Floats:
        """Restore one image; the same bytes for the same image, whatever runs beside it."""
        from emsynth.restoration.baselines import BASELINES

        return np.ascontiguousarray(BASELINES[self.name].method(image, self.noise, dict(self.values)), np.float32)


def apply(restorer: Callable[[Floats], Any], image: Floats) -> Floats:
    """Restore an image and check what comes back.

    Parameters
    ----------
    restorer : callable
        What is to restore it; it gets a copy.
    image : ndarray (H, W), float32
        ADU.

    Returns
    -------
    ndarray (H, W), float32
        ADU. Other real numbers than float32 are converted.

    Raises
    ------
    RestorerError
        It returned another shape, something else than real numbers, or numbers that are not finite.
    """
    who = getattr(restorer, "name", None) or getattr(restorer, "__name__", type(restorer).__name__)
    returned = np.asarray(restorer(image.copy()))
    if returned.shape != image.shape:
        raise RestorerError(f"{who}: returned shape {returned.shape} for an image of shape {image.shape}; "
                            "a restorer returns one 2-D image of the shape that it was given")
    if returned.dtype.kind not in "fiub":
        raise RestorerError(f"{who}: returned {returned.dtype}; a restorer returns real numbers, best float32")
    with np.errstate(over="ignore"):
        restored = np.ascontiguousarray(returned, np.float32)
    wrong = int(restored.size - np.isfinite(restored).sum())
    if wrong:
        raise RestorerError(f"{who}: {wrong} of {restored.size} pixels are NaN or infinite; all must be finite")
    return restored
