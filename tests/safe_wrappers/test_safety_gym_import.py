"""How Safety-Gymnasium is imported: what is missing, what was tried before, what is left behind."""

import subprocess
import sys

import pytest
from bridge import safety_gymnasium  # noqa: F401  # skips these tests where it is missing

MAKE = """
env = safety_gym.make("SafetyPointGoal1-v0")
env.reset(seed=0)
print(len(env.step(env.action_space.sample())))
"""
CASES = {
    "twice": f"""
from safe_wrappers import safety_gym
{MAKE}
assert safety_gym.load() is safety_gym.load()
import safety_gymnasium
assert safety_gymnasium is safety_gym.load()
""",
    "after a failed import": f"""
try:
    import safety_gymnasium
    raise SystemExit("it can be imported now: the bridge is not needed any more")
except Exception:
    pass
from safe_wrappers import safety_gym
{MAKE}
""",
    "nothing left behind": f"""
import dataclasses, sys, gymnasium.wrappers
before = dataclasses.dataclass, set(vars(gymnasium.wrappers))
from safe_wrappers import safety_gym
from safe_wrappers.safety_gym.compat import OLD_MODULES
assert not set(OLD_MODULES) & set(sys.modules)
assert before == (dataclasses.dataclass, set(vars(gymnasium.wrappers)))
{MAKE}
""",
    "missing": """
import importlib.metadata as metadata, gymnasium
def version(name):
    raise metadata.PackageNotFoundError(name)
metadata.version = version
try:
    gymnasium.make("safe_wrappers.safety_gym:SafetyPointGoal1Gymnasium-v0")
except gymnasium.error.DependencyNotInstalled as error:
    assert "pip install --no-deps safety-gymnasium==1.0.0 && pip install mujoco" in str(error)
    print(5)
""",
    "another version, then the right one": f"""
import sys, gymnasium
import importlib.metadata as metadata
version, metadata.version = metadata.version, lambda name: "0.4.1"
try:
    from safe_wrappers import safety_gym
    raise SystemExit("imported")
except gymnasium.error.DependencyNotInstalled as error:
    assert "expected Safety-Gymnasium 1.0.0, found 0.4.1: `pip" in str(error)
sys.modules["safe_wrappers.safety_gym.installation"].version = version
from safe_wrappers import safety_gym
{MAKE}
""",
    "needs something": """
import importlib.util, gymnasium
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "xmltodict" else find_spec(name, *args)
try:
    from safe_wrappers import safety_gym
except gymnasium.error.DependencyNotInstalled as error:
    assert "needs xmltodict: `pip" in str(error)
    print(5)
""",
}


@pytest.mark.parametrize("case", CASES)
def test_import(case):
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", CASES[case]], capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, "5"), found.stderr
