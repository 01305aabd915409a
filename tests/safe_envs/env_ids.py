"""Which environments a test of the whole registry runs on."""

from importlib.util import find_spec

import pytest

from safe_envs.registration import ENTRIES

BULLET_IDS = ["safe/AntRun-v0", "safe/PandaPush-v0", "safe/PandaPushGoal-v0"]
BATCHED_IDS = [entry.env_id for entry in ENTRIES if entry.vector_env is not None]

needs_bullet = pytest.mark.skipif(
    find_spec("pybullet") is None or find_spec("panda_gym") is None,
    reason="PyBullet is not installed (the extra 'bullet'; no wheel for Python 3.12 and later)",
)
every_env = pytest.mark.parametrize(
    "env_id",
    [pytest.param(entry.env_id, marks=needs_bullet if entry.env_id in BULLET_IDS else ()) for entry in ENTRIES],
)
batched_env = pytest.mark.parametrize("env_id", BATCHED_IDS)
