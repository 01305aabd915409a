"""CPU time of a step of many environments: one process, a few workers (``WorkerVectorEnv``), one process for each.

    python benchmarks/worker_vector.py                                      # toy as heavy as a hallway, about 3 minutes
    python benchmarks/worker_vector.py --env-id safe/HallwayWallsPoint-v0

CPU time is user and system time of the parent and all children, by getrusage after close(). What creating, resetting
and closing costs is taken out by running each once with few steps and once with many. Rounds are interleaved; quote the
ratios, for absolute figures move with the machine and its load.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: a busy-waiting thread would count as work

import argparse
import resource
import statistics
import time
from functools import partial

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from safe_envs.core.worker_vector import WorkerVectorEnv

EPISODE_STEPS = 1000
WORK_REPEATS = 11  # products of 48 x 48 matrices: some 90 us on a 2.6 GHz core, with the rest of the step
FEW_STEPS = 20


class Toy(gym.Env):
    """As heavy as a hallway step: some 90 us of arithmetic, a depth image, 44 numbers, a cost with two terms."""

    observation_space = gym.spaces.Dict(
        depth=gym.spaces.Box(0, 255, (50, 50, 1), np.uint8),
        proprioception=gym.spaces.Box(-np.inf, np.inf, (44,), np.float32),
    )
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        """A new matrix."""
        super().reset(seed=seed)
        self.matrix, self.steps = self.np_random.normal(size=(48, 48)), 0
        return self.observation(), {}

    def step(self, action):
        """The same work, whatever the action."""
        for _ in range(WORK_REPEATS):
            product = self.matrix @ self.matrix
        self.steps += 1
        cost = float(product[0, 0] > 0)
        info = {"cost": cost, "cost_walls": cost, "cost_poles": 0.0, "constraint_violation": cost > 0}
        return self.observation(), cost, False, self.steps >= EPISODE_STEPS, {**info, "is_success": False}

    def observation(self):
        """New arrays, as the environments of this package give them out."""
        image = self.np_random.integers(255, size=(50, 50, 1), dtype=np.uint8)
        return {"depth": image, "proprioception": np.full(44, self.steps, np.float32)}


def cpu_seconds():
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run(create, steps):
    """CPU and wall seconds of a whole life with so many steps."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    envs = create()
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(16)]
    envs.reset(seed=0)
    for step in range(steps):
        envs.step(actions[step % len(actions)])
    envs.close()
    return np.array((cpu_seconds() - cpu, time.perf_counter() - wall))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", help="an environment's ID; without, the toy")
    parser.add_argument("--num-envs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    factory = partial(gym.make, args.env_id) if args.env_id else Toy
    factories, mode = [factory] * args.num_envs, {"autoreset_mode": AutoresetMode.SAME_STEP}
    ways = {
        "SyncVectorEnv": partial(SyncVectorEnv, factories, **mode),
        "WorkerVectorEnv, 1 worker": partial(WorkerVectorEnv, factories, num_workers=1),
        "WorkerVectorEnv, 2 workers": partial(WorkerVectorEnv, factories, num_workers=2),
        "AsyncVectorEnv": partial(AsyncVectorEnv, factories, **mode),
    }
    figures = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, create in ways.items():
            seconds = run(create, FEW_STEPS + args.steps) - run(create, FEW_STEPS)
            figures[name].append(1e6 * seconds / (args.steps * args.num_envs))
    print(f"{args.env_id or 'toy'}, {args.num_envs} environments, {args.repeats} rounds of {args.steps} steps")
    print(f"{'':28}{'CPU us/env step':>16}{'wall us/env step':>18}{'AsyncVectorEnv CPU / this (range)':>36}")
    for name, rounds in figures.items():
        cpu, wall = np.median(rounds, axis=0)
        ratios = [slow[0] / fast[0] for slow, fast in zip(figures["AsyncVectorEnv"], rounds, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:28}{cpu:>16.0f}{wall:>18.0f}{spread:>36}")


if __name__ == "__main__":
    main()
