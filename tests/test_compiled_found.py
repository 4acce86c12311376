"""What a compiled loss finds otherwise than by its arguments: it counts as it is, or is refused by name."""

import collections
import functools
import gc
import itertools
import json
import logging
import math
import operator
import sys
import threading
import tracemalloc
import types
import weakref
from array import array
from collections import ChainMap, UserDict, UserList, deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial, reduce
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import minidiff.functions as mf
import minidiff.losses as ml
from minidiff import DataLoader, compiled, derivative, dropgrad, gradient, param, params, train, withgradient
from minidiff.optimise import Descent
from minidiff.program import bindings, reach
from minidiff.program.listing import Listing, RefusedError
from minidiff.program.signature import key_of

sys.path.insert(0, str(Path(__file__).parent))
from test_compiled import bits

W, DATA = param(np.array([0.5, 0.7, 1.5])), np.ones(3)


WEAKLY, VARIABLE = weakref.ref(DATA), ContextVar("data", default=DATA)


class Single(list):
    def __deepcopy__(self, memo):
        raise NotImplementedError("there is only one")


SINGLE = Single([DATA])


def imported():
    import test_compiled_found as anew
    from test_compiled_found import V

    return anew.V + V


class Found:
    """Ways to have data that are not an argument."""

    of_class = np.ones(3)

    def __init__(self):
        self.data, self.W, self.step = np.ones(3), param([0.5, 0.7, 1.5]), 0
        self.lock, self.none = threading.Lock(), iter(())  # which cannot be copied
        self.held = {"list": [np.ones(3)], "tuple": (1, np.ones(3)), "deque": deque([np.ones(3)])}
        self.users = UserList([np.ones(3)])

    def loss(self, x):
        self.step += 1
        return self.over(self.data, x)

    def over(self, data, x):
        made = np.eye(3) * np.sqrt(data.size) + np.outer(data, data - np.mean(data)) + np.ones(3)
        return np.sum((made @ self.W - x) ** 2) + np.sum(data[data.argmax()] * x)


def found_in(name):
    """A loss of an object's parameter and of data, the object, and the data."""
    it = Found()
    data = {
        "an attribute": it.data, "an attribute of what a method is bound to": it.data,
        "a list": it.held["list"][0], "a tuple": it.held["tuple"][1], "a queue": it.held["deque"][0],
        "a list of another class": it.users[0], "a closure": np.ones(3), "a default": np.ones(3),
        "a keyword's default": np.ones(3), "a partial's": np.ones(3), "a helper": np.ones(3), "a name": DATA,
    }[name]  # fmt: skip
    helper = lambda: data
    loss = {
        "an attribute": lambda x: it.over(it.data, x),
        "an attribute of what a method is bound to": it.loss,
        "a list": lambda x: it.over(it.held["list"][0], x),
        "a tuple": lambda x: it.over(it.held["tuple"][1], x),
        "a queue": lambda x: it.over(it.held["deque"][0], x),
        "a list of another class": lambda x: it.over(it.users[0], x),
        "a closure": lambda x: it.over(data, x),
        "a default": lambda x, data=data: it.over(data, x),
        "a keyword's default": lambda x, *, data=data: it.over(data, x),
        "a partial's": partial(lambda data, x: it.over(data, x), data),
        "a helper": lambda x: it.over(helper(), x),
        "a name": lambda x: it.over(DATA, x),
    }[name]
    return loss, it, data


FOUND = [
    "an attribute", "an attribute of what a method is bound to", "a list", "a tuple", "a queue",
    "a list of another class", "a closure", "a default", "a keyword's default", "a partial's", "a helper",
    "a name",
]  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_the_loss_makes_of_data_is_made_at_every_call(name):
    loss, it, data = found_in(name)
    f, rng = compiled(loss, params(it.W)), np.random.default_rng(0)
    held = [*vars(it).values(), *it.held.values(), data]
    try:
        for _ in range(4):
            x = rng.random(3)
            assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(it.W)))
            data[...] = rng.random(3)
    finally:
        DATA[...] = 1.0
    assert f._recorded == 1
    for before, now in zip(held, [*vars(it).values(), *it.held.values(), data], strict=True):
        assert before is now or type(now) is int
    assert it.held["list"][0].shape == it.held["deque"][0].shape == it.users[0].shape == (3,)


class Regression:
    def __init__(self):
        rng = np.random.default_rng(0)
        self.X, self.y, self.w, self.log = rng.random((20, 3)), rng.random(20), param(rng.random(3)), []

    def loss(self, i):
        return np.mean((self.X[i] @ self.w - self.y[i]) ** 2)

    def logged(self, i):
        predicted = self.X[i] @ self.w
        self.log.append(dropgrad(predicted))
        return np.mean((predicted - self.y[i]) ** 2)


def test_an_argument_may_pick_rows_of_data_that_the_loss_finds():
    model, rng = Regression(), np.random.default_rng(1)
    X, y, w, one_hot = model.X, model.y, model.w, np.eye(20)
    for loss in (
        model.loss,
        lambda i: np.mean((X[i] @ w - y[i]) ** 2),
        lambda i: np.sum(one_hot[i] @ X @ w * np.eye(20)[0]),
    ):
        f = compiled(loss, params(w))
        for _ in range(4):
            i = rng.integers(0, 20, 20)
            assert bits(f(i)) == bits(withgradient(lambda: loss(i), params(w)))
            X[...] = rng.random(X.shape)


def test_what_is_kept_is_seen_beside_data_that_an_argument_picks():
    model, i = Regression(), np.array([1, 2])
    with pytest.raises(TypeError, match=r"compiled: .*keeps what it computes in .*log"):
        compiled(model.logged, params(model))(i)
    assert [type(kept) for kept in model.log] == [np.ndarray]


def test_data_in_an_object_that_is_an_argument_may_change():
    def loss(x, given):
        return np.sum(W * (given["model"].X[:3, 0] * 2) * x) + np.sum(given["x"]) * given["model"].y[0]

    f, given = compiled(loss, params(W)), {"model": Regression(), "x": np.ones(2)}
    for x in (np.ones(3), np.arange(3.0)):
        assert bits(f(x, given)) == bits(withgradient(lambda: loss(x, given), params(W)))
        given["model"].X[...] += 1.0


def test_functions_that_share_a_variable_share_it_when_they_are_recorded_with_their_data():
    W, data, scale = param([0.5, 0.7, 1.5]), np.arange(3.0), 1.0

    def doubled():
        nonlocal scale
        scale = 2.0
        return data * 2

    def loss(x):
        nonlocal scale
        scale = 1.0
        doubled()
        return np.sum(W * doubled() * scale * x)

    f = compiled(loss, params(W))
    for x in (np.ones(3), np.arange(3.0)):
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


def test_data_that_another_thread_reads_meanwhile_are_arrays():
    W, holder, kinds, done = param([0.5, 0.7, 1.5]), [np.ones(3)], set(), threading.Event()

    def watch():
        while not done.is_set():
            kinds.add(type(holder[0]))

    interval, other = sys.getswitchinterval(), threading.Thread(target=watch)
    sys.setswitchinterval(1e-5)
    try:
        other.start()
        for _ in range(10):
            compiled(lambda x: np.sum(W * (holder[0] * 2) * x), params(W))(np.ones(3))
    finally:
        done.set()
        other.join()
        sys.setswitchinterval(interval)
    assert kinds == {np.ndarray}


class Heard:
    data = np.ones(3)

    def __init_subclass__(cls):
        raise NotImplementedError("others hear of each class that is made of it")


# Data in the place of which nothing can stand in, as what leads there cannot be copied.
HIDDEN = {
    "a class of which others hear": lambda: Heard.data, "a thing that cannot be copied": lambda: SINGLE[0],
    "a weak reference": lambda: WEAKLY(), "a context": lambda: VARIABLE.get(),
}  # fmt: skip


@pytest.mark.parametrize("data", HIDDEN.values(), ids=HIDDEN)
def test_what_is_made_of_hidden_data_that_change_is_recorded_anew_or_refused(data, monkeypatch):
    loss = lambda x: np.sum(W * (2 * data()) * x)
    f, x, old = compiled(loss, params(W)), np.array([0.5, 0.25, 2.0]), data().copy()
    try:
        for count, new in enumerate([old, old * 1.5, old], 1):
            data()[...] = new
            for _ in range(2):
                assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))
                assert f._recorded == count
    finally:
        data()[...] = old
    monkeypatch.setattr(reach, "COMPARED", 0)
    with pytest.raises(TypeError, match=r"(?s)test_compiled_found.py, line .* makes anew, perhaps of "):
        compiled(loss, params(W))(x)


def test_numbers_of_large_hidden_data_are_refused_and_others_are_not(monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)
    with pytest.raises(TypeError, match=r"(?s)uses float .* makes anew, perhaps of Heard"):
        compiled(lambda: np.sum(W) * float(Heard.data[0]), params(W))()
    f = compiled(lambda: np.sum(Heard.data * W) * (HALF * 3), params(W))
    assert f().val == np.sum(Heard.data * W) * 1.5


