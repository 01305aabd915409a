"""Speed of the constrained on-policy algorithms on one core thread, as ratios to SB3's PPO from interleaved runs.

    python benchmarks/on_policy.py                        # HalfCheetah-v5 with a limit on speed, about 3 minutes
    python benchmarks/on_policy.py --env Pendulum-v1 --rollouts 2 --repeats 9

All with SB3's and sb3-contrib's default batches and 64 x 64 networks. A round runs every algorithm once, in a new
order, and its ratios are taken within the round: absolute figures move with the machine and its load.
"""

import argparse
import random
import time

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3 import PPO

from safe_wrappers import CostFromFunction
from sb3_ext import CPO, PPOPID, PPOLag, TRPOLag

OURS = (PPOLag, PPOPID, TRPOLag, CPO)
ALGORITHMS = {"PPO (SB3)": PPO, "TRPO (sb3-contrib)": TRPO, **{cls.__name__: cls for cls in OURS}}
TARGETS = {"PPOLag": 0.70, "CPO": 0.78}


def make_env(env_id):
    """The environment with a cost on about half of the steps, for every algorithm alike."""
    return CostFromFunction(gym.make(env_id), lambda obs, action, next_obs, info: float(next_obs[-1] > 0.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--rollouts", type=int, default=2, help="rollouts of 2048 steps in each run")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: cls("MlpPolicy", make_env(args.env), seed=0, device="cpu") for name, cls in ALGORITHMS.items()}
    for model in models.values():
        model.learn(2048)  # the limit of 25 is exceeded from here on, so that all parts work
    speeds = {name: [] for name in models}
    steps = 2048 * args.rollouts
    for _ in range(args.repeats):
        for name in random.sample(list(models), len(models)):
            start = time.perf_counter()
            models[name].learn(steps, reset_num_timesteps=False)
            speeds[name].append(steps / (time.perf_counter() - start))
    print(f"{args.env}, {args.repeats} rounds of {steps} steps")
    print(f"{'algorithm':20}{'steps/s':>9}{'min':>8}{'max':>8}{'ratio to PPO':>14}{'min':>7}{'max':>7}{'target':>8}")
    reference = np.array(speeds["PPO (SB3)"])
    for name, values in speeds.items():
        ratios, target = np.array(values) / reference, TARGETS.get(name, "")
        print(
            f"{name:20}{np.median(values):>9.0f}{min(values):>8.0f}{max(values):>8.0f}"
            f"{np.median(ratios):>14.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}{target:>8}"
        )


if __name__ == "__main__":
    main()
