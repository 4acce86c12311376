"""The machine that the numbers were measured on, and the number of threads that every library gets."""

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

THREADS = 2
LIBRARIES = ("minidiff", "numpy", "numba", "autograd", "mygrad", "torch", "jax", "optax")


def limit_threads() -> None:
    """Give every library `THREADS` threads and cores. NumPy and the peers must not have been imported yet."""
    assert "numpy" not in sys.modules, "NumPy has read its number of threads already"
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = str(THREADS)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):  # the only limit that JAX observes
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def disturbance() -> Callable[[], float]:
    """Return a function that tells how many of our cores others kept busy since; 0 outside Linux."""
    start, others = time.perf_counter(), _busy_elsewhere()
    return lambda: (_busy_elsewhere() - others) / (time.perf_counter() - start)


def _busy_elsewhere() -> float:
    """Return the seconds that our cores together have worked, or been withheld, for other programs."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for name, *counts in map(str.split, stat.read_text().splitlines()):
        if name in ours:
            user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, counts[:8])
            ticks += user + nice + system + sum(interrupts_and_stolen)
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2])


def describe() -> str:
    """Return processor, cores, system and versions, a line each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "\n".join(
        [
            f"{_processor()}; {os.cpu_count()} cores, of which {cores} are used",
            f"{platform.system()} {platform.release()}, {platform.python_implementation()} "
            f"{platform.python_version()}; {THREADS} threads for every library",
            *(", ".join(map(_version, some)) for some in (LIBRARIES[:4], LIBRARIES[4:])),
        ]
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{library} absent"
