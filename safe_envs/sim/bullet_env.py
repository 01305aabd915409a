"""``BulletEnv``: what every PyBullet environment shares; life of its world, crashes, and copies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle
from numpy.typing import ArrayLike, NDArray

from safe_envs.core.env import SafeEnv, SimulationError, SimulatorCrashedError
from safe_envs.core.geometry import FloatArray
from safe_envs.sim.bullet_sim import BulletError, BulletSim


class BulletEnv(EzPickle, SafeEnv):
    """A ``SafeEnv`` with a PyBullet world of its own.

    The world is built at the first ``reset()`` and restored to the state it was built in at every later one, so an
    episode depends on nothing that came before it but the generator. ``close()`` frees it; a later ``reset()``
    builds another.

    A PyBullet world cannot be copied: a pickle holds the constructor's arguments and comes back as a fresh
    environment, and ``copy.deepcopy`` raises ``TypeError``.

    Args:
        render_mode: see ``SafeEnv``.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        SafeEnv.__init__(self, render_mode)  # EzPickle's constructor takes all arguments: the subclass calls it
        self._sim: BulletSim | None = None
        self._is_sound = True
        self._built_state = -1
        self._step_count = 0

    @abstractmethod
    def _build(self, sim: BulletSim) -> None:
        """Load the bodies into an empty world."""

    @abstractmethod
    def _start_episode(self, sim: BulletSim) -> None:
        """Draw and set the initial state, from the world as it was built."""

    @abstractmethod
    def _advance(self, sim: BulletSim, action: FloatArray) -> None:
        """Simulate one step; raise ``SimulationError`` and keep the last valid state if physics is unstable."""

    @property
    def sim(self) -> BulletSim:
        """The world.

        Raises:
            gymnasium.error.ResetNeeded: before ``reset()`` and after ``close()``, when there is none.
        """
        if self._sim is None:
            raise ResetNeeded(f"{self._name} has no physics server yet: call reset()")
        return self._sim

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``SafeEnv.reset``.

        Raises:
            SimulatorCrashedError: if the physics server fails.
        """
        try:
            return super().reset(seed=seed, options=options)
        except BulletError as error:
            self._crash(error)

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; see ``SafeEnv.step``.

        Raises:
            SimulatorCrashedError: if the physics server is gone; the message names the environment and the step.
        """
        try:
            return super().step(action)
        except BulletError as error:
            self._crash(error)

    def render(self) -> NDArray[np.uint8] | None:
        """See ``SafeEnv.render``."""
        try:
            return super().render()
        except BulletError as error:
            self._crash(error)

    def close(self) -> None:
        """Free the world and close the window; calling it again does nothing."""
        super().close()
        self._is_ready = False
        self._drop_world()

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise TypeError(
            f"{self._name} cannot be deep-copied: a PyBullet world has no copies. Make another with "
            "gym.make(env.spec), or pickle it, which gives a fresh environment with the same arguments"
        )

    def _reset_state(self, options: Mapping[str, Any]) -> None:
        self._step_count = 0
        if self._sim is None or not (self._is_sound and self._sim.isConnected()):
            self._new_world()
        # The first time too: a restored world need not equal one that was never saved to the last bit.
        self.sim.restoreState(self._built_state)
        self._start_episode(self.sim)

    def _simulate(self, action: FloatArray) -> None:
        self._step_count += 1
        try:
            self._advance(self.sim, action)
        except SimulationError:
            # Non-finite numbers stay in the caches of a world, beyond what restoring a state replaces.
            self._is_ready = self._is_sound = False
            raise

    def _new_world(self) -> None:
        self._drop_world()
        self._sim, self._is_sound = BulletSim(), True
        self._build(self._sim)
        self._built_state = self._sim.saveState()

    def _drop_world(self) -> None:
        self._renderer = None
        if self._sim is not None:
            self._sim.close()
        self._sim = None

    def _crash(self, error: Exception) -> NoReturn:
        self._is_ready = False
        self._drop_world()
        raise SimulatorCrashedError(
            f"the physics server of {self._name} failed at step {self._step_count}: {error}; reset() starts a new one"
        ) from error

    @property
    def _name(self) -> str:
        return self.spec.id if self.spec is not None else type(self).__name__


def check_finite(name: str, values: FloatArray) -> FloatArray:
    """Return ``values``.

    Raises:
        SimulationError: if one of them is not finite.
    """
    if not np.isfinite(values).all():
        raise SimulationError(f"{name} is no longer finite")
    return values
