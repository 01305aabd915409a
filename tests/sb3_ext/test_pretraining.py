"""Offline pre-training, its ablations, and SQRL's two phases."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import (
    HIGH,
    QUIET,
    RISK_CLASSES,
    Corridor,
    DictCorridor,
    GoalCorridor,
    assert_same_weights,
    differing,
    pretrained,
    recorded,
    some_observations,
    tensors,
    tiny,
    vec,
)
from stable_baselines3 import HerReplayBuffer

from safe_wrappers import Transitions
from sb3_ext import SQRL, CostReplayBuffer, RecoveryRL, SACLag
from sb3_ext.common.rollouts import collect_episodes

pytestmark = pytest.mark.filterwarnings(QUIET)
every_risk_class = pytest.mark.parametrize("cls", RISK_CLASSES)


def critic_weights(model):
    return tensors(dict(model.safety_critic.state_dict()))


@pytest.fixture
def env_id():
    """A registered corridor."""
    name = "CorridorForPretraining-v0"
    gym.register(name, Corridor)
    yield name
    del gym.registry[name]


# ---------------------------------------------------------------------- data


@every_risk_class
def test_data_of_another_environment_are_refused_by_name(cls, env_id):
    model = tiny(cls, gym.make(env_id))
    before = critic_weights(model)
    with pytest.raises(ValueError, match=rf"recorded in 'Elsewhere-v1'.*trains in '{env_id}'"):
        model.pretrain(recorded(env_id="Elsewhere-v1"), steps=2)
    assert differing(before, critic_weights(model)) == [] and model.offline_buffer is None


def test_data_of_the_same_or_an_unknown_environment_are_taken(env_id):
    for origin, kwargs in ((env_id, {}), (None, {}), ("Elsewhere-v1", {"check_env_id": False})):
        tiny(RecoveryRL, gym.make(env_id)).pretrain(recorded(env_id=origin), steps=1, **kwargs)


@pytest.mark.parametrize(
    ("kind", "data"), [(Corridor, recorded(5, dict_obs=True)), (DictCorridor, recorded(5)), (Corridor, recorded(0))]
)
def test_data_that_do_not_fit_are_refused(kind, data):
    with pytest.raises(ValueError, match=r"expected|no transitions"):
        tiny(RecoveryRL, kind()).pretrain(data, steps=1)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        tiny(RecoveryRL).pretrain(recorded(), steps=-1)


@every_risk_class
def test_pretraining_teaches_the_wall(cls):
    model = pretrained(cls)
    x = np.linspace(0.0, 0.95, 20, dtype=np.float32)
    risk = model.risk(np.stack([x, 1 - x], axis=1), np.repeat(HIGH[None], 20, axis=0))
    hit = x + 0.3 > 1.0
    assert risk[hit].min() > 0.7 and risk[hit].min() > risk[~hit].max() and risk[0] < 0.3


def test_pretraining_leaves_the_task_policy_alone_and_reports_progress():
    model, progress = tiny(RecoveryRL), []
    untouched = tensors(dict(model.policy.state_dict()))
    model.pretrain(recorded(), steps=4, progress=lambda *args: progress.append(args))
    assert differing(untouched, tensors(dict(model.policy.state_dict()))) == []
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)] and model.pretraining_steps == 4


def test_offline_data_stay_part_of_the_risks_batches():
    model = tiny(RecoveryRL).pretrain(recorded(60), steps=1).learn(60)
    online = {tuple(row) for row in model.replay_buffer.observations[:60, 0].tolist()}
    batches = [model._risk_batch().observations for _ in range(60)]
    share = np.mean([tuple(row) in online for row in th.cat(batches).tolist()])
    assert abs(share - 0.5) < 0.1
    task = model.replay_buffer.sample(200).observations.tolist()
    assert all(tuple(row) in online for row in task)


def test_positive_fraction_reaches_the_risks_batches():
    model = tiny(RecoveryRL, positive_fraction=0.25).pretrain(recorded(400), steps=1)
    assert model._risk_batch().violations.sum() == 4


# ---------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("dict_obs", [False, True])
def test_fresh_statistics_are_set_from_the_data(dict_obs):
    env = vec(2, DictCorridor if dict_obs else Corridor, normalize=True)
    data = recorded(dict_obs=dict_obs)
    tiny(RecoveryRL, env).pretrain(data, steps=1)
    pairs = [(env.obs_rms, data.observations)]
    if dict_obs:
        pairs = [(env.obs_rms[key], data.observations[key]) for key in data.observations]
    for statistics, rows in pairs:
        assert np.allclose(statistics.mean, rows.mean(0), atol=1e-3)
        assert np.allclose(statistics.var, rows.var(0), atol=1e-3)


def test_statistics_that_have_seen_the_environment_stay():
    env = vec(2, normalize=True)
    env.obs_rms.update(np.array([[0.0, 0.0], [2.0, 4.0]]))
    before = env.obs_rms.mean.copy()
    tiny(RecoveryRL, env).pretrain(recorded(), steps=1)
    assert np.array_equal(env.obs_rms.mean, before)


@pytest.mark.parametrize("normalize", [False, True])
def test_scale_inputs_standardises_what_the_networks_see(normalize):
    model = tiny(RecoveryRL, vec(normalize=normalize), scale_inputs=True).pretrain(recorded(), steps=1)
    rows = recorded().observations
    seen = model.env.normalize_obs(rows) if normalize else rows
    for network in (model.safety_critic.online, model.safety_critic.target, model.recovery_policy):
        assert np.allclose(network.observation_mean, seen.mean(0), atol=1e-3)
        assert np.allclose(network.observation_std, seen.std(0), atol=1e-3)


# ---------------------------------------------------------------------- ablations


@every_risk_class
def test_without_online_updates_the_critic_stays_as_pretrained(cls):
    model = tiny(cls, online_updates=False).pretrain(recorded(), steps=5)
    before = critic_weights(model)
    assert differing(before, critic_weights(model.learn(40))) == []
    assert differing(before, critic_weights(tiny(cls).pretrain(recorded(), steps=5).learn(40)))


@pytest.mark.parametrize("given", ["nothing", "offline data", "positive_fraction", "hindsight"])
def test_the_risk_learns_from_sacs_batch_only_where_it_would_draw_the_same(given, monkeypatch):
    kwargs = {"positive_fraction": 0.5} if given == "positive_fraction" else {}
    env = Corridor()
    if given == "hindsight":
        env, kwargs = GoalCorridor(), {"replay_buffer_class": HerReplayBuffer}
    model = tiny(SACLag, env, **kwargs)
    if given == "offline data":
        model.pretrain(recorded(), steps=1)
    drawn, risk_batch = [], model._risk_batch
    monkeypatch.setattr(model, "_risk_batch", lambda: drawn.append(1) or risk_batch())
    before = critic_weights(model)
    model.learn(40)
    assert bool(drawn) == (given != "nothing") and differing(before, critic_weights(model))


def test_composite_takes_the_filtered_policys_next_actions():
    plain, composite = (pretrained(RecoveryRL, composite=composite) for composite in (False, True))
    for model in (plain, composite):
        model.eps_risk = 0.0  # the filter always acts
    batch = composite._risk_batch()
    th.manual_seed(0)
    filtered = composite._risk_next_actions(batch)
    th.manual_seed(0)
    proposed = composite.actor(batch.next_observations)
    recovered = composite.recovery_policy.act(batch.next_observations, deterministic=False)
    assert th.allclose(filtered, recovered) and not th.allclose(filtered, proposed)
    th.manual_seed(0)
    first = plain._risk_next_actions(batch)
    th.manual_seed(0)
    assert th.equal(first, plain.actor(batch.next_observations))


# ---------------------------------------------------------------------- SQRL's phases


def sqrl(env=None, **kwargs):
    model = tiny(SQRL, env, **kwargs)
    return model.pretrain(model.get_env(), steps=80)


def test_sqrl_pretraining_collects_on_policy_data_and_counts_them():
    model = sqrl(vec(2), n_off=20)
    # learning starts after 20 steps; collections at 22, 42 and 62: one episode of ten steps, two environments each.
    assert model.safety_steps == 60 and model.safety_buffer.size() == 30
    assert model.safety_violations == int(model.safety_buffer.violations.sum())
    assert model.num_timesteps == 80  # safety data are counted apart


def test_sqrl_pretraining_trains_the_critic_only_on_collection():
    model = tiny(SQRL, n_off=1000)
    before = critic_weights(model)
    model.pretrain(model.get_env(), steps=60)
    optimizer = model.safety_critic.optimizer.state_dict()["state"]
    assert optimizer[0]["step"] == model.safety_updates == 2 and differing(before, critic_weights(model))


def test_sqrl_pretraining_has_no_penalty_and_fine_tuning_has():
    model = sqrl(fixed_multiplier=5.0)
    batch = model.replay_buffer.sample(16)
    soft_value = batch.rewards
    assert model._actor_loss(batch, batch.actions, soft_value).item() == -soft_value.mean().item()
    model.finetune(Corridor(), steps=1)
    risk = model.safety_critic(batch.observations, batch.actions).mean()
    expected = -soft_value.mean() + 5.0 * (risk - 0.3)
    assert np.isclose(model._actor_loss(batch, batch.actions, soft_value).item(), expected.item(), atol=1e-5)


@pytest.mark.parametrize("freeze_critic", [True, False])
def test_sqrl_fine_tuning_freezes_the_critic_unless_told_otherwise(freeze_critic):
    model = sqrl()
    before = critic_weights(model)
    model.finetune(Corridor(), steps=40, freeze_critic=freeze_critic)
    assert bool(differing(before, critic_weights(model))) != freeze_critic
    assert model.replay_buffer.size() == 40  # the pre-training task's transitions are gone


def test_sqrl_chooses_risky_actions_in_pretraining_only():
    model = tiny(SQRL)
    assert model.selector.choice == "policy"
    model.pretrain(Corridor(), steps=1)
    assert model.selector.choice == "risky"
    model.finetune(Corridor(), steps=1)
    assert model.selector.choice == "policy"


def test_sqrl_mask_starts_where_it_is_told():
    model = tiny(SQRL, eps_risk=0.0, mask_from=0.5, gradient_steps=0)
    interventions = []
    model.pretrain(Corridor(), 60, callback=lambda *_: interventions.append(int(model.last_intervened[0])) or True)
    assert sum(interventions[:30]) == 0 and sum(interventions[31:]) == 29


def test_sqrl_risk_batches_are_halves_of_both_buffers():
    model = sqrl()
    model.replay_buffer.rewards[:], model.safety_buffer.rewards[:] = 1.0, 2.0
    assert model._risk_batch().rewards.flatten().tolist() == [1.0] * 8 + [2.0] * 8


def test_sqrl_safety_environments_share_the_trainings_statistics():
    model = sqrl(vec(2, normalize=True))
    assert model._safety_env is not model.env
    assert model._safety_env.obs_rms is model.env.obs_rms and not model._safety_env.training
    assert np.isclose(model.env.obs_rms.count, 2 + 80, atol=0.01)  # one reset and the training's own steps
    rewards, positions = model.safety_buffer.rewards[:10], model.safety_buffer.next_observations[:10, :, 0]
    assert np.allclose(rewards, positions, atol=1e-5)  # the buffer holds raw observations and rewards


def test_sqrl_asks_for_a_safety_environment_where_it_cannot_copy_one():
    env = vec(1, subprocess=True)
    try:
        with pytest.raises(ValueError, match="pass safety_env="):
            tiny(SQRL, env).pretrain(env, steps=5)
        tiny(SQRL, env).pretrain(env, steps=40, safety_env=Corridor())
    finally:
        env.close()


@pytest.mark.parametrize("normalize", [False, True])
def test_collected_episodes_are_whole_and_raw(normalize):
    env, n_envs = vec(2, normalize=normalize), 2
    model = tiny(SACLag, env)
    buffer = CostReplayBuffer(50, Corridor.observation_space, model.action_space, device="cpu", n_envs=n_envs)
    counts = collect_episodes(model, env, buffer, n_episodes=3)
    assert counts.steps == 40 and buffer.dones.sum() == 4  # the environments finish together
    assert counts.violations == buffer.violations.sum()
    inside = buffer.next_observations[:9]
    assert np.allclose(inside, buffer.observations[1:10], atol=1e-5)
    last = buffer.next_observations[9]  # the last observation, not the first one of the next episode
    assert not np.allclose(last, buffer.observations[10], atol=1e-3)
    assert np.allclose(buffer.rewards[:20], buffer.next_observations[:20, :, 0], atol=1e-4)
    moves = (buffer.next_observations - buffer.observations)[:20, :, 0]
    executed = (buffer.executed_actions[:20, :, 0] + 1) * 2.5 - 2.0
    assert np.allclose(moves, 0.1 * executed, atol=0.06)


def test_a_pretrained_model_repeats_itself():
    assert_same_weights(sqrl(), sqrl())
    assert_same_weights(pretrained(RecoveryRL).learn(30), pretrained(RecoveryRL).learn(30))


def test_recorded_data_are_what_the_tests_believe():
    data = recorded()
    assert isinstance(data, Transitions) and 10 < data.n_violations < 150
    obs, actions = some_observations()
    assert obs.shape == actions.shape == (50, 2)
