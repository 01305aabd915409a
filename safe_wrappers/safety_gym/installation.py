"""Is Safety-Gymnasium there, in the version that the bridge is written for?"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from gymnasium.error import DependencyNotInstalled

VERSION = "1.0.0"
# What Safety-Gymnasium imports: module -> distribution. Its own requirements are pins of 2023, hence --no-deps.
REQUIREMENTS = {
    "mujoco": "mujoco",
    "xmltodict": "xmltodict",
    "yaml": "pyyaml",
    "imageio": "imageio",
}
INSTALL = f"pip install --no-deps safety-gymnasium=={VERSION} && pip install {' '.join(REQUIREMENTS.values())}"
"""The commands that install Safety-Gymnasium and what it needs."""


def check_installation() -> None:
    """Check that Safety-Gymnasium and what it needs are installed.

    Raises:
        gymnasium.error.DependencyNotInstalled: naming what is missing, or the version found, and ``INSTALL``.
    """
    try:
        found = version("safety-gymnasium")
    except PackageNotFoundError:
        raise DependencyNotInstalled(f"Safety-Gymnasium is not installed: `{INSTALL}`") from None
    if found != VERSION:
        raise DependencyNotInstalled(f"expected Safety-Gymnasium {VERSION}, found {found}: `{INSTALL}`")
    missing = [name for module, name in REQUIREMENTS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise DependencyNotInstalled(f"Safety-Gymnasium needs {', '.join(missing)}: `{INSTALL}`")
