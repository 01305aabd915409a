"""Settings of the whole suite."""

import os

import pytest
import torch as th

# Without a display SDL's own choice opens EGL, and closes it for MuJoCo's renderers too.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

th.set_num_threads(1)  # on small machines the threads of tiny networks cost more than they save


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Every test starts from the same torch seed, so that none depends on those before it."""
    th.manual_seed(0)
