"""Traps that a review found: each once went wrong without a word."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from corridors import (
    MOST_RIGHT,
    Corridor,
    DictCorridor,
    ImageCorridor,
    assert_same_weights,
    pretrained,
    recorded,
    some_observations,
    tiny,
    vec,
)
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv

from safe_wrappers import RecoveryFilter
from sb3_ext import (
    RSPO,
    SQRL,
    GymVecEnv,
    PPOLag,
    RecoveryRL,
    RiskSensitiveSAC,
    SACLag,
    SafeSAC,
    SafeTD3,
    VecRecoveryFilter,
    evaluate_safely,
    load_filter,
    pretrained_filter,
    save_critic,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*untrained safety critic.*")


def test_deterministic_sqrl_gives_the_same_twice_also_where_it_refuses():
    model = pretrained(SQRL, eps_risk=0.0)
    obs = some_observations()[0]
    first, _ = model.predict(obs, deterministic=True)
    assert model.last_intervened.all()
    second, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(first, second)
    drawn = [model.predict(obs, deterministic=False)[0] for _ in range(2)]
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize("kwargs", [{"multiplier": "pid"}, {"multiplier": "fixed"}, {"fixed_multiplier": 2.0}])
def test_sqrl_takes_every_multiplier(kwargs):
    assert tiny(SQRL, **kwargs).learn(25).num_timesteps == 25


def test_sqrl_refuses_gsde():
    with pytest.raises(ValueError, match="use_sde"):
        tiny(SQRL, use_sde=True)


@pytest.mark.parametrize("cls", [RSPO, RiskSensitiveSAC])
@pytest.mark.parametrize("name, value", [("fixed_multiplier", 1.0), ("multiplier", "pid"), ("multiplier_kwargs", {})])
def test_a_scheduled_multiplier_is_not_exchanged(cls, name, value):
    with pytest.raises(ValueError, match=rf"scheduled here, got \['{name}'\]"):
        tiny(cls, **{name: value})


def test_fine_tuning_sees_observations_as_pre_training_did():
    model = tiny(SQRL, vec(normalize=True), n_off=10, safety_updates=1).pretrain(vec(normalize=True), 30)
    mean = model.get_vec_normalize_env().obs_rms.mean.copy()
    target = vec(normalize=True)
    target.training = False
    model.finetune(target, 10)
    np.testing.assert_array_equal(model.get_vec_normalize_env().obs_rms.mean, mean)
    with pytest.raises(ValueError, match="VecNormalize"):
        model.finetune(vec(), 10)


def test_the_mask_starts_after_its_share_of_the_steps_of_the_call():
    model = tiny(SQRL, eps_risk=0.0, mask_from=0.5, n_off=1000, safety_updates=1).learn(20)
    before = model.n_interventions
    model.pretrain(vec(), 40)
    assert model.n_interventions - before == 20


def test_evaluating_in_the_training_environment_leaves_no_false_transition():
    model = tiny(SACLag, vec(normalize=True)).learn(23)
    count = model.get_vec_normalize_env().obs_rms.count
    evaluate_safely(model, model.get_env(), n_eval_episodes=2)
    assert model.get_vec_normalize_env().obs_rms.count == count and model.get_vec_normalize_env().training
    assert model._last_obs is None
    filled = model.replay_buffer.size()
    model.learn(1, reset_num_timesteps=False)
    moved = model.replay_buffer.next_observations[filled] - model.replay_buffer.observations[filled]
    assert np.abs(moved).max() <= MOST_RIGHT + 0.1  # one step, not the way from one episode to the next


def test_a_loaded_model_says_that_its_offline_data_are_gone(tmp_path):
    pretrained(RecoveryRL).save(tmp_path / "model.zip")
    loaded = RecoveryRL.load(tmp_path / "model.zip", env=vec())
    with pytest.warns(UserWarning, match="offline transitions"):
        loaded.learn(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.pretrain(recorded(), steps=0).learn(1)


def test_risk_and_filters_take_images_as_the_environment_gives_them(tmp_path):
    model = tiny(RecoveryRL, vec(kind=ImageCorridor)).learn(12)
    env = ImageCorridor()
    obs, _ = env.reset(seed=0)
    action = env.action_space.sample()
    risk = model.risk(obs[None], action[None])
    exported = model.export_filter(tmp_path / "filter.zip")
    assert exported.observation_space == env.observation_space
    filtered = RecoveryFilter.from_model(env, tmp_path / "filter.zip")
    np.testing.assert_allclose(filtered.risk(obs[None], action[None]), risk)
    assert model.recovery(obs[None]).shape == (1, *env.action_space.shape)


def test_the_batched_filter_takes_a_path_and_checks_the_spaces(tmp_path):
    tiny(RecoveryRL).export_filter(tmp_path / "filter.zip")
    VecRecoveryFilter.from_model(vec(), tmp_path / "filter.zip")
    with pytest.raises(ValueError, match="observation space"):
        VecRecoveryFilter.from_model(vec(kind=ImageCorridor), tmp_path / "filter.zip")


@pytest.mark.parametrize("vectorize", [
    lambda env_id: GymVecEnv(gym.make_vec(env_id, num_envs=2)),
    lambda env_id: DummyVecEnv([lambda: gym.make(env_id)] * 2),
])  # fmt: skip
def test_the_batched_filter_warns_in_another_environment(vectorize):
    shipped = pretrained_filter("safe/Navigation2-v0")
    with pytest.warns(UserWarning, match="made for 'safe/Navigation2-v0', the environment is 'safe/Navigation1-v0'"):
        VecRecoveryFilter.from_model(vectorize("safe_envs:safe/Navigation1-v0"), shipped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VecRecoveryFilter.from_model(vectorize("safe_envs:safe/Navigation2-v0"), shipped)


def test_a_filter_is_found_by_the_names_that_users_know_it_by(tmp_path):
    pretrained_filter("safe_envs:safe/Navigation2-v0").save(tmp_path / "filter.zip")
    assert load_filter(tmp_path / "filter").env_id == load_filter(tmp_path / "filter.zip").env_id
    RecoveryFilter.from_model(gym.make("safe_envs:safe/Navigation2-v0"), str(tmp_path / "filter"))


def test_an_exported_filter_does_not_change_with_the_model():
    model = pretrained(RecoveryRL)
    exported = model.as_filter()
    obs, actions = some_observations()
    before = exported.risk(obs, actions)
    model.pretrain(recorded(), steps=20)
    np.testing.assert_array_equal(exported.risk(obs, actions), before)
    assert not np.array_equal(model.risk(obs, actions), before)


@pytest.mark.parametrize("source", ["safe/Navigation1-v0", None])
def test_pretraining_recovery_rl_on_an_environment_is_refused(source):
    with pytest.raises(TypeError, match="collect_constraint_data"):
        tiny(RecoveryRL, Corridor()).pretrain(source)


# ---------------------------------------------------------------------- files of other things

FOREIGN = {
    "RecoveryRL": (lambda path: tiny(RecoveryRL).save(path), "it holds a RecoveryRL"),
    "filter": (lambda path: tiny(RecoveryRL).export_filter(path), "it is a filter: load_filter reads it"),
    "critic": (lambda path: save_critic(tiny(SACLag).safety_critic, path), "it is a critic: load_critic reads it"),
    "PPO": (lambda path: PPO("MlpPolicy", Corridor()).save(path), "another library's algorithm, .*common.policies"),
    "SAC": (lambda path: tiny(SAC).save(path), "another library's algorithm, .*sac.policies"),
}


@pytest.mark.parametrize("cls", [SACLag, SafeSAC, SafeTD3, PPOLag])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_called_what_they_are(cls, kind, tmp_path):
    write, message = FOREIGN[kind]
    write(tmp_path / "model.zip")
    if (cls, kind) != (SafeSAC, "SAC"):
        with pytest.raises(ValueError, match=rf"model cannot be read as {cls.__name__}: .*{message}"):
            cls.load(tmp_path / "model")


@pytest.mark.parametrize(("ours", "theirs"), [(SafeSAC, SAC), (SafeTD3, TD3)])
@pytest.mark.parametrize("kind", [Corridor, DictCorridor])
def test_the_templates_read_files_of_their_base_and_go_on_alike(ours, theirs, kind, tmp_path):
    tiny(theirs, kind(), learning_starts=0).learn(30).save(tmp_path / "base.zip")
    models = [cls.load(tmp_path / "base.zip", env=vec(kind=kind), seed=1) for cls in (ours, theirs)]
    for model in models:
        model.set_random_seed(1)
        model.learn(40)
    assert_same_weights(*models)
    with (tmp_path / "base.zip").open("rb") as file:
        assert ours.load(file).algorithm == ours.__name__
