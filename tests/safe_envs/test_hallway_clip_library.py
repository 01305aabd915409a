"""Libraries of clips: where the links of placed humanoids are, copies, and files."""

import copy
import pickle
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from clip_samples import (
    LIBRARY,
    STICK,
    rotations,
    round_of,
    stick_clip,
)
from scipy.spatial.transform import Rotation

from safe_envs.hallway import posing
from safe_envs.hallway.clips import DEFAULT_CLIPS, ClipLibrary

FUNCTIONS = ["vectorised", "loop", "compiled"]


def poses(function, library, clips, times, places):
    shape = (len(clips), len(library.skeleton.links))
    positions, quaternions = np.full((*shape, 3), np.nan), np.full((*shape, 4), np.nan)
    tables = (library.positions, library.quaternions, library.first, library.frames, library.dt)
    function(*tables, clips, times, places, positions, quaternions)
    return positions, quaternions


def test_a_pose_between_two_frames_is_their_mean_turned_and_moved():
    clip, place = LIBRARY.names.index("run"), np.array([5.0, -1.0, 2.1])
    first, dt = LIBRARY.first[clip], LIBRARY.dt[clip]
    positions, quaternions = LIBRARY.pose([clip, clip], [7.0 * dt, 7.5 * dt], [place, place])
    turn, offset = Rotation.from_euler("z", 2.1), np.array([5.0, -1.0, 0.0])
    p, q = (
        LIBRARY.positions[first + 7 : first + 9].copy(),
        rotations(LIBRARY.quaternions[first + 7 : first + 9].reshape(-1, 4)),
    )
    np.testing.assert_allclose(positions[0], turn.apply(p[0]) + offset, atol=1e-9)
    np.testing.assert_allclose(positions[1], turn.apply(p.mean(axis=0)) + offset, atol=1e-9)
    assert ((turn * q[:13]).inv() * rotations(quaternions[0])).magnitude().max() < 1e-7
    halfway = turn * q[:13] * Rotation.from_rotvec(0.5 * (q[:13].inv() * q[13:]).as_rotvec())
    assert (halfway.inv() * rotations(quaternions[1])).magnitude().max() < 1e-7
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=-1), 1.0, atol=1e-12)


def test_rounds_follow_each_other_for_ever():
    clips, places = np.arange(len(LIBRARY)), np.zeros((len(LIBRARY), 3))
    positions, _ = LIBRARY.pose(clips, 0.3 * LIBRARY.durations, places)
    for rounds in (-2, 1, 1000):
        later, _ = LIBRARY.pose(clips, (rounds + 0.3) * LIBRARY.durations, places)
        np.testing.assert_allclose(later, positions, atol=1e-9)
    before, after = (LIBRARY.pose(clips, t * LIBRARY.durations, places)[0] for t in (1 - 1e-9, 1 + 1e-9))
    np.testing.assert_allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("function", [posing.pose_vectorised, posing.pose_loop, posing.pose_into], ids=FUNCTIONS)
def test_just_before_zero_is_the_end_of_a_round(function):
    clips, places = np.arange(len(LIBRARY)), np.zeros((len(LIBRARY), 3))
    for times in (-1e-300, -1e-18, 0.0):  # by rounding, the remainder of the first two is all of the round
        positions, _ = poses(function, LIBRARY, clips, np.full(len(clips), times), places)
        np.testing.assert_allclose(positions, LIBRARY.positions[LIBRARY.first], atol=1e-12)


def test_loop_vectorised_and_compiled_agree():
    rng = np.random.default_rng(2)
    clips, times = rng.integers(0, len(LIBRARY), 300), rng.uniform(-50, 50, 300)
    places = rng.uniform(-9, 9, (300, 3))
    times[:20] = LIBRARY.durations[clips[:20]]
    expected = poses(posing.pose_vectorised, LIBRARY, clips, times, places)
    for function in (posing.pose_loop, posing.pose_into):
        found = poses(function, LIBRARY, clips, times, places)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


@pytest.mark.skipif(find_spec("numba") is None, reason="needs numba")
def test_twelve_humanoids_take_at_most_ten_microseconds():
    clips, times, places = np.arange(12), np.linspace(0, 2, 12), np.zeros((12, 3))
    out = poses(posing.pose_into, LIBRARY, clips, times, places)
    tables = (LIBRARY.positions, LIBRARY.quaternions, LIBRARY.first, LIBRARY.frames, LIBRARY.dt)
    best = np.inf
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(100):
            posing.pose_into(*tables, clips, times, places, *out)
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 10e-6


def test_without_numba_the_vectorised_function_is_used():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from safe_envs.hallway import posing\n"
        "assert posing.pose_into is posing.pose_vectorised"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    "clips, times, places",
    [
        ([0], [0.0, 1.0], [[0, 0, 0]]),
        ([0], [0.0], [[0, 0]]),
        ([20], [0.0], [[0, 0, 0]]),
        ([-1], [0.0], [[0, 0, 0]]),
        ([0.5], [0.0], [[0, 0, 0]]),
        ([0], [np.inf], [[0, 0, 0]]),
        ([0], [0.0], [[0, np.nan, 0]]),
    ],
)
def test_poses_that_cannot_be_asked_for(clips, times, places):
    with pytest.raises(ValueError, match="clips"):
        LIBRARY.pose(clips, times, places)


