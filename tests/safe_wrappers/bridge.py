"""What the tests of the Safety-Gymnasium bridge share; importing it skips them where the package is missing."""

import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

try:
    from safe_wrappers import safety_gym
except DependencyNotInstalled as error:
    pytest.skip(str(error), allow_module_level=True)
safety_gymnasium = safety_gym.load()


def can_render():
    import mujoco

    try:
        mujoco.GLContext(8, 8).free()
    except Exception:  # what is raised depends on which of the libraries is missing
        return False
    return True


needs_graphics = pytest.mark.skipif(not can_render(), reason="no OpenGL: set MUJOCO_GL=egl or install libosmesa6")


def actions_for(env, n, seed=0):
    space = env.action_space
    return np.random.default_rng(seed).uniform(space.low, space.high, (n, *space.shape))


def flat(observation):
    parts = observation.values() if isinstance(observation, dict) else [observation]
    return b"".join(part.tobytes() for part in parts)


def trajectory(env, n, seed=3):
    """Bytes of the observations, rewards and infos of ``n`` steps and the resets among them."""
    steps = [flat(env.reset(seed=seed)[0])]
    for action in actions_for(env, n):
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((flat(observation), reward, terminated, truncated, info))
        if terminated or truncated:
            steps.append(flat(env.reset()[0]))
    return steps
