"""Correct a controller that was written by hand: the push of a cube, in which an obstacle stands in the way.

The scripted controller drags the cube straight to its target and never looks at the obstacle. The safe agent imitates
it as far as the obstacle allows, and leads the cube around it. What it and other baselines reach is in docs/results.md.
Needs the extra `bullet`; takes half an hour.

    python examples/correct_a_controller.py
"""

import argparse

import gymnasium as gym
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from safe_envs import DragController
from sb3_ext import DualAgent, evaluate_safely, imitate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="training steps of the safe agent")
    parser.add_argument("--clone", type=int, default=20_000, help="steps of the controller that are imitated first")
    parser.add_argument("--episodes", type=int, default=50, help="evaluation episodes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        env = DummyVecEnv([lambda: gym.make("safe/PandaPush-v0", resting_contact=False)])
    except gym.error.DependencyNotInstalled as missing:
        print(f"skipped: {missing}")
        return

    env = VecNormalize(env, norm_reward=False)  # centimetres decide
    settings = {"eps_risk": 0.01, "gamma_risk": 0.8, "batch_size": 256, "optimize": "fused", "seed": 0}
    model = DualAgent("MlpPolicy", env, baseline=DragController(), learning_starts=500, **settings)
    imitate(model, DragController(), n_transitions=args.clone, steps=args.clone)
    model.learn(args.steps)

    for name, agent in (("controller", model.baseline), ("corrected", model)):
        result = evaluate_safely(agent, env, args.episodes, seed=1000)
        print(
            f"{name}: touched the obstacle in {result.violation_rate:.0%} of the episodes, "
            f"{result.success_rate:.0%} successes"
        )


if __name__ == "__main__":
    main()
