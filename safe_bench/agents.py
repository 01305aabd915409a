"""The agents of a method: models of ``sb3_ext``, fixed controllers, and the safety layer between them and the world."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

import safe_envs
import sb3_ext
from safe_bench.environments import Layer, make_env
from safe_bench.protocols import LayerFit, Method, Stage, get_protocol, run_config
from safe_bench.runs import ORIGIN, RunError, RunFolder, describe_difference, read_json, write_json
from safe_wrappers import SafetyLayer
from sb3_ext.common.controllers import Controller
from sb3_ext.common.rollouts import collect_episodes

SCRIPTED = {"scripted": safe_envs.PushController, "scripted-drag": safe_envs.DragController}
CONTROLLER_SEED = 0
LAYER_FILE = "safety_layer.pt"


def make_model(method: Method, env: VecEnv, seed: int, controller: Controller | None) -> Any:
    """The untrained model of a method, started from its controller if it has one."""
    algorithm = getattr(sb3_ext, str(method.algorithm))
    kwargs = {**method.kwargs, "seed": seed, "device": "cpu"}
    if method.action_noise is not None:
        shape = env.action_space.shape or ()
        kwargs["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, method.action_noise))
    policy = "MlpPolicy"
    if isinstance(env.observation_space, spaces.Dict):
        policy = "MultiInputPolicy"
        if "desired_goal" in env.observation_space.spaces:
            kwargs["replay_buffer_class"] = HerReplayBuffer
    if algorithm is sb3_ext.DualAgent and controller is not None:
        kwargs["baseline"] = controller
    model = algorithm(policy, env, **kwargs)
    if method.imitation is not None:
        how = method.imitation
        settings: dict[str, Any] = {
            "n_transitions": how.steps,
            "steps": how.updates,
            "controller_share": how.controller_share,
        }
        sb3_ext.imitate(model, controller, seed=seed, **settings)
    if method.demonstrations is not None:
        assert controller is not None
        _demonstrate(model, controller, method.demonstrations, seed)
    return model


def _demonstrate(model: Any, controller: Controller, n_steps: int, seed: int) -> None:
    """Fill the replay buffer with whole episodes of the controller."""
    env = model.get_env()
    env.seed(seed)
    while model.replay_buffer.pos < n_steps and not model.replay_buffer.full:
        collect_episodes(controller, env, model.replay_buffer, n_episodes=1)


def find_controller(name: str, out: str | Path, stage: Stage) -> Controller:
    """The fixed policy of that name, for the environment of a stage.

    Args:
        name: of ``SCRIPTED``, a controller of the push; or ``"<protocol>/<method>"``, the ``SafeSAC`` that was trained
            so on its goal form.
        out: where the runs are.
        stage: whose environment it is to act in.

    Raises:
        RunError: if that model has not been trained.
    """
    env = make_env(stage)
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    assert isinstance(action_space, spaces.Box)
    if name in SCRIPTED:
        return Controller(SCRIPTED[name](), observation_space, action_space)
    file = trained_model(name, out, CONTROLLER_SEED)
    without_her: dict[str, Any] = {
        "replay_buffer_class": None,
        "replay_buffer_kwargs": {},
        "buffer_size": 1,
    }  # which needs its goals
    model = sb3_ext.SafeSAC.load(file, device="cpu", custom_objects=without_her)
    # It learned without the obstacle, and does not see it here either.
    observe = partial(safe_envs.as_goal_observation, obstacle=False)
    return Controller(model, observation_space, action_space, observe)


def trained_model(name: str, out: str | Path, seed: int, preset: str | None = None) -> Path:
    """The file of the model that ``"<protocol>/<method>"`` trained.

    Args:
        name: of protocol and method.
        out: where the runs are.
        seed: of the run.
        preset: that it must have had, with the settings of today; None: any.

    Raises:
        RunError: if there is none, or one of another preset or other settings.
    """
    protocol, _, method = name.rpartition("/")
    folder = RunFolder.of(out, protocol, method, seed)
    file, chosen = folder.path / "model.zip", f" --preset {preset}" if preset else ""
    command = f"`safe-bench run {protocol}{chosen} --methods {method} --seeds {seed} --out {out}` trains it"
    what = f"{file}, which this method starts from,"
    if not folder.finished:
        raise RunError(f"{what} is missing: {command}")
    if not file.is_file():
        raise RunError(f"{what} was not kept: remove {folder.path}, then {command}")
    if preset is not None:
        found, wanted = read_json(folder.path / "config.json"), run_config(get_protocol(protocol), preset, method, seed)
        if found["preset"] != preset:
            raise RunError(f"{what} is of preset {found['preset']}: {command} elsewhere")
        if found != wanted:
            raise RunError(f"{what} has other settings ({describe_difference(found, wanted)}): {command} elsewhere")
    return file


def keep_origin(folder: Path, method: Method, out: str | Path, seed: int, preset: str) -> dict[str, Any]:
    """What a run begins with, written down before anything is made of it: prior steps, the controller, first weights.

    Raises:
        RunError: if the run in this folder began with another controller, or what it is to begin with is not there.
    """
    file = folder / ORIGIN
    found: dict[str, Any] = {"prior_steps": method.prior_steps} if method.prior_steps else {}
    if method.controller is not None and "/" in method.controller:
        found["controller"] = _provenance_of(trained_model(method.controller, out, CONTROLLER_SEED))  # of any preset
    if file.is_file():
        kept = read_json(file)
        begun, now = kept.get("controller"), found.get("controller")
        if begun != now:
            raise RunError(f"{folder} began with {begun}, now it is {now}: remove that folder")
        return kept
    if method.start is not None:
        found["start"] = _provenance_of(trained_model(method.start, out, seed, preset))
    if found:
        write_json(file, found)
    return found


def _provenance_of(model: Path) -> dict[str, Any]:
    """The run that a trained model is of."""
    config, summary = read_json(model.parent / "config.json"), read_json(model.parent / "summary.json")
    run = f"{config['protocol']}/{config['method']}"
    which = {"seed": config["seed"], "preset": config["preset"], "timesteps": summary["timesteps"]}
    return {"run": run, **which, "commit": summary.get("commit")}


def fit_safety_layer(folder: Path, how: LayerFit, stage: Stage, controller: Controller, seed: int) -> Layer:
    """The safety layer; its model of the cost is in a run's folder, or fitted and kept there."""
    file = folder / LAYER_FILE
    known = file.is_file()
    costs = sb3_ext.LinearCostModel.load(file) if known else _fit_cost_model(file, how, stage, controller, seed)
    return partial(SafetyLayer, costs=costs, step_limit=how.limit)


def _fit_cost_model(
    file: Path, how: LayerFit, stage: Stage, controller: Controller, seed: int
) -> sb3_ext.LinearCostModel:
    th.manual_seed(seed)  # a worker has done other things before
    env = make_env(stage)
    model = sb3_ext.LinearCostModel(env.observation_space, env.action_space)
    model.fit_in(env, how.steps, how.updates, seed=seed, controller=_half_random(controller, env, seed))
    env.close()
    model.save(file)
    return model


def _half_random(controller: Controller, env: gym.Env, seed: int) -> Any:
    """The controller, with every second action drawn at random on average."""
    rng = np.random.default_rng(seed).spawn(1)[0]  # not that of the actions
    return lambda obs: controller(obs) if rng.random() < 0.5 else env.action_space.sample()[None]
