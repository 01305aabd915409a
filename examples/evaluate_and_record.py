"""Evaluate an agent with its harm, keep the best safe model while training, and record a GIF.

python examples/evaluate_and_record.py --out evaluation
"""

import argparse
from pathlib import Path

import gymnasium as gym
import torch
from PIL import Image

import safe_envs
from sb3_ext import TUNED_RECOVERY, RecoveryRL, SafeEvalCallback, evaluate_safely

ENV_ID = "safe/Navigation2-v0"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pretrain", type=int, default=2000, help="updates of the safety critic on offline data")
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    model = RecoveryRL("MlpPolicy", ENV_ID, gamma_risk=0.65, eps_risk=0.1, seed=0, **TUNED_RECOVERY)
    model.pretrain(safe_envs.collect_constraint_data(ENV_ID, 20_000, seed=0), steps=args.pretrain)
    # Among the models without a violation in the evaluation, the one with the highest return is kept.
    keep_best = SafeEvalCallback(
        gym.make(ENV_ID),
        cost_limit=0.0,
        best_model_save_path=args.out,
        eval_freq=min(500, args.steps),
        n_eval_episodes=3,
    )
    model.learn(args.steps, callback=keep_best)

    best = RecoveryRL.load(args.out / "best_model.zip")
    for deterministic in (True, False):
        result = evaluate_safely(best, gym.make(ENV_ID), 10, deterministic=deterministic, seed=1000)
        print("deterministic" if deterministic else "stochastic", result.summary())

    env = gym.make(ENV_ID, render_mode="rgb_array")
    obs, _ = env.reset(seed=1000)
    frames, done = [Image.fromarray(env.render())], False
    while not done:
        obs, _, terminated, truncated, _ = env.step(best.predict(obs, deterministic=True)[0])
        frames.append(Image.fromarray(env.render()))
        done = terminated or truncated
    frames[0].save(args.out / "episode.gif", save_all=True, append_images=frames[1:], duration=60, loop=0)
    print(f"wrote {args.out / 'episode.gif'}")


if __name__ == "__main__":
    main()
