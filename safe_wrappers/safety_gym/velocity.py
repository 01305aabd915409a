"""What builds the velocity IDs."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.registration import load_env_creator

from safe_wrappers.safety_gym.combined import Combined, combine


class CopyableVelocity(Combined, MujocoEnv):
    """A velocity task whose copies go on where it is, and not from a fresh start as Gymnasium's."""

    def __getstate__(self) -> dict[str, Any]:
        renderer = copy.copy(self.mujoco_renderer)
        renderer._viewers, renderer.viewer = {}, None  # graphics contexts belong to the original
        return {**self.__dict__, "mujoco_renderer": renderer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def make_velocity(task: str, *, fast: bool = True, **kwargs: Any) -> gym.Env:
    """Build the task with the entry point ``task``; there is no faster path, so ``fast`` changes nothing."""
    return combine(CopyableVelocity, load_env_creator(task))(**kwargs)  # type: ignore[arg-type]
