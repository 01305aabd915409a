"""Train on a true vector environment: 64 navigation worlds in one NumPy array, behind SB3's VecEnv interface.

python examples/train_on_a_vector_env.py --steps 60000
"""

import argparse
import time

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from sb3_ext import CostLoggingCallback, GymVecEnv, VecRecoveryFilter, evaluate_safely, pretrained_filter

ENV_ID = "safe_envs:safe/Navigation2-v0"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60_000)
    args = parser.parse_args()
    torch.set_num_threads(1)

    worlds = VecMonitor(GymVecEnv(gym.make_vec(ENV_ID, num_envs=64)))
    protected = VecRecoveryFilter.from_model(worlds, pretrained_filter("safe/Navigation2-v0"))
    costs = CostLoggingCallback()
    start = time.perf_counter()
    model = PPO("MlpPolicy", protected, n_steps=100, batch_size=400, gamma=0.95, seed=0)
    model.learn(args.steps, callback=costs)
    print(
        f"{model.num_timesteps / (time.perf_counter() - start):,.0f} steps/s; "
        f"{costs.n_violating_episodes} of {costs.n_episodes} training episodes violated the constraint"
    )
    result = evaluate_safely(model, protected, n_eval_episodes=20, seed=1000)
    print(f"evaluation behind the filter: {result.success_rate:.0%} successes, {result.violation_rate:.0%} violations")


if __name__ == "__main__":
    main()
