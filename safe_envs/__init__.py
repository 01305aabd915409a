"""Environments in which an agent can do harm; importing this package registers them with Gymnasium.

Example:
    >>> import gymnasium as gym
    >>> import safe_envs
    >>> env = gym.make("safe/Navigation1-v0")
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    >>> info["cost"], info["constraint_violation"]
    (0.0, False)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from safe_envs.registration import ENV_IDS, register_envs

if TYPE_CHECKING:
    from safe_envs.core.batched import BatchedTask, TaskEnv
    from safe_envs.core.env import SafeEnv, SimulationError, SimulatorCrashedError
    from safe_envs.core.geometry import Rectangle, Scene
    from safe_envs.core.vector import TaskVectorEnv
    from safe_envs.core.worker_vector import WorkerVectorEnv
    from safe_envs.data.collect import collect_constraint_data
    from safe_envs.data.rollouts import collect_rollouts, random_network
    from safe_envs.data.storage import load_minari, to_minari
    from safe_envs.data.tasks import TASKS, navigation_tasks
    from safe_envs.hallway.camera import Camera
    from safe_envs.hallway.clips import ClipLibrary
    from safe_envs.hallway.hall import Hall
    from safe_envs.manipulation.panda_push import as_goal_observation
    from safe_envs.manipulation.push_controller import DragController, PushController
    from safe_envs.navigation.layouts import SPIDER_FINE_TUNE_GOAL, GridMap

__all__ = [
    "ENV_IDS",
    "SPIDER_FINE_TUNE_GOAL",
    "TASKS",
    "BatchedTask",
    "Camera",
    "ClipLibrary",
    "DragController",
    "GridMap",
    "Hall",
    "PushController",
    "Rectangle",
    "SafeEnv",
    "Scene",
    "SimulationError",
    "SimulatorCrashedError",
    "TaskEnv",
    "TaskVectorEnv",
    "WorkerVectorEnv",
    "as_goal_observation",
    "collect_constraint_data",
    "collect_rollouts",
    "load_minari",
    "navigation_tasks",
    "random_network",
    "register_envs",
    "to_minari",
]

# Loaded at first use, so that `import safe_envs` stays cheap and `python -m safe_envs.data.collect` runs its
# module once.
_LAZY = {
    "BatchedTask": "safe_envs.core.batched",
    "Camera": "safe_envs.hallway.camera",
    "ClipLibrary": "safe_envs.hallway.clips",
    "DragController": "safe_envs.manipulation.push_controller",
    "GridMap": "safe_envs.navigation.layouts",
    "Hall": "safe_envs.hallway.hall",
    "PushController": "safe_envs.manipulation.push_controller",
    "Rectangle": "safe_envs.core.geometry",
    "SPIDER_FINE_TUNE_GOAL": "safe_envs.navigation.layouts",
    "SafeEnv": "safe_envs.core.env",
    "Scene": "safe_envs.core.geometry",
    "TASKS": "safe_envs.data.tasks",
    "SimulationError": "safe_envs.core.env",
    "SimulatorCrashedError": "safe_envs.core.env",
    "TaskEnv": "safe_envs.core.batched",
    "TaskVectorEnv": "safe_envs.core.vector",
    "WorkerVectorEnv": "safe_envs.core.worker_vector",
    "as_goal_observation": "safe_envs.manipulation.panda_push",
    "collect_constraint_data": "safe_envs.data.collect",
    "collect_rollouts": "safe_envs.data.rollouts",
    "load_minari": "safe_envs.data.storage",
    "navigation_tasks": "safe_envs.data.tasks",
    "random_network": "safe_envs.data.rollouts",
    "to_minari": "safe_envs.data.storage",
}

register_envs()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'safe_envs' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
