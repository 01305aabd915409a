"""PPO and TRPO with costs: equal to SB3's while no limit matters, run anywhere, come back, refuse bad input."""

import pickle

import numpy as np
import pytest
import torch as th
from corridors import assert_same_weights, differing, weights
from on_policy import (
    ON_POLICY,
    PRICED,
    SETTINGS,
    BrokenCost,
    Corridor,
    DictCorridor,
    ImageCorridor,
    TermsCorridor,
    TwinCorridor,
    tiny,
    vec,
)
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.logger import configure
from test_checkpoints import assert_equal_runs, go

from safe_wrappers import CostFromFunction
from safe_wrappers.info import MissingCostError
from sb3_ext import CPO, PPOPID, TRPOPID, PPOLag, SafeEvalCallback, TRPOLag, evaluate_safely
from sb3_ext.common.cost_rollout import CostRolloutBuffer

every_class = pytest.mark.parametrize("cls", ON_POLICY)
INERT = 1e9
SEARCH = "train/is_line_search_success"
BASES = {PPOLag: PPO, PPOPID: PPO, TRPOLag: TRPO, TRPOPID: TRPO, CPO: TRPO}
GSDE = {"use_sde": True, "sde_sample_freq": 4}


def shared(model, plain):
    """The weights of ``model`` that ``plain`` has, too."""
    own, other = weights(model), weights(plain)
    return {name: own[name] for name in other}, other


# ---------------------------------------------------------------------- equal to SB3


@pytest.mark.parametrize("cls", PRICED)
@pytest.mark.parametrize("setting", SETTINGS)
def test_inert_limit_equals_sb3_bit_for_bit(cls, setting):
    env = {"noise": 0.3, **SETTINGS[setting]}  # enough noise that costs do occur
    model = tiny(cls, vec(**env), cost_limit=INERT).learn(480)
    plain = tiny(BASES[cls], vec(**env)).learn(480)
    assert differing(*shared(model, plain)) == [] and model.n_violating_episodes > 0
    assert [price.value for price in model.multipliers.values()] == [0.0]


@pytest.mark.parametrize("cls", [PPOLag, TRPOLag])
@pytest.mark.parametrize("kwargs", [GSDE, {"normalize_advantage": False}, {"learning_rate": lambda left: 1e-3 * left}])
def test_inert_limit_equals_sb3_with_options(cls, kwargs):
    model = tiny(cls, vec(2, noise=0.3), cost_limit=INERT, **kwargs).learn(240)
    assert differing(*shared(model, tiny(BASES[cls], vec(2, noise=0.3), **kwargs).learn(240))) == []


