"""Evaluation and callbacks: counts by hand on scripted agents."""

import csv

import numpy as np
import pytest
from corridors import HORIZON, QUIET, Corridor, assert_same_weights, pretrained, tiny, vec
from gymnasium.wrappers import TimeLimit
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from safe_wrappers import ActionMask, CostPenalty, RecoveryFilter
from safe_wrappers.info import MissingCostError
from sb3_ext import CostLoggingCallback, PPOLag, RecoveryRL, SACLag, SafeEvalCallback, evaluate_safely

pytestmark = pytest.mark.filterwarnings(QUIET)


class Straight:
    """Scripted agent: the same speed in every step; remembers how it was asked."""

    def __init__(self, *speeds):
        self.speeds, self.asked = speeds, []

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        self.asked.append((deterministic, episode_start.copy()))
        return np.array([[speed, 0.0] for speed in self.speeds], np.float32), None


def walk(speed, until=HORIZON):
    """Return, cost, violated, succeeded of one noise-free episode."""
    x = np.minimum(0.1 * speed * np.arange(1, until + 1), 2.0)
    beyond = x > 1.0 + 1e-6
    return x.sum(), (x - 0.5)[beyond].sum(), beyond.any(), 0.8 < x[-1] <= 1.0 + 1e-6


@pytest.mark.parametrize("speed", [3.0, 0.95, 0.5])
def test_counts_of_a_scripted_agent(speed):
    result = evaluate_safely(Straight(speed), Corridor(noise=0.0), 3)
    total, cost, violated, succeeded = walk(speed)
    assert len(result) == 3
    assert np.allclose(result.returns, total, atol=1e-4) and np.allclose(result.costs, cost, atol=1e-4)
    assert result.lengths.tolist() == [HORIZON] * 3
    assert result.violations.tolist() == [violated] * 3 and result.successes.tolist() == [succeeded] * 3
    assert result.interventions.tolist() == [0, 0, 0]


def test_summary_by_hand():
    result = evaluate_safely(Straight(3.0, 0.95), vec(2, noise=0.0), 4)
    fast, slow = walk(3.0), walk(0.95)
    summary = result.summary()
    assert np.isclose(summary["return"], (fast[0] + slow[0]) / 2, atol=1e-4)
    assert np.isclose(summary["cost"], fast[1] / 2, atol=1e-4) and summary["length"] == HORIZON
    assert (summary["violation_rate"], summary["success_rate"], summary["intervention_rate"]) == (0.5, 0.5, 0.0)


def test_environments_share_the_episodes_so_that_short_ones_do_not_count_more():
    env = vec(2, noise=0.0, ends_on_violation=True)  # the fast one ends after 4 steps, the slow one after 10
    result = evaluate_safely(Straight(3.0, 0.5), env, 5)
    assert sorted(result.lengths.tolist()) == [4, 4, 10, 10, 10]
    assert result.violation_rate == 0.4
    assert np.allclose(result.costs.sum(), 2 * walk(3.0, until=4)[1], atol=1e-4)


def test_rewards_under_vec_normalize_are_the_environments():
    env = VecNormalize(vec(2, noise=0.0))
    result = evaluate_safely(Straight(1.0, 1.0), env, 4)
    assert np.allclose(result.returns, walk(1.0)[0], atol=1e-4)


def test_interventions_of_a_wrapper_and_of_the_agent_are_counted():
    env = RecoveryFilter(
        Corridor(noise=0.0),
        lambda obs, action: (obs[:, 0] + 0.1 * action[:, 0] > 1.01).astype(float),
        lambda obs: np.zeros((len(obs), 2), np.float32),
        0.5,
    )
    result = evaluate_safely(Straight(3.0), env, 2)  # 0.3, 0.6, 0.9, and then it stands for seven steps
    assert result.interventions.tolist() == [7, 7] and result.intervention_rate == 0.7
    assert result.violation_rate == 0.0 and result.success_rate == 1.0

    model = pretrained(RecoveryRL)
    model.selector.limit = -1.0
    assert evaluate_safely(model, Corridor(), 2).intervention_rate == 1.0
    model.selector.limit = 2.0
    assert evaluate_safely(model, Corridor(), 2).intervention_rate == 0.0


