"""What Safety-Gymnasium 1.0.0 needs to run on today's Python, NumPy, Gymnasium and MuJoCo.

It was released for Python 3.8-3.10, gymnasium 0.28.1, mujoco 2.3.3 and numpy 1. What it cannot import is put in place
while it is imported, and taken away again (``old_names``, ``array_defaults``). What it calls in a way that no longer
exists is replaced in its own modules (the functions in ``REPAIRS``).
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from gymnasium import wrappers
from gymnasium.envs import registration
from gymnasium.envs.registration import EnvSpec

from safe_wrappers.safety_gym import normalise


class NoMultiAgent:
    """Stands for gymnasium-robotics' class: ``make_ma`` also relies on attributes that wrappers no longer forward."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("safety_gymnasium.make_ma (multi-agent tasks) does not run on Gymnasium >= 1.0")


OLD_MODULES: dict[str, dict[str, Any]] = {
    "gymnasium.wrappers.autoreset": {"AutoResetWrapper": wrappers.Autoreset},
    "gymnasium.wrappers.compatibility": {"EnvCompatibility": None},
    "gymnasium.wrappers.env_checker": {"PassiveEnvChecker": wrappers.PassiveEnvChecker},
    "gymnasium.wrappers.normalize": {
        "NormalizeObservation": normalise.NormalizeObservation,
        "NormalizeReward": normalise.NormalizeReward,
        "RunningMeanStd": normalise.RunningMeanStd,
    },
    "gymnasium.wrappers.time_limit": {"TimeLimit": wrappers.TimeLimit},
    "gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi": {"MultiAgentMujocoEnv": NoMultiAgent},
}
"""Modules that Safety-Gymnasium imports by names of 2023, and what it takes from them."""


@contextmanager
def old_names() -> Iterator[None]:
    """While importing: the modules that Gymnasium 1.0 moved or dropped."""
    hidden = {name: sys.modules.get(name) for name in OLD_MODULES}
    for name, contents in OLD_MODULES.items():
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, original in hidden.items():
            sys.modules.pop(name)
            if original is not None:
                sys.modules[name] = original


@contextmanager
def array_defaults() -> Iterator[None]:
    """While importing: dataclass fields with an array as default, which Python 3.11 refuses, get a copy each."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> Any:
            for name in inspect.get_annotations(cls):
                default = cls.__dict__.get(name)
                if isinstance(default, np.ndarray):
                    setattr(cls, name, dataclasses.field(default_factory=default.copy))
            return original(cls, **options)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


@dataclass
class OldEnvSpec(EnvSpec):
    """Gymnasium's spec with the two switches that it had until 1.0."""

    autoreset: bool = False
    apply_api_compatibility: bool = False


def old_specs() -> None:
    """``safety_gymnasium.make`` reads and writes two fields that Gymnasium's ``EnvSpec`` lost."""
    from safety_gymnasium.utils import registration as theirs

    def find_spec(env_id: str) -> OldEnvSpec:
        spec = registration._find_spec(env_id)
        fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.init}
        return OldEnvSpec(**fields)

    theirs.EnvSpec = OldEnvSpec
    theirs._find_spec = find_spec


def viewer_size() -> None:
    """Gymnasium's off-screen viewer asks for the size that it took from the model before."""
    from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
    from safety_gymnasium.bases import underlying

    def viewer(model: Any, data: Any) -> Any:
        return OffScreenViewer(model, data, model.vis.global_.offwidth, model.vis.global_.offheight)

    underlying.OffScreenViewer = viewer


def scalar_joint_ids() -> None:
    """MuJoCo's ``jnt()`` takes an integer, and NumPy >= 2.4 makes none of the one-element array it is given."""
    from safety_gymnasium.bases.base_agent import BaseAgent

    class IntegerIds:
        def __init__(self, model: Any) -> None:
            self._model = model

        def __getattr__(self, name: str) -> Any:
            return getattr(self._model, name)

        def jnt(self, index: Any) -> Any:
            return self._model.jnt(int(np.ravel(index)[0]))

    original = BaseAgent._init_jnt_sensors

    def init_jnt_sensors(self: Any) -> None:
        engine = self.engine
        self.engine = SimpleNamespace(model=IntegerIds(engine.model), data=engine.data)
        try:
            original(self)
        finally:
            self.engine = engine

    BaseAgent._init_jnt_sensors = init_jnt_sensors


def scalar_angles() -> None:
    """``float()`` of a one-element array, the reading of a hinge angle, is an error since NumPy 2.4."""
    from safety_gymnasium.bases.base_agent import BaseAgent

    original = BaseAgent.get_sensor

    def get_sensor(self: Any, name: str) -> Any:
        value = original(self, name)
        is_angle = self.sensor_conf.sensors_angle_components and name in self.sensor_info.hinge_pos_names
        return value[0] if is_angle else value

    BaseAgent.get_sensor = get_sensor


def quiet_bounds() -> None:
    """Action bounds in single precision for a space of doubles: NumPy warns of an overflow that does no harm."""
    from safety_gymnasium.bases.base_agent import BaseAgent

    BaseAgent._build_action_space = np.errstate(over="ignore")(BaseAgent._build_action_space)


def vector_classes() -> None:
    """The vector classes override methods and arguments that Gymnasium's no longer have."""
    from safety_gymnasium import vector

    from safe_wrappers.safety_gym import vector as ours

    vector.SafetySyncVectorEnv = ours.SafetySyncVectorEnv
    vector.SafetyAsyncVectorEnv = ours.SafetyAsyncVectorEnv


REPAIRS: tuple[Callable[[], None], ...] = (
    old_specs,
    viewer_size,
    scalar_joint_ids,
    scalar_angles,
    quiet_bounds,
    vector_classes,
)


def import_repaired() -> ModuleType:
    """Import Safety-Gymnasium and repair it; an import that failed half-way before is forgotten."""
    import gymnasium.envs.mujoco.mujoco_rendering  # noqa: F401  # before dataclasses are touched
    import mujoco  # noqa: F401

    for name in [name for name in sys.modules if name.split(".")[0] == "safety_gymnasium"]:
        del sys.modules[name]
    with old_names(), array_defaults():
        import safety_gymnasium
    for repair in REPAIRS:
        repair()
    return safety_gymnasium