def test_what_a_derivative_makes_of_large_hidden_data_follows_them(monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)
    ones = lambda: param(np.ones(3))  # of its own, and the same at each call
    scaled = derivative(lambda g, ans, x: g * (ones() * Heard.data))(lambda x: x * Heard.data)
    loss, old = lambda: np.sum(scaled(W) ** 2), Heard.data.copy()
    f = compiled(loss, params(W))
    try:
        for factor in (1.0, 1.5, 2.0):
            Heard.data[...] = old * factor
            assert bits(f()) == bits(withgradient(loss, params(W)))
    finally:
        Heard.data[...] = old


@pytest.mark.parametrize("between", [0, 1, 2])
def test_where_a_base_hears_of_each_class_none_is_made_to_record(between):
    class Listening:
        def __init_subclass__(cls):
            heard.append(cls)

    heard, base = [], Listening
    for _ in range(between):
        base = type("Between", (base,), {})
    Holding = type("Holding", (base,), {"data": np.ones(3)})
    loss = lambda x: np.sum(W * (2 * Holding.data) * x)
    f = compiled(loss, params(W))
    for x in (np.ones(3), np.arange(3.0)):
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))
        Holding.data[...] += 1
    assert len(heard) == between + 1


@pytest.mark.parametrize("number", [float, complex, math.sqrt])
def test_a_number_of_large_hidden_data_is_one_by_whatever_name_it_is_made(number, monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)
    with pytest.raises(TypeError, match="makes anew, perhaps of Heard"):
        compiled(lambda: np.sum(W * number(Heard.data[0]).real), params(W))()


HALF = 0.5
V, MATRIX, PLACES = np.array([1.0, 2.0, 0.5]), np.eye(3) * 2, np.array([0, 1, 2])


class Formatted:
    by_format = V


def halved():
    total, v = 0.0, V.copy()
    while v.max() > 0.3:
        total, v = total + np.sum(W * v), v * 0.5
    return total


def written(copy):
    v = np.array(V) if copy else np.asarray(V) * 1
    v[0] = 7.0
    return np.sum(W * v)


def counted():
    places, counts = np.unique(PLACES, return_counts=True)
    return np.sum(W[places] * counts)


def set_to_zero():
    h = W * 1.0
    h[V > 0.75] = 0
    return np.sum(h**2)


# What a loss looks at.
LOOKS = {
    "a branch": lambda: np.sum(W) * (2.0 if V.max() > 1.5 else 3.0),
    "a loop": halved,
    "a float": lambda: np.sum(W) * float(V.mean()),
    "an int": lambda: np.sum(W[: int(PLACES.max()) + 1]),
    "an index": lambda: W[PLACES.max()] + W[np.argmax(V)],
    "an end of a slice": lambda: np.sum(W[PLACES[0] : PLACES[0] + 1]) + np.sum(W),
    "a complex number": lambda: np.sum(W) * complex(V[0]).real,
    "rounding": lambda: np.sum(W) * (round(V[0]) + math.floor(V[1]) + math.ceil(V[2]) + math.trunc(V[2])),
    "a mask": lambda: np.sum(W[V > 0.75] ** 2),
    "a mask of the rows": lambda: np.sum((MATRIX[:, V > 0.75] @ W[V > 0.75]) ** 2),
    "a mask without axes": lambda: np.sum(W[(V > 0.75)[0] & (V > 0.6)[1]] ** 2) + np.sum(W),
    "a mask to assign by": set_to_zero,
    "where": lambda: np.sum(W[np.where(V > 0.75)]),
    "nonzero": lambda: np.sum(W[(V > 0.75).nonzero()]) + np.sum(W[np.flatnonzero(V > 0.75)]),
    "classes": counted,
    "counts": lambda: np.sum(W * np.bincount(PLACES, minlength=3)),
    "one-hot rows": lambda: np.sum(np.eye(3)[PLACES] @ W),
    "a list": lambda: np.sum(W) * sum(V.tolist()),
    "an item": lambda: np.sum(W) * V[0].item(),
    "bytes": lambda: np.sum(W * np.frombuffer(V.tobytes())),
    "a text": lambda: np.sum(W * np.array(json.loads(str(V.tolist())))) * float(f"{V[0]:.1f}"),
    "a format": lambda: np.sum(W) * float("{.by_format[0]:.1f}".format(Formatted)),  # noqa: UP032
    "its text in a list": lambda: np.sum(W) * (2.0 if "1.5" in str([V[0]]) else 3.0),
    "a member": lambda: np.sum(W) * (2.0 if 2.0 in V else 3.0),
    "a key": lambda: np.sum(W) * {0: 1.0, 1: 2.0, 2: 3.0}[PLACES[0]],
    "the largest": lambda: np.sum(W) * max(V),
    "an array anew": lambda: np.sum(W * np.array([V[0], V[1], 1.0])),
    "a copy that is changed": lambda: written(True),
    "another that is changed": lambda: written(False),
    "something beside it": lambda: np.sum(W * (np.ones(3) * 2)) + np.sum(float(V[0]) * V),
}
LOOKS["an import"] = lambda: np.sum(W * (2 * imported())) * float(imported()[0])
LOOKED_AT = [
    (V, MATRIX, PLACES), (V * 1.5, MATRIX * 0.5, PLACES[::-1]), (V[::-1] - 0.3, MATRIX + 1, PLACES * 0 + 1),
]  # fmt: skip


@pytest.mark.parametrize("loss", LOOKS.values(), ids=LOOKS)
def test_where_the_loss_looks_at_data_it_looks_again_at_every_call(loss, monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)  # of data of any size
    f, states = compiled(loss, params(W)), [tuple(map(np.array, state)) for state in LOOKED_AT]
    try:
        for state in (*states, *states):
            for x, new in zip((V, MATRIX, PLACES), state, strict=True):
                x[...] = new
            for _ in range(2):
                assert bits(f()) == bits(withgradient(loss, params(W)))
    finally:
        for x, old in zip((V, MATRIX, PLACES), states[0], strict=True):
            x[...] = old


def test_a_loss_is_recorded_anew_only_where_what_it_has_looked_at_is_another():
    data = np.array([1.0, 2.0, 4.0])
    loss = lambda: np.sum(W * data) * (2.0 if (data < 100).all() else 0.5)
    f = compiled(loss, params(W))
    for change in (1.0, 2.0, 200.0, 300.0):
        data[0] = change
        assert bits(f()) == bits(withgradient(loss, params(W)))
    assert f._recorded == 2


@pytest.mark.parametrize("looks", [lambda x: float(x[0]), lambda x: 1.0 if x[0] > 0 else 2.0])
def test_arguments_and_parameters_are_not_to_be_looked_at(looks):
    data = np.array([1.0, 2.0, 4.0])
    for of in (lambda x: x, lambda x: x * data, lambda x: data + W * 1.0):
        with pytest.raises(TypeError):
            compiled(lambda x: np.sum(W) * looks(of(x)), params(W))(np.ones(3))


DATASET = np.array([[1.0, 2.0, 0.5], [0.5, 1.0, 2.0], [3.0, 0.5, 1.0]])


class Net:
    scale = np.array([1.0, 2.0, 3.0])

    def __init__(self):
        self.W, self.parts = param([0.5, 0.7, 1.5]), [self.by_rows, self.by_columns]

    @classmethod
    def doubled(cls):
        return cls.scale * 2

    @staticmethod
    def rows(i):
        return DATASET[i]

    @property
    def centred(self):
        return DATASET - DATASET.mean(axis=0)

    @cached_property
    def one_hot(self):
        return np.eye(3)

    def by_rows(self, i):
        return (DATASET[i] * 2) @ self.W

    def by_columns(self, i):
        return (DATASET.T[i] * 2) @ self.W

    def __call__(self, x):
        return x @ self.W * (self.scale / 2)[: len(x)]


class OfMethods(Net):
    def loss(self, i):
        return np.sum(self(self.rows(i))) + np.sum(self.centred @ self.W * self.doubled())


class OfLists(Net):
    def loss(self, i):
        return sum(np.sum(part(i) ** 2) for part in self.parts) + np.sum(self.one_hot[i] @ self.W)


class OfBases(OfMethods):
    def loss(self, i):
        assert type(self) is OfBases
        return super().loss(i) * super(OfBases, self).loss(i)  # noqa: UP008


class OfSlots(OfMethods):
    __slots__ = ("__private", "data")

    def __init__(self):
        super().__init__()
        self.data, self.__private = np.array([1.0, 2.0, 0.5]), DATASET[0]

    def loss(self, i):
        return np.sum((self.data * 2 + self.__private * 3) @ self.W) + super().loss(i)


@dataclass(frozen=True, slots=True)
class OfFields:
    W: Any = field(default_factory=lambda: param([0.5, 0.7, 1.5]))
    data: Any = field(default_factory=lambda: np.array([1.0, 2.0, 0.5]))

    def loss(self, i):
        return np.sum((DATASET[i] * 2) @ self.W) + np.sum(self.data * 2 * self.W)


class OfItems(NamedTuple):
    W: Any

    def loss(self, i):
        return np.sum((DATASET[i] * 2) @ self.W)


class OfInner(Net):
    class Inner:
        def rows(self, i):
            return DATASET[i] * 2

    def loss(self, i):
        return np.sum(self.Inner().rows(i) @ self.W)


