"""Data for pictures of one run: trajectories, map of the risk, calibration of the risk critic, a GIF."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safe_bench.environments import Layer, evaluation_env, make_env, sees_feedback, statistics_of
from safe_bench.protocols import Stage
from safe_bench.runs import write_json
from safe_wrappers.info import INTERVENED, SUCCESS, VIOLATION
from sb3_ext.common.evaluation import evaluate_safely, interventions_of

N_TRAJECTORIES, N_CALIBRATION, MAP_COLUMNS, N_BINS = 5, 60, 60, 10
GIF_FRAMES, GIF_HEIGHT = 200, 360


def record_figures(folder: Path, model: Any, stage: Stage, seed: int, layer: Layer | None = None) -> None:
    """Write ``figures.json`` (of planar tasks) and an animation; what there is no data for is left out.

    The animations are ``episode.gif`` and, of the baseline of a model that has one, ``baseline.gif``.
    """
    if scene_of(stage) is not None:
        figures: dict[str, Any] = {"trajectories": _trajectories(model, stage, seed)}
        if hasattr(model, "risk"):
            figures["calibration"] = calibration(model, stage, seed)
            figures["risk_map"] = risk_map(model, stage)
        write_json(folder / "figures.json", figures)
    try:
        for name, agent in (("episode", model), ("baseline", getattr(model, "baseline", None))):
            if agent is not None:
                save_gif(folder / f"{name}.gif", agent, model, stage, seed, layer)
    except Exception as error:  # renderers fail in ways of their own; hours of training do not depend on them
        warnings.warn(f"no animation in {folder}: {error}", stacklevel=2)


def _trajectories(model: Any, stage: Stage, seed: int) -> list[dict[str, Any]]:
    episodes: list[dict[str, Any]] = []
    points: list[Any] = []
    risks: list[float] = []
    intervened: list[int] = []
    normalizer = statistics_of(model)

    def place(obs: Any) -> Any:
        return obs if normalizer is None else normalizer.unnormalize_obs(obs)

    def on_step(obs: Any, actions: Any, dones: Any, infos: list[dict[str, Any]]) -> None:
        info = infos[0]
        points.append(place(obs)[0])
        intervened.append(int(interventions_of(model, infos)[0]))
        if hasattr(model, "risk"):
            proposed = model.policy.predict(obs, deterministic=True)[0]  # before any filter
            risks.append(float(model.risk(obs, proposed)[0]))
        if dones[0]:
            last = place(info["terminal_observation"])
            episodes.append({
                "points": np.round(np.array([*points, last]), 2).tolist(), "risks": np.round(risks, 3).tolist(),
                INTERVENED: list(intervened),
                "violation": bool(info.get(VIOLATION, False)), "success": bool(info.get(SUCCESS, False)),
            })  # fmt: skip
            for column in (points, risks, intervened):
                column.clear()

    with contextlib.closing(evaluation_env(stage, model)) as env:
        evaluate_safely(model, env, N_TRAJECTORIES, seed=seed, on_step=on_step)
    return episodes


def calibration(model: Any, stage: Stage, seed: int) -> dict[str, Any]:
    """Predicted risk against what happened, over episodes of the policy that the risk critic's target follows.

    That is the unfiltered task policy, or with ``composite`` the filtered one. Every second episode starts anywhere
    in the plane: a policy that is safe from the task's start would show one point. What happened is
    ``gamma_risk ** k`` for a violation ``k`` steps after the next state, else 0: its mean is the predicted quantity.
    Bins are over predictions; ``predicted`` and ``observed`` are means in each bin.
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

    filtered = follows_filter(model)
    acting = model if filtered else model.policy
    with contextlib.closing(evaluation_env(stage, model, spread_starts=True)) as env:
        evaluate_safely(acting, env, N_CALIBRATION, deterministic=False, seed=seed, on_step=on_step)
    found = bin_calibration(np.array(predictions), np.array(outcomes))
    return {**found, "filtered": filtered, "spread_starts": True}


def follows_filter(model: Any) -> bool:
    """Whether the risk critic's target takes its next actions from the filtered policy, not from the task policy."""
    return bool(getattr(model, "composite", False)) and model.selector is not None


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
    normalizer = statistics_of(model)
    seen = points if normalizer is None else normalizer.normalize_obs(points)
    actions, _ = model.policy.predict(seen, deterministic=True)
    risk = model.risk(seen, actions).reshape(rows, columns)
    return {"extent": [extent.x_min, extent.x_max, extent.y_min, extent.y_max], "risk": np.round(risk, 3).tolist()}


def scene_of(stage: Stage) -> Any:
    """The planar scene of a stage's environment; None if it has none."""
    env = make_env(stage)
    scene = env.get_wrapper_attr("scene") if env.has_wrapper_attr("scene") else None
    env.close()
    return scene


def save_gif(path: Path, agent: Any, model: Any, stage: Stage, seed: int, layer: Layer | None = None) -> None:
    """One deterministic episode of a model, or of its baseline, as a GIF of about ``GIF_FRAMES`` frames at most."""
    env = make_env(stage, render_mode="rgb_array", layer=layer, feedback=sees_feedback(model))
    statistics, state, start = statistics_of(model), None, np.ones(1, dtype=bool)
    obs, _ = env.reset(seed=seed)
    frames, done, steps = [_shrunk(env.render())], False, 0
    horizon = (env.spec.max_episode_steps if env.spec else None) or GIF_FRAMES
    every = -(-horizon // GIF_FRAMES)
    while not done:
        seen = obs if statistics is None else statistics.normalize_obs(obs)
        action, state = agent.predict(seen, state=state, episode_start=start, deterministic=True)
        start = np.zeros(1, dtype=bool)
        obs, _, terminated, truncated, _ = env.step(action)
        done, steps = terminated or truncated, steps + 1
        if done or steps % every == 0:
            frames.append(_shrunk(env.render()))
    env.close()
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=60, loop=0)


def _shrunk(frame: Any) -> Image.Image:
    image = Image.fromarray(np.asarray(frame))
    image.thumbnail((image.width, GIF_HEIGHT))
    return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
