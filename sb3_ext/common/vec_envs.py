"""VecEnvs: Gymnasium's vector environments for SB3, and a recovery filter over a whole VecEnv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize

from safe_wrappers.actions import check_proposed, clip_to_box
from safe_wrappers.info import EXECUTED_ACTION, INTERVENED, PROPOSED_ACTION, RISK
from safe_wrappers.observations import take_rows
from safe_wrappers.recovery import resolve_filter
from safe_wrappers.risk import (
    RecoveryFunction,
    RiskFunction,
    RiskKind,
    check_callable,
    check_eps_risk,
    filter_actions,
)

FINAL = ("final_obs", "final_info", "_final_obs", "_final_info")
"""What Gymnasium's vector environments say of the episodes that ended, and for which environments."""


def episode_limit(env: VecEnv) -> int | None:
    """Steps of the longest episode, where the environment's registration or a ``TimeLimit`` says so."""
    spec = env.get_attr("spec")[0]
    if spec is not None:
        return spec.max_episode_steps
    return env.get_attr("_max_episode_steps")[0] if env.has_attr("_max_episode_steps") else None


class GymVecEnv(VecEnv):
    """A ``gymnasium.vector`` environment as an SB3 VecEnv.

    Args:
        env: with ``AutoresetMode.SAME_STEP``, as ``safe_envs``' environments on arrays and ``WorkerVectorEnv`` have it.
            SB3's statistics of episodes need a ``VecMonitor`` around the result.

    Raises:
        ValueError: for another autoreset mode: the extra step of next-step resets would enter the replay buffer
            as a transition between episodes.

    Examples:
        >>> env = GymVecEnv(gym.make_vec("safe_envs:safe/Navigation1-v0", num_envs=4))
        >>> env.reset().shape
        (4, 2)
    """

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"the vector environment must reset in the same step, its autoreset_mode is {mode}: "
                "make it with vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP}"
            )
        self.vector_env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.render_mode = env.render_mode

    def reset(self) -> Any:
        """First observations of all environments."""
        # One seed: SB3 counts up from it for the others, and so do Gymnasium's vector environments.
        obs, infos = self.vector_env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = _rows(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Step all environments; finished ones carry SB3's ``terminal_observation``."""
        obs, rewards, terminated, truncated, infos = self.vector_env.step(self._actions)
        dones = terminated | truncated
        last_obs, last_infos, *_ = (infos.pop(key, None) for key in FINAL)
        rows = _rows(infos, self.num_envs)
        if dones.any():
            finals = _rows(last_infos or {}, self.num_envs)
            for i in np.flatnonzero(dones):
                # In this mode infos may already describe the next episode: the final ones belong to this step.
                rows[i] |= finals[i]
                rows[i]["terminal_observation"] = take_rows(last_obs, i)
                rows[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return obs, np.asarray(rewards, dtype=np.float32), dones, rows

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Frames, where the vector environment has them."""
        frames: Any = self.vector_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def has_attr(self, attr_name: str) -> bool:
        """Whether it, or every environment in this process, has it; a worker without it would die of being asked."""
        members = getattr(self.vector_env, "envs", ())
        return hasattr(self.vector_env, attr_name) or (
            bool(members) and all(env.has_wrapper_attr(attr_name) for env in members)
        )

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment; of the environments, where these alone have it."""
        chosen = list(self._get_indices(indices))
        if not hasattr(self.vector_env, attr_name) and hasattr(self.vector_env, "get_attr"):
            values = self.vector_env.get_attr(attr_name)
            return [values[i] for i in chosen]
        return [getattr(self.vector_env, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set it in the environments; where these are one object, for all of them.

        Raises:
            ValueError: if only some environments are meant, and they are one object.
        """
        chosen, own = list(self._get_indices(indices)), self.vector_env
        if not (hasattr(own, "set_attr") and hasattr(own, "get_attr")):
            if len(chosen) != self.num_envs:
                raise ValueError(f"{attr_name} can only be set for all of these environments: they are one object")
            setattr(own, attr_name, value)
            return
        values = [value] * self.num_envs if len(chosen) == self.num_envs else list(own.get_attr(attr_name))
        for i in chosen:
            values[i] = value
        own.set_attr(attr_name, values)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call it in every environment; where these are one object, once, and repeat the result.

        Returns:
            Results of the environments at ``indices``.
        """
        chosen = list(self._get_indices(indices))
        if hasattr(self.vector_env, "call"):
            results = self.vector_env.call(method_name, *args, **kwargs)
            return [results[i] for i in chosen]
        return [getattr(self.vector_env, method_name)(*args, **kwargs)] * len(chosen)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """No single environment is wrapped."""
        return [False for _ in self._get_indices(indices)]


def _rows(infos: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Gymnasium's dict of arrays as one dict per environment, without the entries that it masks out."""
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        present = range(n) if mask is None else np.flatnonzero(mask)
        parts = _rows(values, n) if isinstance(values, dict) else values
        plain = parts.tolist() if isinstance(parts, np.ndarray) and parts.ndim == 1 else parts
        for i in present:
            rows[i][key] = plain[i]
    return rows


def _env_id(venv: VecEnv) -> str | None:
    """ID of the environments, as far as this process knows it."""
    inner = venv.unwrapped
    envs = [inner.vector_env] if isinstance(inner, GymVecEnv) else getattr(inner, "envs", [])
    spec = envs[0].unwrapped.spec if envs else None
    return None if spec is None else spec.id


class VecRecoveryFilter(VecEnvWrapper):
    """``safe_wrappers.RecoveryFilter`` over a whole VecEnv: one batched risk evaluation a step.

    Args:
        venv: what to protect.
        risk: ``risk(obs[B, ...], action[B, ...]) -> [B]``, environment units.
        recovery: ``recovery(obs[B, ...]) -> [B, ...]``.
        eps_risk: threshold.
        kind: ``"probability"`` or ``"return"``, which decides what threshold makes sense.

    Raises:
        TypeError, ValueError, gymnasium.error.ResetNeeded: as ``RecoveryFilter``, before any environment has moved.

    Examples:
        >>> from sb3_ext import pretrained_filter
        >>> worlds = GymVecEnv(gym.make_vec("safe_envs:safe/Navigation2-v0", num_envs=4))
        >>> env = VecRecoveryFilter.from_model(worlds, pretrained_filter("safe/Navigation2-v0"))
        >>> _ = env.reset()
        >>> _, _, _, infos = env.step(np.zeros((4, 2), dtype=np.float32))
        >>> [key for key in infos[0] if key.endswith("_action")]
        ['proposed_action', 'executed_action']
    """

    def __init__(
        self,
        venv: VecEnv,
        risk: RiskFunction,
        recovery: RecoveryFunction,
        eps_risk: float,
        kind: RiskKind = "probability",
    ) -> None:
        self.risk: RiskFunction = check_callable("risk", risk)
        self.recovery: RecoveryFunction = check_callable("recovery", recovery)
        self.eps_risk = check_eps_risk(eps_risk, kind)
        super().__init__(venv)
        self._obs: Any = None

    @classmethod
    def from_model(cls, venv: VecEnv, model_or_path: Any, eps_risk: float | None = None) -> VecRecoveryFilter:
        """With the filter of a trained ``RecoveryRL`` or of a file (its path); it takes raw observations.

        Raises:
            ValueError: if ``venv`` normalises its observations, or the filter was made for other spaces.
        """
        normalizer = unwrap_vec_normalize(venv)
        if normalizer is not None and normalizer.norm_obs:
            raise ValueError("the filter takes raw observations: put VecNormalize around VecRecoveryFilter, not inside")
        model = resolve_filter(model_or_path, venv.observation_space, venv.action_space, _env_id(venv))
        eps_risk = model.eps_risk if eps_risk is None else eps_risk
        return cls(venv, model.risk, model.recovery, eps_risk, getattr(model, "kind", "probability"))

    def reset(self) -> Any:
        """Reset all environments."""
        self._obs = self.venv.reset()
        return self._obs

    def step_async(self, actions: NDArray[Any]) -> None:
        """Filter, then step."""
        if self._obs is None:
            raise gym.error.ResetNeeded("call reset() before step(): the decisions are about the last observations")
        self._proposed = check_proposed(actions, (self.num_envs, *(self.action_space.shape or ())))
        clipped = clip_to_box(self._proposed, self.action_space)
        self._executed, self._intervened, self._risks = filter_actions(
            self.risk, self.recovery, self.eps_risk, self._obs, clipped, self.action_space
        )
        self.venv.step_async(self._executed)

    def step_wait(self) -> Any:
        """Observations, rewards, dones, infos; the infos tell what was proposed and executed."""
        self._obs, rewards, dones, infos = self.venv.step_wait()
        for i, info in enumerate(infos):
            info[PROPOSED_ACTION], info[RISK] = self._proposed[i], float(self._risks[i])
            info.setdefault(EXECUTED_ACTION, self._executed[i])  # an inner filter comes later, as in RecoveryFilter
            info[INTERVENED] = bool(self._intervened[i]) or bool(info.get(INTERVENED, False))
        return self._obs, rewards, dones, infos
