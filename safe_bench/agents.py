"""The agents of a method: models of ``sb3_ext``, fixed controllers, and the safety layer between them and the world."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

import safe_envs
import sb3_ext
from safe_bench.environments import make_env
from safe_bench.protocols import Method, Stage, get_protocol, run_config
from safe_bench.runs import RunError, RunFolder, describe_difference, read_json
from sb3_ext.common.controllers import Controller
from sb3_ext.common.rollouts import collect_episodes

CONTROLLER_SEED = 0
LAYER_FILE = "safety_layer.pt"
LAYER_STEPS, LAYER_UPDATES = 20_000, 5_000
IMITATION_STEPS = 20_000
CONTROLLER_SHARE = 0.8
"""Of the steps that are imitated; the untrained agent makes the others, so that the controller is seen to recover."""


def make_model(method: Method, env: VecEnv, seed: int, controller: Controller | None) -> Any:
    """The untrained model of a method, started from its controller if it has one."""
    algorithm = getattr(sb3_ext, str(method.algorithm))
    kwargs = {**method.kwargs, "seed": seed, "device": "cpu"}
    policy = "MlpPolicy"
    if isinstance(env.observation_space, spaces.Dict):
        policy = "MultiInputPolicy"
        if "desired_goal" in env.observation_space.spaces:
            kwargs["replay_buffer_class"] = HerReplayBuffer
    if controller is None:
        return algorithm(policy, env, **kwargs)
    if algorithm is sb3_ext.DualAgent:
        return algorithm(policy, env, baseline=controller, **kwargs)
    model = algorithm(policy, env, **kwargs)
    if method.demonstrations is None:
        sb3_ext.imitate(model, controller, n_steps=IMITATION_STEPS, controller_share=CONTROLLER_SHARE, seed=seed)
    else:
        _demonstrate(model, controller, method.demonstrations, seed)
    return model


def _demonstrate(model: Any, controller: Controller, n_steps: int, seed: int) -> None:
    """Fill the replay buffer with whole episodes of the controller."""
    env = model.get_env()
    env.seed(seed)
    while model.replay_buffer.pos < n_steps:
        collect_episodes(controller, env, model.replay_buffer, n_episodes=1)


def find_controller(name: str, out: str | Path, stage: Stage) -> Controller:
    """The fixed policy of that name, for the environment of a stage.

    Args:
        name: ``"scripted"``, the controller of the push; or ``"<protocol>/<method>"``, the model that was trained so.
        out: where the runs are.
        stage: whose environment it is to act in.

    Raises:
        RunError: if that model has not been trained.
    """
    env = make_env(stage)
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    assert isinstance(action_space, spaces.Box)
    if name == "scripted":
        return Controller(safe_envs.PushController(), observation_space, action_space)
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


def provenance_of(name: str, out: str | Path, seed: int = CONTROLLER_SEED) -> dict[str, Any]:
    """Preset and commit of the run of ``"<protocol>/<method>"`` that a controller or the first weights come from."""
    folder = trained_model(name, out, seed).parent
    preset, commit = read_json(folder / "config.json")["preset"], read_json(folder / "summary.json").get("commit")
    return {"run": name, "seed": seed, "preset": preset, "commit": commit}


def fit_safety_layer(folder: Path, stage: Stage, controller: Controller, seed: int) -> sb3_ext.LinearCostModel:
    """The safety layer's model of the cost, from a run's folder or fitted and kept there."""
    file = folder / LAYER_FILE
    if file.is_file():
        return sb3_ext.LinearCostModel.load(file)
    th.manual_seed(seed)  # a worker has done other things before
    env = make_env(stage)
    model = sb3_ext.LinearCostModel(env.observation_space, env.action_space)
    model.fit_in(env, LAYER_STEPS, LAYER_UPDATES, seed=seed, controller=_half_random(controller, env, seed))
    env.close()
    model.save(file)
    return model


def _half_random(controller: Controller, env: gym.Env, seed: int) -> Any:
    """The controller, with every second action drawn at random on average: the costs' slopes need different actions."""
    rng = np.random.default_rng(seed).spawn(1)[0]  # not that of the actions
    return lambda obs: controller(obs) if rng.random() < 0.5 else env.action_space.sample()[None]
