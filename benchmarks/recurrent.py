"""The recurrent learner: environment steps/s, sequences/s, where the time goes, share of the matrix products' bound.

    python benchmarks/recurrent.py                                  # reduced configuration, one core, about a minute
    python benchmarks/recurrent.py --size paper --updates 3         # Table 2 and Table 3 of the safe-transfer paper
    python benchmarks/recurrent.py --env safe/HallwayWallsPoint-v0  # acting in a real environment

The bound is the time that the matrix products of one update would take alone, each at the speed that this machine has
for its shape. Times are of the processor, so that what else runs disturbs them less; quote the shares.
"""

import argparse
import itertools
import time
from collections import defaultdict
from functools import partial

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from safe_wrappers.feedback import PreviousFeedback
from sb3_ext.recurrent.networks import KERNELS
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag
from sb3_ext.recurrent.settings import SMALL_RECURRENT

HORIZON = 30
SIZES = {
    "reduced": (SMALL_RECURRENT["policy_kwargs"], 32),
    "paper": ({}, 256),
}


class Noise(gym.Env):
    """Shows random depth images from a small stock: costs nothing itself. Episodes of 200 steps."""

    observation_space = spaces.Dict(
        {"depth": spaces.Box(0.0, 1.0, (50, 50, 1), np.float32), "proprioception": spaces.Box(-9.0, 9.0, (44,))}
    )
    action_space = spaces.Box(-1.0, 1.0, (12,), np.float32)
    stock = np.random.default_rng(0).random((64, 50, 50, 1), dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        """Start again."""
        self.t = 0
        return self.observed(), {}

    def observed(self):
        """The next image of the stock."""
        return {"depth": self.stock[self.t % 64], "proprioception": np.full(44, self.t / 200.0, np.float32)}

    def step(self, action):
        """Every tenth step costs 1."""
        self.t += 1
        return self.observed(), float(action[0]), False, self.t >= 200, {"cost": float(self.t % 10 == 0)}


def make_model(env_id, size, n_envs):
    kwargs, batch_size = SIZES[size]
    make = Noise if env_id is None else partial(gym.make, env_id)
    env = DummyVecEnv([lambda: PreviousFeedback(make())] * n_envs)
    return RecurrentSACLag(
        "MultiInputPolicy", env, policy_kwargs=kwargs, batch_size=batch_size, horizon=HORIZON, buffer_size=20_000,
        learning_starts=0, train_freq=200, gradient_steps=0, seed=0, device="cpu",
    )  # fmt: skip


# ---------------------------------------------------------------------- where the time goes


def timed(spent, name, function):
    def call(*args, **kwargs):
        start = time.process_time()
        result = function(*args, **kwargs)
        spent[name] += time.process_time() - start
        return result

    return call


def watch(model):
    """Wrap what an update calls; returns the seconds spent in each, filled as it runs."""
    spent, policy = defaultdict(float), model.policy
    model.replay_buffer.sample = timed(spent, "sample, bytes to floats", model.replay_buffer.sample)
    model._latents = by_trunk(spent, model._latents, policy.trunk)
    for name, module in (("heads, forward", policy.heads), ("heads, forward", policy.target_heads),
                         ("policy, forward", policy.actor)):  # fmt: skip
        module.forward = timed(spent, name, module.forward)
    policy.optimizer.step = timed(spent, "Adam", policy.optimizer.step)
    policy.move_target = timed(spent, "slow copies", policy.move_target)
    model._descend = timed(spent, "backward and Adam", model._descend)
    return spent


def by_trunk(spent, function, online):
    def call(trunk, batch):
        name = "trunk, forward" if trunk is online else "slow trunk, forward"
        return timed(spent, name, function)(trunk, batch)

    return call


# ---------------------------------------------------------------------- matrix products of one update


def convolutions(policy):
    """(rows for each image, inputs, outputs) of the convolutions."""
    shape = next(iter(policy.layout.images.values()))
    layers = [m for m in policy.trunk.cnns[0] if isinstance(m, nn.Conv2d)]
    side = shape[0]
    for layer, (size, stride) in zip(layers, KERNELS, strict=True):
        side = (side - size) // stride + 1
        yield side * side, layer.in_channels * size * size, layer.out_channels


def linears(module):
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def products(policy, batch_size):
    """All (rows, inner, columns) of one update with how often they are computed."""
    counts, steps = defaultdict(int), HORIZON + 1
    frames, transitions = steps * batch_size, HORIZON * batch_size

    def layer(rows, n_in, n_out, forward, weights=1, inputs=1):
        for shape, times in (((rows, n_in, n_out), forward), ((n_in, rows, n_out), weights),
                             ((rows, n_out, n_in), inputs)):  # fmt: skip
            counts[shape] += times

    for i, (places, n_in, n_out) in enumerate(convolutions(policy)):
        layer(frames * places, n_in, n_out, forward=2, inputs=min(i, 1))  # an image needs no gradient
    layer(frames, *linears(policy.trunk.embedding)[0], forward=2)
    gru = policy.trunk.gru
    layer(frames, gru.input_size, 3 * gru.hidden_size, forward=2)
    layer(batch_size, gru.hidden_size, 3 * gru.hidden_size, forward=2 * steps, weights=0, inputs=steps)
    layer(frames, gru.hidden_size, 3 * gru.hidden_size, forward=0, inputs=0)
    for n_in, n_out in linears(policy.heads):  # learned, slow, and in the policy's step, which needs their inputs' only
        layer(transitions, n_in, n_out, forward=3, inputs=2)
    for i, (n_in, n_out) in enumerate(linears(policy.actor)):
        layer(transitions, n_in, n_out, forward=2, inputs=min(i, 1))
    return {shape: times for shape, times in counts.items() if times}


def product_seconds(shape, repeats=5):
    rows, inner, columns = shape
    a, b = th.randn(rows, inner), th.randn(inner, columns)
    out, times = th.empty(rows, columns), []
    n = max(1, int(2e7 / (rows * inner * columns)))
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(n):
            th.mm(a, b, out=out)
        times.append((time.process_time() - start) / n)
    return float(np.median(times))


def learner(model, updates):
    model.learn(8000)
    batch_size = model.batch_size
    model.train(2, batch_size)
    bounds, seconds = [], []
    shapes = products(model.policy, batch_size)
    for _ in range(3):  # by turns, so that both see the same load
        bounds.append(sum(times * product_seconds(shape) for shape, times in shapes.items()))
        start = time.process_time()
        model.train(updates, batch_size)
        seconds.append((time.process_time() - start) / updates)
    flops = sum(2 * times * np.prod([float(n) for n in shape]) for shape, times in shapes.items())
    bound, update = np.median(bounds), np.median(seconds)
    share = np.median(np.array(bounds) / np.array(seconds))
    print(f"one update: {1e3 * update:.1f} ms = {1 / update:.2f}/s, {batch_size / update:.0f} sequences/s, "
          f"{batch_size * HORIZON / update:.0f} transitions/s")  # fmt: skip
    print(f"matrix products: {flops / 1e9:.1f} GFLOP, alone {1e3 * bound:.1f} ms = {100 * share:.0f} % of the update")
    spent = watch(model)
    start = time.process_time()
    model.train(updates, batch_size)
    total = time.process_time() - start
    spent["backward"] = spent.pop("backward and Adam") - spent["Adam"]
    spent["the rest"] = total - sum(spent.values())
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {name:26}{1e3 * value / updates:>10.2f} ms{100 * value / total:>6.0f} %")


def acting(env_id, size):
    for n_envs in (1, 30, 60):
        model = make_model(env_id, size, n_envs)
        model.learn(200 * n_envs)
        best = 0.0
        for _ in itertools.repeat(None, 2):
            start = time.process_time()
            model.learn(200 * n_envs, reset_num_timesteps=False)
            best = max(best, 200 * n_envs / (time.process_time() - start))
        print(f"acting and storing, {n_envs} environments: {best:,.0f} steps/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="reduced")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--env", help="ID of an environment with cost; without it, images from a stock")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    if arguments.env:
        import safe_envs  # noqa: F401  # registers its environments
    learner(make_model(arguments.env, arguments.size, 4), arguments.updates)
    acting(arguments.env, arguments.size)
