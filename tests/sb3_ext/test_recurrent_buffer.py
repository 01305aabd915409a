"""Sequence replay: windows are what was lived, in order, in one environment, with the right hidden state."""

import pickle

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_toys import ACTIONS, Camera, Counter, vec
from stable_baselines3.common.vec_env import DummyVecEnv

from safe_wrappers.info import COST, MissingCostError
from sb3_ext.recurrent import sequence_buffer
from sb3_ext.recurrent.sequence_buffer import HIDDEN_INTERVAL, SequenceReplayBuffer, Streams

LINE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def buffer(space=LINE, buffer_size=2000, n_envs=1, **kwargs):
    arguments = {"gru_size": 2, "horizon": 5, "use_feedback": False, **kwargs}
    return SequenceReplayBuffer(buffer_size, space, ACTIONS, "cpu", n_envs, **arguments)


def live(target, env, steps):
    """Fill the buffer as a rollout does; the hidden state before an observation is twice (observation, step)."""
    obs, starts = env.reset(), np.ones(env.num_envs, bool)
    for step in range(steps):
        following, reward, done, infos = env.step(np.zeros((env.num_envs, 1)))
        last = following.copy()
        for i in np.flatnonzero(done):
            last[i] = infos[i]["terminal_observation"]
        target.stage(starts, np.concatenate([2.0 * obs, np.full_like(obs, step)], axis=1))
        target.add(obs, last, np.full((env.num_envs, 1), 0.5), reward, done, infos)
        obs, starts = following, done
    return target


def counters(n_envs, lengths):
    """Environments whose episodes are numbered from 0, 1000, 2000 and so on."""
    return DummyVecEnv([lambda i=i: Counter(lengths, first_episode=1000 * i) for i in range(n_envs)])


