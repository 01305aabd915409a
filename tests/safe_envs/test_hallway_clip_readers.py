"""Clips from the files of others: DeepMimic's and CMU's."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from clip_samples import (
    LIBRARY,
    needs_dm_control,
    needs_pybullet,
    random_quaternions,
)
from gymnasium.error import DependencyNotInstalled

from safe_envs.hallway.clip_readers import JOINT_WIDTHS, ROW, read_clips, read_cmu_hdf5, read_deepmimic
from safe_envs.hallway.clips import DEFAULT_CLIPS, ClipLibrary
from safe_envs.hallway.quaternions import slerp


def deepmimic_row(seconds=0.5, place=(0.0, 0.9, 0.0), root=(1.0, 0.0, 0.0, 0.0), **joints):
    rest = {name: [1.0, 0.0, 0.0, 0.0] if width == 4 else [0.0] for name, width in JOINT_WIDTHS.items()}
    return [seconds, *place, *root, *(value for joint in {**rest, **joints}.values() for value in joint)]


def deepmimic_file(folder, rows, loop="wrap", name="a.txt"):
    path = folder / name
    path.write_text(json.dumps({"Loop": loop, "Frames": rows}))
    return path


def test_a_motion_of_deepmimic_by_hand(tmp_path):
    bent = deepmimic_row(place=(1.0, 0.9, 2.0), right_knee=[-np.pi / 2])
    clip = read_deepmimic(deepmimic_file(tmp_path, [deepmimic_row(), bent, bent]), LIBRARY.skeleton)
    links = LIBRARY.skeleton.links
    assert clip.positions.shape == (3, 13, 3) and clip.dt == 0.5 and clip.loop == "wrap" and clip.name == "a"
    np.testing.assert_allclose(clip.positions[:, 0], [[0, 0, 0.9], [1, -2, 0.9], [1, -2, 0.9]], atol=1e-12)
    hip, shin, thigh = 0.084887, 0.409870, 0.421546  # a quarter of the URDF's lengths
    np.testing.assert_allclose(clip.positions[0, links.index("right_ankle")], [0, -hip, 0.9 - thigh - shin], atol=1e-6)
    # A right knee that bends brings the foot behind it, at the knee's height.
    np.testing.assert_allclose(
        clip.positions[1, links.index("right_ankle")], [1 - shin, -2 - hip, 0.9 - thigh], atol=1e-6
    )
    neck = 0.9 + 0.236151 + 0.223894
    np.testing.assert_allclose(clip.positions[0, links.index("neck")], [0, 0, neck], atol=1e-6)


def test_uneven_frames_are_made_even(tmp_path):
    rows = [deepmimic_row(0.1), deepmimic_row(0.3, place=(1.0, 0.9, 0.0)), deepmimic_row(0.0, place=(4.0, 0.9, 0.0))]
    clip = read_deepmimic(deepmimic_file(tmp_path, rows), LIBRARY.skeleton)
    assert clip.dt == pytest.approx(1 / 60) and len(clip.positions) == 25
    np.testing.assert_allclose(clip.positions[:, 0, 0], 10.0 * np.arange(25) / 60, atol=1e-12)


def test_a_motion_file_becomes_a_library(tmp_path):
    rows = [deepmimic_row(place=(0.2 * k, 0.9, 0.0), left_elbow=[0.1 * (k % 2)]) for k in range(5)]
    library = ClipLibrary.load([deepmimic_file(tmp_path, rows, name="stroll.txt"), DEFAULT_CLIPS])
    assert library.names == ("stroll", *LIBRARY.names)
    assert library.durations[0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"Loop": "wrap", "Frames": [[0.1, 0.2', "Expecting"),
        ('{"Loop": "wrap"}', "nothing at 'Frames'"),
        ("[]", "list indices"),
        ("[" * 100_000, "recursion"),
        (json.dumps({"Loop": "wrap", "Frames": []}), "at least 2 frames, got 0"),
        (json.dumps({"Loop": "wrap", "Frames": [deepmimic_row()] * 2 + [deepmimic_row()[:-1]]}), r"44 numbers.*\[43\]"),
        (json.dumps({"Loop": "wrap", "Frames": [[*deepmimic_row()[:-1], float("nan")]] * 2}), "NaN"),
        (json.dumps({"Loop": "wrap", "Frames": [deepmimic_row(0.0)] * 2}), r"> 0, got 0\.0"),
        (json.dumps({"Loop": "wrap", "Frames": [deepmimic_row(root=(0, 0, 0, 0))] * 2}), "length of every quaternion"),
        (json.dumps({"Loop": "often", "Frames": [deepmimic_row()] * 2}), "'often'"),
    ],
)
def test_damaged_motion_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"broken.txt is damaged, or not a motion file of DeepMimic: .*{message}"):
        ClipLibrary.load(path)


@needs_pybullet
@pytest.mark.parametrize("motion", ["walk", "cartwheel", "getup_faceup"])
def test_links_are_where_pybullet_has_them(motion):
    import pybullet
    import pybullet_data

    data = Path(pybullet_data.getDataPath())
    path = data / "data" / "motions" / f"humanoid3d_{motion}.txt"
    clip = read_deepmimic(path, LIBRARY.skeleton)
    rows = json.loads(path.read_text())["Frames"]
    client = pybullet.connect(pybullet.DIRECT)
    try:
        body = pybullet.loadURDF(str(data / "humanoid" / "humanoid.urdf"), globalScaling=0.25, physicsClientId=client)
        index = {
            pybullet.getJointInfo(body, j, physicsClientId=client)[12].decode(): j
            for j in range(pybullet.getNumJoints(body, physicsClientId=client))
        }
        for frame in (0, len(rows) // 3, len(rows) - 1):
            places = bullet_links(pybullet, client, body, index, rows[frame])
            expected = np.array([places[name] for name in LIBRARY.skeleton.links])[:, [0, 2, 1]] * [1, -1, 1]
            np.testing.assert_allclose(clip.positions[frame], expected, atol=2e-4)
    finally:
        pybullet.disconnect(client)


def bullet_links(pybullet, client, body, index, row):
    """Origin of each link's frame, y up, with the joints of a row."""
    pybullet.resetBasePositionAndOrientation(body, row[1:4], np.roll(row[4:8], -1), physicsClientId=client)
    start = 8
    for name, width in JOINT_WIDTHS.items():
        joint = row[start : start + width]
        angles = joint if width == 1 else np.roll(np.array(joint) / np.linalg.norm(joint), -1)
        pybullet.resetJointStateMultiDof(body, index[name], angles, physicsClientId=client)
        start += width
    assert start == ROW
    return {
        name: pybullet.getLinkState(body, j, computeForwardKinematics=True, physicsClientId=client)[4]
        for name, j in index.items()
    }


