"""``ActuatorPower``: an environment whose actuators have lost power."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike, NDArray

from safe_wrappers.actions import check_proposed, clip_to_box


class ActuatorPower(gym.ActionWrapper, RecordConstructorArgs):
    """Scales every entry of the action: 1 leaves an actuator as it is, 0 disables it.

    For any environment whose actions are forces, torques or speeds, such as MuJoCo's and PyBullet's. The agent still
    chooses from the whole action space, and is not told (MESA, sections 7.1 and 7.2: disabled joints, partial failure).

    Args:
        env: environment with a Box of actions that contains 0.
        power: scales in [0, 1], one for all actuators or one for each (the shape of an action).

    Raises:
        ValueError: for other action spaces or powers; in ``step``, for an action of another shape, or not finite.

    Example:
        >>> env = ActuatorPower(gym.make("Pendulum-v1"), 0.5)
        >>> env.action(np.array([2.0], dtype=np.float32))
        array([1.], dtype=float32)
    """

    def __init__(self, env: gym.Env[Any, Any], power: ArrayLike) -> None:
        RecordConstructorArgs.__init__(self, power=power)
        gym.ActionWrapper.__init__(self, env)
        space = env.action_space
        if not isinstance(space, spaces.Box) or not space.contains(np.zeros(space.shape, space.dtype)):
            raise ValueError(f"ActuatorPower needs a Box of actions that contains 0, got {space}")
        scales = np.asarray(power, dtype=np.float64)
        if scales.shape not in ((), space.shape) or not ((scales >= 0.0) & (scales <= 1.0)).all():
            raise ValueError(f"power must be in [0, 1], a number or an array of shape {space.shape}, got {power!r}")
        self.power: NDArray[np.float64] = np.broadcast_to(scales, space.shape)
        self._space = space

    def action(self, action: NDArray[Any]) -> NDArray[Any]:
        """What the environment gets: an actuator cannot make up for lost power by a larger action."""
        clipped = clip_to_box(check_proposed(action, self._space.shape), self._space)
        return (clipped * self.power).astype(self._space.dtype)
