"""``RecurrentSACLag``: N steps equal N/2, a checkpoint and N/2 more; files, other environments, other sizes."""

import numpy as np
import pytest
from corridors import assert_same_weights, differing, tensors
from recurrent_toys import SIZES, Camera, tiny, vec
from stable_baselines3 import SAC

from safe_wrappers.feedback import PreviousFeedback
from sb3_ext import SACLag, evaluate_safely
from sb3_ext.recurrent.recurrent_sac_lag import RecurrentSACLag

HALF = 48  # six rollouts of eight steps, and no multiple of the episodes' lengths
CASES = {
    "vectors": lambda: tiny(vec(n_envs=1)),
    "images, two environments": lambda: tiny(vec(Camera, 2)),
    "learned temperature, burn-in, clipping": lambda: tiny(ent_coef="auto", burn_in=2, max_grad_norm=1.0),
    "PID, ring full": lambda: tiny(multiplier="pid", buffer_size=50),
    "normalised": lambda: tiny(vec(n_envs=2, normalize=True)),
    "unconstrained, no feedback": lambda: tiny(use_feedback=False, step_limit=None),
}


def go(model, steps):
    return model.learn(steps * model.n_envs, reset_num_timesteps=False)


def state(model):
    """What a run carries along beside its weights."""
    buffer, normalizer = model.replay_buffer, model.get_vec_normalize_env()
    held = {
        "hidden": model._hidden, "starts": model._last_episode_starts, "written": buffer._written,
        "steps": model.num_timesteps, "updates": model._n_updates, "price": model.multiplier.value,
        "costs": list(model.ep_cost_buffer), "rows": [c.view(np.uint8) for c in buffer._rows.chunks],
        "kept": buffer._hidden.chunks, "noise": model._exploration.bit_generator.state["state"]["state"] % 2**62,
        "statistics": 0.0 if normalizer is None else normalizer.obs_rms["observation"].mean,
    }  # fmt: skip
    return tensors(held)


@pytest.mark.parametrize("name", CASES)
def test_interrupted_run_equals_uninterrupted_one(name, tmp_path):
    uninterrupted = go(CASES[name](), 2 * HALF)
    go(CASES[name](), HALF).save_checkpoint(tmp_path)
    np.random.seed(5)
    continued = go(RecurrentSACLag.load_checkpoint(tmp_path), HALF)
    assert continued._n_updates > 0
    assert_same_weights(uninterrupted, continued)
    assert differing(state(uninterrupted), state(continued)) == []


def test_file_holds_networks_optimiser_and_multiplier(tmp_path):
    model = go(tiny(vec(Camera), ent_coef="auto"), 60)
    model.save(tmp_path / "model")
    loaded = RecurrentSACLag.load(tmp_path / "model")
    assert_same_weights(model, loaded)
    assert loaded.multiplier.value == model.multiplier.value != 1.0
    assert loaded.entropy_coef == model.entropy_coef
    obs, _ = PreviousFeedback(Camera()).reset(seed=0)
    np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, loaded)))


def test_goes_on_in_another_environment_with_an_empty_memory(tmp_path):
    model = go(tiny(), 60)
    model.save(tmp_path / "model")
    moved = RecurrentSACLag.load(tmp_path / "model", env=vec(n_envs=3, lengths=(9,)))
    assert moved.replay_buffer.size() == 0 and moved.multiplier.value == model.multiplier.value
    before = moved._n_updates
    moved.learn(120)
    assert moved._n_updates > before and moved._hidden.shape == (3, 8)
    evaluate_safely(moved, vec(lengths=(9,)), 2)
    # In place: what the old environment has shown stays, or goes if asked to.
    held = model.replay_buffer.size()
    model.set_env(vec(lengths=(9,)))
    assert model.replay_buffer.size() == held > 0
    model.set_env(vec(lengths=(9,)), reset_replay=True)
    assert model.replay_buffer.size() == 0
    assert model.learn(60).replay_buffer.size() >= 60


def test_another_architecture_is_refused(tmp_path):
    model = go(tiny(), 24)
    model.save_checkpoint(tmp_path / "folder")
    model.save(tmp_path / "model")
    other = {**SIZES, "gru_size": 12}
    for load, path in ((RecurrentSACLag.load, "model"), (RecurrentSACLag.load_checkpoint, "folder")):
        with pytest.raises(ValueError, match="policy kwargs do not equal"):
            load(tmp_path / path, policy_kwargs=other)
    with pytest.raises(ValueError, match=r"of another architecture than this model's.*'gru_size': 12"):
        tiny(policy_kwargs=other).set_parameters(tmp_path / "model")
    with pytest.raises(ValueError, match="spaces do not match"):
        RecurrentSACLag.load(tmp_path / "model", env=vec(Camera))
    with pytest.raises(ValueError, match="holds a RecurrentSACLag"):
        SACLag.load(tmp_path / "model")
    SAC("MlpPolicy", "Pendulum-v1").save(tmp_path / "sac")
    with pytest.raises(ValueError, match="cannot be read as RecurrentSACLag"):
        RecurrentSACLag.load(tmp_path / "sac")


def test_replay_buffer_files(tmp_path):
    model = go(tiny(), 40)
    model.save_replay_buffer(tmp_path / "replay.pkl")
    other = tiny()
    other.load_replay_buffer(tmp_path / "replay.pkl")
    assert other.replay_buffer.size() == model.replay_buffer.size() > 0
    assert other.replay_buffer.sample(3).rewards.shape == (6, 3)
