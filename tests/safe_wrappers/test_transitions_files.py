"""Transitions on disk."""

import numpy as np
import pytest

from safe_wrappers import Transitions


def some(dict_obs=False, n=7, env_id="Some/Env-v0"):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, 3)).astype(np.float32) for _ in range(2)]
    observed = [{"a": each, "b": 2 * each} if dict_obs else each for each in rows]
    return Transitions(
        observed[0], rng.normal(size=(n, 2)), observed[1], rng.uniform(size=n), rng.random(n) > 0.5,
        rng.random(n) > 0.5, env_id,
    )  # fmt: skip


def test_lists_become_arrays_and_nested_observations_are_refused():
    nested = {"a": {"b": np.zeros((1, 2))}}
    with pytest.raises(ValueError, match="an array or a dict of arrays, got dict"):
        Transitions(nested, np.zeros((1, 1)), nested, [0.0], [False], [False])
    assert Transitions([[0.0, 1.0]], [[0.5]], [[1.0, 1.0]], [0.0], [False], [True]).observations.shape == (1, 2)


@pytest.mark.parametrize("dict_obs", [False, True])
@pytest.mark.parametrize("env_id", ["Some/Env-v0", None])
def test_what_is_saved_comes_back(dict_obs, env_id, tmp_path):
    data = some(dict_obs, env_id=env_id)
    data.save(tmp_path / "data.npz")
    again = Transitions.load(tmp_path / "data.npz")
    assert again.env_id == env_id
    for name in ("observations", "actions", "next_observations", "costs", "violations", "terminals"):
        first, second = getattr(data, name), getattr(again, name)
        for a, b in [(first[k], second[k]) for k in first] if isinstance(first, dict) else [(first, second)]:
            assert a.dtype == b.dtype and np.array_equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    data = some()
    data.save(tmp_path / "data.npz")
    before = (tmp_path / "data.npz").read_bytes()

    def full(file, **columns):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        data.save(tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"a text"])
def test_damaged_files_are_named(content, tmp_path):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.npz holds no transitions, or is damaged"):
        Transitions.load(tmp_path / "data.npz")


def test_foreign_archives_are_named(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz holds no transitions"):
        Transitions.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        Transitions.load(tmp_path / "none.npz")
