"""Functions written with others: every option has NumPy's value and the numerical derivatives."""

import inspect
import itertools
import re
from collections import UserList, deque
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import pytest
from beside_numpy import OF_TWO

from minidiff import check_gradient, dropgrad, gradient, jacobian, param, params, withgradient

M = np.array([[0.3, 1.2, -0.7], [0.9, -0.4, 0.5], [1.1, 0.2, -1.3], [-0.6, 0.8, 0.1]])  # no ties, no zeros
A = np.cos(np.arange(24.0)).reshape(2, 3, 4) * 2
V, U = M[0], M[:, 1]
S = M[:3] + 3 * np.eye(3)  # invertible
Z = M + 1j * M[::-1] / 2
HOLED = np.where(M > 1, np.nan, M)
ROWS = [[0, 1, 1], [2, 0, 3]]


def call(*args, **options):
    return args, options


# Function: calls. Every array of floats in them is differentiated by, alone and together.
CALLS = {
    np.append: [
        call(M, V),
        call(M, V[None], 0),
        call(A, A[:, :1], axis=1),
        call(M, 2.0),
        call([1.0, 2.0], V),
    ],
    np.atleast_1d: [call(V), call(np.array(0.7)), call(M)],
    np.atleast_2d: [call(V), call(np.array(0.7)), call(A)],
    np.atleast_3d: [call(V), call(np.array(0.7)), call(M)],
    np.average: [
        call(M),
        call(M, 1),
        call(M, axis=(0, 1)),
        call(A, axis=[0, -1]),
        call(A, axis=(0, 2), keepdims=True),
        call(M, weights=M**2 + 1),
        call(M, axis=0, weights=U**2 + 1),
        call(M, axis=-1, weights=V**2 + 1, keepdims=True),
        call(M, axis=1, weights=M**2 + 1, keepdims=True),
        call(A, axis=1, weights=np.array([0.2, 1.0, 3.0])),
        call(A, axis=(0, 2), weights=A**2 + 1),
        call(M, axis=1, weights=[1.0, 2.0, 3.0]),
        call(M, axis=0, weights=[1.0, 2.0, 3.0, 4.0], returned=True),
        call(M, returned=True),
        call(M, axis=1, weights=M**2 + 1, returned=True, keepdims=True),
        call(A, axis=(0, 1), weights=np.ones((2, 3))),
        call(A, axis=(2, 0), weights=A[:, 1].T ** 2 + 1, keepdims=True),
        call(M, axis=(1,), weights=V**2 + 1),
    ],
    np.block: [call([[M, M**2], [V, V]]), call([V, 3.0]), call([[A], [A]]), call(M), call([[1.0, V[:2]]])],
    np.broadcast_arrays: [
        call(V, U[:, None], subok=True),
        call(V, U[:, None]),
        call(M, 2.0),
        call(A, A[0], A[0, 0]),
    ],
    np.column_stack: [call([U, M]), call((U, U)), call([M, U, M])],
    np.concatenate: [
        call([M, M]),
        call((M, M), 1),
        call([A, A], axis=-2),
        call([M, V], axis=None),
        call([M, M], dtype="c16"),
        call([M, [[1, 2, 3]]], casting="same_kind", dtype=float),
    ],
    np.copy: [call(M), call(M, order="F"), call(M, subok=True)],
    np.cumprod: [call(M), call(M[:0], 0), call(M, 0), call(A, axis=-1), call(M, axis=1, dtype=complex)],
    np.diag: [call(V), call(S), call(M, 1), call(M, k=-2), call(V, -1), call(M, 7)],
    np.diagonal: [
        call(S),
        call(A),
        call(A, -1),
        call(M, 1),
        call(M, -2),
        call(M, offset=-1),
        call(A, 0, 1, 2),
        call(A, 1, axis1=2, axis2=0),
        call(A, axis1=-1, axis2=-2),
        call(M, 9),
    ],
    np.dot: [call(M, V), call([1.0, 2.0, 3.0, 4.0], M), call(M, [[1.0], [2.0], [3.0]]), call(A, U)],
    np.dstack: [call([V, V]), call((M, M)), call([A, A])],
    np.flip: [call(M), call(M, 0), call(A, axis=(0, -1)), call(A, axis=-2), call(M, ())],
    np.full_like: [
        call(M, 0.7),
        call(M, V),
        call(M, U[:, None], dtype=complex),
        call(M, V, order="F", subok=False),
        call(M, V, shape=(2, 3)),
    ],
    np.hstack: [call([V, V]), call((M, M)), call([M, M], dtype=complex, casting="same_kind")],
    np.kron: [call(M, V), call(V, M), call(M[:2], M), call(A[0], 2.0), call([1.0, 2.0], V)],
    np.linalg.matrix_power: [call(S, n) for n in (-3, -1, *range(8))] + [call(np.stack([S, S.T]), n=3)],
    np.linalg.multi_dot: [call([M, S, S @ V]), call((M.T, M)), call([V, M.T, U])],
    np.linalg.cholesky: [call(Z[:3] @ Z[:3].conj().T + 9 * np.eye(3)), call(S @ S.T, upper=True)],
    np.linalg.pinv: [
        call(Z),
        call(M, rcond=1e-3),
        call(M, rtol=1e-3),
        call(M, rtol=None),
        call(S + S.T, hermitian=True),
    ],
    np.linalg.norm: [
        *[call(V, p) for p in (0, 0.5)],
        *[call(M, p) for p in (1, 2, -2, np.inf, -np.inf)],
        call(M[:3], -1),
        call(A, 2, axis=(0, 1), keepdims=True),
        call(M),
        call(V),
        call(A),
        call(M, None, 1),
        call(M, axis=(0, 1)),
        call(A, axis=(0,), keepdims=True),
        call(M, "fro"),
        call(A, "fro", axis=(1, 2), keepdims=True),
        call(M, "nuc"),
        *[call(V, p) for p in (1, 2, 3, np.inf, -np.inf)],
        *[call(M, p, 1) for p in (1, 2, 3, np.inf, -np.inf)],
        *[call(A, p, axis=0, keepdims=True) for p in (1, 2, 3, np.inf, -np.inf)],
    ],
    np.linalg.slogdet: [call(S), call(np.stack([S, S.T]))],
    np.linalg.trace: [call(S, dtype=float), call(S), call(A, offset=1), call(A, offset=-1)],
    np.linalg.vector_norm: [
        call(A, axis=(0, 1)),
        call(M),
        call(M, keepdims=True),
        call(M, axis=1),
        call(M, axis=0, ord=3, keepdims=True),
        call(M, ord=1),
        call(M, ord=np.inf, axis=1),
    ],
    np.meshgrid: [
        call(V, U, sparse=True),
        call(V),
        call(V, indexing="ij"),
        call(V, U),
        call(V, U, indexing="ij"),
        call(V, U, V),
        call(V, U, V[:2], indexing="ij"),
        call(V, U, copy=False, sparse=False),
        call(V, U, copy=False, sparse=True),
    ],
    np.nanmean: [
        call(HOLED),
        call(HOLED, 1),
        call(HOLED, axis=1, keepdims=True),
        call(M, axis=-1),
        call(HOLED, where=M > 0),
        call(HOLED, dtype=float),
    ],
    np.nansum: [
        call(HOLED),
        call(HOLED, 0),
        call(HOLED, axis=(0, 1), keepdims=True),
        call(HOLED, axis=1, dtype=complex),
        call(HOLED, axis=1, where=np.array([True, False, True]), initial=2.0),
    ],
    np.outer: [call(V, U), call(M, V), call(V, 2.0), call([1.0, 2.0], V)],
    np.pad: [
        call(M, 1),
        call(M, ((1, 0), (0, 2))),
        call(V, (2, 1), mode="constant"),
        call(M, [(1, 2), (0, 0)], "constant"),
        call(M, 1, constant_values=2.5),
        *[call(M, 1, mode) for mode in ("edge", "reflect", "wrap")],
    ],
    np.repeat: [
        call(M, 2),
        call(M, 2, 0),
        call(M, [0, 1, 2, 3], axis=0),
        call(A, np.array([1, 0, 2]), axis=-2),
        call(V, repeats=[2, 0, 1]),
    ],
    np.select: [
        call([M > 1, M > 0], [M, M**2]),
        call([M > 1, M > 0], [M, 2.0], V),
        call([M > 1], [V], default=M),
        call([M > 9], [M]),
        call([M > 1, M > 0], [M, M.tolist()], V.tolist()),
    ],
    np.sign: [call(M), call(Z)],
    np.sort: [
        call(M),
        call(A),
        call(M, 0),
        call(M, axis=None),
        call(A, axis=1, kind="stable"),
        call(M, kind="quicksort", order=None),
        call(M, stable=True),
    ],
    np.stack: [
        call([M, M]),
        call((V, V), 1),
        call([A, A], axis=-2),
        call([M, M], dtype=complex, casting="same_kind"),
        call([V, [1.0, 2.0, 3.0]]),
    ],
    np.take: [
        call(M, [0, 5, -1]),
        call(M, 2),
        call(M, ROWS, 0),
        call(A, indices=[1, 1], axis=-1),
        call(M, [4, -5, 0], axis=0, mode="wrap"),
        call(M, [9, -3, 1], axis=0, mode="clip"),
        call(M, [1], axis=1, mode="raise"),
    ],
    np.take_along_axis: [
        call(M, np.array(ROWS), 0),
        call(M, np.array([[0], [2], [1], [1]]), axis=1),
        call(M, np.array([3, 3, 0]), axis=None),
        call(A, np.argsort(A, -1)[..., :2], axis=-1),
    ],
    np.tile: [
        call(V, 2),
        call(M, (2, 1)),
        call(V, [2, 3]),
        call(A, 2),
        call(A, reps=(2, 1, 1, 2)),
        call(M, ()),
        call(M, np.array([0, 2])),
        call(np.array(0.7), 3),
    ],
    np.trace: [
        call(S),
        call(S, dtype=float),
        call(A),
        call(A, 1),
        call(M, 1),
        call(M, offset=-2),
        call(A, 0, 1, 2),
        call(A, offset=1, axis1=-1, axis2=0),
        call(M, 9),
    ],
    np.trapezoid: [
        call(V),
        call(A),
        call(M, dx=0.5),
        call(M, V),
        call(M, U, axis=0),
        call(M, M**2, axis=0),
        call(M, np.cumsum(M**2, 1)),
        call(A, axis=1, dx=2.0),
        call(A, np.cumsum(A**2, 0), axis=0),
        call(A, x=np.array([0.1, 0.5, 2.0]), axis=1),
        call(A, dx=U, axis=1),
        call(A, np.cumsum(A[0] ** 2, 1), axis=-2),
        call(A[0], np.cumsum(A**2, 2), axis=-1),
        call([1.0, 4.0, 2.0], V),
    ],
    np.vdot: [call(M, M**2), call(Z, Z**2), call(V, Z[0])],
    np.vecdot: [
        call(M, M**2),
        call(M, V),
        call(V, M),
        call(A, A[0]),
        call(U, A),
        call(Z, Z**2),
        call(M, U[:, None], axis=0),
        call(A, np.sin(A), axis=1),
    ],
    np.vstack: [call([V, V]), call((M, V)), call([A, A]), call([M, V], dtype=complex, casting="same_kind")],
    np.where: [call(M > 0, M, V), call(M > 0, M, 2.0), call(True, V, M)],
    np.fft.irfft: [
        call(Z),
        call(Z, norm="ortho"),
        call(Z, norm="backward"),
        call(Z, 4),
        call(Z, n=6, axis=0),
        call(Z, n=5, norm="forward"),
        call(Z[:, 0], 1),
    ],
    **{
        f: [
            call(Z),
            call(Z, norm="ortho"),
            call(Z, norm="backward"),
            call(Z, axes=(0, 1), norm="ortho"),
            call(Z, s=(2, 4), axes=(1, 0)),
            call(Z, s=(3, 5), axes=(0, 1), norm="forward"),
            call(Z, axes=(0, 0)),
        ]
        for f in (np.fft.irfft2, np.fft.irfftn, np.fft.fft2, np.fft.ifft2, np.fft.fftn, np.fft.ifftn)
    },
    **{
        f: [call(Z), call(A, n=3), call(A, 5, axis=1, norm="forward"), call(V, norm="ortho"), call(Z, 3, 0)]
        for f in (np.fft.fft, np.fft.ifft)
    },
    **{
        f: [call(V), call(A, 5, 1, norm="forward"), call(A, norm="ortho"), call(A, n=2, axis=0), call(V, 6)]
        for f in (np.fft.hfft, np.fft.ihfft)
    },
    np.fft.rfft: [
        call(A),
        call(A, norm="ortho"),
        call(A, None, norm="backward"),
        call(A, 2),
        call(A, n=6, axis=1),
        call(A, n=6, norm="ortho"),
        call(A, n=4, axis=-1, norm="ortho"),
        call(A, n=5, norm="forward"),
        call(V),
        call(V, 1),
    ],
    **{
        f: [
            call(A),
            call(A, norm="ortho"),
            call(A, None, norm="backward"),
            call(A, (2, 4), axes=(0, 1)),
            call(A, s=(2, 2), axes=(1, 2)),
            call(A, s=(-1, 5), axes=(0, 1), norm="forward"),
            call(A, axes=(1, 1)),
        ]
        for f in (np.fft.rfft2, np.fft.rfftn)
    },
    np.add.accumulate: [call(M), call(M, 1), call(A, axis=-1, dtype=complex)],
    np.add.reduceat: [
        call(M, []),
        call(M, [0, 1]),
        call(M, [1, 2]),
        call(A, [1, 2], axis=1, dtype=complex),
        call(A, [0, 3, 1], axis=-1),
        call(M, [3, 0, 0], dtype=complex),
        call(M, [1, 3]),
        call(A, np.array([0, 2]), axis=1),
    ],
    **{
        f: [
            call(M),
            call(M, 1),
            call(A, axis=-1, keepdims=True),
            call(M, axis=None, initial=0.45),
            call(M, initial=np.array(0.45)),
            call(A, axis=(0, -1), where=A > 0, initial=0.25),
            call(M, axis=(), dtype=float),
        ]
        for f in (
            *(np.add.reduce, np.multiply.reduce, np.maximum.reduce, np.minimum.reduce, np.fmax.reduce),
            *(np.fmin.reduce, np.logaddexp.reduce, np.logaddexp2.reduce),
        )
    },
    np.hypot.reduce: [call(M), call(M, 0, initial=-2.0, where=V > 0), call(A, axis=(0, 2), keepdims=True)],
    np.subtract.reduce: [call(M), call(M, 1, where=M > 0, initial=0.4), call(A, axis=-1, keepdims=True)],
    np.divide.reduce: [call(M), call(M, axis=1, initial=np.array(0.4))],
    np.multiply.accumulate: [call(M), call(A, axis=1, dtype=complex)],
    **{
        f: [call(M), call(A, 1), call(A, axis=-1, dtype=float), call(V, None)]
        for f in (np.maximum.accumulate, np.minimum.accumulate, np.fmax.accumulate, np.logaddexp.accumulate)
    },
    np.logaddexp.reduceat: [call(M, [0, 2, 1]), call(A, [0, 1], axis=2)],
    np.maximum.reduceat: [call(M, [0, 2, 1], axis=0), call(M, [1, 2]), call(A, [0, 1], axis=2)],
    np.minimum.reduceat: [call(M, [0, 2]), call(A, [1, 2], axis=1, dtype=complex)],
    np.add: [
        call(M, V, dtype=complex),
        call(M, V, casting="no", order="F", subok=False),
        call(M, V, signature="dd->d"),
        call(M, V, signature=(None, None, np.complex128)),
        call(M, 2.0, where=True),
    ],
    np.exp: [call(M, dtype=complex), call(Z, casting="safe", order="C")],
    np.matmul: [
        call(S, S, axes=[(0, 1), (1, 0), (0, 1)]),
        call(A, S[:2, :2], axes=[(1, 0), (-1, -2), (2, 0)]),
        call(S, V, dtype=complex),
    ],
    np.clip: [
        call(M, -0.5, 0.85),
        call(M, -(V**2), M**2 + 0.1),
        call(M, a_min=np.array(-0.45), a_max=None),
        call(M, None, V + 0.05),
        call(M, -0.45, np.array(0.75), dtype=complex),
        call(M, a_min=None, a_max=U[:, None] + 0.03),
    ],
    np.diff: [
        call(M),
        call(A, 2, axis=1),
        call(A, axis=1, prepend=0.5, append=A[:, :2]),
        call(M, prepend=np.array(0.3)),
        call(V, 1, -1, V[:1], 2.0),
        call(V, 0, prepend=0.5, append=V[:2]),
        call(M, 0, 0, append=np.array(0.3)),
    ],
    **{
        f: [
            call(M),
            call(M, mean=M[:1, :1] * 2),
            call(A, axis=(0, 2), keepdims=True, mean=np.ones((1, 3, 1)), correction=1),
            call(M, 1, None, None, 0.5, mean=U[:, None], where=M > -1.25),
            call(Z, axis=0, mean=np.array(0.3 + 0.1j)),
            call(M, dtype=float, mean=0.2),
            call(M, 1, mean=None),
            call(M, 1, mean=[[0.1], [0.2], [0.3], [0.4]]),
        ]
        for f in (np.var, np.std)
    },
    **{
        f: [
            call(M, 1, keepdims=True),
            call(M, initial=0.85, where=M > 0),
            call(A, axis=(0, 2), where=A > 0, initial=np.array(0.25), keepdims=True),
            call(M, 1, None, False, 0.45),
            call(a=M, axis=0, where=True),
        ]
        for f in (np.max, np.min, np.amax, np.amin)
    },
    np.prod: [
        call(M, 1, keepdims=True),
        call(M, initial=2.0, where=M > 0),
        call(A, axis=(0, 2), where=A > 0, initial=np.array(0.25), dtype=complex),
        call(M, np.int64(0)),
        call(M, None, None, None, False, 2.0, M > 0),
    ],
    np.sum: [
        call(M, initial=np.array(2.0)),
        call(M, 1, where=M > 0, initial=V[0] * np.ones(()), keepdims=True, dtype=complex),
    ],
    np.reshape: [call(M, (2, 6)), call(A, (4, -1), "F"), call(A, -1, order="F"), call(M, 12)],
    np.roll: [
        *[call(V, shift) for shift in (True, np.int8(-2), [3])],
        call(A, (1, 2)),
        call(A, [1, -5], None),
        call(A, (1, 2), (0, 2)),
        call(A, 3),
    ],
    np.broadcast_to: [call(V, (2, 3), True), call(V, (2, 3), subok=True)],
    np.rollaxis: [call(A, -1), call(A, 2, start=-1), call(A, 0, 3)],
    np.rot90: [call(A, k=k, axes=axes) for k in range(-1, 4) for axes in ((0, 1), (2, 0))],
    np.add.outer: [call(V, U), call(M, V), call(V, 2.0)],
    np.multiply.outer: [call(V, M), call(A[0], V), call(np.array(0.7), V)],
    np.power.outer: [call(V**2 + 1, U), call(V**2 + 1, U, dtype=complex)],
}
if "min" in inspect.signature(np.clip).parameters:
    CALLS[np.clip] += [call(M, min=V - 0.37, max=np.array(0.85)), call(M, max=V + 0.07)]
