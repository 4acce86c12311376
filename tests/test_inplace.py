"""Assignment under differentiation means what it means in NumPy, for every name and view.

Random programs of assignments, views, aliases and reads are run three times: by NumPy, recorded, and with
functional updates, in which no array ever changes. INPLACE_EXAMPLES=10000 runs as many of them.
"""

import operator
import os
import runpy
import tracemalloc

import numpy as np
import pytest
from beside_numpy import UFUNCS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minidiff import (
    check_gradient,
    compiled,
    derivative,
    dropgrad,
    gradient,
    guard,
    hvp,
    jacobian,
    jvp,
    param,
    params,
    pullback,
    withgradient,
)
from minidiff.functions import zeros
from minidiff.program import lines
from minidiff.program.listing import RefusedError

EXAMPLES = int(os.environ.get("INPLACE_EXAMPLES", "100"))

VIEWS = {
    "T": lambda a: a.T,
    "reshape": lambda a: a.reshape(-1),
    "reshape in Fortran's order": lambda a: a.reshape(-1, order="F"),
    "ravel": lambda a: a.ravel(),
    "np.ravel": np.ravel,
    "first": lambda a: a[:1],
    "back": lambda a: a[::-1],
    "last row": lambda a: a[-1:],
    "every other": lambda a: a[..., ::2],
    "newaxis": lambda a: a[None],
    "squeeze": lambda a: a.squeeze(),
    "np.squeeze": np.squeeze,
    "split": lambda a: np.split(a, [1])[-1],
    "array_split": lambda a: np.array_split(a, 2, axis=-1)[0],
    "alias": lambda a: a,
    "a row": lambda a: next(iter(a)) if a.ndim > 1 else a,
    "rows": lambda a: list(a)[-1] if a.ndim > 1 else a,
    "real": lambda a: a.real,
    "np.real": np.real,
    "imag": lambda a: a.imag if a.dtype.kind == "c" else a,
    "swapaxes": lambda a: a.swapaxes(0, -1),
    "moveaxis": lambda a: np.moveaxis(a, 0, -1),
    "expand_dims": lambda a: np.expand_dims(a, -1),
    "atleast_2d": np.atleast_2d,
    "flip": np.flip,
    "rot90": lambda a: np.rot90(a) if a.ndim > 1 else a,
    "diagonal": lambda a: a.diagonal() if a.ndim > 1 else a,
    "np.diag": lambda a: np.diag(a) if a.ndim == 2 else a,
    "broadcast_to": lambda a: np.broadcast_to(a, (2, *a.shape)),
    "fancy": lambda a: a[[0, -1]],
    "masked": lambda a: a[a.real > 0.5],
    "taken": lambda a: np.take(a, [0, -1]),
    "copy": lambda a: a.copy(),
    "np.copy": np.copy,
    "plus": lambda a: +a,
    "flatten": lambda a: a.flatten(),
    "flat": lambda a: a.flat[:2],
    "astype": lambda a: a.astype(a.dtype),
    "times": lambda a: 0.5 * a,
    "tile": lambda a: np.tile(a, 1),
    "zeros_like": np.zeros_like,
    "meshgrid": lambda a: np.meshgrid(a.ravel(), a.ravel()[:2])[0],
}
INDICES = {
    "all": lambda a: ...,
    "everything": lambda a: slice(None),
    "first": lambda a: 0,
    "last": lambda a: -1,
    "slice": lambda a: slice(0, 2),
    "step": lambda a: slice(None, None, 2),
    "back": lambda a: (slice(None, None, -1), ...),
    "newaxis": lambda a: (None, 0),
    "an element": lambda a: (0,) * a.ndim,
    "none": lambda a: slice(0, 0),
    "beyond": lambda a: 7,
    "mask": lambda a: a.real > 0.5,
    "mask of rows": lambda a: np.arange(len(a)) % 2 == 0,
    "fancy": lambda a: [0, -1, 0],
    "fancy and slice": lambda a: (slice(None), [0, 0]) if a.ndim > 1 else [0, 0],
}
AUGMENTED = {
    "+=": (operator.iadd, operator.add),
    "-=": (operator.isub, operator.sub),
    "*=": (operator.imul, operator.mul),
    "/=": (lambda a, b: operator.itruediv(a, 2 + b * b), lambda a, b: a / (2 + b * b)),
    "**=": (lambda a, b: operator.ipow(a, 2), lambda a, b: a**2),
    "//=": (lambda a, b: operator.ifloordiv(a, 0.7), lambda a, b: a // 0.7),
    "%=": (lambda a, b: operator.imod(a, 0.7), lambda a, b: a % 0.7),
    "@=": (
        lambda a, b: operator.imatmul(a, np.eye(a.shape[-1]) * b.ravel()[0]),
        lambda a, b: a @ (np.eye(a.shape[-1]) * b.ravel()[0]),
    ),
}


def elements(change):
    """Make a functional update of one that goes element by element."""

    def update(a, w):
        items = list(a.ravel())
        change(items, a, w.ravel())
        return np.stack(items).reshape(a.shape).astype(a.dtype)

    return update


def each(pairs):
    """Put elements: `pairs` gives place and value."""

    def change(items, a, w):
        for i, x in pairs(a, w):
            items[i] = x

    return elements(change)


def at(operate):
    def change(items, a, w):
        places = np.arange(a.size).reshape(a.shape)[[0, -1, 0]].reshape(3, -1)
        for i, x in zip(places, w[[0, 0, -1]], strict=True):
            for j in i:
                items[j] = operate(items[j], x)

    return elements(change)


def rows(a, w):
    """Three values for three rows; NumPy's `at` writes into what is read-only, too."""
    if not a.flags.writeable:
        raise ValueError("read-only")
    return w[[0, 0, -1]].reshape((3,) + (1,) * (a.ndim - 1))


def positive(a):
    return a.real > 0.5


def diagonal(a, w):
    n = min(a.shape)
    return [(int(np.ravel_multi_index((i,) * a.ndim, a.shape)), w[i % len(w)]) for i in range(n)]


def masked(a, w):
    return list(zip(np.flatnonzero(positive(a)), [w[i % len(w)] for i in range(a.size)], strict=False))


def fill_diagonal(a, w):
    if a.ndim > 2 or (a.ndim == 2 and a.shape[0] > a.shape[1]):
        raise ValueError("of other shapes the diagonal is another")
    np.fill_diagonal(a, w)


def partition(a, w):
    if a.ndim > 1:
        raise ValueError("autograd has a gradient of vectors alone")
    a.partition(a.size // 2)


def set_flat(a, w):
    a.flat = w


def set_in_flat(a, w):
    a.flat[-1] = w[0]


def set_imaginary(a, w):
    if a.dtype.kind == "c":
        a.imag = w[0].real
    else:
        a.real = w[0]


def add_through_a_view(a, w):
    a[1:] += w[-1]


# In place, with an array `a` and a vector `w`; and as a function that gives the array afterwards.
CHANGES = {
    "fill": (lambda a, w: a.fill(w[0]), lambda a, w: np.zeros(a.shape) + w[0]),
    "sort": (lambda a, w: a.sort(), lambda a, w: np.sort(a)),
    "partition": (partition, lambda a, w: np.partition(a, a.size // 2)),
    "put": (lambda a, w: a.put([0, -1, 0], w), each(lambda a, w: zip((0, -1, 0), (w[0], w[1 % len(w)],
        w[2 % len(w)]), strict=True))),
    "np.put": (lambda a, w: np.put(a, [a.size], w, mode="wrap"), each(lambda a, w: [(0, w[0])])),
    "place": (lambda a, w: np.place(a, positive(a), w), each(masked)),
    "putmask": (lambda a, w: np.putmask(a, positive(a), w), each(lambda a, w: [(int(i), w[i % len(w)])
        for i in np.flatnonzero(positive(a))])),
    "copyto": (lambda a, w: np.copyto(a, w[-1], where=positive(a)),
        lambda a, w: np.where(positive(a), w[-1], a)),
    "fill_diagonal": (fill_diagonal, each(diagonal)),
    "put_along_axis": (lambda a, w: np.put_along_axis(a, np.zeros((*a.shape[:-1], 1), int), w[0], -1),
        lambda a, w: np.where(np.arange(a.shape[-1]) == 0, w[0], a)),
    "add.at": (lambda a, w: np.add.at(a, [0, -1, 0], rows(a, w)), at(operator.add)),
    "subtract.at": (lambda a, w: np.subtract.at(a, [0, -1, 0], rows(a, w)), at(operator.sub)),
    "multiply.at": (lambda a, w: np.multiply.at(a, [0, -1, 0], rows(a, w)), at(operator.mul)),
    "out": (lambda a, w: np.add(a, w[0], out=a), lambda a, w: a + w[0]),
    "out of a function": (lambda a, w: np.cumsum(a, axis=0, out=a), lambda a, w: np.cumsum(a, axis=0)),
    "out of a method": (lambda a, w: np.add.accumulate(a, axis=0, out=a), lambda a, w: np.cumsum(a, axis=0)),
    "out where": (lambda a, w: np.divide(w[0], a, out=a, where=positive(a)),
        lambda a, w: np.where(positive(a), w[0] / np.where(positive(a), a, 1), a)),
    "flat": (set_flat, each(lambda a, w: [(i, w[i % len(w)]) for i in range(a.size)])),
    "in flat": (set_in_flat, each(lambda a, w: [(-1, w[0])])),
    "imag": (set_imaginary, lambda a, w: a.real + 1j * w[0].real if a.dtype.kind == "c" else w[0] + 0 * a),
    "through a view": (add_through_a_view,
        lambda a, w: a + w[-1] * (np.arange(len(a)) > 0).reshape((-1,) + (1,) * (a.ndim - 1))),
    "normalise": (lambda a, w: operator.isub(a, np.mean(a)), lambda a, w: a - np.mean(a)),
    "a helper": (lambda a, w: operator.itruediv(a, 1 + np.sum(a * np.conj(a)).real),
        lambda a, w: a / (1 + np.sum(a * np.conj(a)).real)),
    "from itself": (lambda a, w: operator.setitem(a, slice(1, None), a[:-1]),
        lambda a, w: np.concatenate([a[:1], a[:-1]])),
}  # fmt: skip

number = st.integers(0, 9)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("view"), number, st.sampled_from(sorted(VIEWS)), number),
        st.tuples(st.just("assign"), number, st.sampled_from(sorted(INDICES)), number),
        st.tuples(st.just("add to"), number, st.sampled_from(sorted(INDICES)), number),
        st.tuples(st.just("augment"), number, st.sampled_from(sorted(AUGMENTED)), number),
        st.tuples(st.just("change"), number, st.sampled_from(sorted(CHANGES)), number),
        st.tuples(st.just("read"), number, st.none(), number),
    ),
    min_size=3,
    max_size=14,
)


class InPlace:
    """Names as NumPy has them. What it does is noted: which steps fail, which results are views."""

    def __init__(self, x):
        self.names, self.failures, self.views = [x], [], []

    def get(self, i):
        return self.names[i % len(self.names)]

    def attempt(self, do):
        try:
            do()
        except (ValueError, IndexError, TypeError):
            self.failures.append(True)
        else:
            self.failures.append(False)

    def view(self, i, name):
        a = self.get(i)
        self.attempt(lambda: self.names.append(VIEWS[name](a)))
        if not self.failures[-1] and type(a) is np.ndarray:
            new = self.names[-1]
            self.views.append((np.empty_like(new, int), np.may_share_memory(a, new)))

    def put(self, i, index, w):
        self.attempt(lambda: operator.setitem(self.get(i), index, w))

    def change(self, i, pair, w):
        self.attempt(lambda: pair[0](self.get(i), w))


class Functional:
    """Every name is a vector, the places in it that it shows, and which part; no array ever changes."""

    def __init__(self, x, noted):
        self.vectors, self.names = [x.ravel()], [(0, np.arange(x.size).reshape(x.shape), "whole")]
        self.failures, self.views = iter(noted.failures), iter(noted.views)

    def get(self, i):
        vector, places, part = self.names[i % len(self.names)]
        a = self.vectors[vector][places.ravel()].reshape(places.shape)
        return {"whole": lambda: a, "real": lambda: a.real, "imag": lambda: a.imag}[part]()

    def view(self, i, name):
        if next(self.failures):
            return
        (places, is_view), a = next(self.views), self.get(i)
        vector, shown, part = self.names[i % len(self.names)]
        if is_view:
            if a.dtype.kind == "c" and name.removeprefix("np.") in ("real", "imag"):
                part = name.removeprefix("np.")
            self.names.append((vector, VIEWS[name](shown), part))
            return
        places[...] = np.arange(places.size).reshape(places.shape)
        self.vectors.append(VIEWS[name](a).ravel())
        self.names.append((len(self.vectors) - 1, places, "whole"))

    def put(self, i, index, w):
        def update(a, w):
            if not w.size:
                return a
            numbers = np.full(a.shape, -1)
            numbers[index] = np.arange(w.size).reshape(w.shape)
            return np.where(numbers < 0, a, w.ravel()[np.maximum(numbers, 0)])

        self.change(i, (None, update), np.asarray(w) if type(w) is float else w)

    def change(self, i, pair, w):
        if next(self.failures):
            return
        vector, places, part = self.names[i % len(self.names)]
        if not places.size:
            return
        a, old = self.get(i), self.vectors[vector]
        new = pair[1](a, w)
        if new.dtype != a.dtype:
            new = new.astype(a.dtype)
        whole = old[places.ravel()].reshape(places.shape)
        if part == "real":
            new = new + 1j * whole.imag
        elif part == "imag":
            new = whole.real + 1j * new
        where = np.full(old.size, -1)
        where[places.ravel()] = np.arange(places.size)
        self.vectors[vector] = np.where(where < 0, old, new.ravel()[np.maximum(where, 0)])


def run(kind, program, x, *rest):
    """Run a program; give a number that depends on all there is in the end, and was meanwhile."""
    state = kind(x * 1, *rest)
    total = 0.0
    for what, i, name, j in program:
        a, w = state.get(i), state.get(j)
        size = np.sum(w * w) * 0.1 + np.ravel(x)[1]
        size = size if a.dtype.kind == "c" else size.real
        if what == "view":
            state.view(i, name)
        elif what == "read":
            total = total + np.sum(np.sin(a.real) * a)
        elif what == "augment":
            state.change(i, AUGMENTED[name], np.cos(a) if j % 2 else size + np.zeros(1))
        elif what == "change":
            state.change(i, CHANGES[name], np.stack([size, np.sin(size), 0.5 * size]))
        else:
            index = INDICES[name](a)
            try:
                part = a[index]
            except IndexError:
                part = a
            if what == "add to":
                state.put(i, index, part + size)
            else:
                state.put(i, index, [size + np.zeros(()), np.cos(part) * size, part[..., :1] * 2, 0.7][j % 4]
                    if part.ndim else size + np.zeros(()))  # fmt: skip
    for i in range(len(state.names)):
        a = state.get(i)
        total = total + np.sum(np.tanh(a.real) * (i + 1 + np.arange(a.size).reshape(a.shape)))
        total = total + np.sum(a.imag) if a.dtype.kind == "c" else total
    return total.real, state


def bits(a):
    """Give the bytes of an array, of what is not a number always the same ones."""
    numbers = np.array(a).ravel().view(a.real.dtype)
    numbers[np.isnan(numbers)] = np.nan
    return numbers.tobytes()


@st.composite
def programs(draw):
    dtype = draw(st.sampled_from(["f8"] * 4 + ["f4", "c16"]))
    shape = draw(st.sampled_from([(3, 2), (4,), (2, 2), (3, 1, 2), (2, 3)]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x, d = rng.uniform(0.1, 1.1, (2, *shape))
    if dtype == "c16":
        x, d = x + 1j * rng.uniform(0.1, 1.1, shape), d + 1j * rng.standard_normal(shape)
    return draw(steps), x.astype(dtype), d.astype(dtype)


@pytest.mark.filterwarnings("ignore:(Mean of empty|invalid value):RuntimeWarning")
@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 100)
@given(programs())
def test_a_program_of_assignments_means_what_numpy_means(case):
    program, x, d = case
    with np.errstate(all="ignore"):
        outside, noted = run(InPlace, program, x)
        inside = []

        def loss(x):
            value, state = run(InPlace, program, x)
            inside.append(state)
            return value

        value, (g,) = withgradient(loss, x)
        assert inside[0].failures == noted.failures
        for a, b in zip([dropgrad(a) for a in inside[0].names], noted.names, strict=True):
            assert (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b))
        assert bits(value) == bits(outside)
        if not np.isfinite(outside) or abs(outside) > 1e4 or x.dtype == "f4" or np.max(np.abs(g)) > 1e5:
            return
        functional = lambda x: run(Functional, program, x, noted)[0]
        np.testing.assert_allclose(functional(x), outside, rtol=1e-12)
        np.testing.assert_allclose(g, gradient(functional, x)[0], rtol=1e-9, atol=1e-9)
        if not np.all(np.isfinite(g)):  # 0·∞, of what has overflown and was overwritten
            return
        slope = lambda h: (
            (run(InPlace, program, x + h * d)[0] - run(InPlace, program, x - h * d)[0]) / (2 * h)
        )
        along = slope(1e-6)
        if np.isclose(along, slope(5e-7), rtol=1e-4, atol=1e-4):  # no branch or order changes hereabouts
            np.testing.assert_allclose(np.sum(np.conj(g) * d).real, along, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:(Mean of empty|invalid value):RuntimeWarning")
@settings(max_examples=EXAMPLES // 5, deadline=None, derandomize=EXAMPLES == 100)
@given(programs())
def test_its_second_derivative_is_that_of_the_functional_program(case):
    program, x, d = case
    if x.dtype != "f8":
        return
    with np.errstate(all="ignore"):
        outside, noted = run(InPlace, program, x)
        if not np.isfinite(outside) or abs(outside) > 1e3:
            return
        expected = hvp(lambda x: run(Functional, program, x, noted)[0], x, d)
        if np.max(np.abs(expected)) > 1e5:
            return
        np.testing.assert_allclose(
            hvp(lambda x: run(InPlace, program, x)[0], x, d), expected, rtol=1e-7, atol=1e-7
        )


@pytest.mark.filterwarnings("ignore:(Mean of empty|invalid value):RuntimeWarning")
@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 100)
@given(programs())
def test_compiled_it_has_the_bits_of_the_eager_one(case):
    program, x, d = case
    if x.dtype == "c16":  # NumPy rounds a complex product in place otherwise than into a new array
        return
    loss = lambda x: run(InPlace, program, x)[0]
    with np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "SHORT", 0)  # names are used again
        f = compiled(loss)
        for at in (x, x + d, d):
            expected = withgradient(loss, at)
            try:
                value, (g,) = f(at)
            except RefusedError as error:  # a branch on a value, a mask
                refusal = str(error)
                break
            assert (bits(value), bits(g)) == (bits(expected.val), bits(expected.grad[0]))
        else:
            refusal = ""
    assert "does not give" not in refusal


X = np.array([0.5, -1.5, 2.5])


def squared(x):
    b = x * 2
    b[0] = b[1] * b[2]
    b[1:] += b[0]
    return b


def test_derivatives_of_every_order_and_kind():
    check_gradient(squared, X)
    check_gradient(lambda x: gradient(lambda y: np.sum(squared(x * y) ** 2), x)[0], X)
    J = [[0, 4 * X[2], 4 * X[1]], [0, 2 + 4 * X[2], 4 * X[1]], [0, 4 * X[2], 2 + 4 * X[1]]]
    np.testing.assert_allclose(jacobian(squared, X)[0], J)
    value, back = pullback(squared, X)
    for row in (*np.eye(3), *np.eye(3)):
        np.testing.assert_allclose(back(row)[0], row @ J)
    np.testing.assert_array_equal(value, squared(X))


def test_what_was_computed_before_keeps_its_derivative():
    def loss(x):
        b = x * 1
        before, part, name = np.exp(b), b[:1] * 3, b
        b[...] = 7.0
        b *= x
        assert name is b
        return np.sum(before) + np.sum(part) + np.sum(name * name)

    np.testing.assert_allclose(gradient(loss, X)[0], np.exp(X) + [3, 0, 0] + 98 * X)


def test_what_an_inner_gradient_has_used_does_not_change_for_it():
    """An array of the outer gradient is assigned to between the inner one's two ways."""

    def outer(x):
        b = x * 2
        value, back = pullback(lambda w: np.exp(w * b), np.ones(3))
        product, way = pullback(lambda w: w * w, b)
        b[0] = 5.0
        value[...] = 0.0
        product -= 1.0
        return np.sum(back(np.ones(3))[0]) + np.sum(way(np.ones(3))[0]) + np.sum(b) + np.sum(value * product)

    np.testing.assert_allclose(
        gradient(outer, X)[0], 2 * np.exp(2 * X) * (1 + 2 * X) + 4 + np.array([0, 2, 2])
    )


def test_steps_in_place_are_differentiated():
    """A descent within the loss, as in learning to optimise."""

    def learned(rate, anew):
        w = rate * X
        for _ in range(3):
            (g,) = gradient(lambda w: np.sum(w**4), w)
            if anew:
                w = w - rate * g
            else:
                g *= rate
                w -= g
        return np.sum(w**2)

    check_gradient(lambda rate: learned(rate, False), 0.3, tol=1e-5)
    got, expected = (gradient(lambda rate, anew=anew: learned(rate, anew), 0.3)[0] for anew in (False, True))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_gradients_of_two_arguments_do_not_share_memory():
    def loss(x):
        a, b = gradient(lambda a, b: np.sum(x * (a + b)), x, x)
        a *= 2
        return np.sum(b * b)

    np.testing.assert_allclose(gradient(loss, X)[0], 2 * X)


def test_dtypes_are_cast_as_numpy_casts_in_place():
    x = X.astype(np.float32)

    def loss(x, double):
        b = x * 1
        b[0] = np.sum(double)
        b += 0.1
        assert b.dtype == np.float32
        return np.sum(b * b)

    value, (dx, ddouble) = withgradient(loss, x, X)
    assert value == loss(x, X)
    assert (dx.dtype, ddouble.dtype) == (np.float32, np.float64)
    for change in (
        lambda b: operator.setitem(b, 0, np.sum(b) * 1j),
        lambda b: operator.iadd(b, 1j),
        lambda b: np.multiply(b, 1j, out=b),
        lambda b: np.copyto(b, b * 1j),
    ):
        with pytest.raises(TypeError, match=r"complex"):
            gradient(lambda x, change=change: np.sum(change(x * 1)), x)


def test_what_numpy_refuses_is_refused_and_nothing_has_changed():
    def refused(b, change, error):
        with pytest.raises(error):
            change(b)

    def loss(x):
        b = x * 1
        refused(b, lambda b: operator.setitem(b, 5, 1.0), IndexError)
        refused(b, lambda b: operator.setitem(b, slice(2), x), ValueError)
        refused(b, lambda b: operator.iadd(b, np.ones((2, 3))), ValueError)
        refused(b, lambda b: operator.iand(b, 1), TypeError)
        refused(b, lambda b: operator.setitem(np.broadcast_to(b, (2, 3)), 0, 1.0), ValueError)
        refused(b[:, None] * b, lambda a: operator.setitem(a.diagonal(), 0, 1.0), ValueError)
        refused(np.sum(b), lambda a: operator.setitem(a, (), 1.0), TypeError)
        refused(b, lambda b: setattr(b, "imag", 1.0), TypeError)
        refused(b, lambda b: b.fill(x), ValueError)
        return np.sum(b * b)

    value, (g,) = withgradient(loss, X)
    assert value == np.sum(X * X)
    np.testing.assert_allclose(g, 2 * X)


def test_arrays_are_made_to_be_filled():
    makers = {
        "zeros_like": lambda x: np.zeros_like(x, shape=4),
        "ones_like": lambda x: np.ones_like(x, shape=4),
        "empty_like": lambda x: np.empty_like(x, shape=4),
        "full_like": lambda x: np.full_like(x, 2.0, shape=4),
        "zeros": lambda x: zeros(4),
    }
    for make in makers.values():

        def loss(x, make=make):
            z = make(x)
            z[1:] = x
            z[:1] = 3.0
            return np.sum(z**2)

        value, (g,) = withgradient(loss, X)
        assert value == loss(X)
        np.testing.assert_allclose(g, 2 * X)
    assert type(zeros(3)) is np.ndarray
    seen = []
    W = param(X)
    gradient(lambda: seen.append(zeros(3, int)) or np.sum(W), params(W))
    assert type(seen[0]) is np.ndarray


@pytest.mark.parametrize("x", [X[:1], X, X[:1, None]], ids=str)
@pytest.mark.parametrize(
    "copied",
    [
        lambda a: np.tile(a, 2),
        lambda a: np.tile(a, (2, 1)),
        lambda a: np.tile(a, (2, 1, 1)),
        np.block,
        lambda a: np.block([a]),
        lambda a: np.repeat(a, 1),
        lambda a: np.resize(a, a.shape),
    ],
)
def test_what_numpy_copies_does_not_change_with_its_source(copied, x):
    def source_changes(x):
        a = x * 1.0
        b = copied(a)
        a *= 2
        return b

    def copy_changes(x):
        a = x * 1.0
        b = copied(a)
        b *= 2
        return a

    for f in source_changes, copy_changes:
        value, _ = withgradient(lambda x, f=f: np.sum(f(x)), x)
        assert value == np.sum(f(x))
        check_gradient(f, x)


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.divide, np.maximum, np.power])
def test_what_at_puts_into_an_array_is_of_before_the_call(ufunc):
    """Also where the values are the array itself, and an element is named more than once."""

    def itself(x):
        b = x * 1.0
        ufunc.at(b, [2, 2, 0, 2], b)
        return b

    def shifted(x):
        b = x * 1.0
        ufunc.at(b[1:], [0, 1, 1], b[:-1])
        return b

    for f in itself, shifted:
        check_gradient(f, np.array([1.5, 0.5, 1.1, 0.7]))


