"""Cart-pole, disabled runners, and what all MuJoCo environments share."""

import gymnasium as gym
import numpy as np
import pytest
from env_ids import MUJOCO_IDS, needs_mujoco

import safe_envs
from safe_wrappers.info import SIMULATION_ERROR, SUCCESS, VIOLATION

pytestmark = needs_mujoco
CART, CHEETAH, ANT = MUJOCO_IDS
every_mujoco_env = pytest.mark.parametrize("env_id", MUJOCO_IDS)


def make(env_id, **kwargs):
    env = gym.make(env_id, disable_env_checker=True, **kwargs).unwrapped
    env.reset(seed=0)
    return env


def put(env, qpos=None, qvel=None):
    """Set joints and refresh what follows from them."""
    import mujoco

    if qpos is not None:
        env.data.qpos[:] = qpos
    env.data.qvel[:] = 0.0 if qvel is None else qvel
    mujoco.mj_forward(env.model, env.data)


def still(env):
    return np.zeros(env.action_space.shape)


# ---------------------------------------------------------------------- shared


@every_mujoco_env
@pytest.mark.parametrize("frame_skip", [None, 4])
def test_videos_are_as_fast_as_the_environment(env_id, frame_skip):
    env = make(env_id, **({} if frame_skip is None else {"frame_skip": frame_skip}))
    assert env.metadata["render_fps"] == round(1.0 / (env.model.opt.timestep * env.frame_skip))
    assert env.metadata["render_fps"] == {CART: 25, CHEETAH: 100, ANT: 100}[env_id] or frame_skip


@every_mujoco_env
def test_exploding_physics_truncate_and_keep_the_last_valid_state(env_id):
    env = make(env_id)
    before = env._observation()
    put(env, env.data.qpos.copy(), np.full(env.model.nv, np.nan))
    env.data.qvel[0] = np.nan
    observation, reward, terminated, truncated, info = env.step(still(env))
    assert truncated and not terminated and reward == 0.0 and SIMULATION_ERROR in info and not info[VIOLATION]
    assert observation.shape == before.shape
    assert np.isfinite(env.reset(seed=0)[0]).all()


@every_mujoco_env
@pytest.mark.parametrize("frame_skip", [0, -1, 1.5, "1"])
def test_bad_frame_skip_raises(env_id, frame_skip):
    with pytest.raises(ValueError, match="frame_skip must be an integer >= 1"):
        make(env_id, frame_skip=frame_skip)


@every_mujoco_env
def test_frame_skip_repeats_the_action(env_id):
    slow, fast = (make(env_id, frame_skip=n, terminate_on_violation=False) for n in (1, 3))
    for action in np.random.default_rng(0).uniform(-1, 1, (5, *slow.action_space.shape)):
        for _ in range(3):
            slow.step(action)
        fast.step(action)
    assert np.array_equal(slow.data.qpos, fast.data.qpos)


@every_mujoco_env
def test_data_belong_to_the_new_state_after_a_step(env_id):
    import mujoco

    env = make(env_id)
    env.step(env.action_space.sample())
    fresh = mujoco.MjData(env.model)
    fresh.qpos[:], fresh.qvel[:] = env.data.qpos, env.data.qvel
    mujoco.mj_forward(env.model, fresh)
    assert np.allclose(env.data.xpos, fresh.xpos, atol=1e-12)
    if env_id != CART:
        assert np.allclose(env.data.subtree_com, fresh.subtree_com, atol=1e-12)
        assert env.data.ncon == fresh.ncon
        mujoco.mj_subtreeVel(env.model, fresh)
        assert np.allclose(env._mean_velocity(1), fresh.subtree_linvel[1], atol=1e-12)


# ---------------------------------------------------------------------- cart-pole


@pytest.mark.parametrize(
    ("position", "angle", "fall", "off_rail"),
    [(0.0, 1.5, 0.0, 0.0), (0.0, -1.65, 1.0, 0.0), (2.35, 0.0, 0.0, 0.0), (-2.45, 0.0, 0.0, 1.0)],
)
def test_cart_pole_limits(position, angle, fall, off_rail):
    for ends in (True, False):
        env = make(CART, terminate_on_violation=ends)
        put(env, [position, angle])
        _, _, terminated, _, info = env.step(still(env))
        assert (info["cost_fall"], info["cost_off_rail"]) == (fall, off_rail)
        assert terminated == (ends and bool(fall or off_rail))


