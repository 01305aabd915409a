"""Speed of the PyBullet environments on one core, and the success of the push's scripted controllers.

    python benchmarks/bullet.py                 # speed, about 1 minute
    python benchmarks/bullet.py --controller    # the controllers over 200 episodes, 5 to 10 minutes

Steps per second of processor time: PyBullet and these environments run on one core, and a busy machine counts less
that way. The push is timed in turns with panda-gym's PandaPush-v3; quote the ratio. "physics" is PyBullet's own steps
alone, in the same world.
"""

import argparse
import time

import gymnasium as gym
import numpy as np
import panda_gym  # noqa: F401 - registers PandaPush-v3

from safe_envs import DragController, PushController
from safe_envs.sim.panda_sim import N_SUBSTEPS

ANT, PUSH, GOAL, REFERENCE = "safe/AntRun-v0", "safe/PandaPush-v0", "safe/PandaPushGoal-v0", "PandaPush-v3"
STEPS = {ANT: 1000, PUSH: 250, GOAL: 250, REFERENCE: 250}


def steps_per_second(env, n):
    actions = np.random.default_rng(0).uniform(-1, 1, (n, *env.action_space.shape)).astype(np.float32)
    start = time.process_time()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return n / (time.process_time() - start)


def physics_per_second(env, n):
    sim = env.unwrapped.sim
    substeps = 1 if env.spec.id == ANT else N_SUBSTEPS
    start = time.process_time()
    for _ in range(n * substeps):
        sim.stepSimulation()
    return n / (time.process_time() - start)


def speed(repeats):
    envs = {env_id: gym.make(env_id) for env_id in STEPS}
    for env in envs.values():
        env.reset(seed=0)
    speeds = {env_id: [] for env_id in STEPS}
    physics = {ANT: [], PUSH: []}
    for _ in range(repeats):
        for env_id, env in envs.items():
            speeds[env_id].append(steps_per_second(env, STEPS[env_id]))
            if env_id in physics:
                physics[env_id].append(physics_per_second(env, STEPS[env_id]))
                env.reset()
    print(f"{'environment':24}{'steps/s: median':>16}{'best':>9}{'physics':>9}{'ratio to ' + REFERENCE:>24}")
    reference = np.array(speeds[REFERENCE])
    for env_id, values in speeds.items():
        alone = f"{max(physics[env_id]):,.0f}" if env_id in physics else "-"
        ratio = "-" if env_id == ANT else f"{np.median(values / reference):.2f}"
        print(f"{env_id:24}{np.median(values):>16,.0f}{max(values):>9,.0f}{alone:>9}{ratio:>24}")


def controller(policy, episodes):
    print(f"{type(policy).__name__:34}{'at the target':>15}{'touched':>9}{'success':>9}   ({episodes} episodes)")
    for layout in ("reachable", "panda-gym", "authors"):
        for obstacle in (False,) if layout == "panda-gym" else (False, True):
            env = gym.make(PUSH, obstacle=obstacle, layout=layout)
            rows = np.array([play(env, policy, seed) for seed in range(episodes)]).mean(axis=0)
            name = f"{layout}, {'obstacle' if obstacle else 'no obstacle'}"
            print(f"{name:34}{rows[0]:>15.1%}{rows[1]:>9.1%}{rows[2]:>9.1%}", flush=True)
    env = gym.make(PUSH, obstacle=False)
    for noise in (0.1, 0.2, 0.3):
        success = np.mean([play(env, policy, seed, noise)[2] for seed in range(episodes)])
        print(f"{f'reachable, noise {noise:g}':34}{success:>15.1%}{'':>9}{success:>9.1%}", flush=True)


def play(env, policy, seed, noise=0.0):
    """Whether the cube ended at the target, whether the obstacle was touched, and whether that is a success."""
    observation, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    touched, truncated = False, False
    while not truncated:
        observation, reward, _, truncated, info = env.step(
            np.clip(policy(observation) + noise * rng.normal(size=3), -1.0, 1.0)
        )
        touched |= info["constraint_violation"]
    return reward == 0.0, touched, info["is_success"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--controller", action="store_true")
    parser.add_argument("--episodes", type=int, default=200)
    args = parser.parse_args()
    if args.controller:
        for policy in (PushController(), DragController()):
            controller(policy, args.episodes)
    else:
        speed(args.repeats)


if __name__ == "__main__":
    main()
