"""Humanoids that play motion-capture clips: moved by the clip alone, or simulated bodies that follow it."""

from __future__ import annotations

import math
from typing import Any, Literal
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray
from safe_envs.hallway.clips import ClipLibrary
from safe_envs.hallway.hall import Hall
from safe_envs.hallway.motion import Geom
from safe_envs.hallway.obstacles import Obstacles, body_name
from safe_envs.hallway.posing import pose_into

HumanoidPhysics = Literal["kinematic", "welded"]
"""How humanoids move; see ``Humanoids``."""

COLOURS = ("0.30 0.45 0.70 1", "0.70 0.45 0.30 1", "0.45 0.62 0.40 1", "0.60 0.45 0.65 1")
ATTEMPTS, DRAWS = 100, 30
"""How often the whole hall, and the clip and place of one humanoid, are drawn anew until nobody is in another's way."""
LIMB = 0.2
"""Metres by which a limb reaches beyond the origins of the links."""
SIMULATED_REACH, FALLEN_REACH = 0.5, 2.0
"""Metres by which a simulated body may leave the area that its clip sweeps: on its feet, and fallen."""

# Of simulated bodies. The armature keeps the springs stable at Doggo's physics step of 0.01 s.
STIFFNESS, LIMP = 1000.0, 50.0
"""Of the springs in N m/rad, of those who stand and of those who fall."""
JOINT = {"stiffness": str(STIFFNESS), "damping": "60", "armature": "0.1"}
WELD_SOLREF = "0.04 1"