@pytest.mark.parametrize("length", [0.4, 1.0])
def test_cart_pole_reward_is_that_of_the_tip(length):
    env = make(CART, length=length)
    put(env, [0.3, -0.2], [0.5, 1.0])
    _, reward, *_ = env.step([1.0])
    x, theta = env.data.qpos
    tip = np.array([x + length * np.sin(theta), length * np.cos(theta)])
    assert reward == pytest.approx(np.exp(-((tip - [0, length]) ** 2).sum() / length**2))


def test_longer_poles_are_heavier_and_fall_more_slowly():
    short, long = make(CART, length=0.4), make(CART, length=1.0)
    for env in (short, long):
        put(env, [0.0, 0.3])
        for _ in range(5):
            env.step([0.0])
    assert long.model.body("pole").mass > 1.5 * short.model.body("pole").mass
    assert short.data.qpos[1] > long.data.qpos[1] > 0.3
    assert short.observation_space.shape == (4,)  # positions and velocities, no length


def test_cart_pole_succeeds_when_its_return_exceeds_160():
    env = make(CART)
    env._return = 159.5
    assert env.step([0.0])[4][SUCCESS] and not make(CART).step([0.0])[4][SUCCESS]
    env.reset()
    assert not env.step([0.0])[4][SUCCESS]


@pytest.mark.parametrize("length", [0.0, -1.0, np.nan, np.inf])
def test_bad_length_raises(length):
    with pytest.raises(ValueError, match="length must be > 0"):
        make(CART, length=length)


# ---------------------------------------------------------------------- disabled runners


@pytest.mark.parametrize(
    ("env_id", "kwargs", "dead"),
    [(CHEETAH, {"disabled": 5}, [5]), (CHEETAH, {"disabled": "bshin"}, [1]), (ANT, {"disabled": 0}, [2, 3]),
     (ANT, {"disabled": 3}, [0, 1]), (CHEETAH, {"disabled": None}, [])],
)  # fmt: skip
def test_disabled_actuators_do_nothing_and_cost_nothing(env_id, kwargs, dead):
    env = make(env_id, **kwargs)
    action = still(env)
    action[dead] = 1.0
    quiet = make(env_id, **kwargs)
    results = [env.step(action), quiet.step(still(quiet))]
    assert np.array_equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    for i in set(range(len(action))) - set(dead):
        alive, idle = make(env_id, **kwargs), make(env_id, **kwargs)
        assert not np.array_equal(alive.step(np.eye(len(action))[i])[0], idle.step(still(idle))[0])


def test_partial_power_scales_the_action():
    power = np.linspace(0.5, 0.95, 6)
    weak, healthy = make(CHEETAH, power=power), make(CHEETAH, disabled=None)
    action = np.full(6, 0.8)
    assert np.array_equal(weak.step(action)[0], healthy.step(action * power)[0])


@pytest.mark.parametrize("env_id", [CHEETAH, ANT])
@pytest.mark.parametrize("ends", [True, False])
def test_fragile_part_on_the_floor_is_a_violation(env_id, ends):
    env = make(env_id, terminate_on_violation=ends)
    qpos = env._initial_position().copy()
    assert not env.step(still(env))[4][VIOLATION]
    if env_id == CHEETAH:
        qpos[1:3] = -0.3, 1.2  # nose down
    else:
        qpos[2] = 0.2
    put(env, qpos)
    _, _, terminated, _, info = env.step(still(env))
    assert info[VIOLATION] and info["cost_floor"] == 1.0 and terminated == ends


@pytest.mark.parametrize(("env_id", "bonus", "effort"), [(CHEETAH, 0.0, 0.05), (ANT, 0.05, 0.005)])
def test_reward_is_speed_minus_effort(env_id, bonus, effort):
    env = make(env_id, disabled=None)
    for action in np.random.default_rng(0).uniform(-1, 1, (30, *env.action_space.shape)):
        before = env.data.subtree_com[1, 0]
        _, reward, *_ = env.step(action)
        speed = (env.data.subtree_com[1, 0] - before) / 0.01
        assert reward == pytest.approx(speed - effort * (action**2).sum() + bonus, abs=0.15)


def test_observations_hold_what_they_say():
    cheetah, ant = make(CHEETAH), make(ANT)
    for env in (cheetah, ant):
        env.step(env.action_space.sample())
    seen = cheetah._observation()
    assert np.allclose(seen, [*cheetah.data.qpos[1:], *cheetah.data.qvel, *cheetah.data.subtree_com[1, 1:]], atol=1e-6)
    seen = ant._observation()
    expected = [*ant.data.qpos, *ant.data.qvel, *ant.data.xmat[1], *ant.data.subtree_com[1]]
    assert seen.shape == (41,) and np.allclose(seen, expected, atol=1e-6)


