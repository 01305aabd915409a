"""Corridors in which everything can be computed by hand, and small models that learn in them."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from safe_wrappers import Transitions
from safe_wrappers.info import COST, SUCCESS, VIOLATION
from sb3_ext import MESA, RCPO, RSPO, SQRL, DualAgent, MultiTask, RecoveryRL, RiskSensitiveSAC, SACLag, SafeSAC, SafeTD3

WALL, HORIZON = 1.0, 10
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32)
SPEED = 0.1
MOST_RIGHT = SPEED * float(HIGH[0])  # the longest step, 0.3


class Corridor(gym.Env):
    """Position x starts near 0 and moves by ``SPEED * action[0]``; the reward is x, and x > 1 costs x - 0.5.

    The best return lies behind the wall (x = 2), the best safe one just before it (x = 1). ``action[1]`` has no
    effect; its range differs, so that mixed-up scalings show. Every executed action is kept in ``executed``.
    """

    metadata: ClassVar = {"render_modes": []}
    observation_space = spaces.Box(-3.0, 3.0, (2,), np.float32)

    def __init__(self, noise=0.01, with_cost=True, ends_on_violation=False, horizon=HORIZON):
        self.action_space = spaces.Box(LOW, HIGH)
        self.noise, self.with_cost, self.ends_on_violation, self.horizon = noise, with_cost, ends_on_violation, horizon
        self.x, self.t, self.executed = 0.0, 0, []

    def _observation(self) -> Any:
        return np.array([self.x, WALL - self.x], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.noise * self.np_random.standard_normal(), 0
        return self._observation(), {}

    def step(self, action):
        action = np.asarray(action)
        assert action.shape == (2,) and np.all(action >= LOW - 1e-5) and np.all(action <= HIGH + 1e-5), action
        self.executed.append(action.copy())
        self.x += SPEED * float(action[0]) + self.noise * self.np_random.standard_normal()
        self.x = float(np.clip(self.x, -2.0, 2.0))
        self.t += 1
        violation = self.x > WALL
        info = {COST: self.x - 0.5 if violation else 0.0, VIOLATION: violation, SUCCESS: 0.8 < self.x <= WALL}
        terminated = violation and self.ends_on_violation
        return self._observation(), self.x, terminated, self.t >= self.horizon, info if self.with_cost else {}


class DictCorridor(Corridor):
    """The corridor with a Dict observation."""

    observation_space = spaces.Dict(
        {"position": spaces.Box(-3.0, 3.0, (1,), np.float32), "gap": spaces.Box(-3.0, 3.0, (1,), np.float32)}
    )

    def _observation(self):
        return {"position": np.array([self.x], np.float32), "gap": np.array([WALL - self.x], np.float32)}


class ImageCorridor(Corridor):
    """The corridor seen from above: a white column at the position."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def _observation(self):
        image = np.zeros((1, 36, 36), np.uint8)
        image[..., int(np.clip((self.x + 2.0) * 9, 0, 35))] = 255
        return image


class GoalCorridor(Corridor):
    """The corridor as a task with goals, for hindsight experience replay."""

    observation_space = spaces.Dict(
        {key: spaces.Box(-3.0, 3.0, (1,), np.float32) for key in ("observation", "achieved_goal", "desired_goal")}
    )

    def _observation(self):
        here = np.array([self.x], np.float32)
        return {"observation": here, "achieved_goal": here.copy(), "desired_goal": np.array([0.9], np.float32)}

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(self.compute_reward(obs["achieved_goal"], obs["desired_goal"], {})[0]), *rest

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -(np.abs(achieved_goal - desired_goal) > 0.1).astype(np.float32).reshape(-1)


def vec(n_envs=1, kind=Corridor, normalize=False, subprocess=False, **kwargs):
    """``n_envs`` corridors, with ``VecNormalize`` if asked for."""
    env = (SubprocVecEnv if subprocess else DummyVecEnv)([lambda: kind(**kwargs)] * n_envs)
    return VecNormalize(env) if normalize else env


# ---------------------------------------------------------------------- models

