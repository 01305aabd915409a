"""Learn among walls, where a touch is cheap, then go on among humanoids; see what that saves.

    python examples/hallway_transfer.py                 # about 25 minutes on one core; writes walls.zip
    python examples/hallway_transfer.py --steps 3000 --episodes 1    # to see that it runs

Needs the extra "hallway" (MuJoCo and numba).
"""

import argparse

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env

import safe_envs  # noqa: F401 - registers the environments
from safe_wrappers import PreviousFeedback
from sb3_ext import RecurrentSACLag, evaluate_safely


def make(env_id, n_envs=8):
    # The agent feels at once what it touches: the previous reward and cost are part of what it sees.
    return make_vec_env(lambda: PreviousFeedback(gym.make(env_id)), n_envs=n_envs, seed=0)


def show(what, model, episodes):
    result = evaluate_safely(model, make("safe/HallwayHumanoidsPoint-v0", 1), episodes)
    print(f"{what}: return {result.returns.mean():.0f}, cost {result.costs.mean():.1f} per episode")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150_000, help="steps in each of the two hallways")
    parser.add_argument("--episodes", type=int, default=5, help="of each evaluation")
    args = parser.parse_args()

    small = {"cnn_channels": (16, 32, 32), "cnn_embedding": 128, "gru_size": 128, "hidden": (128,)}
    settings = {"batch_size": 16, "train_freq": 32, "gradient_steps": 16, "learning_starts": 10_000}
    settings |= {"learning_rate": 5e-4, "tau": 0.1, "gamma": 0.98, "gamma_risk": 0.98, "ent_coef": "auto_0.1"}
    settings |= {"multiplier_kwargs": {"space": "linear", "learning_rate": 2e-3}, "max_grad_norm": 10.0}
    settings |= {"buffer_size": 50_000}
    env = make("safe/HallwayWallsPoint-v0")
    model = RecurrentSACLag("MultiInputPolicy", env, policy_kwargs=small, seed=0, **settings)
    model.learn(args.steps)
    show("among humanoids, learned among walls only", model, args.episodes)
    model.save("walls.zip")

    model = RecurrentSACLag.load("walls.zip", env=make("safe/HallwayHumanoidsPoint-v0"))
    model.learn(args.steps)
    show("after going on among them", model, args.episodes)
    print(f"touched in the last episodes of training: {sum(model.ep_cost_buffer):.0f} humanoids")


if __name__ == "__main__":
    main()
