"""Cost buffers: what they store, in which units, what they sample, and how they are pickled."""

import pickle

import numpy as np
import pytest
import torch as th
from corridors import (
    HIGH,
    LOW,
    Corridor,
    DictCorridor,
    GoalCorridor,
    buffer_rows,
    differing,
    pretrained,
    recorded,
    tiny,
    vec,
)
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from safe_wrappers.info import COST, EXECUTED_ACTION, VIOLATION, MissingCostError
from sb3_ext import (
    CostDictReplayBuffer,
    CostHerReplayBuffer,
    CostReplayBuffer,
    RecoveryRL,
    SACLag,
    SafeSAC,
    evaluate_safely,
    transitions_of,
)
from sb3_ext.common.buffers import offline_buffer, sample_union, scale_action, unscale_action

BOX, ACTIONS = Corridor.observation_space, spaces.Box(LOW, HIGH)
MIDDLE = (LOW + HIGH) / 2


def buffer(size=10, n_envs=1, kind=CostReplayBuffer, space=BOX, **kwargs):
    return kind(size, space, ACTIONS, device="cpu", n_envs=n_envs, **kwargs)


def observe(value, space=BOX):
    if isinstance(space, spaces.Dict):
        return {key: np.full((1, 1), value, np.float32) for key in space.spaces}
    return np.full((1, 2), value, np.float32)


def put(target, i=0, info=None, done=False, proposed=(0.0, 0.0), space=BOX):
    """Add one transition whose observation and reward are ``i``."""
    info = {COST: float(i), VIOLATION: i % 2 == 1} if info is None else info
    arrays = np.array([proposed], np.float32), np.array([float(i)]), np.array([done])
    target.add(observe(i, space), observe(i + 1, space), *arrays, [info])


def test_scaling_by_hand():
    assert scale_action(LOW, ACTIONS).tolist() == [-1.0, -1.0] and scale_action(HIGH, ACTIONS).tolist() == [1.0, 1.0]
    assert scale_action(np.array([[0.5, 2.5]]), ACTIONS).tolist() == [[0.0, -0.5]]
    assert unscale_action(np.array([[0.0, -0.5]]), ACTIONS).tolist() == [[0.5, 2.5]]


def test_every_column_of_a_sample_belongs_to_the_same_transition():
    ours = buffer(kind=CostReplayBuffer)
    for i in range(6):
        put(ours, i, proposed=(i / 10, -i / 10))
    batch = ours.sample(200)
    i = batch.rewards.squeeze(1)
    assert set(i.tolist()) == set(range(6))
    assert th.equal(batch.costs.squeeze(1), i) and th.equal(batch.violations.squeeze(1), i % 2)
    assert th.equal(batch.observations[:, 0], i) and th.equal(batch.next_observations[:, 0], i + 1)
    assert th.allclose(batch.actions, th.stack([i, -i], 1) / 10) and th.equal(batch.executed_actions, batch.actions)


def test_columns_of_several_environments_stay_together():
    ours = buffer(size=30, n_envs=3)
    for t in range(4):
        i = np.array([10 * t, 10 * t + 1, 10 * t + 2])
        obs = np.repeat(i[:, None], 2, axis=1).astype(np.float32)
        infos = [{COST: float(j), EXECUTED_ACTION: MIDDLE + j / 100} for j in i]
        ours.add(obs, obs, np.zeros((3, 2)), i.astype(float), np.zeros(3, bool), infos)
    batch = ours.sample(300)
    i = batch.rewards
    assert len(set(i.flatten().tolist())) == 12
    assert th.equal(batch.costs, i) and th.equal(batch.observations[:, :1], i)
    # One unit of the first action is 2 / 5 of the scaled range, one of the second 2 / 10.
    assert th.allclose(batch.executed_actions, i / 100 * th.tensor([0.4, 0.2]), atol=1e-6)


