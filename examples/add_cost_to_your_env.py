"""Give any Gymnasium environment a cost, and train a safe agent on it.

Pendulum: spinning faster than 6 rad/s counts as harm. SAC-Lagrangian keeps the cost of an episode near its limit.

    python examples/add_cost_to_your_env.py --steps 10000
"""

import argparse

import gymnasium as gym
import torch

from safe_wrappers import CostFromFunction
from sb3_ext import SACLag, evaluate_safely


def too_fast(obs, action, next_obs, info):
    """1 for every step above 6 rad/s."""
    return float(abs(next_obs[2]) > 6.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--cost-limit", type=float, default=5.0, help="undiscounted cost per episode")
    args = parser.parse_args()
    torch.set_num_threads(1)

    env = CostFromFunction(gym.make("Pendulum-v1"), too_fast)
    model = SACLag(
        "MlpPolicy",
        env,
        cost_limit=args.cost_limit,
        risk_kwargs={"tau": 0.005},
        multiplier_kwargs={"value": 1.0, "learning_rate": 1e-3},
        seed=0,
    )
    model.learn(args.steps, log_interval=10)
    result = evaluate_safely(model, model.get_env(), n_eval_episodes=10, seed=1000)
    print(f"cost per episode {result.costs.mean():.1f} (limit {args.cost_limit:g}), return {result.returns.mean():.0f}")


if __name__ == "__main__":
    main()