@pytest.mark.parametrize("ufunc", [np.maximum, np.minimum, np.fmax, np.fmin])
def test_the_best_of_many_values_at_one_place_takes_few_rounds(ufunc):
    rng = np.random.default_rng(0)
    places, x = rng.integers(0, 500, 4000), rng.normal(size=4000)
    places[:2000] = 3

    def best(x):
        b = np.zeros_like(x, shape=500)
        ufunc.at(b, places, x)
        return b

    ((value, (g,)), peak) = peak_of(lambda: withgradient(lambda x: np.sum(best(x) * np.arange(500)), x))
    expected = best(x)
    assert value == np.sum(expected * np.arange(500))
    np.testing.assert_array_equal(g, (x == expected[places]) * places)
    assert peak < 2e6
    f = compiled(lambda x: np.sum(best(x) ** 2))
    for y in (x, -x, np.roll(x, 1)) if ufunc in (np.maximum, np.minimum) else ():
        np.testing.assert_array_equal(f(y).grad[0], withgradient(lambda x: np.sum(best(x) ** 2), y).grad[0])
    check_gradient(lambda v: (ufunc.at(b := 0 * v[:3] + 0.1, [0, 2, 0, 0, 2, 0, 0], v), b)[1], x[:7])


def peak_of(f):
    """What a function gives, and how much memory it takes meanwhile, when it has run before."""
    f()
    tracemalloc.start()
    try:
        return f(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


CLIPS = {
    "clip": lambda x, **to: np.clip(x, 0.4, 0.7, **to),
    "clip by name": lambda x, **to: np.clip(x, a_min=0.5 * x[::-1], a_max=None, **to),
    "x.clip": lambda x, **to: x.clip(0.4, x[0], **to),
    "clip of a constant": lambda x, **to: np.clip(dropgrad(x), x[::-1], 0.7, **to),
}
OF_FLOATS = {name: f for name, f in UFUNCS.items() if f.nout == 1 and {"d->d", "dd->d"} & {*f.types}}
OF_FLOATS.pop("arccosh")  # which has no value here


@pytest.mark.parametrize("f", [*OF_FLOATS.values(), *CLIPS.values()], ids=[*OF_FLOATS, *CLIPS])
@pytest.mark.parametrize("is_itself", [True, False])
def test_where_a_call_leaves_elements_of_its_out_they_keep_their_gradient(f, is_itself):
    more = (0.3,) if getattr(f, "nin", 1) == 2 else ()
    x, mask = np.array([0.31, 0.45, 0.62, 0.83, 0.94]), np.array([True, False, True, True, False])

    def left(x):
        x = +x
        out = x if is_itself else np.sin(x)
        assert f(x, *more, out=out, where=mask) is out
        return np.sum(out**2)

    def chosen(x):
        return np.sum(np.where(mask, f(x, *more), x if is_itself else np.sin(x)) ** 2)

    (value, (g,)), (expected, (h,)) = withgradient(left, x), withgradient(chosen, x)
    assert value == expected
    np.testing.assert_allclose(g, h, rtol=1e-14)


def assign_element(z, w):
    z[0] = w[0]


def assign_all(z, w):
    z[:] = w


def add_to_element(z, w):
    z[0] += w[0]


@pytest.mark.parametrize(
    "write",
    [
        assign_element,
        assign_all,
        add_to_element,
        lambda z, w: operator.iadd(z, w),
        lambda z, w: np.add(w, w, out=z),
        lambda z, w: np.add.at(z, [0], w[0]),
        lambda z, w: np.copyto(z, w),
        lambda z, w: np.fill_diagonal(z[:, None], w),
    ],
)
def test_a_plain_array_that_meets_a_recorded_value_says_what_to_write(write):
    with pytest.raises(TypeError, match=r"np\.zeros_like.*x\.copy.*minidiff\.functions\.zeros"):
        gradient(lambda x: np.sum(write(np.zeros(3), x * 1)), X)


def test_an_array_of_an_outer_gradient_cannot_hold_what_an_inner_one_computes():
    def outer(x):
        b = x * 1
        return np.sum(gradient(lambda w: operator.setitem(b, 0, w[0]) or np.sum(w), x)[0])

    with pytest.raises(TypeError, match="inner loss"):
        gradient(outer, X)


def test_what_has_left_its_gradient_is_not_changed_under_an_outer_one():
    def outer(x):
        kept = []
        gradient(lambda w: np.sum(kept.append(w * 2) or w * x), x)
        kept[0][0] = 1.0
        return np.sum(x)

    with pytest.raises(TypeError, match="has ended"):
        gradient(outer, X)


@pytest.mark.parametrize(
    "name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "setitem"]
)
def test_what_is_left_of_a_gradient_changes_in_place_for_every_name_and_view(name):
    def change(x):
        args = (0, 5.0) if name == "setitem" else (np.full((2, 2), 3.0),)
        return getattr(operator, name)(x, *args)

    kept = []
    loss = lambda W: np.sum(kept.append(W * 2) or kept[-1] ** 2)
    gradient(loss, np.array([[1.0, 2.0], [3.0, 4.0]]))
    h, plain = kept[0], np.array([[2.0, 4.0], [6.0, 8.0]])
    view, same = h[1], h
    changed = change(h)
    assert name == "setitem" or changed is same
    change(plain)
    np.testing.assert_array_equal(same, plain)
    np.testing.assert_array_equal(view, plain[1])
    with pytest.raises(TypeError, match=r"A change \(__\w+__\) of an array of a gradient that has ended"):
        gradient(lambda W: (gradient(loss, W), change(kept[-1]), np.sum(W))[-1], plain)


# Functions whose derivative is written with their result.
WITH_RESULT = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sqrt": np.sqrt,
    "1 / x": lambda x: 1 / x,
    "x / x.T": lambda x: x / x.T,
    "power": lambda x: x**1.5,
    "cumprod": lambda x: np.cumprod(x, axis=1),
    "max": lambda x: np.max(x, axis=0, keepdims=True) * np.ones((2, 1)),
    "inv": np.linalg.inv,
    "solve": lambda x: np.linalg.solve(x, x.T),
    "cholesky": lambda x: np.linalg.cholesky(x @ x.T),
    "qr": lambda x: np.linalg.qr(x)[0],
}


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"partition"}))  # which is of vectors alone
@pytest.mark.parametrize("function", sorted(WITH_RESULT))
def test_a_derivative_reads_its_result_as_it_was_before_a_change(function, change):
    do, instead = CHANGES[change]

    def changed(x, w):
        a = WITH_RESULT[function](x)
        do(a, w)
        return a

    x, w = np.array([[2.1, 0.3], [0.4, 1.7]]), np.array([0.9, 1.3])
    check_gradient(changed, x, w)
    loss = lambda f: lambda x, w: np.sum(f(x, w) * np.array([[1.0, 2.0], [3.0, 5.0]]))
    found = gradient(loss(changed), x, w)
    expected = gradient(loss(lambda x, w: instead(WITH_RESULT[function](x), w)), x, w)
    for g, h in zip(found, expected, strict=True):
        np.testing.assert_allclose(0 if g is None else g, 0 if h is None else h, atol=1e-12)


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"partition"}))
def test_complex_numbers_change_in_place_as_by_a_function(change):
    do, instead = CHANGES[change]

    def changed(x, w):
        a = x * np.array([[1 + 2j, 0.5j], [2 - 1j, 3 + 0.1j]])
        do(a, w)
        return a

    def made(x, w):
        return instead(x * np.array([[1 + 2j, 0.5j], [2 - 1j, 3 + 0.1j]]), w)

    x, w = np.array([[2.1, 0.3], [0.4, 1.7]]), np.array([0.9, 1.3])
    np.testing.assert_allclose(changed(x, w), made(x, w))
    for part in (np.real, np.imag):
        loss = lambda f, part=part: lambda x, w: np.sum(part(f(x, w)) * np.array([[1.0, 2.0], [3.0, 5.0]]))
        found, expected = gradient(loss(changed), x, w), gradient(loss(made), x, w)
        for g, h in zip(found, expected, strict=True):
            np.testing.assert_allclose(0 if g is None else g, 0 if h is None else h, atol=1e-12)


