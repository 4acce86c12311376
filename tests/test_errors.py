"""What goes wrong says what to do, and has changed nothing: one table of mistakes, exceptions and words."""

import copy
import io
import linecache
import math
import operator
import os
import pickle
import re
import statistics
import sys
import sysconfig
import warnings
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any

import autograd.tracer
import numpy as np
import pytest
from scipy import fft, interpolate, special

import minidiff
from minidiff import (
    Grads,
    Param,
    Params,
    check_gradient,
    compiled,
    derivative,
    dropgrad,
    fixed_point,
    gradient,
    hessian,
    hvp,
    implicit_root,
    jacobian,
    load,
    param,
    params,
    pullback,
    save,
    tracing,
    train,
    withgradient,
)
from minidiff.checks import add_note
from minidiff.losses import logitcrossentropy
from minidiff.optimise import (
    Average,
    ClipNorm,
    Descent,
    KeepBest,
    Momentum,
    ReducePlateau,
    Rprop,
    Rule,
    clip_norm,
    early_stopping,
    engine,
    minimize,
    plateau,
    sharp_gradient,
    simplex,
    throttle,
    update,
)
from minidiff.schedules import Interpolator

ENDLESS: list[Any] = [1.0]
ENDLESS.append(ENDLESS)


@dataclass
class Dense:
    W: Any
    b: Any


@pytest.fixture
def m():
    """The world of the page's example, a complex parameter, and a model that forgot to wrap its arrays."""
    m = SimpleNamespace(
        W=param([[1.0, 2.0], [3.0, 4.0]]),
        b=param([0.5, -0.5]),
        s=param(2.0),
        z=param([1 + 1j, 2.0]),
        n=param([1.0, 2.0], dtype="float32"),
        x=np.array([1.0, -1.0]),
        y=np.array([0.25, 0.75]),
        plain=Dense(np.ones((2, 2)), np.ones(2)),
    )
    m.θ = params(m.W, m.b)
    m.loss = lambda x, y: np.sum((m.W @ x + m.b - y) ** 2)
    m.grads = gradient(lambda: m.loss(m.x, m.y), m.θ)
    return m


def contents(m):
    arrays = [m.W.value, m.b.value, m.s.value, m.z.value, m.n.value, m.x, m.y, m.plain.W, m.plain.b]
    arrays += [*m.grads.values()]
    return [(id(a), a.dtype, a.shape, a.tobytes()) for a in arrays], list(map(id, m.θ))


def within(use, *words, error=TypeError):
    """A mistake inside of a loss, of which `use` is called on a parameter or a recorded result."""
    return lambda m: gradient(lambda: (use(m), np.sum(m.W) + np.sum(m.b))[1], m.θ), error, words


def returning(use, *words):
    return lambda m: gradient(lambda: use(m), m.θ), TypeError, ("loss", "one real number", *words)


def changed_before_back(change):
    def mistake(m):
        before = m.W.value.copy()
        _, back = pullback(lambda: m.W @ m.x, m.θ)
        change(m.W)
        try:
            back(m.x)
        finally:
            m.W[...] = before

    return mistake, RuntimeError, ("parameter 0", "(2, 2)", "changed", "pullback")


IN_PLACE = {
    f"W {symbol}": within(lambda m, f=f: f(m.W, 2), f"W {symbol}", "parameter", "new array")
    for symbol, f in {
        "+=": operator.iadd,
        "-=": operator.isub,
        "*=": operator.imul,
        "/=": operator.itruediv,
        "//=": operator.ifloordiv,
        "%=": operator.imod,
        "**=": operator.ipow,
    }.items()
}

CHANGED = {  # what is differentiated by does not change meanwhile
    ".fill() of a parameter": within(lambda m: m.W.fill(0), "in place", "x.copy()"),
    ".sort() of a parameter": within(lambda m: m.W.sort(), "np.sort", "x.copy()"),
    "W[0] = 1 on a parameter": within(lambda m: operator.setitem(m.W, 0, 1), "differentiation"),
    "a view of a parameter changes": within(lambda m: operator.setitem(m.W[0], 0, 1), "in place", "x.copy()"),
    "np.fill_diagonal of a parameter": within(lambda m: np.fill_diagonal(m.W, 1), "in place", "x.copy()"),
    "np.add.at of a parameter": within(lambda m: np.add.at(m.W, 0, 1), "in place", "x.copy()"),
    "out= a parameter": within(lambda m: np.exp(m.W * 1, out=m.W), "in place", "x.copy()"),
}

UNRECORDED = {  # what would quietly drop the gradient, on a parameter and on a result
    "float()": (float, lambda m: m.W[0, 0], "float()"),
    "int()": (int, lambda m: m.W[0, 0], "int()"),
    "complex()": (complex, lambda m: m.W[0, 0], "complex()"),
    "as an index": (lambda s: [1, 2, 3][s], lambda m: m.W[0, 0], "index"),
    "math.exp": (math.exp, lambda m: m.W[0, 0], "math", "np."),
    "np.asarray": (np.asarray, lambda m: m.W, "np.asarray"),
    "np.array": (np.array, lambda m: m.W, "np.stack"),
    "np.array of a list": (lambda W: np.array([W[0, 0], W[1, 1]]), lambda m: m.W, "np.stack"),
    "a row of an array": (lambda W: operator.setitem(np.zeros((2, 2)), 0, W[0]), lambda m: m.W, "np.stack"),
    ".item()": (lambda s: s.item(), lambda m: m.W[0, 0], ".item()"),
    ".tolist()": (lambda W: W.tolist(), lambda m: m.W, ".tolist()"),
    ".tobytes()": (lambda W: W.tobytes(), lambda m: m.W, ".tobytes()"),
    ".view()": (lambda W: W.view(np.int64), lambda m: m.W, "astype"),
    "np.add.at": (lambda W: np.add.at(np.zeros(2), [0], W[0, 0]), lambda m: m.W, "np.add.at", "zeros_like"),
    "np.copyto": (lambda W: np.copyto(np.zeros((2, 2)), W), lambda m: m.W, "np.copyto", "zeros_like"),
    "out=": (lambda W: np.exp(W, out=np.zeros((2, 2))), lambda m: m.W, "out="),
    "out= of a reduction": (lambda W: np.sum(W, axis=0, out=np.zeros(2)), lambda m: m.W, "out="),
    "x += W": (lambda W: operator.iadd(np.zeros((2, 2)), W), lambda m: m.W, "out="),
    "round()": (round, lambda m: m.W[0, 0], "np.round"),
    "pickling": (pickle.dumps, lambda m: m.W * 1, "recorded"),
}

NO_GRADIENT = {
    "np.intersect1d": (lambda x: np.intersect1d(x, x), "np.isin(x, y)"),
    "a ufunc of one's own": (lambda x: np.frompyfunc(math.gamma, 1, 1)(x), "np.stack([f(v) for v in x])"),
    "a function of SciPy's": (lambda x: special.gdtrib(x, 2.0, 0.5), "(minidiff.derivative)"),
}

