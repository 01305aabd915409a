"""Motion-capture clips: the figure, what is made of a recording, and the shipped ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
from clip_samples import (
    LIBRARY,
    QUARTER,
    STICK,
    every_clip,
    random_quaternions,
    rotations,
    round_of,
    stick_clip,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from safe_envs.hallway.clip_preparation import floor_heights, prepare, resample
from safe_envs.hallway.clips import DEFAULT_CLIPS, Clip, ClipLibrary, Geom, Skeleton
from safe_envs.hallway.quaternions import about_z, heading, multiply, power, rotate, slerp


def test_rotations_agree_with_scipy():
    rng = np.random.default_rng(0)
    a, b, v = random_quaternions(rng, 50), random_quaternions(rng, 50), rng.standard_normal((50, 3))
    both = rotations(multiply(a, b)).inv() * (rotations(a) * rotations(b))
    assert both.magnitude().max() < 1e-12
    np.testing.assert_allclose(rotate(a, v), rotations(a).apply(v), atol=1e-12)
    between = (rotations(a).inv() * rotations(b)).as_rotvec()
    expected = rotations(a) * Rotation.from_rotvec(0.3 * between)
    assert (rotations(slerp(a, b, np.full(50, 0.3))).inv() * expected).magnitude().max() < 1e-7


def test_half_of_a_quarter_turn_and_its_heading():
    np.testing.assert_allclose(power(QUARTER, 0.5), [np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)], atol=1e-15)
    np.testing.assert_allclose(power(-QUARTER, 0.5), power(QUARTER, 0.5), atol=1e-15)
    np.testing.assert_array_equal(power(np.array([1.0, 0.0, 0.0, 0.0]), 0.5), [1.0, 0.0, 0.0, 0.0])
    assert heading(about_z(np.array([-3.0, 0.4, 4.0]))) == pytest.approx([-3.0, 0.4, 4.0 - 2 * np.pi])
    tilted = multiply(QUARTER, np.array([np.cos(0.2), np.sin(0.2), 0.0, 0.0]))
    assert heading(tilted) == pytest.approx(np.pi / 2)


def test_lowest_point_and_reach_of_a_stick_by_hand():
    positions, quaternions = stick_clip(frames=2).positions, np.tile([1.0, 0.0, 0.0, 0.0], (2, 2, 1))
    assert STICK.lowest(positions, quaternions) == pytest.approx([0.9, 0.9])
    assert STICK.reach(positions, quaternions) == pytest.approx([0.65, 0.65])
    hanging = np.array([[1.0, 0.0, 0.0, 0.0], [np.cos(np.pi / 4), 0.0, np.sin(np.pi / 4), 0.0]])  # x turns to -z
    assert STICK.lowest(positions[0], hanging) == pytest.approx(1.5 - 0.6 - 0.05)
    assert STICK.reach(positions[0], hanging) == pytest.approx(0.1)


def test_corners_of_a_box_by_hand():
    box = Skeleton("box", ("box",), (-1,), ((0.0, 0.0, 0.0),), (1.0,), (Geom(0, "box", (3.0, 4.0, 1.0)),))
    place, upright = np.array([[0.0, 0.0, 2.0]]), np.array([[1.0, 0.0, 0.0, 0.0]])
    assert box.lowest(place, upright) == 1.0 and box.reach(place, upright) == 5.0


def test_local_and_world_frames_are_inverse_to_each_other():
    rng = np.random.default_rng(1)
    skeleton = LIBRARY.skeleton
    positions, quaternions = rng.standard_normal((9, 13, 3)), random_quaternions(rng, 9, 13)
    there = skeleton.local(positions, quaternions)
    back = skeleton.world(*there)
    np.testing.assert_allclose(back[0], positions, atol=1e-12)
    np.testing.assert_allclose(back[1], quaternions, atol=1e-12)


def test_skeletons_are_equal_where_everything_is():
    assert Skeleton.from_json(STICK.to_json()) == STICK
    fields = json.loads(STICK.to_json())
    fields["offsets"][1][2] = 0.51
    other = Skeleton.from_json(json.dumps(fields))
    assert other != STICK and str(other) != str(STICK)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"parents": [-1]}, "equally many"),
        ({"parents": [-1, 1]}, "come before"),
        ({"parents": [0, 0]}, "-1 for the first"),
        ({"geoms": []}, "geoms"),
        ({"geoms": [{"link": 2, "kind": "sphere", "size": [0.1]}]}, "links 0 to 1"),
        ({"geoms": [{"link": 0, "kind": "cone", "size": [0.1]}]}, "'cone'"),
        ({"geoms": [{"link": 0, "kind": "box", "size": [0.1]}]}, "3 half sizes"),
        ({"geoms": [{"link": 0, "kind": "sphere", "size": [-0.1]}]}, "> 0"),
        ({"more": 1}, "no skeleton"),
    ],
)
def test_skeletons_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Skeleton.from_json(json.dumps({**json.loads(STICK.to_json()), **change}))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"positions": np.zeros((0, 2, 3))}, "T >= 2"),
        ({"positions": np.zeros((31, 6))}, "positions must have shape"),
        ({"quaternions": np.ones((30, 2, 4)) / 2}, "quaternions must have shape"),
        ({"positions": np.full((31, 2, 3), np.nan)}, "finite"),
        ({"quaternions": np.ones((31, 2, 4))}, "length 1"),
        ({"dt": 0.0}, "dt"),
        ({"dt": float("nan")}, "dt"),
        ({"loop": "ping-pong"}, "loop"),
    ],
)
def test_clips_that_cannot_be(change, message):
    clip = stick_clip()
    fields = {name: getattr(clip, name) for name in ("name", "positions", "quaternions", "dt", "loop")}
    with pytest.raises(ValueError, match=f"'sway'.*{message}"):
        Clip(**{**fields, **change})


def test_resampling_is_linear_in_places_and_even_in_turns():
    positions = np.array([[[0.0, 0.0, 0.0]], [[1.0, 0.0, 2.0]], [[1.0, 0.0, 2.0]]])
    quaternions = np.stack([about_z(angle)[None] for angle in (0.0, 2.0, -0.8)])
    where, turns = resample(positions, quaternions, np.array([0.0, 0.25, 1.5, 2.0]))
    np.testing.assert_allclose(where[:, 0], [[0, 0, 0], [0.25, 0, 0.5], [1, 0, 2], [1, 0, 2]], atol=1e-15)
    np.testing.assert_allclose(heading(turns)[:, 0], [0.0, 0.5, 0.6, -0.8], atol=1e-12)


def test_a_clip_is_sampled_at_about_60_hz_and_keeps_its_speed():
    prepared = prepare(STICK, stick_clip(frames=12, dt=1 / 23))  # 11/23 s are 28.7 frames, once there and once back
    assert len(prepared.positions) == 2 * 29 + 1
    assert 58 * prepared.dt == pytest.approx(2 * 11 / 23)


def test_a_clip_that_wraps_loses_what_it_travels_and_turns():
    prepared = prepare(STICK, stick_clip(speed=3.0, turn=1.2, loop="wrap"))
    # The trunk stands still and keeps its first heading; the arm's 1 rad is faded out over 15 frames on both sides.
    np.testing.assert_allclose(np.ptp(prepared.positions[:, 0], axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(heading(prepared.quaternions[:, 0]), 0.0, atol=1e-12)
    arm = heading(prepared.quaternions[:, 1])
    assert arm[0] == pytest.approx(0.5) and arm[15] == pytest.approx(0.5) and arm[30] == pytest.approx(0.5)
    # Over 15 frames the fade goes up as (1 - k/15)^2 / 2, against the swing of 1/30 rad per frame.
    assert arm[5] == pytest.approx(5 / 30 + 0.5 * (10 / 15) ** 2)


def test_any_other_clip_is_played_forwards_and_backwards():
    clip = stick_clip(speed=3.0, turn=1.2)
    prepared = prepare(STICK, clip)
    assert len(prepared.positions) == 61
    np.testing.assert_allclose(prepared.positions, prepared.positions[::-1], atol=1e-12)
    moved = prepared.positions[:31] - clip.positions  # as recorded, but for one shift
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0, 0], moved.shape), atol=1e-12)


@pytest.mark.parametrize("loop", ["wrap", "none"])
def test_signs_of_quaternions_mean_nothing(loop):
    clip = stick_clip(turn=1.2, loop=loop)
    signs = np.random.default_rng(3).choice([-1.0, 1.0], (31, 2, 1))
    plain, mixed = (prepare(STICK, c) for c in (clip, replace(clip, quaternions=signs * clip.quaternions)))
    np.testing.assert_allclose(mixed.positions, plain.positions, atol=1e-12)
    for prepared in (plain, mixed):
        assert (prepared.quaternions[1:] * prepared.quaternions[:-1]).sum(axis=-1).min() > 0.99


def test_a_stick_is_put_on_the_floor_and_its_swept_radius_is_exact():
    prepared = prepare(STICK, stick_clip())  # the ball's lowest point was at 0.9 m, that of the arm at 1.45 m
    np.testing.assert_allclose(prepared.positions[:, 0, 2], 0.1, atol=1e-12)
    np.testing.assert_allclose(prepared.positions[:-1, :, :2].mean(axis=(0, 1)), 0.0, atol=1e-12)
    assert prepared.swept_radius == pytest.approx(0.65)


@given(hnp.arrays(float, st.integers(1, 40), elements=st.floats(-2, 2)), st.integers(0, 50))
def test_the_floor_is_under_the_lowest_point_and_has_no_jumps(lowest, width):
    floor = floor_heights(lowest, width)
    assert (floor <= lowest + 1e-12).all() and (floor >= lowest.min() - 1e-12).all()
    steps = np.abs(np.diff(np.append(floor, floor[0])))
    assert (steps <= np.ptp(lowest) / (2 * width + 1) + 1e-12).all()


def test_a_flight_keeps_its_height_above_the_floor():
    lowest = np.full(120, 0.03)
    lowest[50:70] += np.sin(np.pi * np.arange(20) / 20)  # a jump of a third of a second
    np.testing.assert_allclose(floor_heights(lowest, 18), 0.03)


def test_another_skeletons_clip_is_refused_by_name():
    longer = stick_clip().positions.copy()
    longer[:, 1, 2] += 0.2
    clip = stick_clip()
    with pytest.raises(ValueError, match=r"'sway' is of another skeleton than stick.*its arm 0.20 m away"):
        prepare(STICK, Clip("sway", longer, clip.quaternions, clip.dt, "none"))
    with pytest.raises(ValueError, match=r"'sway' is of another skeleton than DeepMimic humanoid.*has 2 links"):
        ClipLibrary.from_clips(LIBRARY.skeleton, [clip])


def test_the_shipped_library():
    assert len(LIBRARY) == 20 and {"walk", "run", "getup_faceup", "walker_turn_left0"} <= set(LIBRARY.names)
    assert DEFAULT_CLIPS.stat().st_size < 0.5e6
    assert ClipLibrary.default() is LIBRARY
    assert sum(LIBRARY.skeleton.masses) == pytest.approx(45.0)
    assert (np.abs(LIBRARY.dt * 60 - 1) < 0.02).all()
    assert not any(getattr(LIBRARY, n).flags.writeable for n in ("positions", "quaternions", "first", "frames", "dt"))
    assert LIBRARY.durations[LIBRARY.names.index("walk")] == pytest.approx(38 * 0.033332, abs=1e-6)


@every_clip
def test_the_seam_is_no_larger_a_step_than_others_of_the_clip(name):
    positions, quaternions = round_of(LIBRARY, name)
    np.testing.assert_array_equal(positions[0], positions[-1])
    np.testing.assert_allclose(np.abs((quaternions[0] * quaternions[-1]).sum(axis=-1)), 1.0)
    moves = np.linalg.norm(np.diff(positions, axis=0), axis=-1).max(axis=-1)
    cosines = (quaternions[1:] * quaternions[:-1]).sum(axis=-1)
    assert cosines.min() > 0.9  # one hemisphere, and no leap of more than 52 degrees
    turns = np.arccos(np.minimum(cosines, 1.0)).max(axis=-1)
    assert max(moves[0], moves[-1]) <= moves[1:-1].max() and max(turns[0], turns[-1]) <= turns[1:-1].max()
    assert max(moves[0], moves[-1]) <= 2.1 * np.median(moves)


@every_clip
def test_the_figure_is_on_the_floor(name):
    lowest = LIBRARY.skeleton.lowest(*round_of(LIBRARY, name))
    assert lowest.min() == pytest.approx(0.0, abs=1e-3)  # stored poses are rounded
    assert np.quantile(lowest, 0.2) < 0.03  # and not in the air, but for jumps and strides
    if "walk" in name:
        assert lowest.max() < 0.025


@every_clip
def test_a_clip_is_centred_and_stays_within_its_swept_radius(name):
    positions, quaternions = round_of(LIBRARY, name)
    np.testing.assert_allclose(positions[:-1, :, :2].mean(axis=(0, 1)), 0.0, atol=1e-4)
    radius = LIBRARY.swept_radius[LIBRARY.names.index(name)]
    assert LIBRARY.skeleton.reach(positions, quaternions).max() == pytest.approx(radius, abs=2e-3)
    assert 0.3 < radius < 1.5


def test_a_walker_is_a_person_of_1_6_metres_who_faces_x():
    positions, quaternions = round_of(LIBRARY, "walk")
    hull = LIBRARY.skeleton.hull
    tops = positions[:, hull.links, 2] + rotate(quaternions[:, hull.links], hull.centres)[..., 2] + hull.radii
    assert 1.55 < tops.max() < 1.75
    left, right = (LIBRARY.skeleton.links.index(f"{side}_hip") for side in ("left", "right"))
    assert (positions[:, left, 1] > positions[:, right, 1] + 0.1).all()
    assert np.abs(heading(quaternions[:, 0])).max() < np.radians(15)
