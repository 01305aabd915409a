"""What users do that would be silently wrong: it is refused, or comes out right."""

import csv

import gymnasium as gym
import numpy as np
import pytest
from corridors import (
    HORIZON,
    QUIET,
    Corridor,
    GoalCorridor,
    pretrained,
    recorded,
    some_observations,
    tiny,
    vec,
)
from gymnasium.wrappers import RescaleAction, TimeLimit
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from safe_envs import collect_rollouts
from safe_wrappers import MissingCostError, RecoveryFilter, Transitions
from sb3_ext import (
    RSPO,
    SQRL,
    GymVecEnv,
    PPOLag,
    RecoveryRL,
    SACLag,
    SafeEvalCallback,
    SafeSAC,
    transitions_of,
)

pytestmark = pytest.mark.filterwarnings(QUIET)


def test_a_filter_of_a_model_without_its_normalisation_is_refused(tmp_path):
    model = tiny(RecoveryRL, vec(normalize=True)).learn(30)
    model.save(tmp_path / "model")
    obs, actions = some_observations(5)
    again = RecoveryRL.load(tmp_path / "model")
    for make in (
        again.as_filter,
        lambda: again.export_filter(tmp_path / "f"),
        lambda: RecoveryFilter.from_model(Corridor(), again),
    ):
        with pytest.raises(ValueError, match=r"learned with a VecNormalize .* VecNormalize.load"):
            make()
    with_statistics = RecoveryRL.load(tmp_path / "model", env=model.get_env())
    assert np.array_equal(with_statistics.as_filter().risk(obs, actions), model.as_filter().risk(obs, actions))


def braked(env):
    """An environment with a filter that always acts."""
    low = env.action_space.low
    return RecoveryFilter(
        env, lambda obs, action: np.ones(len(obs)), lambda obs: np.repeat(low[None], len(obs), 0), 0.5
    )


def test_executed_actions_in_other_units_than_the_agents_are_refused():
    between = RescaleAction(braked(Corridor()), np.float32(-0.5), np.float32(0.5))
    with pytest.raises(ValueError, match=r"of Box\(-0.5, 0.5, .* lies between a filter and the agent"):
        tiny(SafeSAC, between).learn(3)
    idle = RecoveryFilter(Corridor(), lambda obs, action: np.zeros(len(obs)), lambda obs: 0.0 * obs[:, :2], 0.5)
    wider = RescaleAction(idle, np.float32(-4.0), np.float32(4.0))  # what is executed is never beyond these bounds
    with pytest.raises(ValueError, match="lies between a filter and the agent"):
        tiny(SafeSAC, wider).learn(3)
    with pytest.raises(ValueError, match="lies between a filter and the agent"):
        collect_rollouts(wider, 3)
    inside = braked(RescaleAction(Corridor(), np.float32(-0.5), np.float32(0.5)))
    assert np.allclose(transitions_of(tiny(SafeSAC, inside).learn(3)).actions, -0.5)


def test_a_second_pretrain_leaves_the_scale_of_a_trained_critic():
    model = pretrained(RecoveryRL, scale_inputs=True)
    obs, actions = some_observations()
    before = model.risk(obs, actions)
    data = recorded(300, seed=4)
    near, following = data.observations * 0.1, data.next_observations * 0.1
    shifted = Transitions(near, data.actions, following, data.costs, data.violations, data.terminals)
    model.pretrain(shifted, steps=0)
    assert np.array_equal(model.risk(obs, actions), before)
    learned = tiny(RecoveryRL, scale_inputs=True).learn(40)
    before = learned.risk(obs, actions)
    assert np.array_equal(learned.pretrain(shifted, steps=0).risk(obs, actions), before)


@pytest.mark.parametrize(
    "cls, wrong, message",
    [
        (RecoveryRL, {"eps_risk": 30.0}, r"eps_risk must be in \[0, 1\], got 30"),
        (RecoveryRL, {"gamma_risk": 0.1}, "have learned with gamma_risk=0.8, got 0.1"),
        (SACLag, {"fixed_multiplier": 5.0}, r"load cannot change \['fixed_multiplier'\]"),
        (RSPO, {"multiplier_start": 5.0}, r"load cannot change \['multiplier_start'\]"),
        (SACLag, {"eps_rsik": 0.2}, r"load cannot change \['eps_rsik'\]"),
        (PPOLag, {"multiplier": "pid"}, r"load cannot change \['multiplier'\]"),
    ],
)
def test_load_changes_what_it_is_told_or_says_that_it_cannot(cls, wrong, message, tmp_path):
    model = PPOLag("MlpPolicy", vec(), n_steps=20, batch_size=20) if cls is PPOLag else tiny(cls)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        cls.load(tmp_path / "model", **wrong)
    same = {"gamma_risk": model.gamma_risk} if cls is not PPOLag else {}
    assert cls.load(tmp_path / "model", learning_rate=1e-5, device="cpu", **same).learning_rate == 1e-5


