"""How many steps before a violation it could still have been avoided, by whom, and who saw it coming.

An agent acts until it violates; from states some steps before that, recovery policies of trained models, no action at
all, and constant actions from the corners of the action space try to go on without a violation. The models also say
what risk they see in the action that the agent took.

    python benchmarks/avoidable.py safe/HalfCheetahDisabled-v0 runs/.../unconstrained/seed-0/model.zip \
        --recovery RecoveryRL:runs/.../recovery-rl/seed-0/model.zip MESA:runs/.../mesa/seed-0/model.zip
"""

import argparse
import copy
from collections import defaultdict
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from rich.progress import track

import safe_envs  # noqa: F401 - registers
import sb3_ext
from safe_wrappers.info import VIOLATION

STEPS = (2, 5, 10, 20, 45, 80)


def violates(env, act, steps):
    """Whether a copy of ``env`` violates within so many steps of ``act``."""
    env = copy.deepcopy(env)
    obs = env._observation()
    for _ in range(steps):
        obs, _, _, _, info = env.step(act(obs))
        if info[VIOLATION]:
            return True
    return False


def last_states(env, model, seed, most):
    """Copies of the environment before the last steps to an episode's violation, and the actions, the last first."""
    obs, _ = env.reset(seed=seed)
    trail = []
    for _ in range(1_000):
        action, _ = model.predict(obs, deterministic=False)
        trail = [(copy.deepcopy(env), action), *trail[: most - 1]]
        obs, _, _, _, info = env.step(action)
        if info[VIOLATION]:
            return trail
    return []


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env")
    parser.add_argument("agent", help="a saved SafeSAC")
    parser.add_argument("--recovery", nargs="*", default=[], metavar="CLASS:FILE", help="models with a recovery policy")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--corners", type=int, default=64, help="constant actions to try")
    parser.add_argument("--within", type=int, default=150, help="steps that must go well")
    return parser.parse_args()


def show(found, form):
    for who in dict.fromkeys(name for name, _ in found):
        cells = [f"{steps}: {form.format(np.mean(found[who, steps]))}" for steps in STEPS]
        print(f"  {who:<20}", "  ".join(cells))


def main():
    args = parse()
    th.set_num_threads(1)
    th.manual_seed(0)
    rng = np.random.default_rng(0)
    env = gym.make(args.env).unwrapped
    agent = sb3_ext.SafeSAC.load(args.agent, device="cpu")
    low, high = env.action_space.low, env.action_space.high
    policies, models = {"no action": lambda obs: np.zeros_like(low)}, {}
    for entry in args.recovery:
        kind, _, path = entry.partition(":")
        name, model = "/".join(Path(path).parts[-3:-1]), getattr(sb3_ext, kind).load(path, device="cpu")
        models[name], policies[name] = model, lambda obs, model=model: model.recovery(obs[None])[0]
    saved, seen, n_violations = defaultdict(list), defaultdict(list), 0
    for seed in track(range(args.episodes)):
        states = last_states(env, agent, seed, max(STEPS))
        n_violations += bool(states)
        for steps in (steps for steps in STEPS if steps <= len(states)):
            state, action = states[steps - 1]
            corners = np.where(rng.random((args.corners, len(low))) < 0.5, low, high)
            tries = [not violates(state, lambda obs, corner=corner: corner, args.within) for corner in corners]
            saved["the best corner", steps].append(any(tries))
            saved["a random corner", steps].append(np.mean(tries))
            for name, act in policies.items():
                saved[name, steps].append(not violates(state, act, args.within))
            for name, model in models.items():
                seen[name, steps].append(model.risk(state._observation()[None], action[None])[0])
    print(f"{n_violations} of {args.episodes} episodes violate; so many steps before, these could be saved:")
    show(saved, "{:.0%}")
    print("risk of the action that was taken:")
    show(seen, "{:.3f}")


if __name__ == "__main__":
    main()
