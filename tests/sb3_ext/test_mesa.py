"""Meta-learned safety critics: the meta-gradient, the three phases, and critics that change hands."""

import itertools
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import (
    HIGH,
    LOW,
    QUIET,
    Corridor,
    DictCorridor,
    assert_same_weights,
    differing,
    recorded,
    some_observations,
    tensors,
    tiny,
)
from gymnasium.spaces import Box
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ext import (
    MESA,
    SQRL,
    Labelled,
    MetaLearner,
    MultiTask,
    RecoveryRL,
    SACLag,
    SafetyCritic,
    load_critic,
    save_critic,
)
from sb3_ext.common.fused import FusedEnsemble, FusedMLP, fuse
from sb3_ext.common.meta import MAX_GRADIENT_NORM

pytestmark = pytest.mark.filterwarnings(QUIET)
SPACES = Box(-10.0, 10.0, (2,), np.float32), Box(-1.0, 1.0, (1,), np.float32)
BOTH = pytest.mark.parametrize("cls", [MultiTask, MESA])


def critic_of(**kwargs):
    return SafetyCritic(*SPACES, **{"net_arch": (8, 8), "n_critics": 1, "gamma_risk": 0.5, **kwargs})


def batch_of(n=12, seed=0, dtype=th.float32):
    draw = th.Generator().manual_seed(seed)
    rows = [th.rand(n, k, generator=draw, dtype=th.float64).to(dtype) * 2 - 1 for k in (2, 1)]
    return Labelled(*rows, th.rand(n, 1, generator=draw, dtype=th.float64).to(dtype))


def weights_of(module):
    return tensors(dict(module.state_dict()))


# ---------------------------------------------------------------------- the meta-gradient


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize(
    "kwargs", [{}, {"inner_steps": 3}, {"learn_inner_lr": True}, {"latent_dim": 5}, {"n_critics": 2}], ids=str
)
def test_meta_gradient_is_that_of_finite_differences(kwargs, loss):
    own = {key: kwargs[key] for key in kwargs if key in ("latent_dim", "n_critics")}
    critic = critic_of(loss=loss, **own).double()
    rest = {key: kwargs[key] for key in kwargs if key not in own}
    learner = MetaLearner(critic, inner_lr=0.3, **rest)
    inner, outer = batch_of(seed=1, dtype=th.float64), batch_of(seed=2, dtype=th.float64)

    def after_adaptation():
        return learner.loss(learner.adapted(inner, differentiable=True), outer)

    variables = [p for group in learner.optimizer.param_groups for p in group["params"]]
    gradients = th.autograd.grad(after_adaptation(), variables)
    step, generator = 1e-6, th.Generator().manual_seed(0)
    for variable, gradient in zip(variables, gradients, strict=True):
        direction = th.randn(variable.shape, generator=generator, dtype=th.float64)
        values = []
        for sign in (1, -1):
            variable.data.add_(direction, alpha=sign * step)
            values.append(after_adaptation().item())
            variable.data.add_(direction, alpha=-sign * step)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx((gradient * direction).sum().item(), abs=1e-7)


def test_meta_gradient_of_a_linear_critic_is_that_worked_out_by_hand():
    """L = (w.x - y)^2, so w' = w - 2 a (w.x - y) x, and dL'/dw = (I - 2 a x x^T) 2 (w'.z - v) z."""
    critic = SafetyCritic(*SPACES, kind="return", net_arch=(), n_critics=1)
    w = np.array([0.5, -1.0, 2.0, 0.0])  # two observations, one action, and the bias, which sees a 1
    (weight,), (bias,) = critic.online.heads.layers()
    weight.data[0, :, 0], bias.data[0, 0, 0] = th.tensor(w[:3]), w[3]
    x, y, z, v, rate = np.array([1.0, 2.0, -1.0, 1.0]), 1.0, np.array([0.5, 1.0, -1.0, 1.0]), -2.0, 0.1

    def labelled(row, target):
        values = th.tensor(row, dtype=th.float32)[None]
        return Labelled(values[:, :2], values[:, 2:3], th.tensor([[target]]))

    learner = MetaLearner(critic, inner_lr=rate, outer_lr=1e-9)
    learner.update([(labelled(x, y), labelled(z, v))])
    adapted = w - 2 * rate * (w @ x - y) * x
    first_order = 2 * (adapted @ z - v) * z
    expected = (np.eye(4) - 2 * rate * np.outer(x, x)) @ first_order
    found = [*weight.grad[0, :, 0].tolist(), bias.grad.item()]
    assert np.linalg.norm(expected) < MAX_GRADIENT_NORM
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-4)
    not_adapted = 2 * (w @ z - v) * z
    assert not np.allclose(expected, first_order, atol=0.5) and not np.allclose(expected, not_adapted, atol=0.5)