def test_a_part_of_an_array_is_put_where_nothing_of_it_lies():
    def symmetric(u):
        K = np.outer(u, u * [1, 2, 3, 4])
        for i in range(4):
            K[i + 1 :, i] = K[i, i + 1 :]
        return np.sum(K * np.arange(16.0).reshape(4, 4))

    u = np.array([1.0, 0.5, 2.0, 3.0])
    assert withgradient(symmetric, u).val == symmetric(u)
    check_gradient(symmetric, u)


def test_views_in_lists_of_lists_are_read_one_after_another():
    def turned(x, take=lambda a: a):
        y = x * 1.0
        y[:] = [[take(y[1, 0]), y[0, 1]], [take(y[0, 0]), y[1, 1]]]
        return np.sum(y * np.arange(12.0).reshape(2, 2, 3))

    x = np.arange(12.0).reshape(2, 2, 3)
    with pytest.raises(NotImplementedError, match="NumPy reads what it has just written"):
        gradient(turned, x)
    of_copies = lambda x: turned(x, np.copy)
    assert withgradient(of_copies, x).val == of_copies(x)


@pytest.mark.parametrize("args", [(), ("K",), ("C",), ("F",), ("A",), ("K", "unsafe", True)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_astype_gives_the_array_itself_where_numpy_does(args, order):
    plain = np.arange(6.0).reshape(2, 3, order=order)
    for copy in (True, False):
        for do in (
            lambda x, copy=copy: x.astype(float, *args, copy=copy),
            lambda x, copy=copy: x.astype(float, *(args + ("K", "unsafe", True)[len(args) :]), copy),
        ):

            def f(x, do=do):
                y = x * 1
                z = do(y)
                z[0] = 9
                return np.sum(y * [1, 2, 3]) + 2 * np.sum(z)

            value, (g,) = withgradient(f, plain)
            assert value == f(plain)
            is_same = do(plain) is plain
            np.testing.assert_array_equal(g, [[0, 0, 0] if is_same else [1, 2, 3], [3, 4, 5]])


def test_the_gradient_by_an_array_without_axes_is_one_within_a_gradient_too():
    def f(x):
        (g,) = gradient(lambda t: t**3, (x * 1)[...])
        same = g
        g += 1
        return same * 1

    x = np.array(2.0)
    value, (g,) = withgradient(f, x)
    assert value == f(x) == 13
    assert g == 12


def test_a_loop_of_assignments_does_not_keep_what_nobody_sees():
    def path(x, n):
        p = np.zeros_like(x, shape=(n, 2))
        p[0] = x[:2]
        for i in range(n - 1):
            p[i + 1] = p[i] + 0.1 * p[i, ::-1]
        return np.sum(p**2)

    tracemalloc.start()
    gradient(lambda x: path(x, 400), X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 400 * 2 * 8  # as many copies of the path as it has points


def test_it_is_compiled():
    W = param(X)

    def loss(x):
        b = W * x
        b[0] = b[1] * b[2]
        part = b[1:]
        part *= x[0]
        z = zeros(2)
        for i in range(2):
            z[i] = b[i] * W[i]
        b.sort()
        return np.sum(b[0] * z)

    step = compiled(loss, params(W))
    for x in (np.array([1.0, 2.0, 3.0]), np.array([0.5, -2.0, 1.0])):
        value, grads = step(x)
        expected = withgradient(lambda x=x: loss(x), params(W))
        assert value == expected.val
        np.testing.assert_array_equal(grads[W], expected.grad[W])


PUTS = {
    "copyto": lambda v, m, i, w: np.copyto(v, w[:, None], where=m),
    "putmask": lambda v, m, i, w: np.putmask(v, m, w),
    "place": lambda v, m, i, w: np.place(v, m, w),
    "put": lambda v, m, i, w: np.put(v, i, w),
    "put, wrapped": lambda v, m, i, w: np.put(v, i + 9, w, mode="wrap"),
    "put_along_axis": lambda v, m, i, w: np.put_along_axis(v, i[:, None] % 3, w[:, None], axis=1),
    "put_along_axis, flat": lambda v, m, i, w: np.put_along_axis(v, i, w[:2], axis=None),
    "flat[i]": lambda v, m, i, w: operator.setitem(v.flat, i, w),
    "flat[mask]": lambda v, m, i, w: operator.setitem(v.flat, m.ravel(), w),
    "x[mask]": lambda v, m, i, w: operator.setitem(v, m, w[0]),
    "x[i]": lambda v, m, i, w: operator.setitem(v, i % 2, w[:, None]),
}


@pytest.mark.parametrize(
    "mask", [[[1, 0, 1], [0, 0, 1]], [[0, 1, 0], [1, 1, 1]], [[0] * 3] * 2, [[1] * 3] * 2]
)
@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
def test_values_are_put_where_numpy_puts_them(put, mask):
    mask, places, seen = np.array(mask, bool), np.array([4, 1]), []

    def after(x, w):
        v = x * 2
        put(v, mask, places, w)
        seen.append(v * 1)
        return v

    x, w = np.linspace(0.5, 1.0, 6).reshape(2, 3), np.array([3.0, 5.0])
    check_gradient(after, x, w)
    seen.clear()
    gradient(lambda x, w: np.sum(after(x, w)), x, w)
    np.testing.assert_array_equal(dropgrad(seen[0]), after(x, w))


@pytest.mark.parametrize("of", [lambda x: x[:0], lambda x: np.zeros(0)], ids=["recorded", "plain"])
@pytest.mark.parametrize("mask", [[[0] * 3] * 2, [[1, 0, 1], [0, 0, 1]]], ids=["nowhere", "somewhere"])
@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
def test_where_there_is_nothing_to_put_it_is_as_in_numpy(put, mask, of):
    mask, nowhere = np.array(mask, bool), np.array([], int)

    def after(x):
        v = (x * 2).reshape(2, 3)
        put(v, mask, nowhere, of(x))
        return v

    x = np.linspace(0.5, 1.0, 6)
    try:
        expected = after(x)
    except (ValueError, IndexError, TypeError) as error:
        with pytest.raises(type(error)):
            gradient(lambda x: np.sum(after(x)), x)
    else:
        assert expected.tolist() == (2 * x).reshape(2, 3).tolist()
        value, (g,) = withgradient(lambda x: np.sum(after(x) ** 2), x)
        assert value == np.sum(expected**2)
        np.testing.assert_allclose(g, 8 * x)


@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
def test_compiled_the_places_and_the_values_may_be_others_every_time(put, tmp_path):
    W, rng = param(np.linspace(0.5, 1.0, 6).reshape(2, 3)), np.random.default_rng(0)

    def loss(x, m, i, w):
        v = W * x
        put(v, m, i, w * W[:, 0])
        return np.sum(v**2)

    f = compiled(loss, params(W))
    for _ in range(5):
        given = rng.random((2, 3)), rng.random((2, 3)) < 0.7, rng.integers(0, 6, 2), rng.random(2)
        (value, grads), expected = f(*given), withgradient(lambda: loss(*given), params(W))
        assert value == expected.val
        np.testing.assert_array_equal(grads[W], expected.grad[W])
    f.save(tmp_path / "saved.py")
    saved = runpy.run_path(str(tmp_path / "saved.py"))["loss_and_gradient"](W.value, *given)
    np.testing.assert_array_equal(saved[1], expected.grad[W])


def test_what_no_short_line_writes_is_compiled_as_a_call():
    def diagonal(x):
        b = np.sin(x)
        np.einsum("ii->i", b)[:] = x[0]
        return np.sum(b * b)

    def windows(x):
        b = np.sin(x)
        np.lib.stride_tricks.sliding_window_view(b, (2, 2), writeable=True)[0, 0, 0] = 2.0
        return np.sum(b * b)

    for loss in (diagonal, windows):
        f = compiled(loss)
        for x in (np.arange(9.0).reshape(3, 3), np.cos(np.arange(9.0)).reshape(3, 3)):
            (value, (g,)), expected = f(x), withgradient(loss, x)
            assert value == expected.val
            np.testing.assert_array_equal(g, expected.grad[0])


def test_under_the_guard_recorded_arrays_change_as_without():
    with guard():
        (g,) = gradient(lambda x: np.sum(squared(x) ** 2), X)
    np.testing.assert_array_equal(g, gradient(lambda x: np.sum(squared(x) ** 2), X)[0])


def test_what_a_pullback_uses_is_held_until_the_block_of_the_guard_ends():
    used = np.ones(3)
    with guard():
        pullback(lambda x: x * used, used.copy())
        assert not used.flags.writeable
    assert used.flags.writeable


def a_view_of_one_element_after_a_change(x):
    b = x * 2
    b[0] = 1 * x[0]
    e = b[1, ...]
    e += x[0]
    return b[1]


def a_view_of_one_element_changed_twice(x):
    b = x * 2
    e = b[1, ...]
    e *= 2
    e *= 2
    return b[1]


def each_element_by_a_view(x):
    b = x.copy()
    for i in range(3):
        e = b[i, ...]
        e += x[0]
    return np.sum(b)


def a_view_of_a_number(x):
    c = np.zeros_like(x, shape=())
    c[()] = x[0]
    d = c[...]
    d *= 2
    return c**2


def out_is_larger(x):
    b = np.stack([x, x])
    np.multiply(x[None], 2, out=b)
    return np.sum(b)


def out_is_longer(x):
    b = x * 1
    np.negative(x[:1], out=b)
    return np.sum(b)


def out_is_longer_with_views(x):
    b = x * 1
    v = b
    t = b[1:]
    np.exp(x[:1] * 2, out=b)
    t *= 2
    return np.sum(v)


def augmented_by_more_rows(x):
    b = x[None] * 1
    b += np.ones((2, 3))
    return np.sum(b)


def augmented_by_more_elements(x):
    b = x[:1] * 1
    b += x
    return np.sum(b)


def a_real_conjugate(x):
    b = x * 2
    c = b.conj()
    c *= 3
    return np.sum(b)


def astype_without_a_copy(x):
    b = x * 1
    c = np.astype(b, float, copy=False)
    c *= 2
    return np.sum(b)


def windows(x):
    b = x * 1
    c = np.lib.stride_tricks.sliding_window_view(b, 2)
    b *= 2
    return np.sum(c)


def open_meshes(x):
    b = x * 1
    (i,) = np.ix_(b)
    j, k = np.ix_(b, b)
    b *= 2
    return np.sum(i) + np.sum(j * k)


def joined_over_itself(x):
    b = np.outer(x, x) + 1
    np.concatenate([b[1:], b[:1]], out=b)
    return np.sum(b * np.arange(9).reshape(3, 3))


def stacked_over_itself(x):
    b = np.outer(x, x) + 1
    np.stack([b[2], b[1], b[0]], out=b)
    return np.sum(b * np.arange(9).reshape(3, 3))


def flat_from_itself(x):
    b = x * 2
    b.flat[1:] = b[:-1]
    return np.sum(b * [1, 2, 3])


def flat_that_is_kept(x):
    b = x * 2
    elements = b.flat
    b[...] = b[::-1] ** 2
    return np.sum(elements[:2] * x[1:])


def placed_from_itself(x):
    b = x * 2
    np.place(b, [0, 1, 1], b)
    return np.sum(b * [1, 2, 3])


def no_index(x):
    b = x * 2
    b[[]] += 1
    return np.sum(b)


@pytest.mark.parametrize(
    "f",
    [
        a_view_of_one_element_after_a_change,
        a_view_of_one_element_changed_twice,
        each_element_by_a_view,
        a_view_of_a_number,
        out_is_larger,
        out_is_longer,
        out_is_longer_with_views,
        augmented_by_more_rows,
        augmented_by_more_elements,
        a_real_conjugate,
        astype_without_a_copy,
        windows,
        open_meshes,
        joined_over_itself,
        stacked_over_itself,
        flat_from_itself,
        flat_that_is_kept,
        placed_from_itself,
        no_index,
    ],
    ids=lambda f: f.__name__,
)
def test_what_numpy_shares_is_shared_or_refused(f):
    x = np.array([0.3, 1.7, -0.8])
    try:
        expected = f(x)
    except ValueError:
        with pytest.raises(ValueError, match="broadcast"):
            gradient(f, x)
        return
    refusal = ""
    try:
        value, (g,) = withgradient(f, x)
    except (TypeError, NotImplementedError) as error:
        refusal = str(error)
    if refusal:
        assert "copy" in refusal
        return
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    slopes = [(f(x + h) - f(x - h)) / 2e-6 for h in 1e-6 * np.eye(3)]
    np.testing.assert_allclose(g, slopes, rtol=1e-5, atol=1e-7)


def grown(s):
    t = s.copy()
    u = t
    t += s
    np.multiply(t, s, out=t)
    return u * 1


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
def test_an_array_without_axes_changes_as_one_with_some(dtype):
    for shape in ((), (1,), (1, 1)):
        x = np.full(shape, 1.5, dtype)
        loss = lambda x: np.sum(np.abs(grown(x)))
        value, (g,) = withgradient(loss, x)
        assert value == loss(x)
        assert (type(g), g.shape, g.dtype) == (np.ndarray, shape, x.dtype)
        np.testing.assert_allclose(g, 4 * x)
        value, (g,) = compiled(loss)(x)
        assert (value, type(g)) == (loss(x), np.ndarray)
        W = param(x)
        np.testing.assert_allclose(gradient(lambda W=W: loss(W), params(W))[W], 4 * x)


READ_ONLY = {
    "broadcast_to": lambda b: np.broadcast_to(b, (3, 3)),
    "the imaginary part of real numbers": lambda b: np.imag(np.outer(b, b)),
    ".imag": lambda b: (b * np.ones((3, 3))).imag,
    "diagonal": lambda b: np.diagonal(np.array([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]]).T * b, 0, 0, 1),
    "a view of one": lambda b: np.broadcast_to(b, (3, 3)).T[1:],
    "a view of a number that is broadcast": lambda b: np.broadcast_to(b[0] * 2, (3, 3)).T[1:],
    "its real part": lambda b: np.broadcast_to(b[0] * 2, (3, 3)).real,
}
WRITE = {
    "item": lambda a: operator.setitem(a, 0, 1.0),
    "+=": lambda a: operator.iadd(a, 1.0),
    "out=": lambda a: np.add(1, 1, out=a),
    "fill": lambda a: a.fill(1.0),
    "sort": lambda a: a.sort(),
    "copyto": lambda a: np.copyto(a, 1.0),
    "put": lambda a: np.put(a, [0], 1.0),
    "place": lambda a: np.place(a, a > -9, [1.0]),
    "flat": lambda a: operator.setitem(a.flat, 0, 1.0),
    "add.at": lambda a: np.add.at(a, 0, 1.0),
}


@pytest.mark.parametrize("make", READ_ONLY.values(), ids=READ_ONLY)
@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE)
def test_what_is_read_only_outside_is_so_inside(make, write):
    seen = []

    def loss(x):
        a = make(x * 2.0)
        with pytest.raises(ValueError, match="read-only"):
            write(a)
        seen.append(dropgrad(a))
        return np.sum(x)

    loss(X)
    gradient(loss, X)
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE)
def test_what_a_guard_holds_is_not_read_only_to_the_loss(write):
    def loss(x):
        b = x * 2.0
        s = np.sum(b[:2] ** 2)
        write(b[1:])
        return np.sum(b) * s

    with guard():
        value, (g,) = withgradient(loss, X)
    assert value == loss(X)
    np.testing.assert_array_equal(g, gradient(loss, X)[0])


