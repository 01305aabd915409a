"""Put a recovery filter around an agent that knows nothing of obstacles.

The agent, plain PPO from Stable-Baselines3, learns to reach the goal in a world without the block. In the real one
it drives into it every time. The filter, which ships with the package, keeps it out and lets it arrive.

    python examples/filter_any_agent.py
"""

import argparse

import gymnasium as gym
import torch
from stable_baselines3 import PPO

from safe_wrappers import RecoveryFilter
from sb3_ext import GymVecEnv, evaluate_safely, pretrained_filter

ENV_ID = "safe_envs:safe/Navigation2-v0"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60_000, help="training steps of the unsafe agent")
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes")
    args = parser.parse_args()
    torch.set_num_threads(1)

    empty_world = GymVecEnv(gym.make_vec(ENV_ID, num_envs=16, obstacles=()))
    agent = PPO("MlpPolicy", empty_world, n_steps=100, batch_size=200, gamma=0.95, seed=0).learn(args.steps)

    plain = gym.make(ENV_ID)
    filtered = RecoveryFilter.from_model(gym.make(ENV_ID), pretrained_filter("safe/Navigation2-v0"))
    for name, env in (("without filter", plain), ("with filter", filtered)):
        result = evaluate_safely(agent, env, args.episodes, seed=1000)
        print(
            f"{name}: {result.violation_rate:.0%} violations, {result.success_rate:.0%} successes, "
            f"intervened on {result.intervention_rate:.0%} of the steps"
        )


if __name__ == "__main__":
    main()
