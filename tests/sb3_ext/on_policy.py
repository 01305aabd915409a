"""Corridors for on-policy algorithms, with other action spaces and several costs, and small models of them."""

from typing import Any

import numpy as np
from corridors import Corridor, DictCorridor, ImageCorridor, vec
from gymnasium import spaces

from safe_wrappers.info import COST
from sb3_ext import CPO, PPOPID, TRPOPID, PPOLag, TRPOLag

PRICED = [PPOLag, PPOPID, TRPOLag, TRPOPID]
ON_POLICY = [*PRICED, CPO]


class DiscreteCorridor(Corridor):
    """Left, stay, right."""

    MOVES = (-2.0, 0.0, 3.0)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.action_space = spaces.Discrete(3)

    def step(self, action):
        return super().step(np.array([self.MOVES[int(np.ravel(action)[0])], 0.0]))


class MultiDiscreteCorridor(DiscreteCorridor):
    """The same, with a second choice that has no effect."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.action_space = spaces.MultiDiscrete([3, 2])


class TermsCorridor(Corridor):
    """The cost in two terms: how far behind the wall, and 0.2 for being behind it."""

    def step(self, action):
        *rest, info = super().step(action)
        depth = max(self.x - 1.0, 0.0)
        terms = {"cost_depth": depth, "cost_presence": 0.2 * (depth > 0.0)}
        return *rest, info | terms | {COST: sum(terms.values())}


class TwinCorridor(Corridor):
    """The cost in one term: the same number under two names."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {"cost_twin": info[COST]}


class BrokenCost(Corridor):
    """Reports ``value`` as its cost."""

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {COST: self.value}


def tiny(cls, env=None, **kwargs):
    """A model of ``cls``, ours or SB3's, that learns from 40 steps of each environment at once."""
    env = Corridor() if env is None else env
    wide = isinstance(env.observation_space, spaces.Dict)
    ours: dict[str, Any] = dict(cost_limit=0.5, cost_critic_kwargs={"n_epochs": 3}) if cls in ON_POLICY else {}
    arguments = dict(n_steps=40, batch_size=20, seed=0, device="cpu", policy_kwargs={"net_arch": [16, 16]}) | ours
    return cls("MultiInputPolicy" if wide else "MlpPolicy", env, **(arguments | kwargs))


SETTINGS = {
    "Box": {},
    "Dict": {"kind": DictCorridor},
    "Discrete": {"kind": DiscreteCorridor},
    "MultiDiscrete": {"kind": MultiDiscreteCorridor},
    "three environments": {"n_envs": 3},
    "VecNormalize, three": {"n_envs": 3, "normalize": True},
    "VecNormalize, Dict": {"kind": DictCorridor, "n_envs": 3, "normalize": True},
    "terminations": {"ends_on_violation": True},
    "long episodes": {"horizon": 97, "n_envs": 2},
}

__all__ = ["CPO", "ON_POLICY", "PRICED", "SETTINGS", "ImageCorridor", "tiny", "vec"]
