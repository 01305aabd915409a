"""The processes of ``WorkerVectorEnv``: errors that are told of, deaths that leave nothing behind, one thread each."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector.utils import create_shared_memory
from worker_toys import NUM_ENVS, Reusing, Shifted, Torch, Toy, equal, toys

from safe_envs.core.worker_memory import shared_arrays, shared_space
from safe_envs.core.worker_process import STEP, Job, Worker
from safe_envs.core.worker_vector import WorkerVectorEnv
from safe_wrappers.info import COST, VIOLATION


@pytest.fixture
def envs():
    envs = toys()
    yield envs
    envs.close()


def test_an_error_in_a_step_names_environment_and_step_and_a_reset_goes_on(envs):
    actions = np.zeros((NUM_ENVS, 2), np.float32)
    for _ in range(2):  # the steps before a reset do not count
        envs.reset(seed=0)
        envs.step(actions)
    actions[3] = 1e9
    message = r"environment 3 raised ZeroDivisionError in step 2 of its episode: too much\n(?s:.*)worker_toys.py"
    with pytest.raises(RuntimeError, match=message):
        envs.step(actions)
    with pytest.raises(ResetNeeded):
        envs.step(actions)
    envs.reset(seed=0)
    twin = toys(1)
    twin.reset(seed=0)
    calm = np.zeros((NUM_ENVS, 2), np.float32)
    for _ in range(4):
        assert equal(envs.step(calm)[4], twin.step(calm)[4])  # infos too: no column of the table got lost
    with pytest.raises(RuntimeError, match=r"environment 0 raised ValueError in reset\(\): cannot start"):
        envs.reset(options={"fail": True})
    twin.close()


def test_an_error_that_hides_the_first_infos_does_not_lose_them():
    class Strange(Toy):
        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {COST: info[COST], **({"bad": lambda: 0} if self.level else {})}

    envs = WorkerVectorEnv(Strange, 2, 2, context="fork")
    envs.set_attr("level", [0, 1])
    envs.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"worker of environments 1 to 1 raised .*lambda"):
        envs.step(np.zeros((2, 2), np.float32))
    envs.set_attr("level", 0)
    envs.reset(seed=0)
    assert envs.step(np.zeros((2, 2), np.float32))[4]["_cost"].all()
    envs.close()


def test_a_quiet_step_is_answered_by_an_empty_message():
    class Quiet(Reusing):
        def step(self, action):
            return self.value, 0.0, False, False, {COST: 0.0, VIOLATION: False}

    space = shared_space(Quiet.observation_space, Quiet.action_space)
    memory = create_shared_memory(space, n=3)
    worker = Worker(Job(range(1, 3), [Quiet, Quiet], space, memory, 3))
    assert worker.answer(pickle.dumps(("create", ()))) == b""
    worker.answer(pickle.dumps(("reset", ([None] * 2, [True] * 2, None))))
    columns = [(COST, "f8"), (VIOLATION, "?")]
    assert pickle.loads(worker.answer(STEP)) == (True, (columns, []))
    assert worker.answer(STEP) == b""
    assert shared_arrays(space, memory, 3)["present"][:, :3].tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0]]


def test_errors_in_the_making_name_the_environment():
    def fail():
        raise OSError("no such clip")

    with pytest.raises(RuntimeError, match="environment 1 raised OSError in its factory: no such clip"):
        WorkerVectorEnv([Toy, fail, Toy], num_workers=2, context="fork")
    with pytest.raises(RuntimeError, match=r"environment 2 raised ValueError .* its observation space must be"):
        WorkerVectorEnv([Toy, Toy, partial(Toy, size=2)], num_workers=2, context="fork")


class Misshapen(Toy):
    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation | {"image": np.zeros((4, 5), np.uint8)}, info


def test_an_observation_of_another_shape_raises():
    envs = WorkerVectorEnv(Misshapen, 2, 1, context="fork")
    with pytest.raises(
        RuntimeError, match=r"environment 0 (?s:.*)shape \(4, 5, 1\) and type uint8.*got shape \(4, 5\)"
    ):
        envs.reset()
    envs.close()


def is_gone(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":  # dead, and its parent's parent has not yet taken notice
            return True
        time.sleep(0.02)
    return False


def test_workers_leave_ctrl_c_to_the_parent(envs):
    envs.reset(seed=0)
    for process in envs.processes:
        os.kill(process.pid, signal.SIGINT)
    assert envs.step(np.zeros((NUM_ENVS, 2), np.float32))[0]["image"].shape == (NUM_ENVS, 4, 5, 1)


def test_a_killed_worker_is_told_of_and_the_others_end(envs):
    envs.reset(seed=0)
    pids = [process.pid for process in envs.processes]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker of environments 2 to 4 died with exit code -9"):
        envs.step(np.zeros((NUM_ENVS, 2), np.float32))
    assert envs.closed and all(map(is_gone, pids))
    with pytest.raises(ClosedEnvironmentError):
        envs.reset()


def test_closing_twice_ends_processes_and_frees_memory():
    envs = toys()
    memory = weakref.ref(envs._memory["observation"]["image"])
    pids = [process.pid for process in envs.processes]
    envs.close()
    envs.close()
    gc.collect()
    assert memory() is None and all(map(is_gone, pids))
    assert [process.exitcode for process in envs.processes] == [0, 0]
    with pytest.raises(ClosedEnvironmentError):
        envs.step(np.zeros((NUM_ENVS, 2), np.float32))


def test_a_forgotten_vector_environment_ends_its_processes():
    envs = toys()
    pids = [process.pid for process in envs.processes]
    del envs
    gc.collect()
    assert all(map(is_gone, pids))


PARENT = """
import sys
import numpy as np
from gymnasium.vector.utils import create_shared_memory
from worker_toys import NUM_ENVS, Toy

