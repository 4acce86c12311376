"""Gradients obey the laws of differentiation, in every form, nested, complex, and keep to themselves."""

import copy
import gc
import itertools
import math
import operator
import pickle
import platform
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import weakref
from collections import namedtuple
from collections.abc import Mapping
from types import SimpleNamespace

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
import scipy.special
from autograd.extend import defvjp, primitive
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidiff import (
    Grads,
    Param,
    Params,
    check_gradient,
    compiled,
    dropgrad,
    gradient,
    guard,
    hessian,
    hvp,
    jacobian,
    jvp,
    param,
    params,
    pullback,
    recompute,
    withgradient,
)
from minidiff.losses import mse
from minidiff.optimise import Descent, clip_norm, update
from minidiff.tracing import derivative

quick = settings(derandomize=True, max_examples=30, deadline=None)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
numbers = st.floats(-2, 2, allow_subnormal=False).map(lambda x: round(x, 3))

# Smooth functions of an array of any shape, to one number.
SMOOTH = {
    "square": lambda x: np.sum(x**2),
    "sin": lambda x: np.sum(np.sin(x) * np.arange(1.0, x.size + 1).reshape(x.shape)),
    "mean of tanh": lambda x: np.mean(np.tanh(x)) if x.size else np.sum(x),
    "log of sum": lambda x: np.log(1 + np.sum(np.exp(x))),
    "dot": lambda x: x.ravel() @ np.cos(x.ravel()),
    "index": lambda x: np.sum(x[..., None] * x.reshape(-1)) / 4,
    "norm": lambda x: np.sqrt(1 + (x * x).sum()),
}
smooth = st.sampled_from(list(SMOOTH))


@st.composite
def parameters(draw, shape=shapes):
    return param(draw(hnp.arrays("float64", draw(shape), elements=numbers)))


def slope(f, p):
    return gradient(f, params(p))[p]


def close(a, b, rtol=1e-9, atol=1e-9):
    assert np.shape(a) == np.shape(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def numerical(f, a, h=1e-6):
    """∂f/∂Re a + i·∂f/∂Im a by central differences, of a function of an array to a real number."""
    g = np.zeros(np.shape(a), np.result_type(a, np.float64))
    for i in np.ndindex(g.shape):
        for unit in (1, 1j) if np.iscomplexobj(a) else (1,):
            step = np.zeros_like(g)
            step[i] = h * unit
            g[i] += unit * (f(a + step) - f(a - step)) / (2 * h)
    return g


# --- The laws -------------------------------------------------------------------------------------------


@quick
@given(parameters(), smooth, smooth, numbers, numbers)
def test_linearity_product_and_chain_rule(p, f, g, a, b):
    f, g = SMOOTH[f], SMOOTH[g]
    df, dg = slope(lambda: f(p), p), slope(lambda: g(p), p)
    close(slope(lambda: a * f(p) + b * g(p), p), a * df + b * dg)
    close(slope(lambda: f(p) * g(p), p), f(p) * dg + g(p) * df)
    close(
        slope(lambda: f(p) / (2 + g(p) ** 2), p),
        df / (2 + g(p) ** 2) - f(p) * 2 * g(p) * dg / (2 + g(p) ** 2) ** 2,
    )
    close(slope(lambda: np.exp(np.sin(f(p))), p), np.exp(np.sin(f(p))) * np.cos(f(p)) * df)
    close(df, numerical(f, p.value), 1e-5, 1e-5)


@quick
@given(parameters(), smooth)
def test_all_forms_give_the_same_gradient_and_value(p, name):
    f, θ = SMOOTH[name], params(p)
    g = gradient(lambda: f(p), θ)[p]
    assert (type(g), g.shape, g.dtype) == (np.ndarray, p.shape, np.float64)
    explicit = [gradient(f, p), gradient(f, p.value), withgradient(f, p).grad, pullback(f, p)[1](1.0)]
    implicit = [withgradient(lambda: f(p), θ).grad, pullback(lambda: f(p), θ)[1](1.0)]
    decorated = [
        gradient(θ)(lambda: f(p)),
        withgradient(θ)(lambda: f(p)).grad,
        pullback(θ)(lambda: f(p))[1](1.0),
    ]
    for (h,) in explicit:
        assert np.array_equal(g, h)
    for grads in implicit + decorated:
        assert type(grads) is Grads
        assert np.array_equal(g, grads[p])
    close(jacobian(f, p)[0], g)
    assert withgradient(lambda: f(p), θ).val == withgradient(f, p).val == pullback(f, p)[0] == f(p.value)


@quick
@given(parameters(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)), smooth)
def test_hessians_are_symmetric_and_the_jacobian_of_the_gradient(p, name):
    f = SMOOTH[name]
    H = hessian(f, p)
    assert H.shape == p.shape * 2
    close(H, np.transpose(H, [*range(p.ndim, 2 * p.ndim), *range(p.ndim)]))
    close(H, jacobian(lambda x: gradient(f, x)[0], p)[0])
    v = np.cos(np.arange(p.size)).reshape(p.shape)
    Hv = np.tensordot(H, v, p.ndim)
    close(slope(lambda: np.sum(slope(lambda: f(p), p) * v), p), Hv)
    close(Hv, numerical(lambda x: np.sum(gradient(f, x)[0] * v), p.value), 1e-4, 1e-4)


@quick
@given(parameters(hnp.array_shapes(max_dims=1, max_side=4)), st.integers(1, 3), st.integers(1, 3))
def test_the_jacobian_of_a_composition_is_the_product(p, m, k):
    A, B = np.cos(np.arange(m * p.size)).reshape(m, -1), np.sin(np.arange(k * m)).reshape(k, m)
    f, g = lambda x: np.tanh(A @ x), lambda y: np.exp(B @ y) * y[0]
    close(jacobian(lambda x: g(f(x)), p)[0], jacobian(g, f(p))[0] @ jacobian(f, p)[0])


@quick
@given(parameters(), st.data())
def test_the_pullback_is_linear_in_its_seed_and_may_be_asked_again(p, data):
    f = lambda x: np.sin(x)[..., None] * np.array([1.0, 2.0])
    value, back = pullback(lambda: f(p), params(p))
    assert np.array_equal(value, f(p.value))
    u, v = (data.draw(hnp.arrays("float64", value.shape, elements=numbers)) for _ in range(2))
    close(back(u)[p], np.cos(p.value) * (u @ [1, 2]))
    close(back(2 * u - v)[p], 2 * back(u)[p] - back(v)[p])
    close(back(1)[p], back(np.ones_like(value))[p])
    if u.size:
        close(back(u.tolist())[p], back(u)[p])


# --- What is differentiated, and what comes back --------------------------------------------------------


def test_the_page_in_full():
    W, b = param(np.cos(np.arange(10.0)).reshape(2, 5)), param([0.5, -0.5])
    x, y = np.arange(5.0), np.array([1.0, 2.0])
    θ = params(W, b)
    grads = gradient(lambda: np.sum((W @ x + b - y) ** 2), θ)
    residual = W.value @ x + b.value - y
    close(grads[W], 2 * np.outer(residual, x))
    close(grads[b], 2 * residual)
    assert isinstance(grads, Mapping)
    assert [p is q for p, q in zip(grads.keys(), θ, strict=True)] == [True, True]


def test_shared_parameters_collect_from_every_use():
    W, b = param([[1.0, 2.0], [3.0, 4.0]]), param([1.0, 1.0])
    layer = lambda x: W @ x + b
    loss = lambda: np.sum(layer(layer(np.ones(2))) * layer(b))
    close(
        slope(loss, W),
        numerical(lambda V: np.sum((V @ (V @ np.ones(2) + b) + b.value) * (V @ b + b.value)), W.value),
        1e-6,
    )
    close(slope(lambda: W.sum() + W[0, 0] * 3 + W.T[1, 0], W), [[4.0, 2.0], [1.0, 1.0]])


def test_unreached_parameters_and_arguments_have_none():
    W, b = param([1.0]), param([2.0])
    grads = gradient(lambda: np.sum(W * dropgrad(b)), params(W, b))
    assert grads[b] is None
    assert list(grads.values())[1] is None
    assert gradient(lambda x, y: x * 2, 1.0, 2.0) == (2.0, None)
    close(slope(lambda: np.sum(W * 0), W), [0.0])
    close(slope(lambda: np.sum(W - W), W), [0.0])


Point = namedtuple("Point", "x y")


def test_arguments_are_nested_lists_tuples_and_dicts_and_gradients_are_nested_alike():
    model = {
        "layers": [(np.array([1.0, 2.0]), 3.0), (param([4.0, 5.0]), 6)],
        "at": Point(np.float32(2), None),
        "name": "m",
    }

    def f(model, scale):
        (a, s), (p, t) = model["layers"]
        assert model["name"] == "m"
        return scale * np.sum(a * p * s) + t * t + model["at"].x

    value, (g, scale) = withgradient(f, model, 2.0)
    assert (value, scale) == (122.0, 42.0)
    assert g["layers"][0][0].tolist() == [24.0, 30.0]
    assert (g["layers"][0][1], g["layers"][1][1]) == (28.0, 12.0)
    assert type(g["layers"][0]) is tuple
    assert g["layers"][1][0].tolist() == [6.0, 12.0]
    assert g["at"] == Point(1.0, None)
    assert type(g["at"]) is Point
    assert g["at"].x.dtype == np.float32
    assert g["name"] is None


@pytest.mark.parametrize(
    "x",
    [2, 2.0, True + 1, np.int32(2), np.float16(2), np.float32(2), np.array(2.0), np.array([2]), param(2.0)],
    ids=repr,
)
def test_the_gradient_of_a_number_is_of_its_precision(x):
    (g,) = gradient(lambda x: np.sum(x * x * x), x)
    assert g == 12
    dtype = np.asarray(x).dtype
    assert g.dtype == (dtype if dtype.kind == "f" else np.float64)
    assert g.shape == np.shape(x)


LOSSES = {
    "a Python float": lambda W: 2.0,
    "an int": lambda W: 2,
    "a NumPy scalar": lambda W: np.sum(W),
    "0-d": lambda W: np.array(2.0) * W[0],
    "size one": lambda W: W[:1].reshape(1, 1, 1) ** 2,
    "float32": lambda W: np.float32(3) * W.astype("float32")[0],
    "a 0-d parameter": lambda W: W[0] + 0,
}


