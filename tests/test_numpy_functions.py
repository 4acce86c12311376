"""Every NumPy function that autograd can differentiate, as plain `np.*`: by autograd and by differences."""

import operator
import warnings
from collections import deque
from functools import partial

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.builtins import SequenceBox
from autograd.core import primitive_vjps
from autograd.tracer import trace_primitives_map, trace_stack
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidiff import check_gradient, compiled, dropgrad, gradient, hessian, param, params, withgradient
from minidiff.functions import array
from minidiff.tracing import constant

MODULES = {"": np, "linalg.": np.linalg, "fft.": np.fft}
NOT_A_CALL_ON_ARRAYS = {"array", "row_stack"}  # np.array dispatches on nothing; row_stack is deprecated


def functions_with_a_gradient():
    """Autograd's own table: {NumPy function: all its names}, with those that autograd writes with others."""
    found = {}
    for prefix, module in MODULES.items():
        twins = {"": anp, "linalg.": anp.linalg, "fft.": anp.fft}[prefix]
        for name, function in vars(module).items():
            if not callable(function) or isinstance(function, type) or name in NOT_A_CALL_ON_ARRAYS:
                continue
            twin = getattr(twins, name, None)
            rewritten = (
                type(twin) is type(lambda: 0)
                and not hasattr(twin, "fun")
                and not hasattr(twin, "_is_primitive")
            )
            if rewritten or trace_primitives_map.get(function) in primitive_vjps:
                found.setdefault(function, []).append(prefix + name)
    return found


# --- The table of samples -------------------------------------------------------------------------------

M = np.array([[0.3, 1.2, -0.7], [0.9, -0.4, 0.5], [1.1, 0.2, -1.3]])  # no ties, no zeros
U, P, G = M / 2, np.abs(M) + 0.1, np.abs(M) + 1.1  # within (−1, 1), positive, above 1
V = np.array([0.7, -0.2, 1.6])
E = np.cos(np.arange(16.0)).reshape(4, 4)
T = np.sin(np.arange(1.0, 25.0)).reshape(2, 3, 4)
S = M @ M.T + np.eye(3)
Z = M + 1j * M.T


def unary(name, *arrays):
    return [(lambda xp, x: getattr(xp, name)(x), a) for a in (*arrays, arrays[0][0, 0], arrays[0][:0])]


def binary(name, x, y):
    f = lambda xp, *args: getattr(xp, name)(*args)
    return [
        (lambda xp, x: f(xp, x, y), x),
        (lambda xp, x: f(xp, y, x), x),
        (lambda xp, x: f(xp, x, y[0]), x),
        (lambda xp, x: f(xp, x[1:2], y), x),
        (lambda xp, x: f(xp, x, x[::-1] + 0.05), x),
        (lambda xp, x: f(xp, 1.5, x), x),
        (lambda xp, x: f(xp, x, 1.5), x),
    ]


def reduction(name, x, *extra):
    f = lambda xp, *args, **options: getattr(xp, name)(*args, **options)
    return [
        (lambda xp, x: f(xp, x), x),
        (lambda xp, x: f(xp, x, 0), x),
        (lambda xp, x: f(xp, x, axis=-1, keepdims=True), x),
        (lambda xp, x: f(xp, x, axis=(0, 2)), T),
        (lambda xp, x: f(xp, x, (1, -1), keepdims=True), T),
        *extra,
    ]


def each(x, *calls):
    return [(call, x) for call in calls]


def fourier(name, **options):
    f = lambda xp: getattr(xp.fft, name)
    if name.endswith("2"):
        return each(E, lambda xp, x: f(xp)(x, **options), lambda xp, x: f(xp)(x, s=(2, 4), **options))
    if name.endswith("n"):
        return each(E, lambda xp, x: f(xp)(x, **options), lambda xp, x: f(xp)(x, axes=(0,), **options))
    return each(
        E,
        lambda xp, x: f(xp)(x),
        lambda xp, x: f(xp)(x, axis=0),
        lambda xp, x: f(xp)(x, 6),
        lambda xp, x: f(xp)(x, norm="ortho"),
    )


SAMPLES = {
    **{name: unary(name, M) for name in (
        "absolute", "fabs", "arcsinh", "arctan", "cos", "cosh", "deg2rad", "degrees", "exp", "exp2", "expm1",
        "negative",
        "rad2deg", "radians", "reciprocal", "sin", "sinc", "sinh", "square", "tan", "tanh",
    )},
    **{name: unary(name, M, Z) for name in ("conjugate", "real", "imag", "angle", "absolute", "exp", "sin",
        "square")},
    **{name: unary(name, P) for name in ("log", "log10", "log1p", "log2", "sqrt")},
    **{name: unary(name, U) for name in ("arccos", "arcsin", "arctanh")},
    "arccosh": unary("arccosh", G),
    **{name: binary(name, M, E[:3, :3] + 0.01) for name in (
        "add", "subtract", "multiply", "divide", "maximum", "minimum", "fmax", "fmin", "logaddexp",
        "logaddexp2", "arctan2",
    )},
    "hypot": binary("hypot", P, G),
    "power": binary("power", P, G),
    "remainder": binary("remainder", M, np.abs(E[:3, :3]) + 0.4),
    "sum": reduction("sum", M, *each(Z, lambda xp, x: xp.sum(x, 1))),
    "prod": reduction("prod", M, *each(Z, lambda xp, x: xp.prod(x, 1))),
    "mean": reduction("mean", M, *each(Z, lambda xp, x: xp.mean(x, 1))),
    "var": reduction("var", M, *each(M, lambda xp, x: xp.var(x, ddof=1), lambda xp, x: xp.var(x, 0, ddof=1)),
        *each(Z, lambda xp, x: xp.var(x, 1))),
    "std": reduction("std", M, *each(M, lambda xp, x: xp.std(x, ddof=1), lambda xp, x: xp.std(x, 0, ddof=1))),
    **{name: reduction(name, M) for name in ("max", "min", "amax", "amin")},
    "cumsum": each(M, lambda xp, x: xp.cumsum(x), lambda xp, x: xp.cumsum(x, 0),
        lambda xp, x: xp.cumsum(x, axis=-1)),
    "trace": each(M, lambda xp, x: xp.trace(x), lambda xp, x: xp.trace(x, offset=1)),
    "dot": [
        *each(M, lambda xp, x: xp.dot(x, M), lambda xp, x: xp.dot(T[0].T, x), lambda xp, x: xp.dot(x, V),
            lambda xp, x: xp.dot(x, x.T), lambda xp, x: xp.dot(2.0, x)),
        *each(V, lambda xp, x: xp.dot(x, x), lambda xp, x: xp.dot(M, x),
            lambda xp, x: xp.dot(T.swapaxes(1, 2), x)), *each(Z, lambda xp, x: xp.dot(x, Z)),
    ],
    "matmul": [
        *each(M, lambda xp, x: xp.matmul(x, M), lambda xp, x: xp.matmul(x, V), lambda xp, x: xp.matmul(V, x),
            lambda xp, x: xp.matmul(x, T)),
        *each(V, lambda xp, x: xp.matmul(x, x), lambda xp, x: xp.matmul(x, T),
            lambda xp, x: xp.matmul(T.swapaxes(1, 2), x)),
        *each(T, lambda xp, x: xp.matmul(x, E), lambda xp, x: xp.matmul(x.swapaxes(1, 2), x)),
        *each(Z, lambda xp, x: xp.matmul(M, x)),
    ],
    "inner": each(M, lambda xp, x: xp.inner(x, V), lambda xp, x: xp.inner(T[0].T, x),
        lambda xp, x: xp.inner(x, x)),
    "outer": each(V, lambda xp, x: xp.outer(x, M), lambda xp, x: xp.outer(M, x),
        lambda xp, x: xp.outer(x, x)),
    "tensordot": each(T, lambda xp, x: xp.tensordot(x, E, 1), lambda xp, x: xp.tensordot(M, x, ([0], [1])),
        lambda xp, x: xp.tensordot(x, x, axes=[(0, 2), (0, 2)])),
    "kron": each(M, lambda xp, x: xp.kron(x, E[:2]), lambda xp, x: xp.kron(M, x)),
    "cross": each(M, lambda xp, x: xp.cross(x, V), lambda xp, x: xp.cross(S, x)),
    "einsum": each(M, lambda xp, x: xp.einsum("ij,jk->ki", x, S), lambda xp, x: xp.einsum("ii", x),
        lambda xp, x: xp.einsum("...j,j", S, x[0]), lambda xp, x: xp.einsum(x, [0, 1], V, [1], [0])),
    "where": each(M, lambda xp, x: xp.where(S > 1, x, 0.5), lambda xp, x: xp.where(S > 1, V, x),
        lambda xp, x: xp.where(V > 0, x[0], x)),
    "clip": each(M, lambda xp, x: xp.clip(x, -0.5, 0.8), lambda xp, x: xp.clip(x, V - 1, V + 1)),
    "nan_to_num": each(M, lambda xp, x: xp.nan_to_num(x)),
    "real_if_close": each(M, lambda xp, x: xp.real_if_close(x)),
    "reshape": each(M, lambda xp, x: xp.reshape(x, 9), lambda xp, x: xp.reshape(x, (1, -1, 3)),
        lambda xp, x: xp.reshape(x, (9,), order="F")),
    "ravel": each(M, lambda xp, x: xp.ravel(x), lambda xp, x: xp.ravel(x, "F")),
    "transpose": each(T, lambda xp, x: xp.transpose(x), lambda xp, x: xp.transpose(x, (1, 2, 0))),
    "swapaxes": each(T, lambda xp, x: xp.swapaxes(x, 0, -1)),
    "moveaxis": each(T, lambda xp, x: xp.moveaxis(x, 0, -1)),
    "rollaxis": each(T, lambda xp, x: xp.rollaxis(x, 2)),
    "squeeze": each(M, lambda xp, x: xp.squeeze(x[:, :1]), lambda xp, x: xp.squeeze(x[:, None], 1)),
    "expand_dims": each(M, lambda xp, x: xp.expand_dims(x, 1), lambda xp, x: xp.expand_dims(x, -1)),
    "broadcast_to": each(M, lambda xp, x: xp.broadcast_to(x, (2, 3, 3)),
        lambda xp, x: xp.broadcast_to(x[:1], (3, 3))),
    **{name: [(lambda xp, x, name=name: getattr(xp, name)(x), a) for a in (M, V, V[0],
        T)] for name in ("atleast_1d", "atleast_2d", "atleast_3d")},
    "astype": each(M, lambda xp, x: xp.astype(x, float)),
    "repeat": each(M, lambda xp, x: xp.repeat(x, 2), lambda xp, x: xp.repeat(x, 3, axis=1),
        lambda xp, x: xp.repeat(x, 2, 0)),
    "tile": each(M, lambda xp, x: xp.tile(x, 2), lambda xp, x: xp.tile(x, (2, 3)),
        lambda xp, x: xp.tile(x, (2, 1, 2))),
    "roll": each(M, lambda xp, x: xp.roll(x, 2), lambda xp, x: xp.roll(x, -1, axis=1),
        lambda xp, x: xp.roll(x, (1, 2), (0, 1))),
    "rot90": each(M, lambda xp, x: xp.rot90(x), lambda xp, x: xp.rot90(x, 3)),
    "fliplr": each(M, lambda xp, x: xp.fliplr(x)),
    "flipud": each(M, lambda xp, x: xp.flipud(x)),
    "pad": each(M, lambda xp, x: xp.pad(x, 1, "constant"),
        lambda xp, x: xp.pad(x, ((0, 1), (2, 0)), "constant")),
    "diff": each(M, lambda xp, x: xp.diff(x), lambda xp, x: xp.diff(x, n=2, axis=0)),
    "gradient": each(M, lambda xp, x: xp.gradient(x), lambda xp, x: xp.gradient(x, axis=0)),
    "diag": each(M, lambda xp, x: xp.diag(x), lambda xp, x: xp.diag(x, 1), lambda xp, x: xp.diag(x[0])),
    "diagonal": each(M, lambda xp, x: xp.diagonal(x), lambda xp, x: xp.diagonal(x[None], axis1=-1, axis2=-2)),
    "tril": each(M, lambda xp, x: xp.tril(x), lambda xp, x: xp.tril(x, -1), lambda xp, x: xp.tril(x[0], 1)),
    "triu": each(M, lambda xp, x: xp.triu(x), lambda xp, x: xp.triu(x, k=1), lambda xp, x: xp.triu(x[0])),
    "sort": each(V, lambda xp, x: xp.sort(x)),
    "partition": each(V, lambda xp, x: xp.partition(x, 1)),
    "linspace": each(M, lambda xp, x: xp.linspace(x[0, 0], x[1, 1], 5),
        lambda xp, x: xp.linspace(0.0, x[0, 0]), lambda xp, x: xp.linspace(x[0, 1], 3.0, num=4)),
    "split": each(T, lambda xp, x: xp.split(x, 2), lambda xp, x: xp.split(x, [1, 3], axis=-1)),
    "array_split": each(V, lambda xp, x: xp.array_split(x, 2)),
    "vsplit": each(E, lambda xp, x: xp.vsplit(x, 2)),
    "hsplit": each(E, lambda xp, x: xp.hsplit(x, 2)),
    "dsplit": each(T, lambda xp, x: xp.dsplit(x, 2)),
    "concatenate": each(M, lambda xp, x: xp.concatenate([x, M, x]),
        lambda xp, x: xp.concatenate((x, x * x), axis=1), lambda xp, x: xp.concatenate([M[:, :1], x], -1)),
    "stack": each(M, lambda xp, x: xp.stack([x, M]), lambda xp, x: xp.stack([x[0], V, x[1]], axis=1),
        lambda xp, x: xp.stack((x[0, 0], 1.0, x[1, 1])), lambda xp, x: xp.stack([M, x], -1)),
    "vstack": each(M, lambda xp, x: xp.vstack([x, V]), lambda xp, x: xp.vstack((x[0], x[1])),
        lambda xp, x: xp.vstack([M, x])),
    "hstack": each(M, lambda xp, x: xp.hstack([x, M]), lambda xp, x: xp.hstack((x[0], x[1])),
        lambda xp, x: xp.hstack([1.0, x[0, 0]])),
    "column_stack": each(M, lambda xp, x: xp.column_stack([x, V]),
        lambda xp, x: xp.column_stack((x[0], x[1]))),
    "append": each(M, lambda xp, x: xp.append(x, V), lambda xp, x: xp.append(x, S, axis=0),
        lambda xp, x: xp.append(S, x, 1), lambda xp, x: xp.append(x[0], x[0, 0])),
    "select": each(M, lambda xp, x: xp.select([S > 2, S > 1], [x, x**2], 0.5)),
    "linalg.cholesky": each(S, lambda xp, x: xp.linalg.cholesky(x @ x.T),
        lambda xp, x: xp.linalg.cholesky(x + x.T)),
    "linalg.det": each(M, lambda xp, x: xp.linalg.det(x), lambda xp, x: xp.linalg.det(xp.stack([x, x @ x]))),
    "linalg.slogdet": each(M, lambda xp, x: xp.linalg.slogdet(x)[1],
        lambda xp, x: xp.linalg.slogdet(x).logabsdet if xp is np else xp.linalg.slogdet(x)[1]),
    "linalg.inv": each(M, lambda xp, x: xp.linalg.inv(x),
        lambda xp, x: xp.linalg.inv(x * np.ones((2, 1, 1)))),
    "linalg.pinv": each(M, lambda xp, x: xp.linalg.pinv(x), lambda xp, x: xp.linalg.pinv(x[:2])),
    "linalg.solve": each(M, lambda xp, x: xp.linalg.solve(x, S), lambda xp, x: xp.linalg.solve(S, x),
        lambda xp, x: xp.linalg.solve(S, x[0]), lambda xp, x: xp.linalg.solve(x, V)),
    "linalg.norm": each(M, lambda xp, x: xp.linalg.norm(x), lambda xp, x: xp.linalg.norm(x[0]),
        lambda xp, x: xp.linalg.norm(x, axis=0), lambda xp, x: xp.linalg.norm(x[0], 3),
        lambda xp, x: xp.linalg.norm(x, "nuc")),
    "linalg.eigh": each(S, lambda xp, x: xp.linalg.eigh(x + x.T)[0],
        lambda xp, x: xp.linalg.eigh(x + x.T)[1][:, 0] ** 2, lambda xp, x: xp.linalg.eigh(x, "U")[0]),
    "linalg.eig": each(S + np.triu(M) / 9, lambda xp, x: xp.linalg.eig(x)[0]),
    "linalg.svd": each(M[:2], lambda xp, x: xp.linalg.svd(x, full_matrices=False)[1],
        lambda xp, x: xp.linalg.svd(x, False)[0] ** 2, lambda xp, x: xp.linalg.svd(x, compute_uv=False)),
    **{f"fft.{name}": fourier(name) for name in ("fft", "ifft", "fft2", "ifft2", "fftn", "ifftn", "rfft",
        "irfft", "rfft2", "irfft2", "rfftn", "irfftn")},
    "fft.fftshift": each(E, lambda xp, x: xp.fft.fftshift(x), lambda xp, x: xp.fft.fftshift(x, axes=1)),
    "fft.ifftshift": each(E, lambda xp, x: xp.fft.ifftshift(x)),
}  # fmt: skip