MISTAKES = {
    # A parameter that is none.
    "a plain array in Params": (lambda m: Params([m.W, m.x]), TypeError, ("ndarray", "(2,)", "param(")),
    "a list in Params": (lambda m: Params([[1.0]]), TypeError, ("list", "param(")),
    "Params.add of an array": (lambda m: m.θ.add(m.x), TypeError, ("ndarray", "param(")),
    "Params of one parameter": (lambda m: Params(m.W), TypeError, ("Params([W, b])",)),
    "Params of an array": (lambda m: Params(m.x), TypeError, ("Params([W, b])",)),
    "params of an array": (lambda m: params(m.W, m.x), TypeError, ("ndarray", "(2,)", "param(")),
    "params of a number too": (lambda m: params(m.W, 0.5), TypeError, ("float 0.5", "param(", "W -=")),
    "params of NumPy's number": (lambda m: params(m.W, np.float32(1)), TypeError, ("float32", "W -=")),
    "params of a list of numbers": (lambda m: params(m.W, [0.0, 0.5]), TypeError, ("list of 2", "param(W)")),
    "params of a model without": (lambda m: params(m.plain), TypeError, ("Dense", "param(")),
    "params of a function": (lambda m: params(m.loss), ValueError, ("function", "params(W, b)")),
    "params of a number": (lambda m: params(3.0), ValueError, ("float", "param(")),
    "params of a generator": (lambda m: params(p for p in [m.W]), ValueError, ("generator", "params(W, b)")),
    "params of a generator among others": (
        lambda m: params([m.W, (p for p in [m.b])]), ValueError, ("generator", "params([*models])")
    ),
    "params of an empty list": (lambda m: params([]), ValueError, ("list", "param(")),
    "params of a set": (lambda m: params({m.W, m.b}), TypeError, ("set", "order", "list")),
    "param of a string": (lambda m: param("one"), TypeError, ("str", "numbers")),
    "param of None": (lambda m: param(None), TypeError, ("None", "numbers")),
    "param of objects": (lambda m: param([object()]), TypeError, ("numbers",)),
    "param of a ragged list": (lambda m: param([[1.0], [2.0, 3.0]]), ValueError, ("inhomogeneous",)),
    "param of integer dtype": (lambda m: param([1], dtype=int), TypeError, ("dtype", "int64", "float")),
    "param of two parameters": (lambda m: param(m.W, m.b), TypeError, ("params(W, b)", "dtype")),
    "param of two arrays": (lambda m: param(m.x, m.y), TypeError, ("params(W, b)",)),
    "Param of a list": (lambda m: Param([1.0]), TypeError, ("list", "param(x)")),
    "Param of integers": (lambda m: Param(np.arange(2)), TypeError, ("int64", "param(x)")),
    "W.value = a": (lambda m: setattr(m.W, "value", m.x), AttributeError, ("value", "W[...] = a")),
    "W.name = …": (lambda m: setattr(m.W, "name", "W"), AttributeError, ("name",)),
    "an attribute that no array has": (lambda m: m.W.weights, AttributeError, ("weights",)),
    "the truth of an array": (lambda m: bool(m.W), ValueError, ("ambiguous",)),
    "assigning another shape": (lambda m: operator.setitem(m.W, ..., m.x[:, None, None]), ValueError,
        ("shape",)),
    "adding another shape": (lambda m: operator.iadd(m.b, np.ones(3)), ValueError, ("broadcast",)),
    "adding complex to real": (lambda m: operator.iadd(m.b, 1j), TypeError, ("cast",)),
    "from_vector, too short": (lambda m: m.θ.from_vector(np.ones(5)), ValueError, ("6 elements", "(5,)")),
    "from_vector, a matrix": (lambda m: m.θ.from_vector(np.ones((2, 3))), ValueError,
        ("6 elements", "(2, 3)")),
    "from_vector, complex": (lambda m: m.θ.from_vector(np.full(6, 1j)), ValueError, ("complex", "real")),
    "from_vector, the last complex": (
        lambda m: params(m.W, m.b).from_vector([9, 9, 9, 9, 9, 1j]), ValueError, ("parameter 1", "complex"),
    ),
    "from_vector, strings": (lambda m: m.θ.from_vector(["1"] * 6), TypeError, ("numbers",)),
    "from_vector, objects": (lambda m: m.θ.from_vector([9] * 5 + [None]), TypeError, ("numbers",)),
    "from_vector in a loss": within(
        lambda m: m.θ.from_vector(np.ones(6)), "parameter under differentiation"
    ),
    # A function that is none, or is not called as it wants.
    "no lambda": (lambda m: gradient(m.loss(m.x, m.y), m.θ), TypeError, ("float64", "lambda: loss(x, y)")),
    "no lambda in withgradient": (lambda m: withgradient(m.loss(m.x, m.y), m.θ), TypeError, ("lambda",)),
    "no lambda in pullback": (lambda m: pullback(m.W @ m.x, m.θ), TypeError, ("array", "pullback", "lambda")),
    "no lambda in hessian": (lambda m: hessian(m.loss(m.x, m.y), m.θ), TypeError, ("hessian(lambda",)),
    "no lambda in jacobian": (lambda m: jacobian(m.W @ m.x, m.x), TypeError, ("jacobian",)),
    "a parameter as the loss": (lambda m: gradient(m.W, m.θ), TypeError, ("lambda",)),
    "no parameters": (lambda m: gradient(lambda: m.loss(m.x, m.y)), TypeError, ("params(W, b)",)),
    "a list for Params": (
        lambda m: gradient(lambda: m.loss(m.x, m.y), [m.W, m.b]), TypeError, ("params(W, b)",),
    ),
    "parameters for Params": (
        lambda m: gradient(lambda: m.loss(m.x, m.y), m.W, m.b), TypeError, ("params(W, b)", "2"),
    ),
    "a loss with arguments": (lambda m: gradient(m.loss, m.θ), TypeError, ("(x, y)", "lambda")),
    "arguments and Params": (lambda m: gradient(lambda x, θ: np.sum(x), m.x, m.θ), TypeError, ("Params",)),
    "two Params": (lambda m: gradient(lambda a, b: np.sum(m.W), m.θ, params(m.s)), TypeError, ("Params",)),
    "too few arguments": (lambda m: gradient(m.loss, m.x), TypeError, ("(x, y)",)),
    "jacobian by Params and more": (lambda m: jacobian(lambda x: m.W @ x, m.θ, m.x), TypeError,
        ("one Params", "jacobian(lambda: f(x, y), ps)")),
    "hessian by a parameter that f reaches": (lambda m: hessian(lambda: np.sum(m.W**2), m.W), TypeError,
        ("hessian(f, params(W, b))",)),
    "hvp by a parameter that f reaches": (lambda m: hvp(lambda: np.sum(m.W**2), m.W, m.W), TypeError,
        ("hvp(f, params(W, b))",)),
    "hvp by an object": (lambda m: hvp(lambda x: 1.0, m.plain, m.x), TypeError,
        ("nothing to differentiate by in Dense", " write hvp(lambda: f(model), params(model))")),
    "plain arrays to a loss without arguments": (lambda m: gradient(lambda: np.sum(m.x), m.x), TypeError,
        ("takes no arguments, but got plain arrays", "gradient(f, params(W))")),
    "jacobian of complex": (lambda m: jacobian(lambda z: z**2, m.z), TypeError, ("complex", "real")),
    "jacobian to complex": (lambda m: jacobian(lambda x: 1j * x, m.x), TypeError, ("complex128", "real")),
    "jacobian of a string": (lambda m: jacobian(lambda x: x, "one"), TypeError, ("real",)),
    "hessian by a list": (lambda m: hessian(lambda x: x[0] ** 2, [1.0]), TypeError,
        ("hessian(f, x): x must be a real number, an array or a parameter", "list of 1")),
    "hessian of an array": (lambda m: hessian(lambda x: x**2, m.x), TypeError, ("one real number", "(2,)")),
    # What a loss may not return.
    "an array": returning(lambda m: m.W @ m.x, "array of shape (2,)", "np.sum"),
    "a parameter": returning(lambda m: m.W, "(2, 2)", "np.sum"),
    "an empty array": returning(lambda m: m.W[:0], "(0, 2)"),
    "nothing": returning(lambda m: None, "None", "return"),
    "a string": returning(lambda m: "1.0", "str '1.0'", "Return the loss itself."),
    "a complex number": returning(lambda m: np.sum(m.W * 1j), "complex128", "np.abs"),
    "a plain complex number": returning(lambda m: 1j, "complex"),
    "a tuple": returning(lambda m: (m.loss(m.x, m.y), 1.0), "tuple", "Return the loss itself."),
    "a list": returning(lambda m: [m.loss(m.x, m.y)], "list", "Return the loss itself."),
    "a boolean": returning(lambda m: m.loss(m.x, m.y) > 0, "bool", "Return the loss itself."),
    "a boolean array": returning(lambda m: np.array([True]), "bool"),
    "itself": returning(lambda m: m.loss, "function", "Return the loss itself."),
    "pullback of a string": (lambda m: pullback(lambda: "1", m.θ), TypeError, ("number or an array", "str")),
    "pullback of None": (lambda m: pullback(lambda: None, m.θ), TypeError, ("number or an array", "None")),
    # What cannot be recorded: on a parameter, on a result.
    **IN_PLACE,
    **CHANGED,
    "W @=": within(lambda m: operator.imatmul(m.W, np.eye(2)), "W @="),
    **{
        f"{name} of a {kind}": within(lambda m, use=use, of=of, lift=lift: use(lift(of(m))), *words)
        for name, (use, of, *words) in UNRECORDED.items()
        for kind, lift in {"parameter's": lambda x: x, "result": lambda x: x * 1}.items()
    },
    "float() says dropgrad": within(lambda m: float(m.s + m.W[0, 0]), "dropgrad(x)"),
    "float() of a 0-d parameter": (
        lambda m: gradient(lambda: float(m.s) * m.s, params(m.s)), TypeError, ("float()", "dropgrad(x)"),
    ),
    "a masked array": within(lambda m: m.W * np.ma.masked_less(np.ones(2), 0), "MaskedArray"),
    "a Fraction": within(lambda m: m.W * Fraction(1, 2), "Fraction"),
    "an array of objects": within(
        lambda m: gradient(lambda: np.sum(m.W * np.array([Fraction(1, 2)] * 2)), m.θ),
        "np.multiply",
        error=NotImplementedError,
    ),
    "math.exp of an argument": (lambda m: gradient(math.exp, 1.0), TypeError, ("math", "np.")),
    **{
        f"{name} of a {kind}": within(lambda m, f=f, of=of: f(of(m)), cure, error=NotImplementedError)
        for name, (f, cure) in NO_GRADIENT.items()
        for kind, of in {"parameter": lambda m: m.W, "result": lambda m: m.W * 1}.items()
    },
    # Grads and pullbacks.
    "a key outside": (lambda m: m.grads[m.s], KeyError, ("parameter of shape ()", "2 parameters", "Params")),
    "a key that is no parameter": (lambda m: m.grads["W"], KeyError, ("str", "parameter")),
    "a key that is a list": (lambda m: m.grads[[m.W, m.b]], KeyError, ("list of 2: [param([[1., 2.], …",)),
    "a key that is the array": (lambda m: m.grads[m.W.value], KeyError, ("ndarray", "parameter")),
    "Grads of other parameters": (
        lambda m: m.grads + gradient(lambda: m.s * 1, params(m.s)), ValueError, ("different parameters",),
    ),
    "Grads plus a number": (lambda m: m.grads + 1, TypeError, ("Grads", "int")),
    "Grads minus an array": (lambda m: m.grads - [1], TypeError, ("Grads", "list")),
    "Grads times Grads": (lambda m: m.grads * m.grads, TypeError, ("Grads",)),
    "Grads times a string": (lambda m: m.grads * "2", TypeError, ("Grads",)),
    "a number over Grads": (lambda m: 1 / m.grads, TypeError, ("Grads",)),
    "a gradient of another shape": (
        lambda m: operator.setitem(m.grads, m.W, 0), ValueError, ("(2, 2)", "()"),
    ),
    "a gradient of another parameter": (lambda m: operator.setitem(m.grads, m.s, 0), KeyError, ("Params",)),
    "a key that is no parameter any more": (lambda m: m.grads[m.W - 1], KeyError,
        ("ndarray of shape (2, 2)", "W -= …", "plain array")),
    # The order of update's arguments.
    **{
        f"update, {name}": (lambda m, order=order: update(*order(m)), TypeError, ("update(opt, ps, grads)",))
        for name, order in {
            "gradients before parameters": lambda m: (Descent(), m.grads, m.θ),
            "parameters first": lambda m: (m.θ, Descent(), m.grads),
            "a parameter first": lambda m: (m.W, Descent(), m.grads[m.W]),
            "gradients first": lambda m: (m.grads, Descent(), m.θ),
            "the optimiser last": lambda m: (m.θ, m.grads, Descent()),
            "a gradient before its parameter's Params": lambda m: (Descent(), m.grads, m.W),
        }.items()
    },
    # Numbers and lists without end.
    "an integer beyond every float": (lambda m: gradient(lambda x: x * 2, 10**5000), ValueError,
        ("bits", "float")),
    "a list that holds itself": (lambda m: gradient(lambda x: x[0] * 2, ENDLESS), ValueError,
        ("holds itself",)),
    "a list that holds itself, in a loss": within(lambda m: m.W * ENDLESS, "holds itself", error=ValueError),
    # Options that a derivative does not know.
    "copy= of nan_to_num": (lambda m: gradient(lambda: np.sum(np.nan_to_num(m.W, copy=False)), m.θ),
        NotImplementedError, ("np.nan_to_num", "copy=")),
    "nan= of nan_to_num": within(
        lambda m: np.nan_to_num(m.W, nan=m.W[0, 0]), "np.where(np.isnan(x), y, x)", error=NotImplementedError
    ),
    "a parameter as nan= of nan_to_num": within(
        lambda m: np.nan_to_num(m.W * 1, True, m.b), "np.where(np.isnan(x), y, x)", error=NotImplementedError
    ),
    # Sets of parameters are no vectors.
    "θ - W": (lambda m: m.θ - m.W, TypeError, ("θ - params(W)",)),
    "θ[W]": (lambda m: m.θ[m.W], TypeError, ("by place, θ[0]", "Param", "grads[W]")),
    "θ of a name": (lambda m: m.θ["W"], TypeError, ("by place, θ[0]", "str 'W'", "grads[W]")),
    **{
        f"{operation.__name__} {name}": (
            lambda m, operation=operation, of=of: operation(m.θ, of(m)), TypeError, ("Params",)
        )
        for operation in (operator.sub, operator.isub, operator.or_, operator.ior, operator.and_)
        for name, of in {"Grads": lambda m: m.grads, "a parameter": lambda m: m.W}.items()
    },
    "is_integer()": within(
        lambda m: m.W[0, 0].is_integer(), "'is_integer'", "dropgrad(x)", error=AttributeError
    ),
    "an attribute = that nothing has": within(
        lambda m: (m.W * 1).weights, "value under differentiation", "'weights'", error=AttributeError
    ),
    "shape =": within(lambda m: setattr(m.W * 1, "shape", 4), "b = b.reshape(shape)"),
    "dtype =": within(lambda m: setattr(m.W * 1, "dtype", "f4"), "b = b.astype(dtype)"),
    "strides =": within(lambda m: setattr(m.W * 1, "strides", (8, 8)), "b = b.transpose(axes)"),
    "a matrix by keyword": within(
        lambda m: np.diff(m.W * 1, prepend=np.zeros((2, 1)).view(np.matrix)), "np.diff gave a matrix"
    ),
    **{
        f"{f.__name__} by nothing": (lambda m, f=f: f(lambda: np.sum(m.W)), TypeError, ("params(W, b)",))
        for f in (gradient, withgradient, pullback, jacobian)
    },
    **{
        f"{f.__name__} of parameters one by one": (lambda m, f=f: f(m.W, m.b), TypeError,
            (f"{f.__name__}(lambda: loss(x, y), θ)", "θ = params(W, b)", f"@{f.__name__}(params(W, b))"))
        for f in (gradient, withgradient, pullback)
    },
    "jacobian of a parameter": (lambda m: jacobian(m.W, m.b), TypeError, ("and θ = params(W, b).",)),
    "withgradient, the wrong way round": (
        lambda m: withgradient(m.θ, lambda: m.loss(m.x, m.y)), TypeError, ("withgradient(lambda: loss",),
    ),
    "withgradient of a loss with arguments": (lambda m: withgradient(m.loss, m.θ), TypeError,
        ("withgradient(lambda: f(…), ps)",)),
    "withgradient by a parameter": (lambda m: withgradient(lambda: np.sum(m.W), m.W), TypeError,
        ("withgradient(f, params(W, b))",)),
    "check_gradient of a value": (lambda m: check_gradient(m.loss(m.x, m.y), m.θ), TypeError,
        ("check_gradient(lambda: loss(x, y), θ)",)),
    # What there is in PyTorch.
    "W.grad = None": (lambda m: setattr(m.W, "grad", None), AttributeError, ("grad cannot", "gradient(")),
    "W.requires_grad = True": (lambda m: setattr(m.W, "requires_grad", True), AttributeError, ("param(x)",)),
    "backward()": within(lambda m: np.sum(m.W).backward(), "gradient(lambda", error=AttributeError),
    "detach()": within(lambda m: (m.W * 1).detach(), "dropgrad(x)", error=AttributeError),
    "W.detach()": within(lambda m: m.W.detach(), "dropgrad(x)", error=AttributeError),
    "W.data -= 1": (lambda m: exec("W.data -= 1", {"W": m.W}), AttributeError, ("W -= …",)),
    "W.data = 1": (lambda m: setattr(m.W, "data", 1), AttributeError, ("W -= …", "W[...] = …")),
    "W.grad": (lambda m: m.W.grad, AttributeError, ("Param", "gradient(lambda")),
    "W.numpy()": (lambda m: m.W.numpy(), AttributeError, ("Param", "dropgrad(x)")),
    "W.requires_grad": (lambda m: m.W.requires_grad, AttributeError, ("param(x)",)),
    "W.assign()": within(lambda m: m.W.assign(m.x), "W[...] = a", error=AttributeError),
    "W.unsqueeze()": within(lambda m: m.W.unsqueeze(0), "np.expand_dims", error=AttributeError),
    "W.state_dict()": (lambda m: m.W.state_dict(), AttributeError, ("save(path, θ, opt)",)),
    "θ.state_dict()": (lambda m: m.θ.state_dict(), AttributeError, ("Params", "save(path, θ, opt)")),
    "θ.weights": (lambda m: m.θ.weights, AttributeError, ("Params has no attribute 'weights'.",)),
    "save with a dict": (lambda m: minidiff.save("model.npz", m.θ, Descent(), {"epoch": 1}), TypeError,
        ("save(path, ps, opt, epoch=1)",)),
    "check_gradient with eps": (lambda m: check_gradient(m.loss, m.x, m.y, eps=1e-6), TypeError,
        ("no option 'eps'", "tol=")),
    "check_gradient by parameter with atol": (
        lambda m: check_gradient(lambda: m.loss(m.x, m.y), m.θ, atol=1e-6), TypeError, ("no option 'atol'",)
    ),
    "a seed of another shape": (
        lambda m: pullback(lambda: m.W @ m.x, m.θ)[1](np.ones(3)), ValueError, ("(2,)", "(3,)"),
    ),
    "a seed that broadcasts": (
        lambda m: pullback(lambda: m.W @ m.x, m.θ)[1](np.ones((1, 2))), ValueError, ("(2,)", "(1, 2)"),
    ),
    "a seed of strings": (lambda m: pullback(lambda: m.W @ m.x, m.θ)[1]("one"), TypeError, ("seed",)),
    "None for a seed": (lambda m: pullback(lambda: m.W @ m.x, m.θ)[1](None), TypeError, ("seed",)),
    "changed before back, W -=": changed_before_back(lambda W: operator.isub(W, 0.1)),
    "changed before back, W[0, 0] =": changed_before_back(lambda W: operator.setitem(W, (0, 0), 9)),
    "changed before back, W.value": changed_before_back(lambda W: W.value.fill(9)),
    "a tuple for a gradient": (
        lambda m: update(Descent(), m.W, gradient(np.sum, m.W)), ValueError, ("[0]", "(1, 2, 2)"),
    ),
    "a step within a gradient": within(
        lambda m: update(Descent(), param(np.ones(2)), m.b * 1), "steps are not differentiated", "dropgrad(g)"
    ),
    "a class for a model": (lambda m: params(Dense), TypeError, ("Dense is a class",)),
    "a class for an optimiser": (lambda m: update(Descent, m.W, 1.0), TypeError, ("make one, Descent(",)),
    "the loss's own TypeError": (lambda m: gradient(lambda: len(3), m.θ), TypeError,
        ("object of type 'int'",)),
    "the loss's own wrong call": (
        lambda m: gradient(lambda: m.loss(m.x), m.θ), TypeError, ("missing 1 required positional argument",),
    ),
    "the loss's own ZeroDivisionError": (lambda m: gradient(lambda: 1 / 0, m.θ), ZeroDivisionError,
        ("zero",)),
    "NumPy's own shape error": (lambda m: gradient(lambda: np.sum(m.W @ np.ones(3)), m.θ), ValueError,
        ("matmul",)),
    "NumPy's own index error": (lambda m: gradient(lambda: m.W[2, 0], m.θ), IndexError, ("out of bounds",)),
}  # fmt: skip


