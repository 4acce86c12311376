"""Training on several ranks: what `parallel_checks.py` states holds on two and three, and no rank waits."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOON = 30  # seconds; on a machine that nobody shares it is less than ten
BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Open MPI wants to be told that a container's root may start it, and more ranks than there are cores.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def start(ranks, *arguments, **keywords):
    """Start Python on so many ranks."""
    return subprocess.Popen(
        [str(MPIEXEC), "-n", str(ranks), sys.executable, "-W", "error", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT, **keywords,
    )  # fmt: skip


def end(process, seconds=200):
    """Give what a process prints from here on until it ends, and its return code."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    with process:
        printed = process.stdout.read()
    waits = not timer.is_alive()
    timer.cancel()
    if waits:
        pytest.fail(f"some rank waits: {printed}")
    return printed, process.returncode


@cache
def reason():
    """Say why no MPI can start here."""
    if MPIEXEC is None:
        return "there is no mpiexec"
    try:
        printed, code = end(start(2, "-c", "from mpi4py import MPI; print(MPI.COMM_WORLD.allreduce(21))"), 60)
    except OSError as error:
        return str(error)
    return "" if code == 0 and printed.count("42") == 2 else printed


@pytest.fixture(autouse=True)
def _mpi():
    if why := reason():
        pytest.skip(f"no MPI can start (pip install 'minidiff[mpi]'): {why:.300}")


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_must_hold_on_all_ranks(ranks):
    printed, code = end(start(ranks, ROOT / "tests" / "parallel_checks.py"))
    assert code == 0, printed
    checks = re.findall(r"^def check_(\w+)", (ROOT / "tests" / "parallel_checks.py").read_text(), re.M)
    assert re.findall(r"^passed (\w+)", printed, re.M) == checks


BEGINNING = """\
import sys, traceback
# Each rank prints its error at once, so that no other's stands within it.
sys.excepthook = lambda *error: sys.stderr.write("".join(traceback.format_exception(*error)))
import os, signal, sys, time
import numpy as np
from mpi4py import MPI
from minidiff import gradient, param, params, train
from minidiff.optimise import Descent, update
from minidiff.parallel import average

comm, W = MPI.COMM_WORLD, param(np.ones(3))
calls = []

def at(step, rank=1):
    calls.append(1)
    return comm.rank == rank and len(calls) == step

def loss(x):
    factor = failing() if at(3) else 1
    return factor * np.sum((W - x) ** 2)

def failing():
    print("failing", flush=True)
    return fail()

def go():
    train(loss, params(W), [1.0] * 10, Descent(0.1), transform=average(comm))

"""
BY_HAND = """
mean = average(comm)
for _ in range(10):
    update(Descent(0.1), params(W), mean(gradient(lambda: loss(1.0), params(W))))
"""
FAILURES = {
    "an exception": (
        "def fail(): raise ValueError('bad data')\ngo()",
        ["ValueError: bad data", "ValueError: rank 1: bad data"],
    ),
    "an exception in a loop by hand": (
        "def fail(): raise ValueError('bad data')\n" + BY_HAND,
        ["ValueError: bad data", "ValueError: rank 1: bad data"],
    ),
    "an exit in a loop by hand": (
        "def fail(): sys.exit(3)\n" + BY_HAND,
        ["rank 1 has ended its training, and rank 0 has not"],
    ),
    "a loss that is no number": (
        "def fail(): return np.nan\ngo()",
        ["the loss is nan at step 3, not taken", "(rank 1: the loss is nan)"] * 2,
    ),
    "a killed rank": (
        "def fail(): os.kill(os.getpid(), signal.SIGKILL)\ngo()",
        ["signal 9|SIGNAL: 9|Killed"],
    ),
    "an exception while another rank does not come": (
        "def fail(): raise ValueError('bad data')\nmean = average(comm, grace=0.5)\nif comm.rank == 0:\n"
        "    while True: time.sleep(0.1)\nfailing()",
        ["ValueError: bad data", "rank 1 ends all: it has failed with the ValueError above"],
    ),
    "an end of MPI's that hangs": (
        "def fail(): raise ValueError('bad data')\nmean = average(comm, grace=0.5)\nif comm.rank == 0:\n"
        "    while True: time.sleep(0.1)\n"
        "class Hangs:\n    __getattr__ = lambda self, name: getattr(comm, name)\n"
        "    Abort = lambda self, code: time.sleep(100)\nmean._ranks.comm = Hangs()\nfailing()",
        ["ValueError: bad data", "rank 1 ends all: it has failed with the ValueError above"],
    ),
    "an exception in a training while another rank does not come": (
        "def fail(): raise ValueError('bad data')\nmean = average(comm, grace=0.5)\nif comm.rank == 0:\n"
        "    while True: time.sleep(0.1)\nwith mean: failing()",
        ["ValueError: bad data", "rank 1 ends all: it has failed with the ValueError above"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_no_rank_is_left_waiting(failure):
    code, says = FAILURES[failure]
    process = start(2, "-c", BEGINNING + code)
    before = ""  # the other rank may be heard first
    while "failing" not in before and (line := process.stdout.readline()):
        before += line
    began = time.monotonic()
    printed, returned = end(process, 60)
    printed = before + printed
    assert "failing" in printed
    assert returned != 0
    assert time.monotonic() - began < SOON, printed
    for text in set(says):
        pattern = text if "|" in text else re.escape(text)
        assert len(re.findall(pattern, printed)) >= says.count(text), printed


def test_ctrl_c_on_one_side_ends_all():
    code = """
def loss(x):
    time.sleep(0.01)
    return np.sum(W)

mean = average(comm)
pids = comm.gather(os.getpid())
if pids:
    print(*pids, flush=True)
train(loss, params(W), [0.0] * 5000, Descent(0), transform=mean)
"""
    process = start(2, "-c", BEGINNING + code)
    pids = process.stdout.readline().split()
    time.sleep(0.3)
    began = time.monotonic()
    os.kill(int(pids[1]), signal.SIGINT)
    printed, returned = end(process, 60)
    assert returned != 0
    assert time.monotonic() - began < SOON
    assert "KeyboardInterrupt: rank 1: KeyboardInterrupt" in printed


def test_the_digits_are_learned_and_go_on(tmp_path):
    """The example's run on two ranks, stopped and gone on with on three, is that of one process."""
    example = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'examples')!r}); import parallel_digits; "
        "parallel_digits.main({!r}, epochs={})"
    )
    ends = []
    for name, parts in {"one": [(1, 3)], "many": [(2, 1), (3, 3)]}.items():
        for ranks, epochs in parts:
            printed, code = end(start(ranks, "-c", example.format(str(tmp_path / name), epochs)))
            assert code == 0, printed
        ends.append(re.search(r"epoch  3  loss \S+\ntest accuracy \S+%", printed)[0])
    assert ends[0] == ends[1]
    assert float(ends[0].split()[-1].removesuffix("%")) > 80


def test_many_runs_over_cores_and_over_ranks():
    example = str(ROOT / "examples" / "many_runs.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", example],
        check=True, capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    printed, code = end(start(2, "-m", "mpi4py.futures", example))
    assert code == 0, printed
    assert printed == done.stdout
    assert "its state still tied: True" in printed