@needs_pybullet
def test_the_shipped_clips_are_what_the_script_makes():
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        import make_clips
    finally:
        sys.path.pop(0)
    skeleton = make_clips.make_skeleton()
    assert skeleton == LIBRARY.skeleton and len(skeleton.geoms) == 15
    made = ClipLibrary.from_clips(skeleton, make_clips.read_all(skeleton))
    assert made.names == LIBRARY.names
    np.testing.assert_allclose(made.positions, LIBRARY.positions, atol=1e-3)


def write_hdf5(path, skeleton, frames=9, dt=0.02, model=4, bodies=30, seed=0):
    """What dm_control's file of CMU clips holds of one clip, with angles at random."""
    import h5py

    rng = np.random.default_rng(seed)
    start, end = (random_quaternions(rng, 31) for _ in range(2))
    turns = slerp(start[None], end[None], np.linspace(0, 0.2, frames)[:, None])
    positions, quaternions = skeleton.world(np.tile(np.array(skeleton.offsets), (frames, 1, 1)), turns)
    with h5py.File(path, "w") as file:
        clip = file.create_group("CMU_001_01")
        clip.attrs["dt"] = dt
        walker = clip.create_group("walkers/walker_0")
        walker.attrs["model"] = model
        walker["position"], walker["quaternion"] = positions[:, 0].T, quaternions[:, 0].T
        walker["body_positions"] = positions[:, 1 : 1 + bodies].reshape(frames, -1).T
        walker["body_quaternions"] = quaternions[:, 1 : 1 + bodies].reshape(frames, -1).T
    return path, positions, quaternions


@pytest.fixture
def walker():
    pytest.importorskip("h5py")
    pytest.importorskip("mujoco")
    if find_spec("dm_control") is None:
        pytest.skip("needs dm_control")
    from safe_envs.sim.cmu_clips import walker_skeleton

    return walker_skeleton("humanoid_CMU_V2020.xml")


def test_an_hdf5_file_of_cmu_is_read_row_for_row(walker, tmp_path):
    path, positions, quaternions = write_hdf5(tmp_path / "cmu.h5", walker)
    skeleton, [clip] = read_cmu_hdf5(path)
    assert skeleton == walker and clip.name == "CMU_001_01" and clip.dt == 0.02
    np.testing.assert_allclose(clip.positions, positions, atol=1e-12)
    np.testing.assert_allclose(clip.quaternions, quaternions, atol=1e-12)
    library = ClipLibrary.load(path)
    assert library.durations == pytest.approx([2 * 8 * 0.02])
    assert walker.lowest(library.positions, library.quaternions).min() >= -1e-9


