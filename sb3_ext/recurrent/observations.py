"""What a recurrent agent reads of an observation: which entries are images, and how these become bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray

from safe_wrappers.feedback import FEEDBACK, OBSERVATION

MAX_CHANNELS = 4  # RGB with depth; a Box with more along its first and last axis is taken for a vector
BRIGHTEST = 255
TensorObs = dict[str, th.Tensor]


@dataclass(frozen=True)
class ObservationLayout:
    """The entries that are read, by name; a Box observation is one entry called ``observation``.

    Attributes:
        images: shapes of the images as the space gives them, ``[H, W, C]`` or ``[C, H, W]``.
        vectors: number of entries of everything else, flattened.

    Images are Boxes with three axes, of bytes or of floats in [0, 1]. **Floats are rounded to 256 levels**, in replay
    and for acting alike, so that both see the same.
    """

    images: dict[str, tuple[int, ...]]
    vectors: dict[str, int]

    @classmethod
    def of(cls, space: spaces.Space[Any], use_feedback: bool) -> ObservationLayout:
        """Read a space.

        Args:
            space: a Box, or a Dict of Boxes.
            use_feedback: whether the previous reward and cost are read; if not, they are left out where they are.

        Raises:
            ValueError: for other spaces, or if the feedback is wanted and missing.
        """
        entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
        missing = [name for name in FEEDBACK if name not in entries]
        if use_feedback and missing:
            raise ValueError(
                f"the observation has no {missing}: wrap the environment in safe_wrappers.PreviousFeedback, or pass "
                "use_feedback=False for an agent without it"
            )
        images, vectors = {}, {}
        for name, box in entries.items():
            if not isinstance(box, spaces.Box):
                raise ValueError(f"observations must be a Box or a Dict of Boxes, got {box} for {name!r}")
            if is_image(box):
                images[name] = box.shape
            elif use_feedback or name not in FEEDBACK:
                vectors[name] = int(np.prod(box.shape))
        if not images and not vectors:
            raise ValueError(f"nothing is left to observe in {space} without {FEEDBACK}")
        return cls(images, vectors)

    @property
    def names(self) -> list[str]:
        """All entries, images first."""
        return [*self.images, *self.vectors]

    def arrays(self, observation: Any) -> dict[str, NDArray[Any]]:
        """Observations ``[B, ...]`` as they are kept: images as bytes ``[B, ...]``, vectors as float32 ``[B, D]``."""
        entries = observation if isinstance(observation, Mapping) else {OBSERVATION: observation}
        images = {name: to_bytes(entries[name]) for name in self.images}
        vectors = {name: np.asarray(entries[name], np.float32).reshape(-1, n) for name, n in self.vectors.items()}
        return images | vectors

    def tensors(self, arrays: Mapping[str, NDArray[Any]], device: th.device | str) -> TensorObs:
        """Input of the networks: images as floats in [0, 1], ``[B, C, H, W]`` in channels-last memory, and vectors.

        Args:
            arrays: entries as ``arrays`` makes them, with any number of leading axes, which are joined into ``B``.
            device: where the tensors go.
        """
        found = {name: tensor(arrays[name], device).reshape(-1, n) for name, n in self.vectors.items()}
        for name, shape in self.images.items():
            pixels = tensor(arrays[name], device).reshape(-1, *shape)
            pixels = pixels if is_channels_first(shape) else pixels.permute(0, 3, 1, 2)
            found[name] = pixels.to(th.float32, memory_format=th.channels_last).mul_(1.0 / BRIGHTEST)
        return found


def is_image(box: spaces.Box) -> bool:
    """Whether a Box is read as an image: three axes, the first or the last of at most 4 channels, bytes or [0, 1]."""
    if len(box.shape) != 3 or min(box.shape[0], box.shape[2]) > MAX_CHANNELS:
        return False
    brightest = BRIGHTEST if box.dtype == np.uint8 else 1.0
    known = box.dtype == np.uint8 or np.issubdtype(box.dtype, np.floating)
    return known and bool(np.all(box.low == 0.0) and np.all(box.high == brightest))


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an image of that shape is ``[C, H, W]``."""
    return shape[0] < shape[2]


def to_bytes(image: Any) -> NDArray[np.uint8]:
    """Floats in [0, 1] to 0..255, to the nearest; bytes stay as they are."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return np.rint(np.clip(image, 0.0, 1.0) * BRIGHTEST).astype(np.uint8)


def tensor(array: NDArray[Any], device: th.device | str) -> th.Tensor:
    """An array on the device."""
    # A copy: NumPy's memory is aligned now this way and now that way, and so is the rounding of products with it.
    return th.tensor(np.ascontiguousarray(array), device=device)