@pytest.mark.filterwarnings("ignore:The loss reaches none")
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_withgradient_gives_the_value_as_the_function_gives_it(loss):
    W = param([3.0, 4.0])
    val, grad = result = withgradient(lambda: loss(W), params(W))
    expected = loss(W)
    assert (result.val is val, result.grad is grad) == (True, True)
    assert (type(val), np.shape(val), np.asarray(val).dtype) == (
        type(expected),
        np.shape(expected),
        np.asarray(expected).dtype,
    )
    assert np.array_equal(val, expected)


def test_a_parameter_itself_may_be_the_loss():
    s = param(3.0)
    value, grads = withgradient(lambda: s, params(s))
    assert (type(value), value == 3.0) != (Param, True)
    assert grads[s] == 1
    assert gradient(lambda x: x, 3.0) == (1.0,)
    assert slope(lambda: param([2.0]) * s, s) == 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_gradients_keep_the_precision_of_parameters_throughout(dtype):
    seen = []
    W, b, s = param(np.ones((2, 3)), dtype), param(np.ones(2), dtype), param(1, dtype)

    def loss():
        h = np.tanh(W @ np.ones(3, dtype) + b) * s * 2.0
        h = np.concatenate([h, np.stack([h[0], h[1]])]) / h.shape[0] - np.mean(h, axis=0)
        h = np.where(np.abs(h) > 0.5, h, h**2) + np.float64(3.0) * 0 + np.clip(np.abs(h), 0.1, 10)
        seen.append(h.dtype)
        return np.sum(np.abs(h)) + 0.5 * np.max(np.abs(h))

    value, grads = withgradient(loss, params(W, b, s))
    real = np.abs(np.zeros(1, dtype)).dtype
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}
    assert [g.shape for g in grads.values()] == [(2, 3), (2,), ()]
    if dtype[-2:] != "64" or dtype == "complex64":
        return
    assert (seen[0], value.dtype) == (np.dtype(dtype), real)


def test_mixed_precision_gives_each_parameter_its_own():
    a, b, z = param([1.0, 2.0], "float32"), param([3.0, 4.0]), param([1j, 2.0], "complex64")
    grads = gradient(
        lambda: np.sum(a * b) + np.sum(np.abs(z) ** 2) * a[0] + np.real(np.sum(z * b)), params(a, b, z)
    )
    assert [(g.dtype.name, g.shape) for g in grads.values()] == [
        ("float32", (2,)),
        ("float64", (2,)),
        ("complex64", (2,)),
    ]
    assert np.isrealobj(slope(lambda: np.abs(np.sum(b * 1j)), b))


def test_deep_and_wide_graphs_do_not_recurse():
    s = param(1.0)

    def chain():
        x = s
        for _ in range(100_000):
            x = x * 0.99999 + 0.00001
        return x

    close(slope(chain, s), 0.99999**100_000, 1e-6)
    ps = [param(float(i)) for i in range(3000)]
    close(gradient(lambda: sum(p * p for p in ps), Params(ps)).to_vector(), 2.0 * np.arange(3000))
    W = param(np.ones(5000))
    close(slope(lambda: sum(W[i] * i for i in range(5000)), W), np.arange(5000.0))


# --- Control flow, mixing, dropgrad ---------------------------------------------------------------------


def test_control_flow_follows_the_values():
    W = param([3.0, -1.0, 2.0])

    def loss():
        total = 0.0
        for w in W:
            if w > 0 and np.all(W < 5):
                total = total + w * len(W)
        first, *rest = W
        assert first == 3.0
        assert W.shape == (3,) == np.shape(W)
        assert int(np.argmax(W)) == 0
        assert f"{W[0]:.1f} {W}" == "3.0 [ 3. -1.  2.]"
        assert 2.0 in W
        return total + W[np.argsort(W)][0] * 10 + W[W > 2.5].sum() + rest[-1]

    close(slope(loss, W), [4.0, 10.0, 4.0])


def test_dropgrad_stops_every_gradient_around_it():
    W = param([2.0, 3.0])
    close(slope(lambda: np.sum(W * dropgrad(W)), W), [2.0, 3.0])
    close(slope(lambda: np.sum(dropgrad(W * 2) * W), W), [4.0, 6.0])
    plain = []
    slope(lambda: plain.extend(dropgrad({"a": [W, (W[0], 1.0)], "b": "text"}).values()) or np.sum(W), W)
    ((array, (scalar, one)), text) = plain
    assert (type(array), isinstance(scalar, float), one, text) == (np.ndarray, True, 1.0, "text")
    assert not np.may_share_memory(array, W.value)
    inner = lambda: slope(lambda: np.sum(W**2 * dropgrad(W)), W)
    close(slope(lambda: np.sum(inner()), W), 2 * W.value)
    of_inner = lambda: dropgrad(gradient(lambda: np.sum(W**3), params(W)))[W]
    close(slope(lambda: np.sum(of_inner() * W), W), 3 * W.value**2)
    array = np.ones(2)
    assert dropgrad(array) is array
    assert type(dropgrad(W)) is np.ndarray


def test_a_recorded_value_copies_and_a_parameter_copied_in_a_loss_is_another():
    W = param([2.0, 3.0])
    for clone in (copy.copy, copy.deepcopy, np.copy, lambda x: x.copy(), lambda x: x + 0):
        close(slope(lambda: np.sum(clone(W * 2) * W), W), 4 * W.value)
    for clone in (copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), param):
        close(slope(lambda: np.sum(clone(W) * W), W), W.value)
    close(slope(lambda: np.sum(W.copy() * np.copy(W)), W), 2 * W.value)


def test_a_loss_that_keeps_its_values_keeps_no_graph():
    W, values = param(np.ones(3)), []

    def loss():
        values.append(np.sum(np.tanh(W) ** 2))
        return values[-1]

    θ = params(W)
    gradient(loss, θ)
    assert values[0].parents == values[0].arguments == ()
    assert float(values[0]) == values[0] == withgradient(loss, θ).val == values[1]
    _, back = pullback(loss, θ)
    close(back(1.0)[W], back(1.0)[W])


def test_a_gradient_may_be_replaced():
    W, b = param(np.ones((2, 3))), param(1.0)
    grads = gradient(lambda: np.sum(W * 3) + b, params(W, b))
    grads[W] *= 0.5
    grads[b] = None
    close(grads[W], np.full((2, 3), 1.5))
    assert grads[b] is None
    update(Descent(1.0), params(W, b), grads)
    close(W.value, np.full((2, 3), -0.5))
    assert b == 1
    grads[W] = W.value
    grads[W] *= 2.0
    close(W.value, np.full((2, 3), -0.5))
    with pytest.raises(TypeError, match="complex128"):
        grads[W] = 1j * W
    nested = slope(lambda: np.sum(doubled(W)[W]), W)
    close(nested, np.full((2, 3), 1.0))


def doubled(W):
    grads = gradient(lambda: np.sum(W**2), params(W))
    grads[W] = W
    return grads


def test_what_a_loss_leaks_is_a_constant_to_the_next():
    W, leaked = param([2.0, 3.0]), []

    def loss():
        h = W * 2
        leaked.append(h)
        return np.sum(h * leaked[0])

    slope(loss, W)
    close(slope(loss, W), 2 * leaked[0]._value)
    assert leaked[0].astype(object).tolist() == [4.0, 6.0]


# --- Nesting --------------------------------------------------------------------------------------------

A = np.array([[0.3, -0.5], [0.7, 0.2], [-0.4, 0.9]])
w0 = np.array([0.4, -1.1])
f1 = lambda w: np.sin(A @ w).sum()  # plain NumPy, as far as autograd takes it too
f1_autograd = lambda w: anp.sum(anp.sin(anp.dot(A, w)))
ω = param(w0)

INNER = {  # the gradient of f1 at w, where w may be recorded
    "explicit": lambda w: gradient(f1, w)[0],
    "withgradient": lambda w: withgradient(f1, w).grad[0],
    "pullback": lambda w: pullback(f1, w)[1](1.0)[0],
    "jacobian": lambda w: jacobian(f1, w)[0],
    "autograd": lambda w: autograd.grad(f1_autograd)(w),
    "autograd of np": lambda w: autograd.grad(f1)(w),
    "ours of autograd.numpy": lambda w: gradient(f1_autograd, w)[0],
    "by hand": lambda w: A.T @ np.cos(A @ w),
}
OUTER = {  # the gradient at w0 of a function of w
    "explicit": lambda f: gradient(f, w0)[0],
    "explicit of a parameter": lambda f: gradient(f, ω)[0],
    "implicit": lambda f: slope(lambda: f(ω), ω),
    "autograd": lambda f: autograd.grad(f)(w0),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", OUTER)
def test_a_gradient_within_a_loss_is_differentiated(outer, inner):
    H = -A.T @ np.diag(np.sin(A @ w0)) @ A
    g = A.T @ np.cos(A @ w0)
    penalty = lambda w: (INNER[inner](w) ** 2).sum() + f1(w)
    close(OUTER[outer](penalty), 2 * H @ g + g)


@pytest.mark.parametrize("outer", [*OUTER, "implicit of both"])
def test_an_implicit_gradient_within_a_loss_is_differentiated(outer):
    v = param([0.5, 0.25])
    f = lambda w: np.sin(A @ (v * w)).sum()
    inner = lambda w: gradient(lambda: f(w), params(v))[v]
    penalty = lambda w: (inner(w) ** 2).sum()
    expected = numerical(lambda w: np.sum((A.T @ np.cos(A @ (v.value * w)) * w) ** 2), w0)
    if outer != "implicit of both":
        close(OUTER[outer](penalty), expected, 1e-6)
    else:
        grads = gradient(lambda: penalty(ω), params(ω, v))
        close(grads[ω], expected, 1e-6)
        close(grads[v], numerical(lambda v: np.sum((A.T @ np.cos(A @ (v * w0)) * w0) ** 2), v.value), 1e-6)


def test_the_same_parameter_may_vary_within_and_without():
    s, t = param(3.0), param(5.0)
    close(slope(lambda: s * slope(lambda: s * s, s), s), 12.0)
    close(slope(lambda: s * slope(lambda: s + t, t), s), 1.0)  # no perturbation confusion
    close(slope(lambda: s * slope(lambda: s * t, t) + t, s), 6.0)
    assert gradient(lambda: slope(lambda: s * t, t) ** 2, params(s, t))[t] is None
    close(gradient(lambda x: x * gradient(lambda y: x + y, 1.0)[0], 3.0), (1.0,))
    close(gradient(lambda x: x * autograd.grad(lambda y: x + y)(1.0), 3.0), (1.0,))
    close(gradient(lambda x: gradient(lambda y: x * y**2, x)[0], 3.0), (12.0,))


LEVELS = {
    "explicit": lambda f, s: gradient(f, s)[0],
    "implicit": lambda f, s: slope(lambda: f(s), s) if type(s) is Param else gradient(f, s)[0],
    "autograd": lambda f, s: autograd.grad(f)(s),
    "jacobian": lambda f, s: jacobian(f, s)[0],
}


@pytest.mark.parametrize("third", LEVELS)
@pytest.mark.parametrize("second", LEVELS)
@pytest.mark.parametrize("first", LEVELS)
def test_three_levels_deep(first, second, third):
    f = lambda x: np.sin(2 * x) * x
    take = lambda level, f: lambda x: LEVELS[level](f, x)
    x = 0.7
    expected = -12 * np.sin(2 * x) - 8 * x * np.cos(2 * x)
    close(take(first, take(second, take(third, f)))(x if first == "autograd" else param(x)), expected, 1e-8)


def test_implicit_in_implicit_in_implicit():
    s = param(0.7)
    level = lambda f: lambda: slope(f, s)
    close(level(level(level(lambda: s**5)))(), 60 * 0.49)
    close(level(level(level(level(lambda: np.exp(2 * s)))))(), 16 * np.exp(1.4))


def test_learning_to_optimise_differentiates_through_steps():
    η, target = param(0.1), np.array([1.0, 2.0])

    def after_training():
        w = np.zeros(2)
        for _ in range(3):
            (g,) = gradient(lambda w: np.sum((w - target) ** 2), w)
            w = w - η * g
        return np.sum((w - target) ** 2)

    # each step shrinks the error by 1 − 2η
    close(slope(after_training, η), 5.0 * -12 * 0.8**5)


def test_grads_within_a_loss_are_differentiated():
    W, b = param([1.0, 2.0]), param(3.0)
    θ = params(W, b)
    inner = lambda: gradient(lambda: np.sum(W**3) * b, θ)  # 3W²b and ΣW³
    close(slope(lambda: inner().norm() ** 2, b), 2 * 9 * (1 + 16) * 3.0)
    close(slope(lambda: np.sum(inner().to_vector()), b), 15.0)
    close(slope(lambda: ((inner() + inner()) * 0.5 / 2)[W][0], b), 1.5)
    close(slope(lambda: inner().map(np.sum)[W], W), 18 * W.value)
    close(slope(lambda: np.sum(θ.to_vector() ** 2), W), 2 * W.value)


def test_vectors_of_parameters_and_gradients_within_autograd():
    v = param(w0)
    flat = lambda w: gradient(lambda: np.sum(np.sin(A @ (v * w))), params(v)).to_vector()
    close(autograd.grad(lambda w: anp.sum(flat(w) ** 2))(w0), gradient(lambda w: np.sum(flat(w) ** 2), w0)[0])
    rows = lambda w: jacobian(lambda w: np.sin(A @ w), w)[0]
    close(autograd.grad(lambda w: anp.sum(rows(w) ** 2))(w0), gradient(lambda w: np.sum(rows(w) ** 2), w0)[0])
    assert autograd.jacobian(rows)(w0).dtype == np.float64


# --- Complex numbers ------------------------------------------------------------------------------------

COMPLEX = {
    "abs2": lambda z: np.sum(np.abs(z) ** 2),
    "abs": lambda z: np.sum(np.abs(z - 3)),
    "real": lambda z: np.real(np.sum(z**2 * (1 + 2j))),
    "imag": lambda z: np.imag(np.sum(np.exp(z) * 1j)) ** 2,
    "conj": lambda z: np.sum((z * np.conj(z) * np.conj(z)).real),
    "attributes": lambda z: (z.real * z.imag).sum() + z.conj().imag.sum(),
    "matmul": lambda z: np.sum(np.abs(z @ np.array([1j, 2 - 1j]) + 1) ** 2) if z.ndim else np.abs(z) ** 2,
    "divide": lambda z: np.sum(np.abs((z + 1j) / (z - 4)) ** 2),
    "functions": lambda z: np.sum(np.abs(np.sin(z) * np.tanh(z / 2) + np.log(z + 4) * np.sqrt(z + 4))),
    "fft": lambda z: np.sum(np.abs(np.fft.fft(z)) ** 4) if z.ndim else np.abs(z) ** 4,
    "mixed with real": lambda z: np.sum(np.abs(np.arange(1.0, 3.0) * z + np.cos(np.real(z))) ** 2),
    "concatenate": lambda z: np.sum(np.abs(np.concatenate([z.ravel(), np.ones(1)])) ** 3),
}
zs = st.sampled_from(
    [np.array([0.5 + 0.25j, -1 + 1j]), np.array(0.3 - 0.8j), np.array([[1j, 0.5], [0.25 + 1j, -0.5 - 0.5j]])]
)


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize(
    "z0",
    [np.array([0.5 + 0.25j, -1 + 1j]), np.array(0.3 - 0.8j), np.array([[1j, 0.5], [0.25 + 1j, -0.5 - 0.5j]])],
    ids=np.shape,
)
def test_complex_gradients_are_by_real_and_imaginary_part_and_descend(name, z0):
    f, z = COMPLEX[name], param(z0)
    g = slope(lambda: f(z), z)
    assert g.dtype == np.complex128
    close(g, numerical(f, z0), 1e-6, 1e-6)
    close(gradient(f, z0)[0], g)
    close(pullback(lambda: f(z), params(z))[1](1.0)[z], g)
    assert f(z0 - 1e-4 * g) < f(z0)
    second = slope(lambda: np.sum(np.abs(slope(lambda: f(z), z)) ** 2), z)
    close(second, numerical(lambda z: np.sum(np.abs(gradient(f, z)[0]) ** 2), z0), 1e-5, 1e-5)


def test_a_real_parameter_in_complex_arithmetic_has_a_real_gradient():
    a, z = param([0.5, -1.5]), param([1 + 1j, 2.0])
    grads = gradient(lambda: np.sum(np.abs(np.exp(1j * a) * z + a) ** 2), params(a, z))
    assert [g.dtype.name for g in grads.values()] == ["float64", "complex128"]
    close(grads[a], numerical(lambda a: np.sum(np.abs(np.exp(1j * a) * z.value + a) ** 2), a.value), 1e-6)


def test_the_pullback_of_a_complex_result_pairs_with_its_seed():
    z0, seed = np.array([0.5 + 0.25j, -1 + 1j]), np.array([2 - 1j, 0.5j])
    (g,) = pullback(lambda z: np.exp(z) * np.conj(z), z0)[1](seed)
    close(g, numerical(lambda z: np.sum((np.conj(seed) * (np.exp(z) * np.conj(z))).real), z0), 1e-6)


# --- Gradients keep to themselves -----------------------------------------------------------------------

m = SimpleNamespace(
    W=param(np.arange(4.0).reshape(2, 2)),
    V=param(np.ones((2, 2))),
    s=param(2.0),
    x=np.arange(4.0).reshape(2, 2),
    o=np.ones((2, 2)),
)
ALIASES = {
    "sum of both": lambda: m.W + m.V,
    "sum with itself": lambda: m.W + m.W + m.V,
    "the parameter": lambda: m.W,
    "both parameters": lambda: np.stack([m.W, m.V]),
    "times data": lambda: m.W * m.x + m.x * m.V,
    "times one another": lambda: m.W * m.V,
    "data times": lambda: m.o * (m.W - m.V),
    "a view": lambda: m.W[:, ::-1] + m.V[...],
    "reshaped": lambda: m.W.reshape(4) + m.V.ravel(),
    "transposed": lambda: m.W.T + m.V.swapaxes(0, 1),
    "concatenated": lambda: np.concatenate([m.W, m.V], axis=1),
    "both ways": lambda: np.concatenate([(m.W + m.V).ravel(), (m.W - m.V).ravel()]),
    "expanded": lambda: m.W[None] + np.expand_dims(m.V, 0),
    "broadcast": lambda: np.broadcast_to(m.W, (3, 2, 2)) + m.V,
    "scalar": lambda: m.s * (m.W + m.V),
    "where": lambda: np.where(m.x > 1, m.W, m.V),
    "product": lambda: m.W @ m.x + m.V @ m.o,
    "copies": lambda: np.copy(m.W) + m.V.copy(),
    "conjugated": lambda: np.conj(m.W) + np.real(m.V),
    "as float64": lambda: m.W.astype(float) + np.positive(m.V),
    "atleast": lambda: np.atleast_2d(m.W) + np.atleast_3d(m.V)[..., 0],
    "einsum": lambda: np.einsum("ij,jk->ik", m.W, m.o) + m.V,
    "cumsum": lambda: m.W.cumsum(0) + m.V,
}


@pytest.mark.parametrize("f", ALIASES.values(), ids=ALIASES)
def test_gradients_share_no_memory(f):
    θ = params(m.W, m.V, m.s)
    value, back = pullback(f, θ)
    seed = np.ones(value.shape)
    all_grads = [
        back(seed),
        back(seed),
        back(np.float64(1)),
        gradient(lambda: np.sum(f()), θ),
        gradient(lambda: f().sum(), θ),
    ]
    explicit = gradient(lambda W, V, x, o: np.sum(W + V) + np.sum(x + o) + W[0, 0], m.W, m.V, m.x, m.o)
    gradients = [
        g for grads in [*all_grads, dict(enumerate(explicit))] for g in grads.values() if g is not None
    ]
    before = [g.copy() for g in gradients]
    others = [m.W.value, m.V.value, m.s.value, m.x, m.o, seed, np.asarray(value)]
    held = [a.copy() for a in others]
    for i, g in enumerate(gradients):
        assert g.flags.writeable
        assert not any(np.may_share_memory(g, other) for other in others + gradients[:i])
        g += 1
        assert all(np.array_equal(h, b) for h, b in zip(gradients[i + 1 :], before[i + 1 :], strict=True))
    assert all(np.array_equal(a, h) for a, h in zip(others, held, strict=True))
    close(gradient(lambda: np.sum(f()), θ)[m.W], all_grads[3][m.W] - 1)


def test_the_value_of_withgradient_and_pullback_is_not_the_parameter():
    for value in (
        pullback(lambda: m.W, params(m.W))[0],
        withgradient(lambda: m.s, params(m.s)).val,
        dropgrad(m.W),
    ):
        assert type(value) is not Param
        assert not np.may_share_memory(np.asarray(value), m.W.value)
        assert not np.may_share_memory(np.asarray(value), m.s.value)


def test_nothing_of_a_graph_outlives_its_gradient():
    W, x = param(np.ones(3)), np.ones(3)
    alive = weakref.ref(x)
    grads = gradient(lambda x=x: np.sum(W * x), params(W))
    del x
    assert alive() is None  # at once: a graph has no cycles to wait for the collector
    close(grads[W], np.ones(3))


# --- Grads ----------------------------------------------------------------------------------------------

θ = params(param([3.0, 0.0]), param([[4.0]]), param(1.0), param([1 + 1j]))
p, q, r, z = θ


def some(p_, q_, z_=None):
    return Grads(θ, [None if p_ is None else np.array(p_), None if q_ is None else np.array(q_), None, z_])


def test_grads_add_subtract_and_scale_with_none_for_zero():
    g, h = some([1.0, 2.0], None), some([10.0, 20.0], [[5.0]])
    listed = lambda grads: [None if a is None else a.tolist() for a in grads.values()]
    assert listed(g + h) == [[11.0, 22.0], [[5.0]], None, None]
    assert listed(h + g) == listed(g + h)
    assert listed(g - h) == [[-9.0, -18.0], [[-5.0]], None, None]
    assert listed(h - g) == [[9.0, 18.0], [[5.0]], None, None]
    assert listed(-g) == [[-1.0, -2.0], None, None, None]
    assert listed(2 * g) == listed(g * 2) == listed(g / 0.5) == [[2.0, 4.0], None, None, None]
    for two in (np.float64(2), np.float32(2), np.array(2.0), param(2.0)):
        assert listed(g * two) == listed(two * g) == listed(g * 2) == listed(g / (1 / two))
    assert listed(g.map(lambda a: a**2)) == [[1.0, 4.0], None, None, None]
    assert listed(sum([g, h], start=0 * g)) == listed(g + h)
    assert [type(x) for x in (g + h, g - h, 2 * g, g / 2, -g, g.map(abs))] == [Grads] * 6
    assert listed(g) == [[1.0, 2.0], None, None, None]


@pytest.mark.parametrize("other", ["2", [2.0], None, np.ones(2), np.ones(1), some(None, None)], ids=str)
def test_grads_multiply_and_divide_by_nothing_but_numbers(other):
    g = some([1.0, 2.0], None)
    for use in (lambda: g * other, lambda: other * g, lambda: g / other):
        with pytest.raises(TypeError):
            use()


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">c8", ">c16", "<f8"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_a_gradient_has_the_dtype_of_what_it_is_by_down_to_the_order_of_bytes(shape, dtype):
    x = np.full(shape, 1.5, dtype)
    p, q = param(x), param(x)
    for loss in (
        lambda x: np.sum(x * x).real,
        lambda x: np.sum(x).real,
        lambda x: x.ravel()[0].real ** 2,
        lambda x: np.sum(gradient(lambda x: np.sum(np.abs(x) ** 3), x)[0]).real,
    ):
        of_parameters = lambda loss=loss: loss(p) + loss(q)
        native = gradient(loss, x.astype(x.dtype.newbyteorder("=")))[0]
        for g in (
            *gradient(loss, x),
            *gradient(lambda xs, loss=loss: loss(xs[0]), [x])[0],
            *gradient(of_parameters, params(p, q)).values(),
            *pullback(loss, x)[1](1.0),
            *compiled(loss)(x).grad,
            *compiled(of_parameters, params(p, q))().grad.values(),
            hvp(lambda x, loss=loss: loss(x) ** 2, x, x),
        ):
            assert (g.dtype, g.shape) == (x.dtype, shape)
        np.testing.assert_array_equal(gradient(loss, x)[0], native)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, bool])
