"""The depth camera: hand-computed images, MuJoCo's rays and OpenGL as oracles, colours, and what is refused."""

import copy
import math
import pickle
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from env_ids import needs_mujoco
from gymnasium.error import DependencyNotInstalled

from safe_envs.hallway import camera as camera_module
from safe_envs.hallway.camera import AMBIENT, BACKGROUND, Camera, DepthCamera

pytestmark = needs_mujoco
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed (the extra 'hallway')")
TOLERANCE = 1e-5  # m, after the rounding to float32 (5e-7 m at 10 m)
FORWARD = 'xyaxes="0 -1 0 0 0 1"'  # looks along x; y is on the left
LINKS = ['<geom size=".05 .15" type="capsule"/>'] * 11 + ['<geom size=".1"/>'] * 2
LINKS += ['<geom size=".09 .04 .02" type="box"/>'] * 2
BODIES = {
    "walls": ['<geom type="box" size=".6 .05 .4"/>'] * 12,
    "poles": ['<geom type="cylinder" size=".12 .6"/>'] * 12,
    "humanoids": LINKS * 12,
}


@pytest.fixture(params=[pytest.param("numba", marks=needs_numba), "mujoco"])
def caster(request):
    return request.param


def build(world, eye=FORWARD, fovy=90):
    import mujoco

    xml = f"""<mujoco><statistic extent="1"/><visual><map znear="0.001" zfar="100"/><quality offsamples="0"/></visual>
    <worldbody><body name="robot" mocap="true"><camera name="head" {eye} fovy="{fovy}"/></body>{world}</worldbody>
    </mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def look(world, caster, n=5, eye=FORWARD, **kwargs):
    model, data = build(world, eye)
    return DepthCamera(model, camera=Camera(n, n, **kwargs), caster=caster).depth(data)


def hall(kind):
    """A hall of 20 x 4 m whose obstacles, like the camera, are bodies that can be put anywhere."""
    side = '<geom type="box" size="10.5 .05 .5" pos="0 {} .5"/>'
    obstacles = "".join(f'<body mocap="true">{geom}</body>' for geom in BODIES[kind])
    return build('<geom type="plane" size="10.5 2.1 .1"/>' + side.format(2.05) + side.format(-2.05) + obstacles)


def shuffle(model, data, kind, rng):
    """Random places and attitudes; every third camera is within 0.5 m of a shape, some of these inside it."""
    import mujoco

    n = model.nmocap
    data.mocap_quat[:] = random_attitudes(rng, n)
    data.mocap_pos[:] = rng.uniform([-10, -1.8, 0.05], [10, 1.8, 1.5], (n, 3))
    if kind == "humanoids":
        people = np.repeat(rng.uniform([-9, -1.6, 0.85], [10, 1.6, 0.85], (12, 3)), 15, axis=0)
        data.mocap_pos[1:] = people + rng.uniform([-0.3, -0.3, -0.8], [0.3, 0.3, 0.8], (n - 1, 3))
    elif rng.random() < 0.5:  # upright
        data.mocap_quat[1:, 1:3] = 0.0
        data.mocap_quat[1:] /= np.linalg.norm(data.mocap_quat[1:], axis=1, keepdims=True)
    if rng.random() < 1 / 3:
        data.mocap_pos[0] = data.mocap_pos[rng.integers(1, n)] + rng.uniform(-0.3, 0.3, 3)
    mujoco.mj_forward(model, data)


def random_attitudes(rng, n):
    quaternions = rng.standard_normal((n, 4))
    return quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)


def unit_rays(model, data, n):
    """Rays ``[n n, 3]`` of length 1 in the world, and the depth of a metre along each."""
    slope = math.tan(math.radians(model.cam_fovy[0]) / 2)
    offsets = [slope * (2 * (i + 0.5) / n - 1) for i in range(n)]
    rays = np.array([[x, -y, -1.0] for y in offsets for x in offsets])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return rays @ data.cam_xmat[0].reshape(3, 3).T, -rays[:, 2]


def oracle(model, data, n, far=10.0):
    import mujoco

    rays, depth_per_metre = unit_rays(model, data, n)
    distance, geoms = np.empty(n * n), np.empty(n * n, np.int32)
    mujoco.mj_multiRay(
        m=model, d=data, pnt=data.cam_xpos[0], vec=rays.ravel(), geomgroup=None, flg_static=True, bodyexclude=-1,
        geomid=geoms, dist=distance, normal=None, nray=n * n, cutoff=1e6,
    )  # fmt: skip
    return np.where(distance < 0, far, np.minimum(far, distance * depth_per_metre)).reshape(n, n)


# ---------------------------------------------------------------------- against other ray casters


@pytest.mark.parametrize("kind", BODIES)
def test_agrees_with_mujocos_rays_in_random_scenes(kind, caster):
    model, data = hall(kind)
    camera, rng = DepthCamera(model, caster=caster), np.random.default_rng(0)
    obstacle_pixels = 0
    for _ in range(60):
        shuffle(model, data, kind, rng)
        image, expected = camera.depth(data), oracle(model, data, 50)
        assert np.abs(image - expected).max() <= TOLERANCE
        obstacle_pixels += (image < 2.0).sum()
    assert obstacle_pixels > 60 * 250  # the scenes are no empty rooms


@needs_numba
@pytest.mark.parametrize("kind", BODIES)
def test_agrees_with_single_rays(kind):
    import mujoco

    model, data = hall(kind)
    camera, rng = DepthCamera(model, caster="numba"), np.random.default_rng(1)
    for _ in range(10):
        shuffle(model, data, kind, rng)
        image, (rays, per_metre) = camera.depth(data).ravel(), unit_rays(model, data, 50)
        for i in rng.integers(2500, size=50):
            distance = mujoco.mj_ray(model, data, data.cam_xpos[0], rays[i], None, True, -1, np.zeros(1, np.int32))
            assert image[i] == pytest.approx(
                10.0 if distance < 0 else min(10.0, distance * per_metre[i]), abs=TOLERANCE
            )


@needs_numba
@pytest.mark.parametrize(("height", "width", "fovy"), [(20, 33, 60.0), (31, 8, 130.0), (1, 1, 90.0)])
def test_other_resolutions_and_fields_of_view(height, width, fovy):
    model, data = hall("humanoids")
    rng, settings = np.random.default_rng(2), Camera(height, width, fovy, far=4.0)
    ours, theirs = (DepthCamera(model, camera=settings, caster=c) for c in ("numba", "mujoco"))
    for _ in range(10):
        shuffle(model, data, "humanoids", rng)
        image = ours.depth(data)
        assert image.shape == (height, width) and image.max() <= 4.0
        np.testing.assert_allclose(image, theirs.depth(data), atol=TOLERANCE)


def test_agrees_with_opengl_on_boxes():
    import mujoco

    model, data = hall("walls")
    try:
        renderer = mujoco.Renderer(model, 50, 50)
    except Exception as error:  # each back end raises its own
        pytest.skip(f"OpenGL cannot be opened: {error}")
    renderer.enable_depth_rendering()
    camera, rng = DepthCamera(model), np.random.default_rng(3)
    try:
        for _ in range(10):
            shuffle(model, data, "walls", rng)
            while camera.depth(data).min() < 0.05:  # OpenGL sees through what it is in, and through the near plane
                shuffle(model, data, "walls", rng)
            renderer.update_scene(data, "head")
            difference = np.abs(np.minimum(renderer.render(), 10.0) - camera.depth(data))
            # Both pick a pixel of an edge by its middle, one of them in single precision.
            assert np.median(difference) < 1e-5 and (difference > 1e-3).mean() < 0.002
    finally:
        renderer.close()


# ---------------------------------------------------------------------- by hand


def test_a_wall_straight_ahead_has_one_depth(caster):
    image = look('<geom type="box" size="0.5 50 50" pos="3.5 0 0"/>', caster)
    assert image.dtype == np.float32 and np.all(image == 3.0)


def test_depth_of_the_floor_is_its_height_over_the_slope_of_the_ray(caster):
    image = look('<geom type="plane" size="0 0 1" pos="0 0 -1.2"/>', caster, n=4, far=3.0)
    # Slopes of the rows: 3/4, 1/4, -1/4, -3/4; 1.2 / 0.25 = 4.8 is beyond the far clip.
    np.testing.assert_allclose(image, np.repeat([[3.0], [3.0], [3.0], [1.6]], 4, axis=1), atol=1e-6)


def test_a_plane_ends_at_its_half_sizes_and_has_no_lower_side(caster):
    # The lowest row looks down at 4/5 and meets the floor 1.5 m ahead, at 1.2, 0.6, 0, -0.6, -1.2 m to the left.
    image = look('<geom type="plane" size="1.6 0.7 1" pos="0 0 -1.2"/>', caster)
    np.testing.assert_allclose(image[4], [10, 1.5, 1.5, 1.5, 10], atol=1e-6)
    assert np.all(image[:4] == 10.0)
    assert np.all(look('<geom type="plane" size="0 0 1" pos="0 0 1.2"/>', caster) == 10.0)


def test_rows_run_from_the_top_and_columns_from_the_left(caster):
    above = look('<geom type="box" size="0.5 0.5 0.5" pos="3.5 0 2.4"/>', caster)
    assert np.argwhere(above < 10).tolist() == [[0, 2]]
    left = look('<geom type="box" size="0.5 0.5 0.5" pos="3.5 2.4 0"/>', caster)
    assert np.argwhere(left < 10).tolist() == [[2, 0]]
    behind = look('<geom type="box" size="0.5 0.5 0.5" pos="-3.5 0 0"/>', caster)
    assert np.all(behind == 10.0)


@pytest.mark.parametrize(
    ("geom", "ahead", "upper", "right"),
    [
        # Depths at the slopes (0, 0), (0, 0.8) and (0.8, 0); every shape is centred 2 m ahead.
        (
            'type="sphere" size="1.5"',
            0.5,
            (2 - math.sqrt(4 - 1.64 * 1.75)) / 1.64,
            (2 - math.sqrt(4 - 1.64 * 1.75)) / 1.64,
        ),
        ('type="cylinder" size="1.5 1"', 0.5, 0.5, (2 - math.sqrt(4 - 1.64 * 1.75)) / 1.64),
        ('type="cylinder" size="1.5 0.3"', 0.5, 10.0, (2 - math.sqrt(4 - 1.64 * 1.75)) / 1.64),
        ('type="capsule" size="0.5 3"', 1.5, 1.5, 10.0),
        # The upper ball of the capsule: (2 - t)^2 + (1.2 - 0.8 t)^2 = 0.25.
        ('type="capsule" size="0.5 1.2"', 1.5, (2.96 - math.sqrt(2.96**2 - 1.64 * 5.19)) / 1.64, 10.0),
        ('type="box" size="0.5 1.3 1.1"', 1.5, 10.0, 1.5),
    ],
)
def test_shapes_by_hand(geom, ahead, upper, right, caster):
    image = look(f'<geom {geom} pos="2 0 0"/>', caster)
    np.testing.assert_allclose([image[2, 2], image[0, 2], image[2, 4]], [ahead, upper, right], atol=1e-5)


@pytest.mark.parametrize(
    ("geom", "depth"),
    [
        ('type="box" size="2 1 1"', 2.0),
        ('type="sphere" size="0.7"', 0.7),
        ('type="cylinder" size="0.7 1"', 0.7),
        ('type="capsule" size="0.7 1"', 0.7),
        ('type="capsule" size="0.7 1" zaxis="1 0 0"', 1.7),
        ('type="cylinder" size="0.7 1" zaxis="1 0 0"', 1.0),
    ],
)
def test_from_within_a_shape_its_inside_is_seen(geom, depth, caster):
    image = look(f'<geom {geom}/><geom type="box" size=".1 9 9" pos="5 0 0"/>', caster)
    assert image[2, 2] == pytest.approx(depth, abs=1e-6) and image.max() < 4.9


def test_pixels_are_square(caster):
    # 2 rows and 6 columns at 90 degrees: the slopes of the columns are 1/2, 3/2 and 5/2 to each side.
    model, data = build('<geom type="box" size=".5 3.1 9" pos="2.5 0 0"/>')
    image = DepthCamera(model, camera=Camera(2, 6), caster=caster).depth(data)
    assert image.tolist() == 2 * [[10, 2, 2, 2, 2, 10]]


@pytest.mark.parametrize("shape", ["cylinder", "capsule"])
def test_along_the_axis_of_a_tube(shape, caster):
    model, data = build(f'<geom type="{shape}" size="0.1 9" zaxis="1 0 0"/>')
    image = DepthCamera(model, camera=Camera(1, 51, fovy=0.05), caster=caster).depth(data)[0]
    slopes = math.tan(math.radians(0.025)) * np.arange(-50, 51, 2)
    sides = 0.1 / np.maximum(np.abs(slopes), 1e-9)
    if shape == "cylinder":
        np.testing.assert_allclose(image, np.minimum(9.0, sides), atol=TOLERANCE)
    else:  # a ball of radius 0.1 at the end
        assert (
            image[25] == pytest.approx(9.1) and np.all(image <= 9.1) and np.all(image >= np.minimum(9.0, sides) - 1e-5)
        )


def test_what_is_nearer_hides_what_is_farther_in_any_order(caster):
    near, far = '<geom type="sphere" size="0.5" pos="2 0 0"/>', '<geom type="box" size=".1 9 9" pos="4 0 0"/>'
    first, second = look(near + far, caster), look(far + near, caster)
    assert np.array_equal(first, second) and first[2, 2] == 1.5 and first[0, 0] == pytest.approx(3.9)


# ---------------------------------------------------------------------- what is seen

ROBOT_AND_WALL = '<geom name="own" size="0.1" pos="0.5 0 0"/><geom type="box" size=".1 9 9" pos="4.1 0 0"/>'


def test_only_visible_geoms_are_seen(caster):
    model, data = build(ROBOT_AND_WALL)
    groups = model.geom_group.copy()
    assert DepthCamera(model, caster=caster).depth(data).min() < 0.5
    assert np.all(DepthCamera(model, visible=[1], caster=caster).depth(data) == 4.0)
    assert np.all(DepthCamera(model, visible=[], caster=caster).depth(data) == 10.0)
    assert np.array_equal(model.geom_group, groups)
    model.geom_rgba[0, 3] = 0.0
    assert np.all(DepthCamera(model, caster=caster).depth(data) == 4.0)


def test_geoms_may_move_and_grow(caster):
    import mujoco

    model, data = build('<geom type="sphere" size="0.5" pos="3 0 0"/>')
    camera = DepthCamera(model, camera=Camera(1, 1), caster=caster)
    assert camera.depth(data)[0, 0] == 2.5
    model.geom_size[0, 0] = model.geom_rbound[0] = 1.0
    model.geom_aabb[0, 3:] = 1.0
    data.mocap_pos[0] = -1.0, 0.0, 0.0
    mujoco.mj_forward(model, data)
    assert camera.depth(data)[0, 0] == 3.0


def test_writes_where_it_is_told(caster):
    model, data = build(ROBOT_AND_WALL)
    camera, frames = DepthCamera(model, caster=caster), np.zeros((3, 50, 50, 1), np.float32)
    assert np.shares_memory(camera.depth(data, frames[1, ..., 0]), frames)
    assert np.array_equal(frames[1, ..., 0], camera.depth(data)) and not frames[0].any() and not frames[2].any()


def test_copies_see_the_same(caster):
    model, data = build(ROBOT_AND_WALL)
    camera = DepthCamera(model, visible=[1], caster=caster)
    for twin in (copy.deepcopy(camera), pickle.loads(pickle.dumps(camera))):
        assert np.array_equal(twin.depth(copy.copy(data)), camera.depth(data))


# ---------------------------------------------------------------------- colour


def test_colours_by_hand(caster):
    wall = '<geom type="box" size=".5 9 0.3" pos="3.5 0 0" rgba="1 0.2 0 1"/>'
    model, data = build(wall + '<geom type="plane" size="0 0 1" pos="0 0 -1.2" rgba="0 0 1 1"/>')
    image = DepthCamera(model, camera=Camera(5, 5), caster=caster).colour(data)
    assert image.shape == (5, 5, 3) and image.dtype == np.uint8
    assert image[2, 2].tolist() == [255, 51, 0]  # at right angles
    assert image[0, 2].tolist() == list(BACKGROUND)
    sine = 0.8 / math.sqrt(1 + 0.8**2)  # of the lowest ray to the floor
    assert image[4, 2].tolist() == [0, 0, round(255 * (AMBIENT + (1 - AMBIENT) * sine))]
    assert DepthCamera(model, camera=Camera(5, 5, far=2.0), caster=caster).colour(data)[2, 2].tolist() == list(
        BACKGROUND
    )


@needs_numba
@pytest.mark.parametrize("kind", BODIES)
def test_colours_agree_with_mujocos_normals(kind):
    model, data = hall(kind)
    rng = np.random.default_rng(4)
    model.geom_rgba[:, :3] = rng.uniform(0.2, 1.0, (model.ngeom, 3))
    ours, theirs = DepthCamera(model, caster="numba"), DepthCamera(model, caster="mujoco")
    for _ in range(10):
        shuffle(model, data, kind, rng)
        difference = np.abs(ours.colour(data).astype(int) - theirs.colour(data))
        assert (difference.max(axis=2) > 1).mean() < 0.002  # edges, and faces that lie in each other


# ---------------------------------------------------------------------- numba missing, and bad input


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "safe_envs.hallway.raycast", raising=False)
    monkeypatch.delattr("safe_envs.hallway.raycast", raising=False)
    camera_module._warn_once.cache_clear()
    yield
    camera_module._warn_once.cache_clear()


def test_without_numba_warns_once_and_sees_the_same(without_numba):
    model, data = hall("humanoids")
    shuffle(model, data, "humanoids", np.random.default_rng(5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cameras = [DepthCamera(model) for _ in range(3)]
    assert len(caught) == 1 and 'pip install "sb3-safe[hallway]"' in str(caught[0].message)
    for camera in cameras:
        assert np.abs(camera.depth(data) - oracle(model, data, 50)).max() <= TOLERANCE


def test_numba_by_name_needs_numba(without_numba):
    with pytest.raises(DependencyNotInstalled, match=r"sb3-safe\[hallway\]"):
        DepthCamera(build(ROBOT_AND_WALL)[0], caster="numba")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"height": 0}, "height must be an integer >= 1 in pixels, got 0"),
        ({"width": 2.5}, "width must be an integer >= 1 in pixels, got 2.5"),
        ({"fovy": 180.0}, r"fovy must be in \(0, 180\) degrees, got 180.0"),
        ({"far": 0.0}, "far must be a positive distance in m, got 0.0"),
        ({"far": math.nan}, "far must be a positive distance in m, got nan"),
    ],
)
def test_bad_cameras_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Camera(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "tail"}, r"no camera 'tail', only \['head'\]"),
        ({"visible": [0, 2, -1]}, r"indices of geoms from 0 to 1, got \[2, -1\]"),
        ({"caster": "opengl"}, "caster must be one of .*, got 'opengl'"),
    ],
)
def test_bad_views_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DepthCamera(build(ROBOT_AND_WALL)[0], **kwargs)


def test_shapes_that_cannot_be_seen_raise_unless_hidden(caster):
    model, data = build('<geom name="egg" type="ellipsoid" size="0.1 0.2 0.3" pos="2 0 0"/>' + ROBOT_AND_WALL)
    with pytest.raises(ValueError, match=r"geom 0 \('egg'\) has type 4"):
        DepthCamera(model, caster=caster)
    assert DepthCamera(model, visible=[2], caster=caster).depth(data).min() == 4.0


def test_bad_output_arrays_raise(caster):
    model, data = build(ROBOT_AND_WALL)
    camera = DepthCamera(model, caster=caster)
    for out in (np.empty((50, 50)), np.empty((50, 49), np.float32), np.empty((50, 50), np.float32).T):
        with pytest.raises(ValueError, match=r"out must be a contiguous float32 array \[50, 50\]"):
            camera.depth(data, out)
