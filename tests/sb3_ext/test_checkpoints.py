"""Checkpoints: N steps equal N/2 steps, a checkpoint and N/2 steps more, bit for bit; damage leaves the old one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corridors import (
    QUIET,
    Corridor,
    DictCorridor,
    GoalCorridor,
    assert_same_weights,
    buffer_rows,
    differing,
    noise,
    recorded,
    tensors,
    tiny,
    to_the_right,
    vec,
)
from stable_baselines3 import HerReplayBuffer

from safe_wrappers import files
from sb3_ext import MESA, RSPO, SQRL, DualAgent, RecoveryRL, SACLag, SafeSAC, SafeTD3
from sb3_ext.common import checkpoint
from sb3_ext.common.checkpoint import has_checkpoint

pytestmark = pytest.mark.filterwarnings(QUIET)
HALF = 42  # no multiple of the episodes' length: the checkpoint falls into an episode


def counters(model):
    """What is counted and averaged along the way."""
    names = (
        "num_timesteps", "n_episodes", "n_violating_episodes", "n_interventions", "_n_updates", "_episode_num",
        "safety_steps", "safety_violations", "pretraining_steps", "ep_cost_buffer",
    )  # fmt: skip
    found = {name: getattr(model, name) for name in names if hasattr(model, name)}
    return tensors(found | {"ep_cost_buffer": list(model.ep_cost_buffer)})


def assert_equal_runs(first, second):
    assert_same_weights(first, second)
    assert differing(counters(first), counters(second)) == []
    for name in first.buffers:
        own, other = getattr(first, name, None), getattr(second, name, None)
        assert (own is None) == (other is None)
        if own is not None:
            assert differing(buffer_rows(own), buffer_rows(other)) == []
    normalizers = first.get_vec_normalize_env(), second.get_vec_normalize_env()
    if normalizers[0] is not None:
        own, other = (tensors(n.__getstate__() | {"statistics": statistics(n)}) for n in normalizers)
        assert differing(own, other) == []


def statistics(normalizer):
    observed = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {"": normalizer.obs_rms}
    return [vars(rms) for rms in (normalizer.ret_rms, *observed.values())]


def go(model, steps):
    return model.learn(steps, reset_num_timesteps=False)


CASES = {
    "RecoveryRL": lambda: tiny(RecoveryRL).pretrain(recorded(), steps=5),
    "RecoveryRL, three environments": lambda: tiny(RecoveryRL, vec(3)),
    "RecoveryRL, VecNormalize": lambda: tiny(RecoveryRL, vec(3, normalize=True)).pretrain(recorded(), steps=5),
    "MESA": lambda: tiny(MESA).meta_train([recorded(), recorded(seed=1)], 3).adapt(recorded(50), 3),
    "SACLag": lambda: tiny(SACLag),
    "SACLag, PID": lambda: tiny(SACLag, multiplier="pid"),
    "SACLag, Dict": lambda: tiny(SACLag, vec(2, DictCorridor, normalize=True)),
    "SACLag, full buffer": lambda: tiny(SACLag, vec(3), buffer_size=30),
    "RSPO, by episodes": lambda: tiny(RSPO, anneal_episodes=10),
    "SafeTD3, action noise": lambda: tiny(SafeTD3, action_noise=noise()),
    "DualAgent": lambda: tiny(DualAgent, vec(2)),
    "DualAgent, given baseline": lambda: tiny(DualAgent, vec(2, normalize=True), baseline=to_the_right),
    "SafeSAC, gSDE": lambda: tiny(SafeSAC, use_sde=True, use_sde_at_warmup=True),
    "SQRL": lambda: tiny(SQRL).pretrain(recorded(), steps=5),
    "HER": lambda: tiny(SACLag, vec(2, GoalCorridor), replay_buffer_class=HerReplayBuffer, learning_starts=30),
}


@pytest.mark.parametrize("name", CASES)
def test_interrupted_run_equals_uninterrupted_one(name, tmp_path):
    uninterrupted = go(CASES[name](), 2 * HALF)
    go(CASES[name](), HALF).save_checkpoint(tmp_path)
    Corridor().reset(seed=9)
    np.random.seed(5)
    continued = type(uninterrupted).load_checkpoint(tmp_path)
    assert_equal_runs(uninterrupted, go(continued, HALF))


def test_writing_a_checkpoint_changes_nothing(tmp_path):
    uninterrupted, saving = (go(CASES["RecoveryRL, three environments"](), HALF) for _ in range(2))
    go(uninterrupted, HALF)
    # Global generators have moved on with the other model: continue from those that the checkpoint kept.
    saving = go(CASES["RecoveryRL, three environments"](), HALF)
    saving.save_checkpoint(tmp_path)
    assert_equal_runs(uninterrupted, go(saving, HALF))


@pytest.mark.parametrize("normalize", [False, True])
def test_pretraining_of_sqrl_is_continued(normalize, tmp_path):
    def start(steps):
        model = tiny(SQRL, vec(normalize=normalize))
        return model.pretrain(model.get_env(), steps)

    uninterrupted = start(2 * HALF)
    start(HALF).save_checkpoint(tmp_path)
    continued = go(SQRL.load_checkpoint(tmp_path), HALF)
    continued.pretraining_steps = uninterrupted.pretraining_steps  # learn() does not know that it pre-trains
    assert_equal_runs(uninterrupted, continued)
    assert uninterrupted.safety_steps >= 20


@pytest.mark.parametrize("normalize", [False, True])
def test_environments_that_cannot_be_copied_are_reset_in_both_runs(normalize, tmp_path):
    def start():
        return go(tiny(SACLag, vec(2, subprocess=True, normalize=normalize)), 2 * HALF)

    uninterrupted = start()
    uninterrupted.save_checkpoint(tmp_path / "own")
    go(uninterrupted, 2 * HALF)
    start().save_checkpoint(tmp_path / "other")
    with pytest.raises(ValueError, match="pass env="):
        SACLag.load_checkpoint(tmp_path / "other")
    env = vec(2, subprocess=True, normalize=normalize)
    continued = go(SACLag.load_checkpoint(tmp_path / "other", env=env), 2 * HALF)
    assert_equal_runs(uninterrupted, continued)
    for model in (uninterrupted, continued):
        model.get_env().close()


def test_new_episodes_have_seeds_that_are_no_other_runs(monkeypatch, tmp_path):
    seeds = set()
    for seed in (0, 1):
        model = tiny(SACLag, vec(1, subprocess=True), seed=seed)
        monkeypatch.setattr(model.env, "seed", lambda value: seeds.add(value))
        for steps in (0, 1, 100_000):
            model.num_timesteps = steps
            model.save_checkpoint(tmp_path)
        model.get_env().close()
    assert len(seeds) == 6 and not seeds & {0, 1, 2, 100_000, 100_001}


# ---------------------------------------------------------------------- damage


def saved(folder, steps=25):
    model = go(tiny(SACLag), steps)
    model.save_checkpoint(folder)
    return model


def contents(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    model = saved(tmp_path)
    go(model, 10).save_checkpoint(tmp_path)
    assert len(contents(tmp_path)) == 2
    assert SACLag.load_checkpoint(tmp_path).num_timesteps == 35


def test_no_checkpoint_is_a_clear_error(tmp_path):
    assert not has_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        SACLag.load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        SACLag.load_checkpoint(tmp_path / "absent")


def test_half_written_folders_are_ignored(tmp_path):
    saved(tmp_path)
    killed = tmp_path / ".killed.tmp"
    killed.mkdir()
    (killed / "model.zip").write_bytes(b"half")
    unpointed = tmp_path / "steps-999999999"
    unpointed.mkdir()
    assert has_checkpoint(tmp_path) and SACLag.load_checkpoint(tmp_path).num_timesteps == 25


@pytest.mark.parametrize("name", ["model.zip", "buffers.pkl", "environments.pkl", "state.pkl"])
@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"text", None])
def test_damaged_checkpoints_are_a_clear_error(name, damage, tmp_path):
    saved(tmp_path)
    (path,) = tmp_path.glob(f"steps-*/{name}")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises((ValueError, FileNotFoundError), match="steps-"):
        SACLag.load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_class_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match="RecoveryRL"):
        RecoveryRL.load_checkpoint(tmp_path)


WRITE_UNDER_A_LIMIT = """
import resource, sys, warnings
sys.path.insert(0, {tests!r})
from corridors import Corridor, tiny
from sb3_ext import SACLag
model = tiny(SACLag, buffer_size=5000).learn(30)
model.save_checkpoint({folder!r})
model.learn(10, reset_num_timesteps=False)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    model.save_checkpoint({folder!r})
except OSError as error:
    print("OSError:", error)
