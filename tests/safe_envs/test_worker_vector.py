"""``WorkerVectorEnv``: the trajectories of one process, bit for bit, and all that a vector environment offers."""

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate
from worker_toys import NUM_ENVS, Reusing, Toy, equal, toys

from safe_envs.core.worker_memory import INFO_COLUMNS, InfoTable
from safe_envs.core.worker_process import is_step_key
from safe_envs.core.worker_vector import WorkerVectorEnv
from safe_wrappers.info import COST, SUCCESS


@pytest.fixture
def envs():
    envs = toys()
    yield envs
    envs.close()


def assert_same_steps(actual, expected):
    """Bit for bit, but for what belongs to the step where ``SyncVectorEnv`` has only the next episode's start."""
    *arrays, infos = actual
    *expected_arrays, expected_infos = expected
    assert equal(tuple(arrays), tuple(expected_arrays))
    ended = expected_arrays[2] | expected_arrays[3]
    expected_infos[SUCCESS] = expected_infos[SUCCESS].astype(bool)  # Gymnasium's are objects
    if ended.any():
        final = expected_infos["final_info"]
        final[SUCCESS] = np.array([value or False for value in final[SUCCESS]], bool)
        infos["final_info"][SUCCESS] = np.array([value or False for value in infos["final_info"][SUCCESS]], bool)
        for key in filter(is_step_key, list(expected_infos)):
            assert not expected_infos[f"_{key}"][ended].any()
            expected_infos[key] = np.where(ended, final[key], expected_infos[key])
            expected_infos[f"_{key}"] = np.ones(NUM_ENVS, bool)
    assert equal(infos, expected_infos)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_trajectories_are_those_of_one_process_bit_for_bit(num_workers):
    sync = SyncVectorEnv([Toy] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = toys(num_workers)
    assert envs.observation_space == sync.observation_space and envs.action_space == sync.action_space
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP and len(envs.processes) == num_workers
    assert equal(envs.reset(seed=3), sync.reset(seed=3))
    sync.action_space.seed(0)
    ends = 0
    for _ in range(60):
        actions = sync.action_space.sample()
        step = envs.step(actions)
        ends += (step[2] | step[3]).sum()
        assert_same_steps(step, sync.step(actions))
    assert ends > 20
    envs.close()


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Dict(arm=spaces.Box(-1, 1, (2,), np.float64), hand=spaces.Discrete(2)),
    ],
)
def test_actions_of_every_sort_arrive(action_space):
    class Echo(gym.Env):
        observation_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return 1, 0.0, False, False, {"got": repr(action)}

    Echo.action_space = action_space
    envs = WorkerVectorEnv(Echo, 3, 2, context="fork")
    envs.reset(seed=0)
    envs.action_space.seed(1)
    actions = envs.action_space.sample()
    observations, *_, infos = envs.step(actions)
    assert observations.tolist() == [1, 1, 1]
    assert list(infos["got"]) == [repr(action) for action in iterate(envs.action_space, actions)]
    envs.close()


def test_costs_of_the_steps_are_those_of_single_environments_across_resets(envs):
    envs.reset(seed=7)
    actions = np.zeros((NUM_ENVS, 2), np.float32)
    total = np.sum([envs.step(actions)[4][COST] for _ in range(50)], axis=0)
    for index, env in enumerate(Toy() for _ in range(NUM_ENVS)):
        env.reset(seed=7 + index)
        expected = 0.0
        for _ in range(50):
            _, _, terminated, truncated, info = env.step(actions[index])
            expected += info[COST]
            if terminated or truncated:
                env.reset()
        assert total[index] == expected > 0


def test_what_an_episode_ended_with_outlives_the_reset():
    envs = WorkerVectorEnv(Reusing, 1, context="fork")
    envs.reset()
    envs.step([0])
    observations, *_, infos = envs.step([0])
    assert observations.tolist() == [[5]] and infos["final_obs"][0].tolist() == [7]
    assert infos["final_info"]["list"][0] == [7] and "list" not in infos
    envs.step([0])
    with pytest.raises(RuntimeError, match="step 2 of its episode: not this"):
        envs.step([1])
    envs.close()


def test_registered_environments_by_their_id_and_arguments():
    envs = WorkerVectorEnv(
        "safe/Navigation1-v0", 4, 2, env_kwargs={"max_episode_steps": 3, "noise_std": 0.0}, context="fork"
    )
    envs.reset(seed=0)
    for step in (1, 2, 3):
        _, _, _, truncated, infos = envs.step(np.ones((4, 2), np.float32))
        assert (truncated == (step == 3)).all() and infos["_cost"].all()
    assert equal(infos["final_info"][COST], infos[COST])
    envs.close()