class Caching:
    data = np.ones(3)

    def __init__(self):
        self.W = param([0.5, 0.7, 1.5])

    @functools.lru_cache(None)  # noqa: B019
    def doubled(self):
        return self.data * 2

    def loss(self):
        return np.sum(self.W * self.doubled()) + np.sum(self.W * (self.data * 3))


def test_what_methods_keep_by_their_objects_is_kept_of_no_copies():
    it = Caching()
    compiled(it.loss, params(it.W))()
    assert Caching.doubled.cache_info().currsize == 1
    assert type(it.doubled()) is np.ndarray


def test_large_data_that_are_only_made_arrays_are_not_compared_at_every_call():
    large = np.ones((2**18, 3))
    f = compiled(lambda: np.sum(W * np.asarray(large)[0]), params(W))
    f()
    tracemalloc.start()
    try:
        for value in (1.0, 2.0):
            large[0] = value
            assert f().val == value * np.sum(W)
        assert tracemalloc.get_traced_memory()[1] < large.nbytes / 10
    finally:
        tracemalloc.stop()


def test_packages_imported_with_a_point_are_found():
    package, module = types.ModuleType("of_tests"), types.ModuleType("of_tests.data")
    package.data, module.X = module, np.ones(3)
    sys.modules.update({"of_tests": package, "of_tests.data": module})

    def loss():
        import of_tests.data as data

        return np.sum(W * data.X) * float(data.X[0])

    def whole():
        import of_tests.data

        return np.sum(W * of_tests.data.X) * float(of_tests.data.X[0])

    try:
        for f in (loss, whole):
            program = compiled(f, params(W))
            for value in (1.0, 2.0, 3.0):
                module.X[...] = value
                assert bits(program()) == bits(withgradient(f, params(W)))
    finally:
        del sys.modules["of_tests"], sys.modules["of_tests.data"]


class OfModules:
    def __init__(self):
        object.__setattr__(self, "kept", {})
        self.W, self.data = param([0.5, 0.7, 1.5]), np.array([1.0, 2.0, 0.5])

    def __setattr__(self, name, value):
        self.kept[name] = value
        object.__setattr__(self, name, value)

    def loss(self, i):
        return np.sum((DATASET[i] * 2) @ self.W) + np.sum(self.data * 2 * self.W) * (self.data * 2).sum()


@pytest.mark.parametrize(
    "kind", [OfModules, OfMethods, OfLists, OfBases, OfSlots, OfFields, OfItems, OfInner]
)
def test_methods_of_classes_may_read_data_and_make_others_of_it(kind, monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)  # of data of any size
    it = kind(param([0.5, 0.7, 1.5])) if kind is OfItems else kind()
    f, rng, before = compiled(it.loss, params(it.W)), np.random.default_rng(0), dict(vars(kind))
    found = [DATASET, Net.scale, *([it.data] if hasattr(it, "data") else [])]
    olds = [x.copy() for x in found]
    try:
        for _ in range(4):
            i = rng.integers(0, 3, 3)
            assert bits(f(i)) == bits(withgradient(lambda i=i: it.loss(i), params(it.W)))
            for x in found:
                x[...] = rng.random(x.shape)
    finally:
        for x, old in zip(found, olds, strict=True):
            x[...] = old
    assert f._recorded == 1
    assert all(vars(kind)[name] is x for name, x in before.items())
    assert type(it) is kind


# --- Wherever it is found -------------------------------------------------------------------------------


def follows(loss, data, new=(3, 0, 2), recorded=None):
    """Tell whether the program of a loss has the bits of the loss, also when data has changed in place."""
    f, old = compiled(loss, params(W)), np.array(data).tolist()

    def put(values):
        for i, value in enumerate(values):
            data[i] = value

    try:
        for values in (old, new, old[::-1]):
            put(values)
            assert bits(f()) == bits(withgradient(loss, params(W)))
    finally:
        put(old)
    assert recorded in (None, f._recorded)


X, L, SCORES = np.array([1.0, 2.0, 4.0]), np.array([0, 1, 2], np.uint8), np.eye(3) * 0.3


@derivative(lambda g, ans, a, b: g * b, lambda g, ans, a, b: g * a)
def product(a, b):
    return a * b


@derivative(lambda g, ans, a: g * X)
def reads_forth(a):
    return a * (X * 2)


@derivative(lambda g, ans, a: g * (X * 2))
def reads_back(a):
    return a * 1.0


GIVEN_WHOLE = {
    "softmax": lambda: np.sum(W * mf.softmax(X * 2)),
    "gelu": lambda: np.sum(W * mf.gelu(X)),
    "an own derivative": lambda: np.sum(product(W, X * 2)),
    "what an own derivative reads": lambda: np.sum(reads_forth(W)),
    "what its rule reads": lambda: np.sum(reads_back(W)),
    "probabilities": lambda: ml.logitcrossentropy(W * 1.0, X / np.sum(X)),
    "a target": lambda: ml.huber_loss(W, np.sort(X)),
}


@pytest.mark.parametrize("name", GIVEN_WHOLE)
def test_what_a_function_with_a_derivative_is_given_is_made_at_every_call(name):
    follows(GIVEN_WHOLE[name], X, recorded=3 if "read" in name else 1)