RISK_CLASSES = [SACLag, RSPO, RCPO, RiskSensitiveSAC, SQRL, RecoveryRL, MultiTask, MESA]
CLASSES = [SafeSAC, SafeTD3, DualAgent, *RISK_CLASSES]
QUIET = "ignore:(SQRL|RecoveryRL|MultiTask|MESA) starts with an untrained safety critic"


def tiny(cls, env=None, **kwargs):
    """A model of ``cls`` with networks of 16 units that starts to learn after 20 steps."""
    env = Corridor() if env is None else env
    wide = isinstance(env.observation_space, spaces.Dict)
    arguments: dict[str, Any] = dict(
        policy_kwargs={"net_arch": [16, 16]}, batch_size=16, learning_starts=20, buffer_size=2000, seed=0, device="cpu"
    )
    if issubclass(cls, SACLag | RCPO | RecoveryRL):
        arguments |= dict(risk_kwargs={"net_arch": (16, 16)}, eps_risk=None if "cost_limit" in kwargs else 0.3)
    if issubclass(cls, RecoveryRL):
        arguments |= dict(recovery_kwargs={"net_arch": (16, 16)})
    if issubclass(cls, SQRL):
        arguments |= dict(n_candidates=5, n_off=25, safety_episodes=1, safety_updates=2)
    return cls("MultiInputPolicy" if wide else "MlpPolicy", env, **{**arguments, **kwargs})


def noise(n=2, std=0.3):
    """Exploration noise for TD3."""
    return NormalActionNoise(np.zeros(n), np.full(n, std))


def tensors(value, name="", found=None):
    """All tensors and numbers in nested parameters, by their path."""
    found = {} if found is None else found
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            tensors(part, f"{name}.{key}", found)
    elif isinstance(value, th.Tensor | np.ndarray | int | float | bool):
        found[name] = value.detach().cpu().numpy().copy() if isinstance(value, th.Tensor) else np.array(value)
    return found


def weights(model):
    """Every weight, optimiser state and tensor variable of a model."""
    return tensors(model.get_parameters())


def differing(first, second, tolerance=0.0):
    """Names of the entries that two results of ``tensors`` do not share."""
    assert first.keys() == second.keys()
    return [k for k in first if not np.allclose(first[k], second[k], rtol=0.0, atol=tolerance, equal_nan=True)]


def assert_same_weights(first, second):
    """Bit for bit."""
    first, second = weights(first), weights(second)
    assert len(first) > 10
    assert differing(first, second) == []


def buffer_rows(buffer):
    """The contents of a replay buffer."""
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "pos", "full")
    extra = ("costs", "violations", "executed_actions")
    return tensors({name: getattr(buffer, name) for name in names + extra if hasattr(buffer, name)})


# ---------------------------------------------------------------------- data


def recorded(n=300, dict_obs=False, seed=0, env_id=None):
    """Random transitions of the corridor: uniform positions, uniform actions, exact labels."""
    rng = np.random.default_rng(seed)
    x, actions = rng.uniform(-0.5, 1.0, n), rng.uniform(LOW, HIGH, (n, 2)).astype(np.float32)
    following = x + SPEED * actions[:, 0]

    def observe(x):
        if dict_obs:
            return {"position": x[:, None].astype(np.float32), "gap": (WALL - x)[:, None].astype(np.float32)}
        return np.stack([x, WALL - x], axis=1).astype(np.float32)

    violations = following > WALL
    return Transitions(
        observe(x), actions, observe(following), (following - 0.5) * violations, violations, np.zeros(n, bool), env_id
    )


def pretrained(cls, env=None, data=None, **kwargs):
    """A model whose safety critic knows the wall."""
    fast = {"net_arch": (16, 16), "learning_rate": 1e-2, "tau": 0.05}
    model = tiny(cls, env, gamma_risk=0.5, risk_kwargs=fast, **kwargs)
    return model.pretrain(recorded(500) if data is None else data, steps=300)


def some_observations(n=50, seed=1):
    """``n`` raw observations and actions in environment units."""
    data = recorded(n, seed=seed)
    return data.observations, data.actions


def to_the_right(obs):
    """A controller that goes as fast as it can, wall or not."""
    return np.repeat(HIGH[None], len(obs), axis=0)


def plain_sac(env, **kwargs):
    """SB3's own SAC, as ``tiny`` makes ours."""
    return tiny(SAC, env, **kwargs)
