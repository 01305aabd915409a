"""Make safe_envs/hallway/assets/deepmimic_clips.npz from the motions and the humanoid of the installed pybullet wheel.

    pip install "sb3-safe[bullet]"
    python benchmarks/make_clips.py

The wheel (3.2.7) has 15 motions humanoid3d_*.txt, five walks and turns of walker/*.txt, and humanoid.urdf at four times
its size. See safe_envs/hallway/assets/deepmimic_NOTICE.txt for where they come from.
"""

import argparse
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pybullet_data

from safe_envs.hallway.clip_readers import JOINT_WIDTHS, read_deepmimic, z_up
from safe_envs.hallway.clips import DEFAULT_CLIPS, ClipLibrary, Geom, Skeleton

DATA = Path(pybullet_data.getDataPath())
SCALE = 0.25
LINKS = ("root", *JOINT_WIDTHS)
WRISTS = {"right_wrist": "right_elbow", "left_wrist": "left_elbow"}  # fixed to the forearm
PREFIX = "humanoid3d_"


def make_skeleton():
    """The URDF in metres, z up, with the hands as parts of the forearms: 13 links, 15 geoms."""
    robot = ElementTree.fromstring((DATA / "humanoid" / "humanoid.urdf").read_text().rstrip("\0"))
    links = {link.get("name"): link for link in robot.findall("link")}
    joints = {joint.find("child").get("link"): joint for joint in robot.findall("joint")}
    masses = {name: float(links[name].find("inertial/mass").get("value")) for name in (*LINKS, *WRISTS)}
    for wrist, elbow in WRISTS.items():
        masses[elbow] += masses[wrist]
    return Skeleton(
        "DeepMimic humanoid",
        LINKS,
        (-1, *(LINKS.index(joints[name].find("parent").get("link")) for name in LINKS[1:])),
        ((0.0, 0.0, 0.0), *(point(joints[name]) for name in LINKS[1:])),
        tuple(masses[name] for name in LINKS),
        (*(geom(links[name], name) for name in LINKS),
         *(geom(links[wrist], elbow, point(joints[wrist])) for wrist, elbow in WRISTS.items())),
    )  # fmt: skip


def point(element):
    """Origin of a joint or a collision shape in metres, z up."""
    place = z_up(SCALE * np.array(element.find("origin").get("xyz").split(), dtype=float))
    return tuple(round(float(value), 6) for value in place)


def geom(link, name, place=None):
    """The collision shape of a link. Capsules lie along y there and along z here, with no rotation left."""
    collision = link.find("collision")
    shape = collision.find("geometry")[0]
    if shape.tag == "box":
        x, y, z = (0.5 * SCALE * float(side) for side in shape.get("size").split())
        size = (x, z, y)
    else:
        size = (SCALE * float(shape.get("radius")),)
        if shape.tag == "capsule":
            size = (*size, 0.5 * SCALE * float(shape.get("length")))
    rounded = tuple(round(side, 6) for side in size)
    return Geom(LINKS.index(name), shape.tag, rounded, place or point(collision))


def read_all(skeleton):
    folder = DATA / "data" / "motions"
    files = [*sorted(folder.glob(f"{PREFIX}*.txt")), *sorted((folder / "walker").glob("*.txt"))]
    for file in files:
        clip = read_deepmimic(file, skeleton)
        name = file.stem.removeprefix(PREFIX) if file.stem.startswith(PREFIX) else f"walker_{file.stem.lstrip('0')}"
        yield type(clip)(name, clip.positions, clip.quaternions, clip.dt, clip.loop)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_CLIPS)
    out = parser.parse_args().out
    skeleton = make_skeleton()
    library = ClipLibrary.from_clips(skeleton, read_all(skeleton))
    library.save(out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {library}")
    for name, seconds, radius in zip(library.names, library.durations, library.swept_radius, strict=True):
        print(f"  {name:22}{seconds:6.2f} s a round, swept radius {radius:.2f} m")


if __name__ == "__main__":
    main()