@pytest.mark.parametrize("cost_free", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_cpo_takes_trpos_step_where_no_limit_matters(setting, cost_free):
    """Either no cost is ever paid, whatever the limit, or the limit is out of reach."""
    env = SETTINGS[setting] | ({"with_cost": False} if cost_free else {"noise": 0.3})
    ours = dict(missing_cost="zero", cost_limit=0.0) if cost_free else dict(cost_limit=INERT)
    steps = 40 * SETTINGS[setting].get("n_envs", 1)
    model, plain = tiny(CPO, vec(**env), **ours).learn(steps), tiny(TRPO, vec(**env)).learn(steps)
    assert differing(*shared(model, plain), tolerance=1e-5) == []
    assert model.last_step.feasible and model.last_step.active == ()


@pytest.mark.parametrize("kwargs", [GSDE, {"normalize_advantage": False}, {"sub_sampling_factor": 3}])
def test_cpo_takes_trpos_step_with_options(kwargs):
    model = tiny(CPO, vec(noise=0.3), cost_limit=INERT, **kwargs).learn(40)
    assert differing(*shared(model, tiny(TRPO, vec(noise=0.3), **kwargs).learn(40)), tolerance=1e-5) == []


def test_cpo_takes_trpos_step_where_it_cannot_help():
    """Every step costs 1, and only the next one counts: there is nothing to learn about costs."""
    env = dict(kind=BrokenCost, value=1.0)
    model, plain = tiny(CPO, vec(**env), cost_limit=0.0, cost_gamma=0.0).learn(40), tiny(TRPO, vec(**env)).learn(40)
    assert differing(*shared(model, plain), tolerance=1e-5) == []
    assert not model.last_step.feasible and model.last_step.helpless == (0,)


def test_cpo_takes_the_same_limit_twice_for_one():
    """Two limits on one cost differ by rounding only, of which no step may be made."""
    searches = []
    discounts = dict(gamma=0.95, cost_gamma=0.95)
    model = tiny(CPO, vec(4, TwinCorridor), cost_limit={"cost": 0.5, "cost_twin": 0.5}, n_steps=100, **discounts)
    model.learn(6_000, callback=lambda *_: searches.append(model.logger.name_to_value.get(SEARCH, 1.0)) or True)
    assert min(searches) == 1.0 and model.last_step.feasible


@every_class
def test_random_streams_are_left_where_sb3_leaves_them(cls):
    draws = []
    for each, kwargs in ((cls, {"cost_limit": INERT}), (BASES[cls], {})):
        tiny(each, vec(noise=0.3), **kwargs).learn(80)
        draws.append((th.rand(1).item(), np.random.rand()))
    assert draws[0] == draws[1]


@every_class
def test_cost_critic_is_not_among_the_policys_parameters(cls):
    model = tiny(cls, vec(noise=0.3)).learn(80)
    policy = {id(p) for p in model.policy.parameters()}
    assert policy.isdisjoint(id(p) for p in model.cost_critic.parameters())


# ---------------------------------------------------------------------- running


@every_class
@pytest.mark.parametrize("setting", SETTINGS)
def test_learns_in(cls, setting):
    env = vec(**{"noise": 0.3, **SETTINGS[setting]})
    model = tiny(cls, env, cost_limit=0.01)
    before = weights(model)
    model.learn(480)
    after = weights(model)
    names = differing(before, {name: after[name] for name in before})
    assert all(any(name.startswith(part) for name in names) for part in (".policy.", ".cost_critic."))
    assert all(np.all(np.isfinite(value)) for value in after.values())
    action, _ = model.predict(env.reset(), deterministic=True)
    assert len(action) == model.n_envs


@every_class
def test_learns_from_images(cls):
    kwargs = dict(n_steps=16, batch_size=8, policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}})
    model = cls("CnnPolicy", ImageCorridor(noise=0.5), cost_limit=0.01, seed=0, **kwargs)
    extractor = [weight.clone() for weight in model.cost_critic.features.parameters()]
    model.learn(32)
    assert any(not th.equal(a, b) for a, b in zip(extractor, model.cost_critic.features.parameters(), strict=True))


@every_class
@pytest.mark.parametrize("net_arch", [[], {"pi": [8]}, {"vf": [8]}])
def test_learns_with_few_layers(cls, net_arch):
    tiny(cls, vec(noise=0.3), policy_kwargs={"net_arch": net_arch}).learn(40)


@every_class
def test_gpus_that_the_model_is_not_on_are_left_alone(cls, monkeypatch):
    monkeypatch.setattr(th.cuda, "device_count", lambda: 2)  # asked for their random state they would say that none is
    tiny(cls, vec(noise=0.3)).learn(80)


@pytest.mark.parametrize("cls", [PPOLag, CPO])
def test_gsde_with_a_limit_that_matters(cls):
    model = tiny(cls, vec(2, noise=0.3), cost_limit=0.0, **GSDE).learn(240)
    assert all(np.all(np.isfinite(value)) for value in weights(model).values())