if "descending" in inspect.signature(np.sort).parameters:
    CALLS[np.sort] += [call(A, axis=axis, descending=True) for axis in (-1, 0, None)]
if "copy" in inspect.signature(np.reshape).parameters:
    CALLS[np.reshape].append(call(M, (2, 6), copy=True))
if hasattr(np, "astype"):
    CALLS[np.astype] = [call(M, float), call(M, np.complex128, copy=False)]
if inspect.signature(np.take_along_axis).parameters["axis"].default == -1:
    CALLS[np.take_along_axis].append(call(A, np.argsort(A, -1)[..., :2]))
# NumPy hands these over for some of their arguments only.
DEAF = {
    np.full_like: 1,
    np.select: 1,
    **dict.fromkeys((np.max, np.amax, np.min, np.amin, np.prod, np.sum), 1),
}
DEAF |= {f: 1 for f in CALLS if getattr(f, "__name__", "") == "reduce"}

# What has no derivative here, by the words that say so.
REFUSED = {
    np.nan_to_num: [call(M, copy=False)],
    np.partition: [call(V.astype(np.longdouble), 1)] if np.dtype("g") != np.dtype("d") else [],
    np.std: [call(V, mean=1j)],  # around which NumPy squares without an absolute value
    np.var: [call(V, mean=1j)],
}
# Mistakes, which NumPy refuses as well.
MISTAKES = {
    np.add: [call(M, 1, order="Z"), call(M, 1, order=3), call(2 + 1j, V, signature="dd->d")],
    np.add.reduceat: [call(M, [[0, 1]]), call(M, V)],
    np.append: [call(M, V, 0)],
    np.average: [call(M, weights=V), call(M, axis=0, weights=V)],
    np.block: [call([[M, V]]), call([V, [V]]), call([[V], V]), call([[], [V]]), call([(V, V)])],
    np.broadcast_arrays: [call(V, U)],
    np.column_stack: [call([V, U])],
    np.compress: [call([[1, 0]], V), call(True, V), call([1, 0], V, 2)],
    np.concatenate: [
        call([M, M], dtype=int),
        call([M, V]),
        call([M, M], axis=2),
        call([M, M], casting="zz"),
        call([M, M.astype("f4")], casting="no"),
    ],
    np.diag: [call(A)],
    np.fft.fftn: [call(M, axes=(0, 5)), call(M, norm="zz"), call(M, [2], axes=(0, 1))],
    np.fft.hfft: [call(V, norm="zz"), call(V, axis=1)],
    np.fft.ihfft: [call(V, norm="zz"), call(V, axis=1)],
    np.flip: [call(M, 3), call(M, (0, 0))],
    np.hstack: [call([M, V])],
    np.linalg.matrix_power: [
        call(S, 1.5),
        *[call(x, n) for x in (M, V, M[:1], M[:, :1]) for n in (-1, 0, 1, 2, 5)],
    ],
    np.linalg.outer: [call(M, V), call(V, 2.0)],
    np.linalg.qr: [call(V), call(M, "zz")],
    np.linalg.vector_norm: [call(A, axis=[0, 1]), call(A, axis=3)],
    np.matmul: [
        call(S, S, keepdims=True),
        call(S, S, axis=0),
        call(S, S, axes=[(0, 1), (0, 1)]),
        call(S, S, axes=[(0,), (0, 1), (0, 1)]),
        call(S, S, axes=None),
    ],
    np.meshgrid: [call(V, U, indexing="yx")],
    np.partition: [call(V, 1, order="z"), call(V, 1, kind="z"), call(V, 3)],
    np.polyfit: [call(V, V, -1), call(V, V, "a"), call(M, V, 1)],
    np.repeat: [call(M, [1, 2]), call(M, -1), call(V, 2, axis=3)],
    np.rot90: [call(V), call(M, axes=(0, 0)), call(M, axes=(0, 4)), call(M, axes=(0, 1, 2))],
    np.select: [call([M > 0], [M, M])],
    np.sort: [
        call(M, 2),
        call(V, kind="zzz"),
        call(V, order="f"),
        call(V, kind="stable", stable=True),
    ],
    np.stack: [call([V, U]), call([M, M], dtype=int), call([M, M], casting=1)],
    np.take: [call(M, [9], 0), call(M, [0], 2), call(V, V), call(V, Z), call(V, [1j]), call(M, [0], axis=4)],
    np.take_along_axis: [call(M, np.array([0]), 0), call(M, np.array([[0, 1]]), None)],
    np.tile: [call(V, -1), call(V, 1.5), call(V, (1.5, 2)), call(V, "a")],
    np.trapezoid: [call(M, U), call(M, axis=2), call(A, dx=V, axis=1)],
    np.vdot: [call(V, U)],
    np.vecdot: [call(V, U), call(V, V, axis=None)],
}
# Options that no call above has: `out`, refused everywhere, what only makes the array, and an old name.
NOT_TRIED = {"out", "like", "device", "subok", "newshape"}