@pytest.mark.parametrize(("mistake", "error", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_raises_says_what_to_do_and_changes_nothing(m, mistake, error, words):
    before = contents(m)
    with pytest.raises(error) as caught:
        mistake(m)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert contents(m) == before
    assert autograd.tracer.trace_stack.top == -1
    assert not tracing.is_recorded(m.W.lift())
    after = gradient(lambda: m.loss(m.x, m.y), m.θ)
    assert all(np.array_equal(after[p], m.grads[p]) for p in m.θ)


UNREACHED = {
    "a constant": lambda m: 1.0,
    "W.value": lambda m: np.sum(m.W.value**2),
    "dropgrad": lambda m: np.sum(dropgrad(m.W) ** 2),
    "another parameter": lambda m: m.s * 2,
    "what has no slope": lambda m: np.sum(np.floor(m.W)),
}


@pytest.mark.parametrize("loss", UNREACHED.values(), ids=UNREACHED)
def test_a_loss_that_reaches_no_parameter_warns_at_the_callers_line(m, loss):
    with pytest.warns(UserWarning, match="reaches none of the parameters") as caught:
        grads = gradient(lambda: loss(m), m.θ)
    assert [grads[p] for p in m.θ] == [None, None]
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gradient(lambda: np.sum(m.W), m.θ)[m.b] is None
        assert gradient(lambda x: 1.0, m.x) == (None,)


CLASSES = np.array([0, 1, 1])
WITH_CLASSES = {
    "by index": (IndexError, lambda scores, y: -np.mean(scores[np.arange(3), y])),
    "one by one": (IndexError, lambda scores, y: -sum(scores[i, y[i]] for i in range(3))),
    "one-hot": (TypeError, lambda scores, y: -np.mean(scores * np.eye(2)[y])),
    "a loss": (ValueError, minidiff.losses.logitcrossentropy),
}


def test_a_note_stands_where_later_tools_read_it_also_before_python_3_11():
    class EarlierError(ValueError):
        add_note = None  # as no error had it

    for kind in (ValueError, EarlierError):
        error = kind("message")
        for note in ("first", "second"):
            add_note(error, note)
        assert error.__notes__ == ["first", "second"]


@pytest.mark.parametrize(("error", "loss"), WITH_CLASSES.values(), ids=WITH_CLASSES)
def test_classes_among_the_arguments_of_gradient_are_told_of(m, error, loss):
    inputs = np.ones((3, 2))
    f = lambda W, y: loss(inputs @ W, y)
    with pytest.raises(error) as caught:
        gradient(f, m.W.value, CLASSES)
    assert "gradient(lambda p: f(p, x, y), p)" in caught.value.__notes__[-1]
    assert np.any(gradient(lambda p: f(p, CLASSES), m.W.value)[0])
    with pytest.raises((IndexError, ValueError)) as caught:
        gradient(lambda p: f(p, CLASSES.astype(str)), m.W.value)
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(ValueError, match="core dimension") as caught:
        gradient(lambda W, x: np.sum(W @ x), m.W.value, np.ones(3))
    assert not any("integers" in note for note in caught.value.__notes__)
    with pytest.raises(IndexError) as caught:
        gradient(lambda W, x: W[7] * x, m.W.value, 2.0)
    assert not hasattr(caught.value, "__notes__")


WITH_LISTS = {
    "a product": lambda x: np.sum(np.ones((3, 2)) @ x),
    "a function of NumPy's": lambda x: np.sum(np.sin(x)),
    "a power": lambda x: np.sum(x**2),
}


@pytest.mark.parametrize("f", WITH_LISTS.values(), ids=WITH_LISTS)
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_numbers_among_the_arguments_is_told_of(f, kind):
    with pytest.raises(TypeError) as caught:
        gradient(f, kind([1.0, 2.0]))
    assert f"Argument 0 of gradient is a {kind.__name__} of numbers" in caught.value.__notes__[-1]
    assert "gradient(f, np.array([1.0, 2.0]))" in caught.value.__notes__[-1]
    assert np.any(gradient(f, np.array([1.0, 2.0]))[0])
    with pytest.raises(TypeError) as caught:
        gradient(lambda x: float(x[0]), [param(1.0)])
    assert not hasattr(caught.value, "__notes__")


OF_PYTORCH = {
    **dict.fromkeys(("backward", "grad", "zero_grad"), r"gradient\(lambda"),
    **dict.fromkeys(("detach", "numpy", "cpu"), r"dropgrad\(x\)"),
    **dict.fromkeys(("requires_grad", "requires_grad_"), r"param\(x\).*θ - params\(W\)"),
    "data": r"W -= … and W\[...\] = … .*dropgrad\(x\)",
}


@pytest.mark.parametrize(("name", "cure"), OF_PYTORCH.items())
def test_what_pytorch_has_is_not_there_and_the_message_says_what_is(m, name, cure):
    with pytest.raises(AttributeError, match=cure):
        getattr(m.W, name)
    with pytest.raises(AttributeError, match=cure):
        gradient(lambda: getattr(m.W * 1, name), m.θ)


def changes_an_argument(x):
    x[0] = 1.0
    return np.sum(x)


def changes_what_may_be_a_real_part(x):
    y = np.real_if_close(x * (1 + 0j))
    y[0] = 1.0
    return np.sum(y)


def puts_an_inner_value_into_an_outer_array(x):
    y = x * 1

    def inner(z):
        y[0] = z[0]
        return np.sum(z * y)

    return np.sum(gradient(inner, x)[0])


def changes_what_is_left_of_an_inner_loss(x):
    kept = []
    gradient(lambda z: np.sum(kept.append(z * x) or kept[0]), x)
    kept[0][0] = 1.0
    return np.sum(x)


@pytest.mark.parametrize(
    ("loss", "cure"),
    [
        (changes_an_argument, "Take a copy first, b = x.copy(), and change that"),
        (changes_what_may_be_a_real_part, "Take a copy of what it gives"),
        (puts_an_inner_value_into_an_outer_array, "return the value from it and assign outside"),
        (changes_what_is_left_of_an_inner_loss, "Take a copy first, b = x.copy()"),
    ],
)
def test_a_change_that_no_new_array_helps_against_has_a_cure_of_its_own(loss, cure):
    with pytest.raises(TypeError, match=re.escape(cure)) as caught:
        gradient(loss, np.ones(3))
    assert FILLED not in str(caught.value)


FILLED = "minidiff.functions.zeros(n)"
WITHOUT_SOURCE = {
    "a row": ("out[0] = W[0] * 2", FILLED, "out = zeros((2, 2)); out[0] = W[0] * 2"),
    "an element": ("out[0, 0] = W[0, 0]", FILLED, "out = np.zeros_like(W); out[0, 0] = W[0, 0]"),
    "a slice": ("out[0:1] = W[:1]", FILLED, "out = zeros((2, 2)); out[0:1] = W[:1]"),
    "a sum": ("out += W[0] ** 2", FILLED, "out = np.zeros_like(W); out += W[0] ** 2"),
    "exponential": (
        "out = rng.exponential(W)", "s * rng.exponential(size=n)", "out = W * rng.exponential(size=(2, 2))"
    ),
    "gamma": ("out = rng.gamma(2.0, W)", "s * rng.", "out = W * rng.gamma(2.0, size=(2, 2))"),
    "poisson": ("out = W * rng.poisson(W)", "no gradient", "out = W * rng.poisson(W.value)"),
    "permutation": ("out = rng.permutation(W)", "x[rng.permutation(len(x))]", "out = W[rng.permutation(2)]"),
    "choice": ("out = rng.choice(W)", "x[rng.integers(len(x), size=n)]", "out = W[rng.integers(2, size=1)]"),
    "choice with probabilities": (
        "out = rng.choice(4, p=W.ravel() / np.sum(W))",
        "p=dropgrad(p)",
        "out = W * rng.choice(2, p=[0, 1])",
    ),
    "gamma of math": ("out = math.gamma(W[0, 0])", "Use np.* functions", "out = W"),
    "random": ("out = rng.normal(W, 1)", "m + σ * rng.normal(size=n)", "out = W + rng.normal(size=(2, 2))"),
    "vectorize": (
        "out = np.vectorize(np.sin)(W)", "np.stack([f(v) for v in x])", "out = np.stack([2 * v for v in W])"
    ),
    "a dtype": ("out = np.float32(W)", "x.astype(dtype)", "out = W.astype(np.float32)"),
    "windows": (
        "out = np.lib.stride_tricks.as_strided(W, (2, 2))",
        "sliding_window_view(x, n)",
        "out = np.lib.stride_tricks.sliding_window_view(W, 2, 0)",
    ),
    "a check": (
        "out = np.testing.assert_allclose(W * 1, W)",
        "A check takes the plain value, dropgrad(x)",
        "np.testing.assert_allclose(W.value, W.value); out = W",
    ),
    "places": (
        "out = [v for _, v in np.ndenumerate(W)]",
        "np.ndindex(x.shape)",
        "out = np.stack([W[i] for i in np.ndindex(2, 2)])",
    ),
    "a masked array": (
        "m = np.ma.masked_array(np.eye(2), np.eye(2) > 0); out = m - W",
        "x[~m.mask] - m.compressed()",
        "m = np.ma.masked_array(np.eye(2), np.eye(2) > 0); out = W[~m.mask] - m.compressed()",
    ),
    "a masked array on the right": (
        "m = np.ma.masked_array(np.eye(2), np.eye(2) > 0); out = W - m",
        "x[~m.mask] - m.compressed()",
        "m = np.ma.masked_array(np.eye(2), np.eye(2) > 0); out = W[~m.mask] - m.compressed()",
    ),
    "a matrix on the right": (
        "M = np.eye(2).view(np.matrix); out = W * M", "np.asarray(M)",
        "M = np.eye(2).view(np.matrix); out = W @ np.asarray(M)",
    ),
    "a range": ("out = np.arange(0, W[0, 0])", "start + step * np.arange(n)", "out = W[0, 0] * np.arange(3)"),
    "the largest of several": (
        "out = np.max([W[0, 0], W[0, 1]])",
        "np.max(np.stack([a, b]))",
        "out = np.max(np.stack([W[0, 0], W[0, 1]]))",
    ),
    "no assignment": ("out = np.asarray(W)", "NumPy functions take it as it is", "out = W"),
    "a name that is set": (
        "full = 2.0; out = np.asarray(W)", "NumPy functions take it as it is", "full = 2.0; out = full * W"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "words", "right"), WITHOUT_SOURCE.values(), ids=WITHOUT_SOURCE)
@pytest.mark.parametrize("known", [True, False])
def test_what_the_line_does_is_told_with_its_source_and_without(m, wrong, words, right, known):
    def loss(line):
        code = f"out = np.zeros((2, 2)); y = np.exp(out)\n{line}"
        file = f"<{line}>"
        if known:
            linecache.cache[file] = len(code), None, code.splitlines(True), file
        world = {
            "math": math,
            "np": np,
            "W": m.W,
            "rng": np.random.default_rng(0),
            "zeros": minidiff.functions.zeros,
        }
        try:
            exec(compile(code, file, "exec"), world)
        finally:
            linecache.cache.pop(file, None)
        return np.sum(world["out"])

    with pytest.raises(TypeError, match=re.escape(words)) as caught:
        gradient(lambda: loss(wrong), m.θ)
    assert ("NumPy functions take it as it is" in str(caught.value)) == (words[:5] == "NumPy")
    assert np.any(gradient(lambda: loss(right), m.θ)[m.W])


@pytest.mark.parametrize("of", [lambda x: x, lambda x: [x * 2, x]])
def test_an_iterator_of_numpys_says_what_to_write(m, of):
    with pytest.raises(NotImplementedError, match=r"Write for v in x\.ravel\(\), in place of np\.nditer"):
        gradient(lambda: sum(v for v in np.nditer(of(m.W))), m.θ)
    with pytest.raises(TypeError, match=r"Write for v in x\.ravel\(\), in place of np\.nditer"):
        compiled(lambda x: np.sum(m.W) * sum(v for v in np.nditer(x)), m.θ)(np.ones(2))
    np.testing.assert_array_equal(gradient(lambda: sum(v * v for v in m.W.ravel()), m.θ)[m.W], 2 * m.W)


def test_python_speaks_of_arguments_of_a_compiled_function_in_plain_words(m):
    with pytest.raises(TypeError, match="not 'value in a compiled function'"):
        compiled(lambda x: np.sum(m.W) * memoryview(x)[0], m.θ)(np.ones(2))


def test_an_element_of_a_plain_array_cannot_be_set_to_a_recorded_number(m):
    # NumPy itself turns our error into a ValueError, of which ours is the cause.
    with pytest.raises((TypeError, ValueError)) as caught:
        gradient(lambda: operator.setitem(m.x, 0, m.W[0, 0] * 2), m.θ)
    assert "np.stack" in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("name", [name for name in MISTAKES if "=" in name or "update" in name])
def test_no_message_speaks_of_our_inside(m, name):
    with pytest.raises(MISTAKES[name][1]) as caught:
        MISTAKES[name][0](m)
    assert [
        word for word in ("lambda>", "_extremum", "Traced", "grad_", "\n") if word in str(caught.value)
    ] == []


def test_a_schedule_without_steps_says_so():
    empty = minidiff.schedules.Interpolator(minidiff.schedules.Poly(1, 1, 1), 0.5)
    for ask in (
        lambda: next(minidiff.schedules.Stateful(empty)),
        lambda: update(minidiff.schedules.Scheduler(empty, Descent()), np.ones(1), np.ones(1)),
    ):
        with pytest.raises(ValueError, match=r"Interpolator\(.* has no steps, and so no value"):
            ask()


@pytest.mark.parametrize("multiply", [operator.matmul, np.matmul, lambda x, y: np.linalg.solve(x, y)])
def test_shapes_that_do_not_fit_are_told(m, multiply):
    for use in (lambda x, y: multiply(x, y), lambda x, y: multiply(x * 1, y)):
        with pytest.raises(ValueError, match="core dimension") as caught:
            gradient(lambda use=use: np.sum(use(m.W, np.ones((3, 1)))), m.θ)
        assert caught.value.__notes__ == ["The operands have the shapes (2, 2) and (3, 1)."]
    with pytest.raises(ValueError, match="core dimension") as caught:
        gradient(lambda: gradient(lambda: np.sum(np.ones((4, 3)) @ m.W), m.θ)[m.W], m.θ)
    assert caught.value.__notes__ == ["The operands have the shapes (4, 3) and (2, 2)."]


def test_fractions_multiply_recorded_numbers():
    half = Fraction(1, 2)
    for f in (lambda x: half * x, lambda x: x * half, lambda x: x / (1 / half), lambda x: x - half + x / -2):
        for x in (3.0, np.float32(3.0), np.array([3.0])):
            np.testing.assert_allclose(gradient(lambda x, f=f: f(np.sum(x)), x)[0], 0.5)


def test_fractions_beside_numbers_have_second_derivatives_and_programs():
    for f in (lambda x: Fraction(1, 2) * x**2, lambda x: x**2 / Fraction(2), lambda x: x ** Fraction(5, 2)):
        slope = lambda x, f=f: gradient(f, x)[0]
        assert np.isclose(hessian(f, 1.5), (slope(1.5 + 1e-6) - slope(1.5 - 1e-6)) / 2e-6)
        assert compiled(f)(1.5) == withgradient(f, 1.5)


def test_grads_key_error_reads_as_plain_words(m):
    with pytest.raises(KeyError) as caught:
        m.grads[m.s]
    assert "\\n" not in str(caught.value)
    assert isinstance(m.grads, Grads)


def test_grads_are_no_array_and_say_what_is(m):
    with pytest.raises(TypeError, match=r"grads\[W\] is one, grads\.to_vector\(\)"):
        np.asarray(m.grads)


NAMES = [
    (minidiff, "grad", "gradient(f, x)[0]"),
    (minidiff, "value_and_grad", "withgradient"),
    (minidiff, "no_grad", "dropgrad"),
    (minidiff, "custom_vjp", "derivative(rule)(f)"),
    (minidiff, "apply_updates", "update(opt, θ, grads) of minidiff.optimise"),
    (minidiff.optimise, "apply_updates", "update(opt, θ, grads)"),
    (minidiff.optimise, "clip_by_global_norm", "transform=clip_norm"),
    (minidiff.losses, "sparse_categorical_crossentropy", "logitcrossentropy of minidiff.losses"),
    (minidiff.schedules, "warmup_cosine_decay_schedule", "WarmupCos of minidiff.schedules"),
    (minidiff.schedules, "exponential_decay", "Exp of minidiff.schedules"),
    (minidiff.optimise, "exponential_decay", "Exp of minidiff.schedules"),
    (minidiff, "update", "write from minidiff.optimise import update"),
    (minidiff, "ADAM", "write from minidiff.optimise import ADAM"),
    (minidiff, "mse", "write from minidiff.losses import mse"),
    (minidiff, "Optimizer", "AbstractOptimiser"),
    (minidiff, "Linear", "x @ W + b"),
    (minidiff, "fit", "train(loss, θ, data, opt)"),
    (minidiff, "tree_map", "grads.map(f)"),
    (minidiff.optimise, "gradient", "write from minidiff import gradient"),
    (minidiff.optimise, "save", "write from minidiff import save"),
    (minidiff.optimise, "SGD", "Descent"),
    (minidiff.optimise, "RMSprop", "write from minidiff.optimise import RMSProp"),
    (minidiff.optimise, "Adagrad", "AdaGrad"),
    (minidiff.optimise, "EarlyStopping", "write from minidiff.optimise import early_stopping"),
    (minidiff.optimise, "LBFGS", "minimize"),
    (minidiff.optimise, "minimise", "minimize"),
    (minidiff.optimise, "Cos", "write from minidiff.schedules import Cos"),
    (minidiff.optimise, "clip_grad_norm_", "transform=clip_norm"),
    (minidiff.schedules, "CosineAnnealingLR", "Cos of minidiff.schedules"),
    (minidiff.optimise, "chain", "Optimiser(…) composes several"),
    (minidiff.schedules, "StepLR", "Step of minidiff.schedules"),
    (minidiff.schedules, "Linear", "Triangle of minidiff.schedules"),
    (minidiff.schedules, "linear_schedule", "Triangle of minidiff.schedules"),
    (minidiff.functions, "tanh", "np.tanh"),
    (minidiff.functions, "swish", "x * sigmoid(x)"),
    (minidiff.functions, "cross_entropy", "logitcrossentropy of minidiff.losses"),
    (minidiff.functions, "crossentropy", "write from minidiff.losses import crossentropy"),
    (minidiff, "optimize", "minidiff.optimise"),
    (minidiff, "DataLoder", "did you mean DataLoader, of minidiff"),
    (minidiff.optimise, "Momentun", "did you mean Momentum, of minidiff.optimise"),
    (minidiff.functions, "dropout", "rng.random(x.shape) > p"),
    (minidiff, "nothing_of_the_kind", ""),
    (minidiff, "_hidden", ""),
]


@pytest.mark.parametrize(("module", "name", "words"), NAMES, ids=[name for _, name, _ in NAMES])
def test_a_name_of_others_or_of_another_module_leads_to_ours(module, name, words):
    rest = f"{name}'" + (f": .*{re.escape(words)}" if words else "$")
    with pytest.raises(AttributeError, match=f"has no attribute '{rest}"):
        getattr(module, name)
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from .*{re.escape(words)}") as caught:
        exec(f"from {module.__name__} import {name}", {})
    assert caught.value.name == name
    assert not hasattr(module, name)
    if "write " in words:
        exec(words.removeprefix("write "), {})


def of_a_library(name, source):
    """Define a function f as if another library had it."""
    place = os.path.join(sysconfig.get_path("purelib"), name, "core.py")
    namespace = {"__name__": f"{name}.core", "np": np}
    exec(compile(source, place, "exec"), namespace)
    return namespace["f"]


def test_an_error_names_the_line_of_the_loss_where_another_library_has_looked():
    frame = of_a_library("pandas", "def f(x): return np.asarray(x)")
    with pytest.raises(
        TypeError, match=r"in line \d+, `.*frame\(x\).*` \(test_errors.py\), which calls pandas.f. Take df"
    ):
        gradient(lambda x: np.sum(frame(x)), np.ones(2))
    with pytest.raises(
        TypeError, match=r"`.*statistics.fmean\(x\)` \(test_errors.py\), which calls statistics.fmean"
    ):
        gradient(statistics_of, np.ones(2))


def test_an_error_asks_nothing_of_an_object_that_is_half_made():
    series = of_a_library(
        "pandas",
        "class Series:\n"
        "    def __init__(self, x): self.numbers = np.asarray(x)\n"
        "    def __getattr__(self, name): return getattr(self.numbers, name)\n"
        "def f(x): return Series(x)",
    )
    with pytest.raises(TypeError, match=r"which calls pandas.f\. Take df"):
        gradient(lambda x: np.sum(series(x).numbers), np.ones(2))


@pytest.mark.parametrize("n", [np.int64(2), np.bool_(True)])
def test_a_number_of_numpys_that_a_compiled_loss_counts_by_is_told_how_to_come(n):
    W = param(np.ones(3))
    losses = [lambda n: np.sum(W[: int(n)]), lambda n: np.sum(W) * (2.0 if n else 1.0)]
    for loss in [*losses, *[lambda n: np.sum(W[:n])] * (n.dtype != bool)]:
        with pytest.raises(
            TypeError, match=rf"Of an argument n that is one pass {type(n.item()).__name__}\(n\)"
        ):
            compiled(loss, params(W))(n)
        assert compiled(loss, params(W))(n.item()).val == loss(n.item())
    with pytest.raises(TypeError, match="branches") as caught:  # what is computed cannot come otherwise
        compiled(lambda x: np.sum(W) if np.sum(x) > 1 else np.sum(W**2), params(W))(np.ones(2))
    assert "pass" not in str(caught.value)


def test_an_integer_that_indexes_is_told_to_come_by_name():
    for f in (gradient, pullback, jacobian):
        with pytest.raises(IndexError) as caught:
            f(lambda w, i: w[i] ** 2, np.ones(3), 1)
        assert re.search(r"constant by its name, \w+\(f, x, n=3\)", caught.value.__notes__[0])
        f(lambda w, i: w[i] ** 2, np.ones(3), i=1)


def test_pytorchs_words_for_axes_are_told_of(m):
    for use in (lambda W: W.sum(dim=0), lambda W: np.sum(W * 2, dim=0), lambda W: np.mean(W, keepdim=True)):
        with pytest.raises(TypeError, match="dim") as caught:
            gradient(lambda use=use: np.sum(use(m.W)), m.θ)
        assert caught.value.__notes__ == ["NumPy's words for dim and keepdim are axis and keepdims."]


def test_compiled_code_is_told_to_take_plain_arrays(m):
    numba = pytest.importorskip("numba")
    total, square = numba.njit(lambda x: np.sum(x**2)), numba.njit(lambda x: x**2)
    for mistake in (
        lambda: gradient(total, m.x),
        lambda: gradient(square, 2.0),
        lambda: gradient(lambda x: total(2 * x), m.x),
        lambda: gradient(lambda: total(m.W), m.θ),
    ):
        with pytest.raises(TypeError, match=r"unbox|bad argument") as caught:
            mistake()
        assert re.search(r"minidiff\.derivative.*dropgrad", caught.value.__notes__[-1])
    own = derivative(lambda g, ans, x: 2 * g * x)(total)
    check_gradient(own, m.x)
    assert gradient(lambda x: np.sum(x) * total(dropgrad(x)), m.x)[0].tolist() == [2.0, 2.0]


def test_a_rule_that_has_no_derivative_says_what_a_second_one_needs():
    spline = interpolate.CubicSpline(np.linspace(0, 2, 20), np.linspace(0, 2, 20) ** 3)

    @derivative
    class Kept:
        def forward(self, x):
            self.slope = spline(x, 1)
            return spline(x)

        def backward(self, g, ans, x):
            return g * self.slope

    at = np.array([0.3, 1.2])
    for f in (derivative(lambda g, ans, x: g * spline(x, 1))(lambda x: spline(x)), Kept):
        check_gradient(f, at, order=1)
        for second in (check_gradient, lambda f, x: hessian(lambda x: np.sum(f(x)), x)):
            with pytest.raises(
                NotImplementedError,
                match=r"rule itself is differentiated.*needs a minidiff\.derivative.*order=1",
            ):
                second(f, at)
    slope = derivative(lambda g, ans, x: g * 6 * x)(lambda x: spline(x, 1))
    check_gradient(derivative(lambda g, ans, x: g * slope(x))(lambda x: spline(x)), at)
    wrong = derivative(lambda g, ans, x: g[9])(lambda x: x * 1)
    with pytest.raises(NotImplementedError, match="raised IndexError") as caught:
        gradient(lambda x: np.sum(wrong(x)), at)
    assert "second" not in str(caught.value)


def test_a_picture_gets_the_plain_value(m):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    for plot in (pyplot.plot, lambda x: pyplot.scatter(x, x)):
        with pytest.raises(TypeError, match=r"calls matplotlib\.(plot|scatter)\. A picture .*dropgrad"):
            gradient(lambda x, plot=plot: (plot(x), np.sum(x))[1], m.x)
        assert gradient(lambda x, plot=plot: (plot(dropgrad(x)), np.sum(x))[1], m.x)[0].tolist() == [1, 1]
    pyplot.close("all")


@pytest.mark.parametrize("name", ["dct", "idst", "dctn", "fht"])
def test_a_linear_transform_of_scipys_has_its_transpose_for_a_rule(name):
    more = (0.1, 0.5) if name == "fht" else ()
    with pytest.raises(TypeError, match=rf"calls scipy\.fft\.{name}\. It is linear: .*transposed transform"):
        gradient(lambda x: np.sum(getattr(fft, name)(x, *more)), np.ones(4))
    with pytest.raises(
        TypeError, match=r"calls scipy\.fft\.rfft\. Take the function of that name in np\.fft"
    ):
        gradient(lambda x: np.sum(np.abs(fft.rfft(x))), np.ones(4))
    if name in ("dct", "idst"):
        there, back = (
            partial(getattr(fft, f), norm="ortho")
            for f in {"dct": ("dct", "idct")}.get(name, ("idst", "dst"))
        )
        inverse = derivative(lambda g, ans, x: transform(g))(lambda x: back(x))
        transform = derivative(lambda g, ans, x: inverse(g))(lambda x: there(x))
        check_gradient(lambda x: transform(x) ** 2, np.arange(4.0))


def test_labels_that_begin_with_1_are_told_to_begin_with_0():
    scores = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"from 0 to 1, got 2: labels that begin with 1 are y - 1"):
        logitcrossentropy(scores, np.array([1, 2, 1]))
    with pytest.raises(ValueError, match=r"from 0 to 1, got 3$"):
        logitcrossentropy(scores, np.array([1, 3, 1]))


def test_a_compiled_step_is_no_loss():
    W = param(np.ones(2))
    step = compiled(lambda x: np.sum((W - x) ** 2), params(W), Descent(0.1))
    step(np.zeros(2))
    before = W.value.copy()
    for use in (
        lambda: train(step, params(W), [np.zeros(2)], Descent(0.1)),
        lambda: gradient(lambda: step(np.zeros(2)), params(W)),
    ):
        with pytest.raises(TypeError, match=r"is no loss.*train\(loss, θ, data, opt, compiled=True\)"):
            use()
    assert np.array_equal(W.value, before)


def test_a_model_may_keep_what_is_compiled_of_it():
    class Net:
        def __init__(self):
            self.W = param(np.ones(2))
            self.step = compiled(self.loss, params(self.W), Descent(0.1))
            self.slope = compiled(self.loss)

        def loss(self, x):
            return np.sum((self.W - x) ** 2)

    net = Net()
    for _ in range(2):
        assert params(net) == params(net.W) == params(net.step) == params(net.slope)
        net.step(np.zeros(2))


def test_an_argument_that_holds_very_much_warns(monkeypatch):
    monkeypatch.setattr(sys.modules["minidiff.compiled"], "HELD", 1000)
    W, agent = param(np.ones(2)), SimpleNamespace(rate=2.0, seen=[(1.0, i) for i in range(500)])
    f = compiled(lambda agent: np.sum(W) * agent.rate, params(W))
    with pytest.warns(UserWarning, match=r"an argument that holds \d+ things.*pass what it computes with"):
        assert f(agent).val == 4.0
    agent.rate = 3.0
    assert f(agent).val == 6.0


def test_slow_recordings_warn(monkeypatch):
    monkeypatch.setattr(sys.modules["minidiff.compiled"], "LONG", 0.0)
    W = param(np.ones(20))
    f = compiled(lambda i: W[i] ** 2, params(W))
    f(0)
    with pytest.warns(UserWarning, match=r"recorded 2 times, in 0 s.*picks one of many things"):
        f(1)
    f(2)


@pytest.mark.parametrize(
    "x",
    [
        np.array([1.0, 2.0], object),
        np.array([[None, 2]], object),
        np.array([(1.0, 2)], [("name", "f8"), ("n", "i4")]),
        np.array([("a", "b")], [("name", "U1"), ("other", "O")]),
    ],
)
def test_numbers_that_an_array_hides_in_objects_or_fields_have_no_gradient(x):
    with pytest.raises(TypeError, match=r"by whose numbers there is no gradient: .* x\.astype\(float\)"):
        gradient(lambda a, x: a * len(x), 1.0, x)
    assert gradient(lambda a, x: a * len(x), 1.0, np.array([None, "text"], object)) == (2.0, None)


# What takes a number of an interval: the interval, the argument's name, and the call.
INTERVALS = {
    "implicit_root": ("[0, inf)", "tol", lambda x: implicit_root(lambda z: 0 * z, 1.0, tol=x)),
    "fixed_point": ("[0, inf)", "tol", lambda x: fixed_point(lambda z: z, 1.0, tol=x)),
    "check_gradient": ("[0, inf)", "tol", lambda x: check_gradient(lambda z: 0 * z, 1.0, tol=x)),
    "minimize": ("[0, inf)", "tol", lambda x: minimize(lambda: 0.0, params(param(1.0)), tol=x)),
    "clip_norm": ("[0, inf)", "thresh", clip_norm),
    "ClipNorm": ("[0, inf)", "thresh", ClipNorm),
    "Average": ("[0, 1)", "decay", lambda x: Average(params(param(1.0)), x)),
    "sharp_gradient": (
        "[0, inf)",
        "rho",
        lambda x: sharp_gradient(lambda: 0.0, params(param(1.0)), x),
    ),
    "throttle": ("[0, inf]", "seconds", lambda x: throttle(print, x)),
    "KeepBest": ("(-inf, inf)", "min_dist", lambda x: KeepBest(params(param(1.0)), print, min_dist=x)),
    "early_stopping": ("(-inf, inf)", "min_dist", lambda x: early_stopping(print, 1, min_dist=x)),
    "plateau": ("(-inf, inf)", "min_dist", lambda x: plateau(print, 1, min_dist=x)),
    "ReducePlateau": ("[0, 1)", "factor", lambda x: ReducePlateau(Descent(), factor=x)),
    "ReducePlateau's least": ("[0, inf)", "least", lambda x: ReducePlateau(Descent(), least=x)),
    "ReducePlateau's threshold": ("[0, 1]", "threshold", lambda x: ReducePlateau(Descent(), threshold=x)),
    "simplex": ("(0, inf)", "total", lambda x: simplex(np.ones(2), x)),
    "Rprop": ("[0, inf)", r"limits\[0\]", lambda x: Rprop(limits=(x, sys.float_info.max))),
    "Rprop's greatest": ("[0, inf)", r"limits\[1\]", lambda x: Rprop(limits=(0.0, x))),
    "Interpolator": ("(0, inf)", "rate", lambda x: Interpolator(abs, x)),
    "a rule's rate": ("[0, inf)", "eta", Descent),
    "a rule's fraction": ("[0, 1)", "rho", lambda x: Momentum(0.1, x)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", INTERVALS)
def test_a_number_beyond_its_interval_is_refused_and_one_at_its_end_is_not(name):
    interval, argument, call = INTERVALS[name]
    words = rf"{argument}.* must be (finite|in {re.escape(interval)}), got float"
    low, high = map(float, interval[1:-1].split(", "))
    for end, beyond, is_in in ((low, -math.inf, interval[0] == "["), (high, math.inf, interval[-1] == "]")):
        nearer, farther = math.nextafter(end, -beyond), math.nextafter(end, beyond)
        inside, outside = (end, math.nan if end == beyond else farther) if is_in else (nearer, end)
        with pytest.raises(ValueError, match=words):
            call(outside)
        with np.errstate(all="ignore"), suppress(AssertionError):
            call(inside)


def loss_of(W):
    return lambda *_: np.sum(W**2)


def alone(W):
    opt = Momentum(0.1)
    update(opt, W, np.ones(2))
    return copy.deepcopy(opt)


def stored(ps):
    save(file := io.BytesIO(), ps)
    file.seek(0)
    return file


def swapped(W):
    average = Average(params(W))
    average()
    with average.swapped():
        W[...] = 5.0


class Branching(Rule):
    formula = staticmethod(lambda x, Δ: Δ if Δ[0] > 0 else -Δ)


def fused(W):
    pytest.importorskip("numba")
    with engine("fused"):
        update(Branching(), W, np.ones(2))


# What warns, given a parameter W of two numbers: the first words, and the call.
WARNINGS = {
    "a view in a model": ("params: .* is a plain array", lambda W: params({"W": W, "view": W.value})),
    "bare iteration": ("Iterating over", lambda W: list(gradient(loss_of(W), params(W)))),
    "no parameter reached": ("The loss reaches none", lambda W: gradient(lambda: 1.0, params(W))),
    "an imaginary part": (
        "astype drops",
        lambda W: gradient(lambda x: np.sum((x * 1j).astype(float)), W.value),
    ),
    "a state without its parameters": ("this state is a copy", lambda W: alone(W).state.get(W)),
    "such a state in a step": ("this state is a copy", lambda W: update(alone(W), W, np.ones(2))),
    "names that come twice": ("save\\(path, ps\\)", lambda W: stored(params([W]) | params([param(1.0)]))),
    "names of others": (
        "load\\(…, partial=True\\): nothing",
        lambda W: load(stored(params(W)), params({"V": W}), partial=True),
    ),
    "a training while swapped": ("parameters have changed while", swapped),
    "no batch": ("no step was taken", lambda W: train(loss_of(W), params(W), [], Descent(0.1))),
    "a parameter not trained": (
        "the loss did not depend",
        lambda W: train(loss_of(W), params(W, param(1.0)), [1], Descent(0.1)),
    ),
    "best outside of a block": ("the best parameters", lambda W: KeepBest(params(W), lambda: 1.0)()),
    "the same in a training": (
        "the best parameters",
        lambda W: train(loss_of(W), params(W), [1], Descent(0.1), cb=KeepBest(params(W), lambda: 1.0)),
    ),
    "many recordings": (
        "compiled: .* recorded 16 times",
        lambda W: train(lambda i: W[i % 2] ** 2, params(W), range(17), Descent(0.1), compiled=True),
    ),
    "a formula that branches": ("Branching: runs with NumPy", fused),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_points_to_the_callers_line(name):
    words, call = WARNINGS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(param([1.0, 2.0]))
    (warned,) = caught
    assert re.match(words, str(warned.message))
    assert warned.filename == __file__
    assert warned.lineno < test_a_warning_points_to_the_callers_line.__code__.co_firstlineno  # within `call`


def statistics_of(x):
    return statistics.fmean(x)


def test_an_error_in_a_loss_of_an_installed_package_names_its_line():
    loss = of_a_library("models", "def f(x):\n    return float(np.sum(x))")
    with pytest.raises(TypeError, match=r"lost, in line 2\."):
        gradient(loss, np.ones(2))


@pytest.mark.parametrize(
    "fill",
    [
        lambda z, x: operator.setitem(z, 0, x[0]),
        lambda z, x: operator.setitem(z, slice(1), x[:1]),
        lambda z, x: operator.setitem(z.flat, 0, x[0]),
        lambda z, x: setattr(z, "flat", x),
        lambda z, x: np.add(x, x, out=z),
        lambda z, x: np.copyto(z, x),
    ],
)
def test_a_plain_array_that_is_filled_says_what_can_be(fill):
    with pytest.raises(TypeError, match=r"under differentiation|recorded values"):
        gradient(lambda x: fill(np.zeros(2), x) or np.sum(x), np.ones(2))

    def loss(x):
        z = np.zeros(2)
        z.flat[0] = x[0]
        return np.sum(z)

    with pytest.raises(TypeError, match=r"z\.flat\[0\] = .*In place of np\.zeros\(n\), fill np\.zeros_like"):
        gradient(loss, np.ones(2))


OPERATORS = [operator.sub, operator.mul, operator.truediv, operator.matmul]


class Labelled:
    """Numbers with labels, as a series of pandas: its own arithmetic goes by these."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers)

    def __array__(self, dtype=None, copy=None):
        return self.numbers

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [x.numbers if isinstance(x, Labelled) else np.asarray(x) for x in inputs]
        return Labelled(getattr(ufunc, method)(*plain, **options))

    def __mul__(self, other):
        return Labelled(self.numbers * np.asarray(other))


@pytest.mark.parametrize("operate", [*OPERATORS, operator.add, np.maximum, np.hypot])
def test_what_has_arithmetic_of_its_own_meets_no_value_under_differentiation(operate):
    x, labelled = np.array([0.5, 2.0]), Labelled([1.0, 3.0])
    for f in (lambda x: np.sum(operate(x, labelled)), lambda x: np.sum(operate(x * 1.0, labelled))):
        with pytest.raises(TypeError, match=r"np\.\w+ of a Labelled .* cannot be recorded: .*\.to_numpy\(\)"):
            gradient(f, x)
    with pytest.raises(TypeError, match="cannot be recorded"):
        gradient(lambda x: np.sum(np.multiply(labelled, x)), x)
    np.testing.assert_array_equal(gradient(lambda x: np.dot(x, labelled), x)[0], labelled.numbers)
