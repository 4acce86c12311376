"""Compiled functions: the bits of the eager gradient for other values, or a refusal that names the line."""

import copy
import functools
import gc
import inspect
import io
import keyword
import linecache
import logging
import math
import operator
import pickle
import random
import re
import sys
import threading
import time
import tracemalloc
import types
import warnings
import weakref
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from autograd.builtins import SequenceBox
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidiff.functions as mf
import minidiff.losses as ml
import minidiff.optimise as mo
from minidiff import (
    compiled,
    derivative,
    dropgrad,
    gradient,
    hvp,
    jvp,
    param,
    params,
    pullback,
    save,
    withgradient,
)
from minidiff.data import DataLoader
from minidiff.program import known, lines, listing
from minidiff.schedules import Exp, Scheduler

sys.path.insert(0, str(Path(__file__).parent))
from test_numpy_functions import CASES, METHODS, M


@functools.cache
def weights(shape):
    return np.cos(np.arange(np.prod(shape)) + 0.5).reshape(shape)


def projected(out):
    """One real number out of one or several arrays, with a weight for each element and each part."""
    if isinstance(out, (tuple, list, SequenceBox)):
        return sum(projected(out[i]) * (i + 1) for i in range(len(out)))
    w = weights(np.shape(out))
    return np.sum(np.real(out) * w) + np.sum(np.imag(out) * (w[::-1] if np.ndim(out) else 1.0))


def parts(x):
    if isinstance(x, (list, tuple)):
        return [part for item in x for part in parts(item)]
    return parts(list(x.values())) if hasattr(x, "values") else [x]


def bits(x):
    """Types, shapes and bytes, where one NaN is as good as another."""
    found = []
    for part in parts(x):
        if part is None:
            found.append(None)
            continue
        a = np.array(part)
        for real in (a.real, a.imag) if a.dtype.kind == "c" else (a,):
            if real.dtype.kind == "f":
                real[np.isnan(real)] = np.nan
        found.append((type(part), a.dtype, a.shape, a.tobytes()))
    return found


def others(x):
    """Values with which nothing was recorded: other numbers, signs and orders of magnitude."""
    rng = np.random.default_rng(7)
    given = [x * 0.75, x[..., ::-1] * 1.25 if np.ndim(x) else x * 1.5, x + 0.1 * rng.random(np.shape(x)), -x]
    for z in given:
        like = np.empty_like(x)
        like[...] = z
        yield like[()]


def refusal_of(f, x):
    """Record f with x and compare with the eager gradient there and for others; or return the refusal."""
    program, x = compiled(f), np.asarray(x)[()]
    for i, z in enumerate([x, *others(x)]):
        with np.errstate(all="ignore"):
            try:
                expected = withgradient(f, z)
            except (np.linalg.LinAlgError, NotImplementedError) as error:
                with pytest.raises(type(error)):
                    program(z)
                continue
            try:
                got = program(z)
            except TypeError as error:
                why = str(error)
                assert (i, why[:10]) == (0, "compiled: ")
                return why
        assert bits(got) == bits(expected)
    return None


@pytest.mark.parametrize(("name", "call", "x"), CASES)
def test_a_compiled_gradient_has_the_bits_of_the_eager_one(name, call, x):
    assert refusal_of(lambda x: projected(call(np, x)), x) is None


@pytest.mark.parametrize(("name", "call", "x"), CASES)
def test_so_has_a_gradient_of_a_gradient_where_names_are_used_again(name, call, x, monkeypatch):
    monkeypatch.setattr(lines, "SHORT", 0)

    def squared_slope(x):
        (g,) = gradient(lambda x: projected(call(np, x)), x)
        return 0.0 * np.sum(np.real(x)) if g is None else np.sum(np.real(g) ** 2 + np.imag(g) ** 2)

    assert refusal_of(squared_slope, x) is None


def exchanged(a, i):
    a[[0, i]] = a[[i, 0]]


def by_two_lists(a, i):
    a[[0, 1], [i, 2]] = a[2, :2]


def by_nested_lists(a, i):
    a[[[0, i], [i, 1]]] *= 2.0


def by_a_list_of_truths(a, i):
    a[[i > 0, True, False]] = 2.0


def summed_by_a_list(a, i):
    np.add.at(a, [i, 0, i], a[1])


@pytest.mark.parametrize(
    "change", [exchanged, by_two_lists, by_nested_lists, by_a_list_of_truths, summed_by_a_list]
)
def test_so_has_what_is_assigned_to_places_in_lists_that_are_computed(change):
    def loss(x):
        a = x * x
        change(a, np.argmax(x[:, 0]))
        return projected(a)

    assert refusal_of(loss, np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0], [2.0, 0.25, 1.5]])) is None


@pytest.mark.parametrize("method", [method for method, _ in METHODS.values()], ids=METHODS)
def test_so_have_methods_and_operators(method):
    why = refusal_of(lambda x: projected(method(x)), M)
    assert why is None


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.sum(
            np.abs(np.stack([1j * np.sin(x[0]), x[1] + 0j])) ** 3
        ),  # a complex number of Python's
        lambda x: (1j * np.sin(x[0]) / x[1]).imag * (2j * x[2] * 1j).real,
        lambda x: np.linalg.slogdet(x[:, None] * x + np.diag(1j + x))[1],
        lambda x: np.sum(np.triu(np.outer(x, x))[np.triu_indices_from(np.outer(x, x), 1)]) ** 2,
        lambda x: np.sum(pullback(np.tanh, x)[1](x**2)[0] ** 2),
        lambda x: np.sum(pullback(np.tanh, x)[1](x[0] * 1.0)[0] ** 2),
        lambda x: np.prod(x) ** 2 + np.sum(np.prod(np.outer(x, x), axis=1)),
        lambda x: np.sum(np.interp(x, [-1.0, 0, 1], [0, 1.0, 0])),
        lambda x: np.sum(np.interp([0.5, 1.5], [0, 1, 2], x) ** 2),
        lambda x: np.sum(jvp(np.sin, (x,), (np.array([True, False, True]),))[1] ** 2),
        lambda x: np.sum(x * ((-2.0) ** np.round(x)) - (-x) ** 2),
    ],
)
def test_so_have_losses_of_several_calls(f):
    x = np.array([0.3, 1.7, -0.4])
    assert refusal_of(f, x) is None
    assert refusal_of(lambda x: np.sum(gradient(f, x)[0] ** 2), x) is None


@pytest.mark.parametrize("change", [lambda b, v: None, lambda b, v: np.add.at(v, 0, b[1])])
def test_so_have_losses_of_a_view(change):
    def loss(x):
        b = np.outer(x, x)
        v, w = b.view(), b[0, 0].view()
        change(b, v)
        return np.sum(b / 3) + np.sum(x * v) * w + np.sum(b * b * x)

    assert refusal_of(loss, np.array([0.3, 1.7, -0.4])) is None


def test_so_have_second_derivatives_of_gamma_functions():
    special = pytest.importorskip("scipy.special")
    for f in (special.gammaln, special.gamma, special.psi, lambda x: special.betaln(x, 2.5)):
        slope = lambda x, f=f: np.sum(gradient(lambda x: np.sum(f(x)), x)[0] ** 2)
        assert refusal_of(slope, np.array([0.3, 1.7, 2.4])) is None


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_so_has_every_exchange_of_axes(ndim):
    x = np.random.default_rng(1).normal(size=(3,) * ndim)  # where a wrong order does not show in the shape
    places = range(-ndim, ndim)
    calls = [lambda x, i=i, j=j: np.swapaxes(x, i, j) for i in places for j in places]
    calls += [lambda x, i=i, j=j: np.moveaxis(x, i, j) for i in places for j in places]
    calls += [lambda x, order=order: np.transpose(x, order) for order in permutations(range(ndim))]
    calls += [lambda x, i=i: np.cumprod(x, axis=i) for i in places]
    for call in calls:
        assert refusal_of(lambda x, call=call: projected(call(x) * call(x)), x) is None


@pytest.mark.parametrize(("name", "call", "x"), CASES[::5])
def test_a_workspace_changes_no_bit(name, call, x, monkeypatch):
    monkeypatch.setattr(lines, "LARGE", 1)
    refusal_of(lambda x: projected(call(np, x)) + np.sum(np.tanh(np.abs(x) + 1.0) * np.abs(x)), x)


@pytest.mark.parametrize("method", [method for method, _ in METHODS.values()], ids=METHODS)
def test_nor_does_it_with_methods_and_operators(method, monkeypatch):
    monkeypatch.setattr(lines, "LARGE", 1)
    refusal_of(lambda x: projected(method(x) * 2), M)


def test_a_ufunc_of_scipys_goes_to_the_workspace_by_its_own_name(monkeypatch):
    special = pytest.importorskip("scipy.special")
    monkeypatch.setattr(lines, "LARGE", 1)
    assert refusal_of(lambda x: projected(special.expit(2 * x) * x), M) is None


def test_a_chain_of_large_operations_takes_one_array_of_the_workspace(monkeypatch):
    monkeypatch.setattr(lines, "LARGE", 1)
    f = compiled(lambda x: np.sum(-(x * 2 + 1) * 3 - 1))
    f(np.ones(9))
    assert "w1" in f.source
    assert "w2" not in f.source


@pytest.mark.parametrize("length", [3, 30])
def test_arrays_of_the_workspace_are_taken_again_where_nobody_needs_them_any_more(length, monkeypatch):
    monkeypatch.setattr(lines, "LARGE", 1)

    def loss(x):
        for _ in range(length):
            x = np.tanh(x) * np.sin(x)
        return np.sum(x)

    f = compiled(lambda x: loss(dropgrad(x)) + np.sum(x))
    f(np.ones(9))
    assert "w1" in f.source
    assert "w5" not in f.source


def test_threads_have_a_workspace_each_and_errors_none(monkeypatch):
    monkeypatch.setattr(lines, "LARGE", 1)
    V = param(np.linspace(-1, 1, 30 * 30).reshape(30, 30))
    loss = lambda x: np.sum(np.tanh(x @ V) ** 2 * np.linalg.det(x[:2, :2] / x[0, 0]))
    f = compiled(loss, params(V))
    xs = [np.full((30, 30), i + 1.0) + np.eye(30) for i in range(3)]
    expected = [bits(withgradient(lambda: loss(x), params(V))) for x in xs]
    f(xs[0])
    assert "workspace.take()" in f.source
    wrong = []
    work = lambda k: [wrong.append(k) for i in range(6) if bits(f(xs[(i + k) % 3])) != expected[(i + k) % 3]]
    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []
    kept = f._programs[next(iter(f._programs))].run.__globals__["workspace"].kept
    assert 1 <= len(kept) <= 3
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        f(np.zeros((30, 30)))
    assert bits(f(xs[1])) == expected[1]


# --- Shapes, dtypes and structures ----------------------------------------------------------------------


@given(st.data())
@settings(max_examples=40)
def test_a_regression_of_any_shape_and_dtype(data):
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64", "complex64", "complex128"]))
    n, m, k = (data.draw(st.integers(0 if i else 1, 4)) for i in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    number = lambda *shape: np.asarray(
        rng.normal(size=shape) + (1j * rng.normal(size=shape) if "c" in dtype else 0)
    ).astype(dtype)
    W, b, c = param(number(n, m)), param(number(k, 1)), param(number())
    θ = params(W, b, c)

    def loss(x, y, scale):
        h = np.exp((x @ W.T)[..., None, :] * 0.1 - b) - c
        e = h.sum(axis=-2) - y
        return np.real(np.sum(e * np.conj(e))) * scale + np.sum(np.abs(W)) / 3

    f = compiled(loss, θ)
    for _ in range(3):
        x, y, scale = number(5, m), number(n), float(rng.random())
        if data.draw(st.booleans()):
            x = np.asfortranarray(x)
        with np.errstate(all="ignore"):
            assert bits(f(x, y, scale)) == bits(withgradient(lambda: loss(x, y, scale), θ))
        for p in θ:
            p[...] = number(*p.shape)


@given(hnp.arrays(st.sampled_from(["f4", "f8", "i4", "c16"]), hnp.array_shapes(min_dims=0, min_side=0)))
@settings(max_examples=60)
def test_the_explicit_form_of_any_shape_and_dtype(x):
    f = lambda x, y: np.sum(np.abs(np.sin(np.real(x)) * y["s"][0] - np.imag(x)) ** 2)
    y = {"s": (np.float64(0.5), 1, None)}
    parts = (np.clip(np.nan_to_num(part), -9, 9) for part in (x.real, x.imag))
    x = np.asarray(next(parts) + (1j * next(parts) if x.dtype.kind == "c" else 0), x.dtype)
    program = compiled(f)
    for z in (x, x + x.dtype.type(1), x * x.dtype.type(2)):
        z = z.reshape(x.shape)
        assert bits(program(z, y)) == bits(withgradient(f, z, y))


def test_a_structure_comes_back_as_it_was_given():
    f = compiled(lambda model, t: np.sum(model["W"] ** 2) * t + model["b"][0])
    _, (model, t) = f({"W": np.ones(2), "b": [3.0, None], "n": "name"}, 2.0)
    assert list(model) == ["W", "b", "n"]
    assert model["W"].tolist() == [4.0, 4.0]
    assert (model["b"], model["n"], t) == ([1.0, None], None, 2.0)


def test_a_program_is_made_for_each_signature():
    W = param(np.ones(3))
    f = compiled(lambda x, n: np.sum(W * x) ** n, params(W))
    x = np.ones(3)
    for arguments in [(x, 2), (x * 3, 2), (x, 3), (x[:1], 2), (x.astype("f4"), 2), (np.ones(6)[::2], 2)]:
        assert bits(f(*arguments)) == bits(
            withgradient(lambda: np.sum(W * arguments[0]) ** arguments[1], params(W))
        )
    assert len(f._programs) == 5
    assert repr(f).count("operations") == 5
    with pytest.raises(TypeError, match=r"plain arrays, not MaskedArray, whose mask .*x\.filled"):
        f(np.ma.array(x), 2)
    with pytest.raises(TypeError, match="plain arrays, not matrix"):
        f(x.view(type("matrix", (np.ndarray,), {})), 2)


def test_a_number_that_an_argument_holds_is_the_same_by_its_value_and_sign():
    W, held = param(np.ones(3)), SimpleNamespace()
    f = compiled(lambda held: np.sum(np.copysign(W, held.a)), params(W))
    for a, value, programs in [("0.0", 3, 1), ("-0.0", -3, 2), ("0.0", 3, 2), ("-0.0", -3, 2), ("2.0", 3, 3)]:
        held.a = float(a)  # another object each time
        assert f(held).val == value
        assert len(f._programs) == programs


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: x[1:], lambda x: [x], lambda x: {"a": (x, 2.0)}])
def test_an_array_in_a_file_is_a_plain_one(wrap, tmp_path):
    mapped = np.memmap(tmp_path / "x", float, "w+", shape=3)
    mapped[:] = 1, 2, 4
    f = compiled(lambda x: np.sum(parts(x)[0] ** 2 * np.sin(parts(x)[0])))
    for _ in range(3):
        assert bits(f(wrap(mapped))) == bits(withgradient(f._loss, wrap(mapped)))
        mapped *= 0.75
    assert len(f._programs) == 1


@pytest.mark.parametrize("is_compiled", [False, True])
def test_batches_of_an_array_in_a_file_train(is_compiled, tmp_path):
    mapped = np.memmap(tmp_path / "x", float, "w+", shape=(4, 2))
    mapped[:] = np.arange(8.0).reshape(4, 2)
    θ, expected = param([1.0, 2.0]), param([1.0, 2.0])
    for p, data in ((θ, mapped), (expected, np.array(mapped))):
        loader = DataLoader(data, batchsize=2)
        mo.train(
            lambda x, p=p: np.sum((x @ p) ** 2), params(p), loader, mo.Descent(0.001), compiled=is_compiled
        )
    assert bits(θ.value) == bits(expected.value)


