"""Steps per second of the hallway, episodes of 1000 random steps with their resets, on one core.

    python benchmarks/hallway.py                     # all six, about a minute
    python benchmarks/hallway.py --physics welded    # simulated humanoids

Times are of the processor; what else runs on the machine still slows them by what it takes from the caches.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np

import safe_envs

AIMS = {"WallsPoint": 7_000, "HumanoidsPoint": 2_000, "WallsDoggo": 2_500, "HumanoidsDoggo": 1_300}
"""Steps per second that were asked for."""


def seconds_per_step(env, steps, rounds):
    """Best of all rounds: whatever else runs only adds to it."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    env.step(actions[0])  # compiles
    times = []
    for _ in range(rounds):
        env.reset()
        start = time.process_time()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        times.append((time.process_time() - start) / steps)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--physics", choices=["kinematic", "welded"], default="kinematic")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for env_id in safe_envs.ENV_IDS:
        name = env_id.removeprefix("safe/Hallway").removesuffix("-v0")
        if "Hallway" not in env_id or (options.physics == "welded" and "Humanoids" not in name):
            continue
        env = gym.make(env_id, humanoid_physics=options.physics, disable_env_checker=True)
        each = seconds_per_step(env, options.steps, options.rounds)
        aim = f" (asked: {AIMS[name]:,})" if name in AIMS and options.physics == "kinematic" else ""
        print(f"{name:16s} {1e6 * each:6.0f} us a step, {1 / each:7,.0f} steps/s{aim}")
        env.close()


if __name__ == "__main__":
    main()
