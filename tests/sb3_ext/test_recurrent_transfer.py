"""What goes on elsewhere: trained weights in a new model or environment, and what does not fit."""

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import differing, tensors
from recurrent_toys import Camera, Counter, tiny, vec
from stable_baselines3.common.vec_env import VecNormalize

from safe_wrappers.feedback import PreviousFeedback
from sb3_ext import SQRL, PPOLag, SACLag, learn_distributed
from sb3_ext.recurrent import sequence_buffer
from sb3_ext.recurrent.networks import masked_mean
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag


@pytest.fixture
def trained(tmp_path):
    """A file of a model with a policy that always does the same, and that action."""
    model = tiny(vec(lengths=(100,)), learning_starts=10).learn(40)
    assert model.has_learned
    with th.no_grad():
        model.policy.actor.network[-1].weight.zero_()
        model.policy.actor.network[-1].bias[:] = th.tensor([0.5, -20.0])  # no noise
    model.save(tmp_path / "trained.zip")
    return tmp_path / "trained.zip", float(np.tanh(0.5))


def first_actions(model, n=24):
    model.gradient_steps = 0
    model.learn(n)
    return model.replay_buffer._rows.chunks[0]["action"][0, :n, 0]


def test_what_has_learned_never_acts_at_random_again(trained):
    file, action = trained
    loaded = RecurrentSACLag.load(file, env=vec(lengths=(100,)))
    started = tiny(vec(lengths=(100,)), learning_starts=50)
    assert np.ptp(first_actions(tiny(vec(lengths=(100,)), learning_starts=50))) > 0.5
    started.start_from(file)
    for model in (loaded, started):
        assert model.learning_starts >= 10
        np.testing.assert_allclose(first_actions(model), action, atol=1e-6)
    assert started._n_updates == 0 and started.num_timesteps == 24  # its own counters


def test_another_environment_in_place_acts_as_learned_too(trained):
    file, action = trained
    model = RecurrentSACLag.load(file, env=vec(lengths=(100,)))
    model.set_env(vec(lengths=(50,)), reset_replay=True)
    np.testing.assert_allclose(first_actions(model), action, atol=1e-6)


def test_a_limit_may_be_lifted_or_set_when_a_model_is_loaded(trained, tmp_path):
    free = RecurrentSACLag.load(trained[0], env=vec(), step_limit=None)
    assert free.price == 0.0 and free.multiplier.value > 0.0
    free.learn(40).save(tmp_path / "free.zip")
    assert "safety/excess" not in free.logger.name_to_value and free.price == 0.0
    bound = RecurrentSACLag.load(tmp_path / "free.zip", env=vec(), step_limit=0.5)
    assert bound.price == free.multiplier.value
    bound.learn(40)
    assert 0.0 < bound.price != free.multiplier.value
    with pytest.raises(ValueError, match="step_limit must be >= 0 or None, got -1"):
        RecurrentSACLag.load(trained[0], env=vec(), step_limit=-1.0)


@pytest.mark.parametrize("other", [{"space": "log"}, {"optimizer": "sgd"}])
def test_a_multiplier_keeps_its_meaning(trained, other):
    model = tiny(multiplier_kwargs=other)
    before = copy.deepcopy(model.get_parameters())
    message = r"has {'space': 'linear', 'optimizer': 'adam'}, this one .*: add .* to multiplier_kwargs"
    with pytest.raises(ValueError, match=message):
        model.start_from(trained[0])
    assert differing(tensors(before), tensors(model.get_parameters())) == [] and not model.has_learned
    with pytest.raises(ValueError, match=message):
        RecurrentSACLag.load(trained[0], env=vec(), multiplier_kwargs=other)


def test_a_multiplier_goes_on_at_the_rate_of_the_new_model(trained):
    started = tiny(multiplier_kwargs={"learning_rate": 0.25})
    started.start_from(trained[0])
    for model in (started, RecurrentSACLag.load(trained[0], env=vec(), multiplier_kwargs={"learning_rate": 0.25})):
        before = model.multiplier.value
        model.multiplier.update(1.0)
        assert 0.1 < model.multiplier.value - before < 0.4
    unchanged = RecurrentSACLag.load(trained[0], env=vec())
    assert unchanged.multiplier.learning_rate == 3e-4
    with pytest.raises(ValueError, match=r"load cannot exchange \['multiplier'\], which the file holds"):
        RecurrentSACLag.load(trained[0], env=vec(), multiplier="pid")


