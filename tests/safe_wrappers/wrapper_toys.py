"""A corridor with a cliff, small enough to compute everything by hand."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

CLIFF = 5.0


class Corridor(gym.Env):
    """Position x starts at 0 and moves by the action; x > 5 costs 1 per step; the reward is the action."""

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-100.0, 100.0, (1,), np.float32)

    def __init__(self, discrete=False, with_cost=True, shared_array=False):
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.discrete, self.with_cost, self.shared_array = discrete, with_cost, shared_array
        self._position = np.zeros(1, dtype=np.float32)

    def _observation(self):
        # Some simulators hand out the array that they write into: wrappers have to keep their own copy.
        return self._position if self.shared_array else self._position.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._position[:] = 0.0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        move = (2.0 * action - 1.0) if self.discrete else float(action[0])
        self._position += move
        fell = bool(self._position[0] > CLIFF)
        info = {"cost": float(fell), "constraint_violation": fell} if self.with_cost else {}
        return self._observation(), move, False, False, info


def risk(obs, action):
    """1 where the next position is beyond the cliff, else 0: the exact one-step risk."""
    return (obs[:, 0] + action[:, 0] > CLIFF).astype(np.float32)


def recovery(obs):
    """One step back."""
    return -np.ones((len(obs), 1), dtype=np.float32)


class Scripted(gym.Env):
    """Plays back a list of infos, one per step; the last step terminates."""

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, infos):
        self.infos, self.t = list(infos), 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == len(self.infos), False, dict(self.infos[self.t - 1])


def play(env, actions):
    """Step through the actions after a reset; returns the list of step tuples."""
    env.reset(seed=0)
    return [env.step(action) for action in actions]


def forward(n):
    """n steps of +1."""
    return [np.ones(1, dtype=np.float32)] * n