@pytest.mark.parametrize(
    "read",
    [lambda v: v * 2, lambda v: v.shape[0] * v, lambda v: v[:], np.asarray, lambda v: eval(repr(v[0]))],
)
def test_a_view_that_outlives_its_loss_is_read_as_it_was_in_the_end(read):
    kept = []

    def loss(x):
        b = x * 2
        kept.append(b[:2])
        b[0] = 7
        return np.sum(b)

    gradient(loss, np.ones(3))
    np.testing.assert_array_equal(read(kept[0]), read(np.array([7.0, 2.0])))


@pytest.mark.filterwarnings("ignore:you are shuffling")
def test_a_shuffle_of_rows_is_refused_and_one_of_numbers_is_that_of_outside():
    def loss(x):
        b = 1 * x
        np.random.default_rng(0).shuffle(b)
        return np.sum(b * np.arange(1.0, 1 + b.size).reshape(b.shape))

    x = np.arange(6.0) ** 2
    value, (g,) = withgradient(loss, x)
    assert value == loss(x)
    assert sorted(g) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(TypeError, match=r"shuffle\(\).*x\[rng\.permutation\(len\(x\)\)\]"):
        gradient(loss, x.reshape(3, 2))


INTO_ITSELF = {
    "a mask": lambda a: operator.setitem(a, a > 0, a[::-1]),
    "a mask, by another view": lambda a: operator.setitem(a.reshape(1, -1), a[None] > 0, a[:1]),
    "a diagonal": lambda a: np.fill_diagonal(np.reshape(a, (2, 2))[1:], np.reshape(a, (2, 2)).T),
    "ptp": lambda a: np.ptp(a.reshape(2, 2), axis=0, out=a.reshape(2, 2)[0]),
    "vecdot": lambda a: np.vecdot(a.reshape(2, 2), a.reshape(2, 2), out=a[:2]),
    "flat": lambda a: operator.setitem(a.flat, slice(1, None), a[:-1]),
    "place": lambda a: np.place(a, a > 0, a[::-1]),
    "concatenate": lambda a: np.concatenate([a[2:], a[:2]], out=a),
    "a mask in a tuple": lambda a: operator.setitem(a, (a > 0,), a[::-1]),
    "ptp by name": lambda a: np.ptp(a=a.reshape(2, 2), axis=0, out=a.reshape(2, 2)[0]),
    "stack by name": lambda a: np.stack(arrays=[a[2:], a[:2]], out=a.reshape(2, 2)),
}


