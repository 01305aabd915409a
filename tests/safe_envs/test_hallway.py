"""The hallway: robots, layout, costs, rewards, drivers, humanoids."""

import copy
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
from env_ids import HALLWAY_IDS, needs_mujoco

import safe_envs
from safe_envs.hallway.drivers import _straightest
from safe_envs.hallway.humanoids import LIMP, STIFFNESS
from safe_wrappers.info import COST, SIMULATION_ERROR, SUCCESS, VIOLATION

pytestmark = needs_mujoco
POINT = {kind: f"safe/Hallway{kind.capitalize()}Point-v0" for kind in ("walls", "poles", "humanoids")}
every_kind = pytest.mark.parametrize("kind", POINT)
every_robot = pytest.mark.parametrize("robot", ["point", "doggo"])


def make(kind="walls", robot="point", seed=0, **kwargs):
    env = gym.make(
        f"safe/Hallway{kind.capitalize()}{robot.capitalize()}-v0", disable_env_checker=True, **kwargs
    ).unwrapped
    env.reset(seed=seed)
    return env


def put(env, x, y, yaw=0.0):
    """Place Point, at rest."""
    import mujoco

    env.data.qpos[:3], env.data.qvel[:3] = (x, y, yaw), 0.0
    mujoco.mj_forward(env.model, env.data)


def stay(env):
    return np.zeros(env.action_space.shape)


def drive(env, driver, steps=1000):
    """Total cost and reward of an episode, and its last info."""
    cost, total = 0.0, 0.0
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(driver(env))
        cost, total = cost + info[COST], total + reward
        if terminated or truncated:
            break
    return cost, total, info


# ---------------------------------------------------------------------- robots


@every_robot
@pytest.mark.skipif(find_spec("safety_gymnasium") is None, reason="Safety-Gymnasium is not installed")
def test_robots_have_safety_gyms_numbers(robot):
    from importlib.resources import files

    import mujoco

    from safe_wrappers import safety_gym

    folder = files(safety_gym.load()) / "assets" / "xmls"
    spec = mujoco.MjSpec.from_file(str(folder / f"{robot}.xml"))
    spec.compiler.degree = False  # Safety-Gym says so in code
    theirs = spec.compile()
    ours = mujoco.MjModel.from_xml_string(make(robot=robot).robot.xml)
    assert (ours.nq, ours.nv, ours.nu) == (theirs.nq, theirs.nv, theirs.nu)
    assert ours.opt.timestep == theirs.opt.timestep
    fields = (
        "jnt_type jnt_range jnt_axis jnt_limited jnt_stiffness dof_damping dof_armature qpos_spring dof_M0 "
        "actuator_gear actuator_ctrlrange actuator_forcerange actuator_gainprm actuator_biasprm "
        "cam_pos cam_quat cam_fovy"
    )
    for field in fields.split():
        assert np.allclose(getattr(ours, field), getattr(theirs, field), atol=1e-9), field
    assert ours.body_mass.sum() == pytest.approx(theirs.body_mass.sum(), rel=1e-12)  # dof_M0 has each one's share
    assert np.allclose(np.sort(ours.geom_size[:, 0]), np.sort(theirs.geom_size[theirs.geom_type != 0, 0]))


@pytest.mark.parametrize("robot, n_actions, n_sensors", [("point", 2, 12), ("doggo", 12, 44)])
def test_sizes_of_actions_and_proprioception(robot, n_actions, n_sensors):
    env = make(robot=robot)
    observation = env.reset(seed=0)[0]
    assert env.action_space.shape == (n_actions,)
    assert observation["depth"].shape == (50, 50, 1) and observation["proprioception"].shape == (n_sensors,)
    assert 0.0 <= observation["depth"].min() < observation["depth"].max() <= 1.0


