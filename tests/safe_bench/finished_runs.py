"""Finished runs without training: what tests of reports read."""

from pathlib import Path

import numpy as np
from PIL import Image

from safe_bench.protocols import get_protocol, run_config
from safe_bench.runs import EPISODES, STAGE_ENDS, RunFolder, write_json

NAVIGATION, SPIDER = "recovery-rl/navigation2", "sqrl/drunk-spider"
VELOCITY, PUSH = "safety-gym/half-cheetah-velocity", "dual-agent/panda-push"
POLES = "safe-transfer/point-poles"
VERSIONS = {"sb3-safe": "0.1.0", "numpy": "2.0.0"}


def add_run(
    out: Path, protocol: str, method: str, seed: int, successes: int, violations: int, *, n: int = 20,
    preset: str = "quick", commit: str = "abc", figures: bool = False, cost: float = 1.0,
    counts: dict | None = None,
) -> RunFolder:  # fmt: skip
    """A finished run of stages with so many successes and violations in ``n`` episodes of 10 steps each.

    A violation costs ``cost``. A method that does not learn has neither stages nor episodes.
    """
    config = run_config(get_protocol(protocol), preset, method, seed)
    for stage in config["budget"]["stages"]:
        stage.update({"episodes": n} if stage["steps"] is None else {"steps": 10 * n})
    config["budget"] |= {"eval_episodes": 4}
    folder = RunFolder.of(out, protocol, method, seed)
    write_json(folder.path / "config.json", config)
    stages = config["budget"]["stages"] if "algorithm" in config["definition"] else []
    rows, ends = [], [10 * n * (index + 1) for index in range(len(stages))]
    for index, stage in enumerate(stages):
        for episode in range(n):
            violation, success = int(episode < violations), int(episode >= n - successes)
            values = (stage["name"], episode + 1, 10 * (index * n + episode + 1), 10, float(episode), cost * violation,
                      violation, success, 5, 1.0)  # fmt: skip
            rows.append(dict(zip(EPISODES.columns, values, strict=True)))
    if stages:
        EPISODES.write(folder.path, rows)
        write_json(folder.path / STAGE_ENDS, ends)
    rates = {"violations": [0, 0, 0, 1], "successes": [1, 1, 1, 0], "episodes": 4, "return": 7.0, "cost": cost / 4}
    write_json(folder.path / "evaluation.json", {"deterministic": rates, "stochastic": rates})
    if figures:
        write_json(folder.path / "figures.json", example_figures())
        frames = [Image.new("P", (8, 8), colour) for colour in (0, 1)]
        frames[0].save(folder.path / "episode.gif", save_all=True, append_images=frames[1:])
    counts = {"seconds": 60.0, "timesteps": ends[-1] if ends else 0, "episodes": len(rows), **(counts or {})}
    write_json(folder.path / "summary.json", {**counts, "versions": VERSIONS, "python": "3.12", "commit": commit})
    return folder


def example_figures() -> dict:
    points = np.stack([np.linspace(-50, 0, 6), np.linspace(0, 20, 6)], axis=1).tolist()
    episode = {"points": points, "risks": [0.1, 0.2, 0.3, 0.2, 0.1], "intervened": [0, 1, 1, 0, 0],
               "violation": False, "success": True}  # fmt: skip
    bins = [{"n": 30, "predicted": 0.05, "observed": 0.1}, {"n": 10, "predicted": 0.45, "observed": 0.4}]
    return {
        "trajectories": [episode],
        "risk_map": {"extent": [-60.0, 10.0, -30.0, 30.0], "risk": np.linspace(0, 1, 12).reshape(3, 4).tolist()},
        "calibration": {"bins": bins, "expected_calibration_error": 0.05, "steps": 40},
    }