@pytest.mark.parametrize("name", INTO_ITSELF)
@pytest.mark.parametrize("is_changed", [False, True])
def test_what_numpy_reads_while_it_writes_over_it_is_refused(name, is_changed):
    def loss(p):
        a = p * 1.0
        if is_changed:
            a[0] = 2 * p[1]
        INTO_ITSELF[name](a)
        return np.sum(a)

    p = np.array([1.0, 2.0, 0.5, 3.0])
    loss(p)
    with pytest.raises(NotImplementedError, match="into its own memory: take a copy first"):
        gradient(loss, p)


@pytest.mark.parametrize(
    "put",
    [
        lambda a: operator.setitem(a[:3], a[:3] > 0, a[3:]),
        lambda a: np.fill_diagonal(a[:4].reshape(2, 2), a[4:]),
        lambda a: np.place(a[:3], a[:3] > 0, a[3:]),
        lambda a: np.concatenate([a[:1], a[:1]], out=a[2:4]),
    ],
)
def test_values_may_be_put_from_another_part_of_the_array(put):
    def loss(p):
        a = p * 1.0
        put(a)
        return np.sum(a * np.arange(1.0, 7))

    p = np.array([1.0, 2.0, 0.5, 3.0, 0.7, 1.5])
    value, (g,) = withgradient(loss, p)
    assert value == loss(p)
    np.testing.assert_allclose(g, [loss(p + e) - loss(p) for e in np.eye(6)])  # it is linear


