"""Safety critics and filters as files of their own: saved, loaded and used without the model that trained them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from safe_wrappers.files import atomic_path
from sb3_ext.common.buffers import unscale_action
from sb3_ext.common.checkpoint import readable
from sb3_ext.common.recovery_policy import RecoveryActor
from sb3_ext.common.safety_critic import SafetyCritic

PRETRAINED = {"safe/Navigation2-v0": "navigation2_filter.zip"}
CRITIC_FORMAT, FILTER_FORMAT = "sb3-safe critic 1", "sb3-safe filter 1"


@dataclass(frozen=True)
class ObservationStatistics:
    """Means and variances of a ``VecNormalize``, so that a filter can be given raw observations.

    ``mean`` and ``variance`` map entries of a Dict space, or the empty name for an array, to arrays.
    """

    mean: dict[str, NDArray[np.float64]]
    variance: dict[str, NDArray[np.float64]]
    clip: float
    epsilon: float

    @classmethod
    def from_env(cls, env: VecNormalize | None) -> ObservationStatistics | None:
        """The statistics of ``env``; None if there is nothing to normalise."""
        if env is None or not env.norm_obs:
            return None
        stats = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
        return cls(
            {k: np.array(s.mean) for k, s in stats.items()},
            {k: np.array(s.var) for k, s in stats.items()},
            float(env.clip_obs),
            float(env.epsilon),
        )

    @classmethod
    def of_model(cls, model: Any, role: str = "model") -> ObservationStatistics | None:
        """Those that an SB3 model learned with, as far as it tells; None if it sees raw observations.

        Raises:
            ValueError: if a model of this package learned with a ``VecNormalize`` and was loaded without it.
        """
        statistics = cls.from_env(model.get_vec_normalize_env())
        if statistics is None and model.env is None and getattr(model, "normalized_observations", False):
            raise ValueError(
                f"the {role} learned with a VecNormalize and was loaded without it: load(path, env=...), with "
                "VecNormalize.load(statistics, env) around the environment"
            )
        return statistics

    def normalize(self, obs: Any) -> Any:
        """Raw observations -> what the networks were trained on."""
        if isinstance(obs, dict):
            return {key: self._one(key, part) if key in self.mean else part for key, part in obs.items()}
        return self._one("", obs)

    def _one(self, key: str, rows: Any) -> NDArray[np.float32]:
        scaled = (np.asarray(rows) - self.mean[key]) / np.sqrt(self.variance[key] + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


class ExportedFilter:
    """A safety critic, a recovery policy and a threshold; everything in environment units and raw observations.

    Args:
        critic: the safety critic.
        recovery_policy: acts where the risk is too high.
        eps_risk: threshold, in the unit of the critic.
        statistics: of the observations, if the networks were trained on normalised ones.
        observation_space: of the environment, where it differs from the networks' (images, channels last).
        env_id: where it was trained.
    """

    def __init__(
        self,
        critic: SafetyCritic,
        recovery_policy: RecoveryActor,
        eps_risk: float,
        statistics: ObservationStatistics | None = None,
        env_id: str | None = None,
        observation_space: spaces.Space[Any] | None = None,
    ) -> None:
        self.critic, self.recovery_policy = critic, recovery_policy
        self.eps_risk, self.statistics, self.env_id = eps_risk, statistics, env_id
        self.observation_space = critic.observation_space if observation_space is None else observation_space

    @classmethod
    def from_model(cls, model: Any) -> ExportedFilter:
        """The filter of a ``RecoveryRL`` model as it is now; training the model further does not change it.

        Raises:
            ValueError: see ``ObservationStatistics.of_model``.
        """
        spec = None if model.env is None else model.env.get_attr("spec")[0]
        statistics = ObservationStatistics.of_model(model)
        critic, recovery = copy.deepcopy((model.safety_critic, model.recovery_policy))
        space = _raw_observation_space(model.env)
        return cls(critic, recovery, model.limit, statistics, spec.id if spec else None, space)

    @property
    def kind(self) -> str:
        """``"probability"`` or ``"return"``."""
        return self.critic.kind

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Of the environment it was trained in."""
        return self.critic.action_space

    def risk(self, obs: Any, action: NDArray[Any]) -> NDArray[np.float32]:
        """Risk ``[B]`` of raw observations ``[B, ...]`` and actions ``[B, ...]``."""
        return self.critic.risk(self._normalize(obs), action)

    def recovery(self, obs: Any) -> NDArray[Any]:
        """Recovery actions ``[B, ...]`` for raw observations ``[B, ...]``."""
        actions = self.recovery_policy.act(self.critic.tensors(self._normalize(obs)), deterministic=True)
        shape = self.action_space.shape or ()
        return unscale_action(actions.cpu().numpy().reshape(-1, *shape), self.action_space)

    def save(self, path: str | Path) -> None:
        """Write the filter; a file that is there already stays until the new one is complete."""
        data = {
            "format": FILTER_FORMAT, "eps_risk": self.eps_risk, "statistics": self.statistics, "env_id": self.env_id,
            "raw_observation_space": self.observation_space, "recovery_config": self.recovery_policy.config,
            **_critic_data(self.critic),
        }  # fmt: skip
        _write(path, data, {"critic": self.critic.state_dict(), "recovery": self.recovery_policy.state_dict()})

    def _normalize(self, obs: Any) -> Any:
        return obs if self.statistics is None else self.statistics.normalize(obs)