PROBABILITIES = np.array([[0.2, 0.3, 0.5], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
NUMBERS = np.array([0, 2, 1, 1])
LOSSES = {
    "mse": (ml.mse, PROBABILITIES, None),
    "mae": (ml.mae, PROBABILITIES, None),
    "huber": (ml.huber_loss, PROBABILITIES, None),
    "crossentropy": (ml.crossentropy, PROBABILITIES, 1.5),
    "of class numbers": (lambda p, y: ml.crossentropy(mf.softmax(p), y), NUMBERS, 3),
    "logits": (ml.logitcrossentropy, PROBABILITIES, -0.5),
    "logits of class numbers": (ml.logitcrossentropy, NUMBERS, -1),
    "logits that do not sum to 1": (ml.logitcrossentropy, PROBABILITIES, 0.9),
    "smoothed": (lambda p, y: ml.logitcrossentropy(p, y, smoothing=0.1), NUMBERS, 3),
    "ignored": (lambda p, y: ml.logitcrossentropy(p, y, ignore=1), NUMBERS, 3),
    "weighted": (lambda p, y: ml.mse(p, 0.5 + 0 * p, weights=y), PROBABILITIES[:, 0] + 0.5, -1.0),
    "binary": (ml.binarycrossentropy, PROBABILITIES, 2.0),
    "binary logits": (ml.logitbinarycrossentropy, PROBABILITIES, 2.0),
    "Kullback-Leibler": (ml.kldivergence, PROBABILITIES, 2.0),
    "Poisson": (ml.poisson_loss, np.round(4 * PROBABILITIES), -1.0),
    "hinge": (ml.hinge_loss, np.sign(PROBABILITIES - 0.22), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (7, 2), (2, 3, 5), (0, 3)])
def test_losses_of_class_numbers_of_any_shape(shape, dtype):
    rng = np.random.default_rng(3)
    f = lambda z, y: ml.logitcrossentropy(z, y, agg=np.sum) / 7
    for _ in range(2):
        z, y = rng.normal(size=shape).astype(dtype), rng.integers(0, shape[-1], shape[:-1])
        assert bits(compiled(lambda z, y=y: f(z, y))(z)) == bits(withgradient(lambda z, y=y: f(z, y), z))
        turned = lambda z, y=y: f(np.moveaxis(z, 0, -1), y)  # which has another layout
        z = np.moveaxis(z, -1, 0).copy()
        assert bits(compiled(turned)(z)) == bits(withgradient(turned, z))


@pytest.mark.parametrize(("loss", "y", "wrong"), LOSSES.values(), ids=LOSSES)
def test_a_loss_of_targets_checks_them_at_every_call(loss, y, wrong):
    P = param(np.cos(np.arange(12.0)).reshape(4, 3) ** 2 * 0.9 + 0.05)
    f = compiled(lambda y: loss(P, y), params(P))
    for target in (y, y[::-1].copy()):
        assert bits(f(target)) == bits(withgradient(lambda: loss(P, target), params(P)))
    if wrong is not None:
        y = y.copy()
        y[0] = wrong
        with pytest.raises(ValueError, match="must be") as eagerly:
            loss(P, y)
        with pytest.raises(ValueError, match=re.escape(str(eagerly.value))):
            f(y)


SQUARES = np.arange(3.0) ** 2


@pytest.mark.parametrize(
    ("f", "x", "wrong"),
    [
        (lambda xp: np.interp(0.3, xp, SQUARES), np.arange(3.0), np.array([2.0, 1.0, 0.0])),
        (np.hypot.reduce, np.array([3.0, 4.0]), np.array([3e200, 4e200])),
    ],
)
def test_what_has_no_gradient_for_some_values_is_refused_at_every_call(f, x, wrong):
    program = compiled(f)
    assert bits(program(x)) == bits(withgradient(f, x))
    for gradient_of in (program, lambda x: withgradient(f, x)):
        with (
            np.errstate(over="ignore"),
            pytest.raises((ValueError, NotImplementedError), match=r"np\.(interp|hypot)"),
        ):
            gradient_of(wrong)


# --- Constants ------------------------------------------------------------------------------------------


def test_what_the_loss_finds_is_kept_by_reference():
    rng = np.random.default_rng(0)
    W, V, data, weights = param(rng.random(3)), param(rng.random(3)), np.ones(3), np.full(3, 2.0)
    losses = [
        lambda: np.sum(W * data),  # whose gradient is the data itself
        lambda: np.sum(W * (V + 1)),
        lambda: np.sum((W * (W.value + 1)) * V.value),
        lambda: np.sum(weights**W) + np.sum(W[:2] * data[:2] / weights[0:2]),
        lambda: np.sum(dropgrad(W) * W),
        lambda: np.sum(W) * gradient(lambda a: np.sum((a * V) ** 2), data)[0].sum(),
        lambda: np.sum(pullback(np.tanh, W)[1](data)[0]),
        lambda: np.sum(jvp(np.tanh, (W,), (data,))[1] * hvp(lambda w: np.sum(w**4), W, weights)),
    ]
    for loss in losses:
        f = compiled(loss, params(W))
        for _ in range(3):
            assert bits(f()) == bits(withgradient(loss, params(W)))
            for array in (W, V, data, weights):
                array[...] = rng.random(3)


@pytest.mark.parametrize("pick", [lambda x, mask: x[mask], lambda x, mask: np.stack([x, x], axis=1)[mask, 0]])
def test_how_many_elements_are_picked_may_change_with_what_the_loss_finds(pick):
    how = np.array([True, False, True])
    loss = lambda x: np.mean(pick(x, how) ** 2)
    x, f = np.array([0.5, 1.5, -2.0]), compiled(loss)
    for changed in (how.copy(), ~how, True):
        how[...] = changed
        assert bits(f(x)) == bits(withgradient(loss, x))


def test_a_gradient_within_the_loss_by_integers_is_that_by_floats():
    loss = lambda n: np.sum(W) * np.sum(gradient(lambda z: np.sum(z**4), n)[0])
    n = np.array([1, 2, 3_000_000])  # whose cube no integer of 64 bits holds
    assert bits(compiled(loss, params(W))(n)) == bits(withgradient(lambda: loss(n), params(W)))


@pytest.mark.parametrize("name", ["shape", "ndim", "size", "itemsize", "nbytes", "strides"])
def test_a_loss_may_ask_how_an_argument_lies_in_memory(name):
    loss = lambda x: np.sum(W * np.sum(getattr(x, name)) * np.mean(x))
    f = compiled(loss, params(W))
    for x in (np.ones((2, 3)), np.ones((3, 2)).T, np.ones((2, 3), "f4")):
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


def test_where_a_ufunc_is_told_to_leave_elements_out_it_does():
    loss = lambda x: np.sum(W * np.where(x > 0, np.sqrt(x * 1, out=None, where=x > 0), 0.0))
    x, f = np.array([4.0, -1.0, 9.0]), compiled(loss, params(W))
    for _ in range(2):  # without a warning of the root of -1
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


def test_results_share_memory_with_nothing():
    W, b, data = param(np.ones((2, 3))), param(np.zeros(3)), np.ones((2, 3))
    f = compiled(lambda x: np.sum(W * data + W.T.T * 1.0 + b + b) + np.sum(W.reshape(3, 2) * x), params(W, b))
    x = np.ones((3, 2))
    first = f(x)
    kept = bits(first)
    arrays = [W.value, b.value, data, x, *first.grad.values()]
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, other) for other in arrays[:i])
    f(2 * x)
    assert bits(first) == kept
    f = compiled(lambda x, y: (x + y) * np.sum(data))
    for _ in range(2):
        assert not np.shares_memory(*f(np.array(1.0), np.array(2.0)).grad)


@pytest.mark.parametrize(("i", "j"), [((0, 1), [0, 1]), (1, True), (slice(0, 2), [0, 1])])
def test_indices_that_look_alike_are_told_apart(i, j):
    loss = lambda x: np.sum(np.sin(x[i])) * np.sum(np.cos(x[j]))
    f = compiled(loss)
    for x in (np.arange(9.0).reshape(3, 3), np.ones((3, 3))):
        assert bits(f(x)) == bits(withgradient(loss, x))


class Attention:
    """Has data that its loss does not read; makes zeros and a scale in it."""

    def __init__(self, d):
        self.d, self.samples = d, np.ones((3, d))
        self.W = param(np.ones(d))

    def loss(self, x):
        h = np.zeros(self.d)
        for row in (x, x * 2):
            h = np.tanh(h + row * self.W) / self.d**0.5
        return np.sum(h)

    def of_samples(self, x):
        return np.sum(self.W * (x + self.samples.mean(axis=0)))


@dataclass
class MadeLater(Attention):
    """Makes its data once its settings are there."""

    d: int

    def __post_init__(self):
        super().__init__(self.d)


@pytest.mark.parametrize("kind", [Attention, MadeLater])
def test_what_the_loss_makes_of_no_data_is_a_constant(kind):
    model = kind(4)
    f = compiled(model.loss, params(model))
    for x in (np.ones(4), np.arange(4.0)):
        assert bits(f(x)) == bits(withgradient(lambda: model.loss(x), params(model)))


# --- What is refused ------------------------------------------------------------------------------------

AT_REST = param(np.array([1.0, 2.0, 4.0]))
W, DATA, RNG = param(np.array([0.5, 0.7, 1.5])), np.ones(3), np.random.default_rng(0)
OLD = np.random.RandomState(np.random.PCG64(0))
BITS, SEEDS, SYSTEM = np.random.PCG64(0), np.random.SeedSequence(0), random.SystemRandom()
COUNT = [0]


def counted():
    COUNT[0] += 1
    return COUNT[0]


def caught(x):
    try:
        return np.sum(W) if x[0] > 0 else 0 * np.sum(W)
    except TypeError:
        return np.sum(W * x)


def changed(x):
    x *= 2
    return np.sum(W * x)


def assigned(x):
    y = x * 2
    y[0] = 1.0
    return np.sum(W * y)


BUFFER = np.zeros(3)


def buffered(x):
    BUFFER[:] = 1
    a = np.sum(W * BUFFER * x)
    BUFFER[:] = 2
    return a + np.sum(W * BUFFER)


MASKED = {
    **{
        f.__name__: partial(f, axis=0)
        for f in (np.sum, np.prod, np.mean, np.var, np.std, np.nansum, np.nanmean)
    },
    **{f.__name__: partial(f, axis=-1, initial=0.3) for f in (np.max, np.min, np.nanmax)},
    **{f"{f.__name__}.reduce": partial(f.reduce, axis=1, initial=0.2) for f in (np.add, np.logaddexp)},
}


@pytest.mark.filterwarnings("ignore")  # of a mean of nothing
@pytest.mark.parametrize("reduce", MASKED.values(), ids=MASKED)
def test_what_a_mask_leaves_out_may_be_other_elements_every_time(reduce):
    rng = np.random.default_rng(0)
    V = param(rng.normal(size=(3, 4)))
    loss = lambda x: (lambda v: np.sum(reduce(v, where=v > -0.5) ** 2))(V * x)
    f = compiled(loss, params(V))
    for _ in range(5):
        x = rng.normal(size=4)
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(V)))


def put(change):
    """The array after a change in place that puts a number there."""

    def changed(v, k):
        v = v * 1.0
        change(v, k)
        return v

    return changed


OF_NUMBERS = {
    "x[i]": put(lambda v, k: operator.setitem(v, 0, k)),
    "x[i:j]": put(lambda v, k: operator.setitem(v, slice(1, 3), k)),
    "x[mask]": put(lambda v, k: operator.setitem(v, v > 1, k)),
    "x.flat[i]": put(lambda v, k: operator.setitem(v.flat, 2, k)),
    "fill": put(lambda v, k: v.fill(k)),
    "copyto": put(np.copyto),
    "put": put(lambda v, k: np.put(v, [0, 1], k)),
    "fill_diagonal": put(lambda v, k: np.fill_diagonal(v.reshape(2, 3), k)),
    **{f"{f.__name__}.at": put(lambda v, k, f=f: f.at(v, [0, 1, 1], k)) for f in (np.add, np.multiply)},
    "full_like": np.full_like,
    "append": np.append,
    "insert": lambda v, k: np.insert(v, 0, k),
    "concatenate": lambda v, k: np.concatenate([v, [k, 2 * k]]),
    "stack": lambda v, k: np.stack([v[0], k]),
    "hstack": lambda v, k: np.hstack([k, v]),
    "interp": lambda v, k: np.interp(k, np.arange(6.0), v),
    "linspace": lambda v, k: np.linspace(v[0], k, 5),
    "geomspace": lambda v, k: np.geomspace(v[0], k, 5),
    "polyval": np.polyval,
    "kron": np.kron,
    "diff": lambda v, k: np.diff(v, append=k),
    "ediff1d": lambda v, k: np.ediff1d(v, to_end=k),
    "max": lambda v, k: np.max(v, initial=k),
    "convolve": lambda v, k: np.convolve(v, [k, 1.0]),
    "percentile": np.percentile,
    "clip": lambda v, k: np.clip(v, None, k),
    "where": lambda v, k: np.where(v > 1, v, k),
}


@pytest.mark.parametrize("kind", [float, int, np.float32, np.array])
@pytest.mark.parametrize("call", OF_NUMBERS.values(), ids=OF_NUMBERS)
def test_a_number_that_is_an_argument_may_go_wherever_numpy_takes_one(call, kind):
    V = param(np.linspace(0.5, 2.0, 6))
    loss = lambda k: np.sum(call(V, k) ** 2) + np.sum(V)
    f = compiled(loss, params(V))
    for k in (1, 2, 3):
        assert bits(f(kind(k))) == bits(withgradient(lambda k=k: loss(kind(k)), params(V)))


PUT_WHERE_VALUES_SAY = {
    "copyto": lambda v, w: np.copyto(v, w, where=v > 0),
    "putmask": lambda v, w: np.putmask(v, v > 0, w),
    "place": lambda v, w: np.place(v, v > 0, w),
    "put": lambda v, w: np.put(v, np.argsort(v, axis=None)[:2], w),
    "put_along_axis": lambda v, w: np.put_along_axis(v, np.argmax(v, axis=0, keepdims=True), w, 0),
    "flat": lambda v, w: operator.setitem(v.flat, np.argsort(v, axis=None)[-2:], w),
    "a mask of flat": lambda v, w: operator.setitem(v.flat, v.ravel() > 0, w),
}


@pytest.mark.parametrize("w", [0.25, 2, np.float32(0.5), [0.25], np.array([0.75])], ids=repr)
@pytest.mark.parametrize("change", PUT_WHERE_VALUES_SAY.values(), ids=PUT_WHERE_VALUES_SAY)
def test_a_constant_may_be_put_where_values_say(change, w):
    V, rng = param(np.zeros((2, 3))), np.random.default_rng(0)
    loss = lambda x: np.sum(put(change)(V * x, w) ** 2)
    f = compiled(loss, params(V))
    for _ in range(3):
        V[...], x = rng.normal(size=(2, 3)), rng.normal(size=3)
        assert bits(f(x)) == bits(withgradient(lambda x=x: loss(x), params(V)))
    assert len(f._programs) == 1


OPTIONS = [
    (name, option)
    for name in ml.__all__
    for option in ("delta", "smoothing", "epsilon")
    if option in inspect.signature(getattr(ml, name)).parameters
]


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("kind", [float, np.float64, np.array])
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_of_a_loss_may_be_an_argument_and_is_checked_at_every_call(name, option, kind, numbers):
    y = (
        NUMBERS
        if numbers and name in ("crossentropy", "logitcrossentropy", "kldivergence")
        else PROBABILITIES
    )
    P = param(np.float32(mf.softmax(PROBABILITIES)))
    loss = lambda p, k: getattr(ml, name)(p, y, **{option: k})
    implicit, explicit = compiled(lambda k: loss(P, k), params(P)), compiled(loss)
    for k in map(kind, (0.5, 0.25, 0.9)):
        assert bits(implicit(k)) == bits(withgradient(lambda k=k: loss(P, k), params(P)))
        assert bits(explicit(P.value, k)) == bits(withgradient(loss, P.value, k))
    for run in (
        lambda: implicit(kind(-0.5)),
        lambda: explicit(P.value, kind(-0.5)),
        lambda: loss(P, kind(-0.5)),
    ):
        with pytest.raises(ValueError, match=f"{option} must be"):
            run()
    assert len(implicit._programs) == len(explicit._programs) == 1