def test_the_agent_is_asked_as_told():
    agent = Straight(1.0)
    evaluate_safely(agent, Corridor(), 2, deterministic=False)
    assert not any(deterministic for deterministic, _ in agent.asked)
    assert [starts.tolist() for _, starts in agent.asked] == ([[True]] + [[False]] * 9) * 2


def test_a_seed_repeats_the_evaluation_and_steps_can_be_seen():
    seen = []
    first, second, other = (
        evaluate_safely(Straight(1.0), Corridor(noise=0.1), 2, seed=seed, on_step=lambda *step: seen.append(step))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first.returns, second.returns) and not np.array_equal(first.returns, other.returns)
    obs, actions, dones, infos = seen[1]
    assert len(seen) == 60 and obs.shape == actions.shape == (1, 2) and not dones.any() and "cost" in infos[0]
    assert np.isclose(obs[0, 0], 0.1, atol=0.5) and seen[9][2].all()


def test_bad_evaluations():
    with pytest.raises(ValueError, match="n_eval_episodes must be >= 1, got 0"):
        evaluate_safely(Straight(1.0), Corridor(), 0)
    with pytest.raises(MissingCostError, match="CostFromFunction"):
        evaluate_safely(Straight(1.0), Corridor(with_cost=False), 1)
    assert evaluate_safely(Straight(1.0), Corridor(with_cost=False), 1, missing_cost="zero").costs.sum() == 0.0


# ---------------------------------------------------------------------- callbacks


class Speeds(BaseCallback):
    """Makes the model's policy a scripted one whose speed changes with every call."""

    def __init__(self, *speeds):
        super().__init__()
        self.speeds = speeds

    def _on_step(self):
        speed = self.speeds[min(self.n_calls, len(self.speeds)) - 1]
        self.model.policy.predict = lambda obs, *args, **kwargs: (np.full((len(obs), 2), [speed, 0.0]), None)
        return True


class Counting(BaseCallback):
    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at = stop_at

    def _on_step(self):
        return self.n_calls != self.stop_at


def kept_speed(speeds, cost_limit, folder=None):
    callback = SafeEvalCallback(vec(noise=0.0), cost_limit, n_eval_episodes=1, eval_freq=1, best_model_save_path=folder)
    tiny(SACLag, learning_starts=100).learn(len(speeds), callback=[Speeds(*speeds), callback])
    returns = [result.returns[0] for _, result in callback.history]
    assert np.allclose(returns, [walk(speed)[0] for speed in speeds], atol=1e-4)
    return speeds[int(np.argmin(abs(np.array(returns) - callback.best.returns[0])))]


@pytest.mark.parametrize(
    ("speeds", "cost_limit", "kept"),
    [
        ((0.5, 3.0, 0.9, 0.7), 0.0, 0.9),  # the best return among the safe ones
        ((0.5, 3.0, 1.2, 0.7), 1e9, 3.0),  # without a limit that matters: the best return
        ((3.0, 1.5, 2.0), 0.0, 1.5),  # none is safe: the least cost
        ((3.0, 0.1), 0.0, 0.1),  # a safe one replaces any unsafe one
    ],
)
def test_safe_eval_keeps_the_best_safe_model(speeds, cost_limit, kept):
    assert kept_speed(speeds, cost_limit) == kept


