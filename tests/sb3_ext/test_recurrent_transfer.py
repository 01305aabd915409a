"""What goes on elsewhere: trained weights in a new model or environment, and what does not fit."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from recurrent_toys import Camera, Counter, tiny, vec
from stable_baselines3.common.vec_env import VecNormalize

from safe_wrappers.feedback import PreviousFeedback
from sb3_ext import PPOLag, learn_distributed
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


def test_a_limit_may_be_lifted_when_a_model_is_loaded(trained):
    free = tiny(vec(), cost_limit=None)
    free.save(trained[0].parent / "free.zip")
    loaded = RecurrentSACLag.load(trained[0].parent / "free.zip", env=vec(), cost_limit=None)
    assert loaded.cost_limit == np.inf
    with pytest.raises(ValueError, match="the kind of multiplier"):
        free.start_from(trained[0])


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
