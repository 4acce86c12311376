"""A program as one loop over the elements, compiled with Numba.

Compiled loops are cached for later processes, if nobody else can write where they lie.
``NUMBA_CACHE_DIR`` and Numba's other settings work as ever. Large arrays are shared out among threads.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from minidiff.files import cached
from minidiff.program.listing import RefusedError
from minidiff.program.source import Program
from minidiff.tracing import EXACT
from minidiff.typing import Array

__all__ = ["compiled", "is_exact"]

# Bytes of an array that a thread gets at a time. One thread takes an array of less than four shares: to hand
# over smaller ones costs more than a second thread gains.
SHARE = 2**20

# What Numba knows by another name.
_FORMS: dict[Any, str] = {
    operator.pow: "pow({})",
    np.clip: "(lambda z, a, b: min(max(z, a), b))({})",
    np.where: "(lambda c, a, b: a if c else b)({})",  # Numba's own makes an array for each element
    np.sign: "(lambda z: z if z != z else abs(z) if z == 0 else np.sign(z))({})",  # Numba's keeps -0.0
}
# Functions with one right result, also for signed zeros: Numba and NumPy both give it.
_EXACT = EXACT - {np.maximum, np.minimum} | {
    np.positive, np.reciprocal, np.sign, np.where, np.greater, np.greater_equal, np.less, np.less_equal,
    np.equal, np.not_equal, np.logical_and, np.logical_or, np.logical_not,
}  # fmt: skip


def is_exact(program: Program) -> bool:
    """Tell whether the compiled loop gives the same bits as NumPy does."""
    return all(o.function in _EXACT for o in program.operations)


def compiled(program: Program, dtype: np.dtype[Any]) -> Callable[[Sequence[Array], Sequence[Array]], None]:
    """Compile a program for contiguous vectors.

    Parameters
    ----------
    program : Program
        The program.
    dtype : dtype
        That of all its arrays, float32 or float64.

    Returns
    -------
    callable
        Of the vectors, then those that are homes of results alone, and of the constants. The results are
        written into their homes.

    Raises
    ------
    Exception
        Of Numba's, for what it cannot compile.
    """
    import llvmlite
    import numba

    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise RefusedError("Numba is switched off")

    arrays = list(dict.fromkeys([*program.arrays, *program.homes]))
    lines = [f"{name} = {name}_[i]" for name in program.arrays]
    for o in program.operations:
        form = _FORMS.get(o.function, f"np.{o.function.__name__}({{}})")
        lines.append(f"{o.results[0]._name} = {form.format(', '.join(o.operands))}")
    lines += [f"{home}_[i] = {name}" for home, name in zip(program.homes, program.results, strict=True)]
    arguments = ", ".join([*(f"{name}_" for name in arrays), *program.names.values()])
    # Numba's cache names the version that wrote it before the code is there. Where two versions share files,
    # one may so read the other's code: each version has files of its own.
    head = f"# Numba {numba.__version__}, llvmlite {llvmlite.__version__}\nimport numpy as np\n"
    head += f"def loop({arguments}):\n    for i in range({arrays[0]}_.shape[0]):\n"
    source = head + "".join(f"        {line}\n" for line in lines)
    vector = functools.partial(numba.types.Array, numba.from_dtype(dtype), 1, "C")
    signature = [vector(readonly=name not in program.homes) for name in arrays]
    signature += [numba.from_dtype(dtype) for _, dtype in program.names]
    path = cached(source)
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, path or "<minidiff formula>", "exec"), namespace)
    compiler = numba.njit([numba.void(*signature)], nogil=True, error_model="numpy", cache=path is not None)
    return functools.partial(_shared_out, compiler(namespace["loop"]))


def _shared_out(loop: Callable[..., None], arrays: Sequence[Array], constants: Sequence[Array]) -> None:
    """Run a loop in this thread or, if the arrays are large, in as many as there are processors."""
    numbers = [constant[()] for constant in constants]
    size = SHARE // arrays[0].itemsize
    if arrays[0].size < 4 * size:
        loop(*arrays, *numbers)
    else:
        shares = [[a[low : low + size] for a in arrays] for low in range(0, arrays[0].size, size)]
        list(_pool().map(lambda share: loop(*share, *numbers), shares))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(processors, thread_name_prefix="minidiff")


if hasattr(os, "register_at_fork"):  # a child process does not have its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
