"""The environments of a stage: as they are learned in, evaluated in and drawn."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from safe_bench.protocols import Method, Stage
from safe_wrappers import CostMonitor, CostPenalty, PreviousFeedback
from safe_wrappers.feedback import FEEDBACK

Layer = Callable[[gym.Env], gym.Env]
"""A fitted safety layer, to be put around an environment."""


def import_origin(env_id: str) -> None:
    """Import the module of an ID like ``"module:name"``, which registers it and makes its classes importable."""
    module, colon, _ = env_id.rpartition(":")
    if colon:
        importlib.import_module(module)


def make_env(
    stage: Stage,
    method: Method | None = None,
    render_mode: str | None = None,
    layer: Layer | None = None,
    feedback: bool | None = None,
) -> gym.Env:
    """The environment of a stage; its monitors see the true reward, also under a reward penalty, and the costs.

    Args:
        stage: which environment.
        method: whose reward penalty is subtracted; None: of nobody.
        render_mode: as in Gymnasium.
        layer: the safety layer around it; None: actions are not corrected.
        feedback: whether the observation also shows the previous reward and cost.
    """
    env = gym.make(stage.env_id, render_mode=render_mode, **stage.env_kwargs)
    env = Monitor(CostMonitor(env if layer is None else layer(env)))
    env = PreviousFeedback(env) if feedback else env
    return CostPenalty(env, method.reward_penalty) if method is not None and method.reward_penalty else env


def training_env(stage: Stage, method: Method, layer: Layer | None = None) -> VecEnv:
    """What a method learns in."""
    env = DummyVecEnv([lambda: make_env(stage, method, layer=layer, feedback=method.feedback)] * (method.n_envs or 1))
    return VecNormalize(env) if method.normalize else env


class SpreadStarts(gym.Wrapper):
    """Every second episode of a planar environment starts anywhere outside its obstacles, not at the task's start."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._n_resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See the class; a seed decides the places of later episodes, too."""
        self._n_resets += 1
        return self.env.reset(seed=seed, options=options if self._n_resets % 2 else {"state": self._free_place()})

    def _free_place(self) -> Any:
        scene = self.get_wrapper_attr("scene")
        low, high = (scene.extent.x_min, scene.extent.y_min), (scene.extent.x_max, scene.extent.y_max)
        while True:
            place = self.np_random.uniform(low, high)
            if not scene.inside_obstacle([place])[0]:
                return place


def evaluation_env(stage: Stage, model: Any, layer: Layer | None = None, spread_starts: bool = False) -> VecEnv:
    """What a model is evaluated in: the plain environment, under the model's own observation statistics.

    Args:
        stage: which environment.
        model: what acts in it.
        layer: as in ``make_env``.
        spread_starts: see ``SpreadStarts``.
    """

    def make() -> gym.Env:
        env = make_env(stage, layer=layer, feedback=sees_feedback(model))
        return SpreadStarts(env) if spread_starts else env

    env = DummyVecEnv([make])
    statistics = statistics_of(model)
    if statistics is None:
        return env
    normalized = VecNormalize(env, training=False, norm_reward=False)
    normalized.obs_rms = statistics.obs_rms
    return normalized


def sees_feedback(model: Any) -> bool:
    """Whether the previous reward and cost are among what a model observes; a controller sees nothing of the kind."""
    return set(FEEDBACK) <= set(getattr(getattr(model, "observation_space", None), "spaces", ()))


def statistics_of(model: Any) -> VecNormalize | None:
    """The ``VecNormalize`` that a model learned under; a controller has none."""
    normalizer: VecNormalize | None = getattr(model, "get_vec_normalize_env", lambda: None)()
    return normalizer
