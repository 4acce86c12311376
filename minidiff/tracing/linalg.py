"""NumPy's linear algebra by its other names, and what follows from decompositions and inverses.

Below, H is the conjugate of a gradient: the loss changes by Re tr(Hᴴ dA) where the matrix changes by dA.
"""

from __future__ import annotations

import math
import operator
from functools import cache
from inspect import unwrap
from typing import Any

import autograd.numpy as anp
import numpy as np

from minidiff.tracing.exact import Exact, exactly, laid, pinned, verified
from minidiff.tracing.record import as_array, constant, derivative, record
from minidiff.tracing.spectra import adjoint, singular_values
from minidiff.tracing.statistics import rows_of
from minidiff.tracing.table import COMPOSITES, enter, primitive_of, unbroadcast


def _mirrored(x: Any) -> Any:
    """Take the lower triangle for the whole of a Hermitian matrix, as NumPy does."""
    if x.shape[-2:-1] != x.shape[-1:]:
        raise np.linalg.LinAlgError(f"the matrices must be square, got shape {x.shape}")
    lower = anp.tril(x, -1)
    return lower + adjoint(lower) + _real_diagonal(x)


def _real_diagonal(x: Any) -> Any:
    return np.eye(x.shape[-1], dtype=x.real.dtype) * anp.real(x)


# --- Solutions of linear equations ----------------------------------------------------------------------


def _from_solution(g: Any, A: Any, b: Any) -> Any:
    """Give Aᵀ⁻¹ g as a matrix, also where b is a vector."""
    return anp.linalg.solve(A.swapaxes(-1, -2), g[..., None] if b.ndim == 1 else g)


def _solve_left(g: Any, ans: Any, A: Any, b: Any) -> Any:
    x = ans[..., None] if b.ndim == 1 else ans
    return unbroadcast(-_from_solution(g, A, b) @ x.swapaxes(-1, -2), A)


def _solve_right(g: Any, ans: Any, A: Any, b: Any) -> Any:
    h = _from_solution(g, A, b)
    return unbroadcast(h[..., 0] if b.ndim == 1 else h, b)


enter(np.linalg.solve, _solve_left, _solve_right)


def _product(A: Any, B: Any, C: Any) -> Any:
    """Multiply three matrices, the first and last of one shape: never two by their longer sides outwards."""
    return A @ (B @ C) if A.shape[-2] > A.shape[-1] else A @ B @ C


def _from_pinv(g: Any, ans: Any, A: Any, rcond: Any) -> Any:
    # Golub and Pereyra 1973: of constant rank, dP = -P dA P + P Pᴴ dAᴴ (1 - A P) + (1 - P A) dAᴴ Pᴴ P.
    P, Q, G = ans, adjoint(ans), adjoint(np.conj(g))
    by_rows, by_columns = _product(G, P, Q), _product(Q, P, G)
    return np.conj(
        -_product(Q, adjoint(G), Q)
        + (by_rows - _product(A, P, by_rows))
        + (by_columns - _product(by_columns, P, A))
    )


@derivative(_from_pinv)
def _pinv_of(A: Any, rcond: Any) -> Any:
    return np.linalg.pinv(A, rcond)


def _pinv(A: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = np._NoValue) -> Any:
    if rcond is not None and rtol is not np._NoValue:
        return NotImplemented
    if rtol is None:
        rcond = max(A.shape[-2:]) * np.finfo(A.dtype).eps
    elif rcond is None:
        rcond = 1e-15 if rtol is np._NoValue else rtol
    if not hermitian and not _cuts(A, rcond):
        return _pinv_of(A, rcond)
    inverse = _pseudoinverse(_mirrored(A) if hermitian else A, rcond)
    return pinned(inverse, np.linalg.pinv(constant(A), rcond, hermitian))


def _pseudoinverse(A: Any, rcond: Any) -> Any:
    if not _cuts(A, rcond):
        return _pinv_of(A, rcond)
    U, s, Vh = np.linalg.svd(A, full_matrices=False)
    is_kept = s > np.asarray(rcond)[..., None] * s.max(axis=-1, keepdims=True)
    inverse = anp.where(is_kept, 1 / anp.where(is_kept, s, 1), 0)
    return (adjoint(Vh) * inverse[..., None, :]) @ adjoint(U)


def _cuts(A: Any, rcond: Any) -> bool:
    """Tell whether singular values may be taken for 0 that are more than that."""
    return bool(np.any(rcond > np.finfo(A.dtype).eps ** 0.5))


def _columns(x: Any) -> Any:
    return x[:, None] if x.ndim == 1 else x


def _from_least(g: Any, ans: Any, A: Any, b: Any, rcond: Any) -> Any:
    P = _pinv_of(A, rcond)
    return _from_pinv(_columns(g) @ _columns(b).T, P, A, rcond)


@derivative(_from_least, lambda g, ans, A, b, rcond: _pinv_of(A, rcond).T @ g)
def _least(A: Any, b: Any, rcond: Any) -> Any:
    return np.linalg.lstsq(A, b, rcond)[0]


def _from_squares(g: Any, A: Any, b: Any, rcond: Any) -> Any:
    # They are least: they do not change with the solution.
    return 2 * g * np.conj(_columns(b) - A @ _least(A, _columns(b), rcond))


@derivative(
    lambda g, ans, A, b, rcond: -_from_squares(g, A, b, rcond) @ _least(A, _columns(b), rcond).T,
    lambda g, ans, A, b, rcond: _from_squares(g, A, b, rcond).reshape(b.shape),
)
def _squares(A: Any, b: Any, rcond: Any) -> Any:
    return np.linalg.lstsq(A, b, rcond)[1]


def _lstsq(A: Any, b: Any, rcond: Any = None) -> Any:
    A, b = as_array(A), as_array(b)
    known, squares, rank, s = np.linalg.lstsq(constant(A), constant(b), rcond)
    A, b = A.astype(known.dtype), b.astype(known.dtype)
    eps = np.finfo(known.dtype).eps
    # LAPACK takes what is no share for the least one.
    rcond = eps * max(A.shape) if rcond is None else rcond if 0 < rcond < 1 else eps
    squares = pinned(_squares(A, b, rcond), squares) if squares.size else squares
    x = _pseudoinverse(A, rcond) @ b if _cuts(A, rcond) else _least(A, b, rcond)
    return pinned(x, known), squares, rank, pinned(singular_values(A), s)


def _tensorinv(a: Any, ind: int = 2) -> Any:
    if ind <= 0:
        raise ValueError(f"np.linalg.tensorinv: ind must be positive, got {ind}")
    front, back = a.shape[:ind], a.shape[ind:]
    return np.linalg.inv(a.reshape((math.prod(front), -1))).reshape((*back, *front))


def _tensorsolve(a: Any, b: Any, axes: Any = None) -> Any:
    a, b = as_array(a), as_array(b)
    if axes is not None:
        a = np.transpose(a, (*[i for i in range(a.ndim) if i not in axes], *axes))
    shape = a.shape[b.ndim - a.ndim :] if a.ndim > b.ndim else ()
    return np.linalg.solve(a.reshape((-1, math.prod(shape))), np.ravel(b)).reshape(shape)


# --- Decompositions -------------------------------------------------------------------------------------


def _from_cholesky(g: Any, ans: Any, A: Any) -> Any:
    # Murray 2016: L⁻¹ dA L⁻ᴴ = L⁻¹ dL + (L⁻¹ dL)ᴴ, where L⁻¹ dL is lower triangular.
    L = ans
    N = adjoint(L) @ np.conj(g)
    half, upper = anp.tril(N, -1) + _real_diagonal(N) / 2, adjoint(L)
    return np.conj(anp.linalg.solve(upper, adjoint(anp.linalg.solve(upper, adjoint(half)))))


@derivative(_from_cholesky)
def _cholesky_of(A: Any) -> Any:
    return np.linalg.cholesky(A)


def _cholesky(A: Any, /, *, upper: bool = False) -> Any:
    if not upper:
        return _cholesky_of(_mirrored(A))
    value = np.linalg.cholesky(constant(A), upper=True)
    return pinned(adjoint(_cholesky_of(_mirrored(adjoint(A)))), value)


def _check_columns(R: Any) -> None:
    R = constant(R)
    if type(R) is np.ndarray and R.size:  # what stands for an array does not tell its values
        sizes = np.abs(np.diagonal(R, axis1=-2, axis2=-1))
        if np.any(sizes <= np.finfo(R.dtype).eps * R.shape[-1] * sizes.max(axis=-1, keepdims=True)):
            raise np.linalg.LinAlgError(
                "np.linalg.qr has no gradient where the columns of the matrix depend on one another. "
                "A.T @ A, which equals R.T @ R, has one"
            )


def _from_qr(g: Any, ans: Any, A: Any) -> Any:
    # dA R⁻¹ = dQ + Q dR R⁻¹: Qᴴ dQ is skew-Hermitian, dR R⁻¹ upper triangular with a real diagonal.
    (Q, R), (HQ, HR) = ans, map(np.conj, g)
    _check_columns(R)
    N = HR @ adjoint(R) - adjoint(Q) @ HQ
    K = anp.triu(N, 1)
    return np.conj(adjoint(anp.linalg.solve(R, adjoint(HQ + Q @ (K + adjoint(K) + _real_diagonal(N))))))


@derivative(_from_qr)
def _qr_of(A: Any) -> Any:
    return np.linalg.qr(A)


def _qr(A: Any, mode: str = "reduced") -> Any:
    m, n = A.shape[-2:]
    if mode not in ("reduced", "r") and not (mode == "complete" and m <= n):
        raise NotImplementedError(
            f"np.linalg.qr has no gradient with mode={mode!r} of {m}×{n} matrices. Take mode='reduced'."
        )
    square = A[..., :m]
    Q, R = _qr_of(square)
    if m < n:
        R = np.concatenate([R, adjoint(Q) @ A[..., m:]], axis=-1)
        Q, R = pinned((Q, R), np.linalg.qr(constant(A)))
    return R if mode == "r" else _QRResult(Q, R)


_QRResult: Any = type(np.linalg.qr(np.eye(1)))
_SVDResult: Any = type(np.linalg.svd(np.eye(1)))


