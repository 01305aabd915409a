"""Data for pictures of one run: trajectories, map of the risk, calibration of the risk critic, a GIF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from stable_baselines3.common.vec_env import DummyVecEnv

from safe_bench.protocols import Method, Stage
from safe_bench.runs import write_json
from safe_wrappers.info import INTERVENED, SUCCESS, VIOLATION
from sb3_ext.common.evaluation import evaluate_safely

N_TRAJECTORIES, N_CALIBRATION, MAP_COLUMNS, N_BINS = 5, 30, 60, 10


def record_figures(folder: Path, model: Any, stage: Stage, method: Method, seed: int) -> None:
    """Write ``figures.json`` and ``episode.gif``; what a method has no data for is left out."""
    trajectories = _trajectories(model, stage, seed)
    figures: dict[str, Any] = {"trajectories": trajectories}
    if hasattr(model, "risk"):
        figures["calibration"] = calibration(model, stage, seed)
        figures["risk_map"] = risk_map(model, stage)
    write_json(folder / "figures.json", figures)
    save_gif(folder / "episode.gif", model, stage, seed)


def _make(stage: Stage, render_mode: str | None = None) -> gym.Env:
    return gym.make(stage.env_id, render_mode=render_mode, **stage.env_kwargs)


def _trajectories(model: Any, stage: Stage, seed: int) -> list[dict[str, Any]]:
    env = _make(stage)
    episodes: list[dict[str, Any]] = []
    for index in range(N_TRAJECTORIES):
        obs, _ = env.reset(seed=seed + index)
        points, risks, intervened, done = [obs], [], [], False
        info: dict[str, Any] = {}
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            if hasattr(model, "risk"):
                risks.append(float(model.risk(obs[None], proposed_action(model, obs)[None])[0]))
            obs, _, terminated, truncated, info = env.step(action)
            own = getattr(model, "last_intervened", [False])[0]
            intervened.append(int(bool(own) or bool(info.get(INTERVENED, False))))
            points.append(obs)
            done = terminated or truncated
        episodes.append({
            "points": np.round(np.array(points), 2).tolist(), "risks": np.round(risks, 3).tolist(),
            INTERVENED: intervened,
            "violation": bool(info.get(VIOLATION, False)), "success": bool(info.get(SUCCESS, False)),
        })  # fmt: skip
    return episodes


def proposed_action(model: Any, obs: NDArray[Any]) -> NDArray[Any]:
    """The task policy's action at one observation, before any filter."""
    return np.asarray(model.policy.predict(obs, deterministic=True)[0])


def calibration(model: Any, stage: Stage, seed: int) -> dict[str, Any]:
    """Predicted risk against what happened, over episodes of the *unfiltered* task policy.

    The risk critic's target follows the task policy, so that is the policy whose future it predicts. What happened
    is ``gamma_risk ** k`` for a violation ``k`` steps after the next state, else 0: its mean is the predicted
    quantity. Bins are over predictions; ``predicted`` and ``observed`` are means in each bin.
    """
    predictions: list[float] = []
    outcomes: list[float] = []
    current: list[float] = []

    def on_step(obs: Any, actions: Any, dones: Any, infos: list[dict[str, Any]]) -> None:
        current.append(float(model.risk(obs, actions)[0]))
        if dones[0]:
            steps_left = np.arange(len(current))[::-1]
            outcomes.extend(model.gamma_risk**steps_left * bool(infos[0].get(VIOLATION, False)))
            predictions.extend(current)
            current.clear()

    evaluate_safely(
        model.policy,
        DummyVecEnv([lambda: _make(stage)]),
        N_CALIBRATION,
        deterministic=False,
        seed=seed,
        on_step=on_step,
    )
    return bin_calibration(np.array(predictions), np.array(outcomes))


def bin_calibration(predictions: NDArray[Any], outcomes: NDArray[Any]) -> dict[str, Any]:
    """Means per bin of predictions in [0, 1], and the expected calibration error."""
    bins = np.clip((predictions * N_BINS).astype(int), 0, N_BINS - 1)
    rows = [
        {"n": int(chosen.sum()), "predicted": round(float(predictions[chosen].mean()), 4),
         "observed": round(float(outcomes[chosen].mean()), 4)}
        for chosen in (bins == i for i in range(N_BINS)) if chosen.any()
    ]  # fmt: skip
    error = sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in rows) / max(len(predictions), 1)
    return {"bins": rows, "expected_calibration_error": round(error, 4), "steps": len(predictions)}


def risk_map(model: Any, stage: Stage) -> dict[str, Any]:
    """Risk of the task policy's action over the plane of a two-dimensional scene, rows from low to high y."""
    extent = scene_of(stage).extent
    columns = MAP_COLUMNS
    rows = max(round(columns * extent.height / extent.width), 2)
    x = np.linspace(extent.x_min, extent.x_max, columns)
    y = np.linspace(extent.y_min, extent.y_max, rows)
    points = np.stack([part.ravel() for part in np.meshgrid(x, y)], axis=1).astype(np.float32)
    actions, _ = model.policy.predict(points, deterministic=True)
    risk = model.risk(points, actions).reshape(rows, columns)
    return {"extent": [extent.x_min, extent.x_max, extent.y_min, extent.y_max], "risk": np.round(risk, 3).tolist()}


def scene_of(stage: Stage) -> Any:
    """The planar scene of a stage's environment."""
    env = _make(stage)
    scene = env.get_wrapper_attr("scene")
    env.close()
    return scene


def save_gif(path: Path, model: Any, stage: Stage, seed: int, max_frames: int = 200) -> None:
    """One deterministic episode as a GIF."""
    env = _make(stage, render_mode="rgb_array")
    obs, _ = env.reset(seed=seed)
    frames, done = [env.render()], False
    while not done and len(frames) < max_frames:
        action, _ = model.predict(obs, deterministic=True)
        obs, _, terminated, truncated, _ = env.step(action)
        frames.append(env.render())
        done = terminated or truncated
    env.close()
    images = [
        Image.fromarray(np.asarray(frame)).convert("P", palette=Image.Palette.ADAPTIVE, colors=32) for frame in frames
    ]
    images[0].save(path, save_all=True, append_images=images[1:], duration=60, loop=0)
