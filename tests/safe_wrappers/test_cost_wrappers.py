"""Costs from functions and from other keys, the penalty, termination, and the two step dialects."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from wrapper_toys import Corridor, Scripted, forward, play

from safe_wrappers import (
    CostFromFunction,
    CostFromInfo,
    CostPenalty,
    FromSixTuple,
    MissingCostError,
    TerminateOnViolation,
    ToSixTuple,
)
from safe_wrappers.info import COST, UNPENALISED_REWARD, VIOLATION


def infos_of(env, actions):
    return [step[-1] for step in play(env, actions)]


def distance_cost(obs, action, next_obs, info):
    return float(next_obs[0] - obs[0]) * 10 + float(next_obs[0])


def test_function_sees_the_observation_before_the_step_although_the_environment_reuses_its_array():
    env = CostFromFunction(Corridor(with_cost=False, shared_array=True), distance_cost)
    infos = infos_of(env, forward(3))
    assert [info[COST] for info in infos] == [11.0, 12.0, 13.0]
    assert all(info[VIOLATION] is True for info in infos)


def test_the_flag_is_that_of_the_cost_or_of_the_function():
    def beyond_one(obs, action, next_obs, info):
        return np.bool_(next_obs[0] > 1)

    env = CostFromFunction(Corridor(with_cost=False), distance_cost, beyond_one)
    assert [info[VIOLATION] for info in infos_of(env, forward(2))] == [False, True]
    with pytest.warns(UserWarning, match=r"0.0 by 11.0, and info\['constraint_violation'\] by cost > 0"):
        infos = infos_of(CostFromFunction(Corridor(), distance_cost), forward(6))
    assert [info[VIOLATION] for info in infos] == [True] * 6
    with pytest.warns(UserWarning, match="0.0 by 11.0; leave"):
        graded = CostFromFunction(Corridor(), distance_cost, lambda *transition: transition[-1][VIOLATION])
        assert [info[VIOLATION] for info in infos_of(graded, forward(6))] == [False] * 5 + [True]


def test_a_flag_that_comes_without_a_cost_stays():
    class FlagOnly(gym.Wrapper):
        def step(self, action):
            *step, info = self.env.step(action)
            return *step, {VIOLATION: info[VIOLATION]}

    infos = infos_of(CostFromFunction(FlagOnly(Corridor()), lambda *_: 1.0), forward(6))
    assert [info[VIOLATION] for info in infos] == [False] * 5 + [True]


def test_cost_of_one_term_has_the_flag_of_that_term():
    class TwoTerms(gym.Wrapper):
        def step(self, action):
            *step, info = self.env.step(action)
            return *step, {**info, "cost_a": 0.0, COST: 1.0, VIOLATION: True}

    with pytest.warns(UserWarning, match="CostFromInfo replaces"):
        info = infos_of(CostFromInfo(TwoTerms(Corridor()), "cost_a"), forward(1))[0]
    assert info[COST] == 0.0 and info[VIOLATION] is False


def test_functions_may_ask_for_the_outcome_and_return_terms():
    seen = []

    class Cost:
        def __call__(self, obs, action, next_obs, info, reward, *, terminated):
            seen.append((reward, terminated))
            return {"end": float(terminated), "speed": 0.25}

    def flag(obs, action, next_obs, info, truncated=None, terminated=None):
        return (truncated, terminated) == (False, True)

    env = CostFromFunction(Scripted([{}, {}]), Cost(), flag)
    infos = infos_of(gym.make(env.spec) if env.spec else env, [0, 1])
    assert seen == [(1.0, False), (1.0, True)]
    assert infos[1] == {"cost_end": 1.0, "cost_speed": 0.25, COST: 1.25, VIOLATION: True}
    assert infos[0][COST] == 0.25 and infos[0][VIOLATION] is False
    with pytest.raises(ValueError, match=r"info\['bad'\] must be finite"):
        infos_of(CostFromFunction(Scripted([{}]), lambda *_: {"bad": -1.0}), [0])


def test_asking_for_the_outcome_survives_the_specification():
    def fall(obs, action, next_obs, info, terminated):
        return float(terminated)

    env = gym.make(CostFromFunction(gym.make("CartPole-v1"), fall).spec)
    env.reset(seed=0)
    costs, terminated = [], False
    while not terminated:
        _, _, terminated, _, info = env.step(1)
        costs.append(info[COST])
    assert costs == [0.0] * (len(costs) - 1) + [1.0]


def test_terms_from_several_keys():
    env = CostFromInfo(Scripted([{"hits": True, "deep": {"speed": 0.5}}]), {"hit": "hits", "speed": ("deep", "speed")})
    info = infos_of(env, [0])[0]
    assert (info["cost_hit"], info["cost_speed"], info[COST], info[VIOLATION]) == (1.0, 0.5, 1.5, True)
    with pytest.raises(MissingCostError, match="'hits'"):
        infos_of(CostFromInfo(Scripted([{}]), {"hit": "hits"}), [0])
    with pytest.raises(ValueError, match="dictionary of these"):
        CostFromInfo(Scripted([{}]), {"hit": ""})


def test_overwriting_warns_once_and_only_where_the_cost_differs():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        infos_of(CostFromFunction(Corridor(), lambda *_: 0.0), forward(5))
        assert not caught
        infos_of(CostFromFunction(Corridor(), lambda *_: 1.0), forward(5))
    assert len(caught) == 1


@pytest.mark.parametrize("cost", [-0.1, float("nan"), "much"])
def test_function_with_a_bad_cost(cost):
    with pytest.raises(ValueError, match="cost"):
        infos_of(CostFromFunction(Corridor(), lambda *_: cost), forward(1))


def test_function_arguments_and_order():
    with pytest.raises(TypeError, match="cost_fn"):
        CostFromFunction(Corridor(), 1.0)
    with pytest.raises(TypeError, match="violation_fn"):
        CostFromFunction(Corridor(), distance_cost, True)
    with pytest.raises(gym.error.ResetNeeded):
        CostFromFunction(Corridor(), distance_cost).step(forward(1)[0])


@pytest.mark.parametrize(
    "key, info, cost",
    [
        ("constraint", {"constraint": True}, 1.0),
        ("constraint", {"constraint": np.bool_(False)}, 0.0),
        (("constraint", "state"), {"constraint": {"state": np.float32(0.5)}}, 0.5),
        (VIOLATION, {VIOLATION: True}, 1.0),
    ],
)
def test_other_dialects_of_info(key, info, cost):
    found = infos_of(CostFromInfo(Scripted([info]), key), [0])[0]
    assert found[COST] == cost and type(found[COST]) is float and found[VIOLATION] is (cost > 0)


@pytest.mark.parametrize("info", [{}, {"constraint": 1.0}, {"constraint": {}}])
def test_missing_key(info):
    key = ("constraint", "state")
    with pytest.raises(MissingCostError, match=r"no \('constraint', 'state'\).*missing_cost='zero'"):
        infos_of(CostFromInfo(Scripted([info]), key), [0])
    assert infos_of(CostFromInfo(Scripted([info]), key, missing_cost="zero"), [0])[0][COST] == 0.0


def test_empty_key():
    with pytest.raises(ValueError, match="key"):
        CostFromInfo(Corridor(), ())


def test_penalty_keeps_cost_and_the_environments_reward():
    env = CostPenalty(CostPenalty(Scripted([{"cost": 0.0}, {"cost": 2.0}]), penalty=10.0), penalty=1.0)
    steps = play(env, [0, 0])
    assert [step[1] for step in steps] == [1.0, -21.0]
    assert [step[-1][UNPENALISED_REWARD] for step in steps] == [1.0, 1.0]
    assert [step[-1][COST] for step in steps] == [0.0, 2.0]


@pytest.mark.parametrize("penalty", [-1.0, float("nan"), float("inf")])
def test_penalty_out_of_range(penalty):
    with pytest.raises(ValueError, match="penalty must be finite and >= 0"):
        CostPenalty(Corridor(), penalty)


def test_termination_at_the_violation():
    terminated = [step[2] for step in play(TerminateOnViolation(Corridor()), forward(6))]
    assert terminated == [False] * 5 + [True]
    assert [step[2] for step in play(TerminateOnViolation(Scripted([{"cost": 0.1}, {}])), [0])] == [True]


@pytest.mark.parametrize("wrapper", [lambda e: CostPenalty(e, 1.0), TerminateOnViolation, ToSixTuple])
def test_users_of_cost_ask_for_it(wrapper):
    with pytest.raises(MissingCostError, match="CostFromInfo"):
        play(wrapper(Corridor(with_cost=False)), forward(1))


def test_six_tuple_round_trip_is_the_identity():
    direct, there_and_back = Corridor(), FromSixTuple(ToSixTuple(Corridor()))
    for one, other in zip(play(direct, forward(7)), play(there_and_back, forward(7)), strict=True):
        assert np.array_equal(one[0], other[0]) and one[1:] == other[1:]
    assert [step[2] for step in play(ToSixTuple(Corridor()), forward(6))] == [0.0] * 5 + [1.0]


class Foreign:
    """No gymnasium.Env, but steps with six values; its info names another cost."""

    def __init__(self):
        self.env = Corridor()
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self, seed=None, options=None):
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, np.float64(0.25), terminated, truncated, info


def test_any_object_with_six_values_becomes_an_environment():
    env = FromSixTuple(Foreign())
    with pytest.warns(UserWarning, match="FromSixTuple replaces"):
        infos = infos_of(env, forward(6))
    assert [info[COST] for info in infos] == [0.25] * 6
    assert [info[VIOLATION] for info in infos] == [False] * 5 + [True]
    env.close()


def test_wrong_dialect():
    with pytest.raises(ValueError, match="got 5; leave FromSixTuple out"):
        infos_of(FromSixTuple(Corridor()), forward(1))
    with pytest.raises(TypeError, match="which has no 'step'"):
        FromSixTuple(object())
