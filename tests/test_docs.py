"""The documentation runs: doctests of every module, the README's Python blocks, and the examples."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import runpy
import shutil
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "safe_envs" / "hallway" / "assets" / "deepmimic_clips.npz"
PACKAGES = ("safe_wrappers", "safe_envs", "sb3_ext", "safe_bench")
TINY = {
    "train_recovery_rl.py": ["--steps", "120", "--pretrain", "20"],
    "filter_any_agent.py": ["--steps", "1600", "--episodes", "2"],
    "mask_actions.py": ["--steps", "64"],
    "add_cost_to_your_env.py": ["--steps", "150"],
    "evaluate_and_record.py": ["--steps", "500", "--pretrain", "20", "--out", "evaluation"],
    "train_on_a_vector_env.py": ["--steps", "6400"],
    "correct_your_model.py": ["--steps", "120", "--corrections", "120", "--episodes", "1"],
    "correct_a_controller.py": ["--steps", "120", "--clone", "200", "--episodes", "1"],
    "adapt_a_safety_critic.py": ["--iterations", "3", "--episodes", "1"],
    "hallway_transfer.py": ["--steps", "400", "--episodes", "1"],
    "ray_actors.py": ["--steps", "400", "--envs", "2", "--actors", "1", "--every", "100"],
    "safety_gym_ppo_lag.py": ["--steps", "2048", "--episodes", "1"],
}
EXPECTED = {"mask_actions.py": "accepted: True"}


def module_names():
    found = [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")
    ]
    return [*PACKAGES, *found]


PAGES = {  # and what they need
    "correction.md": ["pybullet"], "environments.md": ["pybullet"], "hallway.md": ["mujoco", "numba", "ray"],
    "safety_gym.md": ["safety_gymnasium"], "sb3.md": [], "transfer.md": [],
}  # fmt: skip


def python_blocks(page="README.md"):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def shortened(code):
    """The same code with a tenth of the data and 200 steps of training: what is tested is that it runs as printed."""
    code = re.sub(r"(learn\(|meta_train\(others, |learn_distributed\(model, make_env, )[\d_]+", r"\g<1>200", code)
    return re.sub(r"(\d)_000\b", r"\g<1>00", code)


@pytest.mark.parametrize("name", module_names())
def test_doctests(name):
    if name.startswith("safe_wrappers.safety_gym") and importlib.util.find_spec("safety_gymnasium") is None:
        pytest.skip("Safety-Gymnasium is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a doctest trains a few steps only, and is told so
        try:
            module = importlib.import_module(name)
        except DependencyNotInstalled as missing:
            pytest.skip(str(missing))
        failures, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failures == 0


def public_classes():
    """The algorithms, callbacks and wrappers: what a user constructs."""
    import safe_wrappers
    import sb3_ext

    bases = (BaseAlgorithm, BaseCallback, VecEnv, gym.Wrapper)
    found = [getattr(package, name) for package in (safe_wrappers, sb3_ext) for name in package.__all__]
    return [item for item in found if isinstance(item, type) and issubclass(item, bases)]


@pytest.mark.parametrize("item", public_classes(), ids=lambda item: item.__name__)
def test_every_public_class_shows_how_it_is_used(item):
    assert ">>>" in item.__doc__


@pytest.mark.parametrize("index", range(len(python_blocks())))
def test_readme_blocks_run(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(shortened(python_blocks()[index]), f"README block {index}", "exec"), {"__name__": "__main__"})


def test_every_page_with_code_is_run():
    assert {path.name for path in (ROOT / "docs").glob("*.md") if python_blocks(path)} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    for module in PAGES[page]:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_clips").mkdir()
    shutil.copy(CLIPS, tmp_path / "my_clips")
    names = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so little training is worth a few
        for block in python_blocks(Path("docs") / page):
            exec(compile(shortened(block), page, "exec"), names)


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *TINY[script]])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    output = capsys.readouterr().out
    assert output.strip() and EXPECTED.get(script, "") in output


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(script):
    assert len(script.read_text().splitlines()) < 60