OF_CLASSES = {
    "small integers": lambda: L,
    "made integers": lambda: (L + 1) % 3,
    "probabilities": lambda: np.eye(3)[L],
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_so_are_labels(name, smoothing):
    made = OF_CLASSES[name]
    follows(lambda: ml.logitcrossentropy(SCORES * W, made(), smoothing=smoothing), L, (2, 2, 1))


def test_a_buffer_that_the_loss_fills_is_filled_for_what_is_there():
    buffer = np.empty(3)

    def loss():
        np.multiply(X, 2, out=buffer)
        return np.sum(W * buffer)

    follows(loss, X)


inner = compiled(lambda: np.sum(W * (X * 2)), params(W))
module = types.ModuleType("elsewhere")
module.X, module.inside = X, types.ModuleType("elsewhere.inside")
module.inside.X = X
sys.modules["elsewhere"] = module


@functools.wraps(np.mean)
def mean(a):
    return np.mean(a) - np.sum(X * 2)


@functools.singledispatch
def made_of(x):
    return X * 2


@made_of.register
def _(x: int):
    return X * 3


class Queue(deque):
    def __init__(self, items=()):
        super().__init__(items, 3)


class Endless(list):
    def __iter__(self):
        return itertools.count()


class Wordless:
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class Meta(type):
    of_meta = X


class OfMeta(metaclass=Meta):
    pass


class Members(Enum):
    DATA = X


class Lazy(collections.abc.Mapping):
    def __getitem__(self, key):
        return X

    def __iter__(self):
        return itertools.count()

    def __len__(self):
        return 1


class Slotted:
    __slots__ = ("X", "none")

    def __init__(self):
        self.X = X

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


class Proxied:
    def __init__(self):
        self.X = X


class Point:
    __match_args__ = ("x",)

    def __init__(self):
        self.x = X


class Reader:
    def __init__(self):
        self.inside = X

    def read(self):
        return self.inside


def matched():
    match POINT:
        case Point(x):
            return x


def imported_inside():
    import elsewhere

    return elsewhere.X


POINT, LAZY, PROXIED, THINGS = Point(), Lazy(), Proxied(), {"X": X}
WORDLESS = {Wordless(): X}
PROXY, GET, TAKE = weakref.proxy(PROXIED), operator.attrgetter("X"), X.take
READER, READ = Reader(), operator.methodcaller("read")
CHAINED, LIST_AT, HOLDER = ChainMap({}, THINGS), [X].__getitem__, SimpleNamespace(module=module)
POLYNOMIAL, POLY1D = np.polynomial.Polynomial(X), np.poly1d(X)
VECTORIZED, LOADER = np.vectorize(lambda v: v * X[0]), DataLoader((X,), 3)

FOUND_IN = {
    "a program": lambda: inner().val,
    "a wrapper": lambda: np.sum(W) * mean(np.ones(3)),
    "a loader": lambda: sum(np.sum(W * (rows * 2)) for (rows,) in LOADER),
    "a vectorized function": lambda: np.sum(W * VECTORIZED([1.0, 2.0, 3.0])),
    "a module": lambda: np.sum(W * (module.X * 2)),
    "a module of a module": lambda: np.sum(W * (module.inside.X * 2)),
    "a module of an object": lambda: np.sum(W * (HOLDER.module.X * 2)),
    "a module as a default": lambda found=module: np.sum(W * (found.X * 2)),
    "a module by a text": lambda: np.sum(W * (getattr(module, "X") * 2)),  # noqa: B009
    "a module by its name": lambda: np.sum(W * (sys.modules["elsewhere"].X * 2)),
    "an import": lambda: np.sum(W * (imported_inside() * 2)),
    "a method of an array": lambda: np.sum(W * (TAKE([0, 1, 2]) * 2)),
    "a method of a list": lambda: np.sum(W * (LIST_AT(0) * 2)),
    "an attrgetter": lambda: np.sum(W * (GET(PROXIED) * 2)),
    "a methodcaller": lambda: np.sum(W * (READ(READER) * 2)),
    "a match": lambda: np.sum(W * (matched() * 2)),
    "a generic function": lambda: np.sum(W * (made_of(1) + made_of("a"))),
    "a list without end": lambda found=Endless([X]): np.sum(W * (found[0] * 2)),  # noqa: B008
    "a dict with a wordless key": lambda: np.sum(W * (sum(WORDLESS.values()) * 2)),
    "a queue of another class": lambda found=Queue([X]): np.sum(W * (found[0] * 2)),  # noqa: B008
    "a metaclass": lambda: np.sum(W * (OfMeta.of_meta * 2)),
    "an enumeration": lambda: np.sum(W * (Members.DATA.value * 2)),
    "globals": eval("lambda: np.sum(W * (globals()['X'] * 2))", {"np": np, "W": W, "X": X}),
    "a chain of dicts": lambda: np.sum(W * (CHAINED["X"] * 2)),
    "a mapping without end": lambda: np.sum(W * (LAZY["X"] * 2)),
    "a slot": lambda found=Slotted(): np.sum(W * (found.X * 2)),  # noqa: B008
    "a weak proxy": lambda: np.sum(W * (PROXY.X * 2)),
    "a number by another name": lambda number=float: np.sum(W) * number(X[0]),
    "a number in memory": lambda: np.sum(W) * X.data[0],
    "a number in an array of objects": lambda: np.sum(W) * X.astype(object)[0],
    "a test for arrays": lambda: np.sum(W * (X * 2 if type(X) is np.ndarray else X)),
}


@pytest.mark.parametrize("name", FOUND_IN)
def test_data_are_found_in(name):
    follows(FOUND_IN[name], X)


def test_coefficients_of_polynomials_are_found():
    follows(lambda: np.sum(W * POLYNOMIAL(0.3)), POLYNOMIAL.coef)
    follows(lambda: np.sum(W * POLY1D(0.3)), POLY1D.coeffs)


def test_a_memory_mapped_file_is_stood_in_for(tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)
    mapped = np.memmap(tmp_path / "X", float, "w+", shape=3)
    mapped[:] = X
    follows(lambda: np.sum(W * (mapped - mapped.mean())) * np.sqrt(2.0), mapped)


def test_large_data_of_a_module_are_stood_in_for(monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)
    follows(lambda: np.sum(W * (module.X - module.X.mean())), X, recorded=1)


@pytest.mark.parametrize("buffer", [array("d", [1.0, 2.0, 4.0]), bytearray(np.array([1, 2, 4], np.uint8))])
def test_buffers_of_pythons_own_are_found_and_may_still_grow(buffer):
    follows(lambda: np.sum(W * np.array(buffer[:3])), buffer)
    buffer.append(1)


LARGE, CHOSEN = np.ones((3, 2**17)), np.array([1, 0, 0])


def test_small_data_are_looked_at_beside_large_ones():
    follows(lambda: np.sum(W @ LARGE[:, : int(CHOSEN[0])]), CHOSEN)


def test_what_changes_at_every_call_runs_without_a_program_in_the_end(monkeypatch):
    monkeypatch.setattr(sys.modules["minidiff.compiled"], "KEPT", 20)
    loss = lambda: np.sum(W * (SINGLE[0] * 2))
    f = compiled(loss, params(W))

    def run():
        for i in range(30):
            DATA[0] = i
            assert bits(f()) == bits(withgradient(loss, params(W)))
        DATA[0] = 1.0

    with pytest.warns(UserWarning, match="Does an array change that the loss makes others of"):
        run()
    assert f._recorded == 20


def test_a_program_that_has_run_often_does_not_count_where_data_change_now_and_then(monkeypatch):
    for name, value in {"KEPT": 3, "WORTH": 4}.items():
        monkeypatch.setattr(sys.modules["minidiff.compiled"], name, value)
    data, compiles = np.ones(3), {True: 0, False: 0}
    for is_often in compiles:
        f = compiled(lambda: np.sum(W) * float(data[0]), params(W))
        for i in range(8):
            data[0] = i
            for _ in range(6 if is_often else 2):
                assert f().val == np.sum(W) * i
        compiles[is_often] = f._recorded
    assert compiles == {True: 1, False: 3}


def test_a_loss_may_ask_for_a_class_of_python_itself():
    f = compiled(lambda x: np.sum(W * x) * isinstance(scaled, types.FunctionType), params(W))
    assert f(np.ones(3)).val == np.sum(W)


def test_what_objects_of_scipys_hold_is_found():
    interpolate, sparse = pytest.importorskip("scipy.interpolate"), pytest.importorskip("scipy.sparse")
    stats = pytest.importorskip("scipy.stats")
    spline = interpolate.CubicSpline([0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 2.0, 1.0])
    follows(lambda: np.sum(W) * spline(0.5), spline.c[0], (1.0, 0.5, 2.0))
    A = sparse.csr_matrix(np.eye(3))
    follows(lambda: np.sum((A @ np.ones(3)) * W) + np.sum(A @ W), A.data)
    follows(lambda: np.sum((A @ np.ones(3)) * W), A.indices, (1, 0, 2))
    for kind in (sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
        B = kind(np.eye(3) + np.diag([1.0, 2.0], 1))
        follows(lambda B=B: np.sum((B.T @ (B @ W - X)) ** 2) + np.sum((W @ B.transpose()) ** 2), B.data)
    B = sparse.csr_array(np.eye(3))
    f, loss = compiled(lambda: np.sum((B.T @ (B @ W)) ** 2), params(W)), lambda: np.sum((B.T @ (B @ W)) ** 2)
    for change in (lambda: None, lambda: setattr(B, "data", B.data * 3), lambda: B.setdiag([1.0, 2.0], 1)):
        change()
        assert bits(f()) == bits(withgradient(loss, params(W)))
    with pytest.raises(TypeError, match="the loss makes a sparse matrix anew"):
        compiled(lambda: np.sum((2 * B) @ W), params(W))()
    density = stats.gaussian_kde([0.0, 1.0, 2.0, 4.0])
    follows(lambda: np.sum(density(np.arange(3.0)) * W), density.dataset[0, :3])
    follows(lambda: np.sum(A @ (W * X)), X)


class Norm:
    def __init__(self):
        self.mean, self.places = np.zeros(3), np.array([0])

    def moving(self, x):
        self.mean *= 0.9
        self.mean += 0.1 * np.mean(X)
        return x - self.mean

    def placed(self, x):
        self.mean[self.places] = np.mean(X)
        self.places[...] += 1
        return x + 0.0

    def refused(self, x):
        self.places[...] += 1
        return x * float(np.sum(x)) if x[0] > 0 else x


@pytest.mark.parametrize("name", ["moving", "placed", "refused"])
def test_what_the_loss_changes_in_place_is_refused_and_changed_once(name):
    norm, twin = Norm(), Norm()
    loss = lambda norm, x: np.sum(W * getattr(norm, name)(x))
    x = np.ones(3)
    gradient(lambda: loss(twin, x), params(W))
    with pytest.raises(TypeError, match=r"in place|branches on a value"):
        compiled(lambda x: loss(norm, x), params(W))(x)
    np.testing.assert_array_equal(norm.mean, twin.mean)
    np.testing.assert_array_equal(norm.places, twin.places)


class Settings:
    n, scale, levels = np.array([1]), np.array(0.5), np.array([0.5, 1.0, 2.0])


OBJECTS = np.array([np.array([1, 0, 0]), None], object)


class Reader:
    def __call__(self):
        return np.sum(W[: int(CHOSEN[0])] * X[: int(CHOSEN[0])])


def test_what_stand_ins_do_not_reach_is_looked_at():
    follows(Reader(), CHOSEN, (2, 0, 0))
    follows(lambda: np.sum((W * X)[: int(Settings.n[0])]), Settings.n, (2,))
    follows(lambda: np.sum(W) * memoryview(Settings.levels)[0], Settings.levels)
    follows(lambda: np.sum((W * X)[: int(OBJECTS[0][0])]), OBJECTS[0], (2, 0, 0))
    quad = pytest.importorskip("scipy.integrate").quad
    scale = Settings.scale.reshape(1)
    follows(lambda: np.sum(W) * quad(lambda t: Settings.scale * t, 0, 1)[0], scale, (2.0,))


def test_a_number_that_is_made_of_the_size_of_large_data_is_none_of_their_values(monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)

    def loss():
        n = 0.5 * len(Found.of_class)
        return np.sum(W * Found.of_class) / n

    assert bits(compiled(loss, params(W))()) == bits(withgradient(loss, params(W)))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: (1, x), lambda x: {"a": [x]}])
def test_an_argument_is_no_data_wherever_it_is(wrap):
    def loss(given):
        while not isinstance(given, np.ndarray):
            given = given["a"] if isinstance(given, dict) else given[-1]
        return np.sum(W * given * np.exp(Found.of_class))

    f, x = compiled(loss, params(W)), np.ones(3)
    for x[...] in (1, 2, 3):
        assert bits(f(wrap(x))) == bits(withgradient(lambda: loss(wrap(x)), params(W)))
    assert f._recorded == 1


def test_no_recording_of_a_loss_that_finds_data_stays_in_memory():
    held = lambda: [x for x in gc.get_objects() if type(x) is Listing and x.calls]
    gc.collect()
    gc.disable()
    try:
        before = held()  # those of errors that other tests keep
        compiled(lambda: np.sum(W * (X * 2)), params(W))()
        assert len(held()) == len(before)
    finally:
        gc.enable()


