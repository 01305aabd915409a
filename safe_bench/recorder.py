"""What is written down while an agent learns: its episodes, and means of what it logs."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from safe_bench.protocols import Stage
from safe_bench.recordings import Report
from safe_wrappers.info import EPISODE_COST, SUCCESS
from safe_wrappers.monitor import EpisodeCost
from sb3_ext.common.evaluation import interventions_of

LEARNING = ("train/", "safety/", "baseline/")
LOGGED_EVERY = 20
"""Steps of an environment between looks at what the learner logs: means over its last updates."""


class EpisodeRecorder(BaseCallback):
    """Keeps a row per finished episode and stops the stage when it has enough of them."""

    def __init__(self, rows: list[dict[str, Any]], stage: Stage, started: float, report: Report, start: int) -> None:
        super().__init__()
        self.rows, self.stage, self.started, self.report, self.start = rows, stage, started, report, start
        self.episodes = sum(row["stage"] == stage.name for row in rows)
        self.logged: dict[str, list[float]] = defaultdict(list)

    def _init_callback(self) -> None:
        if not hasattr(self.model, "recent_interventions"):  # of the running episodes; they are saved with the model
            self.model.recent_interventions = [[] for _ in range(self.model.n_envs)]  # type: ignore[attr-defined]
        self.interventions: list[list[int]] = self.model.recent_interventions  # type: ignore[attr-defined]

    def _on_training_start(self) -> None:
        self.logged.clear()  # SB3's logger is a new one, too

    def finished(self, timesteps: int) -> bool:
        """Whether the stage is over."""
        if self.stage.steps is not None:
            return timesteps - self.start >= self.stage.steps
        return self.episodes >= (self.stage.episodes or 0)

    def _on_step(self) -> bool:
        infos, dones = self.locals["infos"], self.locals["dones"]
        if self.num_timesteps // self.model.n_envs % LOGGED_EVERY == 0:
            for name, value in self.logger.name_to_value.items():
                if name.startswith(LEARNING):
                    self.logged[name].append(float(value))
        for steps, intervened in zip(self.interventions, interventions_of(self.model, infos).tolist(), strict=True):
            steps.append(intervened)
        for i in np.flatnonzero(dones):
            if self.stage.episodes is None or self.episodes < self.stage.episodes:  # several may end at once
                self._add_row(infos[i], self.interventions[i])
            self.interventions[i].clear()
        if self.stage.steps is not None:
            self.report(self.stage.name, self.num_timesteps - self.start, self.stage.steps)
            return True
        self.report(self.stage.name, self.episodes, self.stage.episodes or 0)
        return not self.finished(self.num_timesteps)

    def diagnostics(self) -> list[dict[str, Any]]:
        """Rows of ``DIAGNOSTICS``: means of what the learner logged; none before it has learned."""
        return [
            {"timesteps": self.num_timesteps, "name": name, "value": float(f"{np.mean(values):.6g}")}
            for name, values in self.logged.items()
        ]

    def _add_row(self, info: dict[str, Any], intervened: list[int]) -> None:
        self.episodes += 1
        costs: EpisodeCost = info[EPISODE_COST]
        self.rows.append({
            "stage": self.stage.name, "episode": self.episodes, "timesteps": self.num_timesteps,
            "length": info["episode"]["l"], "return": round(float(info["episode"]["r"]), 4), "cost": costs["cost"],
            "violation": int(costs["violations"] > 0), "success": int(bool(info.get(SUCCESS, False))),
            "interventions": sum(intervened[-costs["length"] :]),  # not of an episode that was abandoned before it
            "seconds": round(time.monotonic() - self.started, 1),
        })  # fmt: skip