class Slow(Toy):
    def step(self, action):
        import time
        time.sleep(0.05)
        return super().step(action)

from safe_envs.core.worker_vector import WorkerVectorEnv
envs = WorkerVectorEnv(Slow, NUM_ENVS, 2, context="fork")
envs.reset(seed=0)
print(*[process.pid for process in envs.processes], flush=True)
try:
    while True:
        envs.step(np.zeros((NUM_ENVS, 2), np.float32))
except KeyboardInterrupt:
    print("closed" if envs.closed else "open", flush=True)
    raise
"""


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_an_interrupted_or_killed_parent(kill):
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )  # fmt: skip
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.3)
    if kill == signal.SIGINT:
        os.killpg(parent.pid, kill)  # as a terminal does at Ctrl-C: every process of the group gets it
    else:
        parent.send_signal(kill)
    output, errors = parent.communicate(timeout=20)
    assert all(map(is_gone, pids))
    if kill == signal.SIGINT:
        assert "closed" in output and errors.count("Traceback") == 1


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_other_start_methods_give_the_same_and_run_one_thread(context):
    offset = 0.5
    envs = WorkerVectorEnv([lambda: Shifted(offset) for _ in range(3)], num_workers=2, context=context)
    twin = WorkerVectorEnv([lambda: Shifted(offset) for _ in range(3)], num_workers=1, context="fork")
    assert equal(envs.reset(seed=0), twin.reset(seed=0))
    for _ in range(10):
        assert equal(envs.step(np.zeros((3, 2), np.float32)), twin.step(np.zeros((3, 2), np.float32)))
    assert envs.call("threads") == (("1", "1"),) * 3
    pids = [process.pid for process in envs.processes]
    envs.close(), twin.close()
    assert all(map(is_gone, pids))


def test_torch_has_one_thread_after_a_fork():
    torch.set_num_threads(2)
    try:
        envs = WorkerVectorEnv(Torch, 2, 2, context="fork")
        assert envs.call("torch_threads") == (1, 1) and torch.get_num_threads() == 2
        envs.close()
    finally:
        torch.set_num_threads(1)


def test_variables_for_the_workers_do_not_stay_in_the_parent(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    toys(1, 1).close()
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ
