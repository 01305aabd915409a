"""The table of environment IDs, and its registration with Gymnasium."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym


@dataclass(frozen=True)
class EnvEntry:
    """One row of the registry.

    Attributes:
        env_id: ``safe/<Name>-v<N>``; any change of dynamics, reward or cost raises ``N``.
        module: module that holds the classes; imported at the first ``gym.make``.
        env: name of the single environment's class.
        vector_env: name of the vector environment's class; ``None`` where there is none and ``gym.make_vec`` runs
            copies of the single one.
        max_episode_steps: time limit; the environments have none of their own.
        kwargs: constructor arguments of the classes.
    """

    env_id: str
    module: str
    env: str
    vector_env: str | None
    max_episode_steps: int
    kwargs: dict[str, Any] = field(default_factory=dict)


_NAVIGATION = "safe_envs.navigation.navigation"
_DRUNK_SPIDER = "safe_envs.navigation.drunk_spider"
_DISABLED = "safe_envs.locomotion.disabled"
_PANDA_PUSH = "safe_envs.manipulation.panda_push"

ENTRIES = (
    EnvEntry(
        "safe/Navigation1-v0",
        _NAVIGATION,
        "NavigationEnv",
        "NavigationVectorEnv",
        100,
        {"scene": "navigation1"},
    ),
    EnvEntry(
        "safe/Navigation2-v0",
        _NAVIGATION,
        "NavigationEnv",
        "NavigationVectorEnv",
        100,
        {"scene": "navigation2"},
    ),
    EnvEntry("safe/DrunkSpider-v0", _DRUNK_SPIDER, "DrunkSpiderEnv", "DrunkSpiderVectorEnv", 30),
    EnvEntry("safe/CartPoleLength-v0", "safe_envs.locomotion.cartpole_length", "CartPoleLengthEnv", None, 200),
    EnvEntry("safe/HalfCheetahDisabled-v0", _DISABLED, "HalfCheetahDisabledEnv", None, 1000),
    EnvEntry("safe/AntDisabled-v0", _DISABLED, "AntDisabledEnv", None, 1000),
    *(
        EnvEntry(
            f"safe/Hallway{obstacles}{robot}-v0",
            "safe_envs.hallway.env",
            "HallwayEnv",
            None,
            1000,
            {"robot": robot.lower(), "obstacles": obstacles.lower()},
        )
        for robot in ("Point", "Doggo")
        for obstacles in ("Walls", "Poles", "Humanoids")
    ),
    EnvEntry("safe/AntRun-v0", "safe_envs.locomotion.ant_run", "AntRunEnv", None, 500),
    EnvEntry("safe/PandaPush-v0", _PANDA_PUSH, "PandaPushEnv", None, 50),
    EnvEntry("safe/PandaPushGoal-v0", _PANDA_PUSH, "PandaPushGoalEnv", None, 50),
)

ENV_IDS = tuple(entry.env_id for entry in ENTRIES)
"""Every ID that ``import safe_envs`` registers."""


def register_envs() -> None:
    """Register every ID that Gymnasium does not know yet; calling it again does nothing."""
    for entry in ENTRIES:
        if entry.env_id in gym.registry:
            continue
        gym.register(
            entry.env_id,
            entry_point=f"{entry.module}:{entry.env}",
            vector_entry_point=f"{entry.module}:{entry.vector_env}" if entry.vector_env else None,
            max_episode_steps=entry.max_episode_steps,
            kwargs=entry.kwargs,
        )
