"""Meta-learn a safety critic on drawn dynamics, adapt it to dynamics it never saw, and use it as a filter.

Navigation 2, in which the strength of the actions is drawn anew for every task. The driver goes straight to the goal
and knows nothing of the block in between.

    python examples/adapt_a_safety_critic.py
"""

import argparse

import numpy as np

import safe_envs
from safe_wrappers import RecoveryFilter
from sb3_ext import MESA

TASKS = safe_envs.TASKS["navigation2"]
SETTINGS = {"gamma_risk": 0.65, "eps_risk": 0.2, "outer_lr": 3e-4, "scale_inputs": True, "risk_kwargs": {"tau": 0.01}}


def alarms(model, data):
    """How many of the steps into the block, and of the others, the model rates as too risky."""
    alarm, hit = model.risk(data.observations, data.actions) > model.eps_risk, data.violations
    return f"alarm at {alarm[hit].mean():.0%} of the steps that hit, {alarm[~hit].mean():.0%} of the others"


def violating_episodes(env, n):
    """Of a driver who looks at the goal only."""
    violations = 0
    for seed in range(n):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            observation, _, terminated, truncated, info = env.step(np.clip(-observation, -1.0, 1.0))
            violations += info["constraint_violation"]
            ended = terminated or truncated
    return violations


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=1_500, help="steps of meta-learning")
    parser.add_argument("--episodes", type=int, default=20, help="of the driver")
    args = parser.parse_args()
    training = enumerate(TASKS.training_tasks(10), start=1)
    others = [safe_envs.collect_constraint_data(TASKS.env_id, 4_000, seed=i, **task) for i, task in training]
    here = TASKS.test_task(seed=0)
    few, held_out = (safe_envs.collect_constraint_data(TASKS.env_id, n, seed=n, **here) for n in (400, 4_000))
    model, novice = (MESA("MlpPolicy", TASKS.make(here), **SETTINGS, seed=0) for _ in range(2))

    print("meta-learned:", alarms(model.meta_train(others, args.iterations, recovery_dataset=few), held_out))
    print(f"adapted to {len(few)} transitions:", alarms(model.adapt(few, steps=50), held_out))
    print("from these alone, not meta-learned:", alarms(novice.pretrain(few, steps=50), held_out))
    for name, env in (("without", TASKS.make(here)), ("with", RecoveryFilter.from_model(TASKS.make(here), model))):
        print(f"driver {name} the filter: {violating_episodes(env, args.episodes)} of {args.episodes} episodes violate")


if __name__ == "__main__":
    main()