@pytest.mark.parametrize("y", [PROBABILITIES, NUMBERS])
def test_no_smoothing_is_computed_as_without_and_refused_at_the_first_call(y):
    P = param(mf.softmax(PROBABILITIES))
    loss = lambda k: ml.logitcrossentropy(P, y, smoothing=k)
    f = compiled(loss, params(P))
    with pytest.raises(TypeError, match=r"line \d+ .*smoothing=0 is computed otherwise"):
        f(0.0)
    for k in (0.5, 0.0, 0.25):
        assert bits(f(k)) == bits(withgradient(lambda k=k: loss(k), params(P)))


@pytest.mark.parametrize("loss", [ml.mse, ml.mae, ml.huber_loss, ml.binarycrossentropy, ml.poisson_loss])
def test_a_target_may_be_a_number_or_a_list(loss):
    V = param([0.25, 0.5, 0.75])
    f = compiled(lambda y: loss(V, y), params(V))
    for y in (0.5, 0.75, [0.5, 0.25, 1], [1, 0, 0.5]):
        assert bits(f(y)) == bits(withgradient(lambda y=y: loss(V, np.asarray(y)), params(V)))
    listed = gradient(lambda a, b: loss([a, b], [0.5, 1]), 0.25, 0.5)
    np.testing.assert_array_equal(listed, gradient(lambda v: loss(v, np.array([0.5, 1])), V.value[:2])[0])


def augmented(name):
    def change(v):
        v = getattr(operator, f"__i{name}__")(v, 2.0 + abs(v[0]))

    return change


INTO = {
    **{name: augmented(name) for name in ("add", "sub", "mul", "truediv", "pow")},
    **{f.__name__: lambda v, f=f: f(v, out=v) for f in (np.exp, np.square, np.sqrt, np.tanh)},
    "cumsum": lambda v: np.cumsum(v, out=v),
    "multiply.at": lambda v: np.multiply.at(v, [0, 0, 1], v[:3]),
    "power.at": lambda v: np.power.at(v, [0, 0, 1], 1.5),
    "sort": lambda v: v.sort(),
    "its own": lambda v: v.__setitem__(slice(None), np.exp(v)),
}


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("part", [np.s_[:], np.s_[1:], np.s_[::-1], np.s_[::2]], ids=str)
@pytest.mark.parametrize("change", INTO.values(), ids=INTO)
def test_a_change_in_place_of_a_part_has_the_same_bits_or_is_refused(change, part, dtype):
    def loss(x):
        v = x * (W + 0j if dtype is complex else W)
        change(v[part])
        return np.sum(np.abs(v) ** 2)

    rng = np.random.default_rng(0)
    n = 34  # 33 may lie 8 bytes apart, which NumPy 2.0 takes for an overlap, and rounds otherwise
    W = param(rng.random(n))
    f, θ = compiled(loss, params(W)), params(W)
    for _ in range(40):
        x = rng.random(n)
        try:
            got = f(x)
        except TypeError as refusal:
            assert "assign them" in str(refusal)  # noqa: PT017 - it may be refused
            assert change is not INTO["its own"]
            assert part.step or change in (INTO["multiply.at"], INTO["power.at"])  # else it lies as a new one
            assert dtype is complex or change not in (INTO["add"], INTO["mul"], INTO["square"], INTO["sort"])
            return
        assert bits(got) == bits(withgradient(lambda: loss(x), θ))


@pytest.mark.parametrize("ends", [lambda: np.cumsum([2, 1])[:-1], lambda: np.array([1, 2]), lambda: [1, 2]])
def test_places_made_of_constants_are_constants(ends):
    loss = lambda x: sum((i + 1) * np.sum(part * x) ** 2 for i, part in enumerate(np.split(W, ends())))
    f = compiled(loss, params(W))
    f(2.0)
    assert bits(f(3.0)) == bits(withgradient(lambda: loss(3.0), params(W)))


def test_a_view_of_one_element_is_computed_with_as_it_lies():
    z = param(np.array([0.3 - 0.2j], "c8"))

    def loss():
        v = z + 1
        v *= z
        return np.sum(np.abs(v[::-1]) ** 2)

    f, rng = compiled(loss, params(z)), np.random.default_rng(0)
    for _ in range(100):
        z[...] = (rng.normal(size=1) + 1j * rng.normal(size=1)).astype("c8")
        assert bits(f()) == bits(withgradient(loss, params(z)))


@pytest.mark.parametrize("truth", [np.array([True, False, True]), np.array(True), np.bool_(True)])
def test_of_truth_values_among_the_arguments_a_program_has_no_gradient_either(truth):
    loss = lambda x, truth: np.sum(x * truth)
    f, x = compiled(loss), np.array([0.5, 1.5, -1.0])
    for mask in (truth, truth, ~truth):
        found = f(x, mask)
        assert bits(found) == bits(withgradient(loss, x, mask))
        assert found.grad[1] is None


class Noisy:
    def __init__(self):
        self.values = RNG.normal(size=3)