def test_saved_and_loaded_poses_differ_by_less_than_a_millimetre(tmp_path):
    library = ClipLibrary.from_clips(STICK, [stick_clip(), stick_clip(name="march", speed=1.0, turn=0.4, loop="wrap")])
    loaded = ClipLibrary.load(library.save(tmp_path / "stick.npz"))
    assert loaded.skeleton == STICK and loaded.names == ("sway", "march")
    np.testing.assert_allclose(loaded.positions, library.positions, atol=1e-3)
    np.testing.assert_allclose(loaded.quaternions, library.quaternions, atol=1e-3)
    for name in ("first", "frames", "dt", "swept_radius"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(library, name))
    assert [file.name for file in tmp_path.iterdir()] == ["stick.npz"]


def test_a_subset_holds_the_same_rounds_in_the_given_order():
    subset = LIBRARY.subset(["walk", "kick"])
    assert subset.names == ("walk", "kick") and len(subset.positions) == sum(subset.frames + 1)
    for name in subset.names:
        for found, expected in zip(round_of(subset, name), round_of(LIBRARY, name), strict=True):
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"among \['backflip'.*got \['swim'\]"):
        LIBRARY.subset(["walk", "swim"])
    with pytest.raises(ValueError, match="at least one"):
        LIBRARY.subset([])


def test_copies_share_the_tables_and_pickles_stay_read_only():
    assert copy.deepcopy(LIBRARY) is LIBRARY
    assert pickle.loads(pickle.dumps(LIBRARY)) is LIBRARY and len(pickle.dumps(LIBRARY)) < 1000
    subset = pickle.loads(pickle.dumps(LIBRARY.subset(["walk"])))
    np.testing.assert_array_equal(subset.positions, round_of(LIBRARY, "walk")[0])
    assert not subset.positions.flags.writeable


def test_files_of_one_skeleton_are_joined_and_others_refused(tmp_path):
    for name, names in (("b.npz", ["walk"]), ("a.npz", ["run", "kick"])):
        LIBRARY.subset(names).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("no clips")
    assert ClipLibrary.load(tmp_path).names == ("run", "kick", "walk")
    assert ClipLibrary.load([tmp_path / "b.npz", str(tmp_path / "a.npz")]).names == ("walk", "run", "kick")
    with pytest.raises(ValueError, match=r"several of \['kick', 'run'\]"):
        ClipLibrary.load([DEFAULT_CLIPS, tmp_path / "a.npz"])
    ClipLibrary.from_clips(STICK, [stick_clip()]).save(tmp_path / "c.npz")
    with pytest.raises(
        ValueError, match=r"\['sway'\] of .*c.npz are of the skeleton stick \(2 links.*DeepMimic humanoid"
    ):
        ClipLibrary.load(tmp_path)


def test_paths_that_hold_no_clips(tmp_path):
    with pytest.raises(ValueError, match="holds no clips"):
        ClipLibrary.load(tmp_path)
    with pytest.raises(ValueError, match="at least one file"):
        ClipLibrary.load([])
    for name in ("a.npz", "a.txt", "a.amc", "a.h5"):
        with pytest.raises(FileNotFoundError, match=name):
            ClipLibrary.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"ending in .npz or one of .*a.bvh"):
        ClipLibrary.load(tmp_path / "a.bvh")
    with pytest.raises(ValueError, match=r"must end in .npz"):
        LIBRARY.save(tmp_path / "a.dat")


def test_damaged_libraries_are_named(tmp_path):
    good = DEFAULT_CLIPS.read_bytes()
    path = tmp_path / "a.npz"
    with np.load(DEFAULT_CLIPS) as file:
        arrays = dict(file)
    arrays["positions"][5, 3, 1] = np.nan

    def saved(**arrays):
        np.savez(path, **arrays)
        return path.read_bytes()

    whole = dict(np.load(DEFAULT_CLIPS))
    with zipfile.ZipFile(DEFAULT_CLIPS) as archive:
        header = archive.getinfo("positions.npy").header_offset
    names, extra = (int.from_bytes(good[header + at : header + at + 2], "little") for at in (26, 28))
    begin = header + 30 + names + extra  # of the compressed bytes
    damaged = {
        "no deflated block": good[:begin] + b"\x07" + good[begin + 1 :],
        "truncated": good[:100_000],
        "nan": saved(**arrays),
        "no dt": saved(**{k: v for k, v in whole.items() if k != "dt"}),
        "dt": saved(**{**whole, "dt": 0 * whole["dt"]}),
        "too few rows": saved(
            **{**whole, "positions": whole["positions"][:-1], "quaternions": whole["quaternions"][:-1]}
        ),
        "radii": saved(**{**whole, "swept_radius": whole["swept_radius"][1:]}),
        "skeleton": saved(**{**whole, "skeleton": "{}"}),
        "no library": b"never mind",
    }
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.npz is damaged, or not a library of clips: .+; get the file anew"):
            ClipLibrary.load(path)
