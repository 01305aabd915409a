"""Which environments a test of the whole registry runs on."""

from importlib.util import find_spec

import pytest

from safe_envs.registration import ENTRIES

BULLET_IDS = ["safe/AntRun-v0", "safe/PandaPush-v0", "safe/PandaPushGoal-v0"]
MUJOCO_IDS = ["safe/CartPoleLength-v0", "safe/HalfCheetahDisabled-v0", "safe/AntDisabled-v0"]
HALLWAY_IDS = [entry.env_id for entry in ENTRIES if "Hallway" in entry.env_id]
BATCHED_IDS = [entry.env_id for entry in ENTRIES if entry.vector_env is not None]

needs_bullet = pytest.mark.skipif(
    find_spec("pybullet") is None or find_spec("panda_gym") is None,
    reason="PyBullet is not installed (the extra 'bullet'; no wheel for Python 3.12 and later)",
)
needs_mujoco = pytest.mark.skipif(find_spec("mujoco") is None, reason="MuJoCo is not installed (the extra 'mujoco')")


def _needs(env_id):
    return needs_bullet if env_id in BULLET_IDS else needs_mujoco if env_id in MUJOCO_IDS + HALLWAY_IDS else ()


every_env = pytest.mark.parametrize("env_id", [pytest.param(e.env_id, marks=_needs(e.env_id)) for e in ENTRIES])
copyable_env = pytest.mark.parametrize(
    "env_id", [pytest.param(i, marks=_needs(i)) for i in [*BATCHED_IDS, *MUJOCO_IDS, *HALLWAY_IDS]]
)
batched_env = pytest.mark.parametrize("env_id", BATCHED_IDS)