REFUSED = {
    "branch": (lambda x: np.sum(W * x) if x[0] > 0 else np.sum(W), "branches on a value.*np.where"),
    "any": (lambda x: np.sum(W) if np.any(x > 0) else np.sum(x), "branches on a value"),
    "and": (lambda x: np.sum(W * (x[0] > 0 and x[1])), "branches on a value"),
    "max": (lambda x: max(W[0], x[0]) * np.sum(W), "branches on a value"),
    "caught": (caught, "branches on a value"),
    "in": (lambda x: np.sum(W) * (1.0 in x), "`in` looks at values"),
    "float": (lambda x: np.sum(W * float(x[0])), "float.* makes a Python number.*argument"),
    "math": (lambda x: np.sum(W * math.exp(x[0])), "`math` function"),
    "int": (lambda x: np.sum(W) * int(x[0]), "int.. makes a Python number"),
    "index": (lambda x: np.sum(W) * [1, 2, 3][np.argmax(x)], "the index of an array.*outside of the"),
    "size": (lambda x: np.sum(W) * np.zeros(np.argmax(x)).size, "as a size, as a count"),
    "round": (lambda x: np.sum(W) * round(x[0]), "round.. makes"),
    "item": (lambda x: np.sum(W) * x[0].item(), ".item of a value"),
    "text": (lambda x: np.sum(W) * float(f"{x[0]}"), "makes text of a value.*Print what the function gives"),
    "repr": (lambda x: np.sum(W * x) * {"2.0": 2.0}.get(repr(x[0]), 1.0), "makes text of a value"),
    "!r": (lambda x: np.sum(W * x) * {"2.0": 2.0}.get(f"{x[0]!r}", 1.0), "makes text of a value"),
    "text of what is recorded": (lambda x: np.sum(W * x) * len(f"{W * x!r}"), "makes text of a value"),
    "text of a tuple": (lambda x: np.sum(W * x) * len(str((x[0], x[1]))), "makes text of a value"),
    "text of a list": (lambda x: np.sum(W * x) * len("%s" % [x[0]]), "makes text of a value"),
    "a deep copy": (lambda x: np.sum(W * copy.deepcopy(W)), r"makes a parameter of another.*W\.copy\(\)"),
    "a copy": (lambda x: np.sum(W * copy.copy(W)), "makes a parameter of another"),
    "a copy in a list": (lambda x: np.sum(W * copy.deepcopy([W])[0]), "makes a parameter of another"),
    "a parameter of one": (lambda x: np.sum(W * param(W)), "makes a parameter of another"),
    "a pickle": (lambda x: np.sum(W * pickle.loads(pickle.dumps(W))), "makes a parameter of another"),
    "a copy of one at rest": (lambda x: np.sum(W * copy.copy(AT_REST)), "makes a parameter of another"),
    "counts": (lambda x: np.sum(np.repeat(W, x.astype(int))), r"np.repeat looks at.*places before"),
    "taken": (lambda x: np.sum(np.take(np.eye(3), x.astype(int), 0) * W), "np.take looks at.*outside of the"),
    "key": (lambda x: np.sum(W) * {0.5: 1}[x[0]], "as a key"),
    "asarray": (lambda x: np.sum(W * np.asarray(x)), "asarray"),
    "array": (lambda x: np.sum(W * np.array([x[0], 1.0, 2.0])), "np.stack"),
    "full": (lambda x: np.sum(W * np.full(3, x[0])), r"np\.full looks at values\. Write a \* np\.ones"),
    "vectorize": (lambda x: np.sum(W * np.vectorize(abs)(x)), r"np\.vectorize looks at.*np\.stack"),
    "piecewise": (
        lambda x: np.sum(np.piecewise(W * x, [W * x > 0], [np.exp])), r"np.piecewise looks at.*Write np.where"
    ),
    "in place": (changed, r"in place \(\*=\)"),
    "assignment": (assigned, "assigns into an array"),
    **{
        f"assignment to .{name}": (
            lambda x, name=name: np.sum(W) * (setattr(1j * x, name, 1.0) is None), "assigns into an array"
        ) for name in ("flat", "imag", "real")
    },
    "a shape": (lambda x: np.sum(W) * (setattr(2 * x, "shape", -1) is None), r"sets \.shape.*b\.reshape"),
    "out": (lambda x: np.sum(W * np.add(x, 1, out=np.zeros(3))), "writes into an array"),
    "out of a method": (lambda x: np.sum(W * x.cumsum(out=np.zeros(3))), "writes into an array"),
    "out by position": (lambda x: np.sum(W * np.cumsum(x, 0, None, np.zeros(3))), "writes into an array"),
    "out of a method by position": (lambda x: np.sum(W * x.clip(0, 1, np.zeros(3))), "writes into an array"),
    "out by position, of its own": (lambda x: np.sum(W * np.clip(y := x * 1, 0, 9, y)), "writes into"),
    "out of a method by position, a view": (lambda x: np.sum(W * x.round(2, x[...])), "writes into an array"),
    "out, a function in Python": (lambda x: np.sum(W * np.fix(y := x * 1, y[...])), "writes into an array"),
    "no copy": (lambda x: np.sum(W * np.nan_to_num(x, copy=False)), "copy=False"),
    "no copy by position": (lambda x: np.sum(W * np.nan_to_num(x * 1, False)), "copy=False"),
    "objects": (lambda x: np.sum(W * x.astype(object).astype(float)), "gives an array of objects"),
    "mask": (lambda x: np.sum((W * x)[x > 0]), "how many elements.*np.where"),
    "nonzero": (lambda x: np.sum(W[np.nonzero(x)]), "np.nonzero cannot be compiled"),
    "compress": (lambda x: np.sum(np.compress(x > 0, W * x)), "has always as many"),
    "extract": (lambda x: np.sum(np.extract(x > 0, W * x)), "has always as many"),
    "where": (lambda x: np.sum(W[np.where(x > 0)]), "np.where.mask. gives indices"),
    "slice": (lambda x: np.sum(W[: np.argmax(x)]), "i or j computed"),
    "unique": (lambda x: np.sum(W) * np.unique(x)[0], "np.unique cannot be compiled"),
    "random": (lambda x: np.sum(W * RNG.random(3)), "random numbers.*arguments"),
    "a random bit": (lambda x: np.sum(W) * (RNG.random() < 0.5), "random numbers"),
    "np.random": (lambda x: np.sum(W * np.random.rand(3)), "random numbers"),
    "bits of a generator": (lambda x: np.sum(W) * (1 + BITS.random_raw() % 2), "random numbers"),
    "bits, by a method": (lambda x, raw=BITS.random_raw: np.sum(W) * (raw() % 2 or 3), "random numbers"),
    "seeds": (lambda x: np.sum(W) * (1 + SEEDS.spawn(1)[0].generate_state(1)[0] % 2), "random numbers"),
    "the system": (lambda x: np.sum(W) * (1 if SYSTEM.random() < 0.5 else 2), "random numbers"),
    "np.random, of its old interface": (lambda x: np.sum(W * OLD.random(3)), "random numbers"),
    "random, a default": (lambda x, rng=RNG: np.sum(W) * (rng.random() < 0.5), "random numbers"),
    "random, in what makes an object": (lambda x: np.sum(W * Noisy().values), "draws random numbers"),
    "random module": (lambda x: np.sum(W) * (random.random() < 0.5), "random numbers"),
    "counter": (lambda x: np.sum(W) * counted(), "second recording differs"),
    "counter in calls": (lambda x: np.sum(W) if counted() % 2 else np.sum(W * x), "differs"),
    "another function each time": (
        lambda x: np.sum((np.maximum, np.minimum)[counted() % 2](W, x)), "second recording differs"
    ),
    "clock": (lambda x: np.sum(W) * time.perf_counter_ns(), "second recording differs"),
    "a buffer": (buffered, "does not give what buffered gives"),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "why"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_replay_is_refused_with_its_line(loss, why):
    f = compiled(loss, params(W))
    x, before = np.array([0.5, 0.25, 2.0]), bits([W.value, DATA])
    if loss is changed:
        x = x.copy()
    for _ in range(2):
        with pytest.raises(TypeError, match=f"(?s)compiled: .*{why}") as caught:
            f(x)
    if loss is not buffered and "random numbers" not in str(caught.value):
        assert "test_compiled.py, line " in str(caught.value)
    assert bits([W.value, DATA]) == before
    assert repr(f).endswith("not recorded yet: call it")
    assert gradient(lambda: np.sum(W * W.value), params(W))[W].tolist() == W.value.tolist()


@pytest.mark.filterwarnings("ignore:The loss reaches none of the parameters")
def test_a_loss_of_found_arrays_alone_is_a_program_and_one_of_none_is_refused():
    f = compiled(lambda: np.sum(DATA), params(W))
    try:
        for value in (1.0, 2.0):
            DATA[...] = value
            assert f().val == np.sum(DATA)
    finally:
        DATA[...] = 1.0
    with pytest.raises(TypeError, match="reaches none of its parameters and arguments"):
        compiled(lambda: np.float64(2.0), params(W))()
    of_a_number = compiled(lambda n: n**2 * 1.5)
    with pytest.raises(TypeError, match=r"An integer is a constant: pass 3.0"):
        of_a_number(3)
    assert of_a_number(3.0) == (13.5, (9.0,))


def test_a_loss_that_reaches_a_parameter_at_its_first_call_only_is_refused():
    V, calls = param(np.ones(3)), []

    def loss(x):
        calls.append(1)
        return np.sum(V * (W if len(calls) == 1 else W.value) * x)

    with pytest.raises(TypeError, match="does not give what loss gives"):
        compiled(loss, params(W, V))(np.ones(3))


def answers(f, x):
    try:
        f(x)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("x", [0.0, np.float64(0.0), np.zeros(3)])
@pytest.mark.parametrize(
    "ask",
    [
        lambda x: hasattr(x, "__len__"),
        lambda x: isinstance(x, np.float64) or hasattr(x, "__iter__"),
        lambda x: hasattr(x, "__getitem__"),
        lambda x: answers(len, x),
        lambda x: answers(iter, x),
        np.iterable,
    ],
)
def test_a_number_is_no_sequence_where_a_loss_asks_what_it_has(ask, x):
    loss = lambda x: np.sum(W * x) * (5.0 if ask(x) else 1.0)
    f = compiled(loss, params(W))
    f(x)  # whose value does not tell what it was taken for
    assert f(x + 1.0).val == loss(x + 1.0)


@pytest.mark.parametrize("x", [2.0, np.float64(2.0), np.full(3, 2.0)])
def test_what_type_a_value_has_is_asked_of_what_stands_for_it(x):
    kind = type(x)
    told = (
        r"or goes by a value's type: compute new arrays, ask isinstance\(x, float\), as type\(x\) is another"
    )
    with pytest.raises(TypeError, match=told):
        compiled(lambda x: np.sum(W * x) * (1.0 if type(x) is kind else 5.0), params(W))(x)
    loss = lambda x: np.sum(W * x) * (1.0 if isinstance(x, kind) else 5.0)
    assert compiled(loss, params(W))(x).val == loss(x)
    with pytest.raises(KeyError) as caught:
        compiled(lambda x: np.sum(W * x) * {kind: 1.0}[type(x)], params(W))(x)
    assert "runs, but not to be recorded. Perhaps ask isinstance" in caught.value.__notes__[-1]


def test_an_array_that_is_another_at_each_call_is_refused():
    f = compiled(lambda x: np.sum(W * np.array([counted(), 1.0, 2.0])), params(W))
    with pytest.raises(TypeError, match="compiled: A second recording differs"):
        f(np.ones(3))


ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"]
BITWISE = ["and", "or", "xor", "lshift", "rshift"]


@pytest.mark.parametrize(
    ("sign", "dtype"), [*((sign, float) for sign in ARITHMETIC), *((sign, int) for sign in BITWISE)]
)
def test_a_change_in_place_of_what_is_not_under_differentiation_is_refused(sign, dtype):
    change = getattr(operator, f"__i{sign}__")
    f = compiled(lambda x: np.sum(W * change(x * 2, x)), params(W))
    with pytest.raises(TypeError, match="changes an array in place"):
        f(np.ones((3, 3), dtype))


def test_what_a_loss_asks_isinstance_has_the_same_answer_in_a_program():
    f = lambda x: np.sum(x**2 if isinstance(x * 1.0, np.ndarray) else np.stack(x))
    assert bits(compiled(f)(np.ones(3))) == bits(withgradient(f, np.ones(3)))


class Slotted:
    __slots__ = ("mean",)


class Model:
    total = 0.0

    def __init__(self):
        self.W, self.mean, self.log, self.by_name = param(np.ones(3)), np.zeros(3), [], {}
        self.slotted, self.last = Slotted(), None

    def attribute(self, x):
        h = x * self.W
        self.mean = 0.9 * self.mean + 0.1 * dropgrad(h)
        return np.sum(h)

    def list(self, x):
        h = np.sum(x * self.W)
        self.log.append(h)
        return h

    def dict(self, x):
        self.by_name["h"] = x * self.W
        return np.sum(self.by_name["h"])

    def slot(self, x):
        self.slotted.mean = dropgrad(x * self.W)
        return np.sum(x * self.W)

    def class_(self, x):
        type(self).total = self.total + dropgrad(np.sum(x * self.W))
        return np.sum(x * self.W)

    def new(self, x):
        self.last = SimpleNamespace(h=dropgrad(x * self.W))
        return np.sum(self.W * self.last.h)

    def name(self, x):
        global X_SEEN  # noqa: PLW0603
        X_SEEN = (np.sum(x * self.W),)
        return X_SEEN[0]


X_SEEN = None


class Log(list):
    pass


def test_wherever_it_is_kept_it_is_found_and_nothing_else_is_touched():
    queue, log, named, x = deque(), Log(), UserDict(), np.ones(3)
    module = types.ModuleType("elsewhere")
    deep = SimpleNamespace(bn=SimpleNamespace(mean=np.zeros(3)))

    def of_function(x):
        of_function.last = dropgrad(x * W)
        return np.sum(of_function.last * W)

    def of_argument(x, deep):
        deep.bn.mean = 0.9 * deep.bn.mean + 0.1 * dropgrad(x * W)
        return np.sum(x * W)

    def of_module(x):
        module.last = dropgrad(x * W)
        return np.sum(module.last * W)

    for loss, args in [
        (lambda x: (queue.append(np.sum(x * W)), queue[-1])[1], ()),
        (lambda x: (log.append(np.sum(x * W)), log[-1])[1], ()),
        (lambda x: (named.update(h=np.sum(x * W)), named["h"])[1], ()),
        (of_module, ()),
        (of_function, ()),
        (of_argument, (deep,)),
    ]:
        names = set(globals())
        with pytest.raises(TypeError, match="keeps what it computes in"):
            compiled(loss, params(W))(x, *args)
        assert set(globals()) == names
    assert compiled(lambda x: x @ x)(x).val == 3.0
    assert (len(queue), len(log), type(of_function.last), type(module.last)) == (1, 1, np.ndarray, np.ndarray)
    assert dropgrad(named["h"]) == np.sum(W.value)
    np.testing.assert_allclose(deep.bn.mean, 0.1 * W.value)


KEPT = {
    "attribute": "mean", "list": "log", "dict": "h", "name": "X_SEEN", "slot": r"slotted\.mean",
    "class_": r"Model\.total", "new": "last",
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_a_loss_that_keeps_what_it_computes_is_refused_and_keeps_what_it_has_computed(name, monkeypatch):
    model, twin, x = Model(), Model(), np.array([1.0, 2.0, 3.0])
    monkeypatch.setattr(Model, "total", 0.0)
    slot = lambda m: getattr(m.slotted, "mean", None)
    all_of = lambda m: repr((m.mean, m.log, m.by_name, X_SEEN, vars(m).get("last"), m.total, slot(m)))
    gradient(lambda: getattr(twin, name)(x), params(twin))
    expected, Model.total = all_of(twin), 0.0
    with pytest.raises(TypeError, match=f"compiled: {name} keeps what it computes in .*{KEPT[name]}, which"):
        compiled(getattr(model, name), params(model))(x)
    assert all_of(model) == expected


def test_it_is_put_back_past_properties_and_where_it_was_not_before():
    class Odd(dict):
        mean = property(lambda self: self.__dict__["mean"])

    odd, calls = Odd(), []

    def loss(x):
        calls.append(0)
        odd.__dict__["mean"] = dropgrad(x * W)
        odd[f"new {len(calls)}"] = dropgrad(x * W)
        return np.sum(x * W)

    with pytest.raises(TypeError, match="loss keeps what it computes in"):
        compiled(loss, params(W))(np.ones(3))
    assert type(odd.mean) is np.ndarray
    assert {*map(type, odd.values())} == {np.ndarray}


def test_a_program_has_no_lines_that_do_nothing():
    f = compiled(lambda x: np.sum((x * W).reshape(3).reshape((3,)) ** 2) + np.max(x * W), params(W))
    f(np.arange(3.0))
    lines_of_code = [line for line in f.source.splitlines() if "#" not in line]
    assert not any("reshape" in line for line in lines_of_code)
    assert "    v4 = np.maximum.reduce(v1, axis=None)" in lines_of_code


def test_so_is_one_that_keeps_it_in_a_variable_of_an_outer_function():
    h = 0.0

    def loss(x):
        nonlocal h
        h = dropgrad(np.sum(x * W))
        return h * np.sum(W)

    with pytest.raises(TypeError, match="loss keeps what it computes in h, which"):
        compiled(loss, params(W))(np.ones(3))
    assert type(h) is np.float64


def test_what_is_given_to_compiled_is_checked():
    for arguments, why in [
        ((3,), "must be a function, got int 3"),
        ((W,), "must be a function"),
        ((np.sum, [W]), "ps must be Params"),
        ((np.sum, params(W), 0.1), "opt must be an optimiser"),
        ((np.sum, params(W), mo.ADAM), r"got the class ADAM: make one, ADAM\("),
        ((np.sum, mo.ADAM(), params(W)), r"the order is compiled\(loss, ps, opt\)"),
    ]:
        with pytest.raises(TypeError, match=why):
            compiled(*arguments)
    with pytest.raises(TypeError, match="must return one real number"):
        compiled(lambda x: x)(np.ones(3))


@dataclass
class Doubled:
    x: Any
    y: Any

    def __post_init__(self):
        self.z = self.y

    @functools.cached_property
    def twice(self):
        return 2 * self.x


class Slots:
    __slots__ = ("twice", "x", "z")

    def __init__(self, x, y):
        self.x, self.twice, self.z = x, 2 * x, y


class Deep:
    """Holds what the loss reads in containers of containers, and itself."""

    def __init__(self, x, y):
        self.me, self.held = self, [{"x": x, "y": (y, {y})}]

    x = property(lambda self: self.held[0]["x"])
    twice = property(lambda self: 2 * self.x)
    z = property(lambda self: max(self.held[0]["y"][1]))


@pytest.mark.parametrize("kind", [Doubled, Slots, Deep])
def test_an_object_that_is_an_argument_may_hold_something_else_at_each_call(kind):
    rng, V = np.random.default_rng(0), param(np.ones(3))
    loss = lambda b: np.sum((b.x @ V - b.z) ** 2) + np.sum(b.twice @ V)
    f = compiled(loss, params(V))
    for i in range(4):
        b = kind(rng.random((4, 3)), float(i))
        for _ in range(2):
            assert bits(f(b)) == bits(withgradient(lambda b=b: loss(b), params(V)))
    changed = {"x": rng.random((4, 3)), "z": 7.0}
    for name, x in changed.items():
        if kind is Deep:
            b.held[0] |= {"x": x} if name == "x" else {"y": (x, {x})}
        else:
            setattr(b, name, x)
        assert bits(f(b)) == bits(withgradient(lambda: loss(b), params(V)))


def test_an_object_may_hold_very_many_and_long_lists():
    first = last = SimpleNamespace(W=1.0)
    for _ in range(3000):
        last.next = last = SimpleNamespace(values=[0.5] * 40)
    f = compiled(lambda x: np.sum(W) * x.W * first.next.values[0], params(W))
    assert f(first).val == np.sum(W) / 2
    g = compiled(lambda x: np.sum(W) * x.next.values[0], params(W))
    assert g(first).val == np.sum(W) / 2
    first.next.values[0] = 2.0
    assert g(first).val == np.sum(W) * 2


def _with_layers(*layers):
    return SimpleNamespace(layers=[*layers])


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda f, g: _with_layers(f, f, g), lambda net, f, g: net.layers.__setitem__(1, g)),
        (lambda f, g: _with_layers(f, g, f), lambda net, f, g: net.layers.reverse() or net.layers.append(g)),
        (lambda f, g: _with_layers(f, f, g), lambda net, f, g: vars(net).update(layers=[f, g, g])),
        (
            lambda f, g: SimpleNamespace(first=f, second=f, third=g),
            lambda net, f, g: vars(net).update(second=g),
        ),
        (lambda f, g: {"a": _with_layers(f, f), "b": g}, lambda net, f, g: net["a"].layers.__setitem__(0, g)),
    ],
)
def test_what_an_argument_holds_twice_is_known_in_each_place(make, change):
    twice, thrice, W = (lambda h: 2 * h), (lambda h: 3 * h), param([0.5, 1.5])

    def layers(net):
        if isinstance(net, dict):
            return [*net["a"].layers, net["b"]]
        return net.layers if hasattr(net, "layers") else [net.first, net.second, net.third]

    def loss(net):
        h = W
        for layer in layers(net):
            h = layer(h)
        return np.sum(h)

    net, f = make(twice, thrice), compiled(loss, params(W))
    assert f(net).val == loss(net)
    change(net, twice, thrice)
    assert f(net).val == loss(net)
    change(net, twice, thrice)
    assert f(net).val == loss(net)


@pytest.mark.parametrize(
    "of", [lambda net: net.forward, lambda net: partial(net.forward), lambda net: partial(scaled_by, net)]
)
def test_methods_and_partial_functions_are_known_by_what_they_hold(of):
    class Net:
        scale = 1.0

        def forward(self, x):
            return scaled_by(self, x)

    W, net = param([0.5, 1.5]), Net()
    f, g = compiled(lambda forward: np.sum(forward(W)), params(W)), of(net)
    for scale in (1.0, 5.0, 1.0):
        net.scale = scale
        assert f(g).val == 2 * scale
    assert f(of(Net())).val == 2


def scaled_by(net, x):
    return net.scale * x


def test_programs_that_are_gone_leave_no_source_behind():
    W = param(np.ones(2))
    of_ours = lambda: [name for name in linecache.cache if name.startswith("<compiled ")]
    gc.collect()
    before = len(of_ours())
    f = compiled(lambda x: np.sum(W * x), params(W))
    f(np.ones(2))
    assert len(of_ours()) > before
    del f
    gc.collect()
    assert len(of_ours()) == before


@pytest.mark.parametrize(
    "key", ["a-b", "a b", "0.weight", (0, 1), "value", "v1", "class", "é", "\u00b5", "\ufb01t"]
)
def test_the_parts_of_an_argument_may_have_any_names(key):
    f = compiled(lambda q, q_a: np.sum(q[key] ** 2 * q_a) + q["a"]["b"] * q["a_b"])
    q = {key: np.array([1.0, 2.0]), "a": {"b": 3.0}, "a_b": 4.0}
    val, (g, h) = f(q, 0.5)
    assert (val, g[key].tolist(), g["a"], g["a_b"], h) == (14.5, [1.0, 2.0], {"b": 4.0}, 3.0, 5.0)


def test_what_is_said_of_whole_numbers_to_be_filled_helps():
    def spread(labels, made):
        places = made(2 * len(labels) + 1)
        places[1::2] = labels
        return places.astype(int)

    first = np.array([1, 2, 0])
    like = lambda x, y: np.sum((W * x)[spread(y, lambda n: np.zeros_like(y, shape=n))])
    with pytest.raises(TypeError, match=r"fill .*minidiff\.functions\.zeros\(n\), .*\.astype\(int\)"):
        compiled(like, params(W))(DATA, first)
    loss = lambda x, y: np.sum((W * x)[spread(y, mf.zeros)] ** 2)
    f = compiled(loss, params(W))
    for labels in (first, first[::-1].copy()):
        assert f(DATA, labels).val == loss(DATA, labels)


def test_more_signatures_than_are_kept_run_as_they_are(monkeypatch):
    monkeypatch.setattr(sys.modules["minidiff.compiled"], "KEPT", 3)
    f = compiled(lambda x: np.sum(W[0] * x**2), params(W))
    for n in (1, 2, 3, 4, 5, 1, 4):
        x = np.arange(float(n))
        assert bits(f(x)) == bits(withgradient(lambda x=x: np.sum(W[0] * x**2), params(W)))
    assert len(f._programs) == 3


def test_the_memory_of_a_loop_that_fills_an_array_grows_with_its_length():
    A, start = param(np.eye(20) / 2), np.ones(20)

    def loss(x, n):
        out = mf.zeros((n, 20))
        out[0] = x
        for t in range(1, n):
            out[t] = np.tanh(A @ out[t - 1])  # which the way back needs
        return np.sum(out**2)

    peaks = []
    for n in (100, 400):
        f = compiled(lambda x, n=n: loss(x, n), params(A))
        assert bits(f(start)) == bits(withgradient(lambda n=n: loss(start, n), params(A)))
        tracemalloc.start()
        f(start)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]


def test_windows_of_what_is_not_differentiated_are_views_whose_memory_is_left_alone():
    def loss(x):
        h = np.tanh(x * 1.5)
        windows = np.lib.stride_tricks.sliding_window_view(h, 3)
        k = h * 2.0
        k = k + 1
        return np.sum((windows @ W) ** 2) + np.sum(k) * W[0]

    f = compiled(loss, params(W))
    for x in (np.arange(10.0) / 10, np.sin(np.arange(10.0))):
        assert bits(f(x)) == bits(withgradient(lambda x=x: loss(x), params(W)))


def test_an_integer_that_counts_warns():
    f = compiled(lambda n: np.sum(W) * n, params(W))
    with pytest.warns(UserWarning, match=r"recorded 16 times.*float\(i\)"):
        [f(n) for n in range(70)]
    assert len(f._programs) <= 64


# --- Beside everything else -----------------------------------------------------------------------------


def test_within_a_gradient_it_is_the_loss_itself():
    f = compiled(lambda x: np.sum(W**3 * x), params(W))
    x = np.array([1.0, 2.0, 3.0])
    penalty = lambda: np.sum(f(x).grad[W] ** 2)
    f(x)
    expected = gradient(lambda: np.sum(gradient(lambda: np.sum(W**3 * x), params(W))[W] ** 2), params(W))
    assert bits(gradient(penalty, params(W))) == bits(expected)