def differentiable(value):
    return isinstance(value, np.ndarray) and value.dtype.kind in "fc"


def taken_apart(value, arrays):
    """Return a function that puts a call's arguments together again from their arrays of floats."""
    if differentiable(value):
        arrays.append(value)
        i = len(arrays) - 1
        return lambda new: new[i]
    if isinstance(value, (list, tuple)):
        parts = [taken_apart(part, arrays) for part in value]
        return lambda new: type(value)([part(new) for part in parts])
    if isinstance(value, dict):
        parts = {name: taken_apart(part, arrays) for name, part in value.items()}
        return lambda new: {name: part(new) for name, part in parts.items()}
    return lambda new: value


def listed(result):
    return list(result) if isinstance(result, (list, tuple)) else [result]


def weighed(result):
    """Return a number that depends on every element of the results in its own way."""
    total = 0.0
    for i, a in enumerate(listed(result)):
        n = np.arange(1.0, np.size(a) + 1).reshape(np.shape(a))
        total = total + np.sum(np.real(a) * np.cos(n + i)) + np.sum(np.imag(a) * np.sin(2 * n + i))
        total = total + np.sum(np.real(a) ** 2 * np.sin(n)) / 7
    return total


def inner(gs, vs):
    return sum(np.sum(np.real(np.conj(v) * g)) for g, v in zip(gs, vs, strict=True) if g is not None)


