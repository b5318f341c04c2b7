"""Distributions stay within their support, survive JSON, and depend on nothing but seed, index and name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from emsynth.draw import (
    AnyDistribution,
    Choice,
    Deal,
    Drawable,
    LogUniform,
    Normal,
    Quantity,
    Streams,
    Uniform,
    generator,
    number,
    quantity,
    stream_key,
)

finite = st.floats(-1e6, 1e6)
positive = st.floats(1e-6, 1e6)
intervals = st.tuples(finite, finite).map(sorted)
distributions = st.one_of(
    intervals.map(lambda p: Uniform(low=p[0], high=p[1])),
    st.tuples(positive, positive).map(sorted).map(lambda p: LogUniform(low=p[0], high=p[1])),
    st.tuples(finite, positive).map(lambda p: Normal(mean=p[0], sd=p[1])),
    st.lists(finite, min_size=1, max_size=5).map(lambda v: Choice(values=tuple(v))),
    st.lists(finite, min_size=1, max_size=5).map(lambda v: Deal(values=tuple(v))),
)


class Probe(Drawable):
    angle: Quantity = quantity(Uniform(low=1, high=2), unit="mrad", low=0, high=10, about="an angle")
    focus: Quantity = quantity(Uniform(low=-1, high=1), unit="Å", low=-5, high=5, about="a focus")


@given(distributions, st.integers(0, 2**40), st.integers(0, 2**40))
def test_draws_lie_within_the_support(distribution, seed, index):
    low, high = distribution.support()
    assert low <= distribution.sample(Streams(seed, index), "x") <= high


@given(distributions)
def test_distributions_survive_json(distribution):
    adapter = TypeAdapter(AnyDistribution)
    assert adapter.validate_json(adapter.dump_json(distribution)) == distribution


def test_streams_differ_by_seed_index_and_name():
    keys = {stream_key(seed, index, name) for seed in (0, 1) for index in (0, 1) for name in ("a", "b")}
    assert len(keys) == 8


def test_log_uniform_spends_as_much_on_each_decade():
    """Binomial(30000, 1/3) has a deviation of 82: five of them."""
    drawn = np.array([LogUniform(low=1, high=1000).sample(Streams(5, i), "x") for i in range(3000)])
    counts = np.histogram(np.log10(drawn), bins=[0, 1, 2, 3])[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(3000 * (1 / 3) * (2 / 3))


def test_deal_hands_out_each_value_once_a_round():
    deal = Deal(values=tuple("abcdef"))
    dealt = [deal.sample(Streams(3, 0, turn), "x") for turn in range(18)]
    rounds = [dealt[n:n + 6] for n in (0, 6, 12)]
    assert all(sorted(r) == list("abcdef") for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1


def test_a_drawn_value_does_not_depend_on_its_neighbours():
    """Replacing one distribution by a number leaves the draw of the other as it was."""
    both = Probe().draw(Streams(1, 2), "p")
    one = Probe(focus=0.5).draw(Streams(1, 2), "p")
    assert one.angle == both.angle
    assert one.focus == 0.5


def test_drawing_twice_changes_nothing():
    drawn = Probe().draw(Streams(1, 2), "p")
    assert drawn.draw(Streams(9, 9), "q") == drawn
    assert not list(drawn.distributions())


@pytest.mark.parametrize(("value", "said"), [
    (11, r"11 mrad is outside 0 to 10 mrad"),
    ({"dist": "uniform", "low": -1, "high": 2}, r"-1 mrad is outside 0 to 10 mrad"),
    ({"dist": "uniform", "low": 3, "high": 2}, r"low 3 must be at most high 2"),
    ({"dist": "log_uniform", "low": 0, "high": 2}, r"low 0 must be above 0"),
    ({"dist": "choice", "values": [1, 2], "weights": [1]}, r"1 weights for 2 values"),
    (float("nan"), r"nan mrad is outside"),
    (True, r"true is not a number"),
    (float("inf"), r"inf mrad is outside"),
    ({"dist": "choice", "values": [1, True]}, r"true is not a number"),
    ({"dist": "deal", "values": [1, float("nan")]}, r"nan is not a finite number"),
    ({"dist": "choice", "values": [1, 10**400]}, r"is not a finite number"),
    ({"dist": "normal", "mean": 1, "sd": float("inf")}, r"finite number"),
    ({"dist": "uniform", "low": float("nan"), "high": 2}, r"finite number"),
    ({"dist": "choice", "values": [1, 2], "weights": [1, float("nan")]}, r"finite number"),
    ({"dist": "choice", "values": [1, 2], "weights": [1e308, 1e308]}, r"finite sum"),
])
def test_a_bad_number_is_refused_with_its_unit_and_range(value, said):
    with pytest.raises(ValidationError, match=said):
        Probe(angle=value)


def test_an_unknown_key_is_refused_with_what_was_meant():
    with pytest.raises(ValidationError, match=r"did you mean 'angle'"):
        Probe.model_validate({"angel": 1})


def test_an_undrawn_number_cannot_be_computed_with():
    with pytest.raises(TypeError, match=r"has not been drawn"):
        number(Uniform(low=0, high=1))


def test_generators_are_reproducible():
    assert generator(1, 2, "x").random() == generator(1, 2, "x").random()