def test_so_it_is_where_a_gradient_goes_by_arguments():
    x = np.array([1.0, 2.0, 3.0])
    f = compiled(lambda x: np.sum(W * x**3))
    g = compiled(lambda x: np.sum(W * x**3), params(W))
    h = compiled(lambda x: np.sum(f(x).grad[0] * x))
    for _ in range(2):
        np.testing.assert_allclose(gradient(lambda x: f(x).val, x)[0], 3 * W.value * x**2)
        np.testing.assert_allclose(gradient(lambda x: np.sum(f(x).grad[0]), x)[0], 6 * W.value * x)
        np.testing.assert_allclose(gradient(lambda x: g(x).val, x)[0], 3 * W.value * x**2)
        np.testing.assert_allclose(gradient(lambda x: np.sum(g(x).grad[W]), x)[0], 3 * x**2)
        np.testing.assert_allclose(h(x).grad[0], 9 * W.value * x**2)
        f(x), g(x)


def test_threads_call_one_program_at_once():
    V = param(np.linspace(0, 1, 12).reshape(3, 4))
    loss = lambda x: np.sum(np.tanh(x @ V) ** 2) + np.sum(V * V)
    f, wrong = compiled(loss, params(V)), []
    xs = [np.random.default_rng(i).normal(size=(n, 3)) for n in (1, 2, 5) for i in range(4)]
    expected = [bits(withgradient(lambda: loss(x), params(V))) for x in xs]

    def work(k):
        try:
            for i in range(40):
                j = (i * (k + 1)) % len(xs)
                if bits(f(xs[j])) != expected[j] or type(V.value) is not np.ndarray:
                    wrong.append(j)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(f._programs) == 3


def test_an_error_of_the_loss_is_that_of_numpy():
    f = compiled(lambda x: np.linalg.det(np.linalg.inv(x)) * np.sum(W), params(W))
    f(np.eye(2))
    with pytest.raises(np.linalg.LinAlgError):
        f(np.zeros((2, 2)))
    assert np.isfinite(f(np.eye(2)).val)


@pytest.mark.parametrize("values", [lambda x: np.linalg.eig(x)[0], np.linalg.eigvals])
def test_a_dtype_that_depends_on_values_is_recorded_anew(values):
    loss = lambda x: np.sum(np.abs(values(x)) ** 2) * np.sum(W)
    f = compiled(loss, params(W))
    real, turning = np.array([[2.0, 1.0], [0.5, 3.0]]), np.array([[0.0, 1.0], [-1.0, 0.1]])
    for x in (real, turning, real, turning * 2):
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


def test_source_and_print():
    A, b = param(np.ones((2, 3))), param(np.zeros(2))

    def loss(x, y):
        h = np.tanh(A @ x + b)
        return np.sum((h - y) ** 2)

    f = compiled(loss, params(A, b))
    assert f.source == "# not recorded yet: call it"
    f(np.ones(3), np.ones(2))
    assert f.source.splitlines()[:6] == [
        "def loss_and_gradient(A, b, x, y):",
        "    # --- forward ---",
        "    # h = np.tanh(A @ x + b)",
        "    v1 = A @ x",
        "    v1 += b",
        "    v2 = np.tanh(v1)",
    ]
    assert "# --- backward ---" in f.source
    assert str(f) == ("compiled loss: loss and gradient\n  (x: float64 (3,), y: float64 (2,))  12 operations")
    g = compiled(lambda x: np.sum(x["a"] * x["n"]))
    g({"a": np.ones(3), "n": 2})
    assert "(x: {a: float64 (3,), n: 2})" in str(g)


@pytest.mark.parametrize(
    ("arguments", "is_told"),
    [
        ((np.ones(3), np.array([0, 1])), True),
        ((np.ones(3), np.array([0, 9], np.uint8)), True),
        ((np.ones(3), np.array([0.5])), False),
        ((np.ones(3), 0.5), False),
    ],
)
def test_an_index_that_is_differentiated_by_is_told_from_an_argument(arguments, is_told):
    f = compiled(lambda x, i: np.sum(x[i]))
    with pytest.raises((IndexError, TypeError)) as caught:
        f(*arguments)
    words = "compiled(loss) is by its arguments, compiled(loss, θ) by parameters."
    assert (words in getattr(caught.value, "__notes__", [])) is is_told


def test_a_constant_has_one_name_and_is_described_above_the_program():
    K, s = np.arange(6.0).reshape(2, 3), np.array(2.5)
    f = compiled(lambda x: np.sum((K @ x) * (K @ (s * x))) + np.sum(np.tanh(K) * x) * s)
    f(np.ones(3))
    about = [line for line in f.source.splitlines() if re.match(r"# \w+: ", line)]
    assert [line for line in about if "shape (2, 3)" in line] == ["# K: an array of float64, of shape (2, 3)"]
    assert [line for line in about if "2.5" in line] == ["# s: array(2.5)"]


WAYS = {
    "a part of a part": lambda v: v[1:][::2],
    "a shape": lambda v: v.reshape(2, 2),
    "a row of a shape": lambda v: v.reshape(2, 2)[1],
    "a transposed shape": lambda v: v.reshape(2, 2).T,
    "an axis more": lambda v: v[:, None][::-1],
    "swapped axes": lambda v: v.reshape(1, 2, 2).swapaxes(0, 2),
}


@pytest.mark.parametrize("index", [1, -1, slice(1, 3), (0,), (1, slice(None)), (..., slice(2)), ...], ids=str)
def test_an_augmented_assignment_is_written_once(index):
    def loss(x):
        M = np.outer(x, x)
        M[index] += np.sin(x[0])
        return np.sum(M**3)

    f, x = compiled(loss), np.linspace(0.5, 1.0, 3)
    assert bits(f(x)) == bits(withgradient(loss, x))
    forward = f.source.partition("# --- backward")[0]
    assert len(re.findall(r"^    v1(\[.*\])? \+?= v", forward, re.MULTILINE)) == 1


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_change_through_a_view_is_a_line_as_the_user_writes_it(way):
    def loss(x):
        v = np.sin(x)
        way(v)[0] = 2 * x[0]
        return np.sum(v**2)

    f, x = compiled(loss), np.linspace(0.5, 1.0, 4)
    for _ in range(2):
        (value, (g,)), expected = f(x), withgradient(loss, x)
        assert value == expected.val
        np.testing.assert_array_equal(g, expected.grad[0])
    forward = f.source.partition("# --- backward")[0]
    (line,) = [line for line in forward.splitlines() if re.search(r"\[0\] = v\d+$", line)]
    assert re.match(r" *(np\.\w+\()*v1\b", line)
    assert "assigned" not in f.source


def of_numpys(x):
    return np.sum(np.polynomial.polynomial.polyval(x, [1.0, 2.0, 3.0]))


def of_ours(x):
    return np.sum(mf.softplus(x))


@pytest.mark.parametrize("loss", [of_numpys, of_ours])
def test_the_line_shown_is_the_users_also_of_what_a_library_computes_in_python(loss):
    f = compiled(loss)
    f(np.ones(3))
    line = inspect.getsource(loss).splitlines()[1].strip()
    assert set(re.findall("    # (?!---)(.*)", f.source)) == {line}


def test_the_line_shown_of_an_inner_gradients_way_back_is_that_which_takes_it():
    def loss(x):
        def inner(z):
            return np.sum(np.sin(z) ** 3)

        (g,) = gradient(inner, x)
        return np.sum(g**2)

    f = compiled(loss)
    f(np.ones(3))
    forward = f.source.partition("# --- backward")[0]
    shown = re.findall("    # (?!---)(.*)", forward)
    assert shown == ["return np.sum(np.sin(z) ** 3)", "(g,) = gradient(inner, x)", "return np.sum(g**2)"]


def test_a_line_of_the_source_is_never_that_of_a_frozen_module():
    frozen = {}
    exec(compile("def square(x):\n    return x * x", "<frozen somewhere>", "exec"), frozen)
    f = compiled(lambda x: frozen["square"](x))
    f(1.5)
    assert '# f = compiled(lambda x: frozen["square"](x))' in f.source


def test_arguments_go_by_position():
    with pytest.raises(TypeError, match="arguments go by position, got lam by name"):
        compiled(lambda x, lam: lam * np.sum(x * x))(np.ones(2), lam=2.0)


def norm_of(x):
    return np.sum(x * x)


def test_it_pickles_without_its_programs():
    f = compiled(norm_of)
    f(np.ones(2))
    again = pickle.loads(pickle.dumps(f))
    assert again.source == "# not recorded yet: call it"
    assert again(np.ones(3)).val == 3.0


def test_a_recording_leaves_nothing_behind():
    gc.collect()  # what refused recordings of other tests have left in their errors
    before = dict(vars(type(W).__mro__[1]))
    compiled(lambda x: np.sum(W * W.value * x), params(W))(np.ones(3))
    assert dict(vars(type(W).__mro__[1])) == before
    assert not [x for x in gc.get_objects() if type(x).__name__ == "Listing" and x.calls == []]


# --- Whole steps ----------------------------------------------------------------------------------------


class Custom(mo.AbstractOptimiser):
    def __init__(self):
        self.count = mo.IdDict()

    def apply(self, x, Δ):
        self.count[x] = self.count.get(x, 0) + 1
        return Δ / self.count[x]


OPTIMISERS = {
    "Descent": lambda: mo.Descent(0.1),
    "ADAM": lambda: mo.ADAM(0.05),
    "composed": lambda: mo.Optimiser(
        mo.ClipNorm(0.5), mo.WeightDecay(0.1), mo.NADAM(), mo.ExpDecay(0.1, 0.5, 2)
    ),
    "custom": lambda: mo.Optimiser(Custom(), mo.Momentum(0.1)),
}


def regression(seed=0):
    rng = np.random.default_rng(seed)
    A, b, idle = param(rng.normal(size=(2, 5)).astype("f4")), param(rng.normal(size=2)), param(np.ones(3))
    data = [(rng.normal(size=5), rng.normal(size=2)) for _ in range(6)]
    return (A, b, idle), params(A, b, idle), data, lambda x, y: np.sum((A @ x + b - y) ** 2)


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("pattern", ["compiled", "in turn"])
def test_compiled_steps_are_eager_steps(make, pattern):
    results = []
    for way in ("eager", pattern):
        _, θ, data, loss = regression()
        opt, losses = make(), []
        step = compiled(loss, θ, opt)
        for i, (x, y) in enumerate(data):
            if way == "eager" or (way == "in turn" and i % 2):
                value, grads = withgradient(lambda: loss(x, y), θ)
                mo.update(opt, θ, grads)
                losses.append(value)
            else:
                losses.append(step(x, y))
            if i == 3:
                mo.reset(opt)
        assert len(step._programs) == (way != "eager")
        results.append(bits([losses, [p.value for p in θ]]))
    assert results[0] == results[1]


RULES = [mo.Descent, mo.Momentum, mo.Nesterov, mo.RMSProp, mo.ADAM, mo.RADAM, mo.AdaMax, mo.ADAGrad,
    mo.ADADelta, mo.AMSGrad, mo.NADAM, mo.ADAMW, mo.OADAM, mo.AdaBelief]  # fmt: skip
COMPOSED = {
    "clipped": lambda: mo.Optimiser(mo.ClipValue(0.5), mo.WeightDecay(0.01), mo.ADAM(0.1)),
    "decayed": lambda: mo.Optimiser(mo.ADAM(), mo.ExpDecay(1.0, 0.5, 2, 0.1)),
    "decaying": lambda: mo.ExpDecay(0.1, 0.5, 2),
    "inverse": lambda: mo.Optimiser(mo.Momentum(0.01), mo.InvDecay(0.1)),
    "of nothing": lambda: mo.Optimiser(),
    "twice": lambda: mo.Optimiser(mo.Momentum(0.01), mo.Momentum(0.5)),
    "scheduled": lambda: Scheduler(Exp(0.1, 0.5), mo.ADAM()),
    "nested": lambda: mo.Optimiser(mo.ClipValue(1.0), Scheduler(Exp(0.1, 0.5), mo.Momentum())),
}


def several(seed=0):
    """Parameters of several shapes and dtypes, some unreached, some large, and data with zeros in it."""
    rng = np.random.default_rng(seed)
    shapes = [(3, 2), (2,), (), (4,), (3, 1)]
    ps = [param(rng.normal(size=shape)) for shape in shapes]
    ps += [param(rng.normal(size=3).astype("f4")), param(rng.normal(size=(2, 2)).astype("f4"))]
    ps += [param(rng.normal(size=2).astype("f2")), param(rng.normal(size=20_000)), param(np.ones(2))]
    data = [rng.normal(size=2) * (rng.random(2) > 0.3) for _ in range(7)]

    def loss(x):
        A, b, c, d, e, f, g, h, large, _ = ps
        total = np.sum(np.tanh(A @ x + e[:, 0]) ** 2) + np.sum(b * x) + c * x[0] + np.sum(d**2) * x[1]
        return total + np.sum(f**2) * x[0] + np.sum(g * x) + np.sum(h * x) + np.sum(large) * x[0]

    return params(ps), data, loss


@pytest.mark.parametrize("make", [*RULES, *COMPOSED.values()], ids=[*[r.__name__ for r in RULES], *COMPOSED])
@pytest.mark.parametrize("pattern", ["compiled", "in turn"])
def test_every_rule_steps_compiled_as_it_does_eagerly(make, pattern):
    results = []
    for way in ("eager", pattern):
        θ, data, loss = several()
        opt = make()
        step = compiled(loss, θ, opt)
        for i, x in enumerate(data):
            if way == "eager" or (way == "in turn" and i % 3 == 1):
                value, grads = withgradient(lambda: loss(x), θ)
                mo.update(opt, θ, grads)
            else:
                value = step(x)
            if i == 2 and hasattr(opt, "eta") and type(opt) is not Scheduler:
                opt.eta = 0.5 * opt.eta
            if i == 3:
                mo.reset(opt)
            if i >= 3:  # one in half precision, a large one, a small one are a step ahead
                p = θ[{3: 7, 4: 8}.get(i, 0)]
                mo.update(opt, p, np.ones(p.shape))
        snapshot = io.BytesIO()
        save(snapshot, θ, opt)
        results.append((bits(value), bits([p.value for p in θ]), snapshot.getvalue()))
        if way == "compiled":
            assert "--- step ---" in step.source
    assert results[0] == results[1]


def test_the_optimiser_may_change_between_steps():
    results = []
    for way in ("eager", "compiled"):
        _, θ, data, loss = regression()
        opt = mo.Optimiser(mo.Momentum(0.1))
        step = compiled(loss, θ, opt)
        for i, (x, y) in enumerate(data):
            if way == "compiled":
                step(x, y)
            else:
                mo.update(opt, θ, gradient(lambda: loss(x, y), θ))
            if i == 1:
                opt.append(mo.WeightDecay(0.1))
            if i == 3:
                opt[0] = mo.ADAM()
            if i == 4:
                opt[0] = Custom()
        results.append(bits([p.value for p in θ]))
    assert results[0] == results[1]


def test_what_is_kept_is_in_the_state_and_goes_its_way():
    A, b = param(np.ones((2, 2))), param(np.zeros(2))
    opt = mo.ADAM(0.1)
    step = compiled(lambda x: np.sum((A @ x + b) ** 2), params(A, b), opt)
    for _ in range(3):
        step(np.ones(2))
    (θ, again) = pickle.loads(pickle.dumps(([A, b], opt)))
    assert bits([again.state[p][name] for p in θ for name in ("m", "v")]) == bits(
        [opt.state[p][name] for p in (A, b) for name in ("m", "v")]
    )
    opt.state[A]["m"][...] = 7.0  # a view, which the next step sees
    before = opt.state[b]["m"].copy()
    step(np.ones(2))
    g = gradient(lambda: np.sum((A @ np.ones(2) + b) ** 2), params(A, b))
    assert (opt.state[A]["m"] > 6).all()
    assert not np.array_equal(before, opt.state[b]["m"])
    assert opt.state[A]["clock"][0] == opt.state[b]["clock"][0] == 4
    assert g[A].shape == (2, 2)


