"""Settings that hold for all tests, docstring examples included."""

import os
import signal
from importlib import import_module

from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"  # no windows
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of BLAS, as each worker has a core
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored

# No test is timed, and the examples are the same in every run.
settings.register_profile("minidiff", deadline=None, derandomize=True)
settings.load_profile("minidiff")
import_module("minidiff.compiled").LONG = float("inf")  # type: ignore[attr-defined]  # seconds until it warns


def pytest_collection_modifyitems(items):
    """Leave the examples of `minidiff.parallel` to `test_parallel.py`, which runs them on several ranks."""
    items[:] = [item for item in items if item.path.parts[-2:] != ("minidiff", "parallel.py")]


collect_ignore = ["record_rules.py", "record_torch.py"]  # which need PyTorch and optax, and are run by hand
