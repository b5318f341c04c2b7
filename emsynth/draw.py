"""Numbers that may be distributions, and how the named random streams draw them.

Every random stream is keyed by ``(seed, index, name)``, never by the order of calls: drawing one
value more, or one fewer, leaves all the others as they were.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal, Self, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from emsynth.streams import Streams as Streams
from emsynth.streams import generator as generator
from emsynth.streams import stream_key as stream_key


class Strict(BaseModel):
    """A frozen model that knows what was meant by a key that it does not have."""

    # Neither infinity nor NaN can be written as JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, content: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(content)
        except ValidationError as error:
            found = [_named(item, cls.model_fields) for item in error.errors()]
            raise ValidationError.from_exception_data(cls.__name__, found) from None


def _named(item: ErrorDetails, allowed: Iterable[str]) -> InitErrorDetails:
    """A complaint as it is, or, of a key that is not allowed, one that says which keys are."""
    if item["type"] != "extra_forbidden" or len(item["loc"]) > 1:
        return _again(item)
    key = str(item["loc"][0])
    near = difflib.get_close_matches(key, allowed, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return {"type": PydanticCustomError("unknown_key", "unknown key{hint} (allowed: {allowed})",
                                        {"key": key, "hint": hint, "allowed": ", ".join(allowed)}),
            "loc": (), "input": item["input"]}


def _again(item: ErrorDetails) -> InitErrorDetails:
    """A complaint that was raised once, to be raised again among others."""
    kind, context = item["type"], item.get("ctx", {})
    ours = kind in ("unknown_key", "truth_value")
    return {"type": PydanticCustomError(kind, item["msg"], context) if ours else kind,
            "loc": item["loc"], "input": item["input"], "ctx": context}


class Distribution(Strict):
    """Base of all distributions."""

    def sample(self, streams: Streams, name: str) -> Any:
        """Draw one value from the stream `name`."""
        raise NotImplementedError

    def support(self) -> tuple[float, float]:
        """Smallest and largest value that can be drawn."""
        raise NotImplementedError


class _Interval(Distribution):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"low {self.low:g} must be at most high {self.high:g}, both finite")
        return self

    def support(self) -> tuple[float, float]:
        return self.low, self.high


class Uniform(_Interval):
    """Every value from `low` to `high` alike."""

    dist: Literal["uniform"] = "uniform"

    def sample(self, streams: Streams, name: str) -> float:
        return self.low + (self.high - self.low) * streams.uniform(name)


class LogUniform(_Interval):
    """The logarithm is uniform between those of `low` and `high`; both are positive."""

    dist: Literal["log_uniform"] = "log_uniform"

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.low <= 0:
            raise ValueError(f"low {self.low:g} must be above 0 for a log-uniform distribution")
        return self

    def sample(self, streams: Streams, name: str) -> float:
        low, high = math.log(self.low), math.log(self.high)
        drawn = math.exp(low + (high - low) * streams.uniform(name))
        return min(max(drawn, self.low), self.high)


class Normal(Distribution):
    """Normal distribution, cut off at `low` and `high` (four deviations from the mean where not given)."""

    dist: Literal["normal"] = "normal"
    mean: float
    sd: Annotated[float, Field(ge=0)]
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        low, high = self.support()
        if low > high or high < self.mean - 4 * self.sd or low > self.mean + 4 * self.sd:
            raise ValueError(f"low {low:g} to high {high:g} holds next to nothing of a normal {self.mean:g} ± "
                             f"{self.sd:g}")
        return self

    def support(self) -> tuple[float, float]:
        low = self.mean - 4 * self.sd if self.low is None else self.low
        high = self.mean + 4 * self.sd if self.high is None else self.high
        return low, high

    def sample(self, streams: Streams, name: str) -> float:
        low, high = self.support()
        if self.sd == 0 or low == high:
            return min(max(self.mean, low), high)
        law = NormalDist(self.mean, self.sd)
        first, last = law.cdf(low), law.cdf(high)
        return min(max(law.inv_cdf(first + (last - first) * streams.uniform(name)), low), high)


class Choice(Distribution):
    """One of `values`, with equal chances or with `weights`."""

    dist: Literal["choice"] = "choice"
    values: Annotated[tuple[Any, ...], Field(min_length=1)]
    weights: tuple[float, ...] | None = None

    @field_validator("values")
    @classmethod
    def _hashable(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return _usable(values)

    @model_validator(mode="after")
    def _weighted(self) -> Self:
        if self.weights is not None:
            if len(self.weights) != len(self.values):
                raise ValueError(f"{len(self.weights)} weights for {len(self.values)} values; give one for each")
            if min(self.weights) < 0 or not 0 < sum(self.weights) < math.inf:
                raise ValueError("weights must not be negative, not all zero, and have a finite sum")
        return self

    def support(self) -> tuple[float, float]:
        return _span(self.values)

    def sample(self, streams: Streams, name: str) -> Any:
        weights = self.weights or (1.0,) * len(self.values)
        left = streams.uniform(name) * sum(weights)
        for value, weight in zip(self.values, weights, strict=True):
            left -= weight
            if left < 0:
                return value
        return next(value for value, weight in zip(self.values[::-1], weights[::-1], strict=True) if weight > 0)


class Deal(Distribution):
    """`values` dealt like cards: each once in a round, in an order that the seed shuffles anew each round.

    For the level of fields only: a few fields then show as many of the values as they can.
    """

    dist: Literal["deal"] = "deal"
    values: Annotated[tuple[Any, ...], Field(min_length=1)]

    @field_validator("values")
    @classmethod
    def _hashable(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return _usable(values)

    def support(self) -> tuple[float, float]:
        return _span(self.values)

    def sample(self, streams: Streams, name: str) -> Any:
        turn, card = divmod(streams.turn, len(self.values))
        order = generator(streams.seed, turn, f"deal {name}").permutation(len(self.values))
        return self.values[int(order[card])]


def _usable(values: Any) -> tuple[Any, ...]:
    """Values that can be drawn, hashable; ValueError where one is a truth value or not finite."""
    for value in values:
        if isinstance(value, bool):
            raise ValueError(f"{str(value).lower()} is not a number or a word; quote it if it is a name")
        if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
            raise ValueError(f"{value} is not a finite number")
    return tuple(_usable(v) if isinstance(v, list | tuple) else v for v in values)


def _span(values: tuple[Any, ...]) -> tuple[float, float]:
    wrong = [v for v in values if not isinstance(v, int | float)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is not a number; all values of this distribution must be")
    return float(min(values)), float(max(values))


AnyDistribution = Annotated[Uniform | LogUniform | Normal | Choice | Deal, Field(discriminator="dist")]
AnyChoice = Annotated[Choice | Deal, Field(discriminator="dist")]

# What a recipe may hold where one number (its range refuses NaN), whole number, word or list of numbers is meant.
Quantity = Annotated[float, Field(allow_inf_nan=True)] | AnyDistribution
Count = int | AnyChoice
Word = str | AnyChoice
Vector = tuple[float, ...] | AnyChoice


def optional_tag(schema: dict[str, Any]) -> None:
    """Make the schema of a union's tag say that it may be left out."""
    schema["enum"] = [schema.pop("const")]


