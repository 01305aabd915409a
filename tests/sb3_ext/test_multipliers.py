"""Multipliers and limits: steps computed by hand."""

import copy
import math

import numpy as np
import pytest

from sb3_ext import GradientMultiplier, Multiplier, PIDMultiplier, ScheduleMultiplier, discounted_limit
from sb3_ext.common.multipliers import make_multiplier


def after(price, *excesses):
    for excess in excesses:
        price.update(excess)
    return price.value


def test_fixed_multiplier_does_not_move():
    assert after(Multiplier(3.0), 10.0, -10.0) == 3.0


@pytest.mark.parametrize(
    ("kwargs", "excesses", "expected"),
    [
        ({"space": "linear", "optimizer": "sgd", "learning_rate": 0.5}, (0.2, 0.4), 1.3),
        ({"space": "linear", "optimizer": "sgd", "learning_rate": 0.5}, (-4.0,), 0.0),
        ({"space": "linear", "optimizer": "sgd", "learning_rate": 0.5}, (-4.0, 1.0), 0.5),  # no debt is remembered
        ({"space": "log", "optimizer": "sgd", "learning_rate": 0.5}, (0.2,), math.exp(0.1)),
        # The slope of the second step is the multiplier that the first one led to.
        ({"space": "log", "optimizer": "sgd", "learning_rate": 0.5}, (0.2, 0.2), math.exp(0.1 + 0.1 * math.exp(0.1))),
        # Adam's first steps have the length of the learning rate, whatever the excess is.
        ({"space": "linear", "optimizer": "adam", "learning_rate": 0.1}, (1e-3, 1e-3), 1.2),
        ({"space": "log", "optimizer": "adam", "learning_rate": 0.1}, (-7.0,), math.exp(-0.1)),
    ],
)
def test_gradient_steps(kwargs, excesses, expected):
    assert np.isclose(after(GradientMultiplier(1.0, **kwargs), *excesses), expected, atol=1e-4)


def test_log_space_never_reaches_zero():
    price = GradientMultiplier(1.0, learning_rate=1.0, optimizer="sgd")
    assert 0.0 < after(price, *[-1.0] * 50) < 0.1


@pytest.mark.parametrize("space", ["log", "linear"])
def test_a_limit_that_cannot_be_met_leads_to_the_bound_and_back(space):
    price = GradientMultiplier(1.0, learning_rate=100.0, space=space, optimizer="sgd", max_value=50.0)
    assert np.isclose(after(price, *[1.0] * 50), 50.0)
    assert after(price, -1e-4) < 50.0
    assert GradientMultiplier().value == 1.0 and after(GradientMultiplier(learning_rate=1.0), *[1.0] * 2000) < 1.1e6


def test_pid_steps():
    price = PIDMultiplier(1.0, kp=2.0, ki=0.5, kd=10.0, smoothing=0.5)
    # average 0.2, integral 1.2, increase 0.2
    assert np.isclose(after(price, 0.4), 2 * 0.2 + 1.2 + 10 * 0.2)
    # average 0.1, integral 1.2: falling excess has no derivative term
    assert np.isclose(after(price, 0.0), 2 * 0.1 + 1.2)
    # average -1.95, integral projected at 0: the output is, too
    assert after(price, -4.0) == 0.0
    # average -0.875, increase 1.075, integral 0.1
    assert np.isclose(after(price, 0.2), max(0.0, 2 * -0.875 + 0.1 + 10 * 1.075))


def test_schedule_follows_the_training():
    price = ScheduleMultiplier(10.0, 4.0)
    values = []
    for progress in (0.0, 0.5, 1.0, 1.7):
        price.set_progress(progress)
        values.append(after(price, 100.0))
    assert values == [10.0, 7.0, 4.0, 4.0]


def test_schedule_over_a_number_of_updates():
    price = ScheduleMultiplier(0.0, 8.0, duration=4)
    price.set_progress(0.9)
    assert [after(price, 1.0) for _ in range(6)] == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradientMultiplier(0.5, learning_rate=0.1),
        lambda: GradientMultiplier(0.5, learning_rate=0.1, space="linear"),
        PIDMultiplier,
        lambda: ScheduleMultiplier(1.0, 0.0, duration=10),
    ],
)
def test_state_comes_back(make):
    price, again = make(), make()
    after(price, 0.3, -0.1, 0.5)
    again.load_state_dict(price.state_dict())
    if hasattr(price, "optimizer"):
        again.optimizer.load_state_dict(copy.deepcopy(price.optimizer.state_dict()))
    assert again.value == price.value
    assert after(again, 0.2, 0.1) == after(price, 0.2, 0.1)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("fixed", {"value": -1.0}, "finite and >= 0, got -1"),
        ("fixed", {"value": float("nan")}, "finite and >= 0, got nan"),
        ("gradient", {"space": "cubic"}, "space must be 'log' or 'linear'"),
        ("gradient", {"optimizer": "lion"}, "optimizer 'adam' or 'sgd'"),
        ("gradient", {"value": 0.0}, "use space='linear'"),
        ("gradient", {"value": 3.0, "max_value": 2.0}, r"min_value=0.0 >= 0 and max_value=2.0, got 3"),
        ("gradient", {"value": 0.1, "min_value": 0.5}, r"min_value=0.5 >= 0"),
        ("pid", {"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
        ("schedule", {"start": 1.0, "end": -1.0}, "end must be finite and >= 0"),
        ("schedule", {"start": 1.0, "duration": 0}, "duration must be >= 1"),
        ("schedule", {}, "do not fit multiplier='schedule'"),
        ("gradient", {"speed": 1}, "do not fit multiplier='gradient'.*speed"),
        ("cubic", {}, "multiplier must be one of .*'pid'"),
    ],
)
def test_bad_arguments(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_multiplier(name, kwargs)


# ---------------------------------------------------------------------- limits


def test_discounted_limit_is_what_an_evenly_spent_cost_adds_up_to():
    for limit, gamma, length in ((25.0, 0.99, 1000), (3.0, 0.5, 4), (3.0, 0.0, 4)):
        even = sum(limit / length * gamma**t for t in range(length))
        assert np.isclose(discounted_limit(limit, gamma, length), even)
    assert discounted_limit(3.0, 1.0, 7) == 3.0


@pytest.mark.parametrize(("limit", "length", "message"), [(-1, 10, "cost_limit"), (1, 0, "episode_length")])
def test_bad_limits(limit, length, message):
    with pytest.raises(ValueError, match=message):
        discounted_limit(limit, 0.9, length)