# NumPy gives no way to see these calls: nothing can be recorded, so they have to raise.
WITHOUT_A_HOOK = {
    "full": lambda x: np.full(3, x[0, 0]),
    "select, of which only the default is recorded": lambda x: np.select([S > 2], [S], x),
    "array": lambda x: np.array([x[0, 0], 1.0]),
}

TABLE = functions_with_a_gradient()
CASES = [
    pytest.param(name, *case, id=f"{name}-{i}")
    for name, cases in SAMPLES.items()
    for i, case in enumerate(cases)
    if any(name in names for names in TABLE.values())
]


def test_no_function_of_autograds_table_is_forgotten():
    assert len(TABLE) > 130
    sampled = {*SAMPLES, *WITHOUT_A_HOOK}
    assert [names for names in TABLE.values() if not sampled & {*names}] == []


def test_a_function_that_numpy_does_not_hand_over_says_so():
    for call in WITHOUT_A_HOOK.values():
        with pytest.raises((TypeError, NotImplementedError)):
            gradient(lambda x: np.sum(call(x)), M)


def projected(xp, out):
    """One real number out of one or several arrays, with a weight for each element and each part."""
    if isinstance(out, (tuple, list, SequenceBox)):
        return sum(projected(xp, out[i]) * (i + 1) for i in range(len(out)))
    weights = np.cos(np.arange(np.size(out)) + 0.5).reshape(np.shape(out))
    return xp.sum(xp.real(out) * weights) + xp.sum(
        xp.imag(out) * weights[::-1] if np.ndim(out) else xp.imag(out)
    )


def outputs(out):
    return [leaf for item in out for leaf in outputs(item)] if isinstance(out, (tuple, list)) else [out]