"""


@pytest.mark.parametrize("limit", [100, 5_000, 40_000])
def test_a_full_disk_leaves_the_old_checkpoint(limit, tmp_path):
    code = WRITE_UNDER_A_LIMIT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), limit=limit)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout or "No space" in done.stdout
    assert len(contents(tmp_path)) == 2
    assert go(SACLag.load_checkpoint(tmp_path), 5).num_timesteps == 35


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("more_steps", [0, 10])
def test_a_failure_at_any_moment_leaves_a_checkpoint(error, at, more_steps, tmp_path, monkeypatch):
    """The ``at``-th of the model, three dumps, the folder and the pointer fails; also if nothing was learned since."""
    model = go(saved(tmp_path), more_steps)
    calls = []

    def failing(function):
        def call(*args, **kwargs):
            calls.append(function)
            if len(calls) > at:
                raise error
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", failing(os.replace))
        patch.setattr(checkpoint, "_dump", failing(checkpoint._dump))
        with pytest.raises(type(error)):
            model.save_checkpoint(tmp_path)
    assert SACLag.load_checkpoint(tmp_path).num_timesteps == 25
    model.save_checkpoint(tmp_path)
    assert SACLag.load_checkpoint(tmp_path).num_timesteps == 25 + more_steps
    assert len(contents(tmp_path)) == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = tiny(SACLag)
    for write in (model.save_checkpoint, lambda folder: model.save(folder / "model.zip")):
        with pytest.raises(OSError, match="file"):
            write(tmp_path / "file" / "folder")


@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_a_folder_that_cannot_be_written_to_is_named(what, tmp_path, monkeypatch):
    model = saved(tmp_path)
    model.save(tmp_path / "model.zip")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(kwargs.get("dir", args)))

    with monkeypatch.context() as patch:  # the superuser of a test machine may write everywhere
        patch.setattr(Path, "touch", refuse)
        patch.setattr(files.tempfile, "mkdtemp", refuse)
        with pytest.raises(PermissionError, match=tmp_path.name):
            model.save(tmp_path / "model.zip") if what == "model" else model.save_checkpoint(tmp_path)
    assert_same_weights(SACLag.load(tmp_path / "model.zip"), model)
    assert SACLag.load_checkpoint(tmp_path).num_timesteps == 25


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = tiny(SACLag)
    model.save(tmp_path / "model.zip")
    before = (tmp_path / "model.zip").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.save(tmp_path / "model.zip")
    assert contents(tmp_path) == ["model.zip"] and (tmp_path / "model.zip").read_bytes() == before


def test_names_without_suffix_get_one_as_in_sb3(tmp_path):
    tiny(SACLag).save(tmp_path / "model")
    assert contents(tmp_path) == ["model.zip"]
    SACLag.load(tmp_path / "model")
