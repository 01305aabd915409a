"""Environments for the tests of ``WorkerVectorEnv``; worker processes import them by this file's name."""

import os

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from safe_envs.core.worker_vector import WorkerVectorEnv
from safe_wrappers.info import COST, SUCCESS, VIOLATION

NUM_ENVS = 5


class Toy(gym.Env):
    """Episodes of random length, random costs, nested spaces, infos of every sort."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as in gym.Env

    def __init__(self, size=3, render_mode=None, action_space=None):
        self.render_mode, self.size = render_mode, size
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (4, 5, 1), np.uint8),
            parts=spaces.Tuple((spaces.Discrete(7), spaces.Box(-np.inf, np.inf, (size,), np.float32))),
            flags=spaces.MultiBinary(3),
        )
        self.action_space = action_space or spaces.Box(-1, 1, (2,), np.float32)
        self.level, self.last_action = 0, None

    def observe(self):
        numbers = self.np_random.normal(size=self.size).astype(np.float32)
        image = self.np_random.integers(255, size=(4, 5, 1), dtype=np.uint8)
        number, flags = self.np_random.integers(7), self.np_random.integers(2, size=3, dtype=np.int8)
        return {"image": image, "parts": (number, numbers), "flags": flags}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if (options or {}).get("fail"):
            raise ValueError("cannot start")
        self.steps, self.episode_steps = 0, int(self.np_random.integers(2, 9))
        return self.observe(), {"start": float(self.np_random.random()), "note": f"length {self.episode_steps}"}

    def step(self, action):
        if self.last_action is not None:  # the very array, kept: it must not have changed since
            assert np.array_equal(self.last_action[0], self.last_action[1])
        self.last_action = (action, np.array(action))
        self.steps += 1
        if np.sum(self.last_action[1]) > 1e6:
            raise ZeroDivisionError("too much")
        terminated = self.steps == self.episode_steps and self.episode_steps % 2 == 0
        truncated = self.steps == self.episode_steps and not terminated
        cost = float(self.np_random.random() < 0.5)
        info = {COST: cost, "cost_walls": cost, VIOLATION: cost > 0, SUCCESS: np.bool_(terminated)}
        info |= {"speed": np.float32(self.np_random.random()), "count": self.steps, "start": 0.5}
        info |= {"place": self.np_random.random(2), "deep": {"name": "x", "value": float(self.steps)}}
        if self.steps == 2:
            info["seldom"] = 2.5
        reward = float(np.sum(self.last_action[1])) + self.np_random.random()
        return self.observe(), reward, terminated, truncated, info

    def render(self):
        return np.full((2, 2, 3), self.level, np.uint8)

    def scaled(self, factor, offset=0):
        return factor * self.level + offset


def toys(num_workers=2, num_envs=NUM_ENVS, **kwargs):
    kwargs.setdefault("context", "fork")
    return WorkerVectorEnv(Toy, num_envs, num_workers, **kwargs)


def equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple) or (isinstance(a, np.ndarray) and a.dtype == object):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)


class Reusing(gym.Env):
    """Episodes of two steps; hands out the same array and the same info every time; dislikes action 1."""

    observation_space = spaces.Box(0, 9, (1,))
    action_space = spaces.Discrete(2)
    value, info = np.zeros(1, np.float32), {"list": [0]}

    def reset(self, *, seed=None, options=None):
        self.value[:], self.info["list"][0] = 5, 5
        return self.value, {}

    def step(self, action):
        if action == 1:
            raise ValueError("not this")
        self.value += 1
        self.info["list"][0] += 1
        return self.value, 0.0, bool(self.value == 7), False, self.info


class Shifted(Toy):
    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + self.offset, *rest

    def threads(self):
        return os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"]


class Torch(Toy):
    def torch_threads(self):
        import torch  # here, because a fresh interpreter takes seconds for it

        return torch.get_num_threads()