def autograds(f, x):
    """autograd's gradient, in our convention for complex numbers; None where autograd cannot."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            g = np.conj(autograd.grad(f)(x))
        except Exception:
            return None
        finally:
            trace_stack.top = -1  # autograd leaves its count of traces behind an exception
    return g if np.all(np.isfinite(g)) else None


def differences(f, x, h=1e-6):
    """∂f/∂Re x + i·∂f/∂Im x by central differences."""
    g = np.zeros(np.shape(x), np.result_type(x, float))
    for i in np.ndindex(g.shape):
        for unit in (1, 1j) if np.iscomplexobj(x) else (1,):
            step = np.zeros_like(g)
            step[i] = h * unit
            g[i] += unit * (f(x + step) - f(x - step)) / (2 * h)
    return g


def same(a, b, rtol=1e-9):
    a = np.zeros_like(b) if a is None else a
    assert a.dtype == np.asarray(b).dtype
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1.0, np.max(np.abs(b), initial=0)))


@pytest.mark.parametrize(("name", "call", "x"), CASES)
def test_the_gradient_is_autograds(name, call, x):
    p, seen = param(x), []
    x = p.value if np.ndim(x) else x
    value = projected(np, call(np, x))
    expected, rtol = autograds(lambda x: projected(anp, call(anp, x)), x), 1e-9
    beyond_autograd = expected is None
    if beyond_autograd:
        expected, rtol = differences(lambda x: projected(np, call(np, x)), x), 1e-5
    for use in (lambda: p, lambda: p * 1.0):  # a parameter, a result
        try:
            val, grad = withgradient(lambda: seen.append(r := call(np, use())) or projected(np, r), params(p))
        except NotImplementedError as error:
            if beyond_autograd and f"np.{name} " in str(error):
                continue
            raise
        np.testing.assert_allclose(val, value, rtol=1e-12, atol=1e-12)
        assert val.dtype == np.float64
        same(grad[p], expected, rtol)
    for result in [*seen, call(np, p)]:  # within a gradient, and outside
        for out, plain in zip(outputs(result), outputs(call(np, p.value)), strict=True):
            assert (out.shape, out.dtype) == (np.shape(plain), np.asarray(plain).dtype)
            np.testing.assert_array_equal(dropgrad(out), plain)  # to the last bit
            np.testing.assert_array_equal(dropgrad(out), plain)
    assert list(map(type, outputs(call(np, p)))) == list(map(type, outputs(call(np, p.value))))


@pytest.mark.parametrize(("name", "call", "x"), CASES)
def test_the_gradient_of_the_gradient_is_autograds(name, call, x):
    size = lambda xp, g: xp.sum(xp.real(g) ** 2 + xp.imag(g) ** 2)
    inner = lambda x: autograd.grad(lambda x: projected(anp, call(anp, x)))(x)
    expected = autograds(lambda x: size(anp, inner(x)), x)
    f = lambda x: projected(np, call(np, x))
    squared_slope = lambda x: 0.0 if (g := gradient(f, x)[0]) is None else size(np, g)
    try:
        (g,) = gradient(squared_slope, x)
    except NotImplementedError:
        if expected is None:
            return  # neither here nor there, and it says so
        raise
    if expected is None:
        same(g, differences(squared_slope, x), 1e-4)
    else:
        same(g, expected, 1e-7)


ALONG = [(f"cumprod {axis}", partial(lambda xp, x, axis: xp.cumprod(x, axis), axis=axis), x)
         for axis in (None, 0, -1) for x in (M, Z, T)]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "x"), [*CASES, *ALONG])
def test_a_gradient_has_the_same_bits_within_another_gradient(name, call, x):
    loss = lambda x: projected(np, call(np, x))
    (outside,), inside = gradient(loss, x), []

    def outer(x):
        (g,) = gradient(loss, x)
        inside.append(dropgrad(g))
        return np.sum(np.real(x))

    gradient(outer, x)
    if outside is None:
        assert inside == [None]
    else:
        np.testing.assert_array_equal(inside[0], outside, strict=True)


@pytest.mark.parametrize(("name", "call", "x"), CASES)
def test_float32_gives_float32(name, call, x):
    exact = autograds(lambda x: projected(anp, call(anp, x)), x)
    x = np.asarray(x).astype("complex64" if np.iscomplexobj(x) else "float32")
    if exact is None or not all(np.asarray(out).dtype.char in "fF" for out in outputs(call(np, x))):
        return  # a constant of the sample is float64
    p, results = param(x), []
    grads = gradient(lambda: results.append(call(np, p)) or projected(np, results[0]), params(p))
    assert {out.dtype.char for out in outputs(results[0])} <= {"f", "F"}
    assert grads[p].dtype == x.dtype
    np.testing.assert_allclose(
        grads[p], exact, rtol=2e-3, atol=2e-3 * max(1, np.max(np.abs(exact), initial=0))
    )


# --- Methods, operators and keywords --------------------------------------------------------------------

METHODS = {
    "x + y": (lambda x: x + M, lambda x: np.add(x, M)),
    "y - x": (lambda x: M - x, lambda x: np.subtract(M, x)),
    "2 * x": (lambda x: 2 * x, lambda x: np.multiply(2, x)),
    "y / x": (lambda x: M / x, lambda x: np.divide(M, x)),
    "x ** 3": (lambda x: x**3, lambda x: np.power(x, 3)),
    "2 ** x": (lambda x: 2**x, lambda x: np.power(2, x)),
    "x @ y": (lambda x: x @ M, lambda x: np.matmul(x, M)),
    "y @ x": (lambda x: M @ x, lambda x: np.matmul(M, x)),
    "x % 0.4": (lambda x: x % 0.4, lambda x: np.mod(x, 0.4)),
    "1.5 % x": (lambda x: 1.5 % x, lambda x: np.mod(1.5, x)),
    "divmod": (lambda x: (lambda a, b: a * x + b)(*divmod(x, 0.4)),
        lambda x: (M // 0.4) * x + np.mod(x, 0.4)),
    "divmod by x": (lambda x: (lambda a, b: a * x * 3 + b)(*divmod(1.5, x)),
        lambda x: (1.5 // M) * x * 3 + np.mod(1.5, x)),
    "divmod of both": (lambda x: (lambda a, b: a * x + b)(*divmod(x * x, x.T)),
        lambda x: (M * M // M.T) * x + np.mod(x * x, x.T)),
    "list - x": (lambda x: [1, 2, 3] - x, lambda x: np.subtract([1, 2, 3], x)),
    "list / x": (lambda x: [1.0, 2.0, 3.0] / x, lambda x: np.divide(V * 0 + [1.0, 2.0, 3.0], x)),
    "x - list": (lambda x: x - [1, 2, 3], lambda x: np.subtract(x, np.array([1.0, 2.0, 3.0]))),
    "list @ x": (lambda x: [1, 2, 3] @ x, lambda x: np.array([1.0, 2.0, 3.0]) @ x),
    "x @ list": (lambda x: x @ [1, 2, 3], lambda x: x @ np.array([1.0, 2.0, 3.0])),
    "y ** x": (lambda x: P**x, lambda x: np.exp(np.log(P) * x)),
    "y % x": (lambda x: P % x, lambda x: np.mod(P, x)), "x % y": (lambda x: x % P, lambda x: np.mod(x, P)),
    "y * x": (lambda x: P * x, lambda x: np.multiply(P, x)),
    "y + x": (lambda x: P + x, lambda x: np.add(P, x)),
    "x / y": (lambda x: x / P, lambda x: np.divide(x, P)), "x - y": (lambda x: x - P, lambda x: x + -P),
    "x - x": (lambda x: x * 2 - x.T, lambda x: np.add(np.multiply(x, 2), np.negative(np.transpose(x)))),
    "x / x": (lambda x: x.T / x, lambda x: np.transpose(x) * np.power(x, -1.0)),
    "x ** x": (lambda x: (x * x) ** x.T, lambda x: np.exp(np.log(np.square(x)) * np.transpose(x))),
    "x @ x": (lambda x: x @ x.T, lambda x: np.einsum("ij,kj->ik", x, x)),
    "x % x": (lambda x: (x * x) % x.T, lambda x: x * x - (M * M // M.T) * x.T),
    "outer": (lambda x: np.multiply.outer(x, V), lambda x: x[..., None] * V),
    "outer, second": (lambda x: np.subtract.outer(V, x), lambda x: V[:, None, None] - x),
    "outer, both": (lambda x: np.divide.outer(x, x[0]), lambda x: x[:, :, None] / x[0]),
    "outer with a list": (lambda x: np.add.outer([1.0, 2.0], x), lambda x: np.stack([x + 1, x + 2])),
    "outer with a number": (lambda x: np.multiply.outer(2.0, x), lambda x: 2 * x),
    "-x": (lambda x: -x, np.negative), "+x": (lambda x: +x, lambda x: 1 * x), "abs": (abs, np.abs),
    "x + list": (lambda x: operator.add(x, [1, 2, 3]), lambda x: x + np.array([1.0, 2.0, 3.0])),
    "float64 * x": (lambda x: np.float64(2) * x, lambda x: 2 * x),
    "x // 1": (lambda x: x - x // 1, lambda x: np.mod(x, 1)),
    "round": (lambda x: x * x.round(1), lambda x: x * np.round(M, 1)),
    "pad by default": (lambda x: np.pad(x, 1), lambda x: np.pad(x, 1, "constant")),
    "index": (lambda x: x[1], lambda x: x[np.array([1])][0]),
    "tuple": (lambda x: x[1:, -1], lambda x: x.T[-1][1:]),
    "mask": (lambda x: x[M > 0], lambda x: x.reshape(9)[(M > 0).ravel()]),
    "twice": (lambda x: x[[0, 0, 2]], lambda x: np.stack([x[0], x[0], x[2]])),
    "two lists": (lambda x: x[[0, 1], [1, 1]], lambda x: np.stack([x[0, 1], x[1, 1]])),
    "backwards": (lambda x: x[::-2, ::-1], lambda x: np.flip(x)[::2]),
    "newaxis": (lambda x: x[:, None, ..., None], lambda x: x.reshape(3, 1, 3, 1)),
    "np.ix_": (lambda x: x[np.ix_([0, 2], [1])], lambda x: x[[0, 2]][:, [1]]),
    "scalar index": (lambda x: x[0, 1] * x[2][1], lambda x: x[0][1] * x[2, 1]),
    "bool index": (lambda x: x[True], lambda x: x[None]),
    "int array": (lambda x: x[np.int64(1), np.array([[0], [2]])],
        lambda x: np.stack([x[1, 0], x[1, 2]])[:, None]), "empty": (lambda x: x[[]], lambda x: x[:0]),
    "iterate": (lambda x: sum(r * i for i, r in enumerate(x)), lambda x: np.arange(3.0) @ x),
    "unpack": (lambda x: (lambda a, b, c: a * c + b)(*x), lambda x: x[0] * x[2] + x[1]),
    "T": (lambda x: x.T, np.transpose), "mT": (lambda x: x.mT, np.transpose),
    "real": (lambda x: x.real, np.real), "imag": (lambda x: (x * 1j).imag, lambda x: x * 1.0),
    "flat": (lambda x: np.stack(list(x.flatten())), lambda x: x.reshape(9)),
    "all the rest": (lambda x: x.clip(-0.5, 0.5).conj().conjugate(), lambda x: np.clip(x, -0.5, 0.5)),
    "clip of a plain array": (lambda x: M.clip(x - 0.1, max=V * x), lambda x: np.clip(M, x - 0.1, V * x)),
    "clip by name": (lambda x: x.clip(min=0.1), lambda x: np.maximum(x, 0.1)),
    "clip above": (lambda x: x.clip(max=0.1), lambda x: np.minimum(x, 0.1)),
    "copy": (lambda x: x.copy(), lambda x: x * 1),
    "cumsum": (lambda x: x.cumsum(axis=1), lambda x: np.cumsum(x, 1)),
    "diagonal": (lambda x: x.diagonal(), np.diag), "dot": (lambda x: x.dot(V), lambda x: np.dot(x, V)),
    "flatten": (lambda x: x.flatten(), np.ravel),
    "flatten F": (lambda x: x.flatten("F"), lambda x: np.ravel(x.T)),
    "ravel F": (lambda x: x.ravel(order="F"), lambda x: np.ravel(x.T)),
    "reshape": (lambda x: x.reshape(1, 9), lambda x: np.reshape(x, (1, 9))),
    "reshape tuple": (lambda x: x.reshape((9,)), np.ravel),
    "reshape F": (lambda x: x.reshape(1, 9, order="F"), lambda x: np.ravel(x.T)[None]),
    "transpose": (lambda x: x.transpose(), np.transpose),
    "transpose axes": (lambda x: x.transpose(1, 0), np.transpose),
    "transpose tuple": (lambda x: x.transpose((1, 0)), np.transpose),
    **{f"{name}{options}": (lambda x, name=name, options=options: getattr(x, name)(**options),
        lambda x, name=name, options=options: getattr(np, name)(x, **options))
       for name in ("sum", "mean", "prod", "max", "min", "std", "var") for options in ({}, {"axis": 0},
           {"axis": 1, "keepdims": True})},
    "sum where": (lambda x: x.sum(where=M > 0), lambda x: np.sum(x[M > 0])),
    "mean where": (lambda x: np.mean(x, where=M > 0), lambda x: np.mean(x[M > 0])),
    "sum initial": (lambda x: np.sum(x, initial=3.0), lambda x: np.sum(x) + 3),
    "real_if_close tol": (lambda x: np.real_if_close(x, tol=10), lambda x: x * 1),
    "repeat": (lambda x: x.repeat(2, axis=0), lambda x: np.repeat(x, 2, axis=0)),
    "repeat each": (lambda x: x.repeat([1, 2, 0], axis=1), lambda x: x[:, [0, 1, 1]]),
    "squeeze": (lambda x: x[None].squeeze(0), lambda x: x * 1),
    "swapaxes": (lambda x: x.swapaxes(0, 1), np.transpose), "trace": (lambda x: x.trace(), np.trace),
    "trace by position": (lambda x: x.trace(1, 0, 1), lambda x: np.trace(x, 1, 0, 1)),
    "take": (lambda x: x.take([0, 4]), lambda x: x.reshape(9)[[0, 4]]),
    "np.take": (lambda x: np.take(x, [[1], [1]], axis=1), lambda x: x[:, [[1], [1]]]),
    "np.take wrap": (lambda x: np.take(x, [-1, 4], axis=0, mode="wrap"), lambda x: x[[2, 1]]),
    "np.take clip": (lambda x: np.take(x, [-1, 4], axis=0, mode="clip"), lambda x: x[[0, 2]]),
    "astype": (lambda x: x.astype(float), lambda x: x * 1),
    "astype complex": (lambda x: x.astype(complex).real, lambda x: x * 1),
    "flip": (lambda x: np.flip(x, 1), np.fliplr),
    "sort rows": (lambda x: np.sort(x), lambda x: x[[[0], [1], [2]], np.argsort(M)]),
    "sort axis": (lambda x: np.sort(x, axis=0), lambda x: x[np.argsort(M, 0), [0, 1, 2]]),
    "sort all": (lambda x: np.sort(x, axis=None), lambda x: x.ravel()[np.argsort(M.ravel())]),
    "positive": (np.positive, lambda x: x * 1),
    "dstack": (lambda x: np.dstack([x, M]), lambda x: np.stack([x, M], 2)),
    "block": (lambda x: np.block([[x, M], [V, 1.0, x[0, :2]]]),
        lambda x: np.concatenate([np.concatenate([x, M], 1), np.concatenate([V, [1.0], x[0, :2]])[None]])),
    "broadcast_arrays": (lambda x: np.broadcast_arrays(x[0], x)[0], lambda x: np.broadcast_to(x[0], (3, 3))),
    "copyof": (np.copy, lambda x: x * 1),
    "add.reduce": (lambda x: np.add.reduce(x, axis=1), lambda x: np.sum(x, 1)),
    "multiply.reduce": (np.multiply.reduce, lambda x: np.prod(x, 0)),
    "maximum.reduce": (np.maximum.reduce, lambda x: np.max(x, 0)),
    "add.accumulate": (np.add.accumulate, lambda x: np.cumsum(x, 0)),
    "a=": (lambda x: np.sum(a=x), np.sum), "a= b=": (lambda x: np.kron(a=M, b=x), lambda x: np.kron(M, x)),
    "clip a_min=": (lambda x: np.clip(x, a_min=0.1, a_max=0.6), lambda x: np.clip(x, 0.1, 0.6)),
    "arrays=": (lambda x: np.stack(arrays=[x, M], axis=1), lambda x: np.stack([x, M], 1)),
    "m=": (lambda x: np.rot90(m=x), np.rot90), "x=": (lambda x: np.linalg.norm(x=x), np.linalg.norm),
    "linspace stop=": (lambda x: np.linspace(0.0, stop=x[0, 0], num=3),
        lambda x: np.array([0.0, 0.5, 1.0]) * x[0, 0]),
    "einsum optimize": (lambda x: np.einsum("ij,jk,kl->il", x, M, x, optimize=True), lambda x: x @ M @ x),
    "svd unpacked": (lambda x: np.linalg.svd(x, full_matrices=False).S,
        lambda x: np.linalg.svd(x, full_matrices=False)[1]),
    "eigh unpacked": (lambda x: (lambda w, v: v * w @ v.T)(*np.linalg.eigh(x + x.T)), lambda x: x + x.T),
    "split unpacked": (lambda x: (lambda a, b, c: a * b + c)(*np.split(x, 3)),
        lambda x: x[:1] * x[1:2] + x[2:]),
}  # fmt: skip


@pytest.mark.parametrize(("method", "function"), METHODS.values(), ids=METHODS)
def test_methods_operators_and_keywords_equal_their_functions(method, function):
    p = param(M)
    for x in (lambda: p, lambda: p * 1.0):
        value, grads = withgradient(lambda: projected(np, method(x())), params(p))
        expected_value, expected = withgradient(lambda: projected(np, function(x())), params(p))
        np.testing.assert_allclose(value, expected_value, rtol=1e-12)
        same(grads[p], expected[p])
        assert np.any(expected[p]) or np.size(method(M)) == 0
    plain, outside = method(M), method(p)
    assert (type(outside), np.shape(outside)) == (type(plain), np.shape(plain))


CONSTANT = {
    "np.argmax": np.argmax, "np.shape": np.shape, "np.ndim": np.ndim, "np.size": np.size,
    "np.zeros_like": lambda x: np.zeros_like(x, int), "np.ones_like": lambda x: np.ones_like(x, bool),
    "np.full_like": lambda x: np.full_like(x, 2, int), "np.empty_like": lambda x: np.empty_like(x).shape,
    "a comparison of np.zeros_like": lambda x: np.zeros_like(x) < 1,
    "float": lambda x: float(np.zeros_like(x[0, 0])),
    "np.asarray": lambda x: np.asarray(np.ones_like(x)), "tolist": lambda x: np.full_like(x, 2.0).tolist(),
    "np.isfinite": np.isfinite, "np.sign": np.sign, "np.floor": np.floor,
    "np.ceil": np.ceil, "np.round": np.round, "np.rint": np.rint, "np.trunc": np.trunc,
    "np.argsort": np.argsort, "np.nonzero": np.nonzero, "np.where": lambda x: np.where(x > 0),
    "np.all": np.all, "np.any": np.any, "np.allclose": lambda x: np.allclose(x, M),
    "np.array_equal": lambda x: np.array_equal(x, M), "np.isclose": lambda x: np.isclose(x, M),
    "np.result_type": lambda x: np.result_type(x, np.float32), "np.iscomplexobj": np.iscomplexobj,
    "np.isnan": np.isnan, "np.logical_and": lambda x: np.logical_and(x, M),
    "np.searchsorted": lambda x: np.searchsorted(np.sort(V), x), "np.count_nonzero": np.count_nonzero,
    "np.array2string": np.array2string, "np.array_repr": np.array_repr,
    "np.signbit": np.signbit, "np.isin": lambda x: np.isin(x, M),
    "np.linalg.matrix_rank": np.linalg.matrix_rank, "np.floor_divide": lambda x: np.floor_divide(x, 0.4),
    "np.greater": lambda x: np.greater(x, V), "==": lambda x: x == M, "<": lambda x: M[0] < x,
    "in": lambda x: 0.3 in x, "len": len, "bool": lambda x: bool(x[0, 0]),
    "np.argmin axis": lambda x: np.argmin(x, axis=0),
    "np.may_share_memory": lambda x: np.may_share_memory(x, V),
    "shape": lambda x: (x.shape, x.ndim, x.size, x.dtype, x.nbytes, x.itemsize),
    "str": str, "format": lambda x: f"{x[0, 0]:.2f}",
    "methods": lambda x: (x.argmax(), x.argsort(0), x.all(), x.any(axis=1), x.nonzero(), x.round(),
        x.searchsorted if 0 else None),
    "//": lambda x: x // 0.4, "7 // x": lambda x: 7 // x,
    "x // y": lambda x: x // P, "y // x": lambda x: P // x,
    "divmod": lambda x: divmod(x, 0.4)[0], "divmod by x": lambda x: divmod(7.0, x)[0],
    "!=": lambda x: x != M[0], "> <": lambda x: (x > 0.3, x < 0.3, M[0] > x, M[0] < x),
    ">= <=": lambda x: (x >= 0.3, x <= 0.3, M[0] >= x, M[0] <= x), "x > x": lambda x: (x > x.T, x <= x.T),
    "not in": lambda x: 9.0 not in x,
    "methods of rows": lambda x: (x.argmin(1), x.argmax(axis=0), x.argpartition(1), x.all(0), x[0].argsort()),
    "searchsorted": lambda x: x[:, 2].searchsorted([0.0, 9.0]), "nonzero": lambda x: x[0].nonzero(),
    "round to": lambda x: (x.round(1), x.round(decimals=2)), "astype int": lambda x: x.astype(int),
    "np.digitize": lambda x: np.digitize(x, [0, 1]), "np.isrealobj": np.isrealobj,
}  # fmt: skip


@pytest.mark.parametrize("f", CONSTANT.values(), ids=CONSTANT)
def test_what_has_no_slope_gives_plain_values_for_control_flow(f):
    p, seen = param(M), []
    gradient(lambda: seen.extend([f(p), f(p * 1.0)]) or np.sum(p), params(p))
    for result in seen:
        assert type(result) is type(f(M))
        np.testing.assert_equal(result, f(M))


# --- Against numerical derivatives ----------------------------------------------------------------------

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3).filter(
    lambda shape: np.prod(shape) <= 24
)
ANY, POSITIVE, UNIT, ABOVE_ONE = (-2.0, 2.0), (0.3, 2.5), (-0.9, 0.9), (1.2, 3.0)


def elementwise(f, domain=ANY):
    def draw(data, fill):
        return f, [fill(data.draw(shapes), domain)]

    return draw


def broadcasting(f, domain=ANY, second=None):
    def draw(data, fill):
        a, b = data.draw(
            hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3).filter(
                lambda s: np.prod(s.result_shape) <= 24
            )
        ).input_shapes
        return f, [fill(a, domain), fill(b, second or domain)]

    return draw


def reducing(f, domain=ANY, min_side=0):
    def draw(data, fill):
        shape = data.draw(shapes.filter(lambda s: min(s, default=1) >= min_side))
        axes = st.none() | (
            hnp.valid_tuple_axes(len(shape)) | st.integers(-len(shape), len(shape) - 1)
            if shape
            else st.just(())
        )
        axis, keepdims = data.draw(axes), data.draw(st.booleans())
        return (lambda x: f(x, axis=axis, keepdims=keepdims)), [fill(shape, domain)]

    return draw


def along(f, domain=ANY):
    def draw(data, fill):
        shape = data.draw(shapes.filter(len))
        axis = data.draw(st.integers(-len(shape), len(shape) - 1))
        return (lambda x: f(x, axis)), [fill(shape, domain)]

    return draw


def indexing(data, fill):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    index = data.draw(
        hnp.basic_indices(shape, allow_newaxis=True)
        | hnp.arrays(bool, shape)
        | (hnp.integer_array_indices(shape) if shape else st.just(()))
    )
    return (lambda x: x[index]), [fill(shape, ANY)]


def products(f):
    """Of matrices and vectors, stacked or not."""

    def draw(data, fill):
        n, m, k = (data.draw(st.integers(0 if f is np.matmul else 1, 3)) for _ in range(3))
        a, b = data.draw(
            st.sampled_from(
                [
                    ((m,), (m,)),
                    ((n, m), (m,)),
                    ((m,), (m, k)),
                    ((n, m), (m, k)),
                    ((2, n, m), (m, k)),
                    ((n, m), (2, m, k)),
                    ((2, 1, n, m), (2, m, k)),
                    ((m,), (2, m, k)),
                    ((2, n, m), (m,)),
                ]
            )
        )
        return f, [fill(a, ANY), fill(b, ANY)]

    return draw


def matrices(f, *others, n_max=3):
    def draw(data, fill):
        n, stack = data.draw(st.integers(1, n_max)), data.draw(st.sampled_from([(), (2,)]))
        x = fill((*stack, n, n), ANY)
        return (lambda x, *rest: f(x + 5 * np.eye(n), *rest)), [
            x,
            *(fill((*stack, n, 2), ANY) for _ in others),
        ]

    return draw


def joining(f, count=2):
    return lambda data, fill: (
        (lambda *arrays: f(arrays)),
        [fill(shape, ANY) for shape in [data.draw(hnp.array_shapes(max_dims=3, max_side=2))] * count],
    )


def sampled(f, *shapes, domain=ANY):
    return lambda data, fill: (f, [fill(shape, domain) for shape in shapes])


COMPLEX_TOO = {
    "exp", "sin", "cos", "sinh", "cosh", "square", "negative", "add", "subtract", "multiply", "divide",
    "matmul", "dot", "sum", "mean", "cumsum", "absolute", "real", "imag", "conjugate",
    "index", "where", "reshape", "transpose", "concatenate", "stack", "einsum", "fft", "inv", "det", "solve",
    "outer", "trace", "prod", "expm1", "norm",
}  # fmt: skip
DOTS = [((), (2, 3)), ((2,), ()), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 2)),
    ((2, 2, 3), (3,)), ((3,), (2, 3, 2)), ((2, 3), (2, 3, 2)), ((2, 2, 3), (2, 3, 1)),
    ((0, 3), (3, 2))]  # fmt: skip
TENSORDOTS = [((2, 3), (3, 2), 1), ((2, 3), (2, 2), 0), ((2, 3, 2), (3, 2), 2), ((2, 3), (2, 3), 2),
    ((2, 3), (3, 2), (1, 0)), ((2, 3, 2), (2, 2, 3), ([0, 1], [1, 2])), ((2, 3), (2, 2), ((-2,), (-1,))),
    ((2, 3, 4), (4, 3), ((2, 1), (0, 1))), ((), (2,), 0), ((0, 3), (3, 2), 1)]  # fmt: skip
# Sums, diagonals, broadcasting, axes without a name, the order of the result left to NumPy.
EINSUMS = {"ij,jk->ki": "23 32", "ij,jk": "23 32", "ba": "23", "ij->": "23", "ij->j": "23", "ii": "33",
    "ii->i": "33", "iji->j": "232", "iij,jk->ik": "223 32", "ij,ij->i": "21 23", "ij,ij->ij": "13 23",
    "i,j,k->kij": "2 3 2", ",i->i": "- 3", "...ij,...jk->...ik": "223 32", "...ij,...jk": "123 232",
    "i...,...->...": "23 23", "...i->...": "223", "...ii->...i": "233", "i...j,j": "223 3",
    "i...j,...": "232 23", " i j , j -> i ": "23 3", "ij,jk->ik": "03 32"}  # fmt: skip


def shape_of(digits):
    return tuple(map(int, digits.strip("-")))


COMMON = {
    **{f.__name__: elementwise(f) for f in (np.exp, np.expm1, np.sin, np.cos, np.tan, np.tanh, np.sinh,
        np.cosh, np.arctan, np.arcsinh, np.square, np.negative, np.absolute, np.exp2, np.sinc, np.real,
        np.imag, np.conjugate) if f is not np.tan},
    **{f.__name__: elementwise(f, POSITIVE) for f in (np.log, np.log2, np.log10, np.log1p, np.sqrt,
        np.reciprocal)},
    **{f.__name__: elementwise(f, UNIT) for f in (np.arcsin, np.arccos, np.arctanh, np.tan)},
    "arccosh": elementwise(np.arccosh, ABOVE_ONE),
    **{f.__name__: broadcasting(f) for f in (np.add, np.subtract, np.multiply, np.maximum, np.minimum,
        np.logaddexp)},
    "divide": broadcasting(np.divide, ANY, POSITIVE), "power": broadcasting(np.power, POSITIVE, ANY),
    "arctan2": broadcasting(np.arctan2, ANY, POSITIVE), "hypot": broadcasting(np.hypot, POSITIVE),
    "where": broadcasting(
        lambda x, y: np.where(np.cos(np.arange(np.size(x + y))).reshape(np.shape(x + y)) > 0, x, y)
    ),
    "power of integers": elementwise(lambda x: x**3 + x**2 + x**1 + x**0 + x**-1, POSITIVE),
    "abs(x) ** 2.5": elementwise(lambda x: np.abs(x) ** 2.5),
    "sum": reducing(np.sum), "prod": reducing(np.prod), "mean": reducing(np.mean, min_side=1),
    "max": reducing(np.max, min_side=1), "min": reducing(np.min, min_side=1),
    "var": reducing(np.var, min_side=1),
    "std": reducing(lambda x, **options: np.std(np.stack([x, 3 + x * x]), axis=0)),
    "cumsum": along(np.cumsum), "sort": along(np.sort), "flip": along(np.flip),
    "roll": along(lambda x, axis: np.roll(x, 2, axis)),
    "repeat": along(lambda x, axis: np.repeat(x, 2, axis)),
    "diff": along(lambda x, axis: np.diff(x, axis=axis)), "expand_dims": along(np.expand_dims),
    "take": along(lambda x, axis: np.take(x, [-1, 0, 0], axis) if x.shape[axis] else x),
    "swapaxes": along(lambda x, axis: np.swapaxes(x, axis, 0)),
    "moveaxis": along(lambda x, axis: np.moveaxis(x, axis, 0)),
    "transpose": elementwise(lambda x: np.transpose(x) * 2),
    "reshape": elementwise(lambda x: np.reshape(x, (-1, 1)) if x.size else np.reshape(x, (0, 7))),
    "ravel": elementwise(np.ravel),
    "squeeze": elementwise(lambda x: np.squeeze(x[None])),
    "clip": elementwise(lambda x: np.clip(x, -1.01, 1.01)), "tile": elementwise(lambda x: np.tile(x, (2, 2))),
    "pad": elementwise(lambda x: np.pad(x, 1, "constant")),
    "broadcast_to": elementwise(lambda x: np.broadcast_to(x, (2, *x.shape))), "index": indexing,
    "matmul": products(np.matmul), "dot": products(lambda a, b: np.dot(a, b)),
    "outer": sampled(np.outer, (2,), (3,)), "inner": sampled(np.inner, (2, 3), (4, 3)),
    "einsum": sampled(lambda a, b: np.einsum("ij,jkl->lik", a, b), (2, 3), (3, 2, 2)),
    "tensordot": sampled(lambda a, b: np.tensordot(a, b, 2), (2, 3, 2), (3, 2)),
    **{f"dot {a} {b}": sampled(np.dot, a, b) for a, b in DOTS},
    **{f"tensordot {a} {b} {axes}": sampled(partial(np.tensordot, axes=axes), a, b)
        for a, b, axes in TENSORDOTS},
    **{f"einsum {text}": sampled(partial(np.einsum, text), *map(shape_of, shapes.split()))
        for text, shapes in EINSUMS.items()},
    "outer of any shapes": sampled(np.outer, (2, 2), ()),
    "einsum of axis numbers": sampled(lambda a, b: np.einsum(a, [2, 0], b, [0, 1]), (2, 3), (3, 2)),
    "einsum of axis numbers and ...": sampled(lambda a: np.einsum(a, [0, ..., 1], [..., 0]), (2, 2, 3)),
    "kron": sampled(np.kron, (2, 2), (2, 3)), "trace": sampled(np.trace, (3, 3)),
    "diagonal": sampled(np.diagonal, (2, 3)),
    "diag": sampled(np.diag, (3,)), "tril": sampled(np.tril, (3, 3)), "concatenate": joining(np.concatenate),
    "stack": joining(lambda arrays: np.stack(arrays, axis=1), 3), "vstack": joining(np.vstack),
    "hstack": joining(np.hstack), "norm": sampled(np.linalg.norm, (2, 3)),
    "inv": matrices(np.linalg.inv), "det": matrices(np.linalg.det), "solve": matrices(np.linalg.solve, "b"),
    "slogdet": matrices(lambda x: np.linalg.slogdet(x)[1]),
    "eigvalsh": matrices(lambda x: np.linalg.eigh(x + x.mT)[0], n_max=1),
    "cholesky": matrices(lambda x: np.linalg.cholesky(x @ x.mT)),
    "svd": sampled(lambda x: np.linalg.svd(x, full_matrices=False)[1], (2, 3)),
    "fft": sampled(np.fft.fft, (2, 4)), "rfft": sampled(np.fft.rfft, (4,)),
    "select": broadcasting(lambda x, y: np.select([np.True_], [x], y)),
    "block": sampled(lambda a, b: np.block([[a, b], [b, a]]), (2, 2), (2, 2)),
    "split": sampled(lambda a: np.split(a, 2)[1] * np.split(a, 2)[0], (4, 2)),
    "iteration": sampled(lambda a: sum(r * r for r in a), (3, 2)),
}  # fmt: skip
COMPLEX_TOO |= {name for name in COMMON if name.split()[0] in ("dot", "einsum", "outer", "tensordot")}


def inner_product(a, b):
    return 0.0 if a is None else np.sum(np.real(np.conj(b) * a))


def numerical(f, args, directions, h):
    moved = lambda t: [a + t * v for a, v in zip(args, directions, strict=True)]
    return (8 * (f(*moved(h)) - f(*moved(-h))) - (f(*moved(2 * h)) - f(*moved(-2 * h)))) / (12 * h)


@pytest.mark.parametrize("name", COMMON)
@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.data())
def test_first_and_second_derivatives_are_the_numerical_ones(name, data):
    seed = data.draw(st.integers(0, 2**16))
    is_complex = name in COMPLEX_TOO and data.draw(st.booleans())
    rng, offsets = np.random.default_rng(seed), []

    def fill(shape, domain):
        """Distinct numbers, far from each other and from the corners, so that nothing has a kink nearby."""
        n = int(np.prod(shape))
        grid = np.linspace(*domain, 4 * n + 7)[1:-1]
        x = rng.permutation(grid[:: max(len(grid) // (n + 1), 1)][:n] + 0.0137).reshape(shape)
        offsets.append(0.0071)
        x = x + sum(offsets)
        return x + 0.5j * rng.permutation(x.ravel()).reshape(shape) if is_complex else x

    f, args = COMMON[name](data, fill)
    loss = lambda *xs: projected(np, f(*xs))
    u, v = ([rng.normal(size=a.shape) * (1 + 1j if is_complex else 1) for a in args] for _ in range(2))
    ps = [param(a) for a in args]
    along_u = lambda *xs: sum(inner_product(g, d) for g, d in zip(gradient(loss, *xs), u, strict=True))
    first = along_u(*ps)
    np.testing.assert_allclose(first, numerical(loss, args, u, 1e-3), rtol=1e-6, atol=1e-6)
    second = (
        sum(
            inner_product(g, d)
            for g, d in zip(gradient(lambda: along_u(*ps), params(*ps)).values(), v, strict=True)
        )
        if reached(along_u, ps)
        else 0.0
    )
    np.testing.assert_allclose(second, numerical(along_u, args, v, 1e-3), rtol=1e-5, atol=1e-5)


def reached(f, args):
    return any(g is not None for g in gradient(f, *args))


@pytest.mark.parametrize(
    "f",
    [
        np.vdot,
        np.vecdot,
        np.linalg.vecdot,
        lambda x, y: np.poly(x),
        lambda x, y: np.add.reduceat(x, [0, 2]),
        lambda x, y: np.multiply.reduceat(x, [1, 2]),
        lambda x, y: np.linalg.eigvalsh(np.outer(x, np.conj(y)) + np.outer(y, np.conj(x))),
        lambda x, y: np.linalg.eigvalsh(np.outer(x.real, y.real) + np.outer(y.real, x.real), "U"),
    ],
)  # fmt: skip
def test_of_complex_numbers_too_the_value_has_numpys_last_bit(f):
    rng = np.random.default_rng(0)
    for n in (3, 8, 33):
        x, y = rng.normal(size=(2, n)) + 1j * rng.normal(size=(2, n))
        n > 8 or check_gradient(lambda x, y: np.real(f(x, y)), x, y, order=1)
        seen = []
        gradient(lambda x, y: np.sum(np.real(seen.append(dropgrad(f(x, y))) or f(x, y))), x, y)
        np.testing.assert_array_equal(seen[0], f(x, y), strict=True)


# --- Arrays of nested lists ---

NUMBERS = [2, True, 0.5, 1j, np.float32(0.5), np.int8(3), np.complex64(1 - 1j)]
VARIED = [np.float16(1.5), np.float32(1.5), np.float64(1.5), np.complex64(1 + 2j), np.complex128(1 - 2j)]


def nested(draw, shape):
    """Draw lists and tuples of a shape, of numbers and of None."""
    if not shape:
        return draw(st.sampled_from([None, *NUMBERS]))
    return draw(st.sampled_from([list, tuple]))([nested(draw, shape[1:]) for _ in range(shape[0])])


def each(f, x):
    return type(x)(each(f, item) for item in x) if isinstance(x, (list, tuple)) else f(x)


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@given(data=st.data(), w=st.sampled_from(VARIED), shape=st.lists(st.integers(1, 3), max_size=3),
       dtype=st.sampled_from([None, None, "f4", "f8", "c16"]))  # fmt: skip
def test_an_array_of_nested_lists_is_numpys_in_a_gradient_and_outside(data, w, shape, dtype):
    lists = nested(data.draw, shape)
    with_ = lambda x: each(lambda item: x if item is None else item, lists)
    try:
        right = np.array(with_(w), dtype)
    except TypeError:  # a complex number for a real one
        return
    p, weights = param(w), np.cos(np.arange(right.size)).reshape(right.shape)
    ours = np.array(each(lambda item: item is None, lists), float)
    size = lambda a, weights: np.sum(np.real(a * a) * weights)
    made = [array(with_(w), dtype)]

    def loss():
        a = array(with_(p * 1), dtype)
        made.append(dropgrad(a))
        return size(a, weights)

    θ = params(p)
    slope = gradient(loss, θ)[p] if ours.any() else None
    assert type(made[0]) is np.ndarray
    for a in made:
        assert (a.dtype, a.shape, a.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if slope is not None:
        one_by_one = gradient(lambda: size((p * 1).astype(right.dtype), weights * ours), θ)[p]
        rounded = 20 * np.finfo(w.dtype).eps * np.abs(weights).sum() * np.abs(w)
        np.testing.assert_allclose(slope, one_by_one, atol=rounded)
        program = compiled(lambda: size(array(with_(p * 1), dtype), weights), θ)
        assert program().grad[p].tobytes() == slope.tobytes()


def test_arrays_in_lists_rows_of_parameters_and_copies_are_joined_and_may_be_assigned_to():
    def f(x):
        a = array([x * 2, (1.0, x[0]), [x[1] ** 3, 4]])
        b = array(a)
        b[0] = 0.0
        return np.sum(a**2 * np.arange(6.0).reshape(3, 2)) + np.sum(b)

    x = np.array([2.0, -3.0])
    check_gradient(f, x)
    np.testing.assert_allclose(hessian(f, x), np.diag([6.0, 4 * 30 * x[1] ** 4 + 6 * x[1] + 8.0]))
    assert array(param(x)) is not x
    assert array(deque([x, [1.0, 2.0]])).tolist() == [[2.0, -3.0], [1.0, 2.0]]
    check_gradient(lambda x: np.sum(array(deque([x**2, [x[0], 2.0]]))), x)


@pytest.mark.parametrize("join", [np.concatenate, np.hstack, np.vstack, np.stack])
@pytest.mark.parametrize("held", [lambda x, y: {"a": x, "b": y}.values(), lambda x, y: {x[0], y[1]}])
def test_what_is_no_sequence_is_not_joined(join, held):
    for f in (lambda x: join(held(x, x**2)), partial(gradient, lambda x: np.sum(join(held(x, x**2))))):
        with pytest.raises(TypeError, match="sequence"):
            f(np.array([2.0, -3.0]))


@pytest.mark.parametrize(
    ("other", "words"), [(None, "None"), ("a", "'a'"), ({}, "{}"), (iter([1.0]), "list_iterator")]
)
def test_what_is_no_number_makes_no_array(other, words):
    for lists in (lambda x: other, lambda x: [x, other], lambda x: [[x], [other]]):
        for f in (lambda x: array(lists(x)), lambda x: gradient(lambda x: np.sum(array(lists(x))), x)):
            with pytest.raises(TypeError, match=f"array takes numbers.*{words}"):
                f(2.0)


@pytest.mark.parametrize("ragged", [lambda x: [x, [x]], lambda x: [[x, 1.0], [x]], lambda x: [[x], []]])
def test_lists_of_several_lengths_make_no_array(ragged):
    for f in (array, np.array):
        with pytest.raises(ValueError, match="shape"):
            f(ragged(2.0))
    with pytest.raises(ValueError, match="shape"):
        gradient(lambda x: np.sum(array(ragged(x))), 2.0)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8"])
@pytest.mark.parametrize("f", [np.sum, np.mean, np.prod, np.cumsum, np.cumprod, np.nansum])
def test_a_reduction_in_another_dtype_rounds_as_numpys_own(f, dtype):
    small = np.cos(np.arange(1400.0)).reshape(7, 200)
    many = np.cos(np.arange(20_000.0)) ** 2 / 1000
    for x in (small, small.T, many, many.astype("f2"), small.astype("f4")[:, ::2]):
        for part in (lambda x: x, lambda x: np.broadcast_to(x, (3, *x.shape)), lambda x: x[:, None] + 0):
            for axis in (None, 0, -1):
                seen = []

                def loss(x, part=part, axis=axis, seen=seen):
                    seen.append(f(part(x), axis=axis, dtype=dtype))
                    return np.mean(np.real(seen[-1])).astype(float)

                (g,) = gradient(loss, x)
                expected = f(part(x), axis=axis, dtype=dtype)
                assert g.dtype == x.dtype
                np.testing.assert_array_equal(constant(seen[0]), expected, strict=True)
                assert np.ravel(constant(seen[0]), "K").tolist() == np.ravel(expected, "K").tolist()