def slope(f, arrays, directions, h=1e-4):
    moved = lambda t: f(*[a + t * v for a, v in zip(arrays, directions, strict=True)])
    return (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)


def samples(table):
    return [
        pytest.param(f, *sample, id=f"{getattr(f, '__qualname__', f)} {i}")
        for f, calls in table.items()
        for i, sample in enumerate(calls)
    ]


@pytest.mark.parametrize(("f", "args", "options"), samples(CALLS))
def test_an_option_has_numpys_value_and_the_numerical_derivatives(f, args, options):
    arrays = []
    together = taken_apart((args, options), arrays)

    def result(*new):
        new_args, new_options = together(new)
        return f(*new_args, **new_options)

    seen = []
    loss = lambda *new: weighed(seen.append(result(*new)) or seen[-1])
    expected = result(*arrays)
    value, gs = withgradient(loss, *arrays)
    assert not isinstance(expected, (list, tuple)) or type(seen[0]) is type(expected)
    for a, b in zip(listed(seen[0]), listed(expected), strict=True):
        assert np.shape(a) == np.shape(b)
        assert a.dtype == np.asarray(b).dtype
        if f is not np.fft.rfftn or hasattr(np, "matvec"):  # NumPy 2.0 had another order of axes
            assert np.asarray(dropgrad(a)).tobytes() == np.asarray(b).tobytes()
    np.testing.assert_allclose(value, weighed(expected), rtol=1e-12)

    rng = np.random.default_rng(0)
    u, v = ([rng.normal(size=a.shape) * (1 + 1j if a.dtype.kind == "c" else 1) for a in arrays] for _ in "uv")
    np.testing.assert_allclose(inner(gs, u), slope(loss, arrays, u), rtol=1e-7, atol=1e-8)

    for i, g in enumerate(gs[: DEAF.get(f)]):
        for x in (arrays[i], param(arrays[i])):
            (alone,) = gradient(lambda a, i=i: loss(*arrays[:i], a, *arrays[i + 1 :]), x)
            np.testing.assert_allclose(0 if alone is None else alone, 0 if g is None else g, rtol=1e-12)

    along_u = lambda *new: inner(gradient(loss, *new), u)
    second = gradient(along_u, *arrays)
    np.testing.assert_allclose(inner(second, v), slope(along_u, arrays, v), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("f", "args", "options"), samples(CALLS))
