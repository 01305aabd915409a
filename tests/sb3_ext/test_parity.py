"""The templates with nothing added are SB3's algorithms, bit for bit on the same seed."""

import numpy as np
import pytest
import torch as th
from corridors import DictCorridor, assert_same_weights, buffer_rows, differing, noise, tiny, vec, weights
from stable_baselines3 import SAC, TD3

from sb3_ext import SafeSAC, SafeTD3

SETTINGS = {
    "one environment": ({}, {}),
    "three environments": ({"n_envs": 3}, {}),
    "VecNormalize": ({"n_envs": 3, "normalize": True}, {}),
    "Dict observations": ({"kind": DictCorridor, "n_envs": 3}, {}),
    "no cost in info": ({"with_cost": False}, {}),
    "terminations": ({"ends_on_violation": True}, {}),
    "other frequencies": ({}, {"train_freq": 4, "gradient_steps": 3}),
    "all gradient steps": ({}, {"train_freq": (1, "episode"), "gradient_steps": -1}),
    "action noise": ({}, {"action_noise": noise()}),
}
SAC_SETTINGS = {
    "gSDE": ({}, {"use_sde": True, "sde_sample_freq": 4}),
    "fixed temperature": ({}, {"ent_coef": 0.1}),
    "rare target updates": ({}, {"target_update_interval": 2, "gradient_steps": 3}),
    "learning rate schedule": ({"n_envs": 3}, {"learning_rate": lambda progress: 1e-3 * progress}),
}
TD3_SETTINGS = {"every actor update": ({}, {"policy_delay": 1, "target_policy_noise": 0.4})}
CASES = [
    pytest.param(ours, theirs, *setting, id=f"{theirs.__name__}, {name}")
    for ours, theirs, own in ((SafeSAC, SAC, SAC_SETTINGS), (SafeTD3, TD3, TD3_SETTINGS))
    for name, setting in (SETTINGS | own).items()
]


def trained(cls, env_kwargs, kwargs, steps=240):
    return tiny(cls, vec(**env_kwargs), **kwargs).learn(steps)


@pytest.mark.parametrize(("ours", "theirs", "env_kwargs", "kwargs"), CASES)
def test_inert_template_equals_sb3_bit_for_bit(ours, theirs, env_kwargs, kwargs):
    safe, plain = trained(ours, env_kwargs, dict(kwargs)), trained(theirs, env_kwargs, dict(kwargs))
    assert safe._n_updates == plain._n_updates > 40
    assert_same_weights(safe, plain)
    own, other = buffer_rows(safe.replay_buffer), buffer_rows(plain.replay_buffer)
    assert differing({k: own[k] for k in other}, other) == []


def test_random_streams_are_left_where_sb3_leaves_them():
    draws = []
    for cls in (SafeSAC, SAC):
        trained(cls, {}, {}, steps=40)
        draws.append((th.rand(1).item(), np.random.rand()))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("cls", [SafeSAC, SafeTD3])
def test_fused_agrees_after_100_updates(cls):
    exact, fused = (trained(cls, {}, {"optimize": option}, steps=120) for option in ("sb3", "fused"))
    assert fused.actor.optimizer.defaults["fused"] and not exact.actor.optimizer.defaults["fused"]
    assert fused._n_updates == 100
    assert differing(weights_only(exact), weights_only(fused), tolerance=1e-5) == []


def weights_only(model):
    return {k: v for k, v in weights(model).items() if k.startswith(".policy")}


def test_options_do_not_leak_into_the_users_dictionaries():
    policy_kwargs, buffer_kwargs = {"net_arch": [16]}, {}
    tiny(SafeSAC, optimize="fused", policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs)
    assert "optimizer_kwargs" not in policy_kwargs and buffer_kwargs == {}