def alternately(t):
    t[:, 0] *= t[:, 1]


def a_slope_between(t):
    np.arctan(t.ravel()[1::2].real, out=t.ravel()[::2].real)


def a_quotient_between(t):
    np.divide(t[1::2], t[::2], out=t[::2])


def at_places_between(t):
    np.multiply.at(t.ravel()[::2], [0, 2, 0], t.ravel()[1:6:2])


def by_keyword_between(t):
    np.clip(t[::2].real, a_min=t[1::2].real ** 2, a_max=t[1::2].real, out=t[::2].real)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
@pytest.mark.parametrize(
    "change",
    [alternately, a_slope_between, a_quotient_between, at_places_between, by_keyword_between],
    ids=lambda f: f.__name__,
)
def test_an_operand_between_the_elements_that_change_rounds_as_in_numpy(change, dtype):
    rng = np.random.default_rng(0)

    def loss(x):
        t = x * 1
        change(t)
        return np.sum(t).real

    for x in rng.random((40, 64, 3, 2)) @ [1, 1j if dtype[0] == "c" else 0.5]:
        x = x.astype(dtype)
        assert withgradient(loss, x).val == loss(x)
    if dtype in ("f8", "c16"):
        check_gradient(loss, x)


@pytest.mark.parametrize("run", [np.cumsum, np.cumprod, np.add.accumulate, np.nancumsum])
def test_a_running_sum_into_an_array_of_another_shape_is_an_error(run):
    with pytest.raises(ValueError, match="the result has 1 axes, out= 0"):
        gradient(lambda p: np.sum(run(p, axis=0, out=np.copy(p[0]))), np.ones(3))
    # NumPy fills a row.
    with pytest.raises(ValueError, match=r"the result has shape \(1, 2\), out= \(3, 2\)"):
        gradient(lambda p: np.sum(run(p[:1], axis=0, out=p * 1)), np.ones((3, 2)))


@pytest.mark.parametrize(
    "index", [((0, 2),), ([0, 2],), (np.array([0, 2]),), ((0,),), (1,), (slice(2),), (...,), (None,)]
)
def test_an_index_in_a_tuple_is_numpys(index):
    def loss(p):
        a = p.reshape(3, 2) * 1.0
        a[index] = a[index] * 10
        a[index] += 1
        return np.sum(a * np.arange(1.0, 7).reshape(3, 2))

    p = np.array([1.0, 2.0, 0.5, 3.0, 0.7, 1.5])
    value, (g,) = withgradient(loss, p)
    assert value == loss(p)
    np.testing.assert_allclose(g, [loss(p + e) - loss(p) for e in np.eye(6)])  # it is linear


@pytest.mark.parametrize("make", [np.copy, lambda x: np.resize(x, ()), np.block, np.fft.fftn, np.fft.ifftn])
@pytest.mark.parametrize("number", [np.sum, lambda q: q[0], lambda q: q[:1].reshape(())[()]])
def test_an_array_without_axes_that_is_made_of_a_number_changes_under_every_name(make, number):
    def f(q):
        v = make(number(q))
        w = v
        w += 1
        w[...] *= 2
        return w * v * 3.0

    q = np.array([3.0, 4.0])
    result = withgradient(f, q)
    assert result.val == f(q)
    h = 1e-6
    slopes = [(f(q + h * d) - f(q - h * d)) / (2 * h) for d in np.eye(2)]
    np.testing.assert_allclose(result.grad[0], slopes, rtol=1e-8)


def test_a_guard_lets_an_empty_view_be_written_to():
    def f(p):
        v = p * 2.0
        u = v * v
        for i in range(len(v) + 1):
            v[i:] *= 0.5
        return np.sum(v * u)

    p = np.ones(3)
    expected = gradient(f, p)
    with guard():
        np.testing.assert_array_equal(gradient(f, p), expected)