def test_a_multiplier_may_start_at_0():
    assert tiny(multiplier_kwargs={"value": 0.0}).price == 0.0


def test_other_classes_keep_their_rates_too(tmp_path):
    for cls, rate in ((PPOLag, 0.1 * 64 / 20_000), (SQRL, 3e-4)):
        sizes = {"n_steps": 64} if cls is PPOLag else {"gamma_risk": 0.7}
        env = gym.make("safe_envs:safe/Navigation1-v0")
        cls("MlpPolicy", env, **sizes).save(tmp_path / "model.zip")
        loaded = cls.load(tmp_path / "model.zip", env=env)
        multiplier = loaded.multipliers["cost"] if cls is PPOLag else loaded.multiplier
        assert multiplier.learning_rate == pytest.approx(rate)
        faster = cls.load(tmp_path / "model.zip", env=env, multiplier_kwargs={"learning_rate": 0.5})
        multiplier = faster.multipliers["cost"] if cls is PPOLag else faster.multiplier
        assert multiplier.learning_rate == 0.5


def test_what_does_not_fit_is_named(trained, tmp_path):
    SACLag("MlpPolicy", "safe_envs:safe/Navigation1-v0").save(tmp_path / "other.zip")
    with pytest.raises(ValueError, match="it holds a SACLag"):
        tiny().start_from(tmp_path / "other.zip")
    with pytest.raises(ValueError, match="use_feedback=False"):
        tiny(vec(feedback=False), use_feedback=False).start_from(trained[0])
    with pytest.raises(ValueError, match="temperature"):
        tiny(ent_coef="auto").start_from(trained[0])


def test_a_replay_that_memory_has_cut_short_can_be_had_anew(monkeypatch):
    model, held = None, 400_000

    def free():
        return held - (0 if model is None else sum(c.nbytes for c in model.replay_buffer._rows.chunks))

    monkeypatch.setattr(sequence_buffer, "available_memory", free)
    with pytest.warns(UserWarning, match="the replay buffer will hold"):
        model = tiny(buffer_size=10_000)
    first = model.replay_buffer.capacity
    model.learn(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was told once
        model.reset_replay()
    assert model.replay_buffer.capacity == first


def test_each_seed_explores_in_its_own_way(trained):
    noise = {
        seed: RecurrentSACLag.load(trained[0], env=vec(), seed=seed)._exploration.standard_normal(3).tolist()
        for seed in (5, 6)
    }
    assert noise[5] != noise[6]
    assert noise[5] == RecurrentSACLag.load(trained[0], env=vec(), seed=5)._exploration.standard_normal(3).tolist()


def test_normalised_images_are_refused():
    env = vec(Camera)
    with pytest.raises(ValueError, match="VecNormalize must leave images alone, but changes"):
        tiny(VecNormalize(env))
    vectors = [key for key, box in env.observation_space.spaces.items() if len(box.shape) == 1]
    model = tiny(VecNormalize(env, norm_obs_keys=vectors))
    with pytest.raises(ValueError, match="norm_obs_keys="):
        model.set_env(VecNormalize(vec(Camera)))


def test_states_must_be_as_many_as_observations():
    model, env = tiny(vec()), PreviousFeedback(Counter())
    obs, _ = env.reset(seed=0)
    batch = {key: np.stack([value] * 3) for key, value in obs.items()}
    with pytest.raises(ValueError, match=r"state must be of shape \(3, 8\) for 3 observations, got \(1, 8\)"):
        model.predict(batch, state=(np.zeros((1, 8), np.float32),))


def test_a_batch_without_a_transition_teaches_nothing():
    assert masked_mean(th.ones(4, 2), th.zeros(4, 2)).item() == 0.0


def test_only_the_recurrent_agent_learns_from_actors():
    with pytest.raises(ValueError, match="only RecurrentSACLag learns from actors, got a PPOLag"):
        learn_distributed(PPOLag("MlpPolicy", "safe_envs:safe/Navigation1-v0"), gym.Env, 10)