def test_a_robot_at_rest_feels_gravity_and_north():
    env = make()
    put(env, 0.0, 0.0)
    proprioception = env.step(stay(env))[0]["proprioception"]
    accelerometer, velocimeter, gyro, magnetometer = np.split(proprioception, 4)
    assert accelerometer == pytest.approx([0.0, 0.0, 9.81], abs=1e-4)
    assert velocimeter == pytest.approx(0.0, abs=1e-6) and gyro == pytest.approx(0.0, abs=1e-6)
    assert magnetometer == pytest.approx(env.model.opt.magnetic)


def test_sensors_are_those_of_the_new_state():
    import mujoco

    env = make(robot="doggo")
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 12)):
        observed = env.step(action)[0]["proprioception"]
    fresh = mujoco.MjData(env.model)
    fresh.qpos[:], fresh.qvel[:], fresh.ctrl[:] = env.data.qpos, env.data.qvel, env.data.ctrl
    fresh.mocap_pos[:], fresh.qacc_warmstart[:] = env.data.mocap_pos, env.data.qacc_warmstart
    env.model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
    mujoco.mj_forward(env.model, fresh)
    assert np.allclose(observed, fresh.sensordata, atol=1e-5)


# ---------------------------------------------------------------------- depth


@every_kind
def test_the_camera_sees_the_hall_but_not_the_robot(kind):
    env = make(kind)
    seen, _ = env._eye._rays.surfaces(env.data)
    robot = [i for i in range(env.model.ngeom) if env.model.geom(i).name in ("body", "nose")]
    assert len(robot) == 2 and not np.isin(seen, robot).any()
    bodies = {env.model.body(env.model.geom_bodyid[geom]).name for geom in np.unique(seen[seen >= 0])}
    assert "world" in bodies and any(name.startswith("obstacle") for name in bodies)


def test_depth_of_a_wall_ahead_in_numbers():
    env = make()
    env.data.mocap_pos[:, 1], env.data.mocap_pos[0, :2] = 50.0, (4.0, 0.0)
    put(env, 0.0, 0.0)
    depth = env._observation()["depth"][..., 0] * 10.0
    # The camera looks down by 21.8 degrees from 0.25 m; its middle row's rays meet the floor after 0.25 / sin(21.8).
    assert depth[24:26].mean() == pytest.approx(0.25 / np.sin(np.arctan(0.4)), abs=0.02)
    # Straight ahead, at the camera's height, lies tan(21.8) = 0.4 above the middle, of 1 for 25 rows. The wall's front
    # is 3.95 m away, and 3.95 cos(21.8) of it are along the viewing direction.
    assert depth[14, 24:26] == pytest.approx(3.95 * np.cos(np.arctan(0.4)), abs=0.05)


def test_pictures_from_behind_and_from_the_head_differ():
    behind, head = (make("poles", render_mode="rgb_array", view=view) for view in ("follow", "head"))
    pictures = [env.render() for env in (behind, head)]
    assert pictures[0].shape == pictures[1].shape == (320, 480, 3)
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 10.0
    for env in (behind, head):
        env.close()


def test_rgb_is_an_option():
    env = make("poles", vision="rgb")
    observation = env._observation()
    assert set(observation) == {"rgb", "proprioception"} and env.observation_space.contains(observation)
    assert len(np.unique(observation["rgb"].reshape(-1, 3), axis=0)) > 10


# ---------------------------------------------------------------------- costs


@pytest.mark.parametrize("kind", ["walls", "poles"])
def test_every_step_in_contact_costs(kind):
    env = make(kind)
    x, y, _ = env.obstacles.places[0]
    put(env, x - env.obstacles.reach[0, 0] - 0.14, y)
    infos = [env.step([1.0, 0.0])[4] for _ in range(3)]
    assert [info[COST] for info in infos] == [1.0] * 3 and all(info[VIOLATION] for info in infos)
    assert env.touched_obstacles.tolist() == [True] + [False] * 11
    put(env, x - 1.0, y)
    assert env.step(stay(env))[4][COST] == 0.0