def test_whole_numbers_become_gradients_of_the_parameters_dtype(dtype):
    W = param(np.ones(2, np.float32))
    g = gradient(lambda: np.sum(W), params(W))
    g[W] = numbers = np.array([100, 1]).astype(dtype)
    expected = numbers.astype(np.float32)
    assert g[W].dtype == np.float32
    np.testing.assert_array_equal((g + g)[W], 2 * expected)
    np.testing.assert_array_equal((-g)[W], -expected)
    np.testing.assert_allclose(clip_norm(1.0)(g)[W], expected / np.linalg.norm(expected), rtol=1e-6)
    signs = g.map(lambda a: np.sign(a).astype(np.int8))
    np.testing.assert_array_equal((signs * 0.5)[W], np.sign(expected) / 2)


def test_sums_of_grads_share_no_memory_with_their_terms():
    g, h = some([1.0, 2.0], None), some(None, [[5.0]])
    for total in (g + h, g - h, h + g, g * 1, g.map(np.copy), g / 1):
        for k in θ:
            if total[k] is not None:
                assert not any(np.may_share_memory(total[k], a) for a in (g[k], h[k]) if a is not None)


def test_norm_is_over_all_and_to_vector_in_the_order_of_params():
    g = some([3.0, 0.0], [[4.0]], np.array([12j]))
    assert g.norm() == pytest.approx(13.0)
    assert some(None, None).norm() == 0
    assert g.to_vector().tolist() == [3.0, 0.0, 4.0, 0.0, 12j]
    assert g.to_vector().shape == θ.to_vector().shape
    assert not np.may_share_memory(some([1.0, 2.0], None).to_vector(), p.value)
    one = Grads(params(p), [np.array([1.0, 2.0])])
    assert not np.may_share_memory(one.to_vector(), one[p])
    large = Grads(params(p), [np.full(2, 300, np.float16)])
    assert large.norm() == pytest.approx(300 * np.sqrt(2))
    for far in (1e200, 1e-200, 1e307, 5e-324, 1e-160):
        assert some([3 * far, 0.0], far * 4 * np.ones(1)).norm() == pytest.approx(5 * far, abs=0)
    assert some([1e308, 1e308], 1e308 * np.ones(2)).norm() == np.inf
    assert math.isnan(some([np.nan, 1e200], None).norm())


def test_grads_are_a_mapping_that_copies_pickles_and_shows_itself():
    g = some([1.0, 2.0], None)
    assert [k is p_ for k, p_ in zip(g.keys(), θ, strict=True)] == [True] * 4
    assert (len(g), p in g, param(0.0) in g, g.get(param(0.0), "none"), g.get(q)) == (
        4,
        True,
        False,
        "none",
        None,
    )
    assert dict(g)[p].tolist() == [1.0, 2.0]
    new_θ, new = pickle.loads(pickle.dumps((θ, g)))
    assert new[new_θ[0]].tolist() == [1.0, 2.0]
    new_θ, new = copy.deepcopy((θ, g))
    new[new_θ[0]][0] = 9
    assert g[p][0] == 1
    assert copy.copy(g)[p] is g[p]
    assert all(word in repr(g) for word in ("4 parameters", "(2,)", "1. 2.", "None"))
    assert repr(some(np.arange(10.0), None)).splitlines()[1].endswith("[0. 1. ... 8. 9.]")
    assert Grads(θ, [None] * 4) != Grads(θ, [None] * 4)


TERMS = {
    "cube": lambda z: np.sum(z**3),
    "linear": lambda z: np.sum(z * np.arange(3.0)),
    "element": lambda z: z[0] * z[2],
    "slice": lambda z: np.sum(z[1:] ** 2),
    "twice": lambda z: np.sum(z[[0, 0, 1]] * 2),
    "square of the sum": lambda z: z.sum() ** 2,
    "exponential": lambda z: np.sum(np.exp(z)),
    "cross": lambda z: np.sum(z[:, None] * z),
    "joined": lambda z: np.sum(np.concatenate([z, z[::-1]]) ** 2),
}


@given(st.lists(st.sampled_from(sorted(TERMS)), min_size=2, max_size=5))
def test_the_hessian_of_a_sum_is_the_sum_of_hessians(names):
    z = np.array([0.3, -0.7, 1.1])
    whole = hessian(lambda z: sum(TERMS[name](z) for name in names), z)
    parts = sum(hessian(TERMS[name], z) for name in names)
    np.testing.assert_allclose(whole, parts, rtol=1e-12, atol=1e-12)
    numerical = [(slope_at(names, z + d) - slope_at(names, z - d)) / 2e-5 for d in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(whole, numerical, rtol=1e-6, atol=1e-6)


def slope_at(names, z):
    return gradient(lambda z: sum(TERMS[name](z) for name in names), z)[0]


def test_what_a_loss_keeps_is_plain_to_the_next_and_holds_no_graph():
    W, kept = param(np.eye(3) * 0.5), [np.ones(3)]

    def loss():
        kept[0] = np.tanh(W @ kept[0] + 1)
        return np.sum(kept[0] ** 2)

    for _ in range(3):
        gradient(loss, params(W))
        assert type(kept[0] + 1) is type(1 - kept[0]) is type(np.exp(kept[0])) is np.ndarray
        assert kept[0].parents == kept[0].arguments == ()


@pytest.mark.parametrize(
    "read",
    [
        lambda a: a[1],
        lambda a: a[:, 0],
        lambda a: a[..., None],
        lambda a: a[[1, 0]],
        lambda a: a[a > 1],
        lambda a: next(iter(a)),
        lambda a: a.flat[1:],
        lambda a: a.T,
    ],
)
def test_what_is_read_of_a_value_that_outlives_its_loss_is_plain(read):
    W, kept = param([[1.0, 2.0], [3.0, 4.0]]), []
    gradient(lambda: kept.append(W * 1) or np.sum(W), params(W))
    found = read(kept[0])
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, read(1 * W.value))


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_a_value_that_outlives_its_loss_takes_a_new_shape():
    W, kept = param([[1.0, 2.0], [3.0, 4.0]]), []
    gradient(lambda: kept.append(W * 1) or np.sum(W), params(W))
    kept[0].shape = (4,)
    assert kept[0].shape == (kept[0] + 1).shape == (4,)


OPTIONS = {
    "norm keepdims": lambda x: np.linalg.norm(x, axis=1, keepdims=True) / x,
    "norm of all keepdims": lambda x: np.linalg.norm(x, keepdims=True) * x,
    "largest": lambda x: np.linalg.norm(x, np.inf, axis=0),
    "norm of powers": lambda x: np.linalg.norm(x, 3, -1, False) * np.linalg.norm(x, 1, (1,)),
    "largest by a NumPy number": lambda x: np.linalg.norm(x, np.inf, axis=np.int64(1)),
    "vector norm of powers": lambda x: np.linalg.vector_norm(x, axis=-1, ord=3),
    "norm of columns": lambda x: np.linalg.norm(x, axis=0),
    "norm of the matrix": lambda x: np.linalg.norm(x, "fro", axis=(0, 1)) * x,
    "vector norm": lambda x: np.linalg.vector_norm(x) * np.linalg.vector_norm(x, axis=1, keepdims=True),
    "vector norm of all": lambda x: np.linalg.vector_norm(x, ord=3, keepdims=True) * x,
    "matrix power": lambda x: np.linalg.matrix_power(x[1:], 5) + np.linalg.matrix_power(x[:3], -2),
    "matrix power zero": lambda x: np.linalg.matrix_power(x[1:], 0) * x[1:],
    "chain of products": lambda x: np.linalg.multi_dot([x, np.ones((3, 2)), x[:2]]),
    "trace": lambda x: np.linalg.trace(x[None, 1:] ** 2, offset=1),
    "average": lambda x: np.average(x**2, axis=0, weights=[1.0, 2.0, 0.0, 3.0]),
    "average by itself": lambda x: np.average(x, weights=x**2, keepdims=True),
    "average and weights": lambda x: np.average(x, returned=True)[0] * np.average(x, 1),
    "average, with weights, kept": lambda x: np.average(x, axis=1, weights=x**2 + 1, keepdims=True),
    "cumprod": lambda x: np.cumprod(x, axis=1) + np.cumprod(x).reshape(4, 3),
    "trapezoid": lambda x: np.trapezoid(x**2, dx=0.5) * np.trapezoid(x[:3], np.cumsum(x[0]), axis=0)[0],
    "trapezoid of columns": lambda x: np.trapezoid(x**2, np.sin(x) * 3, axis=0),
    "along an axis": lambda x: np.take_along_axis(x, np.argsort(x, 0)[:2], 0) ** 2,
    "along all": lambda x: np.take_along_axis(x, np.array([3, 3, 1]), None) ** 2,
    "without NaN": lambda x: np.nansum(np.where(x > 2, x, np.nan) ** 2, axis=1),
    "mean without NaN": lambda x: np.nanmean(np.where(x > 2, x, np.nan) ** 2, keepdims=True),
    "vdot": lambda x: np.vdot(x, x**2),
    "vecdot": lambda x: np.vecdot(x, np.sin(x)) * np.vecdot(x, x**2, axis=1),
    "vecdot of a vector and a stack": lambda x: (
        np.vecdot(x[0], x.reshape(2, 2, 3)) * np.vecdot(x.reshape(2, 2, 3), np.sin(x[1]))
    ),
    "outer of ufuncs": lambda x: np.multiply.outer(x[0], x[:2]) * np.subtract.outer(x[1], x[2:]) ** 2,
    "divmod": lambda x: divmod(x**2, 1.3)[0] * x + divmod(7.0, x)[1] * x,
    "meshgrid": lambda x: np.stack(np.meshgrid(x[0], x[:, 1] ** 2)),
    "meshgrid of rows": lambda x: np.meshgrid(x[0], x[1], x[2], indexing="ij")[2] ** 2,
    **{
        f"meshgrid, {indexing}, output {i}": lambda x, i=i, indexing=indexing: (
            np.meshgrid(x[0], x[:, 1] ** 2, indexing=indexing)[i] ** 2
        )
        for indexing in ("ij", "xy")
        for i in (0, 1)
    },
    "meshgrid of one": lambda x: np.meshgrid(x[0], indexing="ij")[0] ** 2 * np.meshgrid(x[1])[0],
    "sinc": lambda x: np.sinc(x) + np.sinc(x - 1.9),
    "cbrt": lambda x: np.cbrt(x),
    "kron": lambda x: np.kron(x[None, :2], x[:, None, :2]),
    "kron of a list": lambda x: np.kron([1.0, 2.0], x) * np.kron(x[0], x[1])[1],
    "full_like": lambda x: np.full_like(x, x[0] * x[1, 1], shape=(5, 3)) + np.full_like(x, 2.0)[0],
    "sign": lambda x: np.real(np.sign(x + 1j * x**2)) * np.sign(x),
    **{
        f"{f.__name__} backward": lambda x, f=f: np.abs(f(x[:, :2], norm="backward"))
        for f in (np.fft.rfft, np.fft.rfft2, np.fft.rfftn)
    },
    **{
        f"{f.__name__} backward": lambda x, f=f: f(x + 0j, norm="backward")
        for f in (np.fft.irfft, np.fft.irfft2, np.fft.irfftn)
    },
    "rfft by position": lambda x: np.abs(np.fft.rfft(x, None, 0, "backward")),
    "rfft shorter": lambda x: np.real(np.fft.rfft(x, 2)),
    "rfft longer": lambda x: np.imag(np.fft.rfft(x, 6)),
    "diag": lambda x: np.diag(x, -1) ** 2,
    "sum where": lambda x: np.sum(x**2, axis=1, where=np.array([True, False, True])),
    "mean where": lambda x: np.mean(x**2, 0, where=np.array([[True], [False], [True], [True]])),
    "mean by position": lambda x: np.mean(x**2, 1, None, None, True) * x,
    "prod": lambda x: np.prod(x, axis=1, keepdims=True),
    "divide": lambda x: 2 / x,
    "lists": lambda x: x.dot([1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("f", OPTIONS.values(), ids=OPTIONS)
def test_options_have_the_numerical_derivative(f):
    x = np.cos(np.arange(12.0)).reshape(4, 3) + 2
    weigh = lambda x: np.sum(f(x) * np.cos(np.arange(np.size(f(x)))).reshape(np.shape(f(x))))
    (g,) = gradient(weigh, x)
    steps = 1e-6 * np.eye(12).reshape(12, 4, 3)
    numerical = [(weigh(x + d) - weigh(x - d)) / 2e-6 for d in steps]
    np.testing.assert_allclose(g, np.reshape(numerical, (4, 3)), rtol=1e-6, atol=1e-8)


def test_an_option_without_a_derivative_is_refused():
    for f in (lambda x: np.sum(np.nan_to_num(x, False)), lambda x: np.sum(np.nan_to_num(x, copy=False))):
        with pytest.raises(NotImplementedError, match="has no gradient with copy=False"):
            gradient(f, np.ones((4, 3)))


ORDERED = {
    "ravel": np.ravel,
    "x.ravel": lambda x, order: x.ravel(order),
    "x.flatten": lambda x, order: x.flatten(order=order),
    "reshape": lambda x, order: np.reshape(x, -1, order),
    "x.reshape": lambda x, order: x.reshape((1, -1), order=order)[0],
}


@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(ORDERED)), st.sampled_from([*"CFAKcfak", None]), st.booleans())
def test_elements_are_found_again_in_each_order_of_each_layout(data, name, order, is_compiled):
    if ("reshape" in name and order in ("K", "k")) or (name[0] == "x" and order is None):
        return  # NumPy has no such
    shape = data.draw(st.lists(st.integers(1, 4), max_size=4))
    memory = np.arange(1.0, 1 + np.prod([2 * n for n in shape], dtype=int)).reshape([2 * n for n in shape])
    steps = [data.draw(st.sampled_from([1, 2, -1, -2])) for _ in shape]
    x = memory[tuple([slice(None, None, step) for step in steps])][tuple([slice(n) for n in shape])]
    x = x.transpose(data.draw(st.permutations(range(x.ndim))))
    f, weights = ORDERED[name], np.arange(1.0, 1 + x.size)
    made = data.draw(st.sampled_from([lambda x: x, lambda x: x * 1.0]))  # of a layout of its own
    taken, loss = f(made(x), order), lambda x: np.sum(f(made(x), order) * weights)
    (g,) = compiled(loss)(x).grad if is_compiled else gradient(loss, x)
    for value, weight in zip(taken, weights, strict=True):
        assert g[x == value] == weight


def test_an_order_of_elements_that_share_memory_is_refused():
    with pytest.raises(NotImplementedError, match="broadcast, and its elements share memory: take order='C'"):
        gradient(lambda x: np.sum(np.broadcast_to(x, (2, 3)).ravel("K")), np.ones(3))


@pytest.mark.parametrize(
    "f", [lambda W: np.sum(W**2), lambda W: gradient(lambda V: np.sum(V**3), W)[0].sum()]
)
def test_a_gradient_leaves_nothing_for_the_garbage_collector(f):
    W = param(np.ones(3))
    gradient(lambda: f(W), params(W))
    gc.collect()
    gc.disable()
    try:
        gradient(lambda: f(W), params(W))
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_function_is_called_once_whatever_it_returns():
    calls = []

    @derivative(lambda g, ans, x: 2 * g)
    def twice(x):
        calls.append(x)
        return np.float32(2 * x)

    assert gradient(twice, np.float32(3.0)) == (2.0,)
    assert len(calls) == 1


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-3, 0.0299, 0.0301, 0.5])
def test_the_derivatives_of_sinc_are_exact_near_zero(scale):
    x = scale * np.array([1.0, -1.0])
    a = np.pi * x
    series = sum((-1) ** k * 2 * k * a ** (2 * k - 1) / math.factorial(2 * k + 1) for k in range(1, 12))
    np.testing.assert_allclose(gradient(lambda x: np.sum(np.sinc(x)), x)[0], np.pi * series, rtol=1e-12)
    bend = hessian(lambda x: np.sinc(x), scale)
    curve = sum(
        (-1) ** k * 2 * k * (2 * k - 1) * a[0] ** (2 * k - 2) / math.factorial(2 * k + 1)
        for k in range(1, 12)
    )
    np.testing.assert_allclose(bend, np.pi**2 * curve, rtol=1e-8)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
def test_a_norm_has_the_gradient_zero_at_zero(dtype):
    x = np.array([[0, 0], [3, 4]], dtype)
    (g,) = gradient(lambda x: np.sum(np.linalg.norm(x, axis=1)), x)
    np.testing.assert_allclose(g, np.array([[0, 0], [0.6, 0.8]], dtype), rtol=1e-6)
    assert g.dtype == dtype
    assert not gradient(np.linalg.norm, 0 * x)[0].any()


def test_an_option_of_a_step_is_passed_on():
    assert gradient(lambda x: np.sum(x * np.sign(x, casting="same_kind")), np.ones(3))[0].all()