def test_the_step_says_what_is_taken_by_update():
    θ, data, loss = several()
    step = compiled(loss, θ, mo.ADAM())
    step(data[0])
    assert "by update: large" in str(step)
    assert "by update: float16" in str(step)
    step = compiled(loss, θ, mo.Optimiser(Custom(), mo.Momentum(0.1)))
    step(data[0])
    assert str(step).count("by update: Custom has an apply of its own") == 9
    step = compiled(loss, θ, mo.Grouped((θ[:2], mo.Descent(0.1)), (θ[2:], mo.ADAM())))
    step(data[0])
    assert "by update: Grouped has an apply of its own" in str(step)


@pytest.mark.parametrize("rule", [mo.Momentum, mo.Nesterov, mo.RMSProp, mo.ADAM])
def test_the_source_of_a_step_names_what_is_kept_of_one_parameter_and_of_several(rule):
    A, b = param(np.ones(2)), param(np.ones((2, 2)))
    one = compiled(lambda x: np.sum(A * x), params(A), rule())
    both = compiled(lambda x: np.sum(A * x + b), params(A, b), rule())
    one(np.ones(2)), both(np.ones(2))
    assert "def step(" + ", ".join(["A", "dA", *[f"{name}_A" for name in rule.keeps]]) in one.source
    assert "def step(" + ", ".join(["A", "b", "dA", "db", *rule.keeps]) in both.source


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (3, 1, 2)])
@pytest.mark.parametrize("rule", [mo.Descent, mo.Momentum, mo.ADAM, mo.RADAM])
def test_one_parameter_of_its_dtype_takes_its_step_in_its_own_shape(rule, shape):
    A, single = param(np.ones(shape)), param(np.ones((2, 2)), "f4")
    for θ in (params(A), params(A, single)):
        f = compiled(lambda θ=θ: sum(np.sum(p**2) for p in θ), θ, rule())
        f()
        assert "def step(" in f.source
        assert "by update" not in str(f)


@pytest.mark.parametrize("rule", [mo.Momentum, mo.ADAM, mo.RADAM])
def test_the_source_of_a_step_shows_the_lines_of_its_formulas_and_no_others(rule):
    A = param(np.ones(2))
    step = compiled(lambda x: np.sum(A * x), params(A), mo.Optimiser(mo.ClipValue(1.0), rule()))
    step(np.ones(2))
    _, _, written = step.source.partition("# --- step ---")
    shown = re.findall(r"# (.*)", written)
    formulas = inspect.getsource(sys.modules[rule.__module__]), inspect.getsource(mo.ClipValue)
    assert len(shown) > 1
    assert all(line in "".join(formulas) for line in shown)


@pytest.mark.parametrize("rule", [mo.RMSProp, mo.ADAM, mo.ADAGrad])
def test_a_gradient_whose_square_overflows_warns_of_nothing(rule):
    A, b = param(np.ones(2)), param(np.ones(2))
    step = compiled(lambda x: np.sum(A * x + b), params(A, b), rule())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        step(np.full(2, 1e200))
    assert warned == []


@pytest.mark.parametrize("has_gradient", [False, True])
def test_a_step_of_a_read_only_parameter_is_refused_and_nothing_has_changed(has_gradient):
    A, b = param(np.ones(2)), param(np.ones(2))
    θ, opt = params(A, b), mo.Momentum(0.1)
    loss = lambda x: np.sum(A * x + (b if has_gradient else 1.0))
    step = compiled(loss, θ, opt)
    step(np.ones(2))
    before = bits([A.value, b.value])
    b.value.flags.writeable = False
    for take in (step, lambda x: mo.update(opt, θ, gradient(lambda: loss(x), θ))):
        with pytest.raises(ValueError, match="read-only"):
            take(np.ones(2))
    b.value.flags.writeable = True
    assert bits([A.value, b.value]) == before


def test_an_interrupt_at_any_line_leaves_whole_steps():
    A, b = param(np.ones((2, 2))), param(np.zeros(2))
    opt = mo.ADAM(0.1)
    step = compiled(lambda x: np.sum((A @ x + b) ** 2), params(A, b), opt)
    [step(np.ones(2)) for _ in range(2)]
    mo.update(opt, A, np.ones((2, 2)))
    mo.update(opt, b, np.ones(2))  # what is kept has to be gathered again
    values = lambda: bits([A.value, b.value, *[opt.state[p][k] for p in (A, b) for k in ("m", "v")]])
    before, interrupted, moment = values(), 0, 0
    for moment in range(1, 600):
        left = moment

        def trace(frame, event, _):
            nonlocal left
            code = frame.f_code
            if event == "line" and (code.co_filename.startswith("<compiled") or code.co_name in INSIDE):
                left -= 1
                if not left:
                    raise KeyboardInterrupt
            return trace

        clock = opt.state[A]["clock"]
        sys.settrace(trace)
        try:
            step(np.ones(2))
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(None)
        after = values()
        assert opt.state[A]["clock"] == opt.state[b]["clock"]
        assert (after == before) == (opt.state[A]["clock"] == clock)
        before = after
        if left > 0:
            break
    assert left > 0
    assert interrupted > 50


# What a step does beside taking locks: to raise from a line that does could leave it taken, as Ctrl-C cannot.
INSIDE = {"_change", "vector", "give_back", "parts", "tick", "coefficients", "finish"}


def test_steps_of_threads_are_taken_one_after_another():
    A, opt = param(np.zeros(3)), mo.Momentum(0.125, 0.5)
    step = compiled(lambda x: np.sum(A * x), params(A), opt)
    step(np.ones(3))
    threads = [threading.Thread(target=lambda: [step(np.ones(3)) for _ in range(50)]) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert opt.state[A]["clock"] == (201,)
    B, other = param(np.zeros(3)), mo.Momentum(0.125, 0.5)
    for _ in range(201):
        mo.update(other, B, np.ones(3))
    assert bits([A.value]) == bits([B.value])


def test_an_error_leaves_parameters_and_state_as_they_were():
    A = param(np.eye(2))
    opt = mo.ADAM()
    step = compiled(lambda x: np.sum(np.linalg.inv(A * x)), params(A), opt)
    step(np.full((2, 2), 2.0))
    before, kept = A.value.copy(), {k: np.copy(v) for k, v in opt.state[A].items()}
    with pytest.raises(np.linalg.LinAlgError):
        step(np.zeros((2, 2)))
    np.testing.assert_array_equal(A.value, before)
    assert all(np.array_equal(v, opt.state[A][k]) for k, v in kept.items())
    with pytest.raises(TypeError, match="branches"):
        compiled(lambda x: np.sum(A) if x[0] > 0 else np.sum(A * A), params(A), opt)(np.ones(2))
    np.testing.assert_array_equal(A.value, before)


def test_a_step_within_a_gradient_is_refused():
    A = param(np.ones(2))
    step = compiled(lambda: np.sum(A**2), params(A), mo.Descent(0.1))
    with pytest.raises(TypeError, match="under differentiation"):
        gradient(lambda: step() * np.sum(A), params(A))
    np.testing.assert_array_equal(A.value, 1.0)


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_training_compiled_is_training(make):
    results = []
    for how in (False, True):
        _, θ, data, loss = regression()
        losses = mo.train(loss, θ[:2], data, make(), epochs=3, compiled=how)
        results.append(bits([losses, [p.value for p in θ]]))
    assert results[0] == results[1]


def test_training_compiled_stops_at_what_is_not_finite():
    A = param(1.0)
    with pytest.raises(FloatingPointError, match="step 2"), np.errstate(all="ignore"):
        mo.train(lambda x: A * x, params(A), [1.0, np.inf, 1.0], mo.Descent(0.5), compiled=True)
    assert A == 0.5


# --- Every method, operator and name --------------------------------------------------------------------

ARGUMENTS = {
    "argpartition": (1,), "astype": ("f4",), "clip": (0.2, 0.7), "dot": (np.arange(3.0),), "repeat": (2,),
    "reshape": (3, 2), "searchsorted": (0.5,), "swapaxes": (0, 1), "take": ([1, 0], 1), "round": (1,),
}  # fmt: skip
OPERATED = {
    "lshift": 2, "rshift": 1, "and": 3, "or": 4, "xor": 5, "matmul": np.arange(3), "pow": 2, "divmod": 2,
    "mod": 2, "floordiv": 2,
}  # fmt: skip


METHODS = """
all any argmax argmin argpartition argsort astype clip conj conjugate copy cumprod cumsum diagonal dot flatten
max mean min prod ravel repeat reshape round searchsorted squeeze std sum swapaxes take trace transpose var
"""


@pytest.mark.parametrize("name", METHODS.split())
def test_methods_of_what_is_not_differentiated_are_lines(name):
    def loss(x):
        y = x[0] if name == "searchsorted" else x
        return np.sum(np.sum(getattr(y, name)(*ARGUMENTS.get(name, ()))) * W)

    f, rng = compiled(loss, params(W)), np.random.default_rng(0)
    for _ in range(3):
        x = np.sort(rng.random((2, 3)))
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))
    assert f._recorded == 1


@pytest.mark.parametrize("name", ["clip", "dot", "searchsorted", "take"])
def test_methods_take_whole_numbers_that_are_no_axes(name):
    loss = lambda x, n: np.sum(W * getattr(x, name)(n))
    f, x = compiled(loss, params(W)), np.array([0.5, 1.5, 2.5])
    for n in (np.array([0, 1, 2]), np.array([2, 2, 1])):
        assert bits(f(x, n)) == bits(withgradient(lambda n=n: loss(x, n), params(W)))
    assert f._recorded == 1


@pytest.mark.parametrize("name", sorted(known.OPERATORS))
def test_operators_of_what_is_not_differentiated_are_lines(name):
    operate = getattr(operator, f"__{name}__", divmod)
    given = [OPERATED.get(name, 1.5)] * (name not in ("neg", "pos", "abs", "invert"))

    def loss(x):
        made = operate(x, *given)
        return np.sum(W * (made[1] if name == "divmod" else made))

    f, rng = compiled(loss, params(W)), np.random.default_rng(0)
    for _ in range(3):
        x = rng.integers(1, 9, (3, 3))
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


BINARY = [
    name[3:-2] for name in dir(np.ndarray) if name.startswith("__r") and f"__{name[3:]}" in dir(np.ndarray)
]


@pytest.mark.parametrize("name", BINARY)
def test_every_operator_of_arrays_takes_what_is_not_differentiated_on_both_sides(name):
    operate = getattr(operator, f"__{name}__", divmod)
    whole = (lambda made: made[0] + made[1]) if name == "divmod" else lambda made: made
    other = np.array([2, 1, 3]) if name == "matmul" else 2
    loss = lambda x: np.sum(W * (whole(operate(x, other)) + whole(operate(other, x))))
    f = compiled(loss, params(W))
    for x in (np.array([1, 2, 3]), np.array([3, 1, 5])):
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


@pytest.mark.parametrize("number", [2.0, 1 + 2j, np.float64(2.0), np.complex128(1 + 2j)])
def test_a_number_has_its_conjugate_and_parts(number):
    loss = lambda s: np.sum(W * (abs(s.conjugate()) + s.real + s.imag))
    f = compiled(loss, params(W))
    for s in (number, number * 2):
        assert bits(f(s)) == bits(withgradient(lambda: loss(s), params(W)))


def test_a_parameter_may_be_in_an_option_alone():
    loss = lambda x: np.average(x, weights=W)
    f = compiled(loss, params(W))
    for x in (np.array([3.0, 5.0, 4.0]), np.arange(3.0)):
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


def test_slices_that_differ_in_one_end_or_the_step_are_told_apart():
    loss = lambda x: np.sum(x[0:4]) + 3 * np.sum(x[0:4:2]) + 5 * np.sum(x[1:4]) + 7 * np.sum(x[0:3])
    x = np.arange(6.0)
    assert compiled(loss)(x).val == loss(x)


def test_counts_of_repeats_that_change_are_recorded_anew():
    counts = np.array([1, 2, 1])
    loss = lambda x: np.mean(np.repeat(x, counts)) * np.sum(W)
    f, x = compiled(loss, params(W)), np.arange(3.0)
    for many in (1, 2, 4):
        counts[0] = many
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


def test_arguments_may_have_the_names_of_helpers():
    f = compiled(lambda add_at, add_at1: np.sum(add_at[[0, 1, 1]] ** 2 * add_at1))
    assert f(np.ones(2), 2.0).grad[0].tolist() == [4, 8]
    assert "add_at2(" in f.source


OF_THE_SOURCE = [
    "np", "kept", "workspace", "given", "file", "stored", "pathlib", "Workspace", "ChangedError", "value",
    "loss_and_gradient", "w1", "v1", "k1", "c0", "len",
]  # fmt: skip


@pytest.mark.parametrize("name", [*keyword.kwlist, *OF_THE_SOURCE])
def test_parameters_data_and_parts_of_arguments_may_have_any_names(name, monkeypatch):
    monkeypatch.setattr(lines, "LARGE", 1)
    model, data = {name: param([1.0, 2.0, 3.0])}, {name: np.array([0.5, 2.0, 1.5])}
    loss = lambda q: np.sum(np.exp(model[name] * q[name]) * np.sin(data[name]) * W)
    θ = params(model[name], W)
    f = compiled(loss, θ)
    for q in ({name: np.ones(3)}, {name: np.arange(3.0)}):
        assert bits(f(q)) == bits(withgradient(lambda: loss(q), θ))


def test_an_optimiser_needs_parameters():
    with pytest.raises(TypeError, match="which are lacking"):
        compiled(lambda x: x @ x, opt=mo.Descent(0.1))


def test_a_step_of_what_is_kept_in_other_shapes_is_an_error_as_without_compiled():
    A, b = param(np.ones(2)), param(np.ones(3))
    opt = mo.Momentum(0.1)
    step = compiled(lambda: np.sum(A**2) + np.sum(b**2), params(A, b), opt)
    step()
    before = bits([A.value, b.value])
    opt.state[A]["v"], opt.state[b]["v"] = np.zeros(3), np.zeros(2)  # as many elements as before
    with pytest.raises(ValueError, match="broadcast"):
        step()
    assert bits([A.value, b.value]) == before


# --- What an argument may not be, and what of it counts ------------------------------------------------


SETTINGS = {
    "reshape": lambda x, k: np.sum(np.reshape(x.T, (k, -1)) ** 2, axis=0)[0],
    "a method": lambda x, k: np.sum(x.T.reshape(k, -1) ** 2, axis=0)[0],
    "cumsum": lambda x, k: np.sum(np.cumsum(x, axis=k - 2) ** 2),
    "a method's cumsum": lambda x, k: np.sum(x.cumsum(k - 2) ** 2),
    "stack": lambda x, k: np.sum(np.stack([x, x], axis=k - 2) ** 2),
    "squeeze": lambda x, k: np.mean(np.squeeze(x[None, :, None], 2 * k - 4) ** 2),
    "expand_dims": lambda x, k: np.mean(np.expand_dims(x, k - 2) ** 2),
    "tile": lambda x, k: np.mean(np.tile(x, k) ** 3),
    "broadcast_to": lambda x, k: np.mean(np.broadcast_to(x[0, 0], (k, 2))),
    "fft": lambda x, k: np.mean(np.abs(np.fft.fft(x, k)) ** 2),
    "moveaxis": lambda x, k: np.sum(np.moveaxis(x, k - 2, 0)[0]),
    "swapaxes": lambda x, k: np.sum(np.swapaxes(x, k - 2, 0)[0]),
    "concatenate": lambda x, k: np.sum(np.concatenate([x, x], k - 2)[0]),
    "a reduction": lambda x, k: np.sum(np.sum(x, axis=k - 2) ** 2),
    "max": lambda x, k: np.sum(np.max(x, axis=k - 2) ** 2),
    "diff": lambda x, k: np.sum(np.diff(x, n=k - 1)),
    "tril": lambda x, k: np.sum(np.tril(x, k - 2)),
    "rot90": lambda x, k: np.sum(np.rot90(x, k)[0]),
    "zeros_like": lambda x, k: np.sum(np.zeros_like(x, shape=(k, 2)) + x[0, 0]),
    "power of a matrix": lambda x, k: np.sum(np.linalg.matrix_power(x[:2, :2], k)),
    "axes that are kept": lambda x, k: np.sum(np.sum(x, axis=0, keepdims=k - 2) * x[:, :1]) * np.mean(x),
    "a method's axes that are kept": lambda x, k: np.sum(x.mean(1, keepdims=k - 2) * x[:, 0]),
    "variables in rows": lambda x, k: np.sum(np.cov(x, rowvar=k - 2)),
    "rollaxis": lambda x, k: np.sum(np.rollaxis(x, 1, k - 2)[0]),
    "linspace": lambda x, k: np.sum(np.linspace(x[0, 0], 1.0, k) ** 2),
}