def test_what_comes_by_keyword_has_the_gradient_that_it_has_by_position(f, args, options):
    arrays = []
    together = taken_apart((args, options), arrays)
    try:
        parameters = list(inspect.signature(f).parameters.values())[: len(args)]
    except ValueError:  # NumPy does not tell them
        return

    def slopes(k):
        """Give the gradients by each array alone, where from the k-th argument on all come by keyword."""

        def loss(*new):
            new_args, new_options = together(new)
            named = {p.name: x for p, x in zip(parameters[k:], new_args[k:], strict=True)}
            return weighed(f(*new_args[:k], **named, **new_options))

        few = range(len(arrays))[: DEAF.get(f)]
        return [gradient(lambda a, i=i: loss(*arrays[:i], a, *arrays[i + 1 :]), arrays[i])[0] for i in few]

    by_position = slopes(len(args)) if len(parameters) == len(args) else []
    for k in range(len(args) if by_position else 0):
        if all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[k:]):
            for g, expected in zip(slopes(k), by_position, strict=True):
                np.testing.assert_array_equal(g, expected)


def refusal(f, args, options):
    arrays = []
    together = taken_apart((args, options), arrays)

    def loss(*new):
        new_args, new_options = together(new)
        return weighed(f(*new_args, **new_options))

    with pytest.raises(Exception) as caught:  # noqa: PT011 - its kind is the caller's to see
        gradient(loss, *arrays)
    return caught.value


@pytest.mark.parametrize(("f", "args", "options"), samples(REFUSED))
def test_an_option_without_a_derivative_is_refused_by_the_functions_name(f, args, options):
    f(*args, **options)
    error = refusal(f, args, options)
    assert isinstance(error, NotImplementedError)
    assert isinstance(getattr(f, "__self__", None), np.ufunc) or f.__name__ in str(error)


