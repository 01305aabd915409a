"""Speed of ``DualAgent``, which trains two agents: steps/s as a ratio to SB3's TD3 from interleaved runs, on one core.

    python benchmarks/dual_agent.py --repeats 5

Absolute figures move with the machine and its load; quote the ratios.
"""

import argparse
import time

import numpy as np
import torch
from stable_baselines3 import TD3

import safe_envs  # noqa: F401
from sb3_ext import DualAgent

NAVIGATION = "safe/Navigation1-v0"


def to_the_goal(obs):
    return np.clip(-obs, -1.0, 1.0)


def models():
    common = {"env": NAVIGATION, "learning_starts": 10, "buffer_size": 100_000, "seed": 0}
    return {
        "TD3 (SB3)": TD3("MlpPolicy", **common),
        "DualAgent": DualAgent("MlpPolicy", **common),
        "DualAgent fused": DualAgent("MlpPolicy", optimize="fused", **common),
        "DualAgent, given baseline": DualAgent("MlpPolicy", baseline=to_the_goal, **common),
        "DualAgent fused, given baseline": DualAgent("MlpPolicy", optimize="fused", baseline=to_the_goal, **common),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    trained = {name: model.learn(50) for name, model in models().items()}
    speeds = {name: [] for name in trained}
    for _ in range(args.repeats):
        for name, model in trained.items():
            start = time.process_time()  # one thread that never waits: what else runs disturbs this less
            model.learn(args.steps, reset_num_timesteps=False)
            speeds[name].append(args.steps / (time.process_time() - start))
    reference = np.array(speeds["TD3 (SB3)"])
    print(f"{'algorithm':34}{'steps/s':>10}{'min':>8}{'max':>8}{'ratio to TD3':>14}")
    for name, values in speeds.items():
        ratio = np.median(np.array(values) / reference)
        print(f"{name:34}{np.median(values):>10.1f}{min(values):>8.1f}{max(values):>8.1f}{ratio:>14.2f}")


if __name__ == "__main__":
    main()