def test_a_variable_that_others_read_is_bound_for_them_too():
    follows(averaged, X)


def averaged():
    fit()
    return np.sum(scaled(W) * (X * 2))


class Shelf:
    every = [X]  # noqa: RUF012


def test_what_a_list_of_a_class_holds_is_made_at_every_call():
    follows(lambda: np.sum(W * (Shelf.every[0] * 2)), X, recorded=1)


def test_the_body_of_a_class_reads_what_it_is_made_of_too():
    follows(with_a_class, X)


def with_a_class():
    class Scaled:
        data = X * 2

    return np.sum(W * Scaled.data)


def fit():
    global MEAN  # noqa: PLW0603
    MEAN = X.mean()


def scaled(v):
    return v * MEAN


def test_large_hidden_data_given_to_a_derivative_are_refused(monkeypatch):
    monkeypatch.setattr(reach, "COMPARED", 0)
    with pytest.raises(TypeError, match="makes anew, perhaps of Heard"):
        compiled(lambda: np.sum(W * mf.softmax(Heard.data * 2)), params(W))()


def test_of_more_things_than_are_looked_through_any_may_hold_what_changes(monkeypatch):
    monkeypatch.setattr(reach, "THINGS", 50)
    many = [[[np.ones(3)] for _ in range(10)] for _ in range(10)]
    with pytest.raises(TypeError, match="makes anew"):
        compiled(lambda: np.sum(W) * np.sum(many[0][0][0] * 2), params(W))()


@pytest.mark.parametrize("many", [0, 20_000])
def test_a_long_list_of_numbers_hides_nothing(many):
    held = [0.0] * many + [X]
    follows(lambda: np.sum(W * (held[-1] * 2)), X, recorded=1)


def test_how_often_what_it_finds_is_repeated_may_be_an_argument():
    loss = lambda often: np.sum(W * V.repeat(often)[:3])
    f = compiled(loss, params(W))
    for often in ([1, 2, 3], [3, 0, 1], [1, 2, 3]):
        assert bits(f(np.array(often))) == bits(withgradient(lambda: loss(often), params(W)))


def test_names_of_attributes_are_not_those_of_globals():
    follows(lambda: np.sum(W * (X - X.mean(axis=0)).T), X, recorded=1)


T = np.ones(300_000)


def test_an_error_that_the_loss_catches_is_caught():
    S = np.eye(3)

    def loss():
        try:
            C = np.linalg.cholesky(S)
        except np.linalg.LinAlgError:
            C = np.linalg.cholesky(S + 5 * np.eye(3))
        return np.sum(C @ W)

    f = compiled(loss, params(W))
    for corner in (1.0, -2.0, 3.0):
        S[0, 0] = corner
        assert bits(f()) == bits(withgradient(loss, params(W)))


# --- What must not be touched ---------------------------------------------------------------------------


class Closing:
    closed = False

    def __init__(self):
        self.data = np.ones(3)

    def __del__(self):
        Closing.closed = True


class Alone:
    one = None

    def __new__(cls):
        cls.one = cls.one or super().__new__(cls)
        return cls.one

    def __init__(self):
        self.data = np.ones(3)


class Registered:
    every = []  # noqa: RUF012

    def __new__(cls, *_):
        new = super().__new__(cls)
        cls.every.append(new)
        return new

    def __init__(self):
        self.data = np.ones(3)


class Rebuilt:
    def __init__(self):
        self.raw, self.made = np.ones(3), None

    @property
    def data(self):
        return self.raw * 2

    def __getstate__(self):
        return {"raw": self.raw.tolist()}

    def __setstate__(self, state):
        self.raw = np.array(state["raw"])


@pytest.mark.parametrize("kind", [Closing, Alone, Registered, Rebuilt])
def test_what_has_its_own_ways_to_be_copied_is_not_copied(kind):
    it, Closing.closed = kind(), False
    data, held = it.raw if kind is Rebuilt else it.data, dict(vars(it))
    follows(lambda: np.sum(W * (it.data * 2) + np.eye(3)[0]), data)
    assert not Closing.closed
    assert vars(it).keys() == held.keys()
    assert all(vars(it)[name] is x for name, x in held.items())
    assert [type(x.data) for x in Registered.every] == [np.ndarray] * len(Registered.every)
    assert len(Registered.every) <= 1


class Own(collections.abc.MutableMapping):
    def __init__(self):
        self._held = {}

    def __getitem__(self, key):
        return self._held[key]

    def __setitem__(self, key, x):
        self._held[key] = x

    def __delitem__(self, key):
        del self._held[key]

    def __iter__(self):
        return iter(self._held)

    def __len__(self):
        return len(self._held)


KEEPING = {
    "a chain of dicts": (ChainMap({}), lambda it, x: it.update(h=x), lambda it: it["h"]),
    "an own mapping": (Own(), lambda it, x: it.update(h=x), lambda it: it["h"]),
    "an array of objects": (
        np.empty(1, object), lambda it, x: operator.setitem(it, 0, x), lambda it: it[0]
    ),
    "a closure": (SimpleNamespace(), lambda it, x: setattr(it, "h", lambda: x), lambda it: it.h()),
    "a partial": (SimpleNamespace(), lambda it, x: setattr(it, "h", partial(abs, x)), lambda it: it.h()),
    "a method": (SimpleNamespace(), lambda it, x: setattr(it, "h", Kept(x).get), lambda it: it.h()),
    "a list with data": ([X], lambda it, x: it.append(x), lambda it: it[-1]),
}  # fmt: skip


class Kept:
    def __init__(self, x):
        self.x = x

    def get(self):
        return self.x


@pytest.mark.parametrize("of_data", [False, True])
@pytest.mark.parametrize("name", KEEPING)
def test_what_is_kept_is_put_back_in(name, of_data):
    it, keep, kept = KEEPING[name]

    def loss(x):
        keep(it, np.mean(X) if of_data else dropgrad(W * x))
        return np.sum(W * x) + np.sum(X * 2)

    with pytest.raises(TypeError, match="keeps what it computes in"):
        compiled(loss, params(W))(np.ones(3))
    assert type(kept(it)) is (np.float64 if of_data else np.ndarray)


def test_a_number_may_be_appended_to_a_list_with_data():
    log = [X]

    def loss():
        log.append(1.0)
        return np.sum(W * (log[0] * 2))

    follows(loss, X)


def test_what_cannot_be_asked_is_not_asked():
    gone = Proxied()
    proxy = weakref.proxy(gone)
    del gone
    follows(lambda: np.sum(W * (X * 2)) + (0 if PROXIED else proxy.X), X)


def test_a_large_model_is_recorded_in_time():
    """The cost of copies grows with the model, not with its square."""

    class Node:
        def __init__(self, parent):
            self.parent, self.children, self.x = parent, [], np.ones(3)

    def steps(n):
        root = Node(None)
        for _ in range(n):
            root.children.append(Node(root))
        f = compiled(lambda: np.sum(W * (root.children[0].parent.x * 2)), params(W))
        count = 0

        def tick(*_):
            nonlocal count
            count += 1

        before = sys.getprofile()
        sys.setprofile(tick)
        try:
            f()
        finally:
            sys.setprofile(before)
        return count

    assert steps(400) < 6 * steps(100)


ONLY_ONCE = {
    "a generator": lambda xs: (x for x in xs),
    "map": lambda xs: map(np.asarray, xs),
    "iter": iter,
    "filter": lambda xs: filter(np.any, xs),
}


@pytest.mark.parametrize("give", ONLY_ONCE.values(), ids=ONLY_ONCE)
@pytest.mark.parametrize("rest", [lambda: 0.0, lambda: np.sum(W)], ids=["nothing else", "more"])
def test_an_argument_that_is_used_up_is_refused_as_that_and_a_list_is_not(give, rest):
    loss = lambda held: sum((np.sum(W * x) for x in held["xs"]), rest())
    program, xs = compiled(loss, params(W)), [np.ones(3), X]
    with pytest.raises(TypeError, match="used up when it has been gone through once: pass a list"):
        program({"xs": give(xs)})
    assert program({"xs": xs}).val == loss({"xs": xs})


def test_what_keeps_a_value_is_named_as_it_is_reached():
    class Layer:
        def __init__(self):
            self.W, self.out = param(np.ones(3)), None

        def __call__(self, x):
            self.out = self.W * x
            return self.out

    model = SimpleNamespace(layers=[[Layer()], [np.sin, Layer()]])
    loss = lambda: np.sum(model.layers[1][1](X))
    with pytest.raises(TypeError, match=r"keeps what it computes in layers\[1\]\[1\]\.out, which"):
        compiled(loss, params(model.layers[1][1].W))()