def test_a_large_meta_gradient_is_clipped():
    critic = SafetyCritic(*SPACES, kind="return", net_arch=(), n_critics=1)
    batch = batch_of()
    MetaLearner(critic, inner_lr=0.1, outer_lr=1e-9).update([(batch, batch._replace(targets=1e4 + batch.targets))])
    norm = th.cat([p.grad.flatten() for p in critic.online.parameters()]).norm().item()
    assert norm == pytest.approx(MAX_GRADIENT_NORM, rel=1e-3)


def test_the_outer_step_is_adam_on_the_mean_over_tasks():
    pairs = [(batch_of(seed=i), batch_of(seed=10 + i)) for i in range(3)]
    th.manual_seed(0)
    critic, twin = critic_of(), critic_of()
    twin.load_state_dict(critic.state_dict())
    losses = MetaLearner(critic, 0.1, outer_lr=0.01).update(pairs)
    by_hand = MetaLearner(twin, 0.1)
    total = sum(by_hand.loss(by_hand.adapted(a, differentiable=True), b) for a, b in pairs) / 3
    optimizer = th.optim.Adam(twin.online.parameters(), lr=0.01)
    total.backward()
    optimizer.step()
    assert losses == pytest.approx(total.item())
    assert differing(weights_of(critic.online), weights_of(twin.online), 1e-6) == []


def test_meta_learning_prepares_for_tasks_that_contradict_each_other():
    """The mean of all tasks is 0.5 everywhere; after one step on a task the critic knows which one it is."""
    th.manual_seed(0)
    critic = critic_of(net_arch=(16,))
    learner = MetaLearner(critic, inner_lr=1.0, outer_lr=3e-3)

    def task(value, seed):
        batch = batch_of(seed=seed)
        return batch._replace(targets=th.full_like(batch.targets, value))

    def after(value):
        return learner.loss(learner.adapted(task(value, 900)), task(value, 901)).item()

    before = [after(value) for value in (0.1, 0.9)]
    for i in range(300):
        learner.update([(task(value, 2 * i), task(value, 2 * i + 1)) for value in (0.1, 0.9)])
    assert all(now < 0.2 * then for now, then in zip([after(0.1), after(0.9)], before, strict=True))
    assert learner.loss(learner.weights, task(0.1, 5)).item() > 0.05  # without a step it knows neither


def test_learned_step_sizes_start_at_the_inner_rate_and_stay_positive():
    critic = critic_of()
    learner = MetaLearner(critic, inner_lr=0.05, outer_lr=1e-4, learn_inner_lr=True)
    assert all(th.allclose(rate, th.full_like(rate, 0.05)) for rate in learner._rates())
    for i in range(20):
        learner.update([(batch_of(seed=i), batch_of(seed=50 + i))])
    rates = th.cat([rate.flatten() for rate in learner._rates()])
    assert (rates > 0).all() and rates.std() > 1e-4


def test_fused_networks_learn_the_same():
    critics = [critic_of() for _ in range(2)]
    critics[1].load_state_dict(critics[0].state_dict())
    fuse(critics[1])
    for critic in critics:
        learner = MetaLearner(critic, 0.1, outer_lr=1e-3)
        for i in range(5):
            learner.update([(batch_of(seed=i), batch_of(seed=50 + i))])
    assert differing(weights_of(critics[0].online), weights_of(critics[1].online), 1e-6) == []
    assert type(critics[1].online.heads) is FusedEnsemble  # again


