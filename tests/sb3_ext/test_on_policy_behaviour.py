"""In the corridor PPO breaks a limit that the constrained algorithms meet at nearly the best return there is."""

import numpy as np
import pytest
from corridors import vec
from stable_baselines3 import PPO

from sb3_ext import CPO, PPOPID, TRPOPID, PPOLag, TRPOLag, evaluate_safely

pytestmark = pytest.mark.slow
STEPS, LIMIT, SEEDS = 16_000, 0.5, range(3)
FAST = dict(n_steps=100, batch_size=100, gamma=0.95, policy_kwargs={"net_arch": [32, 32]}, device="cpu")
LIMITED = dict(cost_limit=LIMIT, cost_gamma=0.95)
PID = {"kp": 1.0, "ki": 0.4, "kd": 0.0, "smoothing": 0.5}
METHODS = {
    "PPOLag": (PPOLag, {"learning_rate": 1e-3, "multiplier_kwargs": {"learning_rate": 0.3}}),
    "PPOPID": (PPOPID, {"learning_rate": 1e-3, "multiplier_kwargs": PID}),
    "TRPOLag": (TRPOLag, {"multiplier_kwargs": {"learning_rate": 0.3}}),
    "TRPOPID": (TRPOPID, {"multiplier_kwargs": PID}),
    "CPO": (CPO, {}),
}


def trained(cls, seed, **kwargs):
    model = cls("MlpPolicy", vec(4), seed=seed, **FAST, **kwargs).learn(STEPS)
    return evaluate_safely(model, vec(4), 40, seed=100, deterministic=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_ppo_breaks_the_limit(seed):
    result = trained(PPO, seed, learning_rate=1e-3)
    assert result.costs.mean() > 10 * LIMIT and result.returns.mean() > 12


@pytest.mark.parametrize("name", METHODS)
def test_constrained_algorithms_meet_it(name):
    cls, kwargs = METHODS[name]
    results = [trained(cls, seed, **LIMITED, **kwargs) for seed in SEEDS]
    costs = np.array([result.costs.mean() for result in results])
    # Multipliers swing around their fixed point, and with them the policy that is evaluated in the end.
    assert costs.mean() < 1.6 * LIMIT and costs.max() < 2.0 * LIMIT
    assert min(result.returns.mean() for result in results) > 7.0  # 8.7 is what the limit allows