class Humanoids(Obstacles):
    """Humanoids, each with a clip drawn anew every episode; no two clips of a hall sweep the same area.

    ``"kinematic"``: every link is where the clip has it; nothing can move it, and it never falls. ``"welded"``: links
    with mass and collisions, joined by ball joints whose springs pull them to the clip's pose, the root tied to the
    clip's until the robot touches the humanoid: then it goes limp for the rest of the episode and falls, perhaps on the
    robot. The paper's humanoids could fall; the kinematic default cannot.

    Args:
        hall: how many, and where.
        library: the clips.
        physics: ``"kinematic"`` or ``"welded"``.
        radius: of the robot in m.
        clearance: free space in m that it needs beside it.

    Raises:
        ValueError: for a hall too small for the humanoids.
    """

    counts_once = True

    def __init__(
        self, hall: Hall, library: ClipLibrary, physics: HumanoidPhysics, radius: float, clearance: float
    ) -> None:
        super().__init__(hall.n_obstacles)
        smallest = float(library.swept_radius.min())
        hall.check_slots("humanoids", smallest)
        hall.check_gap("humanoids", hall.width - 2.0 * smallest, 2.0 * radius + clearance)
        self.library, self.physics = library, physics
        self.clips = np.zeros(self.n, dtype=np.int64)
        """Index of the clip of each humanoid in this episode, ``[n]``."""
        self._hall = hall
        self._kept_free = hall.start_x[1] + radius
        self._phases = np.zeros(self.n)

    def add_to(self, model: Element) -> None:
        """See ``Obstacles``."""
        world = model.find("worldbody")
        assert world is not None
        for i in range(self.n):
            if self.physics == "kinematic":
                for link in range(len(self.library.skeleton.links)):
                    self._add_geoms(SubElement(world, "body", name=self._name(i, link), mocap="true"), i, link)
            else:
                self._add_simulated(model, world, i)

    def start(self, rng: np.random.Generator, data: Any) -> None:
        """See ``Obstacles``."""
        self._draw(rng)
        self._phases = rng.uniform(0.0, self.library.durations[self.clips])
        self.reach[:] = self.library.swept_radius[self.clips, None]
        if self.physics == "welded":
            self.reach += SIMULATED_REACH
            self._addresses, self._springs = self._joint_addresses(data.model)
            data.model.jnt_stiffness[self._springs] = STIFFNESS
            self._welds = np.array([data.model.equality(f"weld{i}").id for i in range(self.n)], dtype=np.int64)
            data.qpos[self._addresses] = self._joints(data)
        self.move(data)

    def move(self, data: Any) -> None:
        """See ``Obstacles``."""
        if self.physics == "kinematic":
            self._pose(data.time, data.mocap_pos, data.mocap_quat)
            return
        joints = self._joints(data)
        data.mocap_pos[:], data.mocap_quat[:] = joints[:, :3], joints[:, 3:7]
        on_feet = data.eq_active[self._welds].astype(bool)
        data.model.qpos_spring[self._addresses[on_feet]] = joints[on_feet]

    def touched(self, which: NDArray[np.bool_], data: Any) -> None:
        """See ``Obstacles``."""
        if self.physics == "welded" and which.any():
            data.eq_active[self._welds[which]] = False
            data.model.jnt_stiffness[self._springs[which]] = LIMP
            self.reach[which] = self.library.swept_radius[self.clips[which], None] + FALLEN_REACH

    def bounds(self, data: Any) -> tuple[FloatArray, FloatArray]:
        """See ``Obstacles.bounds``; of the clip's pose, also where simulated bodies are elsewhere."""
        links = (self.n, len(self.library.skeleton.links))
        positions = np.empty((*links, 3))
        self._pose(data.time, positions, np.empty((*links, 4)))
        return positions[..., :2].min(axis=1) - LIMB, positions[..., :2].max(axis=1) + LIMB

    def _pose(self, time: float, positions: FloatArray, quaternions: FloatArray) -> None:
        library, shape = self.library, (self.n, len(self.library.skeleton.links))
        pose_into(
            library.positions, library.quaternions, library.first, library.frames, library.dt,
            self.clips, self._phases + time, self.places, positions.reshape(*shape, 3), quaternions.reshape(*shape, 4),
        )  # fmt: skip

    def _joints(self, data: Any) -> FloatArray:
        """Joint positions ``[n, 3 + 4 L]`` of the clips' poses: the root's place, then a quaternion for each link."""
        links = len(self.library.skeleton.links)
        positions, quaternions = np.empty((self.n, links, 3)), np.empty((self.n, links, 4))
        self._pose(data.time, positions, quaternions)
        _, turns = self.library.skeleton.local(positions, quaternions)
        return np.concatenate([positions[:, 0], turns.reshape(self.n, 4 * links)], axis=1)

    def _joint_addresses(self, model: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where ``_joints`` belong in ``qpos``, and the joints with springs ``[n, L - 1]``.

        MuJoCo orders bodies by branches, a skeleton need not.
        """
        links = len(self.library.skeleton.links)
        joints = np.array([model.body(self._name(i, k)).jntadr[0] for i in range(self.n) for k in range(links)], int)
        starts = model.jnt_qposadr[joints].reshape(self.n, links, 1).astype(np.int64)
        turns = (starts[:, 1:] + np.arange(4)).reshape(self.n, 4 * (links - 1))
        return np.hstack([starts[:, 0] + np.arange(7), turns]), joints.reshape(self.n, links)[:, 1:]

    # ------------------------------------------------------------------ places

    def _draw(self, rng: np.random.Generator) -> None:
        for _ in range(ATTEMPTS):
            side = 1.0 if rng.random() < 0.5 else -1.0
            if all(self._draw_one(rng, i, side * (-1.0) ** i) for i in range(self.n)):
                return
        raise ValueError(
            f"no places were found for {self.n} humanoids in {self._hall.length} m x {self._hall.width} m: make the "
            "hall larger, or choose clips that need less space (ClipLibrary.subset, swept_radius)"
        )

    def _draw_one(self, rng: np.random.Generator, i: int, side: float) -> bool:
        """Draw clip and place of humanoid ``i``; false if it is in the way of those before it, whatever is drawn."""
        hall, radii = self._hall, self.library.swept_radius
        for _ in range(DRAWS):
            clip = int(rng.integers(len(radii)))
            outermost = hall.width / 2 - radii[clip]
            if outermost < 0.0:
                continue
            x = hall.slot_middles[i] + hall.jitter[0] * rng.uniform(-1.0, 1.0)
            y = side * min(hall.humanoid_offset + hall.jitter[1] * rng.uniform(-1.0, 1.0), outermost)
            apart = np.hypot(self.places[:i, 0] - x, self.places[:i, 1] - y) >= radii[self.clips[:i]] + radii[clip]
            if apart.all() and x - radii[clip] > self._kept_free:
                self.clips[i], self.places[i] = clip, (x, y, rng.uniform(-math.pi, math.pi))
                return True
        return False

    # ------------------------------------------------------------------ model

    def _name(self, i: int, link: int) -> str:
        return body_name(i) + self.library.skeleton.links[link]

    def _add_geoms(self, body: Element, i: int, link: int, **attributes: str) -> int:
        geoms = [geom for geom in self.library.skeleton.geoms if geom.link == link]
        for geom in geoms:
            SubElement(body, "geom", _attributes(geom), rgba=COLOURS[i % len(COLOURS)], **attributes)
        return len(geoms)

    def _add_simulated(self, model: Element, world: Element, i: int) -> None:
        skeleton = self.library.skeleton
        bodies: list[Element] = []
        for link, (parent, offset, mass) in enumerate(
            zip(skeleton.parents, skeleton.offsets, skeleton.masses, strict=True)
        ):
            body = SubElement(
                world if parent < 0 else bodies[parent], "body", name=self._name(i, link), pos=_text(offset)
            )
            bodies.append(body)
            SubElement(body, "freejoint") if parent < 0 else SubElement(body, "joint", JOINT, type="ball")
            n_geoms = sum(geom.link == link for geom in skeleton.geoms)
            # They touch the robot and the floor, not each other.
            self._add_geoms(body, i, link, mass=f"{mass / max(n_geoms, 1)}", contype="2")
            if not n_geoms:
                SubElement(body, "inertial", pos="0 0 0", mass=f"{max(mass, 0.01)}", diaginertia="0.001 0.001 0.001")
        target = SubElement(world, "body", name=f"target{i}", mocap="true")
        equality = model.find("equality")
        equality = SubElement(model, "equality") if equality is None else equality
        SubElement(
            equality, "weld", name=f"weld{i}", body1=target.get("name", ""), body2=self._name(i, 0), solref=WELD_SOLREF,
            relpose="0 0 0 1 0 0 0",
        )  # fmt: skip


def _attributes(geom: Geom) -> dict[str, str]:
    return {
        "type": geom.kind, "size": _text(geom.size), "pos": _text(geom.position), "quat": _text(geom.quaternion),
    }  # fmt: skip


def _text(numbers: tuple[float, ...]) -> str:
    return " ".join(map(repr, map(float, numbers)))
