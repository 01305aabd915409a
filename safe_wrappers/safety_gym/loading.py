"""``load()``: the working ``safety_gymnasium`` module, and the IDs that it and Gymnasium exchange."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from safe_wrappers.safety_gym.compat import import_repaired
from safe_wrappers.safety_gym.installation import check_installation

_MAKE_FIVE = "safe_wrappers.safety_gym.envs:make_five_tuple"
_MAKE_SIX = "safe_wrappers.safety_gym.envs:make_six_tuple"


def load() -> ModuleType:
    """Import and repair Safety-Gymnasium; the first call takes half a second, later ones next to nothing.

    Every call also exchanges the IDs that were registered since the last one: all of Safety-Gymnasium's get
    a five-tuple ID in Gymnasium's registry (``SafetyPointGoal1Gymnasium-v0``), all ``safe/<Name>-v<N>`` of
    Gymnasium's a six-tuple ID in Safety-Gymnasium's (``Safe<Name>-v<N>``).

    Returns:
        The module ``safety_gymnasium``, with its own API of six-tuples.

    Raises:
        gymnasium.error.DependencyNotInstalled: with the install command, if Safety-Gymnasium or what it needs is
            missing, or has another version.

    Example:
        >>> from safe_wrappers import safety_gym
        >>> safety_gymnasium = safety_gym.load()
        >>> env = safety_gymnasium.make("SafetyPointGoal1-v0")
        >>> _ = env.reset(seed=0)
        >>> obs, reward, cost, terminated, truncated, info = env.step(env.action_space.sample())
        >>> cost
        0.0
    """
    module = _import()
    registry: set[str] = module.utils.registration.safe_registry
    _offer_five_tuples(registry)
    _offer_six_tuples(module, registry)
    return module


@cache
def _import() -> ModuleType:
    check_installation()
    module = import_repaired()
    for env_id in module.utils.registration.safe_registry:
        _use_our_classes(gym.registry[env_id])
    return module


def _use_our_classes(spec: EnvSpec) -> None:
    if spec.entry_point == "safety_gymnasium.builder:Builder":
        spec.entry_point = "safe_wrappers.safety_gym.builder:SafetyBuilder"
    else:
        spec.kwargs["task"] = spec.entry_point
        spec.entry_point = "safe_wrappers.safety_gym.velocity:make_velocity"


def gymnasium_id(env_id: str) -> str:
    """The name of a Safety-Gymnasium environment in Gymnasium's registry: ``SafetyPointGoal1Gymnasium-v0``."""
    name, dash, version = env_id.partition("-")
    return f"{name}Gymnasium{dash}{version}"


def _offer_five_tuples(registry: set[str]) -> None:
    for env_id in sorted(registry):
        six, five = gym.registry[env_id], gym.registry.get(gymnasium_id(env_id))
        if six.entry_point == _MAKE_SIX or (five is not None and five.entry_point == _MAKE_FIVE):
            continue
        gym.registry.pop(gymnasium_id(env_id), None)  # theirs, which builds the same environment with another info
        gym.register(
            gymnasium_id(env_id),
            entry_point=_MAKE_FIVE,
            reward_threshold=six.reward_threshold,
            max_episode_steps=six.max_episode_steps,
            kwargs={"env_id": env_id},
        )


def _offer_six_tuples(module: ModuleType, registry: set[str]) -> None:
    for spec in list(gym.registry.values()):
        six = "Safe" + spec.id.removeprefix("safe/")
        if spec.namespace != "safe" or six in registry:
            continue
        module.register(
            id=six,
            entry_point=_MAKE_SIX,
            reward_threshold=spec.reward_threshold,
            max_episode_steps=spec.max_episode_steps,
            kwargs={"env_id": spec.id},
        )
