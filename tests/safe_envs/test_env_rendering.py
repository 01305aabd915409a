"""Pictures: what they show, when they are made, and what happens without the libraries."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from env_ids import batched_env, every_env
from gymnasium.error import DependencyNotInstalled, ResetNeeded

from safe_envs.core.geometry import Rectangle, Scene
from safe_envs.core.rendering import SceneRenderer, Style

SCENE = Scene(Rectangle(0, 10, 0, 5), (Rectangle(4, 6, 0, 1),), start=(1, 2), goal=(9, 4), goal_radius=0.5)


def pixel(frame, x, y):
    height, width, _ = frame.shape
    return tuple(int(v) for v in frame[round(height * (1 - y / 5)), round(width * x / 10)])


def test_objects_are_where_the_scene_says():
    style = Style()
    frame = SceneRenderer(SCENE).draw(np.array([[1.0, 1.0], [2.0, 4.0]]))
    assert frame.shape == (240, 480, 3) and frame.dtype == np.uint8
    assert pixel(frame, 5, 0.5) == style.obstacle
    assert pixel(frame, 9.3, 4) == style.goal_fill
    assert pixel(frame, 2, 4) == style.agent
    assert pixel(frame, 5, 3) == style.background
    assert pixel(frame, 1.5, 2.5) != style.background  # the line between the two positions


def test_drawing_twice_starts_from_a_clean_picture():
    renderer = SceneRenderer(SCENE)
    first = renderer.draw(np.array([[1.0, 1.0]]))
    renderer.draw(np.array([[3.0, 3.0]]))
    assert np.array_equal(first, renderer.draw(np.array([[1.0, 1.0]])))


@every_env
def test_renderer_is_made_at_the_first_render(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.unwrapped._renderer
    frame = env.render()
    assert before is None and env.unwrapped._renderer is not None
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    env.step(env.action_space.sample())
    assert not np.array_equal(frame, env.render())


@every_env
def test_human_mode_shows_a_window(env_id, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make(env_id, render_mode="human")
    monkeypatch.setitem(env.unwrapped.metadata, "render_fps", 1000)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert env.render() is None
    assert env.unwrapped._window is not None
    env.close()
    env.close()


@batched_env
def test_vector_environments_draw_one_picture_per_copy(env_id):
    envs = gym.make_vec(env_id, num_envs=2, render_mode="rgb_array")
    envs.reset(seed=0)
    assert [frame.ndim for frame in envs.render()] == [3, 3]
    assert gym.make_vec(env_id, num_envs=2).render() is None


@batched_env
def test_pictures_need_a_reset(env_id):
    for make in (gym.make, gym.make_vec):
        with pytest.raises(ResetNeeded):
            make(env_id, render_mode="rgb_array").unwrapped.render()


@pytest.mark.parametrize(("module", "mode"), [("PIL", "rgb_array"), ("pygame", "human")])
def test_missing_libraries_name_the_remedy(monkeypatch, module, mode):
    monkeypatch.setitem(sys.modules, module, None)
    env = gym.make("safe/Navigation1-v0", render_mode=mode).unwrapped
    with pytest.raises(DependencyNotInstalled, match="pip install"):
        env.reset(seed=0)
        env.render()


def test_render_without_a_mode_warns_and_bad_modes_raise():
    env = gym.make("safe/Navigation1-v0").unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    with pytest.raises(ValueError, match="render_mode"):
        type(env)(render_mode="ascii")
    with pytest.raises(ValueError, match="render_mode"):
        gym.make_vec("safe/Navigation1-v0", render_mode="human")
