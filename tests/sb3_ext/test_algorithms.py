"""What every algorithm does alike: run anywhere, repeat itself, save and load all of itself, refuse bad input."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from corridors import (
    CLASSES,
    QUIET,
    RISK_CLASSES,
    Corridor,
    DictCorridor,
    ImageCorridor,
    assert_same_weights,
    differing,
    noise,
    recorded,
    some_observations,
    tensors,
    tiny,
    vec,
    weights,
)
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from safe_wrappers import CostFromFunction, CostMonitor
from safe_wrappers.info import MissingCostError
from sb3_ext import (
    RCPO,
    RSPO,
    SQRL,
    PIDMultiplier,
    RecoveryRL,
    RiskSensitiveSAC,
    SACLag,
    SafeSAC,
    SafeTD3,
    discounted_limit,
)

pytestmark = pytest.mark.filterwarnings(QUIET)
every_class = pytest.mark.parametrize("cls", CLASSES)
every_risk_class = pytest.mark.parametrize("cls", RISK_CLASSES)


def moved(model, before):
    """Whether training changed the actor and, where there is one, the safety critic."""
    after = weights(model)
    names = differing(before, {name: after[name] for name in before})  # optimisers have no state at first
    parts = (".policy.actor", *(f".{part}" for part in model.parts if part != "multiplier"))
    return all(any(name.startswith(part) for name in names) for part in parts)


# ---------------------------------------------------------------------- running

SETTINGS = {
    "Box": {},
    "Dict": {"kind": DictCorridor},
    "three environments": {"n_envs": 3},
    "VecNormalize, three": {"n_envs": 3, "normalize": True},
    "VecNormalize, Dict": {"kind": DictCorridor, "normalize": True},
    "terminations": {"ends_on_violation": True},
}


@every_class
@pytest.mark.parametrize("setting", SETTINGS)
def test_learns_in(cls, setting):
    model = tiny(cls, vec(**SETTINGS[setting]))
    before = weights(model)
    model.learn(48)
    assert moved(model, before)
    assert model.predict(model.env.reset(), deterministic=True)[0].shape == (model.n_envs, 2)


@every_class
def test_takes_an_environment_by_itself_and_from_make_vec_env(cls):
    for env in (CostMonitor(Corridor()), make_vec_env(Corridor, n_envs=2, seed=3)):
        model = tiny(cls, env).learn(30)
        assert model.num_timesteps == 30 and len(model.ep_info_buffer) > 0


def test_a_cloned_actor_waits_for_its_critics():
    model, untouched = (tiny(SafeTD3, critic_warmup=10) for _ in range(2))

    def moved_parts():
        parts = ("actor", "critic", "critic_target")
        states = [[tensors(dict(getattr(each, part).state_dict())) for part in parts] for each in (untouched, model)]
        return [bool(differing(before, after)) for before, after in zip(*states, strict=True)]

    model.learn(30)
    assert model._n_updates == 10 and moved_parts() == [False, True, True]
    model.learn(10, reset_num_timesteps=False)
    assert moved_parts() == [True, True, True]


@pytest.mark.parametrize("cls", [RecoveryRL, SafeTD3])
def test_learns_in_processes(cls):
    env = vec(2, subprocess=True)
    try:
        assert tiny(cls, env).learn(40).replay_buffer.size() == 20
    finally:
        env.close()


@pytest.mark.parametrize("cls", [RecoveryRL, SQRL])
def test_learns_from_images(cls):
    model = cls("CnnPolicy", ImageCorridor(), learning_starts=8, batch_size=4, buffer_size=30, seed=0)
    before = weights(model)
    assert moved(model.learn(12), before)
    assert model.risk(model.env.reset(), np.zeros((1, 2))).shape == (1,)


@every_risk_class
def test_callbacks_and_logs(cls, tmp_path):
    calls = []
    model = tiny(cls)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(60, callback=lambda *_: calls.append(1) or True, log_interval=1)
    assert len(calls) == 60
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    for key in ("rollout/ep_cost_mean", "safety/violating_episodes", "safety/critic_loss", "train/actor_loss"):
        assert key in header
    assert ("safety/intervention_rate" in header) == issubclass(cls, SQRL | RecoveryRL)


@every_class
def test_a_callback_that_stops_at_the_end_of_an_episode_splits_none(cls):
    """Ten steps at a cost of 1 each."""
    env = CostFromFunction(Corridor(with_cost=False), lambda *_: 1.0)
    model = tiny(cls, env).learn(100, callback=StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == 10 and list(model.ep_cost_buffer) == [10.0]
    assert set(model.learn(25, reset_num_timesteps=False).ep_cost_buffer) == {10.0}


def test_logged_costs_are_the_episodes_costs():
    model = tiny(SACLag, vec(2, noise=0.0))
    straight = np.array([[3.0, 0.0], [1.5, 0.0]])  # 0.3 and 0.15 a step
    model.policy.predict = lambda *args, **kwargs: (straight, None)
    model.learning_starts = 0
    model.gradient_steps = 0
    model.learn(40)
    first = sum(min(0.3 * t, 2.0) - 0.5 for t in range(1, 11) if 0.3 * t > 1.0)
    second = sum(0.15 * t - 0.5 for t in range(1, 11) if 0.15 * t > 1.0)
    assert np.allclose(model.ep_cost_buffer, [first, second] * 2, atol=1e-5)
    assert model.n_episodes == model.n_violating_episodes == 4


def test_unfinished_episodes_are_not_added_to_the_next_learn():
    model = tiny(SACLag, Corridor(noise=0.0), learning_starts=0, gradient_steps=0)
    model.policy.predict = lambda *args, **kwargs: (np.array([[3.0, 0.0]]), None)
    model.learn(7).learn(10)
    whole = sum(min(0.3 * t, 2.0) - 0.5 for t in range(4, 11))
    assert np.allclose(model.ep_cost_buffer, [whole], atol=1e-5)


# ---------------------------------------------------------------------- repeating


@every_class
def test_the_same_seed_gives_the_same_weights(cls):
    first, second, other = (tiny(cls, vec(2, noise=0.0), seed=seed).learn(60) for seed in (0, 0, 1))
    assert_same_weights(first, second)
    assert differing(weights(first), weights(other))


@pytest.mark.parametrize(
    "cls, kwargs",
    [
        (SACLag, {"fixed_multiplier": 0.0}),
        (RCPO, {"fixed_multiplier": 0.0}),
        (RecoveryRL, {"eps_risk": 1.0, "ent_coef": "auto", "online_updates": False}),
    ],
)
def test_parts_do_not_disturb_the_task_policy(cls, kwargs):
    """A price of 0 and a filter that never acts leave SAC's weights as SB3's."""
    model, theirs = tiny(cls, **kwargs).learn(100), weights(tiny(SAC).learn(100))
    assert differing({k: v for k, v in weights(model).items() if k in theirs}, theirs) == []


# ---------------------------------------------------------------------- saving


@every_class
@pytest.mark.parametrize("setting", ["Box", "VecNormalize, Dict"])
def test_everything_comes_back_from_a_file_and_learns_on(cls, setting, tmp_path):
    kwargs = {"action_noise": noise()} if cls is SafeTD3 else {}
    model = tiny(cls, vec(**SETTINGS[setting]), **kwargs).learn(40)
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model.zip", env=vec(**SETTINGS[setting]))
    assert_same_weights(model, again)
    assert set(model.parts) <= set(model.get_parameters())
    assert ("safety_critic.optimizer" in model.get_parameters()) == (cls in RISK_CLASSES)
    obs, actions = model.env.reset(), []
    for each in (model, again):
        th.manual_seed(0)  # SQRL draws its candidates
        actions.append(each.predict(obs, deterministic=True)[0])
    assert np.array_equal(*actions)
    before = weights(again)
    again.learn(40, reset_num_timesteps=False)
    assert again.num_timesteps == 80 and moved(again, before)


def test_risks_thresholds_and_recoveries_come_back(tmp_path):
    model = tiny(RecoveryRL, eps_risk=0.45, gamma_risk=0.7).pretrain(recorded(), steps=20).learn(30)
    model.save(tmp_path / "model")
    again = RecoveryRL.load(tmp_path / "model")
    obs, actions = some_observations()
    assert np.array_equal(model.risk(obs, actions), again.risk(obs, actions))
    assert np.array_equal(model.recovery(obs), again.recovery(obs))
    assert again.selector.eps_risk == 0.45 and again.safety_critic.gamma_risk == 0.7
    assert again.selector.critic is again.safety_critic and again.selector.recovery is again.recovery_policy
    assert again.pretraining_steps == 20


@pytest.mark.parametrize("multiplier", ["gradient", "pid", "schedule", "fixed"])
def test_multipliers_come_back(multiplier, tmp_path):
    arguments = {"schedule": {"start": 5.0, "duration": 100}, "fixed": {"value": 2.0}}.get(multiplier, {})
    model = tiny(SACLag, multiplier=multiplier, multiplier_kwargs=arguments).learn(50)
    model.save(tmp_path / "model")
    again = SACLag.load(tmp_path / "model", env=Corridor())
    assert again.multiplier.value == model.multiplier.value
    for price in (model.multiplier, again.multiplier):
        price.update(0.3)
    assert again.multiplier.value == model.multiplier.value


def test_saving_does_not_pickle_buffers_and_environments(tmp_path):
    model = tiny(RecoveryRL, buffer_size=200_000).pretrain(recorded(5000), steps=1).learn(30)
    model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").stat().st_size < 500_000


def test_a_model_is_not_read_as_one_of_another_class(tmp_path):
    tiny(SACLag).save(tmp_path / "lag.zip")
    for other in (RecoveryRL, RCPO, RSPO, SQRL, SafeSAC, SafeTD3):
        with pytest.raises(ValueError, match=r"lag\.zip.*" + other.__name__):
            other.load(tmp_path / "lag.zip")


@every_class
def test_broken_and_foreign_files_raise_an_error_that_names_them(cls, tmp_path):
    path = tmp_path / "model.zip"
    tiny(cls).save(path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 200] = bytes(200)
    for content in (whole[: len(whole) // 2], whole[:-10], b"", b"text", bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.zip cannot be read"):
            cls.load(path)
    PPO("MlpPolicy", Corridor(), policy_kwargs={"net_arch": [4]}).save(path)
    with pytest.raises(ValueError, match=r"model\.zip cannot be read"):
        cls.load(path)
    with pytest.raises(FileNotFoundError):
        cls.load(tmp_path / "absent.zip")


# ---------------------------------------------------------------------- refusing


@every_risk_class
def test_missing_cost_raises_with_the_remedy(cls):
    with pytest.raises(MissingCostError, match=r"safe_wrappers\.CostFromFunction"):
        tiny(cls, Corridor(with_cost=False)).learn(5)


@every_risk_class
def test_missing_cost_may_count_as_zero(cls):
    model = tiny(cls, Corridor(with_cost=False), missing_cost="zero").learn(25)
    assert model.replay_buffer.costs.sum() == 0 and set(model.ep_cost_buffer) == {0.0}


def test_the_named_wrapper_is_a_remedy():
    env = CostFromFunction(Corridor(with_cost=False), lambda obs, action, next_obs, info: next_obs[0] > 1)
    tiny(SACLag, env).learn(25)


@every_risk_class
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"eps_risk": 0.1, "cost_limit": 1.0, "episode_length": 10}, "not both"),
        ({"eps_risk": 1.5}, r"eps_risk must be in \[0, 1\], got 1.5"),
        ({"eps_risk": float("nan")}, "eps_risk must be"),
        ({"cost_limit": -1.0, "episode_length": 10}, "cost_limit must be a finite number >= 0"),
        ({"gamma_risk": -0.1}, "gamma_risk must be"),
        ({"positive_fraction": 2.0}, "positive_fraction must be"),
        ({"cost_limit": 1.0}, "pass episode_length="),
    ],
)
def test_bad_risk_arguments(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        cls("MlpPolicy", Corridor(), **kwargs)


@every_class
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_steps": 3}, "n_steps must be 1"),
        (
            {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
            "optimize_mem",
        ),
        ({"missing_cost": "ignore"}, "missing_cost must be 'raise' or 'zero'"),
        ({"optimize": "jit"}, "optimize must be 'sb3' or 'fused'"),
    ],
)
def test_bad_options(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(cls, **kwargs)


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (RSPO, {"anneal_episodes": 0}, "anneal_episodes"),
        (RiskSensitiveSAC, {"anneal_updates": 0}, "anneal_updates"),
        (SQRL, {"n_off": 0}, "n_off"),
        (SACLag, {"risk_kwargs": {"kind": "return"}}, "risk_kwargs must not hold"),
        (SACLag, {"risk_kwargs": {"gamma_risk": 0.5}}, "risk_kwargs must not hold"),
        (SQRL, {"mask_from": 1.5}, "mask_from"),
        (SQRL, {"choice": "best"}, "^choice must be"),
        (SQRL, {"pretrain_choice": "best"}, "^pretrain_choice must be .*, got 'best'"),
        (SQRL, {"safety_updates": -1}, "safety_updates must be >= 0, got -1"),
        (SQRL, {"n_candidates": 0}, "n_candidates"),
        (SACLag, {"multiplier": "cubic"}, "multiplier must be one of"),
        (SACLag, {"fixed_multiplier": -1.0}, "finite and >= 0"),
    ],
)
def test_bad_arguments_of_one_class(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(cls, **kwargs)


@every_class
def test_discrete_actions_are_refused_and_box_is_named(cls):
    env = Corridor()
    env.action_space = spaces.Discrete(3)
    with pytest.raises(ValueError, match=r"Box.*PPOLag, TRPOLag and CPO take any"):
        tiny(cls, env)


# ---------------------------------------------------------------------- each class's own


def test_cost_limit_is_converted_once():
    model = tiny(SACLag, cost_limit=2.0, episode_length=10, gamma_risk=0.9)
    assert model.safety_critic.kind == "return" and model.limit == discounted_limit(2.0, 0.9, 10)
    assert tiny(SACLag).safety_critic.kind == "probability" and tiny(SACLag).limit == 0.3


def test_episode_length_comes_from_the_environments_specification():
    gym.register("CorridorForTest-v0", Corridor, max_episode_steps=7)
    try:
        model = tiny(SACLag, gym.make("CorridorForTest-v0"), cost_limit=2.0, gamma_risk=0.5)
    finally:
        del gym.registry["CorridorForTest-v0"]
    assert model.limit == discounted_limit(2.0, 0.5, 7)


def batch_of(model):
    return model.replay_buffer.sample(16)


def test_sac_lag_loss_by_hand():
    model = tiny(SACLag, fixed_multiplier=3.0).learn(30)
    batch = batch_of(model)
    soft_value = batch.rewards * 2
    loss = model._actor_loss(batch, batch.actions, soft_value)
    risk = model.safety_critic(batch.observations, batch.actions)
    assert np.isclose(loss.item(), (-soft_value.mean() + 3.0 * (risk.mean() - 0.3)).item(), atol=1e-6)


def test_rcpo_reward_by_hand():
    model = tiny(RCPO, fixed_multiplier=3.0).learn(30)
    batch = batch_of(model)
    risk = model.safety_critic(batch.observations, batch.actions).detach()
    assert np.allclose(model._rewards(batch), batch.rewards - 3.0 * risk, atol=1e-6)


@pytest.mark.parametrize("cls", [SACLag, RCPO, SQRL])
@pytest.mark.parametrize(("eps_risk", "direction"), [(0.0, 1), (1.0, -1)])
def test_multiplier_rises_above_the_limit_and_falls_below(cls, eps_risk, direction):
    model = tiny(cls, eps_risk=eps_risk)
    start = model.multiplier.value
    model.learn(60)
    assert (model.multiplier.value - start) * direction > 0


def test_pid_multiplier_by_name():
    assert isinstance(tiny(SACLag, multiplier="pid").multiplier, PIDMultiplier)


def test_rspo_multiplier_falls_to_zero_at_the_end_of_learn():
    model = tiny(RSPO, multiplier_start=8.0)
    values = []
    model.learn(100, callback=lambda *_: values.append(model.multiplier.value) or True)
    assert values[0] == 8.0 and np.isclose(values[50], 4.0, atol=0.2) and model.multiplier.value == 0.0
    assert np.all(np.diff(values) <= 0)


def test_rspo_multiplier_falls_with_the_episodes():
    model = tiny(RSPO, multiplier_start=8.0, anneal_episodes=8).learn(41)
    assert np.isclose(model.multiplier.value, 4.0)


def test_risk_sensitive_multiplier_grows_with_the_updates():
    model = tiny(RiskSensitiveSAC, multiplier_end=8.0, anneal_updates=40).learn(30)
    assert model._n_updates == 10 and np.isclose(model.multiplier.value, 2.0)


def test_sqrl_penalty_gradient_is_stopped_where_asked():
    gradients = []
    for penalty_gradient in (True, False):
        model = tiny(SQRL, penalty_gradient=penalty_gradient).learn(30)
        batch = batch_of(model)
        actions = batch.actions.clone().requires_grad_(True)
        model._actor_loss(batch, actions, 0.0 * actions[:, :1]).backward()
        gradients.append(actions.grad.abs().sum().item())
    assert gradients[0] > 0.0 == gradients[1]


def test_recovery_actor_descends_the_risk():
    model = tiny(RecoveryRL).pretrain(recorded(500), steps=400)
    obs, actions = some_observations(300)
    assert model.risk(obs, model.recovery(obs)).mean() < model.risk(obs, actions).mean()
    # Far from the wall nothing is risky; at it, the recovery goes back and the random actions do not.
    near = obs[:, 0] > 0.8
    assert model.recovery(obs)[near, 0].mean() < actions[near, 0].mean()


def test_learning_without_pretraining_warns_once():
    model = tiny(RecoveryRL)
    with pytest.warns(UserWarning, match=r"call pretrain\(dataset\) first"):
        model.learn(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(2)
        tiny(RecoveryRL).pretrain(recorded(), steps=1).learn(2)
