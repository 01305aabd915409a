"""Navigation tasks without the work that changes nothing; observations, rewards and costs stay equal bit for bit.

Where a number is computed in another way than in Safety-Gymnasium, each operation is one that IEEE 754 defines
to the last bit (``+ - * /`` and the square root); products with matrices, angles and logarithms are NumPy's own.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import yaml
from numpy.typing import NDArray

from safe_wrappers.safety_gym.combined import Combined, combine
from safe_wrappers.safety_gym.loading import load

load()

from safety_gymnasium import agents, world  # noqa: E402  # none of these can be imported before load()
from safety_gymnasium.bases.base_agent import BaseAgent  # noqa: E402
from safety_gymnasium.bases.base_task import BaseTask  # noqa: E402
from safety_gymnasium.utils.random_generator import RandomGenerator  # noqa: E402

SKYBOX = re.compile(r'<texture type="skybox"[^>]*(/>|></texture>)')


@cache
def _read_once(path: str) -> Any:
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


# Half of what a reset takes without the sky was the parsing of the same list of textures.
world.yaml = SimpleNamespace(load=lambda file, Loader: _read_once(file.name), FullLoader=None)  # noqa: N803


class LeanWorld(world.World):
    """A world that is compiled without the sky.

    The sky is six star fields of 1024 x 1024 pixels, decoded at every reset and kept in every model, which
    only a renderer ever looks at.
    """

    def rebuild(self, config: dict[str, Any] | None = None, state: bool = True) -> None:
        """Compile the model of a new layout."""
        if self.model is not None:
            super().rebuild(config, state)
            return
        # The first time Safety-Gymnasium makes a new world instead, which runs mj_forward once and not twice:
        # the solver's warm start, and with it the last bits, would differ.
        self.parse(config)
        self.build()

    @property
    def xml_string(self) -> str | None:
        """The model that ``build`` compiles: it stores the XML here, and compiles what it finds here."""
        return self._xml_string

    @xml_string.setter
    def xml_string(self, xml: str | None) -> None:
        sky = SKYBOX.search(xml or "")
        self._sky = sky[0] if sky else ""
        self._xml_string = xml and SKYBOX.sub("", xml)

    def compile_with_sky(self) -> Any:
        """A second model of the present layout, for a renderer to take its textures from."""
        assert self._xml_string is not None
        # As the last texture: a scene names the others by their numbers in the lean model.
        return mujoco.MjModel.from_xml_string(self._xml_string.replace("</asset>", f"{self._sky}</asset>"))


class FastLayouts(RandomGenerator):
    """Layouts by the same draws; points in the plane need no arrays, of which some tasks reject thousands."""

    def sample_layout(self) -> bool:
        """Place all objects, up to 100 tries each; whether it succeeded."""
        placed: dict[str, tuple[float, float, float]] = {}
        for name, (placements, keepout) in self.placements.items():
            draw = self._sampler(placements, keepout)
            for _ in range(100):
                x, y = draw()
                if _is_free(x, y, placed.values(), self.placements_margin, keepout):
                    placed[name] = x, y, keepout
                    break
            else:
                return False
        self.layout = {name: np.array([x, y]) for name, (x, y, _) in placed.items()}
        return True

    def _sampler(self, placements: list[Any] | None, keepout: float) -> Callable[[], tuple[float, float]]:
        areas = [self.placements_extents] if placements is None else placements
        if len(areas) > 1:
            return lambda: self.draw_placement(placements, keepout).tolist()
        x_min, y_min, x_max, y_max = self.constrain_placement(areas[0], keepout)
        uniform = self.random_generator.uniform
        return lambda: (uniform(x_min, x_max), uniform(y_min, y_max))


def _is_free(x: float, y: float, placed: Iterable[tuple[float, float, float]], margin: float, keepout: float) -> bool:
    for other_x, other_y, other_keepout in placed:
        dx, dy = x - other_x, y - other_y
        if math.sqrt(dx * dx + dy * dy) < other_keepout + margin + keepout:
            return False
    return True


class FastAgent(Combined, BaseAgent):
    """A robot that knows where its body and its sensors are in MuJoCo's arrays."""

    def _init_body_info(self) -> None:
        super()._init_body_info()
        model = self.engine.model
        self._body = model.body("agent").id
        sensors = [model.sensor(i) for i in range(model.nsensor)]
        self._sensors = {s.name: slice(int(s.adr[0]), int(s.adr[0] + s.dim[0])) for s in sensors}

    @property
    def pos(self) -> NDArray[np.float64]:
        """Position of the body in the world."""
        return self.engine.data.xpos[self._body].copy()

    @property
    def mat(self) -> NDArray[np.float64]:
        """Rotation matrix of the body in the world."""
        return self.engine.data.xmat[self._body].reshape(3, 3).copy()

    def dist_xy(self, pos: Any) -> float:
        """Distance to a point in the plane."""
        x, y = self.engine.data.xpos[self._body, :2].tolist()
        x, y = float(pos[0]) - x, float(pos[1]) - y
        return math.sqrt(x * x + y * y)

    def get_sensor(self, name: str) -> Any:
        """Reading of a sensor; a number for a hinge angle that becomes sine and cosine."""
        value = self.engine.data.sensordata[self._sensors[name]].copy()
        is_angle = self.sensor_conf.sensors_angle_components and name in self.sensor_info.hinge_pos_names
        return value[0] if is_angle else value