@settings(max_examples=30, deadline=None)
@given(
    n_envs=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    burn_in=st.integers(0, 3),
    capacity=st.sampled_from([20, 50, 500]),
    steps=st.integers(1, 130),
)
def test_windows_are_what_was_lived(n_envs, lengths, burn_in, capacity, steps):
    target = live(
        buffer(buffer_size=capacity * n_envs, n_envs=n_envs, burn_in=burn_in), counters(n_envs, lengths), steps
    )
    if target.n_windows() == 0:
        assert target._written.max() < 6 + burn_in + HIDDEN_INTERVAL
        return
    batch = target.sample(40)
    shown = batch.observations["observation"].reshape(6 + burn_in, 40).numpy()
    episodes, times = np.divmod(shown, 100)
    assert (episodes // 1000 == episodes[0] // 1000).all()  # one environment
    same = episodes[1:] == episodes[:-1]
    np.testing.assert_array_equal(batch.mask.numpy(), same)  # a transition leads on within its episode
    np.testing.assert_array_equal(times[1:], np.where(same, times[:-1] + 1, 0))  # no entry is skipped or overwritten
    np.testing.assert_array_equal(batch.episode_starts.numpy(), times == 0)
    span = np.array(lengths)[(episodes % len(lengths)).astype(int)]
    assert ((episodes[1:] - episodes[:-1])[~same] == 1).all() and (times <= span).all()
    valid = batch.mask.numpy() > 0
    np.testing.assert_allclose(batch.rewards[:-1].numpy()[valid], (times[:-1] + 1)[valid])
    np.testing.assert_allclose(batch.costs[:-1].numpy()[valid], (times[:-1] + 1)[valid] / 10.0, rtol=1e-6)
    for_good = (times[:-1] + 1 == span[:-1]) & (episodes[:-1] % 2 == 1)
    np.testing.assert_array_equal(batch.dones[:-1].numpy()[valid] > 0, for_good[valid])
    acted = valid[0]  # before an episode's last observation no state is kept: no action follows it
    np.testing.assert_array_equal(batch.hidden[:, 0].numpy()[acted], 2.0 * shown[0][acted])


def test_all_windows_are_equally_likely():
    target = live(buffer(n_envs=2), counters(2, [100]), 60)
    assert target.n_windows() == 2 * 6
    target.append(0, target._rows.chunks[0][0, :40], np.zeros((40, 2), np.float32))
    assert target.n_windows() == 10 + 6
    first = target.sample(4000).observations["observation"].reshape(6, -1)[0].numpy()
    share = np.mean(first >= 100 * 1000)  # the second environment
    assert share == pytest.approx(6 / 16, abs=0.04)


def test_the_last_observation_of_an_episode_is_an_entry_of_its_own():
    target = live(buffer(), counters(1, [7]), 14)
    assert target.size() == 14 + 2
    batch = target.gather(np.array([0]), np.array([0]))
    assert batch.observations["observation"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    batch = target.gather(np.array([0]), np.array([10]))
    assert batch.observations["observation"][:, 0].tolist() == [102, 103, 104, 105, 106, 107]
    assert batch.dones[:, 0].tolist() == [0, 0, 0, 0, 1, 0]


def test_interrupted_streams_have_no_transition_across_the_gap():
    target = live(buffer(horizon=9), counters(1, [100]), 8)
    live(target, counters(1, [100]), 8)  # as after a reset from outside
    assert target.gather(np.array([0]), np.array([0])).mask[:, 0].tolist() == [1] * 7 + [0, 1]


def test_images_come_back_and_memory_is_taken_piece_by_piece(monkeypatch):
    monkeypatch.setattr(sequence_buffer, "CHUNK_BYTES", 30 * 2000)
    env = vec(Camera, 2, feedback=False)
    target = buffer(env.observation_space, n_envs=2)
    obs, seen = env.reset(), []
    for step in range(35):
        seen.append(obs)
        following, reward, _, infos = env.step(np.zeros((2, 1)))
        target.stage(np.zeros(2, bool), np.zeros((2, 2), np.float32))
        target.add(obs, obs, np.zeros((2, 1)), reward, np.zeros(2, bool), infos)
        obs = following
        assert len(target._rows.chunks) == step // target._rows.chunk_rows + 1
    assert target._rows.chunk_rows < 35
    batch = target.gather(np.array([1]), np.array([20]))
    expected = np.stack([o["depth"][1] for o in seen[20:26]])
    np.testing.assert_allclose(batch.observations["depth"][:, 0].numpy(), expected[..., 0], atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(batch.observations["speed"].numpy(), [o["speed"][1] for o in seen[20:26]])


def test_short_memory_caps_the_buffer_with_one_warning(monkeypatch):
    monkeypatch.setattr(sequence_buffer, "available_memory", lambda: 100_000)
    with pytest.warns(UserWarning, match="buffer_size=1000000 needs .* the replay buffer will hold") as found:
        target = buffer(buffer_size=1_000_000, gru_size=100)
    assert len(found) == 1
    needed = target.capacity * (target.dtype.itemsize + 4 * 100 / HIDDEN_INTERVAL)
    assert 45_000 < needed <= 50_000
    monkeypatch.setattr(sequence_buffer, "available_memory", lambda: None)
    assert buffer(buffer_size=1_000_000).capacity == 1_000_000


def test_pickled_buffers_continue():
    target = live(buffer(buffer_size=50), counters(1, [7]), 70)
    copy = pickle.loads(pickle.dumps(target))
    np.random.seed(0)
    first = live(target, counters(1, [5]), 3).sample(8)
    np.random.seed(0)
    second = live(copy, counters(1, [5]), 3).sample(8)
    assert all(np.array_equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))


def test_a_ring_of_rows_against_a_plain_list():
    rng, lived = np.random.default_rng(0), [[], []]
    ring = Streams(2, 23, np.dtype(np.int64))
    ring.chunk_rows = 5
    for _ in range(60):
        env, n = int(rng.integers(2)), int(rng.integers(1, 20))
        rows = rng.integers(0, 1000, n)
        ring.write(env, len(lived[env]), rows)
        lived[env] += rows.tolist()
        begin = max(0, len(lived[env]) - 23)
        out = np.empty(len(lived[env]) - begin, np.int64)
        ring.read(env, begin, out)
        assert out.tolist() == lived[env][begin:]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"optimize_memory_usage": True}, "not supported"),
        ({"horizon": 0}, "horizon must be >= 1"),
        ({"burn_in": -1}, "burn_in >= 0"),
        ({"buffer_size": 12}, "leaves 10 entries for each of 1 environments, but a window has 6: use at least 26"),
        ({"use_feedback": True}, "PreviousFeedback"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        buffer(**kwargs)


def test_misuse_is_named():
    target = buffer()
    with pytest.raises(ValueError, match="no environment has 6 entries yet"):
        target.sample(1)
    with pytest.raises(ValueError, match="call stage"):
        target.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{COST: 0.0}])
    target.stage(np.ones(1, bool), np.zeros((1, 2), np.float32))
    with pytest.raises(MissingCostError):
        target.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
