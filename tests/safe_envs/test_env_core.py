"""Geometry, and the step order of ``SafeEnv`` where no registered environment exercises it."""

import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import safe_envs
from safe_envs.core.env import Outcome
from safe_envs.core.geometry import Rectangle, Scene

SQUARE = Rectangle(0.0, 1.0, 0.0, 1.0)
coordinate = st.floats(-3.0, 3.0)


class TwoTerms(safe_envs.SafeEnv):
    """A one-dimensional world with two cost terms, whose physics breaks for actions above 0.9."""

    cost_names = ("heat", "noise")
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def _reset_state(self, options):
        self.position, self.calls = 0.0, []

    def _simulate(self, action):
        if action[0] > 0.9:
            raise safe_envs.SimulationError("too fast")
        self.calls.append("simulate")
        self.position += action[0]

    def _cost_terms(self):
        self.calls.append("cost")
        return {"heat": max(0.0, self.position), "noise": 1.0 if self.position > 0 else 0.0}

    def _outcome(self, violation):
        self.calls.append("outcome")
        return Outcome(1.0, violation, not violation)

    def _observation(self):
        return np.array([self.position], dtype=np.float32)

    def _create_renderer(self):
        raise AssertionError

    _draw = _create_renderer


class AnyTerm(TwoTerms):
    cost_aggregate = "any"


def test_step_order_and_the_sum_of_terms():
    env = TwoTerms()
    env.reset()
    _, reward, terminated, truncated, info = env.step([0.5])
    assert env.calls == ["simulate", "cost", "outcome"]
    assert info == {
        "cost": 1.5, "cost_heat": 0.5, "cost_noise": 1.0, "constraint_violation": True, "is_success": False,
    }  # fmt: skip
    assert (reward, terminated, truncated) == (1.0, True, False)


def test_any_aggregate_is_at_most_one():
    env = AnyTerm()
    env.reset()
    assert env.step([0.5])[4]["cost"] == 1.0 and env.step([-0.8])[4]["cost"] == 0.0
    AnyTerm.cost_aggregate = "max"
    try:
        with pytest.raises(ValueError, match="cost_aggregate"):
            AnyTerm()
    finally:
        AnyTerm.cost_aggregate = "any"


def test_unstable_physics_truncates_and_says_so():
    env = TwoTerms()
    env.reset()
    observation, reward, terminated, truncated, info = env.step([1.0])
    assert (observation.tolist(), reward, terminated, truncated) == ([0.0], 0.0, False, True)
    assert info["simulation_error"] == "too fast" and info["cost"] == 0.0 and info["cost_heat"] == 0.0


@given(st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=20))
def test_scene_is_the_union_of_its_rectangles(points):
    other = Rectangle(-2.0, -1.0, -3.0, 3.0)
    scene = Scene(Rectangle(-3, 3, -3, 3), (SQUARE, other), (2, 2), (2, -2), 0.5)
    points = np.array(points)
    expected = SQUARE.contains(points) | other.contains(points)
    assert np.array_equal(scene.inside_obstacle(points), expected)
    assert not Scene(scene.extent, (), scene.start, scene.goal, 0.5).inside_obstacle(points).any()


def test_rectangles_are_closed():
    assert SQUARE.contains([(0, 0), (1, 1), (0.5, 1), (1.0000001, 0.5), (0.5, -1e-9)]).tolist() == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("bounds", [(1, 0, 0, 1), (0, 1, 2, 2), (0, np.inf, 0, 1), (np.nan, 1, 0, 1)])
def test_bad_rectangles_raise(bounds):
    with pytest.raises(ValueError, match=r"rectangle|x_min"):
        Rectangle(*bounds)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"start": (9, 9)}, "start"), ({"goal": (0, 9)}, "goal"), ({"goal_radius": 0}, "goal_radius")],
)
def test_bad_scenes_raise(change, message):
    arguments = {"extent": SQUARE, "obstacles": (), "start": (0, 0), "goal": (1, 1), "goal_radius": 0.1}
    with pytest.raises(ValueError, match=message):
        Scene(**{**arguments, **change})


def test_points_need_two_columns():
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        SQUARE.contains([1.0, 2.0])


def test_import_is_light():
    """What makes an import slow is what it loads; benchmarks/speed.py measures the seconds."""
    heavy = ("torch", "stable_baselines3", "mujoco", "pybullet", "panda_gym", "numba", "PIL", "pygame", "minari")
    program = f"import sys, safe_envs; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_lazy_names_exist():
    assert all(getattr(safe_envs, name) is not None for name in safe_envs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = safe_envs.nothing