@pytest.mark.parametrize(("executed", "scaled"), [(LOW, [-1, -1]), (HIGH, [1, 1]), ((0.5, 2.5), [0.0, -0.5])])
def test_executed_action_is_read_in_environment_units(executed, scaled):
    ours = buffer()
    put(ours, info={COST: 0.0, EXECUTED_ACTION: np.array(executed)}, proposed=(0.7, 0.7))
    batch = ours.sample(1)
    assert batch.executed_actions.tolist() == [scaled] and batch.actions.tolist() == [[np.float32(0.7)] * 2]


def test_missing_cost_raises_with_the_remedy_and_stores_nothing():
    ours = buffer()
    with pytest.raises(MissingCostError, match=r"CostFromFunction.*missing_cost='zero'"):
        put(ours, info={"other": 1})
    assert ours.size() == 0


def test_missing_cost_may_count_as_zero():
    ours = buffer(missing_cost="zero")
    put(ours, info={})
    assert ours.sample(1).costs.item() == ours.sample(1).violations.item() == 0.0


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf"), "much"])
@pytest.mark.parametrize("missing_cost", ["raise", "zero"])
def test_wrong_cost_raises(cost, missing_cost):
    with pytest.raises(ValueError, match="cost"):
        put(buffer(missing_cost=missing_cost), info={COST: cost})


def test_violation_is_its_own_key_and_else_any_positive_cost():
    ours = buffer()
    for info in ({COST: 2.0, VIOLATION: False}, {COST: 0.0, VIOLATION: True}, {COST: 0.5}, {COST: 0.0}):
        put(ours, info=info)
    assert ours.violations[:4, 0].tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("timeout", "done"), [(True, 0.0), (False, 1.0)])
def test_timeouts_bootstrap_and_terminations_do_not(timeout, done):
    ours = buffer()
    put(ours, info={COST: 0.0, "TimeLimit.truncated": timeout}, done=True)
    assert ours.sample(1).dones.item() == done


def test_dict_buffer_keeps_entries_and_costs_together():
    ours = buffer(kind=CostDictReplayBuffer, space=DictCorridor.observation_space)
    for i in range(5):
        put(ours, i, space=DictCorridor.observation_space)
    batch = ours.sample(100)
    for key in ("position", "gap"):
        assert th.equal(batch.observations[key], batch.costs) and th.equal(
            batch.next_observations[key] - 1, batch.costs
        )


@pytest.mark.parametrize("chosen", [None, "SB3's"])
@pytest.mark.parametrize(
    ("kind", "theirs", "expected"),
    [(Corridor, ReplayBuffer, CostReplayBuffer), (DictCorridor, DictReplayBuffer, CostDictReplayBuffer)],
)
def test_models_choose_their_buffer(kind, theirs, expected, chosen):
    model = tiny(SafeSAC, kind(), replay_buffer_class=chosen and theirs)
    assert type(model.replay_buffer) is expected


def test_buffers_without_cost_are_refused():
    with pytest.raises(ValueError, match="must keep costs"):
        tiny(SACLag, replay_buffer_class=type("OwnBuffer", (ReplayBuffer,), {}))


# ---------------------------------------------------------------------- HER


def her_model(**kwargs):
    env = vec(2, GoalCorridor, horizon=20)  # long enough for random actions to reach the wall
    return tiny(SACLag, env, replay_buffer_class=HerReplayBuffer, **{"learning_starts": 60, **kwargs})


def test_relabelled_goals_change_rewards_but_never_costs():
    model = her_model(learning_starts=400).learn(400)
    assert type(model.replay_buffer) is CostHerReplayBuffer
    batch = model.replay_buffer.sample(400)
    after = batch.next_observations["achieved_goal"]
    assert th.allclose(batch.costs, (after - 0.5) * (after > 1.0), atol=1e-6) and batch.costs.max() > 0
    assert th.equal(batch.violations, (after > 1.0).float())
    relabelled = (batch.observations["desired_goal"] != 0.9).squeeze(1)
    assert 200 < relabelled.sum() < 400
    assert th.equal(batch.rewards, -((after - batch.next_observations["desired_goal"]).abs() > 0.1).float())
    # Position moves by a tenth of the executed action, up to the noise: actions belong to their rows, too.
    moved = (after - batch.observations["achieved_goal"]).squeeze(1)
    executed = th.as_tensor(unscale_action(batch.executed_actions.numpy(), ACTIONS))
    assert (moved - 0.1 * executed[:, 0])[after.squeeze(1).abs() < 1.9].abs().max() < 0.06


