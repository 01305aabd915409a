"""Small worlds for recurrent agents, and small agents."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from safe_wrappers.feedback import PreviousFeedback
from safe_wrappers.info import COST
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag

ACTIONS = spaces.Box(np.array([-2.0], np.float32), np.array([4.0], np.float32))  # not [-1, 1]: mixed-up units show


def scaled(action):
    """The action in [-1, 1]."""
    return float((np.asarray(action)[0] + 2.0) / 3.0 - 1.0)


class Counter(gym.Env):
    """Shows 100 * episode + step, so that a stored entry tells where it comes from; costs step / 10, rewards step.

    Episodes have ``lengths`` in turn; those of odd number end for good, the others by time limit.
    """

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = ACTIONS

    def __init__(self, lengths=(7, 4, 12), first_episode=0):
        self.lengths, self.episode, self.t = lengths, first_episode - 1, 0

    def _observation(self):
        return np.array([100.0 * self.episode + self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.lengths[self.episode % len(self.lengths)]
        for_good = bool(self.episode % 2)
        return self._observation(), float(self.t), over and for_good, over and not for_good, {COST: self.t / 10.0}


class Cue(gym.Env):
    """The first observation is -1 or 1, the others are 0; each action is worth its product with the cue."""

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = ACTIONS
    horizon = 4

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.t = float(self.np_random.choice([-1.0, 1.0])), 0
        return np.array([self.cue], np.float32), {}

    def step(self, action):
        self.t += 1
        reward = self.cue * scaled(action) if self.t > 1 else 0.0
        return np.zeros(1, np.float32), reward, False, self.t >= self.horizon, {COST: 0.0}


class Temptation(gym.Env):
    """A positive action earns itself and costs its square."""

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = ACTIONS
    horizon = 10

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        a = scaled(action)
        return np.zeros(1, np.float32), a, False, self.t >= self.horizon, {COST: max(a, 0.0) ** 2}


class Camera(gym.Env):
    """A depth image and two more entries, all random; a cost of 1 at every second step."""

    metadata: ClassVar = {"render_modes": []}
    action_space = ACTIONS

    def __init__(self, dtype=np.float32, shape=(36, 36, 1), horizon=8):
        image = spaces.Box(0, 255, shape, np.uint8) if dtype == np.uint8 else spaces.Box(0.0, 1.0, shape, dtype)
        self.observation_space = spaces.Dict({"depth": image, "speed": spaces.Box(-5.0, 5.0, (2,), np.float32)})
        self.horizon = horizon

    def _observation(self):
        rng, image = self.np_random, self.observation_space["depth"]
        pixels = rng.integers(0, 256, image.shape) if image.dtype == np.uint8 else rng.random(image.shape)
        return {"depth": pixels.astype(image.dtype), "speed": rng.normal(size=2).astype(np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        return self._observation(), float(action[0]), False, self.t >= self.horizon, {COST: float(self.t % 2)}


def vec(kind=Counter, n_envs=1, feedback=True, normalize=False, **kwargs):
    """``n_envs`` copies side by side."""
    make = (lambda: PreviousFeedback(kind(**kwargs))) if feedback else (lambda: kind(**kwargs))
    env = DummyVecEnv([make] * n_envs)
    return VecNormalize(env) if normalize else env


SIZES = {"cnn_channels": (4, 4, 4), "cnn_embedding": 8, "gru_size": 8, "hidden": (16,)}


def tiny(env=None, **kwargs):
    """A model with a GRU of 8 units that learns after 20 steps."""
    arguments = dict(
        policy_kwargs=SIZES, batch_size=4, horizon=5, buffer_size=4000, learning_starts=20, train_freq=8,
        gradient_steps=2, seed=0, device="cpu",
    )  # fmt: skip
    return RecurrentSACLag("MultiInputPolicy", vec() if env is None else env, **{**arguments, **kwargs})