@pytest.mark.parametrize("f", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("of", ["a parameter", "an argument"])
def test_axes_and_shapes_are_not_values_of_a_program(f, of):
    W = param(np.arange(6.0).reshape(2, 3) / 4)
    x, start = np.arange(6.0).reshape(2, 3) / 3, W.value.copy()
    loss = (lambda k: f(W, k)) if of == "a parameter" else (lambda k: f(x, k) * np.sum(W))
    k = np.array(2)
    with pytest.raises(TypeError):
        compiled(lambda k: loss(k), params(W))(k)
    found, as_number = compiled(lambda: loss(k), params(W)), compiled(loss, params(W))
    for number in (2, 3, 3, 2):
        k[...] = number
        right = bits(withgradient(lambda n=number: loss(n), params(W)))
        assert bits(as_number(number)) == right
        with suppress(TypeError):  # it may be refused
            assert bits(found()) == right
        assert np.array_equal(x, np.arange(6.0).reshape(2, 3) / 3)
        assert np.array_equal(W.value, start)


def test_what_functions_and_classes_hold_that_are_arguments_counts():
    def act(x):
        return x * act.scale

    class Base:
        scale = 1.0

    class Config(Base):
        shift = 0.0

    module = types.ModuleType("config")
    W = param([1.0, 2.0])
    for it, place in [(act, act), (Config, Config), (Config, Base), (module, module)]:
        f = compiled(lambda it: np.sum(W * it.scale), params(W))
        for scale in (1.0, 2.0, 3.0, 2.0):
            place.scale = scale
            assert f(it).val == 3 * it.scale
        assert f._recorded <= 3


def kept_in(place):
    """Make a function that scales what it gets, and another that sets the scale, which is kept in a place."""
    scale, held = 1.0, [1.0]

    def by_an_outer_variable(x):
        return x * scale

    def by_what_an_outer_variable_holds(x):
        return x * held[0]

    def by_a_default(x, scale=1.0):
        return x * scale

    def by_what_a_default_holds(x, *, held=held):
        return x * held[0]

    class Base:
        scale = 1.0

    class Scale(Base):
        def __call__(self, x):
            return x * self.scale

    class Pair(NamedTuple):
        rate: Any

        def __call__(self, x):
            return x * self.scale

        scale = 1.0

    def set_outer(value):
        nonlocal scale
        scale = value

    def set_held(value):
        held[0] = value

    return {
        "outer variable": (by_an_outer_variable, set_outer),
        "what it holds": (by_what_an_outer_variable_holds, set_held),
        "default": (by_a_default, lambda value: setattr(by_a_default, "__defaults__", (value,))),
        "what a default holds": (by_what_a_default_holds, set_held),
        "class": (Scale(), lambda value: setattr(Scale, "scale", value)),
        "base class": (Scale(), lambda value: setattr(Base, "scale", value)),
        "class of a tuple": (Pair(0.0), lambda value: setattr(Pair, "scale", value)),
        "bound method": (Scale().__call__, lambda value: setattr(Base, "scale", value)),
        "partial": (partial(by_an_outer_variable), set_outer),
    }[place]


@pytest.mark.parametrize(
    "place",
    ["outer variable", "what it holds", "default", "what a default holds", "class", "base class",
        "class of a tuple", "bound method", "partial"],
)  # fmt: skip
def test_what_an_argument_computes_with_counts_wherever_it_is_kept(place):
    act, put = kept_in(place)
    W = param([1.0, 2.0])
    f, in_a_list = (compiled(loss, params(W)) for loss in (lambda a: np.sum(a(W)), lambda a: np.sum(a[0](W))))
    for scale in (1.0, 2.0, 3.0):
        put(scale)
        assert f(act).val == in_a_list([act]).val == 3 * scale


def test_a_class_may_keep_a_list_of_its_own_objects():
    class Node:
        known: ClassVar[list[Any]] = []
        scale = 1.0

        def __init__(self):
            self.known.append(self)

    class Row(list[Any]):
        known: ClassVar[list[Any]] = []
        scale = 1.0

    W = param([1.0, 2.0])
    for it in (Node(), Row([1.0])):
        type(it).known.append(it)
        f = compiled(lambda it: np.sum(W) * it.scale, params(W))
        for scale in (1.0, 2.0):
            type(it).scale = scale
            assert f(it).val == 3 * scale


def test_the_arguments_of_a_recording_are_let_go_when_nobody_else_has_them():
    W, x = param([1.0, 2.0]), np.ones((500, 2))
    f = compiled(lambda x, more: np.sum(x @ W) + np.sum(more["y"][0]), params(W))
    f(x, {"y": [x + 1]})
    held = weakref.ref(x)
    del x
    gc.collect()
    assert held() is None
    assert f(np.ones((500, 2)), {"y": [np.ones((500, 2))]}).val == 2500.0


@pytest.mark.parametrize("mode", ["raise", "wrap", "clip"])
@pytest.mark.parametrize("of", [lambda V: [V, V**2], lambda V: (V[0], 2.0), lambda V: np.stack([V, 3 * V])])
def test_which_is_chosen_may_be_an_argument(of, mode):
    V = param([[1.0, 2.0], [3.0, 4.0]])
    loss = lambda i: np.sum(np.choose(i, of(V), mode=mode) ** 2) + np.sum(V)
    f = compiled(loss, params(V))
    for i in (np.array([[0, 1], [1, 1]]), np.array([[1, 0], [0, 0]])):
        assert bits(f(i)) == bits(withgradient(lambda i=i: loss(i), params(V)))
    if mode == "raise":
        with pytest.raises(ValueError, match="invalid entry in choice array"):
            f(np.array([[2, 0], [0, 0]]))


@pytest.mark.parametrize("n", [0, 6])
def test_weights_are_counted_at_places_that_the_loss_finds(n):
    places = np.array([0, 2, 2, 1])
    loss = lambda x: np.sum(np.bincount(places, x, n) ** 2) + np.sum(np.bincount([1, 0, 1, 3], weights=x))
    f, x = compiled(loss), np.array([1.0, 2.0, 3.0, 4.0])
    for i, new in enumerate(([0, 2, 2, 1], [2, 1, 0, 0], [0, 0, 0, 4], [5, 0, 0, 0])):
        places[:] = new  # and how many there are
        for k in (1.0, -0.5):
            assert bits(f(k * x)) == bits(withgradient(loss, k * x))
        assert f._recorded == (1 if n else (1, 1, 2, 3)[i])


def test_what_adds_up_by_places_is_told_in_place_of_bincount_and_compiles():
    places, e = np.array([0, 2, 2, 1]), param([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(
        TypeError, match=r"np\.bincount cannot be compiled.* np\.add\.at\(total, places, weights\)"
    ):
        compiled(lambda i: np.sum(np.bincount(i, weights=e, minlength=3) ** 2), params(e))(places)

    def loss(i):
        total = np.zeros_like(e, shape=3)
        np.add.at(total, i, e)
        return np.sum(total**2)

    f = compiled(loss, params(e))
    for i in (places, places[::-1].copy()):
        assert bits(f(i)) == bits(withgradient(lambda i=i: loss(i), params(e)))
        assert f(i).val == np.sum(np.bincount(i, weights=e.value) ** 2)


C = {dtype: np.array([0.3 - 1.7j, -1.1 + 0.2j, 0.7 + 0.9j], dtype) for dtype in ("c8", "c16")}


def multiplied(x, y):
    x *= y
    return x


OF_COMPLEX_NUMBERS = {
    "a constant": lambda z, c: np.real(np.complex128(1.3 - 0.7j) * z[0]),
    "an element": lambda z, c: np.imag(z[0] * c[0]),
    "sums": lambda z, c: np.real(np.sum(c) * np.sum(z)),
    "constants alone": lambda z, c: np.real(c[0] * c[1] * z[0]),
    "the ufunc": lambda z, c: np.real(np.multiply(z[0], z[1])),
    "the operator": lambda z, c: np.real(z[0] * z[1]),
    "in place": lambda z, c: np.real(multiplied(z[0], c[0]) * c[1]),
    "a gradient within": lambda z, c: np.real(
        gradient(lambda v: np.real(v**3 * c[0]), z[0])[0] * z[1] * c[1]
    ),
    "both": lambda z, c: np.real(z[0] * z[1]) + np.imag(np.multiply(z[0], z[1])),
    "quotients": lambda z, c: np.real(c[0] / z[0]) + np.imag(np.divide(z[1], z[2])),
    "the way back": lambda z, c: np.real(z[0] ** 3 * c[0] * np.sin(z[1]) * np.exp(z[2])),
    "a number of Python's": lambda z, c: np.real((0.3 + 1.7j) * z[0] * z[1]),
    "a product": lambda z, c: np.imag(np.prod(z) * np.vdot(c, z)),
}


@pytest.mark.parametrize("dtype", C)
@pytest.mark.parametrize("loss", OF_COMPLEX_NUMBERS.values(), ids=OF_COMPLEX_NUMBERS)
def test_products_of_complex_numbers_have_the_bits_of_the_loss(loss, dtype):
    rng = np.random.default_rng(0)
    f = lambda z: loss(z, C[dtype])
    for z in rng.normal(size=(30, 6)).astype(dtype.replace("c16", "f8").replace("c8", "f4")).view(dtype):
        program = compiled(f)
        program(z)
        for some in (z, z[::-1].copy()):
            assert bits(program(some)) == bits(withgradient(f, some))


@pytest.mark.parametrize("number", [complex, np.complex64, np.complex128])
def test_so_have_those_of_complex_arguments(number):
    rng = np.random.default_rng(1)
    P = param(np.ones(2, complex))
    for loss in (
        lambda a, b: np.real(a * P[0] * P[1] * b),
        lambda a, b: np.imag(np.sum(P) * a + b * P[1] * a),
    ):
        f = compiled(loss, params(P))
        for _ in range(30):
            P[...] = rng.normal(size=4).view(complex)
            a, b = map(number, rng.normal(size=4).view(complex))
            f(a, b)
            (val, grads), (expected, slopes) = f(a, b), withgradient(lambda: loss(a, b), params(P))
            assert bits((val, grads[P])) == bits((expected, slopes[P]))


def signs(values):
    return sum(np.copysign(1.0 + i, complex(x).real) * (1 + (type(x) is bool)) for i, x in enumerate(values))


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (1, True),
        (True, 1),
        (1, 1.0),
        (0, False),
        (0.0, False),
        (0j, complex(-0.0, 0)),
        (0, -0.0),
    ],
)
def test_equal_numbers_that_are_not_the_same_have_programs_of_their_own(one, other, n):
    held = SimpleNamespace(numbers=[one] * n)
    for loss, x, y in [
        (lambda x: np.sum(W) * signs(x.numbers), held, held),
        (lambda x: np.sum(W) * signs([*x][:1]), {one: 1.0}, {other: 1.0}),
        (lambda x: np.sum(W) * signs(next(iter(x))[1]), {("a", (one,) * n): 1.0}, {("a", (other,) * n): 1.0}),
        (lambda x: np.sum(W) * signs(x["a"].numbers), {"a": held}, {"a": held}),
    ]:
        held.numbers[-1] = one
        f = compiled(loss, params(W))
        assert f(x).val == loss(x)
        held.numbers[-1] = other
        assert f(y).val == f(y).val == loss(y)
        held.numbers[-1] = one
        assert f(x).val == loss(x)


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("join", [np.add, np.multiply, lambda a, b: b + a, lambda a, b: b * a])
def test_a_loss_of_nan_of_either_sign_has_a_program(join, dtype):
    nan, found = np.array([np.nan, -np.nan, 2.0], dtype), np.array([-np.nan, np.nan, np.nan], dtype)
    loss = lambda x: np.sum(np.abs(join(W * x, W * found)))
    f = compiled(loss, params(W))
    for x in (nan, -nan, np.ones(3, dtype)):
        assert bits(f(x)) == bits(withgradient(lambda x=x: loss(x), params(W)))
    assert f._recorded == 1


GIVING = {
    "its argument": lambda x: x,
    "what it finds": lambda x: DATA,
    "what it makes of nothing": lambda x: np.ones(3),
    "what it computes": lambda x: 2 * x,
}


@pytest.mark.parametrize("give", GIVING.values(), ids=GIVING)
@pytest.mark.parametrize("several", [False, True])
def test_a_function_with_a_derivative_may_give_anything(give, several):
    one = derivative(lambda g, ans, x: 2 * g * np.exp(x))(give)
    two = derivative(lambda g, ans, x: 2 * (g[0] + g[1]) * np.exp(x))(lambda x: (give(x), x * x))
    loss = lambda: np.sum((two(W)[0] + two(W)[1] if several else one(W)) * W)
    assert bits(compiled(loss, params(W))()) == bits(withgradient(loss, params(W)))


def of_powers(z, a):
    return {"root": z * a**0.5, "squares": (z * a**2.0) + a**-0.5, "its own": z * a**a}


@pytest.mark.parametrize("name", of_powers(1.0, 1.0))
def test_a_power_of_numbers_may_be_real_now_and_complex_then(name):
    def loss(a):
        return np.sum(np.abs(of_powers(W, a)[name]) ** 2)

    f = compiled(loss, params(W))
    for a in (4.0, -4.0, 0.25, -2.5, 3.0):
        assert bits(f(a)) == bits(f(a)) == bits(withgradient(lambda a=a: loss(a), params(W)))


BESIDE_NUMBERS = {
    "a power": lambda x, a: np.sum(x**a),
    "of a number": lambda x, a: np.sum((abs(a) + 1.5) ** x),
    "of a mean": lambda x, a: np.mean(x) ** a,
    "of an element": lambda x, a: x[0] ** a + a * x[1] - x[1] / (a + 4),
    "a constant": lambda x, a: np.sum(np.mean(x) * np.arange(3.0, dtype=x.dtype) ** 2 * a),
    "ufuncs of numbers": lambda x, a: np.sum(
        x * (np.add(a, 0.5) * np.subtract(1.0, a) + np.multiply(a, a) - np.divide(a, 4.0) + np.negative(a))
    ),
    "ufuncs beside single precision": lambda x, a: np.sum(
        x * (SINGLE * np.add(a, 0.5) + np.negative(a) * SINGLE)
    ),
    "weights": lambda x, a: ml.mse(x, np.ones(3, x.dtype), weights=np.abs(a) + 1),
    "weights in double": lambda x, a: ml.logitcrossentropy(
        np.stack([x, x * 2]), np.array([0, 2]), weights=(np.abs(a) + 1) * np.array([1.0, 2.0])
    ),
    "a weak slope": lambda x, a: np.sum(
        mf.leakyrelu(x - 1, np.float64(0.3) * a) + mf.elu(SINGLE - 1, a * 1.0) * x
    ),
}  # fmt: skip
SINGLE = np.array([0.1, -0.7, 1.3], np.float32)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("loss", BESIDE_NUMBERS.values(), ids=BESIDE_NUMBERS)
def test_beside_a_number_that_is_an_argument_operators_are_those_of_the_loss(loss, dtype, kind):
    rng = np.random.default_rng(0)
    p = param(rng.random(3).astype(dtype) + 0.5)
    f = compiled(lambda a: loss(p, a), params(p))
    for a in (1.7, 0.0, 0.5, 1.0, 2.0, 3.0, -1.0, *rng.normal(size=20)):
        p[...] = rng.random(3) + 0.5
        a = kind(a)
        assert bits(f(a)) == bits(withgradient(lambda a=a: loss(p, a), params(p)))


def caught(kind):
    def decorate(f):
        def loss(x):
            try:
                found = f(x)
            except kind:
                found = -1.0
            return np.sum(W * found)

        return loss

    return decorate


CAUGHT = {
    "cholesky": (caught(np.linalg.LinAlgError)(lambda x: np.linalg.cholesky(x)[0, 0]), np.eye(2), -np.eye(2)),
    "inv": (caught(np.linalg.LinAlgError)(lambda x: np.linalg.inv(x)[0, 0]), np.eye(2), np.zeros((2, 2))),
    "division": (caught(ZeroDivisionError)(lambda x: 1 / x), 2.0, 0.0),
    "overflow": (caught(OverflowError)(lambda x: x**3.0), 2.0, 1e200),
    "in any way": (
        caught(Exception)(lambda x: np.linalg.solve(x, np.ones(2))[0]),
        np.eye(2),
        np.zeros((2, 2)),
    ),
}


@pytest.mark.parametrize(("loss", "good", "bad"), CAUGHT.values(), ids=CAUGHT)
def test_a_loss_that_goes_on_after_an_error_has_no_program_of_that(loss, good, bad):
    with pytest.raises(TypeError, match=r"test_compiled.py, line .*catches an error, \w+, and goes on"):
        compiled(loss, params(W))(bad)
    f = compiled(loss, params(W))
    for x in (good, bad, good):
        assert bits(f(x)) == bits(withgradient(lambda x=x: loss(x), params(W)))


@pytest.mark.parametrize("kind", ["raise", "call"])
def test_a_loss_that_makes_errors_of_infinities_is_refused(kind):
    def loss(x):
        with np.errstate(divide=kind, call=lambda *_: None):
            return np.sum(W / x)

    with pytest.raises(TypeError, match=r"np.errstate makes errors of infinities"):
        compiled(loss, params(W))(2.0)


@pytest.mark.parametrize("how", ["error", "ignore", "always"])
def test_a_loss_that_makes_errors_of_warnings_is_refused(how):
    def loss(x):
        with warnings.catch_warnings():
            warnings.simplefilter(how, RuntimeWarning)
            try:
                return np.sum(W / x)
            except RuntimeWarning:
                return np.sum(W)

    f = compiled(loss, params(W))
    if how == "error":
        with pytest.raises(TypeError, match=r"test_compiled.py, line .*warnings are made errors here"):
            f(2.0)
    else:
        assert f(2.0).val == loss(2.0)


class Batch(list):
    scale = 1.0


class Pair(tuple):
    scale = 1.0


class Bunch(dict):
    scale = 1.0

    def __getattr__(self, name):
        return self[name]


@pytest.mark.parametrize(
    "make",
    [lambda x: Batch([x]), lambda x: Pair([x]), lambda x: Bunch({0: x})],
    ids=["list", "tuple", "dict"],
)
def test_a_container_of_a_class_of_its_own_keeps_its_attributes(make):
    def loss(batch):
        assert type(batch) is type(make(0))
        return np.sum(W * batch[0]) * batch.scale

    f = compiled(loss, params(W))
    for scale in (1.0, 3.0, 1.0, 2.0):
        batch = make(np.ones(np.shape(W)))
        if scale != 1.0:
            batch.scale = scale
        assert f(batch).val == loss(batch)


class Attributes(dict):
    """Its items are its attributes."""

    def __init__(self, **items):
        super().__init__(items)
        self.__dict__ = self


class SlottedDict(dict):
    __slots__ = ("scale",)

    def __init__(self, x, scale):
        super().__init__(x=x)
        self.scale = scale

    def copy(self):
        raise TypeError("there is one")


class Two(list):
    def __init__(self, one, two):
        super().__init__([one, two])

    def __iter__(self):
        return (x * 1 for x in super().__iter__())


class TwoOf(tuple):
    __slots__ = ()

    def __new__(cls, one, two):
        return super().__new__(cls, (one, two))


class Sample(NamedTuple):
    x: Any

    def centred(self):
        return self.x - 2 * MEAN


class Scaled(list):
    scale = np.ones(3)

    def __call__(self):
        return self[0] * self.scale * (2.0 if MEAN.max() > 0.5 else 1.0)


MEAN = np.zeros(3)
V3 = param([1.0, 2.0, 3.0])
OF_A_CLASS = {
    "bunch": (lambda d: d.x * 1.0, lambda x: Bunch(x=x)),
    "attributes": (lambda d: d.x * 1.0, lambda x: Attributes(x=x)),
    "slots": (lambda d: d["x"] * d.scale, lambda x: SlottedDict(x, 3.0)),
    "a setting in a slot": (lambda d: d["x"] * d.scale, lambda x: SlottedDict(1.0, float(x[0]))),
    "a list with arguments": (sum, lambda x: Two(x, 2 * x)),
    "a tuple with arguments": (lambda two: two[0] - two[1], lambda x: TwoOf(x, x**2)),
    "a method": (lambda sample: sample.centred(), Sample),
    "a call": (lambda scaled: scaled(), lambda x: Scaled([x])),
    "a default": (
        lambda d: d["x"] * d.default_factory(),
        lambda x: defaultdict(lambda: x[0] * 1.0, {"x": 1.0}),
    ),
    "in order": (lambda d: sum(d.values()) - d["b"], lambda x: OrderedDict(b=x, a=2 * x)),
    "moved": (lambda d: next(iter(d.values())) - d["b"], lambda x: moved(OrderedDict(b=x, a=2 * x))),
    "counted": (lambda d: d["a"] * x_of(d["b"]), lambda x: Counter(a=2.0, b=float(x[1]))),
}


def x_of(x):
    return x


def moved(d):
    d.move_to_end("b")
    return d


@pytest.mark.parametrize(("use", "make"), OF_A_CLASS.values(), ids=OF_A_CLASS)
def test_a_container_of_a_class_of_its_own_is_that_to_the_loss(use, make):
    def loss(batch):
        return np.sum(V3 * use(batch))

    f = compiled(loss, params(V3))
    try:
        for x, mean, scale in ((1.0, 0, 1), (3.0, 0, 1), (3.0, 1, 1), (2.0, 1, 5), (1.0, 0, 1)):
            MEAN[...], Scaled.scale[...] = mean, scale
            batch = make(np.array([x, 1.0, 0.5]))
            expected = bits(withgradient(lambda batch=batch: loss(batch), params(V3)))
            assert bits(f(batch)) == bits(f(batch)) == expected
    finally:
        MEAN[...], Scaled.scale[...] = 0, 1


def test_a_long_list_that_stays_as_it_is_is_no_change():
    xs = list(map(float, range(400)))
    f = compiled(lambda xs: np.sum(V3) * sum(xs), params(V3))
    assert f(xs).val == f(xs[::-1]).val == 6.0 * sum(xs)


class Both(dict):
    """Its items are attributes, too, as of what transformers give."""

    def __init__(self, **items):
        super().__init__(items)
        vars(self).update(items)


def test_a_batch_whose_items_are_attributes_too_is_recorded_once():
    f = compiled(lambda d: np.sum(V3 * d["x"] * d.x), params(V3))
    for scale in range(5):
        x = np.full(3, float(scale))
        assert f(Both(x=x)).val == np.sum(V3.value * x * x)
    assert f._recorded == 1


def test_what_a_loss_keeps_in_an_attribute_of_its_batch_is_told_of():
    def logs(batch):
        batch.log.append(W * batch["x"])
        return np.sum(W * batch["x"])

    def sets(batch):
        batch.out = batch["x"] * 2
        return np.sum(W * batch["x"])

    batch = Bunch(x=1.0)
    batch.log = []
    with pytest.raises(TypeError, match="keeps what it computes in what it finds"):
        compiled(logs, params(W))(batch)
    assert not any(type(x) is listing.StandIn for x in batch.log)
    with pytest.raises(TypeError, match="changes a list or a dict"):
        compiled(sets, params(W))(batch)
    assert [*vars(batch)] == ["log"]


@pytest.mark.parametrize(
    "k", [np.arange(3), np.array([1.0, 0.5, 2.0]), [1, 2, 3], 2j, np.float32(1.5), 2, 2.0]
)
def test_a_power_may_have_any_exponent(k):
    for loss in (lambda x: np.sum(np.abs(V3 * x**k)), lambda x: np.sum(x[0] * np.abs(V3**k))):
        f = compiled(loss, params(V3))
        for x in (np.ones(3), np.array([1.0, 2.0, 0.5])):
            assert bits(f(x)) == bits(withgradient(lambda x=x, loss=loss: loss(x), params(V3)))


CHANGING = {
    "pop": lambda batch: batch.pop("y"),
    "set": lambda batch: batch.update(h=np.sum(W * batch["x"])),
    "replace": lambda batch: batch.update(x=batch["x"] / 2),
    "within": lambda batch: batch["more"].append(1.0),
    "rename": lambda batch: batch.update(z=batch.pop("more")),
    "add a list": lambda batch: batch.update(new=[]),
    "clear": lambda batch: batch["more"].clear(),
}


@pytest.mark.parametrize("change", CHANGING.values(), ids=CHANGING)
def test_a_loss_that_changes_its_batch_is_refused_and_the_batch_stays(change):
    def loss(batch):
        x = batch["x"]
        change(batch)
        return np.sum(W * x)

    x, y, more = np.ones(np.shape(W)), np.zeros(2), [1.0]
    batch = {"x": x, "y": y, "more": more}
    with pytest.raises(TypeError, match=r"loss changes a list or a dict .* batch = dict\(batch\)"):
        compiled(loss, params(W))(batch)
    assert [*batch] == ["x", "y", "more"]
    assert (batch["x"] is x, batch["y"] is y, batch["more"] is more, more) == (True, True, True, [1.0])


def test_a_truth_may_be_narrowed_in_place():
    def loss(x):
        is_fine = np.all(x > 0)
        is_fine &= np.all(x < 9)
        is_fine |= np.any(x == -1)
        return np.sum(W) * is_fine

    f = compiled(loss, params(W))
    for x in (np.ones(2), np.array([1.0, 10.0]), np.array([-1.0, 3.0])):
        assert f(x).val == loss(x)


@pytest.mark.parametrize("name", [name for name in mf.__all__ if name != "zeros"])
@pytest.mark.parametrize(
    "kind", [int, float, bool, np.bool_, np.int8, np.int64, np.float16, np.float32, np.array]
)
def test_functions_take_any_number_as_an_argument(name, kind):
    W = param(np.ones(3))
    loss = lambda x: np.sum(W) * np.sum(getattr(mf, name)(x))
    program = compiled(loss, params(W))
    for x in map(kind, (3, 0, -2)):
        assert bits(program(x)) == bits(withgradient(lambda x=x: loss(x), params(W)))


LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "turned": lambda x: np.copy(x).transpose(2, 0, 1),
    "every other, from behind": lambda x: np.repeat(x, 2, axis=1)[:, ::-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("ufunc", [np.add, np.subtract, np.logaddexp])
def test_results_lie_in_memory_as_they_do_outside(ufunc, axis, layout):
    """Elements in the order of memory come in the same order; gradients, constants too, lie as they do."""
    x = LAYOUTS[layout](np.linspace(0.5, 2, 27).reshape(3, 3, 3) ** 2)
    for f in (partial(ufunc.reduceat, indices=[1, 0, 2], axis=axis), partial(ufunc.reduce, axis=axis)):
        for power in (1, 2):

            def loss(x, f=f, power=power):
                elements = np.ravel(f(x), "K")
                return np.sum((elements if power == 1 else elements**power) * np.arange(elements.size))

            program, expected = compiled(loss), withgradient(loss, x)
            program(x)
            found = program(x)
            assert expected.val == loss(x)
            assert bits(found) == bits(expected)
            assert found.grad[0].strides == expected.grad[0].strides


@pytest.mark.parametrize("method", ["reduce", "accumulate", "reduceat"])
@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum, np.logaddexp])
def test_methods_of_ufuncs_take_their_arrays_by_name(ufunc, method):
    call, x = getattr(ufunc, method), np.array([0.5, 2.0, -1.0, 1.5])
    rest = ([0, 2],) if method == "reduceat" else ()
    expected = withgradient(lambda x: np.sum(call(x, *rest) ** 2), x)
    named = dict(zip(["array", "indices"], [x, *rest], strict=False))
    assert np.sum(call(**named) ** 2) == expected.val
    loss = lambda x: np.sum(call(**{**named, "array": x}) ** 2)
    for f in (partial(withgradient, loss), compiled(loss)):
        assert bits(f(x)) == bits(expected)
        assert bits(f(x)) == bits(expected)
    W = param(2.0)
    assert compiled(lambda x: W * loss(x), params(W))(x).val == 2 * expected.val


