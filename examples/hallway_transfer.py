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
from sb3_ext import SMALL_RECURRENT, RecurrentSACLag, evaluate_safely


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

    env = make("safe/HallwayWallsPoint-v0")
    model = RecurrentSACLag("MultiInputPolicy", env, step_limit=0.01, seed=0, **SMALL_RECURRENT)
    model.learn(args.steps)
    show("among humanoids, learned among walls only", model, args.episodes)
    model.save("walls.zip")

    model = RecurrentSACLag.load("walls.zip", env=make("safe/HallwayHumanoidsPoint-v0"))
    model.learn(args.steps)
    show("after going on among them", model, args.episodes)
    print(f"touched in the last episodes of training: {sum(model.ep_cost_buffer):.0f} humanoids")


if __name__ == "__main__":
    main()