@pytest.mark.parametrize(("f", "args", "options"), samples(MISTAKES))
def test_what_numpy_refuses_is_refused(f, args, options):
    with pytest.raises((ValueError, TypeError, IndexError)) as outside:
        f(*args, **options)
    error = refusal(f, args, options)
    assert isinstance(error, outside.type)
    is_axis = isinstance(error, np.exceptions.AxisError)
    assert is_axis or str(error) == str(outside.value) or f.__name__ in str(error)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.compress([[1, 0, 1]]),
        lambda x: x.fill([1.0]),
        lambda x: x.fill(x),
        lambda x: x.sort(kind="zzz"),
        lambda x: x.sort(order="f"),
        lambda x: x.sort(kind="stable", stable=True),
        lambda x: np.sort(x, rank=2),
        lambda x: x.partition(1, order="z"),
        lambda x: x.repeat(2, 3),
        lambda x: x.take([0], 4),
    ],
)
def test_what_numpy_refuses_of_an_array_is_refused(f):
    with pytest.raises((ValueError, TypeError)) as outside:
        f(V.copy())
    with pytest.raises(outside.type):
        gradient(lambda x: f(x.copy()), V)


@pytest.mark.parametrize("where", [[True, False, True], np.array([True, False, True])])
def test_where_nothing_is_clipped_the_gradient_is_that_of_nothing(where):
    loss = lambda x: np.sum(np.clip(x, 1.5, 2.5, where=where)[[0, 2]] * np.array([3.0, 5.0]))
    assert gradient(loss, np.array([1.0, 2.0, 2.25]))[0].tolist() == [0, 0, 5]
    assert gradient(loss, np.array([1.75, 2.0, 3.0]))[0].tolist() == [3, 0, 0]


@pytest.mark.parametrize("indices", [[1.9, 0.2], 1.5, [True, False], []])
def test_indices_in_lists_are_cut_to_whole_numbers_as_numpy_cuts_them(indices):
    counts = np.bincount(np.ravel(np.asarray(indices, int)), minlength=3)
    np.testing.assert_array_equal(gradient(lambda x: np.sum(np.take(x, indices)), V)[0], counts)


def test_an_error_copies_no_arrays_and_asks_no_function_of_the_users():
    large = np.broadcast_to(1.0, (10**6, 10**6))
    for join in (np.concatenate, np.stack):
        with pytest.raises(ValueError, match="must"):
            gradient(lambda x: np.sum(join([x, large])), M)
    asked = []
    with pytest.raises(NotImplementedError, match="function as mode"):
        gradient(lambda x: np.sum(np.pad(x, 1, lambda *_: asked.append(1))), V)
    with pytest.raises(TypeError, match="where= takes booleans"):  # NumPy would warn as well
        gradient(lambda x: np.sum(np.exp(x, where=np.array([1, 0, 1]))), V)
    assert not asked


@pytest.mark.parametrize("order", ["C", "F", "A", "K"])
@pytest.mark.parametrize(
    "bounds", [((0.2, 0.9), {}), ((), {"a_min": 0.2, "a_max": 0.9}), ((0.2,), {"a_max": 0.9})]
)
@pytest.mark.parametrize("x", [M, M.T, M[::2, ::-1]])
def test_a_clipped_array_lies_as_numpys_does(x, bounds, order):
    args, options = bounds
    seen = []
    gradient(lambda x: np.sum(seen.append(np.clip(x, *args, order=order, **options)) or seen[-1]), x)
    assert dropgrad(seen[0]).strides == np.clip(x, *args, order=order, **options).strides


T = np.arange(24.0).reshape(2, 3, 4)
MADE = {
    "full_like": lambda x, order: np.full_like(x, x[0, 0].sum(), order=order),
    "full_like, turned": lambda x, order: np.full_like(x, x.sum(), order=order, shape=x.shape[::-1]),
    "full_like, flat": lambda x, order: np.full_like(x, x.sum(), order=order, shape=(2, x.size)),
    "full_like, deep": lambda x, order: np.full_like(x, x.sum(), order=order, shape=(2, 2, *x.shape)),
    "copy": lambda x, order: np.copy(x, order),
    "astype": lambda x, order: x.astype("f4", order),
    "astype, same": lambda x, order: x.astype(x.dtype, order),
    "ufunc": lambda x, order: np.add(x, x[::-1], order=order),
    "ufunc of two": lambda x, order: np.modf(x, order=order)[0],
    "sort": lambda x, order: np.sort(x, 0),
    "partition": lambda x, order: np.partition(x, 1, 0),
    "unique": lambda x, order: np.unique(x, axis=0),
    "insert": lambda x, order: np.insert(x, 1, 0.0, 0),
    "delete": lambda x, order: np.delete(x, 1, 0),
    "append": lambda x, order: np.append(x, x, 0),
    "piecewise": lambda x, order: np.piecewise(x, [x > 0.3], [lambda x: 2 * x, 0.0]),
    "cross": lambda x, order: np.cross(x[..., :2], x[..., :2] + 1) if x.ndim > 2 else 1 * x,
    "tile": lambda x, order: np.tile(x, 2),
    "roll": lambda x, order: np.roll(x, 1, 0),
}


@pytest.mark.parametrize("x", [M, M.T, M[::2, ::-1], T, T.transpose(1, 0, 2), T.transpose(2, 0, 1)])
@pytest.mark.parametrize("name", MADE)
@pytest.mark.filterwarnings("ignore:.*2-dimensional vectors:DeprecationWarning")
def test_what_is_made_lies_in_memory_as_numpys(name, x):
    for order in "CFAK":
        seen = []
        gradient(lambda x, order=order: np.sum(seen.append(MADE[name](x, order)) or seen[-1]), x)
        found, expected = dropgrad(seen[0]), MADE[name](x, order)
        assert found.shape == expected.shape
        steps = [[s for s, n in zip(y.strides, y.shape, strict=True) if n > 1] for y in (found, expected)]
        assert steps[0] == steps[1]


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("shift", [-1, 2, True, np.uint8(1), np.uint64(2)])
def test_an_array_is_rolled_by_a_shift_of_any_integer_kind(shift, axis):
    if np.__version__.startswith("2.0.") and isinstance(shift, np.unsignedinteger):
        pytest.skip("NumPy 2.0 negates an unsigned integer")
    weights = np.cos(np.arange(M.size)).reshape(M.shape)
    (g,) = gradient(lambda x: np.sum(weights * np.roll(x, shift, axis)), M)
    places = np.roll(np.arange(M.size).reshape(M.shape), shift, axis)  # which elements have gone there
    np.testing.assert_array_equal(np.ravel(g)[places], weights)