def test_safe_eval_writes_the_model_and_the_logs(tmp_path):
    model = tiny(SACLag)
    model.set_logger(configure(str(tmp_path / "logs"), ["csv"]))
    callback = SafeEvalCallback(
        Corridor(), 1e9, best_model_save_path=tmp_path / "best", log_path=tmp_path, eval_freq=15, n_eval_episodes=2
    )
    model.learn(35, callback=callback, log_interval=10**9)
    assert [steps for steps, _ in callback.history] == [15, 30]
    SACLag.load(tmp_path / "best" / "best_model.zip")
    with (tmp_path / "logs" / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {"return": "mean_reward", "length": "mean_ep_length", "cost": "mean_ep_cost"}
    for row, (steps, result) in zip(rows, callback.history, strict=True):
        assert int(row["time/total_timesteps"]) == steps
        for name, value in result.summary().items():
            assert float(row[f"eval/{logged.get(name, name)}"]) == pytest.approx(value, rel=1e-6)
    with np.load(tmp_path / "evaluations.npz") as kept:
        assert kept["timesteps"].tolist() == [15, 30]
        for name, field in {"results": "returns", "ep_costs": "costs", "ep_lengths": "lengths"}.items():
            assert np.array_equal(kept[name], [getattr(result, field) for _, result in callback.history])


def test_safe_eval_calls_back(capsys):
    new_best, after = Counting(), Counting(stop_at=3)
    callback = SafeEvalCallback(
        vec(noise=0.0), 0.0, n_eval_episodes=1, eval_freq=1, verbose=1,
        callback_on_new_best=new_best, callback_after_eval=after,
    )  # fmt: skip
    model = tiny(SACLag, learning_starts=100).learn(6, callback=[Speeds(0.5, 0.9, 0.7, 0.8), callback])
    assert (new_best.n_calls, after.n_calls) == (2, 3) and model.num_timesteps == 3
    assert capsys.readouterr().out.count("(limit 0)") == 3


def test_safe_eval_with_a_seed_sees_the_same_episodes_each_time():
    callback = SafeEvalCallback(vec(noise=0.3), 1e9, n_eval_episodes=2, eval_freq=1, seed=5)
    tiny(SACLag, learning_starts=100).learn(2, callback=[Speeds(0.5), callback])
    first, second = (result.returns for _, result in callback.history)
    assert np.array_equal(first, second) and first[0] != first[1]


def test_safe_eval_sees_observations_as_the_training_does():
    model = tiny(SACLag, vec(normalize=True))
    eval_env = vec(normalize=True)
    eval_env.training = False
    model.learn(30, callback=SafeEvalCallback(eval_env, 1.0, eval_freq=30, n_eval_episodes=1))
    assert np.array_equal(eval_env.obs_rms.mean, model.env.obs_rms.mean)


def test_safe_eval_refuses_raw_observations_for_a_model_of_normalised_ones():
    model = tiny(SACLag, vec(normalize=True))
    with pytest.raises(ValueError, match="VecNormalize"):
        model.learn(3, callback=SafeEvalCallback(Corridor(), 1.0, eval_freq=1))


def test_models_of_normalised_observations_are_not_evaluated_on_raw_ones():
    model = tiny(SACLag, vec(normalize=True))
    with pytest.raises(ValueError, match=r"VecNormalize.*raw observations"):
        evaluate_safely(model, Corridor(), 1)
    assert len(evaluate_safely(model, model.get_env(), 1)) == 1
    only_rewards = tiny(SACLag, VecNormalize(vec(), norm_obs=False))
    assert len(evaluate_safely(only_rewards, Corridor(), 1)) == 1


def test_safe_eval_takes_raw_observations_where_only_rewards_are_normalised():
    keep = SafeEvalCallback(Corridor(), 1.0, eval_freq=2, n_eval_episodes=1)
    tiny(SACLag, VecNormalize(vec(), norm_obs=False)).learn(2, callback=keep)
    assert len(keep.history) == 1


def test_masked_agents_are_evaluated_with_their_masks():
    def risk(obs, action):  # only the smallest step forward
        return (action[:, 0] != action[:, 0].min()).astype(float)

    actions = np.array([[1.0, 0.0], [0.5, 0.0], [2.0, 0.0]], np.float32)
    env = ActionMask(Corridor(noise=0.0), risk, eps_risk=0.5, actions=actions)
    model = MaskablePPO("MlpPolicy", env, n_steps=20, batch_size=20, seed=0)
    taken = []
    evaluate_safely(model, env, 1, deterministic=False, on_step=lambda obs, chosen, *_: taken.extend(chosen))
    assert taken == [1] * HORIZON


def test_a_model_that_is_loaded_without_its_environment_still_knows_of_normalised_observations(tmp_path):
    model = tiny(SACLag, vec(normalize=True))
    model.save(tmp_path / "model")
    loaded = SACLag.load(tmp_path / "model")
    with pytest.raises(ValueError, match=r"VecNormalize.*raw observations"):
        evaluate_safely(loaded, Corridor(), 1)
    assert len(evaluate_safely(loaded, model.get_env(), 1)) == 1
    loaded.save(tmp_path / "again")
    with pytest.raises(ValueError, match="raw observations"):
        evaluate_safely(SACLag.load(tmp_path / "again"), Corridor(), 1)
    raw = SACLag.load(tmp_path / "model")
    raw.set_env(Corridor())
    raw.save(tmp_path / "raw")
    assert len(evaluate_safely(SACLag.load(tmp_path / "raw"), Corridor(), 1)) == 1


@pytest.mark.parametrize("normalize", [False, True])
def test_returns_are_those_before_a_penalty(normalize):
    penalised = vec(1, lambda: CostPenalty(Corridor(noise=0.0), 10.0), normalize)
    result, plain = (evaluate_safely(Straight(3.0), env, 1) for env in (penalised, vec(noise=0.0)))
    assert plain.costs[0] > 0 and np.isclose(result.returns[0], plain.returns[0], atol=1e-5)


SHARED = {
    "the environment": lambda env, model: env,
    "the VecEnv": lambda env, model: model.get_env(),
    "a wrapper of it": lambda env, model: VecNormalize(model.get_env()),
    "another VecEnv": lambda env, model: DummyVecEnv([lambda: TimeLimit(env, 5)]),
}


@pytest.mark.parametrize("shared", SHARED)
def test_safe_eval_refuses_the_training_environment(shared):
    env = Corridor()
    model = tiny(SACLag, env)
    with pytest.raises(ValueError, match="is the training environment"):
        model.learn(25, callback=SafeEvalCallback(SHARED[shared](env, model), 1.0, eval_freq=5))


@pytest.mark.parametrize("shared", SHARED)
def test_between_calls_of_learn_the_training_environment_may_be_evaluated_on(shared):
    env = Corridor(noise=0.0)
    model = tiny(SACLag, env).learn(25)
    evaluate_safely(model, SHARED[shared](env, model), 1)
    model.learn(5, reset_num_timesteps=False)
    first = model.replay_buffer.observations[25, 0]
    assert np.array_equal(first, [0.0, 1.0])  # of a new episode, not the middle of the old one


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"eval_freq": 0}, "eval_freq"), ({"n_eval_episodes": 0}, "n_eval_episodes"), ({"cost_limit": -1}, "cost_limit")],
)
def test_bad_safe_eval_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SafeEvalCallback(Corridor(), **{"cost_limit": 1.0, **kwargs})


