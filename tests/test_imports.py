"""The walls between the packages: who imports what, and where the info keys are spelled."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("safe_wrappers", "safe_envs", "sb3_ext", "safe_bench")
FILES = [path.relative_to(ROOT) for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
INFO_KEYS = {"constraint_violation", "executed_action", "proposed_action", "intervened", "episode_cost"}

ALLOWED = {
    "safe_wrappers": {"safe_wrappers", "gymnasium", "numpy"},
    "safe_envs": {
        "safe_envs", "gymnasium", "numpy",
        *(f"safe_wrappers.{part}" for part in ("actions", "files", "info", "observations", "tasks", "transitions")),
    },
    "sb3_ext": {
        "sb3_ext", "safe_wrappers", "gymnasium", "numpy",
        "torch", "stable_baselines3", "sb3_contrib", "cloudpickle",
    },
}  # fmt: skip
BRIDGE = {"safety_gymnasium", "mujoco", "yaml"}
INSIDE_FUNCTIONS = {"safe_envs": {"PIL", "pygame", "minari", "numba", "h5py"}, "sb3_ext": {"ray"}}
KERNELS = Path("safe_envs/hallway/raycast.py")  # compiled as a whole, and only imported where numba is there
SIMULATORS = {"mujoco", "pybullet", "pybullet_data", "panda_gym"}


class Import(NamedTuple):
    name: str  # dotted, down to the imported name
    line: int
    deferred: bool  # inside a function, or for the type checker only


def within(name, prefixes):
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def imported_names(node, file):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = file.parent.parts[: len(file.parent.parts) - node.level + 1]
        base = ".".join((*package, *filter(None, [base])))
    return [f"{base}.{alias.name}" for alias in node.names]


def imports(file, source):
    found = []

    def visit(node, deferred):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend(Import(name, node.lineno, deferred) for name in imported_names(node, file))
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, deferred or is_function or is_typing)

    visit(ast.parse(source), False)
    return found


def is_submodule(name):
    return (ROOT / "safe_envs" / name).is_dir() or (ROOT / "safe_envs" / f"{name}.py").is_file()


def is_allowed(file, found):
    package = file.parts[0]
    if package == "safe_bench":
        parts = found.name.split(".")
        return parts[0] != "safe_envs" or len(parts) == 1 or not is_submodule(parts[1])
    if within(found.name, sys.stdlib_module_names | ALLOWED[package]):
        return True
    if package == "safe_envs" and within(found.name, SIMULATORS):
        return file.parts[1] == "sim"
    if file == KERNELS and within(found.name, {"numba"}):
        return True
    if package == "safe_wrappers" and within(found.name, BRIDGE):
        return file.parts[1] == "safety_gym"
    return found.deferred and within(found.name, INSIDE_FUNCTIONS.get(package, ()))


def broken_walls(file, source):
    return [f"{file}:{i.line} imports {i.name}" for i in imports(file, source) if not is_allowed(file, i)]


def docstrings(tree):
    """Texts that stand alone as a statement: docstrings of modules, classes, functions and constants."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def spelled_keys(file, source):
    tree = ast.parse(source)
    skipped = docstrings(tree)
    constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in skipped)
    return [f"{file}:{n.lineno} spells out {n.value!r}" for n in constants if n.value in INFO_KEYS]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_stay_inside_the_walls(file):
    assert broken_walls(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize("file", [f for f in FILES if f != Path("safe_wrappers/info.py")], ids=str)
def test_info_keys_are_spelled_in_one_file(file):
    assert spelled_keys(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    "file, line, is_broken",
    [
        ("safe_wrappers/x.py", "import torch", True),
        ("safe_wrappers/x.py", "def f():\n    import sb3_ext", True),
        ("safe_wrappers/x.py", "def f():\n    import safety_gymnasium", True),
        ("safe_wrappers/safety_gym/x.py", "from safety_gymnasium import tasks\nimport mujoco", False),
        ("safe_wrappers/safety_gym/x.py", "import stable_baselines3", True),
        ("safe_wrappers/x.py", "from . import info", False),
        ("safe_envs/x.py", "from safe_wrappers import info", False),
        ("safe_envs/x.py", "from safe_wrappers.transitions import Transitions", False),
        ("safe_envs/x.py", "from safe_wrappers import CostMonitor", True),
        ("safe_envs/x.py", "import pygame", True),
        ("safe_envs/x.py", "def f():\n    import pygame", False),
        ("safe_envs/core/x.py", "def f():\n    import mujoco", True),
        ("safe_envs/sim/x.py", "import mujoco", False),
        ("safe_envs/core/x.py", "from ...sb3_ext import RecoveryRL", True),
        ("sb3_ext/common/x.py", "from safe_wrappers import RecoveryFilter", False),
        ("sb3_ext/common/x.py", "import safe_envs", True),
        ("safe_bench/x.py", "import safe_envs, sb3_ext, matplotlib", False),
        ("safe_bench/x.py", "from safe_envs.navigation import Navigation", True),
    ],
)
def test_the_reader_of_imports(file, line, is_broken, monkeypatch):
    monkeypatch.setattr(f"{__name__}.is_submodule", lambda name: name == "navigation")
    assert bool(broken_walls(Path(file), line)) is is_broken


def test_the_reader_of_keys():
    assert spelled_keys("x.py", 'def f(info):\n    """intervened"""\n    return info["intervened"]') == [
        "x.py:3 spells out 'intervened'"
    ]


@pytest.mark.parametrize("package", ["safe_wrappers", "safe_envs"])
def test_light_packages_load_nothing_heavy(package):
    heavy = ["torch", "stable_baselines3", "mujoco", "pybullet", "panda_gym", "numba", "matplotlib", "pygame", "minari"]
    code = f"import sys, {package}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