def test_hindsight_never_joins_two_episodes_when_the_environment_was_moved_between_steps():
    env = vec(1, GoalCorridor, horizon=20)
    model = tiny(SACLag, env, replay_buffer_class=HerReplayBuffer, learning_starts=60).learn(7)
    buffer, start = model.replay_buffer, model.replay_buffer._current_ep_start[0]
    assert start < 7  # in the middle of an episode
    evaluate_safely(model, model.get_env(), 1)
    assert buffer._current_ep_start[0] == 7
    assert buffer.ep_length[start:7, 0].tolist() == [7 - start] * (7 - start)
    assert buffer.timeouts[6, 0]
    model.learn(40, reset_num_timesteps=False)


def test_her_model_is_saved_and_goes_on(tmp_path):
    model = her_model().learn(80)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    again = SACLag.load(tmp_path / "model", env=vec(2, GoalCorridor))
    again.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    assert differing(buffer_rows(model.replay_buffer), buffer_rows(again.replay_buffer)) == []
    again.learn(40, reset_num_timesteps=False)


# ---------------------------------------------------------------------- unions


def two_buffers():
    """30 transitions, of which 5 violate (costs 1 to 5), and 10 safe ones with rewards from 100 on."""
    first, second = buffer(50), buffer(50)
    for i in range(30):
        put(first, i, info={COST: float(i), VIOLATION: 1 <= i <= 5})
    for i in range(100, 110):
        put(second, i, info={COST: 0.0})
    return [first, second]


def test_union_samples_buffers_in_proportion_to_their_sizes():
    batch = sample_union(two_buffers(), 4000)
    share = (batch.rewards >= 100).float().mean().item()
    assert abs(share - 0.25) < 0.03  # more than four deviations of a binomial
    assert len(set(batch.rewards.flatten().tolist())) == 40


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_positive_fraction_is_exact(fraction):
    batch = sample_union(two_buffers(), 40, positive_fraction=fraction)
    assert batch.violations.sum() == 40 * fraction and len(batch.rewards) == 40
    assert th.equal(batch.violations, ((batch.rewards >= 1) & (batch.rewards <= 5)).float())


@pytest.mark.parametrize("own", [0, 1])
def test_positive_fraction_with_one_class_samples_as_they_come(own):
    only_safe = two_buffers()[1]
    only_unsafe = buffer(5)
    put(only_unsafe, 3)
    batch = sample_union([(only_safe, only_unsafe)[own]], 20, positive_fraction=0.5)
    assert batch.violations.mean() == own


def test_union_of_buffers_with_several_environments_finds_the_violating_rows():
    ours = buffer(n_envs=2)
    for i in range(4):
        infos = [{COST: 0.0}, {COST: float(i == 2)}]
        ours.add(np.full((2, 2), i), np.full((2, 2), i), np.zeros((2, 2)), np.array([0.0, i]), np.zeros(2), infos)
    batch = sample_union([ours, *two_buffers()[1:]], 30, positive_fraction=0.5)
    assert batch.rewards[batch.violations == 1].unique().tolist() == [2.0] and batch.violations.sum() == 15


# ---------------------------------------------------------------------- pickles


@pytest.mark.parametrize("n", [3, 7, 15])
def test_pickles_hold_only_the_filled_rows_and_go_on(n):
    ours = buffer(10)
    for i in range(n):
        put(ours, i)
    again = pickle.loads(pickle.dumps(ours))
    assert differing(buffer_rows(ours), buffer_rows(again)) == []
    for target in (ours, again):
        put(target, 50)
    assert differing(buffer_rows(ours), buffer_rows(again)) == [] and again.size() == min(n + 1, 10)


def test_a_large_empty_buffer_is_a_small_pickle():
    ours = buffer(100_000)
    put(ours)
    assert len(pickle.dumps(ours)) < 20_000 < ours.observations.nbytes


