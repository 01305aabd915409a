"""PPO with a limit on cost, on Safety-Gymnasium's PointGoal1.

pip install -e '.[safety-gym]' && pip install --no-deps safety-gymnasium==1.0.0
python examples/safety_gym_ppo_lag.py
"""

import argparse

import torch

from safe_wrappers import safety_gym
from sb3_ext import PPOLag, evaluate_safely

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=300_000)
parser.add_argument("--episodes", type=int, default=10, help="of the evaluation, 1000 steps each")
args = parser.parse_args()
torch.set_num_threads(1)  # faster than more with networks of this size

model = PPOLag("MlpPolicy", safety_gym.make("SafetyPointGoal1-v0"), cost_limit=25, seed=0, verbose=1)
model.learn(args.steps)
result = evaluate_safely(model, safety_gym.make("SafetyPointGoal1-v0"), args.episodes, seed=1000)
print({name: round(value, 2) for name, value in result.summary().items()})