@pytest.mark.parametrize("f", [np.sum, np.max, np.prod, np.cumsum])
@pytest.mark.parametrize("axis", [0, -1])
def test_a_number_may_be_reduced_along_an_axis(f, axis):
    x = param(3.0)
    g = gradient(lambda: np.sum(f(x**2, axis=axis)), params(x))[x]
    assert g == 6


@pytest.mark.parametrize(
    ("f", "error"),
    [
        (lambda x: np.flip(x, 5), np.exceptions.AxisError),
        (lambda x: np.concatenate([x, x], dtype=int), TypeError),
        (lambda x: np.stack([x, x], dtype="f4", casting="no"), TypeError),
        (lambda x: np.select([x > 0], [x, x]), ValueError),
        (lambda x: np.take_along_axis(x, np.zeros(3, int), 3), np.exceptions.AxisError),
        (lambda x: np.take_along_axis(x, np.zeros((3, 3), int), 0), ValueError),
        (lambda x: np.linalg.matrix_power(x[:, None] * x, 2.0), TypeError),
    ],
)
def test_what_numpy_refuses_is_refused_in_a_gradient(f, error):
    for call in (f, lambda x: gradient(lambda x: np.sum(f(x)), x)):
        with pytest.raises(error):
            call(np.ones(3))


def test_a_singular_matrix_is_named_as_the_reason():
    with pytest.raises(np.linalg.LinAlgError, match="Singular"):
        gradient(lambda A: np.linalg.slogdet(A)[1], np.ones((2, 2)))


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda x: np.sum(np.linalg.svd(x)[0]), "svd .* full_matrices"),
        (lambda x: np.sum(np.linalg.qr(x, "raw")[0]), "qr .* mode='raw'"),
    ],
)
def test_a_call_without_a_derivative_is_named_with_the_reason(f, words):
    with pytest.raises(NotImplementedError, match=words):
        gradient(f, np.eye(3)[:, :2] if "svd" in words else np.eye(3))


def test_what_pullback_returns_may_be_changed():
    W = param([1.0, 2.0])
    value, back = pullback(lambda: np.exp(W), params(W))
    value[:] = 0
    close(back(1.0)[W], np.exp([1.0, 2.0]))


def test_a_pullback_names_what_has_changed_before_the_way_back():
    W, x, y = param([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0])
    model = SimpleNamespace(layers=[SimpleNamespace(W=W, b=param(1.0))])
    for args, changed, words in [
        ((x, y), x, "argument 0"),
        ((2.0, x), x, "argument 1"),
        ((2.0, W), W, "argument 1"),
        ((2.0, None, (x, y)), y, "argument 2"),
        ((2.0, [x, W]), W, "argument 1"),
    ]:
        _, back = pullback(lambda first, *_: 3 * first, *args)
        back(1.0)
        changed += 1
        with pytest.raises(RuntimeError, match=rf"{words}, of shape \(2,\), has changed since pullback"):
            back(1.0)
    for ps, words in [
        (params(model), r"parameter layers\[0\]\.W"),
        (params({"W": W}), r"parameter \['W'\]"),
        (params(model.layers[0].b, W), "parameter 1"),
    ]:
        _, back = pullback(lambda: W * x, ps)
        back(1.0)
        W[...] += 1
        with pytest.raises(RuntimeError, match=rf"{words}, of shape \(2,\), has changed since pullback"):
            back(1.0)


def test_a_parameter_may_be_the_seed_of_a_pullback():
    b, x = param([0.5, 2.0]), np.array([0.1, 0.2])
    close(slope(lambda: np.sum(pullback(np.sin, x)[1](b)[0]), b), np.cos(x))


def test_no_gradient_is_an_array_that_a_derivative_keeps():
    kept = np.array([1.0, 2.0])
    scaled = primitive(lambda x: np.sum(kept * x))
    defvjp(scaled, lambda ans, x: lambda g: kept)
    W = param(np.ones(2))
    g = slope(lambda: scaled(W), W)
    close(g, kept)
    assert not np.shares_memory(g, kept)
    b = param([1.0])
    assert not np.shares_memory(withgradient(lambda x: b, 1.0).val, b.value)


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_a_value_is_compared_with_a_list_of_values(name):
    compare, x = getattr(operator, name), np.arange(3.0)
    (g,) = gradient(lambda x: np.sum(x * compare(x, [x[0], x[2], 2.0])), x)
    np.testing.assert_array_equal(g, compare(x, [0.0, 2.0, 2.0]))


def test_a_primitive_of_autograds_may_give_a_number_of_pythons():
    cube = primitive(lambda x: float(x) ** 3)
    defvjp(cube, lambda ans, x: lambda g: 3 * g * x**2)
    assert withgradient(lambda x: cube(x) * 2, 3.0) == (54.0, (54.0,))


def test_another_librarys_function_has_no_name_of_numpys():
    with pytest.raises(NotImplementedError, match=r"^ellipj has no gradient"):
        slope(lambda: np.sum(scipy.special.ellipj(W, 0.5)[0]), W := param(np.ones(2)))


@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 2)])
def test_the_phase_of_a_complex_determinant_has_a_gradient(shape):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=shape) + 1j * rng.normal(size=shape), rng.normal(size=shape[:-2]) + 2j
    loss = lambda x: np.sum(np.real(np.linalg.slogdet(x).sign * w) * np.linalg.slogdet(x).logabsdet)
    by_det = lambda x: np.sum(
        np.real(np.linalg.det(x) / np.abs(np.linalg.det(x)) * w) * np.log(np.abs(np.linalg.det(x)))
    )
    close(gradient(loss, x)[0], gradient(by_det, x)[0])
    second = lambda f: gradient(lambda x: np.sum(np.abs(gradient(f, x)[0]) ** 2), x)[0]
    np.testing.assert_allclose(second(loss), second(by_det), rtol=1e-9)


ONES = {
    "the parameter itself": (lambda W: W, 1.0),
    "an element": (lambda W: W[..., 0], 1.0),
    "a power": (lambda W: W**3, 12.0),
    "a product": (lambda W: W @ np.ones((1,) * max(W.ndim, 1)) if W.ndim else W * 1.0, 1.0),
    "a sum that keeps its dimensions": (lambda W: np.sum(W * W, keepdims=True), 4.0),
    "joined": (lambda W: np.concatenate([W * W, W]).reshape(-1)[:1], 4.0),
    "stacked": (lambda W: np.stack([W * W])[0], 4.0),
    "reshaped": (lambda W: np.reshape(W * 3, (1, 1, 1)), 3.0),
    "a mean": (lambda W: np.mean(W * W, axis=0), 4.0),
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(1,), (1, 1)])
@pytest.mark.parametrize("name", ONES)
def test_a_loss_of_one_element_has_a_gradient_of_the_parameters_shape(name, shape, dtype):
    loss, slope = ONES[name]
    W = param(np.full(shape, 2.0), dtype)
    (value, grads) = withgradient(lambda: loss(W), params(W))
    for g in (grads[W], gradient(loss, W)[0], gradient(loss, W.value)[0]):
        assert type(g) is np.ndarray
        assert (g.shape, g.dtype, g.ravel().tolist()) == (shape, W.dtype, [slope])
    np.testing.assert_array_equal(value, loss(W.value))
    np.testing.assert_array_equal(
        pullback(lambda: loss(W), params(W))[1](np.full_like(value, 2))[W], 2 * slope
    )


def test_a_loss_of_one_element_by_matrix_product():
    W, x = param(np.ones((1, 3))), np.array([1.0, 2.0, 3.0])
    for loss in (lambda: W @ x, lambda: W @ x[:, None], lambda: x @ W.T, lambda: np.concatenate([W @ x])):
        assert gradient(loss, params(W))[W].tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("derivative_of", [jacobian, hessian])
@pytest.mark.parametrize("argument", [1 + 2j, np.array([1 + 2j]), param([1j])])
def test_jacobians_of_complex_arguments_are_refused(derivative_of, argument):
    with pytest.raises(TypeError, match=r"complex|real numbers or arrays"):
        derivative_of(lambda z: np.real(z * z).sum(), argument)
    with pytest.raises(TypeError, match=r"hessian\(f, x\).*real.*complex.*hvp"):
        hessian(lambda z: np.abs(z * z).sum(), argument)


def test_a_jacobian_by_complex_arguments_is_refused_with_their_dtype():
    with pytest.raises(
        TypeError, match=r"real numbers or arrays of them, got float 1.0, an ndarray .*complex64"
    ):
        jacobian(lambda a, z: a * np.real(z), 1.0, np.ones(2, "c8"))


def test_a_jacobian_of_complex_results_is_refused():
    with pytest.raises(TypeError, match="f must return real numbers"):
        jacobian(lambda x: x * 1j, np.ones(2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g: 5 + g,
        lambda g: g + 5,
        lambda g: g + 0,
        lambda g: g - 0,
        lambda g: 0 - g,
        lambda g: operator.add(g, [1.0]),
        lambda g: np.ones(2) + g,
        lambda g: None + g,
        lambda g: g * g,
        lambda g: 2 / g,
        lambda g: g / g,
        lambda g: g**2,
        lambda g: g * [1.0, 2.0],
        lambda g: g * "2",
        lambda g: g * np.ones(2),
    ],
)
def test_what_makes_no_sense_with_grads_is_a_type_error(wrong):
    with pytest.raises(TypeError):
        wrong(some([1.0, 2.0], None))


def test_the_sum_of_a_list_of_grads_is_their_sum():
    g, h = some([1.0, 2.0], None), some([10.0, 20.0], [[5.0]])
    for zero in (0, 0.0, np.float64(0), np.int64(0)):
        assert (zero + g)[p].tolist() == [1.0, 2.0]
    total = sum([g, h])
    assert [None if a is None else a.tolist() for a in total.values()] == [[11.0, 22.0], [[5.0]], None, None]
    assert [a.tolist() for a in (g[p], h[p], h[q])] == [[1.0, 2.0], [10.0, 20.0], [[5.0]]]


def test_grads_of_different_parameters_do_not_add():
    for combine in (lambda g, h: g + h, lambda g, h: g - h, lambda g, h: sum([g, h])):
        with pytest.raises(ValueError, match="different parameters"):
            combine(some([1.0, 2.0], None), Grads(params(p), [np.ones(2)]))