@pytest.mark.parametrize("taken", [lambda v: v[::-1][:2], lambda v: v[1:][:2], lambda v: v[2:][::-1][:2]])
def test_a_part_of_a_view_is_filled_from_the_same_part_of_another_view_of_it(taken):
    def loss(x):
        b = x * 1.0
        v = b[:4]
        v[:2] = taken(v)
        return np.sum(b * np.array([1.0, 20, 300, 4000, 50000]))

    x = np.array([2.0, 3, 5, 7, 11])
    value, (g,) = withgradient(loss, x)
    assert value == loss(x)
    np.testing.assert_array_equal(g, [loss(e) for e in np.eye(5)])  # it is linear


@pytest.mark.parametrize("ufunc", [np.add, np.subtract, np.multiply, np.maximum])
@pytest.mark.parametrize("index", [0, slice(1, 3), ..., (..., 1), (0, slice(None)), [0, 1], None], ids=str)
def test_a_part_may_be_added_to_itself_by_at(ufunc, index):
    def loss(x):
        b = x * 1.0
        ufunc.at(b, index, b[index])
        return np.sum(b * b)

    x = np.cos(np.arange(12.0)).reshape(3, 4)
    assert withgradient(loss, x).val == loss(x)
    check_gradient(loss, x)


PARTS_CHANGED = {
    "a slice is set": lambda part, w: operator.setitem(part, slice(1, None), w[1:]),
    "copyto": lambda part, w: np.copyto(part, w),
    "+=": lambda part, w: operator.iadd(part, w),
    "*= of a view": lambda part, w: operator.imul(part[::-2], w[:2]),
    "add.at": lambda part, w: np.add.at(part, [0, 0, 2], w),
    "out": lambda part, w: np.multiply(part, w, out=part),
}


@pytest.mark.parametrize("part", ["real", "imag"])
@pytest.mark.parametrize("change", PARTS_CHANGED.values(), ids=PARTS_CHANGED)
def test_a_part_of_complex_numbers_that_changes_has_gradients_by_all(change, part):
    def f(x, w):
        z = x * np.array([1 + 2j, 0.3 - 1j, 2 + 0.5j])
        change(getattr(z, part), w)
        return np.sum(np.abs(z * (1 + 1j) + z**2) ** 2)

    check_gradient(f, np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.3, 0.7]))
    check_gradient(f, np.array([1 + 1j, 2 - 0.5j, 3]), np.array([0.5, -0.3, 0.7]))


MASK, PLACES = np.array([True, False, True, True]), np.array([2, 0, 3, 3])
CHANGED_AFTERWARDS = {
    "where": (MASK, lambda x, m: np.where(m, x**2, x)),
    "where, nested": (MASK, lambda x, m: np.where([m, ~m], x**3, 0.5)),
    "x[mask]": (MASK, lambda x, m: x[m] ** 2),
    "x[mask], rows": (MASK[:2], lambda x, m: x.reshape(2, 2)[m, 1:] ** 2),
    "x[..., mask]": (MASK, lambda x, m: x[None][..., m] ** 3),
    "compress": (MASK, lambda x, m: np.compress(m, x) ** 2),
    "extract": (MASK, lambda x, m: np.extract(m, x) ** 2),
    "times": (MASK, lambda x, m: x**2 * m),
    "multiply where": (MASK, lambda x, m: np.multiply(x, x, where=m, out=x * 0)),
    "clip where": (MASK, lambda x, m: np.clip(x, 0.6, 2.0, where=m, out=x * 0)),
    "modf where": (MASK, lambda x, m: np.arctan2(x, 2.0, where=m, out=x * 0) ** 2),
    "hypot.reduce where": (MASK, lambda x, m: np.hypot.reduce(x, where=m, initial=1.0)),
    "logaddexp.reduce where": (MASK, lambda x, m: np.logaddexp.reduce(x, where=m, initial=0.0)),
    "piecewise": (MASK, lambda x, m: np.piecewise(x, [m], [lambda x: x**2, lambda x: x**3])),
    "average": (PLACES, lambda x, i: np.average(x**2, weights=i + 1)),
    "times, reflected": (MASK, lambda x, m: m * x**2),
    "multiply": (MASK, lambda x, m: np.multiply(m, np.sin(x))),
    "sum where": (MASK, lambda x, m: np.sum(x**2, where=m)),
    "max where": (MASK, lambda x, m: x * np.max(x, where=m, initial=-9.0)),
    "exp where": (MASK, lambda x, m: np.exp(x, where=m, out=x * x)),
    "select": (MASK, lambda x, m: np.select([m, x > 1], [x**2, x**3], x)),
    "assigned": (MASK, lambda x, m: set_at(x * x, m, 7.0)),
    "putmask": (MASK, lambda x, m: put_by(np.putmask, x * x, m, x**3)),
    "x[places]": (PLACES, lambda x, i: x[i] ** 2),
    "x[[places]]": (PLACES, lambda x, i: x[[i]] ** 2),
    "x[[places, places]]": (PLACES, lambda x, i: np.outer(x, x)[[i, i[::-1]]]),
    "x[[places], [1]]": (PLACES, lambda x, i: np.outer(x, x)[[i], [1]]),
    "pad": (PLACES[:2] + 1, lambda x, i: np.pad(x**2, i)),
    "in a list, to a function of one's own": (PLACES, lambda x, i: listing(x, [i])),
    "in a dict, to a function of one's own": (PLACES, lambda x, i: listing(x, {0: i})),
    "by name, to a function of one's own": (PLACES, lambda x, i: named(x, i=i)),
    "x[places, slice]": (PLACES, lambda x, i: np.outer(x, x)[i, 1:]),
    "take": (PLACES, lambda x, i: np.take(x**2, i)),
    "take_along_axis": (PLACES, lambda x, i: np.take_along_axis(x**2, i, 0)),
    "add.at": (PLACES, lambda x, i: add_at(x * x, i, np.sin(x))),
    "to the power": (PLACES, lambda x, i: x**i),
    "int times": (PLACES, lambda x, i: np.sin(x) * i),
    "repeat": (PLACES, lambda x, i: np.repeat(x**2, i)),
    "choose": (PLACES % 2, lambda x, i: np.choose(i, [x**2, x**3])),
    "argsort": (PLACES, lambda x, i: x[np.argsort(x)][i] ** 2),
}


@derivative(lambda g, ans, x, held: 2 * x * g * held[0])
def listing(x, held):
    return x**2 * held[0]


@derivative(lambda g, ans, x, i: 2 * x * g * i)
def named(x, i):
    return x**2 * i


def set_at(z, i, w):
    z[i] = w
    return z


def add_at(z, i, w):
    np.add.at(z, i, w)
    return z


def put_by(put, z, m, w):
    put(z, m, w)
    return z


@pytest.mark.parametrize(("given", "f"), CHANGED_AFTERWARDS.values(), ids=CHANGED_AFTERWARDS)
def test_a_mask_or_an_index_may_change_once_it_is_used(given, f):
    def loss(x):
        z = 0.0
        m = given.copy()
        for _ in range(2):
            z = z + np.sum(np.ravel(f(x, m)) ** 2)
            m[:] = np.roll(m, 1)  # other elements are picked from here on
        m[:] = 0
        return z

    check_gradient(loss, np.array([0.5, -1.3, 2.2, 0.8]))


def test_a_loop_that_narrows_its_mask_has_its_gradient():
    def loss(x):
        active, u = x > -2, x * 1.0
        for _ in range(3):
            u = np.where(active, u * u * 0.5, u)
            active &= u > 0.5
        return np.sum(u)

    check_gradient(loss, np.array([0.7, -1.3, 2.2]))


@pytest.mark.parametrize("make", [lambda a: 2 * a, np.exp, lambda a: a.copy("F"), lambda a: a.T * 1.0])
@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, lambda x: x.T.copy().T[:, ::-1]])
@pytest.mark.parametrize("order", ["A", "K", "C", "F"])
def test_what_is_written_in_the_order_of_memory_has_its_gradient(order, layout, make):
    x, weights = layout(np.arange(1.0, 7).reshape(2, 3)) / 4, np.cos(np.arange(6.0))

    def loss(a, change):
        y = make(a)
        change(y, a)
        return np.sum(y.ravel() * weights) + np.sum(y**2)

    def through_a_vector(y, a):
        r = y.ravel(order)
        r[1:] += r[:-1] ** 2

    def through_an_array(y, a):
        r = y.reshape((6,), order=order.replace("K", "A"))
        r[2] = a[1, 2] ** 2
        np.add.at(r, [0, 1, 1], a[0])
        r /= r.sum()

    for change in (through_a_vector, through_an_array):
        assert withgradient(lambda a, c=change: loss(a, c), x).val == loss(x, change)
        check_gradient(lambda a, c=change: loss(a, c), x)


def with_gaps(layout):
    """Make a function whose result has gaps in memory, and so is copied where a compact one is viewed."""
    return derivative(lambda g, ans, x: 2 * g)(lambda x: layout(np.repeat(2 * x, 2, axis=-1)))


GAPS = {
    "eigvals": lambda x: np.real(np.linalg.eigvals(x)),  # complex from NumPy 2.5 on
    "gaps": with_gaps(lambda a: a[..., ::2]),
    "gaps, backwards": with_gaps(lambda a: a[..., ::-2]),
    "gaps between columns": with_gaps(lambda a: np.copy(a, order="F")[:, ::2]),
    "gaps between rows": with_gaps(lambda a: np.concatenate([a[:, ::2], a], axis=1)[:, :2]),
}