def test_the_walker_is_dm_controls(walker):
    import mujoco

    file = Path(find_spec("dm_control").origin).parent / "locomotion" / "walkers" / "assets" / "humanoid_CMU_V2020.xml"
    spec = mujoco.MjSpec.from_file(str(file))
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[9, 9, 1], pos=[0, 0, -3])
    model = spec.compile()
    data = mujoco.MjData(model)
    assert len(walker.links) == 31 and len(walker.geoms) == model.ngeom - 1
    assert sum(walker.masses) == pytest.approx(model.body_mass.sum(), abs=1e-4)
    rng = np.random.default_rng(0)
    floor, others = model.geom("floor").id, np.flatnonzero(model.geom_bodyid)
    for _ in range(5):
        data.qpos[:] = rng.uniform(*model.jnt_range.T)
        mujoco.mj_kinematics(model, data)
        expected = min(mujoco.mj_geomDistance(model, data, floor, geom, 9.0, None) for geom in others) - 3.0
        assert walker.lowest(data.xpos[1:], data.xquat[1:]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bodies": 29}, r"30 bodies in \[90, T\] and \[120, T\], got \[\[87, 9\]"),
        ({"dt": 0.0}, "dt must be finite and > 0"),
        ({"model": 7}, r"got models \[7\]"),
        ({"frames": 1}, "T >= 2"),
    ],
)
def test_damaged_hdf5_files_are_named(walker, tmp_path, change, message):
    path, *_ = write_hdf5(tmp_path / "cmu.hdf5", walker, **change)
    with pytest.raises(ValueError, match=rf"cmu.hdf5 is damaged, or not a file of dm_control.*{message}"):
        ClipLibrary.load(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cmu.hdf5 is damaged"):
        ClipLibrary.load(path)


def test_hdf5_without_what_it_needs(walker, tmp_path, monkeypatch):
    path, *_ = write_hdf5(tmp_path / "cmu.h5", walker)
    with monkeypatch.context() as patch:
        patch.setattr("safe_envs.sim.cmu_clips.find_spec", lambda name: None)
        from safe_envs.sim import cmu_clips

        cmu_clips._model.cache_clear()
        with pytest.raises(DependencyNotInstalled, match="pip install dm_control"):
            ClipLibrary.load(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DependencyNotInstalled, match="pip install h5py"):
        ClipLibrary.load(path)


@needs_dm_control
def test_dm_controls_own_recordings():
    pytest.importorskip("h5py")
    path = Path(find_spec("dm_control").origin).parent / "locomotion" / "mocap" / "test_trajectories.h5"
    library = ClipLibrary.load(path)
    assert library.names == ("cmuv2019_001", "cmuv2019_002") and library.skeleton.name == "humanoid_CMU_V2019"
    assert library.durations == pytest.approx([0.9, 0.9])
    # The bodies of the file hang together as those of the XML do.
    local, _ = library.skeleton.local(library.positions, library.quaternions)
    np.testing.assert_allclose(local[:, 1:] - np.array(library.skeleton.offsets)[1:], 0.0, atol=1e-4)


@pytest.fixture
def amc(monkeypatch):
    """Lines of dm_control's ``.amc``: seven frames of CMU's skeleton with all angles 0."""
    pytest.importorskip("mujoco")
    if find_spec("dm_control") is None:
        pytest.skip("needs dm_control")
    monkeypatch.setenv("MUJOCO_GL", "disable")  # dm_control opens OpenGL when it is imported, else
    path = Path(find_spec("dm_control").origin).parent / "suite" / "demos" / "zeros.amc"
    return path.read_text()


def test_an_amc_file_is_played_by_dm_controls_humanoid(amc, tmp_path):
    path = tmp_path / "stand.amc"
    path.write_text(amc.replace("root 0 0 0 0 0 0", "root 0 10 20 0 0 0").replace("rradius 0", "rradius 90"))
    skeleton, [clip] = read_clips(path)
    assert clip.positions.shape == (7, 31, 3) and clip.dt == pytest.approx(1 / 120) and clip.loop == "none"
    # A unit of the file is 0.056444 m; its y is up, its z forward (or minus our y).
    np.testing.assert_allclose(clip.positions[0, 0], [0.0, -20 * 0.056444, 10 * 0.056444], atol=1e-9)
    at = {name: clip.positions[0, skeleton.links.index(name)] for name in skeleton.links}
    upper, fore = at["rradius"] - at["rhumerus"], at["rwrist"] - at["rradius"]
    other_upper, other_fore = at["lradius"] - at["lhumerus"], at["lwrist"] - at["lradius"]
    assert upper @ fore == pytest.approx(0.0, abs=1e-9)  # the elbow that was bent by 90 degrees
    assert other_upper @ other_fore == pytest.approx(np.linalg.norm(other_upper) * np.linalg.norm(other_fore))
    library = ClipLibrary.load(path)
    assert (
        library.names == ("stand",) and library.skeleton.lowest(library.positions, library.quaternions).min() >= -1e-9
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("rradius 0", "rradius 0 0"), "62 numbers, got 63 in frame 1"),
        (lambda text: text[: text.rindex("lfemur")], "62 numbers, got 55 in frame 7"),
        (lambda text: text.replace("head 0 0 0", "skull 0 0 0"), "CMU's bones .*'skull'"),
        (lambda text: text.replace("head 0 0 0", "head 0 nan 0"), "finite"),
        (lambda text: text.replace("head 0 0 0", "head 0 x 0"), "could not convert"),
        (lambda text: "", "CMU's bones"),
        (lambda text: text[: text.index("\n2\n")], "T >= 2"),
    ],
)
def test_damaged_amc_files_are_named(amc, tmp_path, change, message):
    path = tmp_path / "broken.amc"
    path.write_text(change(amc))
    with pytest.raises(ValueError, match=rf"broken.amc is damaged, or not an .amc of CMU: .*{message}"):
        ClipLibrary.load(path)