def test_a_touch_in_any_physics_step_costs():
    """Point brushes past a pole: it touches nothing at the beginning nor at the end of the action, but in between."""
    env = make("poles")
    x, y, _ = env.obstacles.places[0]
    put(env, x - 0.04, y - 0.25 + 0.0005)
    assert env.data.ncon == 1  # the floor
    env.data.qvel[0] = 4.0
    info = env.step(stay(env))[4]
    assert env.position[0] > x + 0.03 and env.data.ncon == 1
    assert info[COST] == 1.0


def test_only_the_first_touch_of_a_humanoid_costs():
    env = make("humanoids")
    costs, touched = [], np.zeros(12, dtype=bool)
    for _ in range(150):
        link = env.data.mocap_pos.reshape(12, -1, 3)[3].mean(axis=0)
        put(env, *link[:2])
        costs.append(env.step(stay(env))[4][COST])
        touched |= env.touched_obstacles
    assert touched.any() and sum(costs) == touched.sum()
    env.reset(seed=0)
    assert not env.touched_obstacles.any() and not env._counted.any()


def test_two_humanoids_touched_at_once_cost_two(monkeypatch):
    env = make("humanoids")

    def in_contact():
        env._touching[[2, 5]] = True
        return True

    monkeypatch.setattr(env, "_in_contact", in_contact)
    assert [env.step(stay(env))[4]["cost_obstacles"] for _ in range(2)] == [2.0, 0.0]


def test_side_walls_cost_only_on_demand():
    free, costly = make(), make(side_wall_cost=True)
    for env in (free, costly):
        put(env, 0.0, 1.95 - 0.1 + 0.06, np.pi / 2)
    assert free.step([1.0, 0.0])[4][COST] == 0.0
    info = costly.step([1.0, 0.0])[4]
    assert info[COST] == info["cost_side_walls"] == 1.0 and info["cost_obstacles"] == 0.0
    put(costly, -1.9, 0.0, np.pi)
    assert costly.step([1.0, 0.0])[4][COST] == 0.0  # the wall behind the start is no side wall


# ---------------------------------------------------------------------- rewards and layout


def test_the_whole_hall_is_worth_a_thousand_and_the_finish_ends_it():
    env = make()
    put(env, 0.0, 0.0)
    put(env, 19.98, 0.0)
    env.data.qvel[0] = 1.5
    _, reward, terminated, truncated, info = env.step([1.0, 0.0])
    assert terminated and not truncated and info[SUCCESS]
    assert reward == pytest.approx(50.0 * 0.02)  # nothing is paid beyond the line
    assert env.hall.length * env.hall.reward_per_metre == 1000.0


def test_the_finish_need_not_end_the_episode():
    env = make(terminate_at_finish=False)
    put(env, 20.5, 0.0)
    _, reward, terminated, _, info = env.step([1.0, 0.0])
    assert not terminated and info[SUCCESS] and reward == 0.0


def test_backward_is_punished_as_forward_is_rewarded():
    env = make()
    put(env, 1.0, 0.0)
    start, total = env.position[0], 0.0
    for push in [-1.0] * 30 + [1.0] * 30:
        total += env.step([push, 0.0])[1]
    assert total == pytest.approx(50.0 * (env.position[0] - start))


@every_kind
def test_layouts_differ_between_episodes_and_follow_the_seed(kind):
    env = make(kind, seed=3)
    first = env.obstacles.places.copy()
    env.reset()
    assert not np.array_equal(env.obstacles.places, first)
    env.reset(seed=3)
    assert np.array_equal(env.obstacles.places, first)


@every_kind
def test_nothing_stands_at_the_start_nor_in_another(kind):
    env = make(kind)
    for _ in range(30):
        env.reset()
        assert env.data.ncon == 1  # Point on the floor
        places, reach = env.obstacles.places[:, :2], env.obstacles.reach
        assert (places[:, 0] - reach[:, 0] > env.position[0] + env.robot.radius).all()
        if kind == "humanoids":
            distances = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(12) * 9
            assert (distances >= reach[:, 0] + reach[:, 0, None]).all()
            assert (np.abs(places[:, 1]) + reach[:, 1] <= env.hall.width / 2 + 1e-9).all()