class TwoLayers(FlattenExtractor):
    """An extractor whose hidden layers are fused, too."""

    def __init__(self, space):
        super().__init__(space)
        self.net = th.nn.Sequential(th.nn.Linear(2, 8), th.nn.ReLU(), th.nn.Linear(8, 2), th.nn.ReLU())

    def forward(self, observations):
        return self.net(super().forward(observations))


def test_fused_extractors_have_the_same_meta_gradient():
    critic = critic_of(features_extractor_class=TwoLayers)
    gradients = []
    for _ in range(2):
        MetaLearner(critic, 0.3, outer_lr=1e-12).update([(batch_of(seed=1), batch_of(seed=2))])
        gradients.append([p.grad.clone() for p in critic.online.parameters()])
        fuse(critic)
    assert all(th.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert type(critic.online.features.net) is FusedMLP


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr must be > 0, got 0.0"),
        ({"outer_lr": -1.0}, "outer_lr must be > 0"),
        ({"inner_lr": np.nan}, "inner_lr must be > 0"),
        ({"inner_steps": 0}, "inner_steps must be >= 1"),
        ({"tasks_per_step": 0}, "tasks_per_step must be a whole number >= 1"),
        ({"tasks_per_step": 2.5}, "tasks_per_step must be a whole number >= 1, got 2.5"),
    ],
)
def test_bad_settings_raise_when_the_model_is_made(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(MESA, **kwargs)


# ---------------------------------------------------------------------- three phases


def test_multi_task_on_one_data_set_is_pretraining():
    multi_task = tiny(MultiTask).meta_train([recorded()], 20)
    recovery_rl = tiny(RecoveryRL).pretrain(recorded(), 20)
    assert_same_weights(multi_task, recovery_rl)
    assert multi_task.offline_buffer is None  # the training environments' data take no further part


def test_multi_task_draws_from_all_data_sets():
    alone = tiny(MultiTask).meta_train([recorded()], 20)
    both = tiny(MultiTask).meta_train([recorded(), recorded(seed=1)], 20)
    assert differing(weights_of(alone.safety_critic), weights_of(both.safety_critic))


@BOTH
def test_phases_change_what_they_should_and_nothing_else(cls):
    model = tiny(cls)
    task_policy = weights_of(model.policy)
    states = [(weights_of(model.safety_critic.online), weights_of(model.recovery_policy))]
    model.meta_train([recorded(), recorded(seed=1)], 5)
    states.append((weights_of(model.safety_critic.online), weights_of(model.recovery_policy)))
    model.adapt(recorded(40, seed=2), 5)
    states.append((weights_of(model.safety_critic.online), weights_of(model.recovery_policy)))
    for before, after in itertools.pairwise(states):
        assert all(differing(old, new) for old, new in zip(before, after, strict=True))
    assert differing(task_policy, weights_of(model.policy)) == []
    assert len(model.offline_buffer.observations) == 40
    model.learn(60)
    assert differing(task_policy, weights_of(model.policy))


def test_adaptation_uses_adam_at_the_inner_rate():
    model = tiny(MESA, inner_lr=7e-3)
    groups = [part.optimizer.param_groups for part in (model.safety_critic, model.recovery_policy)]
    assert [group["lr"] for (group,) in groups] == [7e-3, 7e-3]
    assert model.safety_critic.config["n_critics"] == 1
    model.meta_train([recorded()], 3)
    assert model.safety_critic.optimizer.state == {}  # phase 1 has an optimiser of its own


@BOTH
@pytest.mark.parametrize("told", [True, False])
def test_the_recovery_policy_learns_where_it_is_told(cls, told, monkeypatch):
    own, training = recorded(seed=3), recorded()
    model, seen = tiny(cls), []
    update = model.recovery_policy.update
    monkeypatch.setattr(model.recovery_policy, "update", lambda *a, **k: seen.append(a[0]) or update(*a, **k))
    model.meta_train([training], 3, recovery_dataset=own if told else None)
    known = {tuple(row) for row in (own if told else training).observations.tolist()}
    rows = [tuple(row) for observations in seen for row in observations.tolist()]
    assert len(seen) == 3 and set(rows) <= known


@BOTH
def test_scales_stay_at_a_second_adaptation(cls):
    model = tiny(cls, scale_inputs=True).adapt(recorded(40), 2)
    mean = model.safety_critic.online.observation_mean.clone()
    model.adapt(recorded(40, seed=4), 2).meta_train([recorded(seed=5)], 2)
    assert th.equal(mean, model.safety_critic.online.observation_mean)


def test_an_adapted_critic_tells_tasks_apart():
    """Two corridors: in one the wall is to the right, in the other to the left."""

    def mirrored(data):
        actions = data.actions.copy()
        actions[:, 0] = LOW[0] + HIGH[0] - actions[:, 0]
        return type(data)(-data.observations, actions, -data.next_observations, data.costs, data.violations,
                          data.terminals)  # fmt: skip

    kwargs = {"gamma_risk": 0.0, "inner_lr": 0.02, "outer_lr": 1e-3, "batch_size": 64}
    model = tiny(MESA, **kwargs).meta_train([recorded(500), mirrored(recorded(500, seed=1))], 300)
    held_out = recorded(400, seed=5)
    errors = {}
    for name, test in (("right", recorded(80, seed=3)), ("left", mirrored(recorded(80, seed=3)))):
        twin = tiny(MESA, **kwargs)
        twin.set_parameters(model.get_parameters())
        twin.adapt(test, 40)
        risk = twin.risk(held_out.observations, held_out.actions)
        errors[name] = float(((risk > 0.5) != held_out.violations).mean())
    assert errors["right"] < 0.1 < errors["left"]


@BOTH
def test_input_scales_come_from_the_training_data_and_stay(cls):
    model = tiny(cls, scale_inputs=True).meta_train([recorded(), recorded(seed=1)], 3)
    mean = model.safety_critic.online.observation_mean.clone()
    model.adapt(recorded(40, seed=2), 3)
    assert th.equal(mean, model.safety_critic.online.observation_mean) and mean.abs().sum() > 0
    assert th.equal(model.recovery_policy.observation_mean, mean)


@BOTH
def test_dict_observations(cls):
    data = [recorded(dict_obs=True, seed=i) for i in range(2)]
    model = tiny(cls, DictCorridor()).meta_train(data, 3).adapt(recorded(40, dict_obs=True), 3).learn(30)
    assert model.num_timesteps == 30


def test_progress_is_told():
    seen = []
    tiny(MESA).meta_train([recorded()], 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


# ---------------------------------------------------------------------- bad input


@BOTH
@pytest.mark.parametrize(
    ("datasets", "kwargs", "message"),
    [
        ([], {}, "at least one training environment"),
        ([recorded()], {"iterations": 0}, "iterations must be >= 1, got 0"),
        ([recorded(), recorded(dict_obs=True)], {}, r"datasets\[1\]: observations"),
        ([recorded(), "data"], {}, r"datasets\[1\]: offline data must be Transitions"),
        (recorded(), {}, "datasets must be a list"),
        ([recorded(), replace(recorded(), actions=50.0 * recorded().actions)], {}, r"datasets\[1\]: actions: expected"),
        ([recorded()], {"recovery_dataset": recorded(dict_obs=True)}, "recovery_dataset: observations"),
    ],
)
def test_bad_training_data_are_refused(cls, datasets, kwargs, message):
    model = tiny(cls)
    before = weights_of(model.safety_critic)
    with pytest.raises((ValueError, TypeError), match=message):
        model.meta_train(datasets, **kwargs)
    assert differing(before, weights_of(model.safety_critic)) == []


@BOTH
def test_data_without_a_violation_are_refused(cls):
    data = recorded()
    safe = data.rows(~data.violations)
    with pytest.raises(ValueError, match=r"datasets\[1\] shows no violation among \d+ transitions"):
        tiny(cls).meta_train([data, safe], 2)
    with pytest.raises(ValueError, match="the adaptation set shows no violation"):
        tiny(cls).adapt(safe, 2)


@BOTH
def test_adapting_what_has_learned_nothing_warns(cls):
    with pytest.warns(UserWarning, match=f"{cls.__name__} adapts an untrained safety critic: call meta_train"):
        tiny(cls).adapt(recorded(40), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(cls).meta_train([recorded()], 2).adapt(recorded(40), 2)
        tiny(cls).use_critic(tiny(cls).meta_train([recorded()], 2).safety_critic).adapt(recorded(40), 2)


@BOTH
def test_an_adaptation_set_below_a_batch_is_refused_and_a_smaller_batch_helps(cls):
    few = recorded(12)
    model = tiny(cls)
    with pytest.raises(ValueError, match=r"12 transitions, fewer than a batch of 16: pass batch_size=12 or less"):
        model.adapt(few, 2)
    model.adapt(few, 2, batch_size=12)


@BOTH
def test_data_of_another_environment_are_refused(cls):
    gym.register("CorridorForMesa-v0", Corridor)
    try:
        model = tiny(cls, gym.make("CorridorForMesa-v0"))
        with pytest.raises(ValueError, match=r"datasets\[0\]: the data set was recorded in 'Elsewhere-v1'"):
            model.meta_train([recorded(env_id="Elsewhere-v1")], 2)
        with pytest.raises(ValueError, match="the adaptation set: the data set was recorded in 'Elsewhere-v1'"):
            model.adapt(recorded(env_id="Elsewhere-v1"), 2)
        model.meta_train([recorded(env_id="Elsewhere-v1")], 2, check_env_id=False)
    finally:
        del gym.registry["CorridorForMesa-v0"]


# ---------------------------------------------------------------------- critics that change hands


@pytest.mark.parametrize("cls", [RecoveryRL, SQRL, SACLag, MESA])
@pytest.mark.parametrize("form", [{}, {"net_arch": (8, 8, 8), "latent_dim": 4}], ids=["plain", "generated"])
def test_a_meta_learned_critic_serves_another_agent(cls, form, tmp_path):
    source = tiny(MESA, risk_kwargs={"net_arch": (16, 16), **form}).meta_train([recorded()], 5)
    save_critic(source.safety_critic, tmp_path / "critic")
    critic = load_critic(tmp_path / "critic")
    model = tiny(cls, gamma_risk=0.8).use_critic(critic)
    observations, actions = some_observations()
    assert np.array_equal(model.risk(observations, actions), source.risk(observations, actions))
    model.pretrain(recorded(60), 5).learn(40)
    assert not np.array_equal(model.risk(observations, actions), source.risk(observations, actions))
    assert np.array_equal(critic.risk(observations, actions), source.risk(observations, actions))  # a copy was taken
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model")
    assert np.array_equal(again.risk(observations, actions), model.risk(observations, actions))


def test_the_filter_of_a_recovery_agent_uses_the_critic_that_it_was_given():
    source = tiny(MESA).meta_train([recorded()], 5)
    model = tiny(RecoveryRL, optimize="fused").use_critic(source.safety_critic)
    assert model.selector.critic is model.safety_critic and type(model.safety_critic.online.heads) is FusedEnsemble


def test_a_given_critic_keeps_its_scales_and_the_recovery_policy_takes_them():
    source = tiny(MESA, scale_inputs=True).meta_train([recorded()], 5)
    mean = source.safety_critic.online.observation_mean
    for scale_inputs in (True, False):
        model = tiny(RecoveryRL, scale_inputs=scale_inputs).use_critic(source.safety_critic)
        model.pretrain(recorded(50, seed=7), 2)
        assert th.equal(model.safety_critic.online.observation_mean, mean)
        assert th.equal(model.recovery_policy.observation_mean, mean)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gamma_risk": 0.4}, "the critic's gamma_risk is 0.4, this model's is 0.8"),
        ({"cost_limit": 1.0, "gamma_risk": 0.8, "episode_length": 10}, "kind is 'return'.*'probability'"),
    ],
)
def test_a_critic_that_does_not_fit_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(RecoveryRL).use_critic(tiny(MESA, **kwargs).safety_critic)


@BOTH
def test_save_and_load_go_on(cls, tmp_path):
    model = tiny(cls, scale_inputs=True).meta_train([recorded()], 5)
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model", env=Corridor())
    assert_same_weights(model, again)
    assert again.meta_iterations == 5
    again.adapt(recorded(40), 2)
    assert th.equal(again.safety_critic.online.observation_mean, model.safety_critic.online.observation_mean)
