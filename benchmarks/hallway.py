"""Steps per second of the hallway, resets included, on one core.

    python benchmarks/hallway.py                     # all six with random actions, about a minute
    python benchmarks/hallway.py --driver careful    # Point among the obstacles, not before them
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
from safe_envs.hallway.drivers import careful, straight_ahead

DRIVERS = {"careful": careful, "straight": straight_ahead}

AIMS = {"WallsPoint": 7_000, "HumanoidsPoint": 2_000, "WallsDoggo": 2_500, "HumanoidsDoggo": 1_300}
"""Steps per second that were asked for."""


def recorded(env, driver, steps):
    """Actions ``[steps, A]``: random ones, or a driver's in its first episodes."""
    if driver == "random":
        return np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    actions = []
    for _ in range(steps):
        actions.append(DRIVERS[driver](env.unwrapped))
        if any(env.step(actions[-1])[2:4]):
            env.reset()
    return np.array(actions)


def seconds_per_step(env, actions, rounds):
    """Best of all rounds: whatever else runs only adds to it."""
    env.reset(seed=0)
    env.step(actions[0])  # compiles
    times = []
    for _ in range(rounds):
        env.reset(seed=0)
        start = time.process_time()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        times.append((time.process_time() - start) / len(actions))
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--physics", choices=["kinematic", "welded"], default="kinematic")
    parser.add_argument("--driver", choices=["random", *DRIVERS], default="random")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for env_id in safe_envs.ENV_IDS:
        name = env_id.removeprefix("safe/Hallway").removesuffix("-v0")
        if "Hallway" not in env_id or (options.physics == "welded" and "Humanoids" not in name):
            continue
        if options.driver != "random" and "Doggo" in name:  # nobody has written a gait for it
            continue
        env = gym.make(env_id, humanoid_physics=options.physics, disable_env_checker=True)
        each = seconds_per_step(env, recorded(env, options.driver, options.steps), options.rounds)
        aim = f" (asked: {AIMS[name]:,})" if name in AIMS and options.physics == "kinematic" else ""
        print(f"{name:16s} {1e6 * each:6.0f} us a step, {1 / each:7,.0f} steps/s{aim}")
        env.close()


if __name__ == "__main__":
    main()
