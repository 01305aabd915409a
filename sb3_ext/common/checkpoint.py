"""Checkpoints: N steps equal N/2 steps, a checkpoint, and N/2 steps more, bit for bit on CPU."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.her import HerReplayBuffer

from sb3_ext.common.files import atomic_folder, atomic_path

POINTER = "LATEST"
BUFFERS = ("replay_buffer", "offline_buffer", "safety_buffer")
ENVIRONMENTS = ("env", "_safety_env")


@contextlib.contextmanager
def readable(path: Any, what: str) -> Iterator[None]:
    """Turn the many ways in which a broken or foreign file fails into one ``ValueError`` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (
        zipfile.BadZipFile, KeyError, EOFError, RuntimeError, AttributeError, TypeError, pickle.UnpicklingError,
        AssertionError, ValueError, ModuleNotFoundError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} cannot be read as a saved {what}: {error} "
            f"(expected a complete file written by {what}.save of this package)"
        ) from error


def save(model: Any, folder: str | Path) -> None:
    """Write a checkpoint into a new sub-folder, then point to it, then remove the older ones."""
    folder = Path(folder)
    environments = {name: _pack(getattr(model, name, None)) for name in ENVIRONMENTS}
    if environments["env"] is None:
        _reset_environments(model, model.num_timesteps)
    with atomic_folder(folder) as temporary:
        model.save(temporary / "model.zip")
        _dump(temporary / "buffers.pkl", {name: getattr(model, name, None) for name in BUFFERS})
        _dump(temporary / "environments.pkl", environments)
        _dump(temporary / "state.pkl", _random_state(model) | {"costs": model._costs, "steps": model.num_timesteps})
        final = folder / f"steps-{model.num_timesteps:09d}"
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    with atomic_path(folder / POINTER) as pointer:
        pointer.write_text(final.name)
    for other in folder.glob("steps-*"):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def load(cls: type[Any], folder: str | Path, env: Any, device: th.device | str) -> Any:
    """Read the checkpoint that ``folder`` points to; see ``SafeOffPolicy.load_checkpoint``."""
    pointer = Path(folder) / POINTER
    if not pointer.is_file():
        raise ValueError(
            f"{folder} holds no complete checkpoint: expected the file {POINTER} that save_checkpoint writes"
        )
    complete = Path(folder) / pointer.read_text()
    with readable(complete, "checkpoint"):
        buffers, environments, state = (
            cloudpickle.loads((complete / f"{name}.pkl").read_bytes()) for name in ("buffers", "environments", "state")
        )
    if environments["env"] is None and env is None:
        raise ValueError(f"the environments of {folder} could not be copied into it: pass env=, made as for training")
    model = cls.load(complete / "model.zip", device=device)
    model.set_env(_unpack(*environments["env"]) if env is None else env, force_reset=False)
    if environments["_safety_env"] is not None:
        model._safety_env = _unpack(*environments["_safety_env"])
    for name, buffer in buffers.items():
        if buffer is not None:
            setattr(model, name, buffer)
    if isinstance(model.replay_buffer, HerReplayBuffer):
        model.replay_buffer.set_env(model.env)
    model._costs = state["costs"]
    if env is not None:
        _reset_environments(model, state["steps"])
    _restore_random_state(model, state)
    return model


def has_checkpoint(folder: str | Path) -> bool:
    """Whether ``folder`` holds a complete checkpoint."""
    return (Path(folder) / POINTER).is_file()


def _dump(path: Path, value: Any) -> None:
    with path.open("wb") as file:
        cloudpickle.dump(value, file)


def _pack(env: VecEnv | None) -> tuple[list[tuple[type, dict[str, Any]]], bytes] | None:
    """The VecEnv as its wrappers (class, state), outermost first, and the pickled innermost one; None if impossible."""
    if env is None:
        return None
    wrappers = []
    while isinstance(env, VecEnvWrapper):
        state = {k: v for k, v in vars(env).items() if k not in ("venv", "class_attributes")}
        wrappers.append((type(env), state))
        env = env.venv
    try:
        # What can be pickled is not always a copy (some simulators come back fresh); deepcopy refuses those.
        return copy.deepcopy(wrappers), cloudpickle.dumps(copy.deepcopy(env))
    except Exception:  # third-party environments fail to copy in ways of their own
        return None


def _unpack(wrappers: list[tuple[type, dict[str, Any]]], pickled: bytes) -> VecEnv:
    env: Any = cloudpickle.loads(pickled)
    for kind, state in reversed(wrappers):
        wrapper = kind.__new__(kind)
        wrapper.__dict__.update(state, venv=env, class_attributes=dict(inspect.getmembers(kind)))
        env = wrapper
    return env


def _reset_environments(model: Any, steps: int) -> None:
    """Start new episodes from seeds that depend on the step count only, in this run and in the continued one."""
    if model.env is not None:
        model.env.seed((model.seed or 0) + steps)
    model._last_obs = None
    model._costs.reset()


def _random_state(model: Any) -> dict[str, Any]:
    return {
        "torch": th.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "action_space": copy.deepcopy(model.action_space.np_random.bit_generator.state),
        "action_noise": copy.deepcopy(model.action_noise),
    }


def _restore_random_state(model: Any, state: dict[str, Any]) -> None:
    th.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    model.action_space.np_random.bit_generator.state = state["action_space"]
    model.action_noise = state["action_noise"]
