"""Pictures of planar scenes: drawn with Pillow, shown with pygame, both imported at first use."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from safe_envs.core.geometry import FloatArray, Point, Rectangle, Scene

Colour = tuple[int, int, int]
Pixel = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """Sizes in pixels of the finished picture, and colours."""

    longest_side: int = 480
    shortest_side: int = 160
    supersampling: int = 3
    agent_radius: float = 5.0
    start_radius: float = 5.0
    dot_radius: float = 2.0
    line_width: float = 1.5
    background: Colour = (250, 250, 248)
    border: Colour = (120, 120, 120)
    obstacle: Colour = (214, 69, 65)
    goal_fill: Colour = (198, 232, 205)
    goal_line: Colour = (38, 140, 72)
    start: Colour = (110, 110, 110)
    path_old: Colour = (176, 196, 228)
    path_new: Colour = (25, 84, 166)
    agent: Colour = (16, 46, 96)


class SceneRenderer:
    """Draws a scene and a trajectory in it; x points right, y points up, both to the same scale.

    Args:
        scene: what to draw; only its extent is visible. A very flat extent is widened along its short side.
        style: sizes and colours.

    Raises:
        gymnasium.error.DependencyNotInstalled: if Pillow is missing.
    """

    def __init__(self, scene: Scene, style: Style | None = None) -> None:
        try:
            from PIL import Image, ImageDraw
        except ImportError as error:
            raise DependencyNotInstalled('rendering needs Pillow: pip install "pillow>=10"') from error
        self._image, self._draw_on = Image, ImageDraw.Draw
        self._scene, self._style = scene, style or Style()
        extent, style = scene.extent, self._style
        self._scale = style.longest_side / max(extent.width, extent.height)
        width, height = (max(side * self._scale, style.shortest_side) for side in (extent.width, extent.height))
        # Even, because common video codecs ask for it.
        self.size = (2 * round(width / 2), 2 * round(height / 2))
        """(width, height) of a picture in pixels."""
        self._background = self._draw_background()

    def draw(self, positions: FloatArray) -> NDArray[np.uint8]:
        """Picture ``[H, W, 3]`` of a trajectory ``[T, 2]``, T >= 1, with the agent at its last position."""
        image = self._background.copy()
        canvas, style = self._draw_on(image), self._style
        pixels = [self._pixel((x, y)) for x, y in positions.tolist()]
        n_lines = max(1, len(pixels) - 1)
        for i, (begin, end) in enumerate(pairwise(pixels)):
            colour = _blend(style.path_old, style.path_new, (i + 1) / n_lines)
            canvas.line([begin, end], fill=colour, width=round(style.line_width * style.supersampling))
            self._disc(canvas, begin, style.dot_radius, fill=colour)
        self._disc(canvas, pixels[-1], style.agent_radius, fill=style.agent)
        return np.asarray(image.resize(self.size, self._image.Resampling.BOX), dtype=np.uint8)

    def _draw_background(self) -> Any:
        scene, style = self._scene, self._style
        size = (self.size[0] * style.supersampling, self.size[1] * style.supersampling)
        image = self._image.new("RGB", size, style.background)
        canvas = self._draw_on(image)
        pixel, radius = self._pixel(scene.goal), scene.goal_radius * self._scale
        self._disc(canvas, pixel, radius, fill=style.goal_fill, outline=style.goal_line)
        for obstacle in scene.obstacles:
            canvas.rectangle(self._box(obstacle), fill=style.obstacle)
        self._disc(canvas, pixel, style.dot_radius, fill=style.goal_line)
        self._disc(canvas, self._pixel(scene.start), style.start_radius, outline=style.start)
        canvas.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=style.border, width=style.supersampling)
        return image

    def _pixel(self, point: Point) -> Pixel:
        """Where a point lies on the supersampled canvas, whose middle is the middle of the extent."""
        extent, factor = self._scene.extent, self._style.supersampling
        dx = point[0] - (extent.x_min + extent.x_max) / 2
        dy = point[1] - (extent.y_min + extent.y_max) / 2
        return (self.size[0] / 2 + dx * self._scale) * factor, (self.size[1] / 2 - dy * self._scale) * factor

    def _box(self, area: Rectangle) -> tuple[float, float, float, float]:
        left, top = self._pixel((area.x_min, area.y_max))
        right, bottom = self._pixel((area.x_max, area.y_min))
        return left, top, right, bottom

    def _disc(self, canvas: Any, centre: Pixel, radius: float, **colours: Colour) -> None:
        (x, y), factor = centre, self._style.supersampling
        box = (x - radius * factor, y - radius * factor, x + radius * factor, y + radius * factor)
        canvas.ellipse(box, width=round(self._style.line_width * factor), **colours)


class Window:
    """A pygame window that shows pictures.

    Args:
        title: of the window.
        fps: pictures per second; ``show`` waits so as not to exceed it.

    Raises:
        gymnasium.error.DependencyNotInstalled: if pygame is missing.
    """

    def __init__(self, title: str, fps: int) -> None:
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled('mode "human" needs pygame: pip install "sb3-safe[human]"') from error
        self._pygame, self._title, self._fps = pygame, title, fps
        pygame.display.init()
        self._clock = pygame.time.Clock()
        self._surface: Any = None

    def show(self, frame: NDArray[np.uint8]) -> None:
        """Show a picture ``[H, W, 3]``."""
        if self._surface is None:
            self._surface = self._pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            self._pygame.display.set_caption(self._title)
        self._pygame.surfarray.blit_array(self._surface, frame.swapaxes(0, 1))
        self._pygame.event.pump()
        self._pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()


def _blend(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue
