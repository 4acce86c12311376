"""Derivatives of eigenvalues and singular values, and of their vectors.

The vectors of equal values are any basis of a space, and those of complex matrices have any phase. A loss
that depends on which of them NumPy has chosen has no derivative, and that is said. Any other has one also
where values are equal, though the formulas divide 0 by 0 there: it is the limit of those for values apart.
"""

from __future__ import annotations

import itertools
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from minidiff.tracing.backward import ONCE
from minidiff.tracing.exact import pinned
from minidiff.tracing.record import constant, record
from minidiff.tracing.table import OURS, Nearby, hooks, listed, primitive_of


def adjoint(x: Any) -> Any:
    """Give the conjugate transpose of a matrix, or of each in a stack."""
    return np.conj(x.swapaxes(-1, -2))


def _used(g: Any) -> bool:
    """Tell whether somebody has used one of several results: the gradient may be 0 in spite of that."""
    return type(g) is not np.ndarray or any(g.strides) or bool(g.any())


def _can_look(*results: Any) -> bool:
    """Tell whether these arrays, and those in tuples, are arrays and not what stands for some."""
    arrays = [x for result in results for x in (result if isinstance(result, tuple) else [result])]
    return next(hooks(tuple(map(getval, arrays))), None) is None


def _closeness(values: Any) -> Any:
    """Give how close two values of this dtype count as equal, as a part of the largest: 9e-8 in float64."""
    return np.finfo(values.dtype).eps ** 0.45


def _apart(values: Any, signed: bool) -> Any:
    """Say how to move eigenvalues or singular values so that none are equal, or 0 where these have no sign.

    Returns
    -------
    array or None
        What to add to the values; None where they are apart as they are.
    """
    x: Any = getval(values)
    if not x.size:
        return None
    order = np.argsort(x, axis=-1)
    x = np.take_along_axis(x, order, -1)
    eps = np.finfo(x.dtype).eps
    scale = np.abs(x).max(axis=-1, keepdims=True)
    gaps = np.diff(x, axis=-1, prepend=0 if not signed else -np.inf)
    is_close = gaps <= scale * _closeness(x)
    if not is_close.any():
        return None
    # Within a group of equal values the steps are 1, 2, …; none leads to where another value is.
    steps = np.zeros(x.shape)
    for i in range(x.shape[-1]):
        before = steps[..., i - 1] if i else np.zeros(x.shape[:-1])
        steps[..., i] = np.where(is_close[..., i], before + 1, 0)
    sizes = np.where(scale == 0, 1, scale) * eps**0.2 * np.array(_SIZES)
    # The last are so small that they stay clear of the next group.
    if signed:
        is_close = is_close | np.roll(is_close, -1, axis=-1)
    clear = np.where(gaps > scale * _closeness(x), gaps, np.inf).min(axis=-1, keepdims=True)
    sizes[..., -1:] = np.minimum(sizes[..., -1:], clear / (4 * x.shape[-1]))
    room = np.zeros(sizes.shape)
    for i in range(len(_SIZES)):
        size = sizes[..., i, None]
        room[..., i] = np.minimum(_room(x, steps * size, signed), size[..., 0] / 8)
        if not i and np.all(room[..., :1] == size / 8):
            break  # as nearly always
    which = np.argmax(room, axis=-1)[..., None]  # of those that leave enough the largest
    step = np.take_along_axis(sizes, which, -1)
    moved = np.empty(x.shape)
    np.put_along_axis(moved, order, steps * step, -1)
    return moved.astype(x.dtype)


_SIZES = 1.0, 0.83, 0.69, 0.57, 0.47, 0.39  # of the steps, beside the usual one


def _room(x: Any, steps: Any, signed: bool) -> Any:
    """Give the least distance of two values that move apart, wherever derivatives move them."""
    least = np.full(x.shape[:-1], np.inf)
    # Once and twice the steps, to both sides, and 1.3 times as far in each gradient around another.
    for side, depth in itertools.product((1, 2, -1, -2), range(3)):
        moved, by = x + side * 1.3**depth * steps, steps
        if not signed:  # a value and its negative are one
            moved, by = np.concatenate([moved, -moved], -1), np.concatenate([by, -by], -1)
        order = np.argsort(moved, axis=-1)
        moved, by = (np.take_along_axis(a, order, -1) for a in (moved, by))
        apart = np.where(np.diff(by, axis=-1) != 0, np.diff(moved, axis=-1), np.inf)
        least = np.minimum(least, apart.min(axis=-1, initial=np.inf))
    return least


def _check(amount: Any, scale: Any, words: str) -> None:
    amount, scale = np.abs(getval(amount)), np.abs(getval(scale))
    if np.any(amount > np.finfo(amount.dtype).eps ** 0.4 * scale.max(initial=0)):
        raise NotImplementedError(words)


def _depth(x: Any) -> int:
    """Count the traces that have recorded a value: within each the values are moved by other steps."""
    return 1 + _depth(x._value) if hasattr(x, "_value") else 0


_PHASE = (
    "the loss depends on the phase of a complex vector, which is arbitrary. Use what does not, as abs(v) or "
    "v * conj(v[0])"
)
_BASIS = "the loss depends on which vectors of equal values NumPy has chosen"


def _over_differences(x: Any, values: Any) -> Any:
    """Divide x[i, j] by values[j] - values[i], and leave 0 on the diagonal."""
    diagonal = np.eye(values.shape[-1], dtype=values.dtype)
    return (1 - diagonal) * x / (values[..., None, :] - values[..., :, None] + diagonal)


def _nearby(rule: Any, ans: Any, shift: Any, which: int, other: Any) -> Nearby:
    """Give results with values apart on either side: what is wrong at each cancels to the fourth order."""
    make = getattr(type(ans), "_make", tuple)
    return Nearby(
        rule,
        [
            (weight, make([x + t * shift if i == which else x for i, x in enumerate(ans)]))
            for t, weight in ((1, 2 / 3), (-1, 2 / 3), (2, -1 / 6), (-2, -1 / 6))
        ],
        lambda g: not any(_used(h) for i, h in enumerate(g) if i != which),
        make(other),
        _BASIS,
    )


def _groups(values: Any) -> Any:
    """Give the places of equal values: the index of each matrix of a stack, and of columns in it."""
    closeness = _closeness(values)
    for place in np.ndindex(values.shape[:-1]):
        x = values[place]
        order = np.argsort(x)
        ends = np.flatnonzero(np.diff(x[order]) > closeness * np.abs(x).max()) + 1
        yield from ((place, group) for group in np.split(order, ends))


def _basis(vectors: Any, others: Any) -> Any:
    """Take any other orthonormal vectors for these, orthogonal to `others` as they are."""
    numbers = np.random.default_rng(0).normal(size=(2, len(vectors), vectors.shape[-1]))
    any_ = numbers[0] + 1j * numbers[1] if vectors.dtype.kind == "c" else numbers[0]
    return np.linalg.qr(any_ - others @ (adjoint(others) @ any_))[0].astype(vectors.dtype)


def _eigenvectors_turned(w: Any, v: Any) -> Any:
    v = np.array(v)
    for place, group in _groups(w):
        if len(group) > 1:
            v[place][:, group] = _basis(v[place][:, group], np.delete(v[place], group, axis=-1))
    return v


def _singular_vectors_turned(U: Any, s: Any, Vh: Any) -> tuple[Any, Any]:
    U, V = np.array(U), np.array(adjoint(Vh))
    closeness = _closeness(s)
    for place, group in _groups(s):
        u, v = U[place], V[place]
        if s[place][group].min() <= closeness * s[place].max():
            v[:, group] = _basis(v[:, group], np.delete(v, group, axis=-1))
            u[:, group] = -_basis(u[:, group], np.delete(u, group, axis=-1))
        elif len(group) > 1:
            turn = _basis(np.eye(len(group), dtype=u.dtype), np.zeros((len(group), 0)))
            u[:, group], v[:, group] = u[:, group] @ turn, v[:, group] @ turn
    return U, adjoint(V)


def _eigh(g: Any, ans: Any, A: Any, UPLO: str = "L") -> Any:
    (_, gv), (w, v) = g, ans
    if _can_look(gv, w):
        turned = adjoint(v) @ anp.conj(gv)
        if v.dtype.kind == "c":
            diagonal = anp.diagonal(turned, axis1=-2, axis2=-1)
            _check(anp.imag(diagonal), turned, _PHASE)
        if (shift := _apart(w, True)) is not None:
            other = w, _eigenvectors_turned(getval(w), getval(v))
            return _nearby(_from_eigh, ans, shift * 1.3 ** _depth(v), 0, other)
    return _from_eigh(g, ans, A, UPLO)


def _from_eigh(g: Any, ans: Any, A: Any, UPLO: str = "L") -> Any:
    (gw, gv), (w, v) = g, ans
    inner = anp.eye(w.shape[-1]) * anp.conj(gw)[..., None, :]
    if _used(gv):
        turned = adjoint(v) @ anp.conj(gv)
        inner = inner + _over_differences((turned - adjoint(turned)) / 2, w)
    h = anp.conj(v @ inner @ adjoint(v))
    triangle = anp.tril if UPLO == "L" else anp.triu
    return triangle(h + adjoint(h), -1 if UPLO == "L" else 1) + anp.real(h) * np.eye(w.shape[-1])


def _svd(
    g: Any, ans: Any, A: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> Any:
    if hermitian:
        raise NotImplementedError("there is none with hermitian=True: take np.linalg.eigh")
    if not compute_uv:  # as `singular_values` has it
        U, _, Vh = np.linalg.svd(A, full_matrices=False)
        return anp.conj((U * g[..., None, :]) @ Vh)
    (gu, _, gvh), (U, s, Vh) = g, ans
    k = s.shape[-1]
    hu, hv = anp.conj(gu[..., k:]), anp.swapaxes(gvh[..., k:, :], -1, -2)
    beyond = [(hu, U[..., k:]), (hv, adjoint(Vh[..., k:, :]))]
    beyond = [(h, vectors) for h, vectors in beyond if h.size and (not _can_look(h) or np.any(getval(h)))]
    if beyond:
        if not _can_look(*beyond) or _apart(s, False) is not None:
            raise NotImplementedError(
                "with full_matrices=True there is none of the vectors of no singular value"
            )
        for h, vectors in beyond:
            turned = adjoint(vectors) @ h
            _check(turned - adjoint(turned), turned, _PHASE if vectors.shape[-1] == 1 else _BASIS)
    if _can_look(gu, gvh, s):
        p = adjoint(U[..., :k]) @ anp.conj(gu[..., :k])
        q = Vh[..., :k, :] @ adjoint(anp.conj(gvh[..., :k, :]))
        if U.dtype.kind == "c":
            phases = anp.diagonal(p + q, axis1=-2, axis2=-1)
            _check(anp.imag(phases), anp.abs(p) + anp.abs(q), _PHASE)
        if (shift := _apart(s, False)) is not None:
            u, vh = _singular_vectors_turned(getval(U), getval(s), getval(Vh))
            return _nearby(_from_svd, ans, shift * 1.3 ** _depth(s), 1, (u, s, vh))
    return _from_svd(g, ans, A)


def singular_values(A: Any) -> Any:
    """Give the singular values, for what treats equal ones alike, as norms do."""
    if 1 in A.shape[-2:]:  # that of a vector is its length, whose limits at 0 are known
        return pinned(
            np.linalg.norm(A, axis=(-2, -1))[..., None], np.linalg.svd(constant(A), compute_uv=False)
        )
    return record(primitive_of(np.linalg.svd), (A,), {"compute_uv": False})


def _from_svd(g: Any, ans: Any, A: Any, *_: Any, **options: Any) -> Any:
    (gu, gs, gvh), (U, s, Vh) = g, ans
    k = s.shape[-1]
    hu, hv = gu[..., k:], gvh[..., k:, :]
    u, vh, U, Vh = U[..., k:], Vh[..., k:, :], U[..., :k], Vh[..., :k, :]
    inner = anp.eye(k) * gs[..., None, :]
    outer = 0
    if _used(gu) or _used(gvh):
        gu, gv = anp.conj(gu[..., :k]), anp.swapaxes(gvh[..., :k, :], -1, -2)
        p, q = adjoint(U) @ gu, Vh @ gv
        p, q = p - adjoint(p), q - adjoint(q)
        sums = s[..., None, :] + s[..., :, None]
        if U.dtype.kind == "c":
            inner = inner + anp.eye(k) * p / sums
        inner = inner + (_over_differences(p + q, s) + (1 - np.eye(k)) * (p - q) / sums) / 2
        m, n = A.shape[-2:]
        if m > n:
            outer = ((gu - U @ (adjoint(U) @ gu)) / s[..., None, :]) @ Vh
        elif m < n:
            outer = (U / s[..., None, :]) @ adjoint(gv - adjoint(Vh) @ (Vh @ gv))
        # The vectors beyond turn towards those of singular values as these turn towards them.
        if u.shape[-1] and _used(hu):
            outer = outer - u @ ((anp.swapaxes(hu, -1, -2) @ U) / s[..., None, :]) @ Vh
        if vh.shape[-2] and _used(hv):
            outer = outer - (U / s[..., None, :]) @ (Vh @ anp.swapaxes(hv, -1, -2)) @ vh
    return anp.conj(U @ inner @ Vh + outer)


def _eig(g: Any, ans: Any, A: Any) -> Any:
    (_, gu), (e, u) = g, ans
    if _can_look(gu, e):
        values: Any = getval(e)
        gaps = np.abs(values[..., None, :] - values[..., :, None]) + np.diag(
            np.full(values.shape[-1], np.inf)
        )
        closeness = _closeness(values)
        has_equal = np.any(gaps <= np.abs(values).max(axis=-1, initial=0)[..., None, None] * closeness)
        if has_equal:
            singular: Any = np.linalg.svd(getval(u), compute_uv=False)
            if np.any(singular[..., -1:] < closeness * singular[..., :1]):
                raise NotImplementedError("a matrix without a basis of eigenvectors has none")
        if _used(gu):
            turned = anp.swapaxes(u, -1, -2) @ gu
            if u.dtype.kind == "c":
                _check(anp.imag(anp.diagonal(turned, axis1=-2, axis2=-1)), turned, _PHASE)
            if has_equal:
                raise NotImplementedError("the vectors of equal eigenvalues have none")
    return _from_eig(g, ans, A)


def _from_eig(g: Any, ans: Any, A: Any) -> Any:
    (ge, gu), (e, u) = g, ans
    turned = anp.swapaxes(u, -1, -2)
    inner = np.eye(e.shape[-1]) * ge[..., None, :]
    if _used(gu):
        # The vectors keep their length.
        along = anp.real((u * gu).sum(axis=-2))[..., None, :]
        inner = inner + _over_differences(turned @ gu - (turned @ anp.conj(u)) * along, e)
    h = anp.linalg.solve(turned, inner @ turned)
    return h if A.dtype.kind == "c" else anp.real(h)


def _enter(function: Any, rule: Any) -> None:
    """Enter a rule that looks at values, which only a call as one can do where there are stand-ins."""

    @listed
    def as_one(g: Any, ans: Any, *call: Any, **options: Any) -> Any:
        h = rule(g, ans, *call, **options)
        if type(h) is not Nearby:
            return h
        if h.is_plain(g) and all(x.all() for x in ans if x.ndim == min(y.ndim for y in ans)):
            return h.rule(g, ans, *call, **options)
        raise NotImplementedError(
            "there is none of equal values or zeros in a program, only by gradient itself"
        )

    as_one.__name__ = f"derivative_of_{function.__name__}"

    def enter(g: Any, ans: Any, *call: Any, **options: Any) -> Any:
        return (rule if _can_look(g, ans) else as_one)(g, ans, *call, **options)

    primitive = primitive_of(function)
    OURS[primitive] = (enter,)
    ONCE.add(primitive)


_enter(np.linalg.svd, _svd)
_enter(np.linalg.eigh, _eigh)
_enter(np.linalg.eig, _eig)