CHANGES = {
    "fill_diagonal": lambda x: np.fill_diagonal(x, 0.0),
    "copyto": lambda x: np.copyto(x, 1.0),
    "put": lambda x: np.put(x, [0], 1.0),
    "place": lambda x: np.place(x, x > 0, [1.0]),
    "putmask": lambda x: np.putmask(x, x > 0, 1.0),
    "put_along_axis": lambda x: np.put_along_axis(x, np.zeros((3, 1), int), 1.0, 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_argument_that_the_loss_changes_is_refused_as_that(name):
    def loss(x):
        CHANGES[name](x)
        return np.sum(W @ x)

    with pytest.raises(TypeError, match=f"np.{name} changes an array that is not under differentiation, an"):
        compiled(loss, params(W))(np.eye(3))


WRITES = {
    "out": lambda into: np.multiply(X, 2, out=into),
    "out of a method": lambda into: (X * 1).clip(0, 1, out=into),
    "out of a function": lambda into: np.cumsum(X, out=into),
    "an index": lambda into: into.__setitem__(..., X * 2),
    "in place": lambda into: operator.iadd(into[:], 1),
    "copyto": lambda into: np.copyto(into, X),
    "at": lambda into: np.add.at(into, [0], 1.0),
}  # fmt: skip


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_the_loss_writes_into_large_arrays_is_refused_and_written_once(write, monkeypatch):
    into, twin = np.zeros(3), np.zeros(3)

    def loss():
        write(into)
        return np.sum(W * into)

    write(twin)
    monkeypatch.setattr(reach, "COMPARED", 0)
    with pytest.raises(TypeError, match=r"_found.py, line .*(writes|assigns|changes) (into )?an "):
        compiled(loss, params(W))()
    assert bits(into) == bits(twin)


@pytest.mark.parametrize("size", [3, 300_000])
def test_what_the_loss_changes_of_data_that_no_stand_in_reaches_is_seen(size):
    class Held:
        data = np.zeros(size)

        def __deepcopy__(self, memo):
            raise NotImplementedError

    held = Held()

    def loss():
        held.data[:] += 1
        return np.sum(W * held.data[:3])

    def only_read():
        return np.sum(W * held.data[:3])

    held.data = Held.data
    with pytest.raises(TypeError, match=r"changes (held|Held)\.data in place"):
        compiled(loss, params(W))()
    assert compiled(only_read, params(W))().val == only_read()


class Series:  # as of pandas, whose array only pandas reaches
    __module__ = "pandas"

    def __init__(self, numbers):
        self._mgr = np.array(numbers)

    def __array__(self, dtype=None, copy=None):
        return self._mgr.astype(dtype or self._mgr.dtype)

    shape = property(lambda self: self._mgr.shape)
    iloc = property(lambda self: self._mgr)

    def copy(self):
        return Series(self._mgr)

    def equals(self, other):
        return bool((self._mgr == other._mgr).all())

    def memory_usage(self):
        return self._mgr.nbytes


@pytest.mark.parametrize(
    "loss",
    [lambda y: np.sum(W * np.asarray(y, float)), lambda y: np.sum(W**2 / np.asarray(y, float).mean())],
)
@pytest.mark.parametrize("dtype", [float, object])
def test_what_pandas_holds_is_compared_with_what_it_was(loss, dtype):
    y = Series(np.array([1.0, 2.0, 4.0], dtype))
    by_name, by_argument = compiled(lambda: loss(y), params(W)), compiled(loss, params(W))
    for value in (1.0, 5.0, 7.0):
        y._mgr[0] = value
        assert by_name().val == by_argument(y).val == loss(y)


def test_masks_count_as_numbers_do():
    o = np.ma.array([1.0, -2.0, 3.0], mask=[0, 1, 0])
    losses = [
        lambda: np.sum(W * o.filled(0.0)),
        lambda: np.sum(W) * np.sum(~o.mask),
        lambda: np.sum(W * o.data),
    ]
    programs = [compiled(loss, params(W)) for loss in losses]
    for change in (lambda: None, lambda: o.__setitem__(0, np.ma.masked), lambda: o.__setitem__(1, 5.0)):
        change()
        for loss, f in zip(losses, programs, strict=True):
            assert f().val == loss()


@pytest.mark.parametrize(
    "count",
    [len, np.size, lambda x: x.shape[0], lambda x: np.zeros_like(x).sum() + x.size],
    ids=["len", "size", "shape", "both"],
)
def test_how_many_elements_a_mask_picks_counts_though_nobody_uses_them(count):
    labels, data = np.array([0, 1, 1]), np.array([1.0, np.nan, 2.0])
    losses = [
        lambda s: s * np.sum(W**2) / count(labels[labels == 1]),
        lambda s: s * np.sum(W**2) / count(data[~np.isnan(data)]),
        lambda s: s * np.sum(W**2) / count(np.repeat(labels, labels + 1)),
    ]
    programs = [compiled(loss, params(W)) for loss in losses]
    for i in range(3):
        labels[i], data[i] = 1 - labels[i], 0.5
        for loss, f in zip(losses, programs, strict=True):
            assert f(1.0).val == loss(1.0)


@pytest.mark.parametrize(
    ("check", "good", "bad", "error"),
    [
        (np.linalg.cholesky, np.eye(3), -np.eye(3), np.linalg.LinAlgError),
        (np.linalg.inv, np.eye(3), np.zeros((3, 3)), np.linalg.LinAlgError),
        (lambda K: np.linalg.solve(K, W), np.eye(3), np.zeros((3, 3)), np.linalg.LinAlgError),
        (lambda i: W[i], np.arange(3), np.arange(3) + 5, IndexError),
        (lambda i: np.take(W, i), np.arange(3), np.arange(3) + 5, IndexError),
    ],
)
def test_what_a_loss_computes_as_a_check_is_one_in_its_program(check, good, bad, error):
    def loss(x):
        check(x)
        return np.sum(W * x)

    f = compiled(loss, params(W))
    f(good)
    for call in (lambda: loss(bad), lambda: f(bad)):
        with pytest.raises(error):
            call()
    assert f(good).val == loss(good)


def test_classes_of_arguments_may_change_in_another_thread():
    class Config:
        scale = 1.0

    done = threading.Event()

    def change():
        while not done.is_set():
            for i in range(50):
                setattr(Config, f"name{i}", i)
            for i in range(50):
                delattr(Config, f"name{i}")

    thread, interval = threading.Thread(target=change), sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)
        thread.start()
        for _ in range(2000):
            assert key_of(Config(), [])
            assert key_of(Config, [])
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_what_a_loss_changes_of_pandas_is_put_back():
    y = Series([1.0, 2.0, 4.0])

    def loss():
        y.iloc[0] += 1
        return np.sum(W * np.asarray(y))

    with pytest.raises(TypeError, match="compiled: "):
        compiled(loss, params(W))()
    assert y.iloc[0] == 2.0  # by the loss itself, which has run once


OF_OBJECTS = {
    "a number": (lambda a: np.sum(W) * a["of"][0], 2.0, 5.0),
    "a function": (lambda a: np.sum(a["of"][0](W)), np.sin, np.cos),
    "an array": (lambda a: np.sum(W * (a["of"][0] * 2)), np.arange(3.0), np.ones(3)),
}


@pytest.mark.parametrize("is_record", [False, True])
@pytest.mark.parametrize("name", OF_OBJECTS)
def test_what_an_array_of_objects_holds_counts_as_it_is(name, is_record):
    loss, old, new = OF_OBJECTS[name]
    records = np.zeros(2, [("of", object), ("n", int)])
    a = records if is_record else {"of": records["of"].copy()}
    a["of"][0] = old
    f = compiled(lambda: loss(a), params(W))
    for some in (old, new, old):
        a["of"][0] = some
        for _ in range(2):
            assert bits(f()) == bits(withgradient(lambda: loss(a), params(W)))
    assert f._recorded == 3


def test_an_array_of_objects_that_the_loss_changes_is_refused_and_changed_once():
    a = np.array([1.0, X, None], object)

    def loss():
        a[0] += 1.0
        return np.sum(W * a[1])

    with pytest.raises(TypeError, match="changes a in place"):
        compiled(loss, params(W))()
    assert a[0] == 2.0
    assert a[1] is X


class Layer:
    def __init__(self):
        self.mean = np.zeros(3)

    def __call__(self):
        return self.mean


class Of(Layer):
    """Has what is looked at in the class."""

    mean = np.zeros(3)

    def __init__(self):
        pass


@functools.singledispatch
def weighed(layer):
    return 7.0


@weighed.register
def _(layer: Of):
    return 2.0


def ways_to_know(a):
    by, ids, of_kind, of_method, of_pair = {a: 2.0}, {id(a)}, {type(a): 2.0}, {a.__call__: 2.0}, {(a, 1): 2.0}
    return {
        "an object": lambda: by.get(a, 7.0),
        "a class": lambda: of_kind.get(type(a), 7.0),
        "a method": lambda: of_method.get(a.__call__, 7.0),
        "a tuple": lambda: of_pair.get((a, 1), 7.0),
        "a dict in it": lambda by={"a": {a: 2.0}}: by["a"].get(a, 7.0),
        "an object, weakly": lambda by=weakref.WeakKeyDictionary(by): by.get(a, 7.0),
        "an object, not to be changed": lambda by=types.MappingProxyType(by): by.get(a, 7.0),
        "an id": lambda: 2.0 if id(a) in ids else 7.0,
        "an id by another name": lambda of=id: 2.0 if of(a) in ids else 7.0,
        "what dispatches": lambda: weighed(a),
    }


def test_beside_large_data_a_loss_may_write_into_an_array_of_its_own():
    data = np.linspace(-1, 1, 200_000).reshape(-1, 2)
    small = np.arange(4.0)

    def loss():
        out = small.copy()
        out -= out.mean()
        return (2.0 if out.max() > 1 else 1.0) * np.sum(data @ W[:2])

    assert bits(compiled(loss, params(W))()) == bits(withgradient(loss, params(W)))
    assert data.flags.writeable


def test_parameters_may_be_counted_by_their_ids_beside_data_that_the_loss_makes_anew():
    data = np.linspace(-1, 1, 200_000).reshape(-1, 2)

    def loss():
        seen, total = set(), 0.0
        for p in (W, W):
            if id(p) not in seen:
                seen.add(id(p))
                total = total + np.sum(p**2)
        return total + np.sum((data - data.mean(axis=0)) @ W[:2])

    f = compiled(loss, params(W))
    for _ in range(2):
        assert bits(f()) == bits(withgradient(loss, params(W)))
        data[0] += 1.0


@pytest.mark.parametrize("key", [lambda a: a, lambda a: (0, a), lambda a: type(a)])
def test_a_dict_that_is_an_argument_is_keyed_by_what_the_loss_knows(key):
    a = Layer()
    loss = lambda weights: np.sum(W**2) + np.sum(W * a()) * weights.get(key(a), 7.0)
    f = compiled(loss, params(W))
    for mean in (0.0, 1.0, 3.0):
        a.mean[...] = mean
        assert bits(f({key(a): 2.0})) == bits(withgradient(lambda: loss({key(a): 2.0}), params(W)))


@pytest.mark.parametrize("kind", [Layer, Of])
@pytest.mark.parametrize("name", ways_to_know(Layer()))
def test_what_is_known_by_which_object_it_is_is_known_of_copies(name, kind):
    a = kind()
    weight = ways_to_know(a)[name]
    loss = lambda: np.sum(W**2) + np.sum(W * a()) * weight()
    f = compiled(loss, params(W))
    try:
        for mean in (0.0, 1.0, 3.0):  # of the first it does not count what the weight is
            a.mean[...] = mean
            assert bits(f()) == bits(withgradient(loss, params(W)))
    finally:
        a.mean[...] = 0.0


@pytest.mark.parametrize(
    "seen", [np.asarray, lambda x: np.asarray(x)[:2], lambda x: np.asarray(x).reshape(-1)]
)
def test_a_change_through_what_asarray_gives_of_a_found_array_is_refused_and_made_once(seen):
    found, W = np.arange(1.0, 4.0), param(np.ones(3))

    def loss():
        seen(found)[0] += 1
        return np.sum(W * found)

    f = compiled(loss, params(W))
    for times in (1, 2):
        with pytest.raises(RefusedError, match="loss changes found in place"):
            f()
        assert found.tolist() == [1.0 + times, 2, 3]


def test_a_dict_is_looked_into_whatever_its_own_items_are():
    class Shy(dict):
        def items(self):
            return [(key, x * 2) for key, x in dict.items(self)]

    data, W = Shy(x=np.array([1.0, 2.0, 6.0])), param(np.array([0.5, 0.7, 1.5]))
    loss = lambda: np.sum(W**2 * (data["x"] - data["x"].mean()))
    f = compiled(loss, params(W))
    for x in (1.0, 2.0, 6.0), (5.0, 1.0, 0.0):
        data["x"][...] = x
        assert bits(f()) == bits(withgradient(loss, params(W)))


class Model:
    """What a loss finds by names: an attribute, one of the class, items of a list and a dict, a function."""

    training = True

    def __init__(self):
        self.β, self.layers, self.settings, self.mask = 0.5, [np.tanh], {"rate": 2.0}, np.ones(3)
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        h = self.layers[0](W * x) * self.settings["rate"] * self.mask
        return (self.β if self.training else 1.0) * h


MODEL, SCALE = Model(), 1.0
REBOUND = {
    "an attribute": lambda: setattr(MODEL, "β", 1.5),
    "an array": lambda: setattr(MODEL, "mask", np.array([0.0, 1.0, 2.0])),
    "over one of the class": lambda: setattr(MODEL, "training", False),
    "one of the class": lambda: setattr(Model, "training", False),
    "an item of a list": lambda: MODEL.layers.__setitem__(0, np.sin),
    "a list": lambda: setattr(MODEL, "layers", [np.exp]),
    "an item of a dict": lambda: MODEL.settings.update(rate=3.0),
    "a method": lambda: setattr(Model, "__call__", lambda self, x: self.β * W * x),
    "a global variable": lambda: globals().update(SCALE=4.0),
    "an object": lambda: globals().update(MODEL=Rival()),
    "another class": lambda: setattr(MODEL, "__class__", Rival),
    "nothing": lambda: delattr(MODEL, "β"),
}


class Rival:
    def __call__(self, x):
        return 3 * W * x


@pytest.mark.parametrize("name", REBOUND)
def test_a_program_goes_by_what_names_are_bound_to_now(name, monkeypatch):
    monkeypatch.setitem(globals(), "MODEL", Model())
    for of, attribute in ((Model, "training"), (Model, "__call__")):
        monkeypatch.setattr(of, attribute, vars(of)[attribute])
    monkeypatch.setitem(globals(), "SCALE", 1.0)
    factor = 1.0

    def loss(x):
        return np.sum(MODEL(x)) * SCALE * factor

    f, x = compiled(loss, params(W)), np.array([0.3, 0.6, -0.2])
    for change in (lambda: None, REBOUND[name], lambda: None):
        change()
        if name == "nothing" and not hasattr(MODEL, "β"):
            with pytest.raises(AttributeError, match="β"):
                f(x)
            return
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))
    before = f._recorded
    assert before == 2
    factor = 2.0
    assert f(x).val == loss(x)
    monkeypatch.setitem(globals(), "SCALE", float(repr(SCALE)))  # the same number
    assert f(x).val == loss(x)
    assert f._recorded == before + 1