def test_gymnasium_vector_wrappers_take_it(envs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorded = gym.wrappers.vector.RecordEpisodeStatistics(envs)
        recorded.reset(seed=0)
        for _ in range(9):
            *_, infos = recorded.step(np.zeros((NUM_ENVS, 2), np.float32))
            if "episode" in infos:
                assert infos["episode"]["l"][infos["_episode"]].min() >= 2
                return
    pytest.fail("no episode ended")


def test_seeds_and_reset_masks(envs):
    first, _ = envs.reset(seed=[4, 3, 2, 1, 0])
    again, _ = envs.reset(seed=0)
    assert equal(first["image"], again["image"][::-1])
    assert envs.np_random_seed == (0, 1, 2, 3, 4)
    mask = np.array([True, False, False, False, True])
    options = {"reset_mask": mask}
    masked, infos = envs.reset(seed=[9] * NUM_ENVS, options=options)
    assert equal(masked["image"][1:4], again["image"][1:4]) and equal(masked["image"][0], masked["image"][4])
    assert not equal(masked["image"][0], again["image"][0])
    assert equal(infos["_note"], mask) and "reset_mask" in options
    unseeded, _ = envs.reset()  # goes on with the generators
    assert not equal(unseeded["image"][0], masked["image"][0]) and equal(unseeded["image"][0], unseeded["image"][4])


def test_bad_resets_raise(envs):
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((NUM_ENVS, 2), np.float32))
    with pytest.raises(ValueError, match="5, one for each environment, got 2"):
        envs.reset(seed=[1, 2])
    for mask in (np.zeros(NUM_ENVS, bool), np.ones(3, bool), np.ones(NUM_ENVS)):
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="first reset"):
        envs.reset(options={"reset_mask": np.arange(NUM_ENVS) == 1})


@pytest.mark.parametrize("bad", [np.zeros((NUM_ENVS, 3)), np.zeros(2), np.zeros((NUM_ENVS, 2), complex)])
def test_bad_actions_raise_and_step_nothing(envs, bad):
    twin = toys(1)
    envs.reset(seed=0), twin.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(5, 2\) and type float32"):
        envs.step(bad)
    good = np.zeros((NUM_ENVS, 2), np.float32)
    assert equal(envs.step(good)[0], twin.step(good)[0])
    twin.close()


def test_observations_are_copies_unless_asked_otherwise(envs):
    shared = toys(copy=False)
    actions = np.zeros((NUM_ENVS, 2), np.float32)
    for vector, is_kept in ((envs, True), (shared, False)):
        first, _ = vector.reset(seed=0)
        kept = first["image"].copy()
        vector.step(actions)
        assert equal(first["image"], kept) == is_kept
    shared.close()


def test_attributes_and_calls_reach_every_environment(envs):
    envs.set_attr("level", [0, 10, 20, 30, 40])
    assert envs.get_attr("level") == (0, 10, 20, 30, 40)
    assert envs.call("scaled", 2, offset=1) == (1, 21, 41, 61, 81)
    envs.set_attr("level", 3)
    assert envs.get_attr("level") == (3,) * NUM_ENVS
    with pytest.raises(ValueError, match="one or 5"):
        envs.set_attr("level", [1, 2])
    with pytest.raises(ValueError, match="call step"):
        envs.call("step")
    assert envs.render() is None
    with pytest.raises(
        RuntimeError, match=r"environment 0 raised AttributeError in the call of 'nothing'(?s:.*)2 workers"
    ):
        envs.get_attr("nothing")
    assert envs.get_attr("level") == (3,) * NUM_ENVS


def test_rendering_gives_a_picture_of_each():
    envs = WorkerVectorEnv(partial(Toy, render_mode="rgb_array"), 3, 2, context="fork")
    envs.set_attr("level", [1, 2, 3])
    assert [picture.shape for picture in envs.render()] == [(2, 2, 3)] * 3
    assert [picture[0, 0, 0] for picture in envs.render()] == [1, 2, 3]
    envs.close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"env_fns": Toy, "num_envs": 0}, ValueError, "num_envs must be >= 1, got 0"),
        ({"env_fns": [Toy, Toy], "num_envs": 3}, ValueError, "got 3 and 2"),
        ({"env_fns": []}, ValueError, "number of functions"),
        ({"env_fns": Toy, "num_envs": 2, "num_workers": 3}, ValueError, r"\[1, num_envs = 2\], got 3"),
        ({"env_fns": Toy, "num_envs": 2, "num_workers": 0}, ValueError, "got 0"),
        ({"env_fns": Toy, "env_kwargs": {"size": 2}}, ValueError, "env_kwargs go with"),
        ({"env_fns": Toy, "context": "threads"}, ValueError, "threads"),
        ({"env_fns": lambda: Toy(action_space=spaces.Text(5))}, TypeError, "action space must be .* got Text"),
        ({"env_fns": lambda: Toy(size=0)}, TypeError, "non-empty"),
    ],
)
def test_bad_arguments_raise(arguments, error, message):
    with pytest.raises(error, match=message):
        WorkerVectorEnv(**arguments)


@pytest.mark.parametrize("num_envs, num_workers, sizes", [(7, 3, [2, 2, 3]), (60, 2, [30, 30]), (2, 2, [1, 1])])
def test_environments_are_shared_out_evenly(num_envs, num_workers, sizes):
    from safe_envs.core.worker_vector import _shares

    shares = _shares(num_envs, num_workers)
    assert [len(rows) for rows in shares] == sizes
    assert [index for rows in shares for index in rows] == list(range(num_envs))


def test_more_info_keys_than_columns_go_the_other_way():
    table = InfoTable(np.zeros((1, INFO_COLUMNS)), np.zeros((1, INFO_COLUMNS), bool))
    numbers = {f"x{i}": float(i) for i in range(INFO_COLUMNS)}
    assert table.store(0, numbers) == {}
    assert table.store(0, {"x3": 1.0, "late": 2.0, "count": 3}) == {"late": 2.0, "count": 3}
    assert table.store(0, {"x3": True}) == {"x3": True}  # another type than the column's
    assert len(table.columns) == INFO_COLUMNS and table.columns[3] == ("x3", "f8")