@pytest.mark.parametrize("listed", [list, tuple, iter, Params])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_grads_are_as_many_as_the_parameters(listed, number):
    with pytest.raises(ValueError, match=f"Grads: {number} gradients for 2 parameters"):
        Grads(listed([p, q]), [np.array([1.0, 2.0])] * number)


@pytest.mark.parametrize("listed", [list, tuple, iter, Params])
def test_grads_are_of_parameters_listed_in_any_way(listed):
    grads = Grads(listed([p, q]), [np.array([1.0, 2.0]), np.array([[5.0]])])
    for g in (grads, 1 * grads, grads + grads - grads):
        assert [k is p_ for k, p_ in zip(g.keys(), (p, q), strict=True)] == [True, True]
        assert g.to_vector().tolist() == [1.0, 2.0, 5.0]
    assert "2 parameters" in repr(grads)


def test_grads_of_no_parameters_are_empty():
    none = Grads(Params(), [])
    assert none.to_vector().shape == (0,)
    assert none.norm() == 0
    assert (len(none), list(none.values())) == (0, [])
    assert len(none + none) == len(2 * none) == len(-none) == 0


def test_augmented_assignment_of_grads_makes_new_ones():
    g, h = some([1.0, 2.0], None), some([10.0, 20.0], [[5.0]])
    total = g
    total += h
    total -= 2 * g
    total *= 3
    total /= 2
    assert total is not g
    assert [None if a is None else a.tolist() for a in total.values()] == [[13.5, 27.0], [[7.5]], None, None]
    assert [a.tolist() for a in (g[p], h[p], h[q])] == [[1.0, 2.0], [10.0, 20.0], [[5.0]]]
    assert g[q] is None


def test_arithmetic_of_grads_within_a_loss_is_differentiated():
    W = param([1.0, 2.0])
    inner = lambda: gradient(lambda: np.sum(W**3), params(W))
    for combine, factor in (
        (lambda g: g + g, 2),
        (lambda g: sum([g, g, g]), 3),
        (lambda g: g - 3 * g, -2),
        (lambda g: -g / 2, -0.5),
        (lambda g: g * np.float64(4), 4),
        (lambda g: g.map(lambda a: 5 * a), 5),
    ):
        loss = lambda combine=combine: np.sum(combine(inner())[W])
        np.testing.assert_allclose(gradient(loss, params(W))[W], factor * 6 * W.value)
    by_a_weight = lambda: np.sum((inner() * W[0])[W])
    np.testing.assert_allclose(gradient(by_a_weight, params(W))[W], [15 + 6, 12])


def test_complex_numbers_scale_grads():
    g = some([1.0, 2.0], None, np.array([1 + 1j]))
    assert [(1j * g)[k].tolist() for k in (p, z)] == [[1j, 2j], [-1 + 1j]]
    assert (g / 1j)[z].tolist() == [1 - 1j]
    assert g.norm() == pytest.approx(np.sqrt(7))


def test_a_gradient_taken_for_a_loss_is_named():
    W = param(np.ones(2))
    f = compiled(lambda: np.sum(W**2), params(W))
    with pytest.raises(TypeError, match=r"got WithGradient.*It is compiled"):
        gradient(f, params(W))


class Named(np.ndarray):
    """Another library's array."""


@pytest.mark.parametrize(
    "made",
    [lambda x: x.view(Named), lambda x: x.view(np.recarray), lambda x: memory_map(x)],
    ids=["named", "records", "map"],
)
@pytest.mark.parametrize("shape", [(3,), (1,), ()])
def test_an_argument_of_a_subclass_is_differentiated_as_the_array_that_it_is(made, shape):
    x = np.full(shape, 2.0)

    def loss(x):
        b = x.reshape(-1).copy()
        b[0] = np.median(b) * b[-1]
        return np.sum(b * b)

    (g,), (expected,) = gradient(loss, made(x)), gradient(loss, x)
    assert type(g) is np.ndarray
    np.testing.assert_array_equal(g, expected)


def memory_map(x):
    with tempfile.TemporaryFile() as file:
        a = np.memmap(file, x.dtype, "w+", shape=x.shape)
    a[...] = x
    return a


def test_a_masked_argument_is_refused_as_its_mask_would_be_lost():
    for take in (gradient, withgradient, jacobian):
        with pytest.raises(TypeError, match="masked"):
            take(np.sum, np.ma.masked_array([1.0, 2.0], [False, True]))


@pytest.mark.parametrize(
    "given", [lambda a: [a[0], a[1]], lambda a: (a, 1.0), lambda a: None, lambda a: "a", lambda a: {"a": a}]
)
def test_a_jacobian_of_what_is_no_array_is_refused_and_not_zero(given):
    a = param([1.0, 2.0])
    for take in (lambda: jacobian(lambda: given(a), params(a)), lambda: jacobian(given, np.ones(2))):
        with pytest.raises(TypeError, match="f must return real numbers, got"):
            take()


# --- Constants by name ----------------------------------------------------------------------------------

EXPLICIT = {
    "gradient": lambda f, x, **c: gradient(f, x, **c),
    "withgradient": lambda f, x, **c: withgradient(f, x, **c),
    "pullback": lambda f, x, **c: pullback(f, x, **c)[1](1.0),
    "jacobian": lambda f, x, **c: jacobian(f, x, **c),
    "hessian": lambda f, x, **c: hessian(f, x, **c),
    "hvp": lambda f, x, **c: hvp(f, x, x + 1, **c),
    "jvp": lambda f, x, **c: jvp(f, (x,), (x + 1,), **c),
    "check_gradient": lambda f, x, **c: check_gradient(f, x, **c),
}


@pytest.mark.parametrize("form", EXPLICIT)
@pytest.mark.parametrize("k", [3.0, np.array([1.0, 2.0]), param([1.0, 2.0])])
def test_keywords_go_to_the_function_as_constants(form, k):
    f = lambda v, k=None, scale=1.0: np.sum(scale * v**2 * k)
    x = np.array([1.0, -2.0])
    with_keywords = EXPLICIT[form](f, x, k=k, scale=2.0)
    expected = EXPLICIT[form](lambda v: f(v, k, 2.0), x)
    assert repr(with_keywords) == repr(expected)
    with pytest.raises(TypeError, match=r"go to f as constants, but f takes \(v|unexpected keyword"):
        EXPLICIT[form](f, x, argnums=0)


class Model:
    def loss(self, x):
        return np.sum(x**2)


@pytest.mark.parametrize("form", [gradient, compiled], ids=lambda form: form.__name__)
def test_a_method_without_its_object_is_told_where_to_get_one(form):
    take = compiled(Model.loss) if form is compiled else lambda x: form(Model.loss, x)
    with pytest.raises(TypeError, match=r"takes \(self, x\).*without its object: write model\.loss, or comp"):
        take(np.ones(2))
    assert np.array_equal(gradient(Model().loss, np.ones(2))[0], [2.0, 2.0])


@pytest.mark.parametrize("form", EXPLICIT)
def test_what_is_no_function_is_named_with_keywords_and_without(form):
    for constants in ({}, {"k": 3.0}):
        with pytest.raises(TypeError, match=rf"{form}\(f, .*: f must be a function, got float 2.0"):
            EXPLICIT[form](2.0, np.ones(2), **constants)


def test_keywords_of_a_loss_by_parameters():
    W = param([1.0, 2.0])
    loss = lambda k: k * np.sum(W**2)
    for grads in (gradient(loss, params(W), k=3.0), gradient(params(W), k=3.0)(loss)):
        np.testing.assert_array_equal(grads[W], [6.0, 12.0])
    np.testing.assert_array_equal(hessian(loss, params(W), k=3.0), 6 * np.eye(2))
    outer = gradient(
        lambda k: gradient(lambda x, k: k * x**2, 3.0, k=k)[0], 2.0
    )  # to an outer one it is none
    assert outer == (6.0,)


# --- Arrays that hide their numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "hidden",
    [
        np.array([1.0, 2.0], object), np.array([np.ones(2), None], object), np.array([None, 1], object),
        np.array([(1.0, 2)], [("a", float), ("b", int)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"x": x}])
def test_arrays_that_hide_numbers_are_no_arguments(hidden, wrap):
    with pytest.raises(TypeError, match=r"an argument is an array of .*there is no gradient: pass them as"):
        gradient(lambda w, x: np.sum(w), np.ones(2), wrap(hidden))
    names = np.array(["a", "b"], object)
    assert gradient(lambda w, x: np.sum(w), 1.0, wrap(names))[0] == 1.0


def test_masks_are_not_lost():
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    W = param([1.0, 2.0])
    grads = gradient(lambda: np.sum(W), params(W))
    for refused in (
        lambda: param(masked),
        lambda: gradient(np.sum, masked),
        lambda: update(W, masked),
        lambda: params(W).from_vector(masked),
        lambda: operator.setitem(grads, W, masked),
        lambda: mse(W, masked),
        lambda: mse(np.ones(2), masked, weights=np.ones(2)),
    ):
        with pytest.raises(TypeError, match=r"masked (array|one)"):
            refused()
    assert W.value.tolist() == [1.0, 2.0]


def test_a_jacobian_by_parameters_that_are_not_reached_warns():
    W = param([1.0, 2.0])
    with pytest.warns(UserWarning, match="reaches none of the parameters"):
        jacobian(lambda: W.value * 2, params(W))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hessian(lambda: np.sum(W), params(W)).any()  # of a linear loss


@pytest.mark.parametrize("f", [np.zeros_like, np.angle, lambda x: np.full_like(x, 3.0)])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_a_jacobian_of_what_does_not_vary_is_zero(f, n):
    (J,) = jacobian(lambda x: f(np.ones(n) * x[0]), np.array([0.5, 1.5]))
    np.testing.assert_array_equal(J, np.zeros((n, 2)))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other C libraries nothing is promised")