# Of ufuncs and of what NumPy has in C, not every version tells the options.
@pytest.mark.parametrize("f", [f for f in CALLS if isinstance(getattr(f, "__wrapped__", f), FunctionType)])
def test_no_option_is_left_out(f):
    signature = inspect.signature(f)
    tried = set()
    for args, options in [*CALLS[f], *REFUSED.get(f, []), *MISTAKES.get(f, [])]:
        tried |= signature.bind(*args, **options).arguments.keys()
    assert set(signature.parameters) <= tried | NOT_TRIED


def test_the_sum_of_whole_weights_has_numpys_dtype():
    weights = {"weights": [1, 2, 3, 4], "axis": 0, "returned": True}
    seen = []
    gradient(lambda x: np.sum(seen.append(np.average(x, **weights)) or seen[0][0]), M)
    assert seen[0][1].dtype == np.average(M, **weights)[1].dtype


@pytest.mark.parametrize("kinds", [("f4", "f4"), ("f4", "i4"), ("f4", "c8"), ("f2", "f2"), ("c8", "f4")])
def test_an_average_has_numpys_dtype_and_its_gradient_that_of_the_array(kinds):
    x, weights = (a.astype(kind) for a, kind in zip((M, np.array([3, 1, 2])), kinds, strict=True))
    seen = []
    loss = lambda x: np.real(np.sum(seen.append(np.average(x, 1, weights)) or seen[0]))
    (g,) = gradient(loss, x)
    assert seen[0].dtype == np.average(x, 1, weights).dtype
    assert g.dtype == x.dtype
    np.testing.assert_allclose(g, np.broadcast_to(np.divide([3, 1, 2], 6), M.shape), rtol=1e-3)


class Pair(NamedTuple):
    x: Any
    y: Any


class Many(list):
    pass


@pytest.mark.parametrize("kind", [tuple, Many, lambda arrays: Pair(*arrays)])
@pytest.mark.parametrize(
    "f", [np.concatenate, np.stack, np.vstack, np.hstack, np.dstack, np.column_stack, np.linalg.multi_dot]
)
def test_a_sequence_of_any_class_is_one(f, kind):
    A = np.array([[1.0, 2.0], [3.0, 5.0]])
    loss = lambda A: np.sum(f(kind([A, 2 * A])) ** 2)
    np.testing.assert_array_equal(loss(A), np.sum(f([A, 2 * A]) ** 2))
    np.testing.assert_array_equal(gradient(loss, A)[0], gradient(lambda A: np.sum(f([A, 2 * A]) ** 2), A)[0])


def test_results_of_several_are_a_sequence():
    A = np.array([[1.0, 2.0], [3.0, 5.0]])
    check_gradient(lambda A: np.concatenate(np.linalg.qr(A)), A)


@pytest.mark.parametrize("f", [np.setdiff1d, np.setxor1d, np.union1d])
@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f8", "f4"), ("f8", "c16"), ("c8", "f4")])
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_a_set_has_the_elements_and_the_dtype_that_numpy_gives_it(f, dtypes, shape):
    x = np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(dtypes[0])
    y = (x.real + 0.5).astype(dtypes[1])
    seen = []

    def loss(x, y):
        seen.append(f(x, y))
        return np.sum(np.real(seen[-1] * seen[-1]))

    dx, dy = gradient(loss, x, y)
    np.testing.assert_array_equal(dropgrad(seen[0]), f(x, y), strict=True)
    np.testing.assert_array_equal(dx, 2 * np.conj(x))
    assert f is np.setdiff1d or np.array_equal(dy, 2 * np.conj(y))


@pytest.mark.parametrize("f", [np.setdiff1d, np.setxor1d, np.union1d])
def test_a_set_of_equal_elements_is_refused(f):
    with pytest.raises(
        NotImplementedError, match=f"np.{f.__name__} has no gradient where elements are equal"
    ):
        gradient(lambda x: np.sum(f(x, np.arange(3.0))), np.array([2.0, 4.0]))


def test_sets_take_their_arrays_by_keyword():
    x, y = np.array([3.0, 1.0]), np.array([2.0, 5.0])
    loss = lambda x, y: np.sum(np.union1d(ar2=y, ar1=x) * np.array([1.0, 10.0, 100.0, 1000.0]))
    assert [g.tolist() for g in gradient(loss, x, y)] == [[100.0, 1.0], [10.0, 1000.0]]


class Sequence:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def of_objects(items):
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


