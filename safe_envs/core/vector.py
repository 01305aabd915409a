"""``TaskVectorEnv``: many copies of a batched task, stepped as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.batched import STATE_OPTION, BatchedTask
from safe_envs.core.env import ActionBounds, check_options
from safe_envs.core.geometry import BoolArray, FloatArray, Scene
from safe_wrappers.info import COST, COST_TERM_PREFIX, SUCCESS, VIOLATION

RESET_MASK_OPTION = "reset_mask"
"""Key of ``reset(options=...)`` under which Gymnasium's tools say which copies to reset."""

VectorStep = tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray, dict[str, Any]]


class TaskVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """``num_envs`` copies of a batched task that reset in the step that ends their episode (``SAME_STEP``).

    ``infos`` are arrays ``[num_envs]`` with Gymnasium's ``_key`` masks. ``cost``, ``cost_<term>``,
    ``constraint_violation`` and ``is_success`` belong to the step just taken, for every copy and on every
    step, so that the sum of ``infos["cost"]`` is the sum of the episodes' costs. Where an episode ended, the
    returned observation is the next episode's first, and ``final_obs`` and ``final_info`` hold the last
    one's, as in Gymnasium's ``SyncVectorEnv`` in this mode.

    All copies draw from one generator: the trajectories differ from those of ``num_envs`` seeded single
    environments, except for ``num_envs=1``, where they are equal.

    Args:
        num_envs: number of copies, >= 1.
        max_episode_steps: time limit in steps, or ``None``; ``gym.make_vec`` passes the registered one.
        render_mode: ``None`` or ``"rgb_array"``.
        **task_kwargs: arguments of the task (``task_type``).

    Raises:
        ValueError: if an argument is outside the values above.
    """

    task_type: ClassVar[Callable[..., BatchedTask]]
    metadata: dict[str, Any] = {  # noqa: RUF012 - as in VectorEnv
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **task_kwargs: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be >= 1, got {num_envs}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be None or >= 1, got {max_episode_steps}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.num_envs, self.render_mode = num_envs, render_mode
        self.task = self.task_type(**task_kwargs)
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.task.observation_space, num_envs)
        self.action_space = batch_space(self.task.action_space, num_envs)
        self._action_bounds = ActionBounds(cast(spaces.Box, self.action_space))
        self._max_steps = np.iinfo(np.int64).max if max_episode_steps is None else max_episode_steps
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._states = np.zeros((num_envs, self.task.state_size))
        self._is_ready = False
        self._renderer: Any = None

    @property
    def scene(self) -> Scene:
        """The scene that every copy moves in."""
        return self.task.scene

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: seed of the one generator that all copies draw from.
            options: ``state`` sets the start, ``[2]`` or ``[number of copies reset, 2]``; ``reset_mask``
                (``[num_envs]`` bool) says which copies to reset.

        Raises:
            ValueError: if an option is unknown or does not fit.
        """
        check_options(options, (STATE_OPTION, RESET_MASK_OPTION))
        super().reset(seed=seed)
        options = options or {}
        mask = reset_mask(options, self.num_envs, self._is_ready)
        self._restart(mask, options)
        self._is_ready = True
        return self.task.observe(self._states), {}

    def step(self, actions: ArrayLike) -> VectorStep:
        """Step every copy with actions ``[num_envs, a]``.

        Raises:
            ValueError: if they have the wrong shape or are not finite; the states stay as they were.
            gymnasium.error.ResetNeeded: before the first ``reset()``.
        """
        if not self._is_ready:
            raise ResetNeeded("call reset() before step()")
        previous, clipped = self._states, self._action_bounds.clip(actions)
        self._states = self.task.simulate(self.np_random, previous, clipped)
        values = self._cost_values()
        rewards, terminations, successes = self.task.outcomes(previous, self._states, values[VIOLATION])
        values[SUCCESS] = successes
        self._steps += 1
        truncations = self._steps >= self._max_steps
        infos = _with_masks(values, np.ones(self.num_envs, dtype=bool))
        observations = self.task.observe(self._states)
        ended = terminations | truncations
        if ended.any():
            infos |= _final_infos(observations, values, ended)
            self._restart(ended, {})
            observations = self.task.observe(self._states)
        return observations, rewards, terminations, truncations, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """One picture ``[H, W, 3]`` per copy, of the current positions; ``None`` without a render mode.

        Raises:
            gymnasium.error.DependencyNotInstalled: if Pillow is missing.
            gymnasium.error.ResetNeeded: before the first ``reset()``.
        """
        if self.render_mode is None:
            return None
        if not self._is_ready:
            raise ResetNeeded("call reset() before render()")
        if self._renderer is None:
            from safe_envs.core.rendering import SceneRenderer

            self._renderer = SceneRenderer(self.scene)
        return tuple(self._renderer.draw(position[None]) for position in self.task.positions(self._states))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_renderer": None}

    def _cost_values(self) -> dict[str, NDArray[Any]]:
        terms = self.task.cost_terms(self._states)
        costs = self.task.total_costs(terms)
        values: dict[str, NDArray[Any]] = {COST: costs, VIOLATION: costs > 0.0}
        for name, term in terms.items():
            values[COST_TERM_PREFIX + name] = term
        return values

    def _restart(self, mask: BoolArray, options: Mapping[str, Any]) -> None:
        # A new array: the old one may still be held as the previous states.
        states = self._states.copy()
        states[mask] = self.task.start_states(self.np_random, int(np.count_nonzero(mask)), options)
        self._states = states
        self._steps[mask] = 0


def reset_mask(options: Mapping[str, Any], num_envs: int, is_ready: bool) -> BoolArray:
    """Which of the environments ``options["reset_mask"]`` says to reset; without it all, as the first time.

    Raises:
        ValueError: if it does not fit.
    """
    mask = np.asarray(options.get(RESET_MASK_OPTION, np.ones(num_envs, dtype=bool)))
    if mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(f"options['{RESET_MASK_OPTION}'] must be [{num_envs}] bool, one True, got {mask!r}")
    if not (is_ready or mask.all()):
        raise ValueError(f"the first reset must be of every environment, got {RESET_MASK_OPTION}={mask!r}")
    return mask


def _with_masks(values: Mapping[str, NDArray[Any]], mask: BoolArray) -> dict[str, Any]:
    infos: dict[str, Any] = {}
    for key, value in values.items():
        infos[key], infos[f"_{key}"] = value, mask
    return infos


def _final_infos(
    observations: NDArray[np.float32], values: Mapping[str, NDArray[Any]], ended: BoolArray
) -> dict[str, Any]:
    """``final_obs`` and ``final_info`` as ``SyncVectorEnv`` fills them: empty where no episode ended."""
    final_obs = np.full(len(ended), None, dtype=object)
    for i in np.flatnonzero(ended):
        final_obs[i] = observations[i]
    # Multiplying by a bool keeps the dtype and zeroes the others, faster than np.where.
    final_info = _with_masks({key: value * ended for key, value in values.items()}, ended)
    return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}
