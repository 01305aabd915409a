"""Trajectories of Safety-Gymnasium 1.0.0 as it was released: Python 3.10, gymnasium 0.28.1, mujoco 2.3.3.

Recorded with ``reset(seed=0)`` and 60 actions of ``numpy.random.default_rng(0)``, without resets in between. The file
has the observations of the reset and of steps 1 and 10, and all rewards, costs and terminations.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from bridge import actions_for, safety_gymnasium

GOLDEN = np.load(Path(__file__).parent / "data" / "safety_gymnasium_1.0.0.npz")


class Same(NamedTuple):
    """How far a trajectory may be from the recorded one."""

    reset: float
    step_1: float
    step_10: float | None = None  # None: contacts are solved in another way since mujoco 3.10
    rewards: float | None = None


SAME = {
    "SafetyHalfCheetahVelocity-v1": Same(1e-12, 1e-10, 1e-8, 1e-4),
    "SafetySwimmerVelocity-v1": Same(1e-12, 1e-10, 1e-8, 1e-8),
    "SafetyWalker2dVelocity-v1": Same(1e-12, 1e-10, 1e-8, 1e-8),
    "SafetyPointGoal1-v0": Same(1e-12, 1e-7, 1e-6, 1e-3),
    "SafetyPointCircle1-v0": Same(1e-12, 1e-7, 1e-6, 1e-2),
    "SafetyDoggoGoal1-v0": Same(1e-12, 1e-10, 1e-8, 1e-5),
    "SafetyHopperVelocity-v1": Same(1e-12, 1e-10),
    "SafetyAntVelocity-v1": Same(1e-12, 1e-5),
    "SafetyHumanoidVelocity-v1": Same(1e-12, 1e-5),
}


def unit_quaternion(env_id, observation):
    """Since mujoco 3.10 the state keeps the noise of the reset as it is, of which mujoco 2.3 made a unit quaternion."""
    observation = np.array(observation)
    if "Ant" in env_id or "Humanoid" in env_id:
        observation[1:5] /= np.linalg.norm(observation[1:5])
    return observation


@pytest.mark.parametrize("env_id", SAME)
def test_parity(env_id):
    same = SAME[env_id]
    env = safety_gymnasium.make(env_id)
    observations = [env.reset(seed=0)[0]]
    outcomes = []
    for action in actions_for(env, 60):
        observation, *outcome, _ = env.unwrapped.step(action)
        observations.append(observation)
        outcomes.append(outcome)

    for row, (step, tolerance) in enumerate([(0, same.reset), (1, same.step_1), (10, same.step_10)]):
        if tolerance is not None:
            found, recorded = (
                unit_quaternion(env_id, o) for o in (observations[step], GOLDEN[f"{env_id}/observations"][row])
            )
            assert np.abs(found - recorded).max() < tolerance, f"step {step}"
    if same.rewards is not None:
        rewards, costs, terminated, _ = (np.array(values) for values in zip(*outcomes, strict=True))
        assert np.abs(rewards - GOLDEN[f"{env_id}/rewards"]).max() < same.rewards
        assert np.array_equal(costs, GOLDEN[f"{env_id}/costs"])
        assert np.array_equal(terminated, GOLDEN[f"{env_id}/terminated"])