def load_filter(path: str | Path) -> ExportedFilter:
    """Read what ``RecoveryRL.export_filter`` wrote; ``.zip`` may be left out.

    Raises:
        ValueError: if the file is truncated or something else.
        FileNotFoundError: if there is none.
    """
    data, params = _read(path, FILTER_FORMAT)
    critic = _build_critic(data, params)
    recovery = RecoveryActor(data["observation_space"], data["action_space"], **data["recovery_config"])
    recovery.load_state_dict(params["recovery"])
    space = data["raw_observation_space"]
    return ExportedFilter(critic, recovery, data["eps_risk"], data["statistics"], data["env_id"], space)


def _raw_observation_space(env: VecEnv | None) -> spaces.Space[Any] | None:
    """The space below SB3's transposition of images; None if there is none."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecTransposeImage):
            return env.venv.observation_space
        env = env.venv
    return None


def pretrained_filter(env_id: str) -> ExportedFilter:
    """A small filter that ships with the package, ready for ``safe_wrappers.RecoveryFilter.from_model``.

    The one for ``safe/Navigation2-v0`` (made by ``benchmarks/make_filter.py``) overestimates the risk: on nearly all of
    the line y = 0 left of the block it allows no action, and its recovery policy leads around the block.

    Args:
        env_id: environment, with or without ``safe_envs:`` before it.

    Raises:
        ValueError: naming the known ones, if none ships for that environment.

    Examples:
        >>> pretrained_filter("safe/Navigation2-v0").eps_risk
        0.1
    """
    name = env_id.removeprefix("safe_envs:")
    if name not in PRETRAINED:
        raise ValueError(f"filters ship for {sorted(PRETRAINED)}, got {env_id!r}; RecoveryRL.export_filter makes one")
    return load_filter(Path(__file__).parents[1] / "assets" / PRETRAINED[name])


def save_critic(critic: SafetyCritic, path: str | Path) -> None:
    """Write a safety critic by itself, optimiser included."""
    params = {"critic": critic.state_dict(), "optimizer": critic.optimizer.state_dict()}
    _write(path, {"format": CRITIC_FORMAT, **_critic_data(critic)}, params)


def load_critic(path: str | Path) -> SafetyCritic:
    """Read what ``save_critic`` wrote; it can be trained on.

    Raises:
        ValueError: if the file is truncated or something else.
        FileNotFoundError: if there is none.
    """
    data, params = _read(path, CRITIC_FORMAT)
    critic = _build_critic(data, params)
    critic.optimizer.load_state_dict(params["optimizer"])
    return critic


def _critic_data(critic: SafetyCritic) -> dict[str, Any]:
    return {
        "observation_space": critic.observation_space, "action_space": critic.action_space,
        "critic_config": critic.config,
    }  # fmt: skip


def _build_critic(data: dict[str, Any], params: dict[str, Any]) -> SafetyCritic:
    critic = SafetyCritic(data["observation_space"], data["action_space"], **data["critic_config"])
    critic.load_state_dict(params["critic"])
    return critic


def _write(path: str | Path, data: dict[str, Any], params: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        save_to_zip_file(temporary, data=data, params=params)


def _read(path: str | Path, expected: str) -> tuple[dict[str, Any], dict[str, Any]]:
    file = next((file for file in (Path(path), Path(f"{path}.zip")) if file.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"there is no file {path}")
    with readable(path, expected):
        data, params, _ = load_from_zip_file(file, device="cpu")
        found = None if data is None else data.get("format", "an SB3 model: call export_filter on it first")
        if found != expected:
            raise ValueError(f"expected {expected!r}, found {found!r}")
    assert data is not None and params is not None
    return data, params