def quantity(default: Any = ..., *, unit: str, low: float, high: float, about: str) -> Any:
    """Declare a physical number of a recipe: its unit and range are in the schema and in every message.

    Parameters
    ----------
    default : float or Distribution, optional
        Value where the recipe gives none; required where not given.
    unit : str
        Unit in the field's notation (``"mrad"``, ``"Å"``, ``"px"``; ``"1"`` for a pure number).
    low, high : float
        Smallest and largest allowed value; a distribution must lie within them.
    about : str
        One line for the schema.

    Returns
    -------
    pydantic field information
    """
    return Field(default, description=f"{about} [{unit}], {low:g} to {high:g}",
                 json_schema_extra={"unit": unit, "low": low, "high": high})


def number(drawn: Quantity) -> float:
    """The plain number of a drawn recipe; TypeError where it is still a distribution."""
    if isinstance(drawn, Distribution):
        raise TypeError(f"{drawn!r} has not been drawn: call .draw(index) on the recipe first")
    return float(drawn)


class Drawable(Strict):
    """A part of a recipe: frozen, strict about unknown keys, with a unit and a range on every number."""

    # Whether drawn values are validated once more, because they can be wrong in ways that their distribution is not.
    validate_drawn: ClassVar[bool] = True

    # Of the whole model, because a union cannot be discriminated by a field that has a validator before it.
    @model_validator(mode="wrap")
    @classmethod
    def _no_truth_values(cls, content: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        found: list[InitErrorDetails] = [
            {"type": PydanticCustomError("truth_value", "{shown} is not a number or a word; quote it if it is a name",
                                         {"shown": str(value).lower()}), "loc": (name,), "input": value}
            for name, value in (content.items() if isinstance(content, dict) else ())
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool]
        try:
            made = validate(content)
        except ValidationError as error:
            said = {item["loc"] for item in found}
            found += [_again(item) for item in error.errors() if item["loc"][:1] not in said]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return made

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        declared = cls.model_fields[info.field_name or ""]
        if isinstance(value, Choice | Deal):
            words = [w for part in get_args(declared.annotation) if get_origin(part) is Literal for w in get_args(part)]
            wrong = [v for v in value.values if v not in words] if words else []
            if wrong:
                raise ValueError(f"{wrong[0]!r} is not one of {', '.join(words)}")
        extra = declared.json_schema_extra
        if not isinstance(extra, dict) or "low" not in extra:
            return value
        low, high, unit = float(cast(float, extra["low"])), float(cast(float, extra["high"])), extra["unit"]
        for plain in extremes(value):
            if not low <= plain <= high:
                shown = f"{plain:g}" if unit == "1" else f"{plain:g} {unit}"
                limit = f"{low:g} to {high:g}" if unit == "1" else f"{low:g} to {high:g} {unit}"
                raise ValueError(f"{shown} is outside {limit}")
        return value

    def draw(self, streams: Streams, path: str = "") -> Self:
        """Collapse every distribution to a plain value.

        Parameters
        ----------
        streams : Streams
            The random streams of one field or sample.
        path : str
            Where this part stands in the recipe; each value has its own stream, named by its path.

        Returns
        -------
        Drawable
            The same type, holding plain values only.
        """
        drawn = self.drawn_values(streams, path)
        if self.validate_drawn:
            plain = {name: getattr(self, name) for name in type(self).model_fields}
            return type(self).model_validate(plain | drawn)
        return self.plain(drawn) if drawn else self

    def plain(self, values: Mapping[str, Any]) -> Self:
        """A copy with plain `values` for all that varies; `model_copy` in a fraction of its time."""
        copied = object.__new__(type(self))
        # Nothing varies any more: not to be worked out again.
        object.__setattr__(copied, "__dict__", {**self.__dict__, **values, "varying": (), "_planned": None})
        object.__setattr__(copied, "__pydantic_fields_set__", self.__pydantic_fields_set__ | values.keys())
        object.__setattr__(copied, "__pydantic_extra__", None)
        object.__setattr__(copied, "__pydantic_private__", None)
        return copied

    def drawn_values(self, streams: Streams, path: str) -> dict[str, Any]:
        """Plain values of the fields that vary; see `draw`."""
        planned = self.__dict__.get("_planned")
        if planned is None or planned[0] != path:  # once for thousands of samples
            start = f"{path}." if path else ""
            planned = path, [(name, getattr(self, name), start + name) for name in self.varying]
            self.__dict__["_planned"] = planned
        return {name: value.sample(streams, at) if isinstance(value, Distribution) else _collapse(value, streams, at)
                for name, value, at in planned[1]}

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """Names of the fields that hold a distribution, themselves or in a part."""
        return tuple(name for name in type(self).model_fields
                     if next(_walk(getattr(self, name)), None) is not None)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; what varies is worked out anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("varying", "_planned"):
            copied.__dict__.pop(name, None)
        return copied

    def distributions(self) -> Iterator[Distribution]:
        """Every distribution that this part still holds."""
        for name in self.varying:
            yield from _walk(getattr(self, name))


def extremes(value: Any) -> tuple[float, ...]:
    """Numbers whose smallest and largest bound what can be drawn: the ends of a distribution, or the number itself."""
    if isinstance(value, str):
        return ()
    if isinstance(value, Distribution):
        return value.support()
    if isinstance(value, tuple):
        return tuple(float(v) for v in value)
    return () if value is None else (float(value),)


def _collapse(value: Any, streams: Streams, path: str) -> Any:
    if isinstance(value, Distribution):
        return value.sample(streams, path)
    if isinstance(value, Drawable):
        return value.draw(streams, path)
    if isinstance(value, tuple):
        return tuple(_collapse(v, streams, f"{path}.{_label(v, n)}") for n, v in enumerate(value))
    return value


def _label(value: Any, position: int) -> str:
    # Parts of a list are named by their kind, so that removing one leaves the draws of the others alone.
    return str(getattr(value, "stage", position))


def _walk(value: Any) -> Iterator[Distribution]:
    if isinstance(value, Distribution):
        yield value
    elif isinstance(value, Drawable):
        yield from value.distributions()
    elif isinstance(value, tuple):
        for part in value:
            yield from _walk(part)
