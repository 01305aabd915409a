"""The MJCF of a hallway: a robot's model, floor and walls around it, obstacles."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from safe_envs.hallway.hall import Hall
from safe_envs.hallway.obstacles import Obstacles
from safe_envs.hallway.robots import Robot

FLOOR, SIDE_WALL, END_WALL = "floor", "side_wall", "end_wall"
BOUNDARY_HEIGHT, BOUNDARY_THICKNESS = 1.0, 0.1
BOUNDARY_COLOUR = "0.72 0.74 0.78 1"
NEAREST_VISIBLE = 0.01
"""Near plane of pictures in m."""
EXTENT = 10.0

VISUAL = f"""
<visual>
  <global offwidth="960" offheight="640"/>
  <map znear="{NEAREST_VISIBLE / EXTENT}" zfar="10"/>
  <quality shadowsize="2048"/>
  <headlight ambient="0.35 0.35 0.35" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
</visual>"""
ASSET = """
<asset>
  <texture name="sky" type="skybox" builtin="gradient" rgb1="0.75 0.83 0.92" rgb2="1 1 1" width="64" height="64"/>
  <texture name="tiles" type="2d" builtin="checker" rgb1="0.88 0.88 0.86" rgb2="0.8 0.8 0.78" width="64" height="64"/>
  <material name="tiles" texture="tiles" texrepeat="1 1" texuniform="true"/>
</asset>"""


def hallway_xml(robot: Robot, hall: Hall, obstacles: Obstacles) -> str:
    """MJCF text of the hallway; geoms ``floor``, ``side_wall0``, ``side_wall1`` and two ``end_wall``."""
    model = ElementTree.fromstring(robot.xml)
    model.extend([ElementTree.fromstring(VISUAL), ElementTree.fromstring(ASSET)])
    SubElement(model, "statistic", extent=f"{EXTENT}", center=f"{hall.length / 2} 0 0")
    world, body = model.find("worldbody"), model.find("worldbody/body")
    assert world is not None and body is not None
    # Behind and above the robot, wherever it turns.
    SubElement(body, "camera", name="follow", mode="track", pos="-1.9 0 1.3", xyaxes="0 -1 0 0.4 0 0.92", fovy="60")
    _add_surroundings(world, hall)
    obstacles.add_to(model)
    return ElementTree.tostring(model, encoding="unicode")


def _add_surroundings(world: Element, hall: Hall) -> None:
    middle, half_length, half_width = hall.length / 2, hall.length / 2 + hall.margin, hall.width / 2
    # Attributes are spelled out: what the robot's file sets as default must not reach the hall.
    shared = {"condim": "6", "conaffinity": "3"}
    SubElement(
        world, "geom", shared, name=FLOOR, type="plane", material="tiles",
        pos=f"{middle} 0 0", size=f"{half_length} {half_width} 0.1",
    )  # fmt: skip
    out = BOUNDARY_THICKNESS / 2
    sides = [(SIDE_WALL, middle, sign * (half_width + out), half_length, out) for sign in (-1, 1)]
    ends = [(END_WALL, middle + sign * (half_length + out), 0.0, out, half_width) for sign in (-1, 1)]
    for i, (name, x, y, size_x, size_y) in enumerate([*sides, *ends]):
        SubElement(
            world, "geom", shared, name=f"{name}{i}", type="box", rgba=BOUNDARY_COLOUR,
            pos=f"{x} {y} {BOUNDARY_HEIGHT / 2}", size=f"{size_x} {size_y} {BOUNDARY_HEIGHT / 2}",
        )  # fmt: skip
    for name, x in (("start_line", 0.0), ("finish_line", hall.length)):
        SubElement(
            world, "site", name=name, type="box", rgba="0.15 0.55 0.3 0.9",
            pos=f"{x} 0 0.001", size=f"0.03 {half_width} 0.001",
        )  # fmt: skip
    SubElement(world, "light", pos=f"{middle} 0 6", dir="0 0.2 -1", directional="true", diffuse="0.5 0.5 0.5")