# ---------------------------------------------------------------------- offline data


def test_offline_rows_are_stored_raw_with_scaled_actions():
    data = recorded(20)
    ours = offline_buffer(data, BOX, ACTIONS, "cpu")
    assert ours.size() == 20 and ours.full
    assert np.array_equal(ours.observations[:, 0], data.observations)
    assert np.allclose(ours.executed_actions[:, 0], 2 * (data.actions - LOW) / (HIGH - LOW) - 1, atol=1e-6)
    assert np.array_equal(ours.costs[:, 0], data.costs) and np.array_equal(ours.violations[:, 0], data.violations)
    assert ours.sample(5).dones.sum() == 0


def test_offline_dict_rows():
    data = recorded(20, dict_obs=True)
    ours = offline_buffer(data, DictCorridor.observation_space, ACTIONS, "cpu")
    assert np.array_equal(ours.next_observations["gap"][:, 0], data.next_observations["gap"])


@pytest.mark.parametrize(
    ("observation_space", "action_space", "part"),
    [
        (spaces.Box(-1, 1, (3,)), ACTIONS, "observations"),
        (DictCorridor.observation_space, ACTIONS, "observations"),
        (BOX, spaces.Box(-1, 1, (1,)), "actions"),
    ],
)
def test_offline_rows_of_other_spaces_are_refused(observation_space, action_space, part):
    with pytest.raises(ValueError, match=f"{part}: expected"):
        offline_buffer(recorded(5), observation_space, action_space, "cpu")


def test_offline_rows_are_normalised_when_sampled():
    env: VecNormalize = vec(normalize=True)
    env.obs_rms.update(np.array([[0.0, 2.0], [4.0, 2.0]]))
    data = recorded(20)
    ours = offline_buffer(data, BOX, ACTIONS, "cpu")
    rows = np.arange(20), np.zeros(20, int)
    assert np.allclose(ours.gather(rows, env).observations, env.normalize_obs(data.observations), atol=1e-6)
    assert np.array_equal(ours.gather(rows).observations, data.observations)
    assert abs(env.normalize_obs(np.array([2.0, 2.0]))).max() < 0.01  # the statistics are what they should be


def test_costs_are_not_normalised():
    model = tiny(SACLag, vec(normalize=True)).learn(30)
    ours, env = model.replay_buffer, model.get_vec_normalize_env()
    rows = np.arange(30), np.zeros(30, int)
    assert np.array_equal(ours.gather(rows, env).costs, ours.costs[:30])
    positions = ours.next_observations[:30, 0, 0]
    assert np.allclose(ours.costs[:30, 0], (positions - 0.5) * (positions > 1), atol=1e-5)


# ---------------------------------------------------------------------- back to transitions


@pytest.mark.filterwarnings("ignore:the data set shows no violation")
@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_buffer_becomes_offline_data_with_executed_actions(n_envs):
    env = vec(n_envs, ends_on_violation=True)
    model = pretrained(RecoveryRL, env).learn(60)
    data = transitions_of(model)
    assert len(data) == model.num_timesteps and data.env_id is None
    executed = np.concatenate([each.executed for each in env.envs])
    assert np.allclose(data.actions, executed, atol=1e-5)
    assert data.n_violations == int(model.replay_buffer.violations.sum())
    assert np.array_equal(data.terminals, data.violations)  # time-outs are no ends
    RecoveryRL("MlpPolicy", vec(), seed=0).pretrain(data, 2)


def test_a_full_buffer_comes_out_in_order():
    model = tiny(SACLag, buffer_size=30).learn(70)
    data = transitions_of(model)
    assert len(data) == 30
    linked = (data.observations[1:] == data.next_observations[:-1]).all(axis=1)
    assert linked.sum() >= 30 - 1 - 3  # but for the ends of episodes of 10 steps


def test_nothing_to_give_raises():
    with pytest.raises(ValueError, match="cost buffer that holds transitions"):
        transitions_of(tiny(SACLag))
