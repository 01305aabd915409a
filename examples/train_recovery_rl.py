"""Train Recovery RL on Navigation 2 and compare it with plain SAC: successes and violations while learning.

Recovery RL has the settings of ``make demo``, which are tuned: with the published ones its first 60 episodes are safe
but go nowhere (docs/results.md).

python examples/train_recovery_rl.py --steps 3000
"""

import argparse

import torch

import safe_envs
from sb3_ext import TUNED_RECOVERY, RecoveryRL, SafeSAC, evaluate_safely

ENV_ID = "safe/Navigation2-v0"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="environment steps of each agent")
    parser.add_argument("--pretrain", type=int, default=3000, help="updates of the safety critic on offline data")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)

    # What must not happen is shown to the agent beforehand: random actions near the obstacle, not in training.
    data = safe_envs.collect_constraint_data(ENV_ID, 20_000, seed=args.seed)
    print(f"offline data: {len(data)} transitions, {data.n_violations} violations")

    common = {"seed": args.seed, "stats_window_size": args.steps}  # successes of all training episodes are kept
    tuned = {**TUNED_RECOVERY, **common}
    agents = {
        "Recovery RL (tuned)": RecoveryRL("MlpPolicy", ENV_ID, gamma_risk=0.65, eps_risk=0.1, **tuned),
        "SAC": SafeSAC("MlpPolicy", ENV_ID, ent_coef=0.2, **common),
    }
    agents["Recovery RL (tuned)"].pretrain(data, steps=args.pretrain)

    for name, model in agents.items():
        model.learn(args.steps)
        result = evaluate_safely(model, model.get_env(), n_eval_episodes=10, seed=1000)
        print(
            f"{name}: of {model.n_episodes} training episodes {sum(model.ep_success_buffer)} succeeded and "
            f"{model.n_violating_episodes} violated the constraint; evaluation: {result.success_rate:.0%} successes, "
            f"{result.violation_rate:.0%} violations"
        )


if __name__ == "__main__":
    main()
