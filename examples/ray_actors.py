"""Two processes collect, this one learns: the same class on Ray.

    python examples/ray_actors.py                              # two actors with 30 environments each
    python examples/ray_actors.py --address auto --actors 60   # on a running Ray cluster
    python examples/ray_actors.py --steps 600 --envs 2         # to see that it runs

Needs the extras "hallway" and "ray". Kill it and start it again: it goes on from its checkpoint.
"""

import argparse

import gymnasium as gym

import safe_envs  # noqa: F401 - registers the environments
from safe_wrappers import PreviousFeedback
from sb3_ext import RecurrentSACLag, learn_distributed
from sb3_ext.common.checkpoint import has_checkpoint


def make_env():
    # Called in the actors, which need not have imported anything.
    return PreviousFeedback(gym.make("safe_envs:safe/HallwayWallsPoint-v0"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500_000, help="steps of all environments together")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--envs", type=int, default=30, help="environments of each actor")
    parser.add_argument("--address", help="of a running Ray cluster")
    parser.add_argument("--folder", default="ray_actors_run", help="where the checkpoint is kept")
    options = parser.parse_args()

    if has_checkpoint(options.folder):
        model = RecurrentSACLag.load_checkpoint(options.folder)
    else:
        small = {"cnn_channels": (16, 32, 32), "cnn_embedding": 128, "gru_size": 128, "hidden": (128,)}
        model = RecurrentSACLag(
            "MultiInputPolicy", make_env(), batch_size=32, train_freq=32, gradient_steps=60, buffer_size=200_000,
            learning_starts=300, learning_rate=1e-3, tau=0.02, max_grad_norm=10.0, policy_kwargs=small, seed=0,
        )  # fmt: skip
    while model.num_timesteps < options.steps:
        some = min(options.steps - model.num_timesteps, 50_000)
        learn_distributed(
            model, make_env, some, num_actors=options.actors, envs_per_actor=options.envs, address=options.address,
            reset_num_timesteps=False,
        )  # fmt: skip
        model.save_checkpoint(options.folder)
        print(f"{model.num_timesteps} steps, {model._n_updates} updates, {model.n_episodes} episodes")


if __name__ == "__main__":
    main()
