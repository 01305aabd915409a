"""Time per image of the hallway's depth camera, with numba and with MuJoCo's rays.

    python benchmarks/hallway_camera.py         # about 10 seconds

A camera at the height of Point's head looks along a hall of 20 x 4 m (a floor and two side walls) with 12 obstacles
at random places; humanoids have 15 links. Microseconds of processor time on one core, best of several calls per scene,
median and 90th percentile over the scenes; "worst" is the slowest scene with a camera anywhere, at any attitude. The
ratio compares whole calls of ``depth()``, MuJoCo's by ``mj_multiRay``.
"""

import argparse
import time

import mujoco
import numpy as np

from safe_envs.hallway.camera import DepthCamera

LINKS = ['<geom type="capsule" size=".05 .15"/>'] * 11
LINKS += ['<geom type="sphere" size=".1"/>'] * 2 + ['<geom type="box" size=".09 .04 .02"/>'] * 2
OBSTACLES = {
    "walls": (['<geom type="box" size=".05 .8 .4"/>'], 0.4),
    "poles": (['<geom type="cylinder" size=".15 .6"/>'], 0.6),
    "humanoids": (LINKS, 0.85),
}
HEAD = 'xyaxes="0 -1 0 0.37 0 0.93" fovy="90"'  # looks along x, 21.8 degrees down
N, SIDE = 12, '<geom type="box" size="11 .05 .5" pos="10 {} .5"/>'


def build(kind):
    bodies = "".join(f'<body mocap="true">{geom}</body>' for geom in N * OBSTACLES[kind][0])
    model = mujoco.MjModel.from_xml_string(
        f"""<mujoco><worldbody><geom type="plane" size="11 2 .1" pos="10 0 0"/>{SIDE.format(2.05)}{SIDE.format(-2.05)}
        <body mocap="true"><camera name="head" {HEAD}/></body>{bodies}</worldbody></mujoco>"""
    )
    return model, mujoco.MjData(model)


def shuffle(model, data, kind, rng, anywhere):
    parts, height = OBSTACLES[kind]
    places = np.repeat(rng.uniform([2, -1.5, height], [19, 1.5, height], (N, 3)), len(parts), axis=0)
    if kind == "humanoids":
        places += rng.uniform([-0.25, -0.25, -0.8], [0.25, 0.25, 0.8], places.shape)
        data.mocap_quat[1:] = attitudes(rng, len(places))
    data.mocap_pos[1:] = places
    data.mocap_pos[0] = 0.0, rng.uniform(-1, 1), 0.25
    if anywhere:
        data.mocap_pos[0] = rng.uniform([0, -1.8, 0.1], [20, 1.8, 1.5])
        data.mocap_quat[0] = attitudes(rng, 1)
    else:
        data.mocap_pos[0, 0] = rng.uniform(0, 19)
    mujoco.mj_forward(model, data)


def attitudes(rng, n):
    quaternions = rng.standard_normal((n, 4))
    return quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)


def microseconds(call, calls):
    """Processor time of one of a few calls in a row, the best of three times."""
    times = []
    for _ in range(3):
        start = time.process_time_ns()
        for _ in range(calls):
            call()
        times.append((time.process_time_ns() - start) / calls / 1000)
    return min(times)


def measure(kind, scenes):
    model, data = build(kind)
    rng, image = np.random.default_rng(0), np.empty((50, 50), np.float32)
    ours, theirs = (DepthCamera(model, caster=caster) for caster in ("numba", "mujoco"))
    ours.depth(data, image)  # compiles
    rows = []
    for anywhere in (False, True):
        for _ in range(scenes):
            shuffle(model, data, kind, rng, anywhere)
            numba = microseconds(lambda: ours.depth(data, image), 20)
            rows.append((numba, microseconds(lambda: theirs.depth(data, image), 1), anywhere))
    colour = microseconds(lambda: ours.colour(data), 20)
    return np.array(rows), colour


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    args = parser.parse_args()
    print(f"{'us per 50 x 50 image':22}{'numba':>8}{'p90':>7}{'worst':>7}{'mj_multiRay':>13}{'ratio':>7}{'colour':>8}")
    for kind in OBSTACLES:
        rows, colour = measure(kind, args.scenes)
        ahead = rows[rows[:, 2] == 0]
        numba, theirs = np.median(ahead[:, 0]), np.median(ahead[:, 1])
        print(
            f"{kind:22}{numba:>8.0f}{np.quantile(ahead[:, 0], 0.9):>7.0f}{rows[:, 0].max():>7.0f}"
            f"{theirs:>13,.0f}{theirs / numba:>7.0f}{colour:>8.0f}"
        )


if __name__ == "__main__":
    main()