@pytest.mark.parametrize(
    "kind, range_of_costs", [("walls", (300, 1000)), ("poles", (200, 1000)), ("humanoids", (1, 12))]
)
def test_the_two_drivers(kind, range_of_costs):
    """The layout's numbers were chosen with these; straight ahead is harmful, and harm can be avoided."""
    from safe_envs.hallway.drivers import careful, straight_ahead

    env = make(kind)
    harmful, harmless = [], []
    for seed in range(4):
        env.reset(seed=seed)
        harmful.append(drive(env, straight_ahead)[0])
        env.reset(seed=seed)
        harmless.append(drive(env, careful))
    assert range_of_costs[0] <= np.mean(harmful) <= range_of_costs[1]
    assert np.mean([cost for cost, _, _ in harmless]) <= 0.5
    assert sum(info[SUCCESS] for _, _, info in harmless) >= 2 and np.mean([r for _, r, _ in harmless]) >= 750.0


def test_the_way_is_the_straightest_of_all():
    gaps = [[(-1.0, -0.5), (0.6, 1.0)], [(-1.0, 1.0)], [(0.9, 1.0)]]
    assert _straightest(0.0, gaps) == (0.6, 1.0)  # although the other gap is nearer
    assert _straightest(0.0, gaps[:2]) == (-1.0, -0.5)
    assert _straightest(0.0, [[(-0.05, 0.05), (0.3, 1.0)]]) == (0.3, 1.0)  # too tight


# ---------------------------------------------------------------------- humanoids


def test_kinematic_humanoids_are_where_the_clip_has_them():
    env = make("humanoids")
    for _ in range(7):
        env.step(stay(env))
    humanoids = env.obstacles
    positions, _ = humanoids.library.pose(humanoids.clips, humanoids._phases + env.data.time, humanoids.places)
    assert env.data.time == pytest.approx(7 * 0.02)
    assert np.allclose(env.data.xpos[-12 * 13 :].reshape(12, 13, 3), positions, atol=1e-9)


def test_welded_humanoids_follow_their_clips_and_give_way():
    hall = safe_envs.Hall(length=8.0, n_obstacles=2)
    env = make("humanoids", hall=hall, humanoid_physics="welded")
    humanoids, errors = env.obstacles, []
    bodies = [env.model.body(humanoids._name(0, link)).id for link in range(13)]
    for _ in range(100):
        env.step(stay(env))
        positions, _ = humanoids.library.pose(humanoids.clips, humanoids._phases + env.data.time, humanoids.places)
        errors.append(np.linalg.norm(env.data.xpos[bodies] - positions[0], axis=-1))
    assert np.median(errors) < 0.15  # metres; a rolling humanoid, the fastest clip of all
    assert env.model.nv == 3 + 2 * (6 + 12 * 3)
    twin = copy.deepcopy(env)
    twin.data.xfrc_applied[bodies[0], 0] = 2000.0
    for each in (env, twin):
        for _ in range(10):
            each.step(stay(each))
    assert twin.data.body(bodies[0]).xpos[0] > env.data.body(bodies[0]).xpos[0] + 0.005


@every_robot
def test_a_welded_humanoid_that_the_robot_touches_falls_until_the_episode_ends(robot):
    walking = safe_envs.ClipLibrary.default().subset(["walk"])
    hall = safe_envs.Hall(length=8.0, n_obstacles=2)
    env = make("humanoids", robot, hall=hall, humanoid_physics="welded", clips=walking)
    first = [env.model.body(env.obstacles._name(0, link)).id for link in range(13)]
    roots = [first[0], env.model.body(env.obstacles._name(1, 0)).id]
    env.data.qpos[:2] = env.data.xpos[first[0], :2]  # between its legs
    cost = sum(env.step(stay(env))[4][COST] for _ in range(200))
    heights = env.data.xpos[roots, 2]
    assert cost == 1.0 and heights[0] < 0.4 and heights[1] > 0.7
    off = np.abs(env.data.xpos[first, :2] - env.obstacles.places[0, :2])
    assert (off < env.obstacles.reach[0]).all()  # the box in which contacts are looked for
    limp, springs = env.obstacles._springs
    stiffness = env.model.jnt_stiffness
    assert (stiffness[limp] == LIMP).all() and (stiffness[springs] == STIFFNESS).all()
    twin = copy.deepcopy(env)
    for each in (env, twin):
        each.step(stay(each))
    assert np.array_equal(env.data.qpos, twin.data.qpos)
    env.reset(seed=1)
    for _ in range(10):
        env.step(stay(env))
    assert (env.data.xpos[roots, 2] > 0.7).all() and (stiffness[limp] == STIFFNESS).all()