def test_what_a_loss_counts_itself_is_no_change():
    model = Model()
    loss = lambda x: np.sum(model(x))
    f = compiled(loss, params(W))
    for i in range(5):
        f(np.full(3, 0.1 * i))
        loss(X)
    assert f._recorded == 1


def test_what_an_argument_holds_is_compared_as_an_argument():
    f = compiled(lambda model, x: np.sum(model(x)) * SCALE, params(W))
    for model in (Model(), Model(), Model()):
        model.β = 3.0
        model.calls = 7
        assert f(model, X).val == np.sum(model(X)) * SCALE


def test_a_callback_may_change_what_a_compiled_training_computes():
    def trained(is_compiled):
        V, decay = param(np.array([1.0, -2.0, 0.5])), SimpleNamespace(rate=0.0)
        loss = lambda x: np.sum((V - x) ** 2) + decay.rate * np.sum(V**2)
        anneal = lambda progress: setattr(decay, "rate", progress.epoch / 4)
        train(loss, params(V), [X, X * 2], Descent(0.05), epochs=5, each_epoch=anneal, compiled=is_compiled)
        return V.value.tolist()

    assert trained(True) == trained(False)


def test_of_very_many_things_that_a_loss_finds_not_all_are_compared(monkeypatch):
    monkeypatch.setattr(bindings, "MOST", 10)
    few, many = {"a": 1.0}, {f"a{i}": float(i) for i in range(20)}
    for held in (few, many):
        f = compiled(lambda x, held=held: np.sum(W * x) * held[min(held)], params(W))
        before = f(X).val
        held[min(held)] = 3.0
        assert (f(X).val == before) == (held is many)


class Sized(list):
    """A list that tells another length than it has."""

    def __len__(self):
        return 0


LISTED, RECENT = Sized([2.0]), deque([2.0])


def doubled(x, by=2.0):
    return x * by


@pytest.mark.parametrize(
    ("factor", "change"),
    [
        (lambda: LISTED[0], lambda: LISTED.__setitem__(0, 3.0)),
        (lambda: sum(LISTED), lambda: LISTED.append(3.0)),
        (lambda: RECENT[0], lambda: RECENT.__setitem__(0, 3.0)),
        (lambda: sum(RECENT), lambda: RECENT.append(3.0)),
        (lambda: doubled(1.0), lambda: setattr(doubled, "__defaults__", (3.0,))),
        (lambda: doubled(1.0), lambda: setattr(doubled, "__code__", (lambda x, by: x + by).__code__)),
        (lambda: MODEL.scaled(), lambda: setattr(MODEL, "scaled", lambda: 3.0)),
    ],
)
def test_a_program_goes_by_what_lists_queues_and_functions_hold_now(factor, change, monkeypatch):
    loss = lambda x: np.sum(W * x) * factor()
    monkeypatch.setattr(Model, "scaled", lambda self: 2.0, raising=False)
    monkeypatch.setitem(globals(), "MODEL", Model())
    f, code = compiled(loss, params(W)), doubled.__code__
    try:
        f(X)
        change()
        assert f(X).val == loss(X)
        assert f._recorded == 2
    finally:
        doubled.__code__, doubled.__defaults__ = code, (2.0,)


def tripled(x, *, by=3.0):
    return x * by * tripled.times


