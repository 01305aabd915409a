"""The safety layer: its closed form against brute force, what it writes, what it refuses."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction
from hypothesis import given
from hypothesis import strategies as st

from safe_wrappers import SafetyLayer, correct_actions
from safe_wrappers.info import EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION

GRID = np.stack(np.meshgrid(np.linspace(-6, 6, 241), np.linspace(-6, 6, 241)), axis=-1).reshape(-1, 2)
numbers = st.floats(-1.0, 1.0)


@given(st.tuples(numbers, numbers), numbers, st.floats(0.3, 1.5), st.floats(0.0, 6.28), numbers)
def test_one_limit_is_met_with_the_smallest_change(action, offset, length, angle, limit):
    action, slope = np.array(action), length * np.array([np.cos(angle), np.sin(angle)])
    corrected = correct_actions(action[None], [[offset]], slope[None, None], [limit])[0]
    assert offset + slope @ corrected <= limit + 1e-9
    feasible = GRID[offset + GRID @ slope <= limit]
    if len(feasible):
        assert np.linalg.norm(corrected - action) <= np.linalg.norm(feasible - action, axis=1).min() + 1e-9
    if offset + slope @ action <= limit:
        assert np.array_equal(corrected, action)


def test_of_several_limits_the_largest_multiplier_acts():
    slopes = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    # Multipliers by hand: (1 + 0 - 0.5) / 1 = 0.5 and (2 + 0.4 - 0) / 4 = 0.6: the second is met, the first is not.
    corrected = correct_actions([[1.0, 1.0]], [[0.0, 0.4]], slopes, [0.5, 0.0])
    assert np.allclose(corrected, [[1.0, -0.2]])


def test_a_cost_that_actions_do_not_change_leaves_them():
    assert np.array_equal(correct_actions([[1.0]], [[5.0]], [[[0.0]]], [0.1]), [[1.0]])


class Line(gym.Env):
    """x moves by the action; the cost is max(x, 0)."""

    observation_space = spaces.Box(-9.0, 9.0, (1,), np.float64)
    action_space = spaces.Box(-1.0, 2.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.zeros(1)
        return self.x, {}

    def step(self, action):
        self.x = self.x + action
        return self.x, 0.0, False, False, {"cost": max(float(self.x[0]), 0.0)}


def exact(obs):
    return obs, np.ones((len(obs), 1, 1))


def test_the_limit_holds_at_every_step_and_info_tells():
    env = SafetyLayer(Line(), exact, step_limit=0.5)
    env.reset(seed=0)
    for proposed, executed in ((0.4, 0.4), (2.0, 0.1), (-0.5, -0.5), (1.0, 0.5)):
        *_, info = env.step(np.array([proposed]))
        assert info["cost"] <= 0.5 + 1e-9 and info[INTERVENED] == (proposed != executed)
        assert np.isclose(info[PROPOSED_ACTION], proposed) and np.isclose(info[EXECUTED_ACTION], executed)


def test_the_units_of_the_action_do_not_matter():
    """The same line, moved by millionths of the action."""
    env = SafetyLayer(RescaleAction(Line(), -1e6, 2e6), lambda obs: (obs, np.full((1, 1, 1), 1e-6)), 0.5)
    env.reset(seed=0)
    *_, info = env.step(np.array([2e6]))
    assert np.isclose(info[EXECUTED_ACTION], 5e5) and np.isclose(info["cost"], 0.5)


@pytest.mark.parametrize("high", [0.0, np.inf])
def test_actions_without_a_range_are_not_scaled(high):
    line = Line()
    line.action_space = spaces.Box(0.0, high, (1,), np.float64)
    env = SafetyLayer(line, exact, step_limit=0.5)
    env.reset(seed=0)
    assert env.step(np.array([0.7]))[-1][EXECUTED_ACTION] == min(0.5, high)


def test_corrections_stay_within_the_bounds():
    env = SafetyLayer(Line(), lambda obs: (obs + 50.0, np.ones((1, 1, 1))), step_limit=0.0)
    env.reset(seed=0)
    assert env.step(np.array([2.0]))[-1][EXECUTED_ACTION] == -1.0


@pytest.mark.parametrize(
    ("costs", "limit", "message"),
    [
        (lambda obs: (obs * np.nan, np.ones((1, 1, 1))), 0.1, "costs must be finite"),
        (lambda obs: (obs, np.ones((1, 1))), 0.1, r"slopes \[1, K, 1\], got \(1, 1\) and \(1, 1\)"),
        (exact, [0.1, 0.2], "step_limit must be one number or 1"),
    ],
)
def test_bad_models_leave_the_environment_where_it_is(costs, limit, message):
    env = SafetyLayer(Line(), costs, limit)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(np.array([0.3]))
    assert env.unwrapped.x == 0.0


def test_bad_arguments():
    with pytest.raises(ValueError, match="step_limit must be"):
        SafetyLayer(Line(), exact, float("nan"))
    with pytest.raises(TypeError, match="costs must be a function"):
        SafetyLayer(Line(), None)
    with pytest.raises(ValueError, match="Box of actions"):
        SafetyLayer(gym.make("CartPole-v1"), exact)
    with pytest.raises(gym.error.ResetNeeded):
        SafetyLayer(Line(), exact).step(np.zeros(1))