def test_the_memory_of_a_gradient_serves_the_next_one():
    # In a process of its own, as a large array that anyone has freed changes what the C library does.
    program = """
import resource
import numpy as np
from minidiff import gradient, param, params
W = param(np.ones(4000))
def loss():
    y = W
    for _ in range(60):
        y = np.sin(y) + W
    return np.sum(y)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(8):
    before = faults()
    gradient(loss, params(W))
print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # pages, of some thousand that it uses


PLACES = {
    "i": lambda i, j: i, "i, j": lambda i, j: (i, j), ":, j": lambda i, j: (slice(None), j),
}  # fmt: skip


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
@pytest.mark.parametrize("kind", ["i8", "i2", "u1"])
@pytest.mark.parametrize("layout", "CF")
def test_what_is_read_many_times_is_added_as_many_times(places, dtype, kind, layout):
    rng = np.random.default_rng(0)
    W = param(rng.normal(size=(5, 6, 40)).astype(dtype, order=layout))
    low = 0 if kind == "u1" else -5
    i, j = rng.integers(low, 5, (16, 1)).astype(kind), rng.integers(low, 5, (1, 9)).astype(kind)
    C = rng.normal(size=W.value[places(i, j)].shape).astype(dtype)
    expected = np.zeros_like(W.value)
    np.add.at(expected, places(i, j), np.conj(C))
    loss = lambda i, j: np.sum(np.real(W[places(i, j)] * C))
    g = gradient(lambda: loss(i, j), params(W))[W]
    np.testing.assert_array_equal(g, expected, strict=True)
    f = compiled(loss, params(W))
    f(i[::-1].copy(), j)
    np.testing.assert_array_equal(f(i, j).grad[W], expected, strict=True)


def test_the_angle_of_a_real_number_is_a_step():
    for kwargs in ({}, {"deg": True}):
        (g,) = gradient(lambda x, kwargs=kwargs: np.sum(np.angle(x, **kwargs)), np.array([0.0, -1.0, 2.0]))
        assert g.tolist() == [0.0, 0.0, 0.0]


def test_many_matrices_times_one_go_back_as_one_product():
    A, B = param(np.ones((3, 2, 4))), param(np.ones((4, 5)))
    f = compiled(lambda: np.sum(np.sin(A @ B)), params(A, B))
    f()
    assert f.source.count("np.add.reduce") == 1  # the sum of the loss; none over the matrices


def test_a_complex_gradient_of_a_complex_parameter_may_be_set():
    z = param([1 + 1j])
    grads = gradient(lambda: np.sum(np.abs(z) ** 2), params(z))
    grads[z] = np.array([2j])
    assert grads[z] == 2j


def test_a_recorded_number_times_gradients_is_differentiated():
    W = param([1.0, 2.0])
    f = lambda s: np.sum((s * gradient(lambda: np.sum(W**2), params(W)))[W])
    assert gradient(f, 3.0) == (6.0,)


def test_a_dict_that_autograd_has_recorded_is_opened_in_a_list_too():
    f = lambda p: gradient(lambda q: np.sum(q[0]["a"] ** 3), [p])[0][0]["a"][0]
    assert autograd.grad(f)({"a": np.ones(2)})["a"].tolist() == [6, 0]


def test_a_view_of_another_type_is_refused():
    with pytest.raises(TypeError, match="view of other type"):
        gradient(lambda x: np.sum(x.view(np.matrix) * x), np.ones((2, 2)))


def test_a_view_is_another_array_of_the_same_numbers():
    def loss(x):
        view = x.view()
        assert view is not x
        return np.sum(x * view)

    assert gradient(loss, np.arange(3.0))[0].tolist() == [0, 2, 4]


def test_a_view_of_a_number_is_a_number():
    value, (g,) = withgradient(lambda x: np.sin(x).view(float), 1.0)
    assert (value, type(value)) == (np.sin(1.0), np.float64)
    assert g == np.cos(1.0)


def products(x):
    """Give the cumulative products of the rows, one after the other."""
    return np.stack(list(itertools.accumulate(x, operator.mul)))


@pytest.mark.parametrize("zeros", [(), (0,), (1,), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_cumulative_products_have_the_derivatives_of_their_factors(zeros, dtype):
    rng = np.random.default_rng(0)
    x, c = (rng.normal(size=(4, 3)).astype(dtype) + (1j if dtype == "c16" else 0) for _ in range(2))
    x[list(zeros), 1] = 0
    by_rows = lambda f: lambda x: np.sum(np.real(f(x) * c))
    by_columns = lambda x: np.sum(np.real(np.cumprod(x.T, axis=-1) * c.T))
    for own in (by_rows(lambda x: np.cumprod(x, axis=0)), by_columns):
        right = by_rows(products)
        np.testing.assert_allclose(gradient(own, x)[0], gradient(right, x)[0], atol=1e-12)
        v = rng.normal(size=x.shape)
        np.testing.assert_allclose(hvp(own, x, v), hvp(right, x, v), atol=1e-12)
        length = lambda x, own=own: np.sum(np.abs(gradient(own, x)[0]) ** 2)
        program = compiled(length)
        for y in (x, x + v, x**2):
            (value, (g,)), (expected, (h,)) = program(y), withgradient(length, y)
            assert value == expected
            np.testing.assert_array_equal(g, h)


def test_cumulative_products_beyond_the_range_of_floats_have_their_gradient():
    x = np.array([1e-200, 1e-200, 1e300, 1e150])
    np.testing.assert_allclose(gradient(lambda x: np.cumprod(x)[2], x)[0], [1e100, 1e100, 0, 0])
    x = np.array([1e200, 1e106])
    _, pull = pullback(np.cumprod, x)
    np.testing.assert_allclose(pull(np.array([0, 1e5]))[0], [1e111, 1e205])


@pytest.mark.parametrize("infinite", [(), (-np.inf,), (-np.inf, -np.inf), (np.inf, np.inf)])
@pytest.mark.parametrize("axis", [0, -1])
def test_running_sums_by_their_logarithms_have_the_derivatives_of_their_terms(infinite, axis):
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(2, 5, 5)) * 10
    x.flat[: len(infinite)] = infinite
    rows = lambda x: np.stack(list(itertools.accumulate(np.moveaxis(x, axis, 0), np.logaddexp)))
    right = lambda x: np.sum(np.where(np.isinf(rows(x)), 0, np.moveaxis(c, axis, 0)) * np.tanh(rows(x)))
    own = lambda x: np.sum(
        np.where(np.isinf(np.logaddexp.accumulate(x, axis)), 0, c) * np.tanh(np.logaddexp.accumulate(x, axis))
    )
    np.testing.assert_allclose(gradient(own, x)[0], gradient(right, x)[0], atol=1e-14)
    if not infinite:
        v = rng.normal(size=x.shape)
        np.testing.assert_allclose(hvp(own, x, v), hvp(right, x, v), atol=1e-12)
    p = param(x)
    f = compiled(lambda: own(p), params(p))
    for scale in (1.0, 0.5, 0.25):
        p[...] = x * scale
        assert np.array_equal(f().grad[p], gradient(lambda: own(p), params(p))[p])


def _failing(W):
    with pytest.raises(ValueError, match="broadcast"):
        gradient(lambda: np.sum(W / np.zeros(3)), params(W))


USES_OF_A_PARAMETER = {
    "gradient": lambda W: gradient(lambda: np.sum(W**2), params(W)),
    "no gradient": lambda W: withgradient(lambda: np.sum(dropgrad(W)) + 0 * np.sum(W[:0]), params(W)),
    "hvp": lambda W: hvp(lambda: np.sum(W**2), params(W), {W: np.ones(2)}),
    "jvp": lambda W: jvp(lambda: W**2, params(W), {W: np.ones(2)}),
    "hessian": lambda W: hessian(lambda: np.sum(W**2), params(W)),
    "jacobian": lambda W: jacobian(lambda: W**2, params(W)),
    "wide": lambda W: jacobian(lambda: np.outer(np.ones(20), W), params(W)),
    "recompute": lambda W: gradient(lambda: np.sum(recompute(lambda h: h * W)(np.ones(2))), params(W)),
    "all recomputed": lambda W: gradient(recompute(lambda: np.sum(W**2)), params(W)),
    "check": lambda W: check_gradient(lambda: np.sum(W**2), params(W)),
    "an error": _failing,
}


@pytest.mark.parametrize("use", USES_OF_A_PARAMETER.values(), ids=USES_OF_A_PARAMETER)
def test_a_guard_holds_no_longer_than_the_gradient_takes(use):
    W = param([1.0, 2.0])
    with guard():
        use(W)
        W[...] = 3.0
        use(W)
        W -= 1.0
    np.testing.assert_array_equal(W, 2.0)


def test_a_guard_holds_what_came_by_name():
    scaled = derivative(lambda g, ans, x, by: g * by, None)(lambda x, by: x * by)
    by = np.ones(2)

    def loss(x):
        y = np.sum(scaled(x, by=by))
        by[...] = 7
        return y

    with guard(), pytest.raises(ValueError, match="read-only"):
        gradient(loss, np.ones(2))


class Turned(np.ndarray):
    def __neg__(self):
        return 99 * np.asarray(self)


class Tenfold(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *operands, **options):
        operands = [10 * np.asarray(x) if isinstance(x, Tenfold) else x for x in operands]
        return getattr(ufunc, method)(*operands, **options)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"x": x}])
@pytest.mark.parametrize(
    "made", [np.matrix, lambda x: np.array(x).view(Tenfold), lambda x: np.array(x).view(Turned)]
)
def test_arrays_whose_operators_mean_something_else_are_no_arguments(made, wrap):
    with pytest.raises(
        TypeError, match=r"an argument is a (matrix|Tenfold|Turned), whose operators are not those of"
    ):
        gradient(lambda w, x: np.sum(w), np.ones(2), wrap(made([[1.0, 2.0], [3.0, 4.0]])))


def test_a_memory_map_is_an_argument_as_any_array(tmp_path):
    x = np.memmap(tmp_path / "x", float, "w+", shape=(3,))
    x[:] = [1, 2, 3]
    assert gradient(lambda x: np.sum(x**2), x)[0].tolist() == [2, 4, 6]


def test_a_value_that_someone_keeps_does_not_keep_the_graph_of_its_loss():
    W, log = param(np.ones(50_000)), []

    def loss():
        total = np.sum(np.tanh(W * 2.0))
        log.append(3.0 * total)
        return total**2

    gradient(loss, params(W))
    tracemalloc.start()
    try:
        for _ in range(10):
            gradient(loss, params(W))
        assert tracemalloc.get_traced_memory()[0] < W.nbytes
    finally:
        tracemalloc.stop()
    assert {float(x) for x in log} == {3 * np.sum(np.tanh(W * 2.0))}
    assert np.array(log[0]) == np.array(log[0], copy=True) == float(log[0])


def test_gradients_by_arguments_are_a_plain_tuple_which_the_tools_of_others_take():
    f, x = lambda x, y: np.sum(x * y), np.ones(2)
    for g in (gradient(f, x, x), withgradient(f, x, x).grad, jacobian(f, x, x), compiled(f)(x, x).grad):
        assert type(g) is tuple
