"""What is easily lost or mixed up: who may be trained, what a buffer still holds, whose steps, stream or device."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import Corridor, GoalCorridor, pretrained, recorded, tiny, vec
from gymnasium.vector import AutoresetMode
from on_policy import tiny as tiny_on_policy
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecMonitor

from safe_envs import WorkerVectorEnv
from safe_wrappers import Transitions
from sb3_ext import SQRL, DualAgent, GymVecEnv, PPOLag, RecoveryRL, RecurrentSACLag, SACLag, SafeSAC, imitate
from sb3_ext.common.features import standardisation
from sb3_ext.common.fused import fuse
from sb3_ext.common.optim import FusedAdam
from sb3_ext.common.vec_envs import episode_limit

pytestmark = pytest.mark.filterwarnings("ignore:.*untrained safety critic.*")


# ---------------------------------------------------------------------- weights


class Encoder(FlattenExtractor):
    """An extractor that was trained before, and is to stay as it is."""

    def __init__(self, space):
        super().__init__(space)
        self.scale = th.nn.Linear(2, 2)
        self.scale.requires_grad_(False)

    def forward(self, observations):
        return self.scale(super().forward(observations))


@pytest.mark.parametrize("share", [True, False])
def test_what_the_user_froze_stays_frozen(share):
    kwargs = {"net_arch": [8], "features_extractor_class": Encoder, "share_features_extractor": share}
    model = tiny(SafeSAC, policy_kwargs=kwargs)
    encoders = [m for m in model.policy.modules() if isinstance(m, Encoder)]
    before = [m.scale.weight.clone() for m in encoders]
    model.learn(40)
    assert len(encoders) >= 2 and not any(m.scale.weight.requires_grad for m in encoders)
    online = {id(m) for m in (*model.actor.modules(), *model.critic.modules())}
    assert all(th.equal(m.scale.weight, b) for m, b in zip(encoders, before, strict=True) if id(m) in online)
    assert all(p.requires_grad for net in model.critic.q_networks for p in net.parameters())


def test_second_derivatives_of_fused_networks_are_refused():
    net = th.nn.Sequential(th.nn.Linear(2, 4), th.nn.ReLU(), th.nn.Linear(4, 1))
    fuse(th.nn.ModuleList([net]))
    x = th.ones(3, 2, requires_grad=True)
    (slope,) = th.autograd.grad((net(x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_fused_adam_without_any_gradient_does_nothing():
    weight = th.nn.Parameter(th.ones(2))
    optimizer = FusedAdam([weight], fused=True)
    weight.grad = th.ones(2)
    optimizer.step()
    optimizer.zero_grad()
    before = weight.clone()
    optimizer.step()
    assert th.equal(weight, before)


def test_a_constant_feature_is_shifted_and_not_blown_up():
    features = th.tensor([[1.0, 5.0], [3.0, 5.0]])
    mean, std = standardisation(features)
    assert mean.tolist() == [2.0, 5.0] and std.tolist() == [1.0, 1.0]
    data = recorded(60)
    gaps = np.full_like(data.observations, 0.5)
    gaps[:, 0] = data.observations[:, 0]
    model = tiny(SACLag, scale_inputs=True)
    fixed = Transitions(gaps, data.actions, gaps, data.costs, data.violations, data.terminals)
    model.pretrain(fixed, steps=0)
    deviations = model.safety_critic.online.observation_std
    assert deviations[0] == pytest.approx(gaps[:, 0].std(), rel=1e-5) and deviations[1] == 1.0


def test_a_models_policy_kwargs_are_not_written_into():
    from recurrent_toys import SIZES
    from recurrent_toys import tiny as tiny_recurrent

    kwargs, sizes = {"net_arch": [8]}, dict(SIZES)
    tiny(SafeSAC, policy_kwargs=kwargs)
    tiny_recurrent(policy_kwargs=sizes)
    assert kwargs == {"net_arch": [8]} and sizes == SIZES


# ---------------------------------------------------------------------- steps


@pytest.mark.parametrize("cls", [SafeSAC, RecoveryRL])
def test_the_step_at_which_a_callback_stops_is_part_of_what_was_lived(cls):
    model = tiny(cls, Corridor(noise=0.1)).learn(100, callback=StopTrainingOnMaxEpisodes(1))
    model.learn(14, reset_num_timesteps=False)
    buffer = model.replay_buffer
    seen, following = buffer.observations[:24, 0], buffer.next_observations[:24, 0]
    inside = np.arange(23) % 10 != 9  # an episode has ten steps
    assert model.replay_buffer.size() == 24 and model.n_episodes == 2
    assert np.array_equal(seen[1:][inside], following[:-1][inside])
    assert np.abs(following - seen)[:, 0].max() < 1.0


def test_an_on_policy_model_goes_on_from_where_a_callback_stopped():
    model = tiny_on_policy(PPOLag, vec(noise=0.1))

    class Stop(BaseCallback):
        def _on_step(self):
            self.seen = self.locals["new_obs"]
            return self.n_calls < 3

    stop = Stop()
    model.learn(40, callback=stop)
    assert np.array_equal(model._last_obs, stop.seen)


def test_learning_goes_on_after_sqrls_pretraining():
    model = tiny(SQRL, vec(noise=0.1), n_off=50)
    model.pretrain(vec(noise=0.1), 150)
    before = model.safety_steps
    model.learn(100)  # which counts its steps from 0
    assert model.phase == "pretrain" and model.safety_steps >= before + 10


def test_sqrl_masks_half_of_a_pretraining_whatever_came_before():
    model = tiny(SQRL, vec(noise=0.1), mask_from=0.5, eps_risk=0.0).learn(40)
    model.pretrain(vec(noise=0.1), 40, reset_num_timesteps=True)
    assert model._mask_start == 20 and model.n_interventions <= 20


# ---------------------------------------------------------------------- buffers


def test_an_emptied_hindsight_buffer_gives_nothing_old():
    env = vec(1, GoalCorridor, horizon=20)
    model = tiny(SafeSAC, env, replay_buffer_class=HerReplayBuffer, learning_starts=1000).learn(50)
    model.replay_buffer.reset()
    model.learn(40)  # from a new episode on
    batch = model.replay_buffer.sample(200)
    lived = model.replay_buffer.observations["observation"][:40, 0]
    assert model.replay_buffer.size() == 40 and np.isin(batch.observations["observation"].numpy(), lived).all()
    assert model.replay_buffer.ep_length.sum() == 2 * 20 * 20


def test_an_emptied_sequence_buffer_is_empty():
    from recurrent_toys import tiny as tiny_recurrent

    model = tiny_recurrent().learn(60)
    buffer = model.replay_buffer
    assert buffer.size() > 50 and buffer.n_windows() > 0
    buffer.reset()
    assert (buffer.size(), buffer.n_windows(), len(buffer._rows.chunks)) == (0, 0, 0)
    model.learn(40)
    assert buffer.n_windows() > 0


def test_a_checkpoint_moves_its_buffers_to_the_models_device(tmp_path):
    model = pretrained(RecoveryRL).learn(30)
    for buffer in (model.replay_buffer, model.offline_buffer):
        buffer.device = th.device("meta")  # as if it had been another machine's
    model.save_checkpoint(tmp_path)
    again = RecoveryRL.load_checkpoint(tmp_path, device="cpu")
    assert {b.device.type for b in (again.replay_buffer, again.offline_buffer)} == {"cpu"}
    again.learn(5, reset_num_timesteps=False)


def test_a_wrapper_without_a_copy_is_no_obstacle_to_a_checkpoint(tmp_path):
    def make(name):
        return VecMonitor(vec(noise=0.1, normalize=True), filename=str(tmp_path / name))

    model = tiny(SafeSAC, make("first")).learn(30)
    model.save_checkpoint(tmp_path / "checkpoint")
    again = SafeSAC.load_checkpoint(tmp_path / "checkpoint", env=make("second"))
    first, second = (m.get_vec_normalize_env().obs_rms.mean for m in (model, again))
    assert np.array_equal(first, second)
    again.learn(10, reset_num_timesteps=False)


def test_safety_data_beside_hindsight():
    env = vec(1, GoalCorridor, horizon=20)
    model = tiny(SQRL, env, replay_buffer_class=HerReplayBuffer, learning_starts=25)
    model.pretrain(vec(1, GoalCorridor, horizon=20), 60)
    assert model.safety_steps > 0


# ---------------------------------------------------------------------- data


def test_sqrl_passes_on_what_belongs_to_its_source(monkeypatch):
    model, sizes = tiny(SQRL), []
    monkeypatch.setattr(type(model), "_risk_step", lambda self, batch: sizes.append(len(batch.costs)))
    model.pretrain(recorded(60), 3, batch_size=7)
    assert sizes == [7, 7, 7]
    for source, wrong in ((recorded(60), {"log_interval": 1}), (recorded(60), {"safety_env": vec()}),
                          (vec(), {"batch_size": 7})):  # fmt: skip
        with pytest.raises(TypeError, match=next(iter(wrong))):
            model.pretrain(source, 1, **wrong)


def test_following_observations_are_checked_too():
    data = recorded(20)
    for following in (data.next_observations[:, :1], data.next_observations * np.nan):
        wrong = Transitions(data.observations, data.actions, following, data.costs, data.violations, data.terminals)
        with pytest.raises(ValueError, match="next_observations"):
            tiny(SACLag).pretrain(wrong, 1)


def test_a_mixture_of_environments_has_no_label():
    here, there = recorded(20).with_env_id("here"), recorded(20).with_env_id("there")
    assert Transitions.concatenate([here, here]).env_id == "here"
    assert Transitions.concatenate([here, there]).env_id is None


@pytest.mark.parametrize(("learned", "given"), [({"eps_risk": 0.2}, "cost_limit"), ({"cost_limit": 2.0}, "eps_risk")])
def test_a_limit_of_the_other_kind_means_nothing_to_a_loaded_critic(learned, given, tmp_path):
    kwargs = learned | ({"episode_length": 10} if "cost_limit" in learned else {})
    tiny(SACLag, **kwargs).save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"{given}=0.1"):
        SACLag.load(tmp_path / "model", **{given: 0.1})
    (own,) = learned
    assert getattr(SACLag.load(tmp_path / "model", **{own: 0.3}), own) == 0.3
    assert getattr(SACLag.load(tmp_path / "model", **{own: None}), own) == learned[own]


# ---------------------------------------------------------------------- environments


def test_a_given_baseline_follows_its_model_into_another_environment():
    model = tiny(DualAgent, vec(normalize=True), baseline=lambda obs: np.zeros((len(obs), 2)))
    other = vec(normalize=True)
    model.set_env(other)
    assert model.baseline.normalizer is other
    second = tiny(DualAgent, vec(), baseline=model.baseline)
    assert second.baseline.normalizer is None and model.baseline.normalizer is other


def test_imitation_in_the_models_own_environment_is_noticed_below_its_wrappers():
    env = Corridor()
    model = tiny(SafeSAC, env).learn(5)
    imitate(model, lambda obs: np.zeros((len(obs), 2)), env=env, n_transitions=20, steps=1, seed=0)
    assert model._last_obs is None


def test_infos_of_vector_environments_hold_no_masks():
    env = GymVecEnv(gym.make_vec("safe_envs:safe/Navigation1-v0", num_envs=3))
    env.reset()
    keys = set()
    for _ in range(110):  # beyond the time limit
        _, _, dones, infos = env.step(np.zeros((3, 2), np.float32))
        keys |= {key for info in infos for key in info}
        if dones.any():
            break
    assert dones.any() and "terminal_observation" in keys and not any(key.startswith("_") for key in keys)


def test_attributes_of_environments_behind_a_vector_environment():
    settings = {"autoreset_mode": AutoresetMode.SAME_STEP}
    ids = "safe_envs:safe/Navigation1-v0"
    copies = GymVecEnv(gym.make_vec(ids, num_envs=3, vectorization_mode="sync", vector_kwargs=settings))
    assert len(copies.get_attr("scene")) == 3 and len(copies.get_attr("scene", [1])) == 1
    on_arrays = GymVecEnv(gym.make_vec(ids, num_envs=3))
    workers = GymVecEnv(WorkerVectorEnv(ids, num_envs=2, num_workers=1))
    for env in (copies, on_arrays, workers):
        assert episode_limit(env) == 100
        env.close()
    with pytest.raises(AttributeError):
        on_arrays.get_attr("nothing_of_the_kind")


# ---------------------------------------------------------------------- random streams


def test_exploration_is_not_the_noise_of_the_first_environment():
    from recurrent_toys import SIZES
    from recurrent_toys import vec as vec_of_toys

    model = RecurrentSACLag(
        "MultiInputPolicy", vec_of_toys(), policy_kwargs=SIZES, batch_size=4, horizon=5, buffer_size=4000, seed=3
    )
    same = np.random.default_rng(3).standard_normal(5)
    assert not np.allclose(model._exploration.standard_normal(5), same)


def test_deterministic_predictions_leave_other_streams_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tiny(SQRL, vec(noise=0.1)).learn(30)
    th.manual_seed(5)
    expected = th.rand(3)
    th.manual_seed(5)
    model.predict(np.zeros((4, 2), np.float32), deterministic=True)
    assert th.equal(th.rand(3), expected)