def test_deterministic_evaluation_does_not_change_the_training():
    plain = tiny(SACLag, vec(noise=0.0)).learn(50)
    callback = SafeEvalCallback(vec(noise=0.0), 1.0, eval_freq=10, n_eval_episodes=1)
    watched = tiny(SACLag, vec(noise=0.0)).learn(50, callback=callback)
    assert_same_weights(plain, watched)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_costs_of_plain_ppo_are_logged(n_envs, tmp_path):
    model = PPO("MlpPolicy", vec(n_envs, noise=0.0), n_steps=20, batch_size=20, policy_kwargs={"net_arch": [8]}, seed=0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callback, expected = CostLoggingCallback(window=1000), []

    def add(local, _):
        expected.extend(info["cost"] for info in local["infos"])
        return True

    class Both(BaseCallback):
        def _on_step(self):
            return add(self.locals, None)

    model.learn(60 * n_envs, callback=[callback, Both()])
    assert callback.n_episodes == 6 * n_envs == len(callback.episode_costs)
    assert np.isclose(sum(callback.episode_costs), sum(expected), atol=1e-6)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    assert "rollout/ep_cost_mean" in header and "safety/violating_episodes" in header


def test_interventions_of_a_filter_around_plain_ppo_are_logged(tmp_path):
    env = RecoveryFilter(Corridor(noise=0.0), lambda obs, a: (a[:, 0] > 0.0) * 1.0, lambda obs: 0.0 * obs, 0.5)
    model = PPO("MlpPolicy", env, n_steps=40, batch_size=20, policy_kwargs={"net_arch": [8]}, seed=0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    intervened = []

    class Count(BaseCallback):
        def _on_step(self):
            intervened.append(self.locals["infos"][0]["intervened"])
            return True

    model.learn(40, callback=[CostLoggingCallback(), Count()])
    with (tmp_path / "progress.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["safety/intervention_rate"]) == pytest.approx(np.mean(intervened)) and 0 < sum(intervened) < 40


@pytest.mark.parametrize("cls", [RecoveryRL, SACLag, PPOLag])
def test_learning_anew_counts_anew(cls):
    kwargs = {"n_steps": 10, "batch_size": 10} if cls is PPOLag else {"learning_starts": 20}
    model = cls("MlpPolicy", Corridor(), stats_window_size=2, seed=0, device="cpu", **kwargs).learn(40)
    assert model.n_episodes == 4 and len(model.ep_cost_buffer) == 2
    model.learn(20)
    assert model.n_episodes == 2 and getattr(model, "n_interventions", 0) <= 20
    model.learn(20, reset_num_timesteps=False)
    assert model.n_episodes == 4


@pytest.mark.parametrize("cls", [SACLag, SAC])
def test_costs_of_an_episode_are_counted_across_calls_of_learn(cls):
    model, costs = tiny(cls, Corridor(noise=0.0), learning_starts=0), CostLoggingCallback()
    model.policy.predict = lambda obs, *args, **kwargs: (np.array([[3.0, 0.0]], np.float32), None)
    for steps in (6, 4):  # the first six steps of an episode, and its other four
        model.learn(steps, callback=costs, reset_num_timesteps=False)
    assert (costs.n_episodes, costs.n_violating_episodes) == (1, 1)
    assert np.allclose(costs.episode_costs, walk(3.0)[1], atol=1e-4)


def test_costs_of_abandoned_episodes_are_not_added_to_others():
    model, costs = tiny(SAC, Corridor(noise=0.0), learning_starts=0), CostLoggingCallback()
    model.policy.predict = lambda obs, *args, **kwargs: (np.array([[3.0, 0.0]], np.float32), None)
    model.learn(6, callback=costs)
    model.learn(16, callback=costs)  # reset_num_timesteps=True starts a new episode
    evaluate_safely(Straight(3.0), model.get_env(), 1)
    model.set_env(model.get_env())  # so does this
    model.learn(16, callback=costs, reset_num_timesteps=False)
    assert np.allclose(costs.episode_costs, [walk(3.0)[1]] * 2, atol=1e-4)


def test_cost_logging_needs_costs():
    model = PPO("MlpPolicy", Corridor(with_cost=False), n_steps=8, batch_size=8)
    with pytest.raises(MissingCostError):
        model.learn(8, callback=CostLoggingCallback())
    model.learn(8, callback=CostLoggingCallback(missing_cost="zero"))
