"""What users of SB3 do with models of their own and expect to go on working."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import HORIZON, QUIET, Corridor, ImageCorridor, differing, pretrained, recorded, tensors, tiny, weights
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.callbacks import (
    BaseCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from safe_envs import collect_rollouts
from safe_wrappers import CostFromFunction
from sb3_ext import (
    CPO,
    SQRL,
    DualAgent,
    GradientMultiplier,
    LinearCostModel,
    PPOLag,
    RecoveryRL,
    SACLag,
    SafeEvalCallback,
    discounted_limit,
    imitate,
    transitions_of,
)

pytestmark = pytest.mark.filterwarnings(QUIET)

ON_POLICY = {"n_steps": 20, "batch_size": 20, "seed": 0}
JUST_TRAINED = {
    "PPO": lambda: PPO("MlpPolicy", Corridor(), **ON_POLICY),
    "PPO, gSDE": lambda: PPO("MlpPolicy", Corridor(), use_sde=True, **ON_POLICY),
    "A2C": lambda: A2C("MlpPolicy", Corridor(), n_steps=20, seed=0),
    "PPOLag": lambda: PPOLag("MlpPolicy", Corridor(), **ON_POLICY),
    "CPO": lambda: CPO("MlpPolicy", Corridor(), **ON_POLICY),
    "SAC": lambda: tiny(SAC),
    "SAC, gSDE": lambda: tiny(SAC, use_sde=True),
    "TD3": lambda: tiny(TD3),
    "RecoveryRL": lambda: tiny(RecoveryRL),
}


@pytest.mark.parametrize("kind", JUST_TRAINED)
def test_a_model_that_has_just_learned_is_a_baseline_and_can_be_imitated(kind):
    source = JUST_TRAINED[kind]().learn(40)
    corrected = tiny(DualAgent, baseline=source)
    obs = recorded(5).observations
    expected = source.predict(obs, deterministic=True)[0]
    assert np.allclose(corrected.baseline.predict(obs)[0], expected, atol=1e-6)
    source.learn(40)
    assert np.allclose(corrected.baseline.predict(obs)[0], expected, atol=1e-6)
    assert imitate(tiny(SAC), source, n_transitions=20, steps=1) >= 0.0


def evaluating(**kwargs):
    return SafeEvalCallback(Corridor(noise=0.0), 1e9, eval_freq=20, n_eval_episodes=1, **kwargs)


def test_callbacks_that_look_at_their_parents_rewards():
    keep = evaluating(callback_on_new_best=StopTrainingOnRewardThreshold(-1e3))
    model = PPOLag("MlpPolicy", Corridor(), **ON_POLICY).learn(200, callback=keep)
    assert model.num_timesteps == 20 and keep.best_mean_reward == keep.last_mean_reward == keep.best.returns.mean()
    patience = evaluating(callback_after_eval=StopTrainingOnNoModelImprovement(0, min_evals=0))
    frozen = PPOLag("MlpPolicy", Corridor(), learning_rate=0.0, **ON_POLICY).learn(200, callback=patience)
    assert frozen.num_timesteps < 200


def test_an_unsafe_model_reaches_no_threshold():
    class Sees(BaseCallback):
        def _on_step(self):
            seen.append((self.parent.last_mean_reward, self.parent.best_mean_reward))
            return True

    seen = []
    hopeless = Corridor(noise=0.0)
    hopeless.step = lambda action: (*Corridor.step(hopeless, action)[:4], {"cost": 1.0})
    keep = SafeEvalCallback(hopeless, 0.0, eval_freq=5, n_eval_episodes=1, callback_after_eval=Sees())
    tiny(SACLag).learn(5, callback=keep)
    assert np.isfinite(seen[0][0]) and seen[0][1] == -np.inf and keep.best is not None


@pytest.mark.parametrize("cls", [SACLag, RecoveryRL, SQRL, DualAgent])
def test_actions_of_double_precision(cls):
    env = Corridor()
    env.action_space = spaces.Box(env.action_space.low.astype(float), env.action_space.high.astype(float), dtype=float)
    model = tiny(cls, env).learn(30)
    assert model.predict(env.reset(seed=0)[0])[0].dtype == np.float64


# ---------------------------------------------------------------------- limits that move


def limited(horizon):
    return TimeLimit(Corridor(horizon=10**6), horizon)


def test_a_cost_limit_follows_the_environments_episodes(tmp_path):
    model = tiny(SACLag, limited(50), cost_limit=5.0)
    assert model.limit == discounted_limit(5.0, 0.99, 50)
    model.set_env(limited(500))
    assert model.limit == discounted_limit(5.0, 0.99, 500)
    model.save(tmp_path / "model")
    assert SACLag.load(tmp_path / "model").limit == discounted_limit(5.0, 0.99, 500)
    assert SACLag.load(tmp_path / "model", env=limited(20)).limit == discounted_limit(5.0, 0.99, 20)
    given = tiny(SACLag, limited(50), cost_limit=5.0, episode_length=7)
    given.set_env(limited(500))
    assert given.limit == discounted_limit(5.0, 0.99, 7)


def test_time_limits_of_unregistered_environments_are_seen_through_wrappers():
    env = CostFromFunction(TimeLimit(Corridor(with_cost=False), 30), lambda *_: 0.0)
    assert tiny(SACLag, env, cost_limit=5.0).limit == discounted_limit(5.0, 0.99, 30)
    with pytest.raises(ValueError, match=r"pass episode_length=, or wrap the environment in .*TimeLimit"):
        tiny(SACLag, Corridor(), cost_limit=5.0)


@pytest.mark.parametrize("cls", [RecoveryRL, SQRL])
def test_a_limit_that_is_set_is_the_filters(cls):
    model, obs = pretrained(cls), recorded(200).observations
    model.eps_risk = 0.0
    model.predict(obs, deterministic=True)
    assert model.last_intervened.all() and model.selector.eps_risk == model.limit == 0.0
    model.eps_risk = 1.0
    model.predict(obs, deterministic=True)
    assert not model.last_intervened.any()
    model.eps_risk = 30.0
    with pytest.raises(ValueError, match="got 30"):
        model.predict(obs)


def test_a_lower_bound_keeps_a_price_awake():
    asleep, awake = GradientMultiplier(), GradientMultiplier(min_value=1e-3)
    for _ in range(20_000):
        asleep.update(-0.05)
        awake.update(-0.05)
    assert asleep.value < 5e-4 and awake.value == pytest.approx(1e-3)


# ---------------------------------------------------------------------- observations


class Small(BaseFeaturesExtractor):
    def __init__(self, observation_space, size=4):
        super().__init__(observation_space, size)
        n = int(np.prod(observation_space.shape))
        self.net = th.nn.Sequential(th.nn.Flatten(), th.nn.Linear(n, size))

    def forward(self, observations):
        return self.net(observations)


def test_safety_parts_have_the_policys_kind_of_extractor():
    own = {"features_extractor_class": Small, "features_extractor_kwargs": {"size": 3}, "net_arch": [16]}
    model = tiny(RecoveryRL, policy_kwargs=own).learn(25)
    for network in (model.safety_critic.online, model.recovery_policy):
        assert type(network.features) is Small and network.features.features_dim == 3
    assert model.safety_critic.online.features is not model.actor.features_extractor
    other = tiny(SACLag, policy_kwargs=own, risk_kwargs={"features_extractor_kwargs": {"size": 5}})
    assert other.safety_critic.online.features.features_dim == 5


def channels_last(env):
    space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    return gym.wrappers.TransformObservation(env, lambda image: image.transpose(1, 2, 0), space)


@pytest.mark.filterwarnings("ignore:the data set shows no violation")
def test_recorded_images_have_their_channels_last_as_environments_give_them():
    data = collect_rollouts(channels_last(ImageCorridor()), 60, seed=0)
    assert data.observations.shape == (60, 36, 36, 1)
    model = tiny(RecoveryRL, channels_last(ImageCorridor())).pretrain(data, steps=2)
    assert model.offline_buffer.observations.shape == (60, 1, 1, 36, 36)
    assert np.array_equal(model.offline_buffer.observations[:, 0, 0], data.observations[..., 0])


class Numbered(Corridor):
    """The corridor in cells."""

    observation_space = spaces.Discrete(41)

    def _observation(self):
        return round((self.x + 2.0) * 10)


class NumberedDict(Numbered):
    """The same in a dictionary."""

    observation_space = spaces.Dict({"cell": spaces.Discrete(41), "x": spaces.Box(-3.0, 3.0, (1,), np.float32)})

    def _observation(self):
        return {"cell": super()._observation(), "x": np.array([self.x], np.float32)}


@pytest.mark.filterwarnings("ignore:the data set shows no violation")
@pytest.mark.parametrize("kind", [Numbered, NumberedDict])
def test_discrete_observations_in_offline_data(kind):
    model = tiny(RecoveryRL, kind()).learn(25)
    for data in (collect_rollouts(kind(), 30), transitions_of(model)):
        tiny(RecoveryRL, kind()).pretrain(data, steps=2)


def test_a_linear_model_keeps_its_own_observations():
    class Reuses(Corridor):
        def reset(self, **kwargs):
            self.shared = np.zeros(2, np.float32)
            return super().reset(**kwargs)

        def _observation(self):
            self.shared[:] = super()._observation()
            return self.shared

    fitted = []
    for env in (Corridor(), Reuses()):
        th.manual_seed(0)
        model = LinearCostModel(env.observation_space, env.action_space)
        model.fit_in(env, n_transitions=30, steps=3, seed=0, controller=tiny(SAC))
        fitted.append(model)
    assert not differing(tensors(fitted[0].state_dict()), tensors(fitted[1].state_dict()))


# ---------------------------------------------------------------------- randomness, data, errors


def test_without_a_seed_the_global_one_decides():
    def learned():
        th.manual_seed(3)
        np.random.seed(3)
        env = Corridor()
        env.reset(seed=3)
        model = PPOLag("MlpPolicy", env, n_steps=20, batch_size=20, cost_critic_kwargs={"batch_size": 8}, device="cpu")
        return model.learn(60)

    assert not differing(weights(learned()), weights(learned()))


def test_episodes_that_never_end_are_noticed(monkeypatch):
    monkeypatch.setattr("sb3_ext.common.rollouts.PATIENCE", 50)
    with pytest.raises(ValueError, match=r"no episode has ended within 50 steps.*TimeLimit"):
        tiny(SQRL, Corridor(horizon=10**9)).pretrain(Corridor(horizon=10**9), steps=60)


def test_harmless_data_warn():
    safe = recorded(300).rows(slice(0, 300))
    safe = safe.rows(~safe.violations)
    with pytest.warns(UserWarning, match="shows no violation among"):
        tiny(RecoveryRL).pretrain(safe, steps=1)
    with pytest.warns(UserWarning, match="shows no violation among"):
        tiny(SACLag, cost_limit=1.0, episode_length=HORIZON).pretrain(safe, steps=1)


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (SACLag, {"cost_limit": "5", "episode_length": 10}, "cost_limit must be a finite number >= 0, got '5'"),
        (RecoveryRL, {"risk_kwargs": {"lr": 1}}, "risk_kwargs do not fit SafetyCritic.*'lr'"),
        (RecoveryRL, {"recovery_kwargs": {"lr": 1}}, "recovery_kwargs do not fit RecoveryActor.*'lr'"),
    ],
)
def test_errors_name_the_argument(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(cls, **kwargs)


def test_networks_of_a_plain_model_are_taken_over(tmp_path):
    plain = tiny(SAC).learn(30)
    plain.save(tmp_path / "sac")
    with pytest.raises(ValueError, match="exact_match=False"):
        SACLag.load(tmp_path / "sac")
    model = tiny(SACLag)
    model.set_parameters(tmp_path / "sac", exact_match=False)
    obs = recorded(5).observations
    assert np.array_equal(model.predict(obs, deterministic=True)[0], plain.predict(obs, deterministic=True)[0])
