"""Speed of MESA's environments and of its meta-learning, on one core.

    python benchmarks/transfer.py      # about 1 minute

Environments: steps per second of processor time with random actions, resets included, best of 3. Meta-learning: one
iteration of ``MESA.meta_train`` with 5 tasks of 256 transitions and a network of 2 x 256 units, median; beside it, what
the products of its 256 x 256 matrices alone would take.
"""

import time

import gymnasium as gym
import numpy as np
import torch as th

import safe_envs
from sb3_ext import MESA

ENVIRONMENTS = ("safe/CartPoleLength-v0", "safe/HalfCheetahDisabled-v0", "safe/AntDisabled-v0")
STEPS, ITERATIONS = 5_000, 40
TASKS, BATCH, WIDTH = 5, 256, 256
# Of the layer between the hidden ones, for each batch of a task. Inner step: value, two derivatives; outer step: the
# same; second derivative: twice as many; targets of both batches, and the actor whose actions they need: one each.
PRODUCTS = 3 + 3 + 6 + 2 + 2


def steps_per_second(env_id):
    env = gym.make(env_id, disable_env_checker=True)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    start = time.process_time()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return STEPS / (time.process_time() - start)


def seconds(function, n):
    times = []
    for _ in range(n):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


def main():
    th.set_num_threads(1)
    for env_id in ENVIRONMENTS:
        print(f"{env_id}: {max(steps_per_second(env_id) for _ in range(3)):,.0f} steps/s")
    tasks = safe_envs.TASKS["halfcheetah-disabled"]
    data = safe_envs.collect_rollouts(tasks.make({"frame_skip": 5, "terminate_on_violation": False}), 2_000)
    model = MESA("MlpPolicy", tasks.make(tasks.test_task()), seed=0)
    took = np.diff([0.0, *_iteration_ends(model, data)])
    batch, matrix = th.randn(BATCH, WIDTH), th.randn(WIDTH, WIDTH)
    product = seconds(lambda: batch @ matrix, 500)
    bound = TASKS * PRODUCTS * product
    print(f"meta-iteration: {1e3 * np.median(took[1:]):.1f} ms; products alone: {1e3 * bound:.1f} ms")


def _iteration_ends(model, data):
    start, ends = time.process_time(), []
    model.meta_train([data], ITERATIONS, progress=lambda done, total: ends.append(time.process_time() - start))
    return ends


if __name__ == "__main__":
    main()