class FiniteDict(gym.spaces.Dict):
    """Entries of an observation, of which a task asserts after every step that they are in the space."""

    def contains(self, x: Mapping[str, NDArray[Any]]) -> bool:
        """Whether all numbers are finite; that they have the right shapes and bounds is how the task made them."""
        return all(map(math.isfinite, np.concatenate([value.ravel() for value in x.values()]).tolist()))


@gym.spaces.utils.flatten.register(FiniteDict)
def _flatten(space: FiniteDict, x: Mapping[str, NDArray[Any]]) -> NDArray[Any]:  # type: ignore[misc]
    return np.concatenate([x[name].ravel() for name in space.spaces])


class FastTask(Combined, BaseTask):
    """What makes any navigation task fast; ``combine`` joins it with the task's own class."""

    def _build_agent(self, agent_name: str) -> None:
        self.random_generator = FastLayouts()
        self.agent = combine(FastAgent, getattr(agents, agent_name))(random_generator=self.random_generator)

    def build_observation_space(self) -> None:
        """Construct the observation space; called once, when the task is complete."""
        super().build_observation_space()
        self.obs_info.obs_space_dict = FiniteDict(OrderedDict(self.obs_info.obs_space_dict.spaces))
        self.world = LeanWorld(self.agent, self._obstacles)

    def simulation_forward(self, action: NDArray[np.float64]) -> bool:
        """Act for one step; whether the physics failed."""
        if self._mocaps or self.debug or self.action_noise:
            return super().simulation_forward(action)
        self.agent.apply_action(action)
        n_steps = self.random_generator.binomial(self.sim_conf.frameskip_binom_n, self.sim_conf.frameskip_binom_p)
        mujoco.mj_step(self.model, self.data, nstep=n_steps)
        mujoco.mj_forward(self.model, self.data)
        return False

    def _get_viewer(self, mode: str) -> Any:
        if mode in self._viewers:
            return super()._get_viewer(mode)
        engine, model = self.world.engine, self.world.model
        engine.model = self.world.compile_with_sky()
        # Textures go to the graphics context when it is made, once; scenes are drawn from the lean model.
        engine.model.vis.global_.offwidth = model.vis.global_.offwidth
        engine.model.vis.global_.offheight = model.vis.global_.offheight
        try:
            viewer = super()._get_viewer(mode)
        finally:
            engine.model = model
        viewer.model = model
        return viewer

    def _obs_lidar_pseudo(self, positions: Any) -> NDArray[np.float64]:
        conf = self.lidar_conf
        agent_pos, agent_mat = self.agent.pos, self.agent.mat
        readings = [0.0] * conf.num_bins
        bin_size = (np.pi * 2) / conf.num_bins
        for x, y, *_ in np.array(positions, ndmin=2).tolist():
            ahead, left, _ = np.matmul(np.array([x, y, 0.0]) - agent_pos, agent_mat).tolist()
            angle = float(np.arctan2(left, ahead)) % (np.pi * 2)
            distance = float(np.abs(complex(ahead, left)))
            if conf.max_dist is None:
                sensor = float(np.exp(-conf.exp_gain * distance))
            else:
                sensor = max(0, conf.max_dist - distance) / conf.max_dist
            index = int(angle / bin_size)
            readings[index] = max(readings[index], sensor)
            if conf.alias:
                alias = (angle - bin_size * index) / bin_size
                after, before = (index + 1) % conf.num_bins, (index - 1) % conf.num_bins
                readings[after] = max(readings[after], alias * sensor)
                readings[before] = max(readings[before], (1 - alias) * sensor)
        return np.array(readings)