tripled.times = 1.0
FROZEN, ORDERED, U = {"head"}, {"a": np.sin, "b": np.exp}, param([1.0, 2.0])
PENALISED = params(U)
RATE: ContextVar[float] = ContextVar("RATE", default=2.0)


@pytest.mark.parametrize(
    ("factor", "change", "back"),
    [
        (
            lambda: tripled(1.0),
            lambda: tripled.__kwdefaults__.update(by=4.0),
            lambda: tripled.__kwdefaults__.update(by=3.0),
        ),
        (
            lambda: tripled(1.0),
            lambda: setattr(tripled, "times", 4.0),
            lambda: setattr(tripled, "times", 1.0),
        ),
        (lambda: RATE.get(), lambda: RATE.set(3.0), lambda: RATE.set(2.0)),
        (lambda: 2.0 + ("body" in FROZEN), lambda: FROZEN.add("body"), lambda: FROZEN.discard("body")),
        (
            lambda: reduce(lambda x, f: f(x), ORDERED.values(), 1.0),
            lambda: ORDERED.update(a=ORDERED.pop("a")),
            lambda: ORDERED.update(b=ORDERED.pop("b")),
        ),
        (
            lambda: 1.0 + sum(np.sum(p**2) for p in PENALISED),
            lambda: PENALISED.discard(U),
            lambda: PENALISED.add(U),
        ),
    ],
    ids=["keyword", "attribute of a function", "context variable", "set", "order", "parameters"],
)
def test_a_program_goes_by_what_functions_and_sets_hold_now(factor, change, back):
    loss = lambda x: np.sum(W * x) * factor()
    f = compiled(loss, params(W))
    try:
        assert bits(f(X)) == bits(f(X)) == bits(withgradient(lambda: loss(X), params(W)))
        change()
        assert bits(f(X)) == bits(f(X)) == bits(withgradient(lambda: loss(X), params(W)))
        assert f._recorded == 2
    finally:
        back()


class Rated:
    rate = 1.0


class Masked(Rated):
    """May get a mask, and a rate of its own."""

    def tried(self):
        try:
            return self.mask
        except AttributeError:
            return 1.0

    def asked(self):
        return self.mask if hasattr(self, "mask") else 1.0

    def by_class(self):
        return self.rate


@pytest.mark.parametrize("way", ["tried", "asked", "by_class"])
def test_a_program_goes_by_attributes_that_were_not_there(way, monkeypatch):
    model = Masked()
    factor = {"tried": model.tried, "asked": model.asked, "by_class": model.by_class}[way]
    loss = lambda x: np.sum(W * x * factor())
    f = compiled(loss, params(W))
    before = f(X).val
    if way == "by_class":
        monkeypatch.setattr(Masked, "rate", 3.0)
    else:
        model.mask = np.array([0.0, 1.0, 1.0])
    assert f(X).val == loss(X) != before
    model.log = [1.0]  # nobody looks for that
    assert f(X).val == loss(X)
    assert f._recorded == 2


class Listed(UserList):
    pass


class Named(UserDict):
    pass


@pytest.mark.parametrize("held", [Listed([2.0, X.copy()]), Named({0: 2.0, 1: X.copy()})])
def test_a_program_goes_by_what_a_class_of_ones_own_holds_as_pythons_do(held):
    loss = lambda x: np.sum(W * x * held[0] * held[1])
    f = compiled(loss, params(W))
    for change in (lambda: None, lambda: held.__setitem__(0, 3.0), lambda: held[1].__imul__(2)):
        change()
        assert bits(f(X)) == bits(withgradient(lambda: loss(X), params(W)))


TABLE = {"s": 2.0, "t": X.copy()}
VIEWS = {
    "a proxy": MappingProxyType(TABLE),
    "a proxy of a proxy": MappingProxyType(MappingProxyType(TABLE)),
    "a chain": ChainMap({}, TABLE),
    "a proxy of a chain": MappingProxyType(ChainMap({}, TABLE)),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_program_goes_by_the_items_that_a_mapping_of_pythons_shows_of_others(kind, monkeypatch):
    view = VIEWS[kind]
    loss = lambda x: np.sum(W * x * view["s"] * view["t"]) + len(view)
    f = compiled(loss, params(W))
    assert f(X).val == f(X).val == loss(X)
    assert f._recorded == 1
    for key, value in (("s", 3.0), ("t", np.array([2.0, 0.5, 1.0])), ("u", 0.0)):
        monkeypatch.setitem(TABLE, key, value)
        assert bits(f(X)) == bits(withgradient(lambda: loss(X), params(W)))
    assert f._recorded == 4


class Lazy:
    """Makes what it needs when it is first called, and counts its calls."""

    shift, tables, calls = None, {}, 0

    def __call__(self, x):
        self.calls += 1
        if not hasattr(self, "mask"):
            self.mask = np.ones(3)
        if self.shift is None:
            self.shift = np.zeros(3)
        if len(x) not in self.tables:
            self.tables[len(x)] = np.arange(1.0, len(x) + 1)
        return W * x * self.mask * self.tables[len(x)] + self.shift


@pytest.mark.parametrize("what", ["mask", "shift", "tables"])
def test_a_program_goes_by_what_the_loss_has_made_when_it_was_first_called(what, monkeypatch):
    monkeypatch.setattr(Lazy, "tables", {})
    model, other = Lazy(), np.array([2.0, 0.5, 1.0])
    loss = lambda x: np.sum(model(x) ** 2)
    f = compiled(loss, params(W))
    before = f(X).val
    for _ in range(3):
        assert f(X).val == loss(X) == before
    assert f._recorded == 1
    if what == "tables":
        Lazy.tables[3] = other
    else:
        setattr(model, what, other)
    assert f(X).val == f(X).val == loss(X) != before
    assert f._recorded == 2


losses = types.ModuleType("losses")
losses.mse = lambda ŷ, y: np.mean((ŷ - y) ** 2)


@dataclass
class State:
    W: Any
    step: int = 0
    seen: list = field(default_factory=list)


class Trainer:
    """Its attributes have names that its loss uses for functions of modules."""

    def __init__(self):
        self.state, self.losses, self.log, self.norm = State(param(X.copy())), [], [], 0.0
        self.logger, self.shape = logging.getLogger(__name__), (3,)

    def loss(self, x):
        self.logger.debug("%s", "loss")
        penalty = np.log(1.0 + np.linalg.norm(self.state.W)) * len(self.shape)
        return losses.mse(self.state.W, x) + penalty

    def step(self, f, x):
        value = f(x).val
        self.state.step += 1
        self.state.seen.append(value)
        self.losses.append(value)
        self.log.append(self.state.step)
        self.norm, self.shape = float(value), np.shape(x)
        logging.getLogger(f"{__name__}.{self.state.step}")
        return value


def test_what_a_loss_does_not_use_may_change():
    trainer = Trainer()
    f = compiled(trainer.loss, params(trainer.state.W))
    for i in range(4):
        assert trainer.step(f, X * i) == trainer.loss(X * i)
    assert f._recorded == 1


def test_the_warning_of_many_recordings_names_what_has_changed():
    state, rate = SimpleNamespace(step=0), 1.0

    def loss(x):
        return np.sum(W * x) * rate + state.step

    def count():
        state.step += 1

    def anneal():
        nonlocal rate
        rate *= 0.9

    def call_often(f, change):
        for _ in range(16):
            change()
            assert f(X).val == loss(X)

    for name, change in (("step", count), ("rate", anneal)):
        with pytest.warns(UserWarning, match=f"recorded 16 times.* The last to change was '{name}'"):
            call_often(compiled(loss, params(W)), change)


class Module:
    """Its attributes are set, and shown, by whatever name."""

    def __init__(self):
        self.W, self.seen = param(X.copy()), 0

    def __setattr__(self, name, value):
        self.__dict__[name] = value

    def __repr__(self):
        return f"Module({vars(self)})"


def test_what_only_sets_or_shows_attributes_uses_none():
    model = Module()
    f = compiled(lambda x: np.sum(model.W * x), params(model.W))
    for model.seen in range(4):
        assert f(X).val == np.sum(model.W * X)
    assert f._recorded == 1


def test_fields_in_a_pattern_are_used():
    W, state = param(X.copy()), State(None)

    def loss(x):
        match state:
            case State(_, step):
                return np.sum(W * x) * step
        return np.sum(W)

    f = compiled(loss, params(W))
    for state.step in (2, 3):
        assert f(X).val == loss(X)


def test_what_cannot_be_compared_is_left_out():
    class Rates(dict):
        pass

    rates = Rates(rate=2.0)
    proxy = weakref.proxy(rates)  # what `dict.keys` does not take
    f = compiled(lambda x: np.sum(W * x) * proxy["rate"], params(W))
    assert f(X).val == 2 * np.sum(W * X)


def test_a_large_dict_leaves_room_for_others(monkeypatch):
    monkeypatch.setattr(bindings, "MOST", 30)
    words, rate = {f"a{i}": float(i) for i in range(50)}, [2.0]
    f = compiled(lambda x: np.sum(W * x) * rate[0] + words["a1"], params(W))
    before = f(X).val
    rate[0] = 4.0
    assert f(X).val == 2 * (before - 1.0) + 1.0