def _svd(A: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    if not hermitian and compute_uv:
        if full_matrices and A.ndim > 1 and A.shape[-2] == A.shape[-1]:
            return np.linalg.svd(A, full_matrices=False)  # the same, and the call that singular values make
        return NotImplemented
    if not hermitian:  # by one call with the vectors, on which the second derivative depends
        s = np.linalg.svd(A, full_matrices=False)[1]
        return pinned(s, np.linalg.svd(constant(A), compute_uv=False))
    w, v = np.linalg.eigh(A)
    order = np.argsort(np.abs(w))[..., ::-1]
    w = np.take_along_axis(w, order, -1)
    if not compute_uv:
        return pinned(np.abs(w), np.linalg.svd(constant(A), compute_uv=False, hermitian=True))
    v = np.take_along_axis(v, order[..., None, :], -1)
    return _SVDResult(v, np.abs(w), adjoint(v * np.sign(w)[..., None, :]))


def _cond(A: Any, p: Any = None) -> Any:
    if not A.size:
        return np.sum(A)
    if p in (None, 2, -2):
        s = singular_values(A)
        cond = s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    else:
        cond = np.linalg.norm(A, p, (-2, -1)) * np.linalg.norm(np.linalg.inv(A), p, (-2, -1))
    is_singular = np.isnan(cond) & ~np.any(np.isnan(A), axis=(-2, -1))
    return anp.where(is_singular, np.inf, cond)[()]


def _from_phase(g: Any, phase: Any, x: Any) -> Any:
    # d phase = i phase dθ with dθ = Im tr(x⁻¹ dx)
    inverse = anp.swapaxes(anp.linalg.inv(x), -1, -2)
    return anp.real(1j * g * phase)[..., None, None] * (-1j * inverse)


@derivative(_from_phase)
def _phase_of_det(x: Any) -> Any:
    return np.linalg.slogdet(x)[0]


_SlogdetResult: Any = type(np.linalg.slogdet(np.eye(1)))


def _slogdet(x: Any) -> Any:
    # autograd takes the sign for constant, which it is of real matrices only.
    if x.dtype.kind != "c":
        return NotImplemented
    return _SlogdetResult(_phase_of_det(x), record(primitive_of(np.linalg.slogdet), (x,), {})[1])


def _eigh(A: Any, UPLO: Any = "L") -> Any:
    return np.linalg.eigh(A, UPLO.upper()) if UPLO.upper() != UPLO else NotImplemented


# --- Products and norms ---------------------------------------------------------------------------------


def _einsum(subscripts: Any, *operands: Any, **options: Any) -> Any:
    if not isinstance(subscripts, str):  # operands and lists of axis numbers, in turn
        every = [subscripts, *operands]
        operands = tuple(every[: len(every) // 2 * 2 : 2])
        every[: 2 * len(operands) : 2] = [np.empty((1,) * np.ndim(x)) for x in operands]  # no look at values
        inputs, output, _ = anp.parse_einsum_input(*every)
        subscripts = f"{inputs}->{output}"
    elif not any(isinstance(x, (list, tuple)) for x in operands) and options.get("optimize", False) is False:
        return NotImplemented
    arrays = [as_array(x) for x in operands]
    if options.get("optimize", False) is False or all(x.dtype != bool for x in arrays):
        return record(primitive_of(np.einsum), (subscripts, *arrays), options)
    dtype = np.result_type(*[x.dtype for x in arrays])
    numbers = [x.astype(dtype) if x.dtype == bool else x for x in arrays]
    result = np.einsum(subscripts, *numbers, **options)
    words = "np.einsum(optimize=) adds up booleans by themselves, True + True = True: write x.astype(float)."
    return verified(result, np.einsum(subscripts, *constant(arrays), **options), 1e-3, words)


def _kron(x: Any, y: Any) -> Any:
    x, y = as_array(x), as_array(y)
    if y.ndim == 0:
        return np.multiply(x, y)  # which of numbers has other bits than x * y
    ndim = max(x.ndim, y.ndim)
    x, y = (a.reshape((1,) * (ndim - a.ndim) + a.shape) for a in (x, y))
    products = x.reshape([n for size in x.shape for n in (size, 1)]) * y.reshape(
        [n for size in y.shape for n in (1, size)]
    )
    return products.reshape([m * n for m, n in zip(x.shape, y.shape, strict=True)])


def _matrix_power(x: Any, n: int) -> Any:
    n = operator.index(n)
    if n < 0:
        return _matrix_power(np.linalg.inv(x), -n)
    if n == 0:
        return np.linalg.matrix_power(constant(x), 0)
    if n < 4:
        return (x, x @ x, x @ x @ x)[n - 1]
    power = found = None
    while n:  # in NumPy's order, to the last bit
        power = x if power is None else power @ power
        n, is_odd = divmod(n, 2)
        if is_odd:
            found = power if found is None else found @ power
    return found


@derivative(
    lambda g, ans, x, y: unbroadcast(np.cross(y, g), x),
    lambda g, ans, x, y: unbroadcast(np.cross(g, x), y),
)
def _cross_of(x: Any, y: Any) -> Any:
    return np.cross(x, y)


def _cross(x: Any, y: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Any:
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = np.moveaxis(as_array(x), axisa, -1), np.moveaxis(as_array(y), axisb, -1)
    sizes = x.shape[-1], y.shape[-1]
    if sizes != (3, 3):
        np.cross(constant(x), constant(y))  # which warns of plane vectors, and refuses others
        x, y = (
            a if a.shape[-1] == 3 else np.concatenate([a, np.zeros((*a.shape[:-1], 1), a.dtype)], -1)
            for a in (x, y)
        )
    product = _cross_of(x, y)
    return laid(product[..., 2], "C") if sizes == (2, 2) else np.moveaxis(product, -1, axisc)


def _spatial_cross(x: Any, y: Any, /, *, axis: int = -1) -> Any:
    x, y = as_array(x), as_array(y)
    if x.shape[axis] != 3 or y.shape[axis] != 3:
        raise ValueError(
            f"np.linalg.cross: both need 3 elements on axis {axis}, got shapes {x.shape}, {y.shape}"
        )
    return _cross(x, y, axis=axis)


def _matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:  # noqa: A002
    return np.linalg.norm(x, ord, (-2, -1), keepdims)


@exactly(np.linalg.vector_norm)
def _vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:  # noqa: A002
    return np.linalg.norm(rows_of(x, axis), ord, -1)


@exactly(np.vecdot, np.linalg.vecdot)
def _vecdot(x: Any, y: Any, /, *, axis: int = -1, keepdims: bool = False) -> Any:
    x, y = np.moveaxis(as_array(x), axis, -1), np.moveaxis(as_array(y), axis, -1)
    return np.sum(np.conj(x) * y, axis=-1)


def _outer(x: Any, y: Any, /) -> Any:
    x, y = as_array(x), as_array(y)
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"np.linalg.outer: both must be vectors, got shapes {x.shape}, {y.shape}")
    return np.outer(x, y)


def _multi_dot(arrays: Any) -> Any:
    """Multiply in NumPy's order, that of the fewest multiplications."""
    matrices = [as_array(a) for a in arrays]
    shape = matrices[0].shape[:-1] + matrices[-1].shape[1:]
    matrices[0] = np.atleast_2d(matrices[0])
    matrices[-1] = _columns(matrices[-1])
    if len(matrices) < 3 or any(m.ndim != 2 for m in matrices):
        np.linalg.multi_dot(constant(arrays))  # says what is wrong, if something is
    sizes = [m.shape[0] for m in matrices] + [matrices[-1].shape[1]]

    @cache
    def best(i: int, j: int) -> tuple[int, int]:
        """Give the cost of the product of matrices i to j, and the last of its left factor."""
        ways = [
            (best(i, k)[0] + best(k + 1, j)[0] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
            for k in range(i, j)
        ]
        return min(ways, default=(0, i))

    def product(i: int, j: int) -> Any:
        _, k = best(i, j)
        return matrices[i] if i == j else np.dot(product(i, k), product(k + 1, j))

    return product(0, len(matrices) - 1).reshape(shape)[()]


# NumPy's own lines of Python, which call it by its other name.
_names = "diagonal", "matmul", "matrix_transpose", "svdvals", "tensordot", "trace"
COMPOSITES |= {f: unwrap(f) for f in (getattr(np.linalg, name) for name in _names)}
COMPOSITES |= {
    np.cross: _cross,
    np.einsum: _einsum,
    np.kron: _kron,
    np.matrix_transpose: lambda x, /: np.swapaxes(x, -1, -2),
    np.vdot: Exact(np.vdot, lambda x, y: np.sum(np.conj(np.ravel(x)) * np.ravel(y))),
    np.linalg.cholesky: _cholesky,
    np.linalg.cond: Exact(np.linalg.cond, _cond),
    np.linalg.cross: _spatial_cross,
    np.linalg.eigh: _eigh,
    np.linalg.eigvals: lambda x: np.linalg.eig(x)[0],
    # By the call that vectors come from, so that both belong together.
    np.linalg.eigvalsh: Exact(np.linalg.eigvalsh, lambda x, UPLO="L": np.linalg.eigh(x, UPLO)[0]),
    np.linalg.lstsq: _lstsq,
    np.linalg.matrix_norm: _matrix_norm,
    np.linalg.matrix_power: _matrix_power,
    np.linalg.multi_dot: _multi_dot,
    np.linalg.outer: _outer,
    np.linalg.pinv: _pinv,
    np.linalg.qr: _qr,
    np.linalg.slogdet: _slogdet,
    np.linalg.svd: _svd,
    np.linalg.tensorinv: _tensorinv,
    np.linalg.tensorsolve: _tensorsolve,
}
if hasattr(np, "matvec"):
    COMPOSITES |= {
        np.matvec: Exact(np.matvec, lambda A, x: (as_array(A) @ as_array(x)[..., None])[..., 0]),
        np.vecmat: Exact(
            np.vecmat, lambda x, A: (np.conj(as_array(x))[..., None, :] @ as_array(A))[..., 0, :]
        ),
    }
