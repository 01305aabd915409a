"""On the corridor every safe algorithm harms far less than plain SAC (minutes; not part of the normal suite)."""

import numpy as np
import pytest
from corridors import HIGH, QUIET, Corridor, recorded, vec
from stable_baselines3 import SAC

from safe_wrappers import CostPenalty, RecoveryFilter
from sb3_ext import (
    RCPO,
    RSPO,
    SQRL,
    CostLoggingCallback,
    RecoveryRL,
    RiskSensitiveSAC,
    SACLag,
    evaluate_safely,
    load_filter,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(QUIET)]
STEPS = 3000
FAST = dict(
    policy_kwargs={"net_arch": [32, 32]}, batch_size=64, learning_starts=100, learning_rate=2e-3, ent_coef=0.01,
    gamma=0.9, seed=0, device="cpu",
)  # fmt: skip
RISK = dict(
    eps_risk=0.2, gamma_risk=0.6, risk_kwargs={"net_arch": (32, 32), "learning_rate": 3e-3, "tau": 0.02}
)  # fmt: skip
PRICED = {"multiplier_kwargs": {"value": 5.0, "learning_rate": 1e-2}}
METHODS = {
    "SACLag": (SACLag, PRICED),
    "SACLag, cost_limit": (SACLag, PRICED | {"eps_risk": None, "cost_limit": 0.3, "episode_length": 10}),
    "RSPO": (RSPO, {"multiplier_start": 40.0}),
    "RCPO": (RCPO, {"multiplier_kwargs": {"value": 10.0, "learning_rate": 1e-2}}),
    "RiskSensitiveSAC": (RiskSensitiveSAC, {"multiplier_end": 20.0, "anneal_updates": 500}),
    "SQRL": (SQRL, PRICED | {"n_candidates": 30}),
    "RecoveryRL": (RecoveryRL, {"recovery_kwargs": {"net_arch": (32, 32), "learning_rate": 3e-3}}),
}


@pytest.fixture(scope="module")
def plain():
    """SAC without any notion of cost."""
    return SAC("MlpPolicy", vec(), **FAST).learn(STEPS, callback=(log := CostLoggingCallback(window=10_000))), log


def evaluated(model, env=None):
    return evaluate_safely(model, vec() if env is None else env, 30, seed=100)


def test_plain_sac_harms(plain):
    result = evaluated(plain[0])
    assert result.violation_rate > 0.9 and result.returns.mean() > 10


@pytest.mark.parametrize("name", METHODS)
def test_safe_algorithms_harm_less_in_the_end_and_still_work(name, plain):
    cls, kwargs = METHODS[name]
    model = cls("MlpPolicy", vec(), **{**FAST, **RISK, **kwargs})
    model = model.pretrain(recorded(1000), steps=1500)
    log = CostLoggingCallback(window=10_000)
    model.learn(STEPS, callback=log)
    result, unsafe = evaluated(model), evaluated(plain[0])
    assert result.costs.mean() < 0.2 * unsafe.costs.mean()
    assert sum(log.episode_costs) < 0.5 * sum(plain[1].episode_costs)
    assert result.returns.mean() > 2.0  # standing still gives 0, the best safe policy about 7.5


def test_an_exported_filter_makes_an_agent_safe_that_never_saw_a_cost(plain, tmp_path):
    kwargs = {"recovery_kwargs": {"net_arch": (32, 32), "learning_rate": 3e-3}}
    RecoveryRL("MlpPolicy", vec(), **FAST, **RISK, **kwargs).pretrain(recorded(1000), 2000).export_filter(
        tmp_path / "filter.zip"
    )
    env = RecoveryFilter.from_model(Corridor(), load_filter(tmp_path / "filter.zip"))
    result = evaluated(plain[0], env)
    assert result.costs.mean() < 0.2 * evaluated(plain[0]).costs.mean()
    assert 0.0 < result.intervention_rate < 1.0 and result.returns.mean() > 2.0


def test_sqrl_pretrained_on_the_environment_fine_tunes_safely(plain):
    arguments = {**FAST, **RISK, "eps_risk": 0.4, "fixed_multiplier": 30.0, "n_candidates": 30}
    model = SQRL("MlpPolicy", vec(), **arguments, n_off=100, safety_episodes=5, safety_updates=100)
    model.pretrain(model.get_env(), steps=1500)
    assert model.n_violating_episodes > 0.5 * model.n_episodes  # the critic has seen what it is to avoid
    log = CostLoggingCallback(window=10_000)
    model.finetune(vec(), steps=1500, callback=log)
    assert np.mean(log.episode_costs) < 0.1 * np.mean(plain[1].episode_costs)
    assert evaluated(model).violation_rate < 0.1


def test_penalised_reward_is_the_baseline_that_it_should_be(plain):
    model = SAC("MlpPolicy", CostPenalty(Corridor(), 20.0), **FAST).learn(STEPS)
    assert evaluated(model).costs.mean() < 0.2 * evaluated(plain[0]).costs.mean()


def test_the_best_safe_policy_is_what_the_corridor_says():
    class Best:
        def predict(self, obs, **kwargs):
            move = np.clip((0.93 - obs[:, :1]) / 0.1, -2.0, HIGH[0])
            return np.concatenate([move, np.zeros_like(move)], axis=1), None

    result = evaluated(Best())
    assert result.violation_rate == 0.0 and 7.0 < result.returns.mean() < 9.0
