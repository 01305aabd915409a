"""Fixed policies: any SB3 model or function of observations, asked in one way and checked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import is_vectorized_observation
from stable_baselines3.common.vec_env import VecNormalize

from safe_wrappers.observations import batch_of_one, n_rows
from sb3_ext.common.export import ObservationStatistics

NOT_FOR_ACTING = (
    "env", "_vec_normalize_env", "_logger", "_last_obs", "_last_original_obs", "ep_info_buffer", "ep_success_buffer",
    "replay_buffer", "rollout_buffer",
)  # fmt: skip
"""What an SB3 model holds for learning only."""


class Controller:
    """A fixed policy as a function of raw observations; actions are in environment units.

    A model is copied without its environment and buffers: training it further changes nothing here. Statistics of
    its own ``VecNormalize`` are taken over, as far as it has its environment; SB3's own models do not tell that they
    learned with one.

    Args:
        source: an SB3 model or anything with its ``predict``, or a function of batches, ``obs[B, ...] -> [B, ...]``.
            It must have no memory (a recurrent policy has), as it is asked at any state.
        observation_space: of the environment.
        action_space: of the environment, a Box.
        observe: batch of the environment's observations -> what ``source`` takes; None: they are the same.
        role: what errors call it.

    Raises:
        TypeError: if ``source`` can neither predict nor be called.
        ValueError: if a model's spaces are not the environment's (and ``observe`` does not translate), or a model of
            this package was loaded without the ``VecNormalize`` that it learned with.

    Examples:
        >>> space = spaces.Box(-1.0, 1.0, (1,))
        >>> brake = Controller(lambda obs: -3.0 * obs, space, space)
        >>> brake(np.array([[0.1], [0.9]], dtype=np.float32)).round(1).tolist()
        [[-0.30000001192092896], [-1.0]]
    """

    def __init__(
        self,
        source: Any,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        observe: Callable[[Any], Any] | None = None,
        role: str = "controller",
    ) -> None:
        if not (hasattr(source, "predict") or callable(source)):
            raise TypeError(f"the {role} must be an SB3 model or a function of batched observations, got {source!r}")
        self.name = f"{role} {getattr(source, '__qualname__', type(source).__name__)}"
        self.observation_space, self.action_space, self.observe = observation_space, action_space, observe
        self._check_spaces(source, role)
        self.statistics: ObservationStatistics | None = None
        if isinstance(source, BaseAlgorithm):
            self.statistics = ObservationStatistics.of_model(source, self.name)
            source = _for_acting(source)
        self.source = source
        self.see_through(None)

    def see_through(self, normalizer: VecNormalize | None) -> None:
        """From now on ``predict`` takes what this ``VecNormalize`` normalised; None: raw observations."""
        self.normalizer = normalizer
        self.normalized_observations = normalizer is not None and normalizer.norm_obs

    def __call__(self, observations: Any) -> NDArray[Any]:
        """Actions ``[B, ...]``, clipped to the action space, for raw observations ``[B, ...]``.

        Raises:
            ValueError: if the actions have the wrong shape or are not finite, or it has a memory.
        """
        seen = observations if self.observe is None else self.observe(observations)
        if self.statistics is not None:
            seen = self.statistics.normalize(seen)
        predict = getattr(self.source, "predict", None)
        answer, memory = (self.source(seen), None) if predict is None else predict(seen, deterministic=True)
        if memory is not None:
            raise ValueError(
                f"the {self.name} has a memory (its predict returns a state), but is asked at any state: take a policy "
                "without recurrence, or clone it into one (sb3_ext.imitate)"
            )
        actions = np.asarray(answer)
        self._check_actions(actions, n_rows(observations))
        return np.clip(actions, self.action_space.low, self.action_space.high).astype(self.action_space.dtype)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[Any], Any]:
        """SB3's ``predict``, for one observation or a batch; normalised ones after ``see_through(normalizer)``.

        Raises:
            ValueError: if it comes from a file, without the ``VecNormalize`` that it saw through; and as ``__call__``.
        """
        if self.normalized_observations and self.normalizer is None:
            raise ValueError(
                f"the {self.name} saw through a VecNormalize, which is not in the file: load(path, env=...) with it, "
                "or call the controller with raw observations"
            )
        vectorized = is_vectorized_observation(observation, self.observation_space)
        batch = observation if vectorized else batch_of_one(observation)
        actions = self(batch if self.normalizer is None else self.normalizer.unnormalize_obs(batch))
        return actions if vectorized else actions[0], state

    @property
    def can_be_saved(self) -> bool:
        """Whether it can be pickled."""
        try:
            cloudpickle.dumps(self)
        except Exception:  # what users' objects hold fails to pickle in ways of its own
            return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        """All but the environment."""
        return {**vars(self), "normalizer": None}

    def _check_spaces(self, source: Any, role: str) -> None:
        expected = {"action_space": self.action_space}
        if self.observe is None:
            expected["observation_space"] = self.observation_space  # type: ignore[assignment]
        for name, space in expected.items():
            found = getattr(source, name, space)
            if found != space:
                what = name.replace("_", " ")
                raise ValueError(
                    f"the {self.name} has the {what} {found}, the environment {space}; pass {role}_observation="
                    "function of the environment's observations where the observations differ; actions must be the same"
                )

    def _check_actions(self, actions: NDArray[Any], batch_size: int) -> None:
        expected = (batch_size, *self.action_space.shape)
        if actions.shape != expected:
            raise ValueError(
                f"the {self.name} must return actions of shape {expected} for {batch_size} observations, got "
                f"{actions.shape}; one of single observations: lambda obs: np.stack([controller(o) for o in obs])"
            )
        if actions.dtype.kind not in "biuf" or not np.isfinite(actions).all():
            bad = (
                actions[~np.isfinite(actions).reshape(batch_size, -1).all(axis=1)]
                if actions.dtype.kind == "f"
                else actions
            )
            raise ValueError(f"the {self.name} must return finite actions, got {bad[0]}")


def _for_acting(model: BaseAlgorithm) -> BaseAlgorithm:
    """A copy of the model that can predict and nothing else.

    Pickled, not deep-copied: a policy that has just learned holds tensors with a history, which PyTorch does not copy.
    """
    slim = copy.copy(model)
    own = (name for kind in ("buffers", "environments") for name in getattr(model, kind, ()))
    for name in (*NOT_FOR_ACTING, *own):
        if name in vars(slim):
            setattr(slim, name, None)
    copied: BaseAlgorithm = cloudpickle.loads(cloudpickle.dumps(slim))
    return copied