def test_exploding_physics_keep_the_humanoids_where_they_were():
    env = make("humanoids")
    env.step(stay(env))
    before = env.data.mocap_pos.copy()
    env.data.qvel[0] = np.nan
    _, reward, _, truncated, info = env.step(stay(env))
    assert truncated and reward == 0.0 and SIMULATION_ERROR in info
    assert np.array_equal(env.data.mocap_pos, before)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"robot": "car"}, "robot must be one of"),
        ({"obstacles": "cats"}, "obstacles must be one of"),
        ({"vision": "lidar"}, "vision must be one of"),
        ({"view": "top"}, "view must be one of"),
        ({"obstacles": "humanoids", "humanoid_physics": "ragdoll"}, "humanoid_physics must be one of"),
        ({"hall": {"n_obstacles": 40}}, "too short: 40 walls in 20.0 m"),
        ({"hall": {"n_obstacles": 60}, "obstacles": "humanoids"}, "too short: 60 humanoids"),
        ({"hall": {"width": 1.2}}, "too narrow: walls"),
        ({"hall": {"length": -1.0}}, "length must be > 0"),
        ({"hall": {"n_obstacles": -1}}, "n_obstacles must be an integer >= 0"),
        ({"hall": {"start_y": (1.0, 0.0)}}, "start_y must be a range"),
        ({"hall": {"jitter": (-0.1, 0.0)}}, "jitter must be >= 0"),
        ({"hall": {"jitter": (float("nan"), 0.0)}}, "jitter must be 2 finite numbers"),
        ({"hall": {"wall_size": (1.0, 0.1)}}, r"wall_size must be 3 finite numbers, got \(1.0, 0.1\)"),
        ({"hall": {"length": None}}, "length must be a finite number, got None"),
        ({"hall": {"jitter": ((1, 2), 3)}}, "jitter must be 2 finite numbers"),
        ({"camera": (20, 20)}, r"camera must be a safe_envs.Camera or None, got \(20, 20\)"),
        ({"hall": {"jitter": (0.1, 1.5)}}, "walls reach 2.50 m from the middle"),
        ({"hall": {"start_y": (1.9, 1.9)}}, "start_y must leave the robot"),
        ({"hall": {"start_x": (5.0, 9.0)}}, "start_x must leave the robot"),
        ({"hall": {"width": 1.1}, "obstacles": "humanoids"}, "too narrow: humanoids"),
        ({"humanoid_physics": "ragdoll"}, "humanoid_physics must be one of"),
        ({"clips": "folder"}, "clips are for obstacles='humanoids'"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        if "hall" in kwargs:
            kwargs = {**kwargs, "hall": safe_envs.Hall(**kwargs["hall"])}
        gym.make(HALLWAY_IDS[0], **kwargs)


def test_numbers_are_no_hall():
    with pytest.raises(ValueError, match=r"hall must be a safe_envs.Hall or None, got .*9.0"):
        gym.make(HALLWAY_IDS[0], hall={"length": 9.0})


@pytest.mark.parametrize("kwargs", [{}, {"obstacles": "humanoids", "humanoid_physics": "welded"}])
def test_an_empty_hall_is_a_hall(kwargs):
    env = make(**kwargs, hall=safe_envs.Hall(n_obstacles=0))
    assert env.step(stay(env))[4][COST] == 0.0
