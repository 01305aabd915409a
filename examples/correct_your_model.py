"""Correct a trained model that ignores safety: any SB3 model is the baseline that a safe agent imitates.

Here plain TD3 has learned to swing a pendulum up, and asks more of the motor than it was built for: 6 W, torque
times speed. Ten lines train an agent that does the same and spares the motor in all but a share `eps_risk` of steps.

    python examples/correct_your_model.py
"""

import argparse

import gymnasium as gym
import torch
from stable_baselines3 import TD3

from safe_wrappers import CostFromFunction
from sb3_ext import DualAgent, evaluate_safely


def overloads(obs, action, next_obs, info):
    return action[0] * obs[2] > 6.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8_000, help="training steps of the unsafe model")
    parser.add_argument("--corrections", type=int, default=8_000, help="training steps of the safe agent")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes")
    args = parser.parse_args()
    torch.set_num_threads(1)

    your_model = TD3("MlpPolicy", "Pendulum-v1", train_freq=1, seed=0).learn(args.steps)

    env = CostFromFunction(gym.make("Pendulum-v1"), overloads)
    settings = {"eps_risk": 0.02, "gamma_risk": 0.5, "multiplier_learning_rate": 0.01}
    model = DualAgent("MlpPolicy", env, baseline=your_model, seed=0, **settings)
    model.learn(args.corrections)
    model.save("corrected")

    for name, agent in (("your model", model.baseline), ("corrected", DualAgent.load("corrected"))):
        result = evaluate_safely(agent, env, args.episodes, seed=1000)
        print(f"{name}: return {result.returns.mean():.0f}, overloads in {result.costs.mean():.1f} of 200 steps")


if __name__ == "__main__":
    main()
