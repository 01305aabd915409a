"""``SafeEnv``: the step order and the info contract of every single environment of this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.geometry import FloatArray
from safe_wrappers.info import COST, COST_TERM_PREFIX, SIMULATION_ERROR, SUCCESS, VIOLATION

if TYPE_CHECKING:
    from safe_envs.core.rendering import Window

CostAggregate: TypeAlias = Literal["sum", "any"]
"""How cost terms make up the cost: their sum, or min(1, sum)."""

RENDER_MODES = ("human", "rgb_array")


class SimulatorCrashedError(RuntimeError):
    """The physics server is gone; ``reset()`` starts a new one."""


class SimulationError(RuntimeError):
    """Raised by ``SafeEnv._simulate`` when the physics became unstable."""


class Outcome(NamedTuple):
    """What a step was worth, and whether it ended the episode for good."""

    reward: float
    terminated: bool
    success: bool


class ActionBounds:
    """Validates and clips actions of one ``Box``, or batches of them.

    Args:
        space: the action space; its shape is the shape that actions must have.
    """

    def __init__(self, space: spaces.Box) -> None:
        self._shape = space.shape
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)

    def clip(self, action: ArrayLike) -> FloatArray:
        """The action as float64, clipped to the bounds.

        Raises:
            ValueError: if it has another shape, is no number, or is not finite.
        """
        try:
            values = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"an action must be numbers of shape {self._shape}, got {action!r}") from None
        if values.shape != self._shape:
            raise ValueError(f"an action must have shape {self._shape}, got shape {values.shape}: {action!r}")
        if not np.isfinite(values).all():
            raise ValueError(f"an action must be finite, got {action!r}")
        return np.minimum(np.maximum(values, self._low), self._high)


def check_options(options: Mapping[str, Any] | None, known: tuple[str, ...]) -> None:
    """Raise ``ValueError`` if ``reset(options=...)`` holds other keys than the known ones."""
    if unknown := sorted(map(str, set(options or ()) - set(known))):
        raise ValueError(f"reset options must be among {list(known)}, got {unknown}")


class SafeEnv(gym.Env[Any, NDArray[Any]], ABC):
    """An environment that reports a cost on every step.

    ``step`` runs in a fixed order: validate and clip the action, simulate, cost terms of the new state,
    reward, terminated, info. Every info holds ``cost``, ``cost_<term>``, ``constraint_violation`` and
    ``is_success`` (see ``safe_wrappers.info``). Time limits come from ``max_episode_steps`` only.

    A subclass sets ``observation_space``, ``action_space`` and ``cost_names`` and fills in the hooks below.
    It draws random numbers from ``self.np_random`` only. Copies and pickles go on identically, where the subclass
    says nothing else; they drop what was opened for rendering.

    Args:
        render_mode: ``None``, ``"rgb_array"`` or ``"human"``; nothing is opened before the first
            ``render()``.

    Raises:
        ValueError: if the render mode is not one of those.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as in gym.Env
        "render_modes": list(RENDER_MODES),
        "render_fps": 10,
    }
    action_space: spaces.Box
    cost_names: tuple[str, ...] = ()
    cost_aggregate: CostAggregate = "sum"
    reset_options: tuple[str, ...] = ()

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"render_mode must be None or one of {RENDER_MODES}, got {render_mode!r}")
        if self.cost_aggregate not in get_args(CostAggregate):
            raise ValueError(f"cost_aggregate must be 'sum' or 'any', got {self.cost_aggregate!r}")
        self.render_mode = render_mode
        self._is_ready = False
        self._renderer: Any = None
        self._window: Window | None = None
        self._action_bounds = ActionBounds(self.action_space)

    @abstractmethod
    def _reset_state(self, options: Mapping[str, Any]) -> None:
        """Draw the initial state."""

    @abstractmethod
    def _simulate(self, action: FloatArray) -> None:
        """Move to the next state; raise ``SimulationError`` and keep the last valid state if that fails."""

    @abstractmethod
    def _cost_terms(self) -> dict[str, float]:
        """Cost terms of the current state, by the names in ``cost_names``, each >= 0."""

    @abstractmethod
    def _outcome(self, violation: bool) -> Outcome:
        """Reward, terminated and success of the step that led to the current state."""

    @abstractmethod
    def _observation(self) -> Any:
        """Observation of the current state: a new array, or a dict of new arrays."""

    @abstractmethod
    def _create_renderer(self) -> Any:
        """Whatever ``_draw`` draws with; called at the first ``render()``."""

    @abstractmethod
    def _draw(self) -> NDArray[np.uint8]:
        """Picture of the current state, ``[H, W, 3]``."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``. ``reset_options`` names what ``options`` may hold.

        Raises:
            ValueError: for other options, or values that do not fit; unknown ones change nothing.
        """
        check_options(options, self.reset_options)
        super().reset(seed=seed)
        self._reset_state(options or {})
        self._is_ready = True
        if self.render_mode == "human":
            self.render()
        return self._observation(), {}

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; see ``gymnasium.Env.step``.

        Raises:
            ValueError: if the action has the wrong shape or is not finite; the state stays as it was.
            gymnasium.error.ResetNeeded: before the first ``reset()``.
        """
        if not self._is_ready:
            raise ResetNeeded("call reset() before step()")
        clipped = self._action_bounds.clip(action)
        try:
            self._simulate(clipped)
        except SimulationError as error:
            return self._truncate(error)
        terms = self._cost_terms()
        info = self._cost_info(terms)
        reward, terminated, success = self._outcome(info[VIOLATION])
        info[SUCCESS] = success
        if self.render_mode == "human":
            self.render()
        return self._observation(), reward, terminated, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Picture ``[H, W, 3]`` in mode ``rgb_array``; mode ``human`` shows it and returns ``None``.

        Raises:
            gymnasium.error.DependencyNotInstalled: if Pillow, or pygame in mode ``human``, is missing.
        """
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render mode, e.g. gym.make(id, render_mode='rgb_array')")
            return None
        if self._renderer is None:
            self._renderer = self._create_renderer()
        frame = self._draw()
        if self.render_mode == "rgb_array":
            return frame
        self._show(frame)
        return None

    def close(self) -> None:
        """Close the window, if there is one; calling it again does nothing."""
        if self._window is not None:
            self._window.close()
        self._window = self._renderer = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_renderer": None, "_window": None}

    def _show(self, frame: NDArray[np.uint8]) -> None:
        from safe_envs.core.rendering import Window

        if self._window is None:
            self._window = Window(type(self).__name__, self.metadata["render_fps"])
        self._window.show(frame)

    def _cost_info(self, terms: Mapping[str, float]) -> dict[str, Any]:
        total = sum(terms.values(), 0.0)
        cost = min(1.0, total) if self.cost_aggregate == "any" else total
        info: dict[str, Any] = {COST: cost, VIOLATION: cost > 0.0}
        for name, term in terms.items():
            info[COST_TERM_PREFIX + name] = term
        return info

    def _truncate(self, error: SimulationError) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # The state that unstable physics led to means nothing, so the step is worth nothing either way.
        info = self._cost_info(dict.fromkeys(self.cost_names, 0.0))
        info |= {SUCCESS: False, SIMULATION_ERROR: str(error)}
        return self._observation(), 0.0, False, True, info