@pytest.mark.parametrize("make", GAPS.values(), ids=GAPS)
@pytest.mark.parametrize("order", "CFAK")
def test_what_a_change_makes_of_an_array_with_gaps_is_viewed_or_copied_as_before(make, order):
    x = np.array([[0.3, 1.0], [3.0, 4.0]])

    def loss(x):
        a = make(x)
        first = a[..., ::-1]
        for view in (a, a.T, first[1:]):
            view[..., 0] += x[0, 0]
            for r in (a.ravel(order), a.reshape(-1, order=order.replace("K", "A"))):
                r[1:] *= x[0, 1]
        return np.sum(a.T @ np.arange(1.0, 3))

    assert withgradient(loss, x).val == loss(x)
    check_gradient(loss, x, order=2)
    inner = lambda x: np.sum(gradient(loss, x)[0] ** 2)
    assert hvp(loss, x, np.ones((2, 2))).shape == x.shape
    np.testing.assert_allclose(withgradient(inner, x).val, inner(x), rtol=1e-13)


@pytest.mark.parametrize("make", list(GAPS.values())[1:], ids=list(GAPS)[1:])
def test_compiled_an_array_with_gaps_keeps_them_where_it_changes(make):
    def loss(x):
        a = make(x * 1)
        a[0] = x[1]
        a.ravel()[1:] = 0
        return np.sum(a)

    program = compiled(loss)
    for x in (np.eye(2), np.ones((2, 2))):
        assert program(x).val == loss(x) == withgradient(loss, x).val


STARTS = st.sampled_from(
    [slice(None), slice(1, None), slice(None, -1), slice(None, None, -1), slice(None, None, 2)]
)
PARTS = st.tuples(*[st.one_of(STARTS, st.integers(0, 3))] * 2)
PUTS = {
    "=": lambda target, w: operator.setitem(target, ..., w),
    "copyto": np.copyto,
    "copyto, where": lambda target, w: np.copyto(target, w, where=np.ones(np.shape(target)[-1:], bool)),
    "real": lambda target, w: setattr(target, "real", w),
    "+=": lambda target, w: operator.iadd(target, w),
}


@given(st.sampled_from("CF"), st.sampled_from(sorted(PUTS)), *[PARTS] * 2, *[st.booleans()] * 3)
@example("C", "=", (slice(None), 2), (1, slice(None)), False, False, False)
@example("C", "copyto, where", (1, slice(None)), (2, slice(None)), False, True, False)
@example("F", "=", (slice(None), slice(None)), (slice(None, None, -1), slice(None)), False, False, True)
@settings(max_examples=EXAMPLES)
def test_what_is_put_may_be_a_view_of_where_it_is_put(order, how, to, of, turned, from_turned, in_list):
    """It is as in NumPy, or refused where that reads what it has written, and so is not what stands there."""

    def change(a, copied=lambda x: x):
        b = np.multiply(a, 1, order=order)
        target, w = (b.T if turned else b)[to], (b.T if from_turned else b)[of]
        if np.ndim(target) == 0:
            return None
        PUTS[how](target, [*map(copied, w)] if in_list and np.ndim(w) else copied(w))
        return b

    x, weights = np.arange(1.0, 17).reshape(4, 4), np.cos(np.arange(16.0)).reshape(4, 4)
    try:
        expected = change(x, np.copy)
    except ValueError:  # the shapes do not fit
        return
    if expected is None:
        return
    loss = lambda x: np.sum(change(x) * weights)
    if not np.array_equal(change(x), expected):
        with pytest.raises(NotImplementedError, match="into its own memory: take a copy first"):
            gradient(loss, x)
        return
    val, (g,) = withgradient(loss, x)
    assert val == np.sum(expected * weights)
    steps = [np.sum(change(e, np.copy) * weights) for e in np.eye(16).reshape(16, 4, 4)]  # it is linear
    np.testing.assert_allclose(g.ravel(), steps, rtol=1e-12, atol=1e-12)


def test_windows_that_overlap_are_written_to_one_by_one_or_refused():
    windows = np.lib.stride_tricks.sliding_window_view

    def loss(a, change):
        y = a.copy()
        change(windows(y, 2, writeable=True))
        return np.sum(y**2 * np.arange(1, 6))

    fitting = (
        lambda w: operator.imul(w[1], 3.0),
        lambda w: operator.iadd(w[2:, 0], 1.0),
        lambda w: operator.setitem(w, slice(1, 3), 0.0),
        lambda w: operator.setitem(w[::2], w[::2] > 2.5, 0.0),
    )
    for change in fitting:
        program = compiled(lambda a, c=change: loss(a, c))
        for x in (np.arange(1.0, 6), np.arange(5.0, 0, -1)):
            assert program(x).val == loss(x, change)
        check_gradient(lambda a, c=change: loss(a, c), np.arange(1.0, 6))
    for change in (lambda w: operator.imul(w, 3.0), lambda w: operator.setitem(w, slice(1, 3), w[:2])):
        with pytest.raises(NotImplementedError, match="windows that overlap has no gradient: assign to the"):
            gradient(lambda a, c=change: loss(a, c), np.arange(1.0, 6))


def test_a_shape_may_come_as_an_array():
    def loss(x):
        y = x.copy()
        a, b = (y.reshape(np.array([2, 3])) for _ in range(2))
        a[0] = b[1]
        a += 1
        return np.sum(y**3)

    check_gradient(loss, np.arange(6.0))


ROWS = np.ones((4, 3))
NESTED_RESULTS = {
    "gradient": lambda W: gradient(lambda W: np.sum((ROWS @ W.T) ** 4), W)[0],
    "hvp": lambda W: hvp(lambda W: np.sum((ROWS @ W.T) ** 4), W, np.ones((2, 3))),
    "jvp": lambda W: jvp(lambda W: W.T * W.T, (W,), (np.ones((2, 3)),))[1],
    "the value of jvp": lambda W: jvp(lambda W: W.T * 2, (W,), (np.ones((2, 3)),))[0],
    "the value of pullback": lambda W: pullback(lambda W: W.T * 2, W)[0],
    "pullback": lambda W: pullback(lambda W: W.T * W.T, W)[1](np.ones((3, 2)))[0],
    "cumsum": lambda W: gradient(lambda W: np.sum(np.cumsum(W**3, axis=0)), W)[0],
}


@pytest.mark.parametrize("nested", NESTED_RESULTS.values(), ids=NESTED_RESULTS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_a_nested_gradient_gives_is_a_view_or_a_copy_as_it_is_outside(nested, order):
    p = param(np.array(np.arange(1.0, 7).reshape(2, 3), order=order))

    def loss(W):
        g = nested(W)
        for view in (g.ravel(), g.reshape(-1, order="F"), g.T.reshape(6)):
            view[0] *= 2
            view /= np.linalg.norm(view)
        return np.sum(g**2)

    assert withgradient(loss, p.value).val == loss(p.value)
    assert withgradient(lambda: loss(p), params(p)).val == loss(p)
    program = compiled(loss)
    for W in (p.value, 2 * p.value):
        assert program(W).val == loss(W)
    nested = lambda p: gradient(lambda: np.sum((ROWS @ p.T) ** 4), params(p))[p]
    assert withgradient(lambda: loss(p), params(p)).val == loss(p)


def test_under_a_guard_an_array_of_the_loss_changes_at_every_order():
    def f(y):
        b = np.zeros_like(y)
        b[1:] = y[1:]
        b *= y
        return b @ b

    x, v = np.arange(3.0), np.ones(3)
    free = gradient(f, x)[0], hvp(f, x, v), jacobian(lambda x: gradient(f, x)[0], x)[0]
    with guard():
        held = gradient(f, x)[0], hvp(f, x, v), jacobian(lambda x: gradient(f, x)[0], x)[0]
    for a, b in zip(free, held, strict=True):
        np.testing.assert_array_equal(a, b)


def test_under_a_guard_windows_are_let_go_at_every_order():
    windows = np.lib.stride_tricks.sliding_window_view

    def f(x):
        v = x * 2.0
        w = windows(v, 2, writeable=True)
        w[-1] = x[0] * w[0]
        return np.sum(v)

    data = np.arange(1.0, 5)
    seen = windows(data, 2, writeable=True)
    x, v = np.arange(1.0, 4), np.ones(3)
    free = hvp(f, x, v)
    with guard():
        np.testing.assert_array_equal(hvp(f, x, v), free)
        gradient(lambda x: np.sum(seen @ x[:2]) + np.sum(gradient(lambda y: np.sum(data[:3] * y), x)[0]), x)
        shown, capsule = np.ones(3), np.from_dlpack(owner := np.ones(3))
        of_read_only = shown[:]
        shown.flags.writeable = False
        gradient(lambda x: np.sum(x * of_read_only * capsule * owner), x)
    for a in (x, v, data, seen, data[1:], of_read_only, owner):
        assert a.flags.writeable


def test_a_view_that_a_guard_holds_is_let_go_with_its_array():
    a, v = np.ones(3), np.arange(3.0)
    b = a[:2]
    with guard():
        pullback(lambda x: np.sum(x * a), v)
        gradient(lambda x: np.sum(x[:2] * b), v)
        assert not a.flags.writeable
        assert not b.flags.writeable
    assert a.flags.writeable
    assert b.flags.writeable


@pytest.mark.parametrize("casting", ["no", "equiv", "safe", "same_kind"])
def test_copyto_casts_what_its_rule_allows_and_refuses_the_rest_as_numpy_does(casting):
    def copied(w, kind):
        out = np.zeros_like(w, dtype=kind)
        np.copyto(out, w, casting=casting)
        return np.sum(out)

    w = np.array([0.5, 0.25], np.float32)
    for kind in (np.float16, np.float32, np.float64):
        if np.can_cast(w.dtype, kind, casting):
            assert gradient(lambda w, kind=kind: copied(w, kind), w)[0].tolist() == [1, 1]
        else:
            for call in (copied, lambda w, kind: gradient(lambda w: copied(w, kind), w)):
                with pytest.raises(TypeError, match=casting):
                    call(w, kind)
