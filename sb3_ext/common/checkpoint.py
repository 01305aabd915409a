"""Checkpoints: N steps equal N/2 steps, a checkpoint, and N/2 steps more, bit for bit on CPU."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.her import HerReplayBuffer

from safe_wrappers.files import atomic_folder, atomic_path
from sb3_ext.common.buffers import forget_last_step

POINTER = "LATEST"
STATISTICS = ("obs_rms", "ret_rms")


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
        if "spaces do not match" in str(error):  # the file is fine, the environment is another one
            raise
        expected = "" if type(error) is ValueError else f" (expected a complete file that sb3_ext wrote as {what})"
        raise ValueError(f"{path} cannot be read as {what}: {error}{expected}") from error


def plain_data(path: Any) -> dict[str, Any]:
    """What a file says of itself in plain text: nothing is unpickled."""
    file = open_path(path, "r", suffix="zip")
    with contextlib.nullcontext() if file is path else file, zipfile.ZipFile(file) as archive:
        data: dict[str, Any] = json.loads(archive.read("data"))
    return data


def check_holds(path: Any, cls: type[Any]) -> dict[str, Any]:
    """The plain data of a file that holds a model of ``cls``; raises ``ValueError`` if it holds something else.

    Classes without parts of their own read the files of their SB3 base, too.
    """
    data = plain_data(path)
    if "format" in data:
        kind = data["format"].split()[1]
        raise ValueError(f"it is a {kind}: load_{kind} reads it")
    if "algorithm" in data:
        if data["algorithm"] != cls.__name__:  # parts of the same names and shapes would fit by accident
            raise ValueError(f"it holds a {data['algorithm']}")
        return data
    module = data.get("policy_class", {}).get("__module__")
    if cls.parts or module != cls.policy_aliases["MlpPolicy"].__module__:
        raise ValueError(
            f"it is a model of another library's algorithm, with a policy of {module}; {cls.__name__}(...)"
            ".set_parameters(path, exact_match=False) takes over networks of the same names and shapes"
        )
    return data


def save(model: Any, folder: str | Path) -> None:
    """Write a checkpoint into a new sub-folder, then point to it, then remove the older ones."""
    folder = Path(folder)
    environments = {name: pack_env(getattr(model, name, None)) for name in model.environments}
    if environments["env"].pickled is None:
        _reset_environments(model, model.num_timesteps)
    with atomic_folder(folder) as temporary:
        model.save(temporary / "model.zip")
        _dump(temporary / "buffers.pkl", {name: getattr(model, name, None) for name in model.buffers})
        _dump(temporary / "environments.pkl", environments)
        _dump(temporary / "state.pkl", _random_state(model) | {"costs": model._costs, "steps": model.num_timesteps})
        # A new name each time: the checkpoint that the pointer names is never touched, not even at the same step.
        final = folder / f"steps-{model.num_timesteps:09d}{temporary.stem}"
        os.replace(temporary, final)
    with atomic_path(folder / POINTER) as pointer:
        pointer.write_text(final.name)
    for other in folder.glob("steps-*"):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)


def load(cls: type[Any], folder: str | Path, env: Any, device: th.device | str, **kwargs: Any) -> Any:
    """Read the checkpoint that ``folder`` points to; see ``SafeAlgorithm.load_checkpoint``."""
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
    if environments["env"].pickled is None and env is None:
        raise ValueError(f"the environments of {folder} could not be copied into it: pass env=, made as for training")
    environment = unpack_env(environments["env"]) if env is None else env
    model = cls.load(complete / "model.zip", env=environment, device=device, force_reset=False, **kwargs)
    model.env.unwrapped._reset_seeds()  # load has seeded it for a reset that this run never made
    for name in model.environments[1:]:
        if environments[name].pickled is not None:
            setattr(model, name, unpack_env(environments[name]))
    for name, buffer in buffers.items():
        if buffer is not None:
            buffer.device = model.device
            setattr(model, name, buffer)
    if isinstance(getattr(model, "replay_buffer", None), HerReplayBuffer):
        model.replay_buffer.set_env(model.env)
    model._costs = state["costs"]
    if env is not None:
        _adopt_statistics(model.get_vec_normalize_env(), environments["env"])
        _reset_environments(model, state["steps"])
    _restore_random_state(model, state)
    return model


def has_checkpoint(folder: str | Path) -> bool:
    """Whether ``folder`` holds a complete checkpoint."""
    return (Path(folder) / POINTER).is_file()


def holds_environments(folder: str | Path) -> bool:
    """Whether the environments came into the checkpoint; else ``load_checkpoint`` needs ``env``."""
    folder = Path(folder)
    with readable(folder, "checkpoint"):
        environments = cloudpickle.loads((folder / (folder / POINTER).read_text() / "environments.pkl").read_bytes())
    return environments["env"].pickled is not None


def _dump(path: Path, value: Any) -> None:
    with path.open("wb") as file:
        cloudpickle.dump(value, file)


class PackedEnv(NamedTuple):
    """A VecEnv as its wrappers (class, state), outermost first, and the innermost one; None where it has no copy.

    Of wrappers without a copy the state is their statistics only.
    """

    wrappers: list[tuple[type, dict[str, Any]]]
    pickled: bytes | None


def pack_env(env: VecEnv | None) -> PackedEnv:
    """What is needed to build a copy of ``env``, as far as it can be copied."""
    wrappers = []
    while isinstance(env, VecEnvWrapper):
        state = {k: v for k, v in vars(env).items() if k not in ("venv", "class_attributes")}
        wrappers.append((type(env), state))
        env = env.venv
    try:
        # Pickled first: a deep copy of an environment in other processes closes the original's pipes when it goes.
        wrappers, pickled = copy.deepcopy(wrappers), None if env is None else cloudpickle.dumps(env)
        copy.deepcopy(env)  # what can be pickled is not always a copy (some simulators come back fresh); this refuses
    except Exception:  # third-party environments fail to copy in ways of their own
        pickled = None
        wrappers = [(kind, {k: state[k] for k in STATISTICS if k in state}) for kind, state in wrappers]
    return PackedEnv(wrappers, pickled)


def unpack_env(packed: PackedEnv) -> VecEnv:
    """The copy that ``pack_env`` described."""
    assert packed.pickled is not None
    env: Any = cloudpickle.loads(packed.pickled)
    for kind, state in reversed(packed.wrappers):
        wrapper = kind.__new__(kind)
        wrapper.__dict__.update(state, venv=env, class_attributes=dict(inspect.getmembers(kind)))
        env = wrapper
    return env


def _adopt_statistics(normalizer: VecNormalize | None, packed: PackedEnv) -> None:
    """Go on with the statistics of the checkpoint, in environments that are not from it."""
    for kind, state in packed.wrappers:
        if normalizer is not None and issubclass(kind, VecNormalize):
            vars(normalizer).update({name: state[name] for name in STATISTICS if name in state})


def _reset_environments(model: Any, steps: int) -> None:
    """Start new episodes from a seed of the model's and the step count, in this run and in the continued one."""
    if model.env is not None:  # hashed: the sum would be another run's seed, or that of an evaluation
        model.env.seed(int(np.random.SeedSequence((model.seed or 0, steps)).generate_state(1)[0]))
    forget_last_step(model)
    model._costs.reset()


def _random_state(model: Any) -> dict[str, Any]:
    return {
        "torch": th.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "action_space": copy.deepcopy(model.action_space.np_random.bit_generator.state),
        "action_noise": copy.deepcopy(model.action_noise),
        "exploration": copy.deepcopy(getattr(model, "_exploration", None)),
    }


def _restore_random_state(model: Any, state: dict[str, Any]) -> None:
    th.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    model.action_space.np_random.bit_generator.state = state["action_space"]
    model.action_noise = state["action_noise"]
    if state.get("exploration") is not None:
        model._exploration = state["exploration"]