def test_reduceat_takes_its_indices_by_name():
    W, x = param(np.arange(4.0)), np.ones(4)
    loss = lambda x: np.sum(np.add.reduceat(W * x, indices=[0, 2]) ** 2 * np.add.reduceat(x, indices=[1, 3]))
    assert np.add.reduceat(W, indices=[0, 2]).tolist() == [1.0, 5.0]
    for (g,) in (gradient(lambda: loss(x), params(W)).values(), compiled(loss, params(W))(x).grad.values()):
        assert g.tolist() == [4.0, 4.0, 10.0, 10.0]


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_constants_of_extended_precision_are_the_same_by_their_values(dtype):
    """Of their 16 bytes some hold nothing, and differ from one call to the next."""
    C, V = (np.arange(1, 40) / 7).astype(dtype), param(np.ones(39))
    losses = [
        lambda x: np.sum(np.abs(V * np.sqrt(C) * x)),
        lambda x: np.sum(np.abs(V * np.exp(C[:3] / 3).sum() + V * np.arange(39, dtype=dtype) * x)),
        lambda x: np.sum(np.abs(V * (C**2 - C)[:, None] * np.log(C))) * x,
    ]
    for loss in losses:
        program = compiled(loss, params(V))
        for x in (1.0, 2.0, 3.0):
            expected = withgradient(lambda x=x, loss=loss: loss(x), params(V))
            found = program(x)
            assert (found.val, type(found.val)) == (expected.val, type(expected.val))
            np.testing.assert_array_equal(found.grad[V], expected.grad[V], strict=True)
    with pytest.raises(listing.RefusedError, match="clock would be"):
        compiled(lambda x: np.sum(np.abs(V * (C * time.perf_counter()))), params(V))(1.0)


def test_a_log_may_show_a_value_and_so_may_whatever_asks_afterwards():
    shown = []

    class Keeping(logging.Handler):
        def emit(self, record):
            shown.append(record.getMessage())

    log = logging.Logger("of tests")
    log.addHandler(Keeping())

    def loss(x):
        log.warning("%r", x)
        return np.sum(W * x)

    assert compiled(loss, params(W))(np.ones(3)).val == np.sum(W.value)
    assert shown[0] == repr(np.ones(3))
    assert set(shown[1:]) == {"<compiled ndarray(3,)>"}
    recording = listing.Listing()
    x = listing.StandIn(recording, "x", 2.0)
    with pytest.raises(TypeError, match="makes text of a value"):
        repr(x)
    recording.phase = "over"
    assert repr([x]) == "[<compiled float>]"


def test_an_argument_that_the_loss_does_not_use_is_no_part_of_its_signature():
    x, square = np.array([0.5, -1.0]), lambda x, _: np.sum(x * x)
    W = param(x)
    f = compiled(lambda _, x: np.sum(W * x), params(W))
    for i in (1, 2, "three", np.ones(4), object()):
        assert f(i, x).val == np.sum(x * x)
    assert f._recorded == 1
    assert bits(compiled(square)(x, 2.0)) == bits(withgradient(square, x, 2.0))
