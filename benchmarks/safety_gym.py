"""Navigation tasks of Safety-Gymnasium: the fast path against its own code, interleaved in one run.

    python benchmarks/safety_gym.py [--rounds 5] [--ids SafetyPointGoal1-v0 ...]

Each path has a process of its own; they take turns, one episode of 1000 steps each. "Effective" steps/s count the
reset too. Times are the processes' own, since a busy machine stretches wall times at random; those are printed last.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from safe_wrappers import safety_gym

IDS = ("SafetyPointGoal1-v0", "SafetyCarGoal1-v0", "SafetyDoggoGoal1-v0", "SafetyPointButton1-v0")
PATHS = {"fast": True, "original": False}
STEPS = 1000
COPIES = 4
env = None  # of the process


def open_env(env_id, fast):
    """Make the environment of this process; the megabytes that it takes, measured on copies."""
    global env
    envs = [new_env(env_id, fast)]
    before = resident()
    envs += [new_env(env_id, fast) for _ in range(COPIES)]
    env = envs[0]
    return (resident() - before) / COPIES


def new_env(env_id, fast):
    made = safety_gym.make(env_id, fast=fast)
    made.reset(seed=0)
    made.reset()
    return made


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def episode(seed):
    """Seconds of a reset and of the steps after it: ``[[CPU, wall], [CPU, wall]]``."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (STEPS, *env.action_space.shape))
    times = [(time.process_time(), time.perf_counter())]
    env.reset()
    times.append((time.process_time(), time.perf_counter()))
    for action in actions:
        env.step(action)
    times.append((time.process_time(), time.perf_counter()))
    return np.diff(times, axis=0)


def compare(env_id, rounds):
    workers = {name: ProcessPoolExecutor(1, get_context("spawn")) for name in PATHS}
    memory = {name: worker.submit(open_env, env_id, PATHS[name]).result() for name, worker in workers.items()}
    times = {name: [] for name in PATHS}
    for seed in range(rounds):
        for name, worker in workers.items():
            times[name].append(worker.submit(episode, seed).result())
    effective = {}
    for name, worker in workers.items():
        worker.shutdown()
        (reset, _), (steps, _) = median = np.median(times[name], axis=0)
        effective[name], wall = STEPS / median.sum(axis=0)
        print(
            f"{env_id:24}{name:>10}{1000 * reset:10.1f}{STEPS / steps:9.0f}{effective[name]:11.0f}"
            f"{memory[name]:9.0f}{wall:12.0f}"
        )
    print(f"{'':24}{'ratio':>10}{'':19}{effective['fast'] / effective['original']:11.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ids", nargs="+", default=IDS)
    args = parser.parse_args()
    print(f"{'':24}{'path':>10}{'reset ms':>10}{'steps/s':>9}{'effective':>11}{'MB each':>9}{'(wall)':>12}")
    for env_id in args.ids:
        compare(env_id, args.rounds)


if __name__ == "__main__":
    main()
