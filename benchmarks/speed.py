"""Speed and memory: steps/s of environments and algorithms on one core, as ratios from interleaved runs.

    python benchmarks/speed.py            # everything, about 4 minutes
    python benchmarks/speed.py --only algorithms --repeats 5

Absolute figures move with the machine and its load; quote the ratios. "updates bound" is what the matrix products of
one step would cost alone, at the speed that this machine's matrix product of the same size has.
"""

import argparse
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC

import safe_envs
from safe_envs.registration import ENTRIES
from sb3_ext import RecoveryRL, SACLag

NAVIGATION = "safe/Navigation1-v0"
# 256 x 256 x 256 products in one step of each algorithm (2 x 256, batch 256): forward 1, backward 2 (weights, inputs).
# The fused path leaves out half of the backward through twin critics where only the actor learns.
PRODUCTS = {
    "SAC (SB3)": 16,
    "SACLag": 28,
    "SACLag fused": 26,
    "SACLag fused, one cost critic": 21,
    "RecoveryRL": 32,
    "RecoveryRL fused": 30,
}


def environments(repeats):
    print(f"{'environment':24}{'copies':>8}{'steps/s (best of ' + str(repeats) + ')':>28}")
    for env_id in (entry.env_id for entry in ENTRIES if entry.vector_env):  # the others: benchmarks/bullet.py
        for copies in (1, 256):
            best = max(env_speed(env_id, copies) for _ in range(repeats))
            print(f"{env_id:24}{copies:>8}{best:>28,.0f}")


def env_speed(env_id, copies, seconds=1.0):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (512, copies, 2)).astype(np.float32)
    env = gym.make(env_id) if copies == 1 else gym.make_vec(env_id, num_envs=copies)
    env.reset(seed=0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for action in actions:
            if copies > 1:
                env.step(action)
            else:
                _, _, terminated, truncated, _ = env.step(action[0])
                if terminated or truncated:
                    env.reset()
        steps += len(actions) * copies
    return steps / (time.perf_counter() - start)


def algorithms(repeats, steps=250):
    data = safe_envs.collect_constraint_data(NAVIGATION, 20_000, seed=0)
    common = {"ent_coef": 0.2, "learning_starts": 10, "buffer_size": 100_000, "seed": 0}
    risk = {**common, "gamma_risk": 0.8, "eps_risk": 0.3}
    models = {
        "SAC (SB3)": SAC("MlpPolicy", NAVIGATION, **common),
        "SACLag": SACLag("MlpPolicy", NAVIGATION, **risk),
        "SACLag fused": SACLag("MlpPolicy", NAVIGATION, optimize="fused", **risk),
        "SACLag fused, one cost critic": SACLag(
            "MlpPolicy", NAVIGATION, optimize="fused", risk_kwargs={"n_critics": 1}, **risk
        ),
        "RecoveryRL": RecoveryRL("MlpPolicy", NAVIGATION, **risk),
        "RecoveryRL fused": RecoveryRL("MlpPolicy", NAVIGATION, optimize="fused", **risk),
    }
    for model in models.values():
        if isinstance(model, RecoveryRL):  # the others need no offline data
            model.pretrain(data, steps=100)
        model.learn(50)
    speeds = {name: [] for name in models}
    products = []
    for _ in range(repeats):
        products.append(product_seconds())
        for name, model in models.items():
            start = time.process_time()  # one thread that never waits: what else runs disturbs this less
            model.learn(steps, reset_num_timesteps=False)
            speeds[name].append(steps / (time.process_time() - start))
    reference = np.array(speeds["SAC (SB3)"])
    bound = 1.0 / np.median(products)
    print(f"one 256 x 256 x 256 product: {1e3 / bound:.3f} ms")
    print(f"{'algorithm':32}{'steps/s':>10}{'min':>8}{'max':>8}{'ratio to SAC':>14}{'updates bound':>15}")
    for name, values in speeds.items():
        ratio = np.median(np.array(values) / reference)
        low, high = min(values), max(values)
        limit = bound / PRODUCTS[name]
        print(f"{name:32}{np.median(values):>10.1f}{low:>8.1f}{high:>8.1f}{ratio:>14.2f}{limit:>15.1f}")


def product_seconds():
    a = torch.randn(256, 256)
    out = torch.empty_like(a)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


MEMORY = """
import resource, torch
torch.set_num_threads(1)
import safe_envs
from safe_envs.registration import ENTRIES
from sb3_ext import RecoveryRL
data = safe_envs.collect_constraint_data("safe/Navigation1-v0", 20_000, seed=0)
model = RecoveryRL("MlpPolicy", "safe/Navigation1-v0", gamma_risk=0.8, eps_risk=0.3, optimize="fused")
model.pretrain(data, steps=50).learn(300)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
IMPORT = """
import sys, time
start = time.perf_counter()
import safe_envs
seconds = time.perf_counter() - start
heavy = [name for name in ("torch", "mujoco", "pybullet", "numba", "stable_baselines3") if name in sys.modules]
print(f"{seconds:.3f} s, loads of the heavy packages: {heavy or 'none'}")
"""


def memory(repeats):
    peak = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.strip()
    print(f"peak memory of RecoveryRL on Navigation 1 with a buffer of 1,000,000: {peak} MiB")
    runs = [
        subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True) for _ in range(3)
    ]
    print(f"import safe_envs (best of 3): {min(run.stdout.strip() for run in runs)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["environments", "algorithms", "memory"])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in (environments, algorithms, memory):
        if args.only in (None, part.__name__):
            part(args.repeats)


if __name__ == "__main__":
    main()