def test_sqrl_learns_from_offline_data_also_while_it_pretrains(monkeypatch):
    model = tiny(SQRL).pretrain(Corridor(), 60)
    assert model.safety_buffer is not None
    data = recorded(200)
    there = np.full_like(data.observations, -2.0)
    far = Transitions(there, data.actions, there, data.costs, data.violations, data.terminals)
    seen, update = [], model.safety_critic.update
    monkeypatch.setattr(
        model.safety_critic, "update", lambda batch, *rest: seen.append(batch.observations) or update(batch, *rest)
    )
    model.pretrain(far, 5)
    assert all((rows == -2.0).all(dim=1).any() for rows in seen) and len(seen) == 5


def test_templates_ask_for_costs_only_if_told_to():
    costless = vec(1, lambda: Corridor(with_cost=False))
    assert tiny(SafeSAC, costless).learn(3).num_timesteps == 3
    with pytest.raises(MissingCostError):
        tiny(SafeSAC, costless, missing_cost="raise").learn(3)
    assert tiny(SACLag, costless, missing_cost="zero").learn(3).num_timesteps == 3


class OtherGoals(GoalCorridor):
    """Its rewards are of another size."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal, desired_goal, info) - 100.0


def test_hindsight_asks_the_environment_that_it_is_in():
    model = tiny(SQRL, GoalCorridor(), replay_buffer_class=HerReplayBuffer, learning_starts=HORIZON + 1, n_off=10**6)
    model.pretrain(GoalCorridor(), 3 * HORIZON)
    updates = model._n_updates
    model.finetune(TimeLimit(OtherGoals(), HORIZON), 2 * HORIZON)
    assert model._n_updates > updates
    assert (model.replay_buffer.sample(200).rewards < -50.0).all()  # those of other goals are asked for, too


def test_statistics_follow_into_an_evaluation_of_other_wrappers():
    model = tiny(SACLag, VecNormalize(VecMonitor(vec())))
    eval_env = VecNormalize(DummyVecEnv([Corridor]), training=False)
    keep = SafeEvalCallback(eval_env, 1.0, eval_freq=20, n_eval_episodes=1)
    model.learn(20, callback=keep)
    assert len(keep.history) == 1 and np.array_equal(eval_env.obs_rms.mean, model.get_vec_normalize_env().obs_rms.mean)


def test_attributes_and_methods_reach_each_environment():
    same_step = {"vector_kwargs": {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}}
    env = GymVecEnv(gym.make_vec("Pendulum-v1", num_envs=3, vectorization_mode="sync", **same_step))
    env.set_attr("g", 5.0)
    assert env.get_attr("g") == [5.0, 5.0, 5.0]
    env.set_attr("g", 2.0, indices=1)
    assert env.get_attr("g") == [5.0, 2.0, 5.0]
    env.reset()
    assert [obs.shape for obs in env.env_method("_get_obs", indices=[0, 2])] == [(3,), (3,)]
    one = GymVecEnv(gym.make_vec("safe_envs:safe/Navigation1-v0", num_envs=2))
    with pytest.raises(ValueError, match="they are one object"):
        one.set_attr("anything", 1, indices=0)


def test_an_episode_that_ends_where_training_stops_counts_with_return_and_cost():
    model = PPOLag("MlpPolicy", VecMonitor(vec()), n_steps=2 * HORIZON, batch_size=HORIZON)
    model.learn(2 * HORIZON, callback=lambda local, _: local["self"].num_timesteps < HORIZON)
    assert len(model.ep_info_buffer) == len(model.ep_cost_buffer) == 1


def test_interventions_of_a_filter_among_the_wrappers_are_logged(tmp_path):
    model = tiny(SafeSAC, braked(Corridor()))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(2 * HORIZON, log_interval=1)
    with open(tmp_path / "progress.csv", newline="") as file:
        assert [row["safety/intervention_rate"] for row in csv.DictReader(file)] == ["1.0", "1.0"]
