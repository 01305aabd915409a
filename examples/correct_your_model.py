"""Correct a trained model that ignores safety: any SB3 model is the baseline that a safe agent imitates.

Here plain TD3 has learned to swing a pendulum up, and spins it faster than allowed. Ten lines train a safe
agent; how safe depends on `eps_risk`.

    python examples/correct_your_model.py
"""

import argparse

import gymnasium as gym
import torch
from stable_baselines3 import TD3

from safe_wrappers import CostFromFunction
from sb3_ext import DualAgent, evaluate_safely


def too_fast(obs, action, next_obs, info):
    return abs(next_obs[2]) > 5.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8_000, help="training steps of the unsafe model")
    parser.add_argument("--corrections", type=int, default=8_000, help="training steps of the safe agent")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes")
    args = parser.parse_args()
    torch.set_num_threads(1)

    your_model = TD3("MlpPolicy", "Pendulum-v1", train_freq=1, seed=0).learn(args.steps)

    env = CostFromFunction(gym.make("Pendulum-v1"), too_fast)
    model = DualAgent("MlpPolicy", env, baseline=your_model, eps_risk=0.02, gamma_risk=0.9, seed=0)
    model.learn(args.corrections)
    model.save("corrected")

    for name, agent in (("your model", model.baseline), ("corrected", DualAgent.load("corrected"))):
        result = evaluate_safely(agent, env, args.episodes, seed=1000)
        print(f"{name}: return {result.returns.mean():.0f}, too fast on {result.costs.mean():.1f} of 200 steps")


if __name__ == "__main__":
    main()