@every_class
def test_callbacks_and_logs(cls, tmp_path):
    calls = []
    model = tiny(cls, vec(noise=0.3), cost_limit=0.0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(160, callback=lambda *_: calls.append(1) or True)
    assert len(calls) == 160
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    for key in (
        "rollout/ep_cost_mean", "safety/violating_episodes", "safety/multiplier", "safety/ep_cost",
        "safety/cost_critic_loss", "safety/infeasible", "safety/share_within_limits", "train/value_loss",
    ):  # fmt: skip
        assert key in header


@every_class
def test_several_limits_are_logged_by_their_names(cls, tmp_path):
    model = tiny(cls, vec(2, TermsCorridor, noise=0.3), cost_limit={"cost_depth": 0.1, "cost_presence": 0.01})
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(240)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    assert "safety/multiplier/cost_depth" in header and "safety/ep_cost/cost_presence" in header


@every_class
def test_a_limit_that_cannot_be_met_is_logged_and_training_goes_on(cls):
    """Every step costs 1, whatever the agent does."""
    model = tiny(cls, vec(kind=BrokenCost, value=1.0), cost_limit=0.0)
    logs = []
    model.learn(200, callback=lambda *_: logs.append(model.logger.name_to_value.get("safety/infeasible")) or True)
    assert model.num_timesteps == 200 and model.logger.name_to_value["safety/infeasible"] == 1.0
    assert all(np.all(np.isfinite(value)) for value in weights(model).values())


@every_class
def test_evaluation_and_its_callback(cls):
    keep = SafeEvalCallback(Corridor(), 0.5, eval_freq=40, n_eval_episodes=2)
    model = tiny(cls).learn(80, callback=keep)
    assert len(keep.history) == 2 and len(evaluate_safely(model, model.get_env(), 3)) == 3


def test_unfinished_episodes_are_not_added_to_the_next_learn():
    model = tiny(PPOLag, vec(horizon=30, noise=0.3)).learn(40)
    assert model._costs.running_length == 10
    model.learn(40)
    assert model._costs.running_length == 10 and model.n_episodes == 1  # counted anew


@every_class
def test_a_callback_that_stops_at_the_end_of_an_episode_splits_none(cls):
    """Ten steps at a cost of 1 each."""
    model = tiny(cls, vec(kind=BrokenCost, value=1.0)).learn(100, callback=StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == 10 and list(model.ep_cost_buffer) == [10.0]
    assert set(model.learn(40, reset_num_timesteps=False).ep_cost_buffer) == {10.0}


# ---------------------------------------------------------------------- coming back


@every_class
def test_the_same_seed_gives_the_same_weights(cls):
    first, second, other = (tiny(cls, vec(2, noise=0.3), seed=seed).learn(160) for seed in (0, 0, 1))
    assert_same_weights(first, second)
    assert differing(weights(first), weights(other))


@every_class
@pytest.mark.parametrize("setting", ["Box", "VecNormalize, Dict", "Discrete"])
def test_everything_comes_back_from_a_file_and_learns_on(cls, setting, tmp_path):
    env = {"noise": 0.3, **SETTINGS[setting]}
    model = tiny(cls, vec(**env), cost_limit=0.01).learn(240)
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model.zip", env=vec(**env))
    assert_same_weights(model, again)
    assert {"cost_critic", "cost_critic.optimizer"} <= set(again.get_parameters())
    assert np.array_equal(again.episode_cost, model.episode_cost) and again.cost_limits == {"cost": 0.01}
    assert again.cost_rng.bit_generator.state == model.cost_rng.bit_generator.state
    obs = model.env.reset()
    assert np.array_equal(model.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    again.learn(240, reset_num_timesteps=False)
    assert again.num_timesteps == 480


@pytest.mark.parametrize("cls", [PPOLag, PPOPID])
def test_multipliers_come_back_with_their_state(cls, tmp_path):
    limits = {"cost_depth": 0.01, "cost_presence": 0.01}
    model = tiny(cls, vec(kind=TermsCorridor, noise=0.3), cost_limit=limits).learn(200)
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model", env=TermsCorridor())
    for name, price in model.multipliers.items():
        assert again.multipliers[name].value == price.value > 0
        price.update(0.3), again.multipliers[name].update(0.3)
        assert again.multipliers[name].value == price.value


@every_class
def test_another_limit_for_a_saved_model(cls, tmp_path):
    limits = {"cost_depth": 1.0, "cost_presence": 1.0}
    tiny(cls, vec(kind=TermsCorridor), cost_limit=limits).save(tmp_path / "model")
    again = cls.load(tmp_path / "model", cost_limit=limits | {"cost_depth": 0.5})
    assert again.cost_limit == {"cost_depth": 0.5, "cost_presence": 1.0}
    with pytest.raises(ValueError, match=r"must be on \['cost_depth', 'cost_presence'\] as before, got \['cost'\]"):
        cls.load(tmp_path / "model", cost_limit=3.0)


@every_class
def test_another_limit_for_a_living_model(cls):
    model = tiny(cls, vec(), cost_limit=1.0)
    model.cost_limit = 0.25
    assert model.cost_limit == 0.25 and model._limits == [0.25]
    with pytest.raises(ValueError, match="finite and >= 0, got -1"):
        model.cost_limit = -1
    assert model.cost_limit == 0.25
    terms = tiny(cls, vec(kind=TermsCorridor), cost_limit={"cost_depth": 1.0, "cost_presence": 2.0})
    terms.cost_limit = {"cost_presence": 3.0, "cost_depth": 4.0}
    assert list(terms._limits) == [4.0, 3.0]


@every_class
@pytest.mark.parametrize(
    "env", [{"horizon": 7}, {"n_envs": 3, "normalize": True, "horizon": 61}, {"kind": DictCorridor, "n_envs": 2}]
)
def test_interrupted_run_equals_uninterrupted_one(cls, env, tmp_path):
    env = {"noise": 0.3, **env}
    half = 80 * env.get("n_envs", 1)  # whole rollouts; with these horizons episodes run on over the checkpoint
    uninterrupted = go(tiny(cls, vec(**env), cost_limit=0.05), 2 * half)
    go(tiny(cls, vec(**env), cost_limit=0.05), half).save_checkpoint(tmp_path)
    np.random.seed(5)
    continued = go(cls.load_checkpoint(tmp_path), half)
    assert_equal_runs(uninterrupted, continued)
    assert np.array_equal(uninterrupted._costs.running, continued._costs.running)
    assert np.array_equal(uninterrupted.episode_cost, continued.episode_cost)


class SaveBetweenRollouts(BaseCallback):
    def __init__(self, steps, folder):
        super().__init__()
        self.steps, self.folder = steps, folder

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps == self.steps:
            self.model.save_checkpoint(self.folder)


@every_class
def test_checkpoints_of_a_callback_are_continued_exactly(cls, tmp_path):
    uninterrupted = tiny(cls, vec(noise=0.3), cost_limit=0.05).learn(160, callback=SaveBetweenRollouts(80, tmp_path))
    continued = cls.load_checkpoint(tmp_path).learn(80, reset_num_timesteps=False)
    assert uninterrupted.num_timesteps == continued.num_timesteps
    assert_same_weights(uninterrupted, continued)


@every_class
def test_pickled_copies_go_on_alike(cls):
    model = go(tiny(cls, vec(2, noise=0.3)), 160)
    copies = [pickle.loads(pickle.dumps(model)) for _ in range(2)]
    for copy in copies:
        th.manual_seed(3), np.random.seed(3)
        go(copy, 160)
    assert_same_weights(*copies)
    assert differing(weights(model), weights(copies[0]))


@pytest.mark.parametrize("cls", [PPOLag, CPO])
def test_a_model_of_another_class_or_a_broken_file_is_refused(cls, tmp_path):
    path = tmp_path / "model.zip"
    tiny(TRPOLag).save(path)
    with pytest.raises(ValueError, match=r"model\.zip cannot be read"):
        cls.load(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.zip cannot be read"):
        TRPOLag.load(path)


# ---------------------------------------------------------------------- refusing


@every_class
def test_missing_cost_raises_with_the_remedy_or_counts_as_zero(cls):
    with pytest.raises(MissingCostError, match=r"safe_wrappers\.CostFromFunction"):
        tiny(cls, Corridor(with_cost=False)).learn(5)
    assert set(tiny(cls, Corridor(with_cost=False), missing_cost="zero").learn(40).ep_cost_buffer) == {0.0}
    tiny(cls, CostFromFunction(Corridor(with_cost=False), lambda *transition: 1.0)).learn(40)


@every_class
@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "finite and >= 0, got -1.0"), (float("nan"), "got nan"), ("high", "must be a number")]
)
def test_costs_that_are_none_raise(cls, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(cls, BrokenCost(value)).learn(5)


@pytest.mark.parametrize("missing_cost", ["raise", "zero"])
@every_class
def test_unknown_limit_names_list_the_known_ones(cls, missing_cost):
    model = tiny(cls, TermsCorridor(), cost_limit={"cost_lava": 1.0}, missing_cost=missing_cost)
    with pytest.raises(MissingCostError, match=r"no 'cost_lava'.*\['cost', 'cost_depth', 'cost_presence'\]"):
        model.learn(5)


@every_class
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cost_limit": -1.0}, r"cost_limit must be finite and >= 0, got -1.0"),
        ({"cost_limit": float("nan")}, "cost_limit must be finite"),
        ({"cost_limit": {}}, "at least one cost"),
        ({"cost_limit": {"hazards": 1.0}}, "must name costs, 'cost' or 'cost_<term>', got 'hazards'"),
        ({"cost_limit": {1: 5}}, "must name costs, .* got 1"),
        ({"cost_limit": {"cost_a.b": 5}}, "must name costs, .* got 'cost_a.b'"),
        ({"cost_limit": "25"}, "must be finite and >= 0, got 25"),
        ({"cost_limit": None}, "must be finite and >= 0, got None"),
        ({"cost_gamma": 1.5}, r"cost_gamma must be in \[0, 1\], got 1.5"),
        ({"cost_gae_lambda": -0.1}, "cost_gae_lambda must be"),
        ({"missing_cost": "ignore"}, "missing_cost must be 'raise' or 'zero'"),
        ({"cost_critic_kwargs": {"width": 3}}, "cost_critic_kwargs do not fit"),
        ({"cost_critic_kwargs": {"n_epochs": 0}}, "n_epochs and batch_size"),
    ],
)
def test_bad_arguments(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(cls, **kwargs)


def test_bad_arguments_of_one_class():
    with pytest.raises(ValueError, match="multiplier must be one of"):
        tiny(PPOLag, multiplier="cubic")
    with pytest.raises(ValueError, match="at most 8 limits"):
        tiny(CPO, cost_limit={f"cost_{i}": 1.0 for i in range(9)})
    with pytest.raises(ValueError, match="CostRolloutStorage"):
        tiny(CPO, rollout_buffer_class=A2C("MlpPolicy", Corridor()).rollout_buffer.__class__)
    tiny(CPO, rollout_buffer_class=CostRolloutBuffer)


# ---------------------------------------------------------------------- each class's own


def test_priced_advantages_by_hand():
    for normalize in (False, True):
        limits = {"cost_depth": 1.0, "cost_presence": 1.0}
        model = tiny(PPOLag, TermsCorridor(), normalize_advantage=normalize, cost_limit=limits)
        for price in model.multipliers.values():
            price.raw.data.fill_(2.0)
        rewards, costs = np.array([[1.0], [3.0]]), np.array([[[1.0, 0.0]], [[0.0, 4.0]]])
        model.rollout_buffer.advantages = rewards
        model._price(costs)
        # Standardised rewards are -1 and 1; centred costs +-0.5 and -+2; each multiplier is 2.
        expected = [-1.0 - 2.0 * (0.5 - 2.0), 1.0 - 2.0 * (-0.5 + 2.0)] if normalize else [1.0 - 2.0, 3.0 - 8.0]
        assert np.allclose(model.rollout_buffer.advantages.ravel(), np.array(expected) / 5.0, atol=1e-6)


@pytest.mark.parametrize(("cls", "base"), [(PPOLag, PPO), (TRPOLag, TRPO)])
@pytest.mark.parametrize("normalize", [True, False])
def test_minibatches_are_standardised_only_while_nothing_has_a_price(cls, base, normalize, monkeypatch):
    model = tiny(cls, multiplier="fixed", normalize_advantage=normalize).learn(20)
    seen, train = [], base.train

    def watched(self):
        seen.append(self.normalize_advantage)
        train(self)

    monkeypatch.setattr(base, "train", watched)
    model.multipliers["cost"].get_buffer("initial").fill_(0.0)
    model.learn(20)
    model.multipliers["cost"].get_buffer("initial").fill_(3.0)
    model.learn(20)
    assert (seen[0], seen[-1], model.normalize_advantage) == (normalize, False, normalize)


@pytest.mark.parametrize(
    ("kwargs", "priced", "free"),
    [({}, 0.02, None), ({"priced_target_kl": None}, None, None), ({"target_kl": 0.5}, 0.5, 0.5)],
)
def test_updates_end_early_while_something_has_a_price(kwargs, priced, free, monkeypatch):
    seen, train = [], PPO.train

    def watched(self):
        seen.append(self.target_kl)
        train(self)

    monkeypatch.setattr(PPO, "train", watched)
    for value, expected in ((0.0, free), (3.0, priced)):
        model = tiny(PPOLag, multiplier="fixed", multiplier_kwargs={"value": value}, **kwargs).learn(40)
        assert seen[-1] == expected and model.target_kl == free
    steps = [tiny(PPOLag, multiplier="fixed", multiplier_kwargs={"value": 3.0}, learning_rate=0.05, **k).learn(200)
             for k in ({}, {"priced_target_kl": None})]  # fmt: skip
    moves = [model.logger.name_to_value["train/approx_kl"] for model in steps]
    assert moves[0] < moves[1]


def test_a_bad_target_for_the_divergence():
    with pytest.raises(ValueError, match="priced_target_kl must be > 0 or None, got 0"):
        tiny(PPOLag, priced_target_kl=0.0)


def test_reward_value_function_is_not_priced():
    model = tiny(PPOLag, vec(noise=0.3), multiplier="fixed", multiplier_kwargs={"value": 5.0}).learn(40)
    plain = tiny(PPO, vec(noise=0.3)).learn(40)
    assert np.array_equal(model.rollout_buffer.returns, plain.rollout_buffer.returns)
    assert not np.allclose(model.rollout_buffer.advantages, plain.rollout_buffer.advantages)


def test_cost_critic_learns_what_is_to_come():
    """Every step costs 1 in episodes that never end: 1 / (1 - 0.5)."""
    env = vec(kind=BrokenCost, value=1.0, horizon=10_000)
    model = tiny(PPOLag, env, cost_gamma=0.5, cost_critic_kwargs={"learning_rate": 1e-2}).learn(2000)
    assert np.allclose(model.cost_critic.predict(env.reset()), 2.0, atol=0.1)