def test_released_ant_observation_shows_reward_and_violation():
    env = make(ANT, leaky_observation=True, disabled=None)
    action = np.full(8, 0.5)
    observation, reward, *_ = env.step(action)
    assert observation.shape == (43,) and observation[42] == 0.0
    assert observation[41] == pytest.approx(reward + 0.005 * (action**2).sum(), abs=1e-6)
    qpos = env._initial_position().copy()
    qpos[2] = 0.2
    put(env, qpos)
    assert env.step(action)[0][42] == 1.0


def test_released_ant_observation_begins_anew_with_the_episode():
    env = make(ANT, leaky_observation=True)
    first = env.reset(seed=0)[0]
    for _ in range(20):
        env.step(env.action_space.sample())
    assert np.array_equal(env.reset(seed=0)[0], first)


def test_disabled_ant_leg_is_drawn_in_and_keeps_its_mass():
    lame, whole = make(ANT, disabled=3), make(ANT, disabled=3, shrink_disabled=False)
    for name in ("rightback_leg_geom", "fourth_ankle_geom"):
        assert np.allclose(lame.model.geom(name).size, 0.5 * whole.model.geom(name).size)
    assert np.allclose(lame.model.geom("fourth_ankle_geom").pos, whole.model.geom("rightback_leg_geom").pos)
    assert np.array_equal(lame.model.body_mass, whole.model.body_mass)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (CHEETAH, {"disabled": 6}, "an actuator from 0 to 5.*got 6"),
        (CHEETAH, {"disabled": -1}, "an actuator from 0 to 5"),
        (CHEETAH, {"disabled": True}, "an actuator from 0 to 5"),
        (CHEETAH, {"disabled": "knee"}, "bthigh.*got 'knee'"),
        (ANT, {"disabled": 4}, "a leg from 0 to 3.*got 4"),
        (ANT, {"power": [1.0] * 6}, "8 numbers in"),
        (CHEETAH, {"power": [1.5] * 6}, "6 numbers in"),
        (CHEETAH, {"power": [np.nan] * 6}, "6 numbers in"),
    ],
)
def test_bad_arguments_raise(env_id, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(env_id, **kwargs)


# ---------------------------------------------------------------------- task distributions


@pytest.mark.parametrize("name", sorted(safe_envs.TASKS))
def test_every_task_of_every_family_can_be_made(name):
    tasks = safe_envs.TASKS[name]
    for task in [*tasks.training_tasks(3, seed=1), tasks.test_task(seed=1)]:
        env = tasks.make(task, disable_env_checker=True)
        env.reset(seed=0)
        env.step(env.action_space.sample())
    assert tasks.test_task(seed=1) == tasks.test_task(seed=1)


def test_families_are_those_of_the_thesis():
    tasks = safe_envs.TASKS
    for name, trained, tested in (("halfcheetah-disabled", (1, 2, 3, 4), 5), ("ant-disabled", (0, 1, 2), 3)):
        assert tasks[name].training_tasks() == [{"disabled": each} for each in trained]
        assert tasks[name].test_task() == {"disabled": tested}
        default = tasks[name].make({}).unwrapped
        assert np.array_equal(default.power, tasks[name].make(tasks[name].test_task()).unwrapped.power)
    lengths = [task["length"] for task in tasks["cartpole-length"].training_tasks(200)]
    assert tasks["cartpole-length"].test_task() == {"length": 1.0}
    assert 0.4 <= min(lengths) < 0.41 and 0.79 < max(lengths) <= 0.8
    weak = [tasks["halfcheetah-partial"].test_task(seed)["power"] for seed in range(50)]
    assert 0.5 <= np.min(weak) < 0.52 and 0.93 < np.max(weak) <= 0.95


def test_drawn_matrices_act():
    tasks = safe_envs.navigation_tasks("safe/Navigation1-v0", decay_range=(0.9, 0.95))
    first, second = tasks.training_tasks(2, seed=0)
    assert first != second and 0.9 <= first["A"][0][0] <= 0.95 and 0.5 <= first["B"][1][1] <= 1.5
    env = tasks.make(first, noise_std=0.0).unwrapped
    env.reset(options={"state": [-40.0, 1.0]})
    observation = env.step([1.0, 1.0])[0]
    gains = [first["A"][0][0] * -40.0 + first["B"][0][0], first["A"][1][1] + first["B"][1][1]]
    assert np.allclose(observation, gains, atol=1e-5)
