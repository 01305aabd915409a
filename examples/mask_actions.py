"""Mask risky actions: MaskablePPO with a safety critic's mask, and rejection sampling for a continuous policy.

python examples/mask_actions.py
"""

import argparse

import gymnasium as gym
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

from safe_wrappers import ActionMask, sample_safely
from sb3_ext import evaluate_safely, pretrained_filter

ENV_ID = "safe_envs:safe/Navigation2-v0"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    critic = pretrained_filter("safe/Navigation2-v0")

    # 1. The two-dimensional action becomes a choice among 5 x 5, of which the mask allows those with little risk.
    env = ActionMask(gym.make(ENV_ID), critic.risk, critic.eps_risk, bins=5)
    model = MaskablePPO("MlpPolicy", env, gamma=0.95, seed=0).learn(args.steps)
    result = evaluate_safely(model, env, n_eval_episodes=10, seed=1000)  # with the masks, as in training
    print(f"MaskablePPO: {result.violations.sum()} of 10 episodes violated the constraint")

    # 2. A continuous policy, here an untrained one, sampled until the critic agrees (SQRL, equation 3).
    obs, _ = env.reset(seed=0, options={"state": [-25.0, 9.0]})
    print(f"just above the block: the mask allows {env.action_masks().sum()} of {env.action_space.n} actions")
    policy = PPO("MlpPolicy", ENV_ID, seed=0)
    sample = sample_safely(policy, obs, critic.risk, critic.eps_risk, n=100)
    print(f"of PPO's samples: action {sample.action.round(2)}, risk {sample.risk:.2f}, accepted: {sample.accepted}")


if __name__ == "__main__":
    main()
