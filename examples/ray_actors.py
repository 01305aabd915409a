"""Two processes collect, this one learns: the same class on Ray.

    python examples/ray_actors.py                              # two actors with 30 environments each
    python examples/ray_actors.py --address auto --actors 60   # on a running Ray cluster
    python examples/ray_actors.py --steps 600 --envs 2         # to see that it runs

Needs the extras "hallway" and "ray". Kill it and start it again: it goes on from its last checkpoint.
"""

import argparse

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps

from safe_wrappers import PreviousFeedback
from sb3_ext import SMALL_RECURRENT, RecurrentSACLag, has_checkpoint, learn_distributed

FOLDER = "ray_actors_run"
SETTINGS = {**SMALL_RECURRENT, "gradient_steps": 120, "buffer_size": 400_000}  # for 60 environments


class Save(BaseCallback):
    """Called by ``EveryNTimesteps``."""

    def _on_step(self):
        self.model.save_checkpoint(FOLDER)
        return True


def make_env():  # called in the actors, which need not have imported anything
    return PreviousFeedback(gym.make("safe_envs:safe/HallwayWallsPoint-v0"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500_000, help="steps of all environments together")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--envs", type=int, default=30, help="environments of each actor")
    parser.add_argument("--address", help="of a running Ray cluster")
    parser.add_argument("--every", type=int, default=50_000, help="steps between checkpoints")
    args = parser.parse_args()
    if going_on := has_checkpoint(FOLDER):
        model = RecurrentSACLag.load_checkpoint(FOLDER)
    else:
        model = RecurrentSACLag("MultiInputPolicy", make_env(), seed=0, **SETTINGS)
    learn_distributed(
        model, make_env, args.steps - model.num_timesteps, num_actors=args.actors, envs_per_actor=args.envs,
        address=args.address, callback=EveryNTimesteps(args.every, Save()), reset_num_timesteps=not going_on,
    )  # fmt: skip
    print(f"{model.num_timesteps} steps, {model._n_updates} updates, {model.n_episodes} episodes")


if __name__ == "__main__":
    main()