@pytest.mark.parametrize("kind", [deque, UserList, Sequence, of_objects], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("join", [np.stack, np.concatenate, np.hstack, np.vstack, np.dstack, np.column_stack])
def test_arrays_come_in_any_sequence_that_numpy_takes(join, kind):
    W = param([3.0, 4.0])
    f = lambda kind: np.sum(np.sin(join(kind([W, 2 * W]))))
    assert f(kind) == f(list)
    np.testing.assert_array_equal(*(gradient(lambda kind=k: f(kind), params(W))[W] for k in (kind, list)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ufunc", [f for f in OF_TWO.values() if f not in (np.arctan2, np.power)])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (0, 2), (1,), (2, 3)], ids=str)
def test_a_reduction_of_any_axis_has_numpys_value(ufunc, shape):
    x = np.linspace(0.3, 1.7, int(np.prod(shape))).reshape(shape)
    for axis, initial, where in itertools.product(
        (None, 0, -1, (), (0, 1)), (np._NoValue, 0.3), (True, x > 0.5)
    ):
        options = {"axis": axis, "initial": initial, "where": where}
        try:
            expected = ufunc.reduce(x, **options)
        except (ValueError, TypeError):  # as there is no such axis, or no initial value
            continue
        found = []
        gradient(lambda x, o=options: np.sum(found.append(ufunc.reduce(x, **o)) or found[0]), x)
        np.testing.assert_allclose(dropgrad(found[0]), expected)
        assert np.shape(found[0]) == np.shape(expected)


@pytest.mark.parametrize("options", [{}, {"equal_nan": True}, {"equal_nan": False}])
def test_the_first_of_equal_elements_moves_what_is_unique_and_so_does_that_of_nan(options):
    x = np.array([np.nan, 2.0, 1.0, np.nan, 2.0])
    _, first = np.unique(x, return_index=True, **options)
    np.testing.assert_array_equal(jacobian(lambda x: np.unique(x, **options), x)[0], np.eye(5)[first])


def test_what_looks_like_a_sequence_stays_as_it_is():
    W = param([3.0, 4.0])
    for f in (
        lambda x: np.sum(x, dtype=W.dtype),
        lambda x: np.zeros_like(x, dtype=W.dtype),
        lambda x: np.add(x, 1, dtype=np.dtype("f4")),
        lambda x: np.stack([x, x], dtype=W.dtype),
    ):
        np.testing.assert_array_equal(f(W), f(W.value), strict=True)
        value, _ = withgradient(lambda f=f: np.sum(f(W)) + np.sum(W), params(W))
        assert value == np.sum(f(W)) + np.sum(W)


@pytest.mark.parametrize("optimize", [False, True, "greedy", "optimal", ["einsum_path", (0, 1)]], ids=str)
@pytest.mark.parametrize("subscripts", ["ba,ca->bc", "ba,ca->b", "ba,cb->ac", "ba,ba->", "ba,cd->ad", "ab,b"])
@pytest.mark.parametrize("n", [1, 3])
def test_booleans_in_an_einsum_have_a_derivative_unless_numpy_ors_them(subscripts, optimize, n):
    rng, sizes = np.random.default_rng(0), {"a": 3, "b": 2, "c": 2, "d": 3}
    left, right = subscripts.partition("->")[0].split(",")
    mask = rng.random([sizes[c] for c in left]) < 0.7
    y = rng.normal(size=[sizes[c] if n > 1 else 1 for c in right])  # one of length 1 is broadcast
    f = lambda y: np.einsum(subscripts, mask, y, optimize=optimize)
    weights = np.cos(np.arange(np.size(f(y)))).reshape(np.shape(f(y)))
    loss = lambda y: np.sum(f(y) * weights)
    if not np.allclose(f(y), np.einsum(subscripts, mask * 1.0, y)):  # NumPy adds up booleans by themselves
        with pytest.raises(NotImplementedError, match=r"astype\(float\)"):
            gradient(loss, y)
        return
    value, (g,) = withgradient(loss, y)
    assert value == loss(y)
    for i in np.ndindex(y.shape):
        e = np.zeros(y.shape)
        e[i] = 1
        np.testing.assert_allclose(g[i], (loss(y + e) - loss(y - e)) / 2, rtol=1e-10)


@pytest.mark.parametrize("ufunc", [np.arccos, np.arccosh, np.arcsin, np.arctanh, np.sqrt, np.log, np.exp])
def test_a_complex_dtype_is_heeded_but_where_the_plane_is_cut_and_numbers_are_real(ufunc):
    z, weights = np.array([0.3 + 0.4j, -0.2 + 1.1j, 1.5 - 0.7j]), np.array([1.0, 2j, 3 - 1j])
    loss = lambda **options: lambda z: np.sum(np.real(ufunc(z, **options) * weights))
    for g in (gradient(loss(dtype=complex), z), gradient(loss(signature="D->D"), z)):
        np.testing.assert_array_equal(g[0], gradient(loss(), z)[0])
    x = np.array([0.3, 0.5, 0.7]) + (ufunc is np.arccosh)
    if ufunc in (np.sqrt, np.log, np.exp):
        expected = np.real(gradient(loss(), x + 0j)[0])
        np.testing.assert_allclose(gradient(loss(dtype=complex), x)[0], expected, rtol=1e-14)
    else:
        with pytest.raises(
            NotImplementedError, match=f"np.{ufunc.__name__} has no gradient with a complex dtype"
        ):
            gradient(loss(dtype=complex), x)


@pytest.mark.parametrize("ufunc", [np.fmax, np.fmin, np.maximum, np.minimum])
def test_equal_extrema_share_the_gradient_of_a_reduction(ufunc):
    x, shares = np.array([[2.0, 2.0, 2.0], [2.0, 1.0, 3.0]]), [[1 / 3] * 3, [0.0, 0.0, 1.0]]
    if ufunc in (np.fmax, np.fmin):  # which leave NaN out
        x[1], shares[1] = [2.0, np.nan, 2.0], [0.5, 0.0, 0.5]
    elif ufunc is np.minimum:
        shares[1] = [0.0, 1.0, 0.0]
    found = gradient(lambda x: np.sum(ufunc.reduce(x, axis=1)), x)[0]
    np.testing.assert_allclose(found, shares)


def test_a_view_of_values_is_no_sequence_as_in_numpy():
    x = np.array([0.3, 0.7])
    for f in (np.concatenate, np.stack, np.linalg.multi_dot):
        joined = lambda x, f=f: np.sum(f({0: x, 1: x}.values()))
        with pytest.raises(TypeError):
            joined(x)
        with pytest.raises((TypeError, ValueError)):
            gradient(joined, x)


@pytest.mark.parametrize("shapes", [[(2, 2)], [(2, 2), (2,), (2, 2)], [(2, 2), (3, 2, 2), (2, 2)],
    [(2, 2), (3, 2)], [(2, 3), (2, 2), (2, 2)]])  # fmt: skip
def test_a_chain_of_products_that_numpy_refuses_is_refused_in_its_words(shapes):
    arrays = [np.ones(shape) for shape in shapes]
    with pytest.raises((ValueError, np.linalg.LinAlgError)) as numpys:
        np.linalg.multi_dot(arrays)
    with pytest.raises(numpys.type, match=re.escape(str(numpys.value))):
        gradient(lambda x: np.sum(np.linalg.multi_dot([x * a for a in arrays])), 1.0)


def test_a_product_of_zeros_has_numpys_shape():
    for p in (np.zeros(3), np.zeros(1)):
        found = []
        gradient(lambda q, p=p: np.sum(found.append(np.polymul(p, q)) or found[0]), V)
        np.testing.assert_array_equal(dropgrad(found[0]), np.polymul(p, V), strict=True)
