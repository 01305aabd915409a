"""``PreviousFeedback``: what it shows, when, and what it refuses."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from safe_wrappers.feedback import FEEDBACK, PreviousFeedback
from safe_wrappers.info import COST, MissingCostError


class Steps(gym.Env):
    """The n-th step of an episode earns 10 n and costs n; three steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, space=None, with_cost=True):
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32) if space is None else space
        self.with_cost = with_cost

    def _observation(self):
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        info = {COST: float(self.t)} if self.with_cost else {}
        return self._observation(), 10.0 * self.t, False, self.t >= 3, info


def feedback(obs):
    return tuple(float(obs[name][0]) for name in FEEDBACK)


def test_shows_the_last_reward_and_cost_and_nothing_after_a_reset():
    env = PreviousFeedback(Steps(), reward_scale=0.1, cost_scale=2.0)
    obs, _ = env.reset(seed=0)
    shown, rewards = [feedback(obs)], []
    for _ in range(3):
        obs, reward, _, truncated, _ = env.step(0)
        shown.append(feedback(obs))
        rewards.append(reward)
    assert shown == [(0.0, 0.0), (1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]
    assert truncated and rewards == [10.0, 20.0, 30.0]  # what is learned from stays as it was
    assert feedback(env.reset()[0]) == (0.0, 0.0)


def test_a_dict_gets_two_more_entries_and_anything_else_becomes_a_dict():
    inner = spaces.Dict({"depth": spaces.Box(0.0, 1.0, (3, 3, 1)), "speed": spaces.Box(-1.0, 1.0, (2,))})
    assert sorted(PreviousFeedback(Steps(inner)).observation_space.spaces) == sorted(["depth", "speed", *FEEDBACK])
    plain = PreviousFeedback(Steps())
    obs, _ = plain.reset(seed=3)
    assert sorted(obs) == sorted(["observation", *FEEDBACK])
    np.testing.assert_array_equal(obs["observation"], Steps().reset(seed=3)[0])


@pytest.mark.filterwarnings("ignore")
def test_is_a_gymnasium_environment():
    check_env(PreviousFeedback(Steps()), skip_render_check=True)


def test_refuses_wrong_arguments_and_a_second_wrapper():
    with pytest.raises(ValueError, match="reward_scale must be finite and > 0, got 0"):
        PreviousFeedback(Steps(), reward_scale=0)
    with pytest.raises(ValueError, match="cost_scale must be finite and > 0, got nan"):
        PreviousFeedback(Steps(), cost_scale=float("nan"))
    with pytest.raises(ValueError, match="only once"):
        PreviousFeedback(PreviousFeedback(Steps()))


def test_a_step_without_cost():
    env = PreviousFeedback(Steps(with_cost=False))
    env.reset()
    with pytest.raises(MissingCostError):
        env.step(0)
    lenient = PreviousFeedback(Steps(with_cost=False), missing_cost="zero")
    lenient.reset()
    assert feedback(lenient.step(0)[0]) == (10.0, 0.0)
