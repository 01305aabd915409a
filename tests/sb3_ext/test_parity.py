"""The templates with nothing added are SB3's algorithms, bit for bit on the same seed."""

import copy

import numpy as np
import pytest
import torch as th
from corridors import (
    QUIET,
    Corridor,
    DictCorridor,
    ImageCorridor,
    assert_same_weights,
    buffer_rows,
    differing,
    noise,
    tensors,
    tiny,
    vec,
    weights,
)
from gymnasium.spaces import Box
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.policies import ContinuousCritic

from sb3_ext import RCPO, SQRL, DualAgent, RecoveryRL, SACLag, SafeSAC, SafeTD3
from sb3_ext.common.ensembles import EnsembleMLP
from sb3_ext.common.fused import FusedCritic, fuse
from sb3_ext.common.optim import FusedAdam
from sb3_ext.common.safety_critic import frozen

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


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("kind", [Corridor, DictCorridor])
@pytest.mark.parametrize("cls", [SafeSAC, SafeTD3, DualAgent, SACLag, RCPO, SQRL, RecoveryRL])
def test_fused_agrees_after_100_updates(cls, kind):
    exact, fused = (trained(cls, {"kind": kind}, {"optimize": option}, steps=120) for option in ("sb3", "fused"))
    assert fused.actor.optimizer.defaults["fused"] and not exact.actor.optimizer.defaults["fused"]
    assert isinstance(fused.critic, FusedCritic) and fused._n_updates == 100
    assert differing(networks(exact), networks(fused), tolerance=1e-5) == []


def networks(model):
    return {k: v for k, v in weights(model).items() if "optimizer" not in k}


@pytest.mark.parametrize(
    ("policy", "kind", "policy_kwargs"),
    [
        ("MlpPolicy", Corridor, {"net_arch": [16, 16], "activation_fn": th.nn.Tanh}),
        ("MlpPolicy", Corridor, {"net_arch": []}),
        ("MlpPolicy", Corridor, {"net_arch": [16], "n_critics": 3}),
        ("CnnPolicy", ImageCorridor, {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}),
    ],
)
def test_fused_takes_any_network(policy, kind, policy_kwargs):
    runs = []
    for option in ("sb3", "fused"):
        kwargs = {"policy_kwargs": policy_kwargs, "optimize": option, "learning_starts": 5, "batch_size": 8, "seed": 0}
        runs.append(networks(SafeSAC(policy, vec(kind=kind), **kwargs).learn(15)))
    assert differing(*runs, tolerance=1e-5) == []


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stacked", [False, True])
def test_gradients_by_hand_are_those_of_autograd(n, stacked):
    plain = EnsembleMLP(n, 40, (64, 64)) if stacked else ContinuousCritic(
        Box(-1, 1, (37,)), Box(-1, 1, (3,)), [64, 64], th.nn.Flatten(), 37, n_critics=n, share_features_extractor=False
    )  # fmt: skip
    plain = plain.double()
    fused = copy.deepcopy(plain)
    fuse(fused)
    gradients = []
    for network in (plain, fused):
        x = th.randn(50, 40, dtype=th.float64, generator=th.Generator().manual_seed(0)).requires_grad_()
        with frozen(network):
            only_input = th.autograd.grad(values_of(network, x, stacked).amin(0).sum(), x)
        values_of(network, x, stacked).square().sum().backward()
        gradients.append(tensors([only_input, x.grad, *(p.grad for p in network.parameters())]))
    assert type(fused) is not type(plain)
    assert differing(*gradients, tolerance=1e-12) == []


def values_of(network, x, stacked):
    return network(x) if stacked else th.cat(network(x[:, :37], x[:, 37:]), dim=1).T


def test_lean_adam_is_fused_adam_bit_for_bit():
    runs = []
    for cls in (th.optim.Adam, FusedAdam):
        th.manual_seed(0)
        layer = th.nn.Linear(5, 7)
        optimizer = cls(layer.parameters(), lr=0.1, weight_decay=0.01, fused=True)
        for step in range(6):
            if step == 3:  # the state survives a save
                state, optimizer = optimizer.state_dict(), cls(layer.parameters(), lr=0.5, fused=True)
                optimizer.load_state_dict(copy.deepcopy(state))
            optimizer.zero_grad()
            layer(th.randn(4, 5)).square().mean().backward()
            optimizer.step()
        runs.append(tensors([layer.state_dict(), optimizer.state_dict()["state"]]))
    assert differing(*runs) == []


def test_options_do_not_leak_into_the_users_dictionaries():
    policy_kwargs, buffer_kwargs = {"net_arch": [16]}, {}
    tiny(SafeSAC, optimize="fused", policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs)
    assert "optimizer_kwargs" not in policy_kwargs and buffer_kwargs == {}
