"""What would give a wrong number without a word is right, or refused with what to write."""

import contextvars
import inspect
import io
import itertools
import numbers
import operator
import os
import pickle
import re
import sys
import threading
from array import array
from collections import UserList, deque

import numpy as np
import pytest
from autograd.misc.flatten import flatten
from autograd.tracer import trace_primitives_map
from beside_numpy import OF_TWO, UFUNCS

from minidiff import (
    Grads,
    Param,
    compiled,
    derivative,
    dropgrad,
    gradient,
    guard,
    hessian,
    param,
    params,
    pullback,
    withgradient,
)
from minidiff.optimise import Descent, update
from minidiff.tracing import constant, record, table
from minidiff.tracing.record import Traced

AUGMENTED = [
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    operator.ifloordiv,
    operator.imod,
]
AUGMENTED += [operator.ipow, operator.imatmul]
OTHERS = {"a number": 2.0, "an array": np.eye(2) + 1}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("operate", AUGMENTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("take", [lambda W: W * 1, lambda W: (W * 1)[:1], lambda W: (W + 1).T, np.exp])
def test_an_array_under_differentiation_changes_under_every_name(take, operate, other):
    W, other = param([[1.0, 2.0], [3.0, 4.0]]), OTHERS[other]
    anew = getattr(operator, operate.__name__[1:])

    def loss(change):
        b = take(W)
        name, part = b, b[:1]
        b = change(b)
        name, part = (name, part) if change is in_place else (b, b[:1])
        return np.sum(np.cos(name) * b) + np.sum(part**2) + np.sum(W)

    def in_place(b):
        changed = operate(b, other)
        assert changed is b
        return changed

    try:
        expected = loss(in_place)
    except ValueError:  # a matrix times a number, or more rows than there are
        with pytest.raises(ValueError, match=r"dimension|shape"):
            gradient(lambda: loss(in_place), params(W))
        return
    value, grads = withgradient(lambda: loss(in_place), params(W))
    assert value == expected
    np.testing.assert_allclose(
        grads[W], gradient(lambda: loss(lambda b: anew(b, other)), params(W))[W], rtol=1e-12
    )


@pytest.mark.parametrize("operate", AUGMENTED[:4], ids=lambda f: f.__name__)
def test_an_argument_of_an_explicit_gradient_is_not_changed(operate):
    with pytest.raises(TypeError, match="b = b"):
        gradient(lambda x: np.sum(operate(x, 2.0)), np.ones(3))


def test_numbers_add_up_as_outside():
    def total(x):
        s = 0.0
        for a in x:
            s += a * a
            s -= 1
            s *= 2.0
        return s

    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(gradient(total, x)[0], [16.0, 16.0, 12.0])


def test_second_derivatives_of_eigenvalues_still_come_from_autograd():
    A = np.array([[2.0, 0.5], [0.5, 1.0]])
    f = lambda A: np.linalg.eigh((A + A.T) / 2)[0][0]
    assert hessian(f, A).shape == (2, 2, 2, 2)


def test_a_value_is_read_only_inside_and_as_before_outside():
    W = param([1.0, 2.0])
    frozen = param([1.0])
    frozen.value.flags.writeable = False
    array = W.value

    def loss():
        with pytest.raises(ValueError, match="read-only"):
            W.value[0] = 5.0
        inner = gradient(lambda: np.sum(W**2), params(W))
        with pytest.raises(ValueError, match="read-only"):
            W.value[...] = inner[W]
        return np.sum(W**2) + np.sum(frozen)

    np.testing.assert_array_equal(gradient(loss, params(W, frozen))[W], [2.0, 4.0])
    assert W.value is array
    assert not frozen.value.flags.writeable
    W.value[0] = 5.0
    assert W[0] == 5.0


def test_a_value_is_as_before_after_an_exception_and_in_other_threads():
    W, frozen = param([1.0, 2.0]), param([1.0])
    frozen.value.flags.writeable = False
    arrays = W.value, frozen.value

    def other():
        W.value[0] = 3.0  # of no gradient in this thread

    def loss():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert not W.value.flags.writeable
        assert not frozen.value.flags.writeable
        assert np.shares_memory(W.value, arrays[0])
        raise KeyError

    for take in (gradient, pullback):
        with pytest.raises(KeyError):
            take(loss, params(W, frozen))
        assert W.value is arrays[0]
        assert frozen.value is arrays[1]
        assert W.value.flags.writeable
        assert not frozen.value.flags.writeable
    assert W.value[0] == 3.0


def cubes(d):
    return np.sum(d["a"] ** 3) * d["b"][0]


def flat_gradient(d):
    g = gradient(cubes, d)[0]
    return np.concatenate([g["a"], np.stack(g["b"])])


DICTS = {
    "a gradient's square": lambda v: np.sum(flat_gradient({"a": v[:2], "b": [v[2]]}) ** 2),
    "by autograd's flatten": lambda v: np.sum(
        flatten(gradient(cubes, flatten({"a": np.ones(2), "b": [1.0]})[1](v))[0])[0] ** 2
    ),
    "a Gauss-Newton product": lambda v: np.sum(
        pullback(lambda d: d["a"] ** 2 * d["b"][0], {"a": v[:2], "b": [v[2]]})[1](v[:2])[0]["a"] ** 2
    ),
}


@pytest.mark.parametrize("f", DICTS.values(), ids=DICTS)
def test_second_order_goes_through_dicts(f):
    v, h = np.array([0.5, 1.5, 2.0]), 1e-6
    slopes = [(f(v + h * e) - f(v - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(gradient(f, v)[0], slopes, rtol=1e-6)
    slopes = [(gradient(f, v + h * e)[0] - gradient(f, v - h * e)[0]) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(hessian(f, v), slopes, rtol=1e-5, atol=1e-6)
    (g,) = gradient(lambda d: np.sum(flat_gradient(d) ** 2), {"a": v[:2], "b": [v[2]]})
    np.testing.assert_allclose([*g["a"], *g["b"]], gradient(DICTS["a gradient's square"], v)[0])


def test_bare_iteration_over_gradients_warns_and_asking_does_not():
    W, b = param([1.0]), param([2.0])
    grads = gradient(lambda: np.sum(W * b), params(W, b))
    for use in (list, lambda g: [*zip([W, b], g, strict=True)], lambda g: {*g}):
        with pytest.warns(UserWarning, match=r"grads\.values\(\)"):
            use(grads)
    with pytest.warns(UserWarning, match=r"grads\.items\(\)") as caught:
        _dW, _db = grads
    assert [w.filename for w in caught] == [__file__]
    assert [p is q for p, q in zip(grads.keys(), (W, b), strict=True)] == [True, True]
    assert [g.tolist() for g in grads.values()] == [[2.0], [1.0]]
    assert [p is q for (p, _), q in zip(grads.items(), (W, b), strict=True)] == [True, True]
    assert len(dict(grads)) == len({**grads}) == 2
    assert W in grads
    assert isinstance(grads + grads, Grads)


def test_every_parameter_of_a_function_with_overlooked_options_is_told_by_its_place():
    for function, options in {np.nan_to_num: ("copy",)}.items():
        places = [
            name
            for name, p in inspect.signature(function).parameters.items()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        for i, name in enumerate(places):
            given = [np._NoValue] * i + ["A"]
            try:
                said = table.COMPOSITES[function](*given)
            except NotImplementedError as error:
                said = str(error)
            assert (said is not NotImplemented) == (name in options), (function, name)


EXAMPLES = {
    "matrix": np.array([[1.5, -0.5, 2.5], [0.75, 3.25, -1.25]]),
    "square": np.array([[2.5, 0.5], [0.25, 1.5]]),
    "vector": np.array([1.5, -0.5, 2.5, 0.75]),
}
FIRST = {  # arguments without a default, where one array is not enough
    1: [()],
    2: [(0,), (1,), (np.array([1.5, 0.5]),), ((3, 2),), ([0, 1],)],
    3: [(0, 1), (-1.0, 2.0)],
}
VALUES = [
    None, 0, 1, -1, 2, (0,), (4,), True, False, 0.5, "A", "F", "clip", "full", "ortho", "forward", "L", "U",
    float, int, np.float32, [True, False], np.array([[True, False, True], [False, True, True]]),
]  # fmt: skip


def options_of_all_functions():
    """List every option that may be given by position, of every function that has a derivative."""
    functions = {*table.COMPOSITES, *table.RULES, *trace_primitives_map} - {
        np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal,  # change their argument
        np.empty_like,  # gives any numbers
        np.setdiff1d, np.setxor1d,  # an element that another array has, too, comes in when it moves
    }  # fmt: skip
    for f in sorted((f for f in functions if callable(f)), key=str):
        if isinstance(f, np.ufunc) or not (f in table.COMPOSITES or table.primitive_of(f)):
            continue
        try:
            ps = list(inspect.signature(f).parameters.values())
        except ValueError:  # NumPy 2.0 does not tell what its built-in functions take
            continue
        needed = [p for p in ps if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        for i, p in enumerate(ps[len(needed) :], len(needed)):
            if p.kind is p.POSITIONAL_OR_KEYWORD and len(needed) in FIRST:
                yield f, [q.default for q in ps[len(needed) : i]], p, len(needed)


def outcome(f, x):
    """Give value, dtype and gradient of a call under differentiation, or that it was refused."""
    seen = []

    def loss(x):
        out = f(x)
        seen.append(out if isinstance(out, (tuple, list)) else [out])
        return sum(np.sum(np.real(a) * np.cos(np.arange(np.size(a))).reshape(np.shape(a))) for a in seen[-1])

    try:
        (g,) = gradient(loss, x)
    except (TypeError, ValueError, NotImplementedError, IndexError):
        return None
    return [np.asarray(dropgrad(a)) for a in seen[-1]], np.zeros(x.shape) if g is None else g, loss


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("f", "before", "option", "needed"),
    [pytest.param(*case, id=f"{case[0].__name__} {case[2].name}") for case in options_of_all_functions()],
)
def test_an_option_is_heeded_or_refused_by_keyword_and_by_position(f, before, option, needed):
    for x, rest, value in itertools.product(EXAMPLES.values(), FIRST[needed], VALUES):
        x = x.copy()  # some write into it
        try:
            given = np.empty_like(f(x, *rest)) if option.name == "out" else value
            by_position = lambda x: f(x, *rest, *before, given)
            by_keyword = lambda x: f(x, *rest, **{option.name: given})
            expected = by_keyword(x)
            by_position(x)
        except Exception:  # not a call that NumPy takes
            continue
        expected = expected if isinstance(expected, (tuple, list)) else [expected]
        for call in (by_position, by_keyword):
            result = outcome(call, x)
            assert option.name != "out" or given is None or result is None
            if result is None:  # refused
                continue
            values, g, loss = result
            for a, b in zip(values, expected, strict=True):
                assert (a.dtype, a.shape) == (np.asarray(b).dtype, np.shape(b))
                np.testing.assert_allclose(a, b)
            if np.result_type(*values).char not in "efF":  # too coarse for differences
                h = 1e-6 * np.cos(np.arange(x.size)).reshape(x.shape)
                slope = (loss(x + h) - loss(x - h)) / 2
                np.testing.assert_allclose(np.sum(g * h), slope, rtol=1e-4, atol=1e-10)


CUBE = np.cos(np.arange(24.0)).reshape(2, 3, 4)
LAID = [
    EXAMPLES["matrix"][:], EXAMPLES["matrix"].T, EXAMPLES["square"].T, CUBE, CUBE.T, CUBE.transpose(1, 0, 2),
    CUBE.transpose(0, 2, 1),
]  # fmt: skip
for laid in LAID:  # of which some calls make their `out`
    laid.flags.writeable = False


def order_in_memory(a):
    """Tell what decides which reshapes of an array are views, and what order="K" means."""
    axes = [i for i, n in enumerate(a.shape) if n > 1]
    if not axes or not a.size:
        return None
    return a.flags.c_contiguous, a.flags.f_contiguous, sorted(axes, key=lambda i: -abs(a.strides[i]))


def calls_of_all_functions():
    """List every function that has a derivative, plain and with the options that tell of axes and orders."""
    some = {}
    for f, _, option, needed in options_of_all_functions():
        values = {"axis": (0, 1, -1), "order": "CFAK", "upper": (True,)}.get(option.name, ())
        some.setdefault((f, needed), [{}]).extend({option.name: value} for value in values)
    for f, needed in {(np.tile, 2): 2, (np.linalg.matrix_power, 2): 2, (np.block, 1): 1}:
        some.setdefault((f, needed), [{}])
    some[np.linalg.cholesky, 1] = [{"upper": upper} for upper in (False, True)]
    some[np.ndarray.astype, 2] = [{"order": order} for order in "CFAK"]
    for f in {f for f in vars(np).values() if isinstance(f, np.ufunc) and f.nin < 3 and f.signature is None}:
        some[f, f.nin] = [{"where": [True]}, *({"order": order} for order in "CFAK")]
    return sorted(some.items(), key=str)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("f", "needed", "options"),
    [pytest.param(*f, options, id=f[0].__name__) for f, options in calls_of_all_functions()],
)
def test_a_result_lies_in_memory_as_numpys_own(f, needed, options):
    more = [*FIRST.get(needed, ()), (float,), *([(x,) for x in LAID] if isinstance(f, np.ufunc) else ())]
    parts = (
        lambda x: x, lambda x: x[..., ::-1], lambda x: x[::2], lambda x: np.broadcast_to(x, (3, *x.shape)),
        lambda x: np.broadcast_to(x[:, None], (len(x), 3, *x.shape[1:])),
    )  # fmt: skip
    if f is np.lib.stride_tricks.sliding_window_view:  # of these a loss has copies
        parts = parts[:1]
    for x, part, rest, by_name in itertools.product(LAID, parts, more, options):
        try:
            expected = f(part(x), *rest, **by_name)
        except Exception:  # not a call that NumPy takes
            continue
        seen = []

        def call(x):
            out = f(part(x), *rest, **by_name)
            seen.extend(map(constant, out) if isinstance(out, (tuple, list)) else [constant(out)])
            return out

        expected = expected if isinstance(expected, (tuple, list)) else [expected]
        if outcome(call, x):
            for a, b in zip(seen, expected, strict=True):
                found, known = order_in_memory(np.asarray(a)), order_in_memory(np.asarray(b))
                assert found == known, (part(x).strides, rest, by_name)


def test_full_like_by_position():
    (g,) = gradient(lambda x: np.sum(np.full_like(x, 2.0, None, "K", True, (4,)) * x[0]), np.ones(3))
    np.testing.assert_array_equal(g, [8.0, 0.0, 0.0])


def test_objects_have_no_gradient():
    with pytest.raises(TypeError, match="object"):
        gradient(lambda x: np.sum(x.astype(object)), np.ones(3))


@pytest.mark.parametrize("dtype", [object, [("a", float)], "V8"])
def test_neither_objects_nor_records_have_a_gradient(dtype):
    for use in (lambda x: x.astype(dtype), lambda x: np.astype(x, dtype)):
        with pytest.raises(TypeError, match=r"astype\("):
            gradient(lambda x: np.sum(use(x)), np.ones(3))


@pytest.mark.parametrize(
    ("arguments", "options"), [(("f4", "K", "safe"), {}), (("f4",), {"casting": "safe"}), (("f4", "Q"), {})]
)
def test_a_conversion_that_numpy_refuses_is_refused_in_a_loss(arguments, options):
    for x in (np.ones(3), param(np.ones(3))):
        with pytest.raises((TypeError, ValueError), match=r"Cannot cast|order must be"):
            gradient(lambda x: np.sum((x * 1.0).astype(*arguments, **options)), x)


NUMBERS = [float, complex, numbers.Number, numbers.Real, np.generic, np.floating, np.float64, np.float32]


@pytest.mark.parametrize("kind", [*NUMBERS, int, str, list, np.integer])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_what_is_a_number_outside_is_one_inside(kind, dtype):
    x = np.array([1.5, 2.5], dtype)
    W, seen = param(x), []

    def loss():
        some = (W[0], np.sum(W), W[1] * 2, gradient(lambda: np.abs(W[0] * W[1]), params(W))[W][0])
        seen.extend((isinstance(a, kind), np.isscalar(a)) for a in some)
        assert not np.isscalar(W * 1)
        assert not isinstance(W * 1, numbers.Number)
        return np.abs(np.sum(W))

    gradient(loss, params(W))
    assert seen == [(isinstance(x[0], kind), True)] * 4
    np.testing.assert_array_equal(gradient(lambda x: np.abs(x[0]) * np.isscalar(x[0]), x.real)[0], [1.0, 0.0])


def length_of(x):
    try:
        return len(x)
    except TypeError as error:
        return str(error)


def test_what_a_number_lacks_is_told_by_an_error_that_goes_to_other_processes():
    with pytest.raises(TypeError, match="has no len") as caught:
        gradient(lambda x: len(x[0]), np.ones(2))
    assert repr(pickle.loads(pickle.dumps(caught.value))) == f"TypeError({str(caught.value)!r})"


@pytest.mark.parametrize("f", [lambda x: x[0], lambda x: x[:1], lambda x: np.reshape(x[0], ()), lambda x: x])
@pytest.mark.parametrize(
    "ask", [lambda x: hasattr(x, "__len__"), length_of, np.iterable, lambda x: callable(x.__len__)]
)
def test_a_number_has_no_length_inside_and_an_array_has_one(f, ask):
    def answer(x):
        try:
            seen.append(ask(f(x * 1)))
        except AttributeError:
            seen.append("no such attribute")
        return np.sum(x)

    x, seen = np.array([1.5, 2.5]), []
    answer(x)
    gradient(answer, x)
    gradient(lambda x: gradient(answer, x)[0][0], x)
    compiled(answer)(x)
    assert all(told == seen[0] for told in seen)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.complex128])
def test_what_is_an_array_outside_is_one_inside(shape, dtype):
    W, kinds = param(np.ones(shape, dtype)), (np.ndarray, np.generic, Param, list, np.matrix)
    by_kind = lambda x: [isinstance(x, kind) for kind in kinds]
    plain = by_kind(W.value)
    assert by_kind(W) == [is_plain or kind is Param for is_plain, kind in zip(plain, kinds, strict=True)]

    def loss():
        nested = []
        gradient(lambda: nested.append(by_kind(W.reshape(shape))) or np.sum(np.abs(W)), params(W))
        assert by_kind(W.reshape(shape)) == nested[0] == plain
        assert isinstance(W, np.ndarray)
        return np.sum(np.abs(W))

    gradient(loss, params(W))


def test_compress_and_ptp_are_those_of_numpy():
    x = np.array([3.0, 1.0, 5.0])
    np.testing.assert_array_equal(
        gradient(lambda x: np.sum(x.compress([True, False, True]) ** 2), x)[0], [6, 0, 10]
    )
    np.testing.assert_array_equal(gradient(lambda x: x.ptp() ** 2, x)[0], [0.0, -8.0, 8.0])


def test_no_method_of_an_array_is_inherited_unlooked_at():
    """autograd's box has methods that mean something else."""
    ours = {name for kind in Traced.__mro__ if kind.__module__.startswith("minidiff") for name in vars(kind)}
    inherited = {name for name in dir(np.ndarray) if hasattr(Traced, name)} - ours - set(dir(object))
    assert inherited <= {"__array_namespace__", "__array_priority__", "__bool__", "__len__"}


ARGUMENTS = {
    "argpartition": (1,), "astype": ("f4",), "choose": ([1.0, 2.0],), "compress": ([True, False], 0),
    "dot": (np.ones(2),), "dump": (os.devnull,), "fill": (1,), "getfield": (float,), "partition": (1,),
    "put": (0, 1), "repeat": (2,), "reshape": (4,), "resize": (4,), "setfield": (1, float),
    "swapaxes": (0, 1), "take": ([0],), "to_device": ("cpu",), "tofile": (os.devnull,),
}  # fmt: skip


@pytest.mark.parametrize("take", [lambda W: W, lambda W: W * 1], ids=["parameter", "result"])
@pytest.mark.parametrize(
    "name", [name for name in dir(np.ndarray) if not name.startswith("__") and hasattr(np.eye(2), name)]
)
def test_every_attribute_of_an_array_is_as_outside_or_refused_in_words(name, take):
    W, got = param([[1.0, 2.0], [3.0, 4.0]]), []

    def use(x):
        x = getattr(x, name)
        return x(*ARGUMENTS.get(name, ())) if callable(x) else x

    def loss():
        got.append(use(take(W)))
        return np.sum(W)

    error = None
    try:
        gradient(loss, params(W))
    except (TypeError, AttributeError, ValueError) as caught:
        error = str(caught)
    if error is None:
        assert str(dropgrad(got[0])) == str(W.value.ravel() if name == "flat" else use(W.value.copy()))
    else:
        assert "Traced" not in error
        assert "box" not in error.lower()
    assert np.array_equal(W.value, [[1.0, 2.0], [3.0, 4.0]])


def test_a_value_of_another_threads_gradient_is_refused():
    W, V = param([1.0, 2.0]), param([3.0, 4.0])
    met, done, errors = threading.Event(), threading.Event(), []
    shared = []

    def other():
        def loss():
            shared.append(W * 2)
            met.set()
            done.wait(10)
            return np.sum(shared[0])

        gradient(loss, params(W))

    thread = threading.Thread(target=other)
    thread.start()
    met.wait(10)
    try:
        gradient(lambda: np.sum(V * shared[0]), params(V))
    except TypeError as error:
        errors.append(str(error))
    done.set()
    thread.join()
    assert "two threads" in errors[0]


@pytest.mark.parametrize(("deep", "shallow"), [(1, 0), (2, 0), (2, 1)])
def test_a_value_of_another_threads_gradient_of_another_depth_is_refused(deep, shallow):
    """The deeper trace takes the other's variable for a constant around it."""
    W, V, shared = param([1.0, 2.0]), param([3.0, 4.0]), []
    met, done = threading.Event(), threading.Event()

    def within(depth, loss, p):
        if depth == 0:
            return gradient(loss, params(p))[p]
        other = param(1.0)  # so that nothing but its depth tells p's trace from one within the other's
        return gradient(lambda: np.sum(within(depth - 1, loss, p)) * other, params(other))[other]

    def other():
        shared.append(W * 2)
        met.set()
        done.wait(10)
        return np.sum(W)

    thread = threading.Thread(target=within, args=(deep, other, W))
    thread.start()
    met.wait(10)
    try:
        with pytest.raises(TypeError, match="two threads"):
            within(shallow, lambda: np.sum(V * shared[0]), V)
    finally:
        done.set()
        thread.join()


def test_a_parameter_at_the_address_of_a_dead_one_is_its_own():
    kept = []
    for i in range(20):
        W = param([float(i)])
        gradient(lambda W=W: (kept.append(contextvars.copy_context()), np.sum(W**2))[1], params(W))
        del W
        V = param([100.0 + i])
        for context in kept:
            assert context.run(lambda V=V: V[0] * 1) == 100.0 + i
            assert context.run(lambda V=V: gradient(lambda: np.sum(V**2), params(V))[V][0]) == 200.0 + 2 * i
        del V


class _Penalty:
    """A number that knows by itself how it meets others, and reaches the parameter."""

    def __init__(self, W):
        self.W = W

    def value(self):
        return 0.5 + np.sum(self.W**2)

    __radd__ = lambda self, other: other + self.value()
    __rsub__ = lambda self, other: other - self.value()
    __rmul__ = lambda self, other: other * self.value()
    __rtruediv__ = lambda self, other: other / self.value()
    __rpow__ = lambda self, other: other ** self.value()
    __rmod__ = lambda self, other: other % self.value()
    __rmatmul__ = lambda self, other: other * self.value()


class _FirstPenalty(_Penalty):
    __array_priority__ = 10.0


class _NoUfuncPenalty(_Penalty):
    __array_ufunc__ = None


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "mod", "matmul"])
@pytest.mark.parametrize("kind", [_Penalty, _FirstPenalty, _NoUfuncPenalty])
def test_objects_with_operators_of_their_own_meet_recorded_values_as_they_meet_numpys(name, kind):
    """NumPy leaves the operation to them: always beside a number, beside an array where they go first."""
    W, operate = param([0.3, 0.4]), getattr(operator, name)
    mean = {"matmul": operator.mul}.get(name, operate)
    for x in (lambda: np.sum(W) + 1, lambda: W[:, None] + 1, lambda: W.reshape(2, 1)[0, 0]):
        of = lambda x=x: np.sum(operate(x(), kind(W)))
        if kind is _Penalty and np.ndim(x()):
            if name != "matmul":  # arrays of objects
                with pytest.raises(
                    TypeError, match="A class whose own operators are meant says __array_ufunc__"
                ):
                    gradient(of, params(W))
            continue
        value, grads = withgradient(of, params(W))
        plain, expected = withgradient(lambda x=x: np.sum(mean(x(), kind(W).value())), params(W))
        assert value == plain == of()
        np.testing.assert_array_equal(grads[W], expected[W])
        np.testing.assert_array_equal(compiled(of, params(W))().grad[W], expected[W])


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "ipow", "imod", "imatmul"])
def test_in_place_an_array_does_not_give_way_to_such_an_object_but_a_number_does(name):
    W, operate = param([0.3, 0.4]), getattr(operator, name)
    of = lambda x: np.sum(operate(x, _NoUfuncPenalty(W)))
    for loss in (lambda: of(np.exp(W)), lambda: of(np.exp(W.value))):
        with pytest.raises(TypeError, match="does not support ufuncs"):
            loss()
        with pytest.raises(TypeError, match="does not support ufuncs"):
            gradient(loss, params(W))
    value, grads = withgradient(lambda: of(np.sum(W)), params(W))
    assert value == of(np.sum(W))
    by_hand = {"imatmul": operator.mul}.get(name, operate)
    expected = gradient(lambda: by_hand(np.sum(W), _Penalty(W).value()), params(W))
    np.testing.assert_array_equal(grads[W], expected[W])


@pytest.mark.parametrize("kind", [UserList, deque, lambda x: array("d", x)])
def test_sequences_of_other_kinds_are_arrays_beside_a_number(kind):
    (g,) = gradient(lambda w: np.sum(w * np.sin(w * kind([1.0, 2.0, 3.0]))), 0.5)
    (expected,) = gradient(lambda w: np.sum(w * np.sin(w * np.array([1.0, 2.0, 3.0]))), 0.5)
    assert g == expected


def test_a_call_on_plain_values_that_reaches_a_recorded_one_is_no_constant():
    W = param([0.3, 0.4])
    with pytest.raises(
        TypeError, match=r"^np.add calls what uses a value under differentiation that is none"
    ):
        gradient(lambda: np.add(np.sum(W), _Penalty(W)), params(W))


class _Holder:
    """Data that NumPy takes for an array, and that has nothing else of one."""

    def __init__(self, x):
        self.x = np.asarray(x)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.x, dtype)


@pytest.mark.parametrize(
    "f",
    [
        operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.pow,
        np.add, np.matmul, np.dot, np.maximum, np.arctan2, np.hypot, np.tensordot, np.outer, np.kron,
        np.linalg.solve, lambda x, y: np.where(x > 0, x, y), lambda x, y: np.einsum("ij,jk", x, y),
        lambda x, y: np.concatenate([x, y]), lambda x, y: np.convolve(x[0], _Holder(np.asarray(y)[0])),
    ],
)  # fmt: skip
def test_data_that_numpy_takes_for_an_array_are_one(f):
    x, y = np.array([[1.5, 0.2], [0.3, 1.1]]), np.array([[2.0, 0.7], [0.4, 3.0]])
    for of in (lambda x, y: np.sum(np.sin(f(x, y))), lambda x, y: np.sum(np.sin(f(y, x)))):
        try:
            plain = of(x, _Holder(y))
        except TypeError:  # an operator of the holder, which has none
            continue
        value, grad = withgradient(lambda x, of=of: of(x, _Holder(y)), x)
        expected, right = withgradient(lambda x, of=of: of(x, y), x)
        assert value == plain == expected
        np.testing.assert_array_equal(grad[0], right[0])


def test_what_a_loss_gives_away_is_plain_once_it_has_ended_however_it_ended():
    W, kept = param([1.0, 2.0]), []

    def loss():
        kept.append(W * 2)
        return np.sum(kept[-1])

    def pressed(moment):
        now = 0

        def trace(frame, what, _):
            nonlocal now
            frame.f_trace_opcodes = frame.f_code.co_filename == record.__file__
            if what == "opcode" and frame.f_trace_opcodes:
                now += 1
                if now == moment:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            gradient(loss, params(W))
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    moment = 1
    while pressed(moment):
        assert all(np.asarray(x).tolist() == [2.0, 4.0] for x in kept), moment
        assert type(W.lift()) is np.ndarray
        moment += 1
    assert moment > 100


def test_whatever_ends_a_loss_leaves_nothing_open():
    W = param([1.0, 2.0])
    ps = params(W)
    places = []

    def interrupt(frame, event, _):
        frame.f_trace_opcodes = True
        if "minidiff" in frame.f_code.co_filename and event == "opcode":
            places.append(1)
            if len(places) == at:
                raise KeyboardInterrupt
        return interrupt

    at = -1
    before = contextvars.copy_context().run(
        lambda: (record._top.get(), record.innermost.get(), dict(record._roots.get()))
    )
    sys.settrace(interrupt)
    gradient(lambda: np.sum(W**2), ps)
    sys.settrace(None)
    for at in range(1, len(places), 7):  # noqa: B007 - `interrupt` reads it
        places.clear()
        sys.settrace(interrupt)
        try:
            gradient(lambda: np.sum(W**2), ps)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert (record._top.get(), record.innermost.get(), dict(record._roots.get())) == before
        update(Descent(0.0), ps, {W: np.zeros(2)})


def test_a_parameter_is_no_gradient():
    W = param([1.0, 2.0])
    with pytest.raises(TypeError, match="parameter"):
        update(Descent(0.1), W, W)


def test_the_line_of_the_loss_is_named():
    W = param([1.0, 2.0])
    with pytest.raises(TypeError, match=r"in line \d+, `.*np\.array\(\[W") as caught:
        gradient(lambda: np.sum(np.array([W[0] * 2, W[1]])), params(W))
    assert "np.block" in str(caught.value)
    with pytest.raises(TypeError, match=r"calls numpy\.full"):
        gradient(lambda: np.sum(np.full(3, np.sum(W))), params(W))


INPUTS = np.ones((2, 3))


def assigned(x, index):
    out = np.zeros(3)
    out[index] = x
    return out


INSTEAD = {
    "np.array of numbers": (lambda x: np.array([x[0], x[1]]), "np.array([x[0], x[1]])", "np.stack"),
    "nested lists": (lambda x: np.stack([[x[0]], [x[1]]]), "np.stack([[x[0]], [x[1]]])", "np.block"),
    "a method of a plain array": (lambda x: INPUTS.dot(x), "INPUTS.dot(x)", "X @ W"),
    "np.full": (lambda x: np.full(3, x[0]), "np.full(3, x[0])", "np.ones"),
    "np.r_": (lambda x: np.r_[x[0], 1.0], "np.r_[x[0], 1.0]", "np.concatenate"),
    "np.random": (lambda x: np.random.normal(x, 1.0), "np.random.normal(x, 1.0)", "m + σ *"),
    "a part of a plain array": (lambda x: assigned(x, slice(None)), "out[index] = …", "np.zeros_like"),
    "an element of a plain array": (lambda x: assigned(x[0], 0), "out[index] = …", "np.zeros_like"),
}


@pytest.mark.parametrize(("use", "source", "instead"), INSTEAD.values(), ids=INSTEAD)
def test_what_cannot_be_recorded_is_shown_with_what_can(use, source, instead):
    with pytest.raises(TypeError, match="under differentiation") as caught:
        gradient(lambda x: np.sum(use(x)), np.ones(3))
    message = str(caught.value)
    assert instead in message
    if sys.version_info >= (3, 11):
        assert source in message
        others = {other for *_, other in INSTEAD.values()} - {
            instead,
            "np.stack",
            "np.block",
            "np.concatenate",
        }
        assert [other for other in others if other in message] == []


def test_a_pullbacks_seed_takes_the_values_dtype():
    x = np.ones(3, np.float32)
    assert pullback(lambda x: x.copy(), x)[1](np.ones(3))[0].dtype == np.float32


REDUCTIONS = [np.sum, np.prod, np.mean, np.var, np.std, np.cumsum, np.cumprod, np.nansum]


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("dtype", [int, bool, np.int8, float, np.float32, "f8", complex])
@pytest.mark.parametrize("function", REDUCTIONS, ids=lambda f: f.__name__)
def test_a_dtype_of_a_reduction_has_numpys_value_and_gradient(function, dtype, by_place):
    x = np.array([1.25, 2.5, 3.75])
    call = lambda x: function(x, 0, dtype) if by_place else function(x, axis=0, dtype=dtype)
    if function in (np.var, np.std) and dtype is complex:
        with pytest.raises(NotImplementedError, match="complex"):
            pullback(call, x)
        return
    with np.errstate(all="ignore"):
        expected = call(x)
    seen = []
    pull = pullback(lambda x: seen.append(call(x)) or seen[-1] * 1.0, x)[1]
    assert np.asarray(getattr(seen[0], "_value", seen[0])).dtype == expected.dtype
    np.testing.assert_allclose(np.asarray(getattr(seen[0], "_value", seen[0])), expected, rtol=1e-6)
    if np.dtype(dtype).kind in "fc":
        (g,) = pull(np.ones_like(expected))
        (right,) = pullback(lambda x: function(x, axis=0), x)[1](np.ones_like(function(x, axis=0)))
        np.testing.assert_allclose(g, right, rtol=1e-5)


SOME = np.array([1.5, 2.5, 0.5])
OF_DTYPE = {
    "clip, list": (lambda x, **o: np.clip(x, [2.1], None, **o), SOME, [0, 1, 0]),
    "clip, array": (lambda x, **o: np.clip(x, np.array([2.1]), np.float64(2.4), **o), SOME, [0, 0, 0]),
    "clip, numbers": (lambda x, **o: x.clip(1, 2.1, **o), SOME, [1, 0, 0]),
    "clip, min": (lambda x, **o: x.clip(min=0.7, **o), SOME, [1, 1, 0]),
    "einsum": (lambda x, **o: np.einsum("i,i", x, x, **o), SOME, [3, 5, 1]),
    "einsum, axes": (lambda x, **o: np.einsum(x, [0], [1.0, 2, 3], [0], [], **o),
        SOME, [1, 2, 3]),
    "einsum, complex": (lambda z, **o: np.einsum("i,i", z, z, **o),
        np.array([1 + 2j, 2 - 1j]), [2, 4]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [int, np.int8, np.float32, float, complex])
@pytest.mark.parametrize("name", OF_DTYPE)
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_clip_and_einsum_have_a_dtype(name, dtype):
    f, x, right = OF_DTYPE[name]
    seen = []
    options = {"dtype": dtype, "casting": "unsafe"}
    if name != "einsum, complex":
        np.testing.assert_array_equal(right, gradient(lambda x: np.sum(f(x)), x)[0])
    (g,) = gradient(lambda x: np.sum(np.real(seen.append(f(x, **options)) or seen[0])), x)
    assert seen[0].dtype == f(x, **options).dtype
    np.testing.assert_array_equal(dropgrad(seen[0]), f(x, **options))
    if dtype is complex and "complex" in name:
        right = 2 * np.conj(x)
    if np.dtype(dtype).kind == "i":
        assert g is None
    else:
        np.testing.assert_allclose(g, right, rtol=1e-6)
        assert g.dtype == x.dtype


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64, bool])
@pytest.mark.parametrize(
    "f",
    [
        lambda x, k: np.arctan2(k, x),
        lambda x, k: np.arctan2(x, k),
        lambda x, k: np.power(k, x),
        lambda x, k: np.power(x, k),
        lambda x, k: np.hypot(x, k),
        lambda x, k: x / k,
        lambda x, k: k / x,
        lambda x, k: np.logaddexp(x, k),
        lambda x, k: np.maximum(x, k),
        lambda x, k: np.mod(x, k),
    ],
)
def test_small_whole_numbers_beside_a_recorded_one_do_not_overflow(f, dtype):
    x, k = 1.5, np.array(True if dtype is bool else 100, dtype)
    h = 1e-6
    slope = (f(x + h, k) - f(x - h, k)) / (2 * h)
    np.testing.assert_allclose(gradient(lambda x: f(x, k) * 1.0, x)[0], slope, rtol=1e-3, atol=1e-7)


OF_FLOATS = [name for name, f in UFUNCS.items() if any(re.match("d+->.*d", kinds) for kinds in f.types)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [*"bBhHiIqQ"])
@pytest.mark.parametrize("name", OF_TWO)
def test_a_constant_of_whole_numbers_counts_as_the_floats_that_numpy_makes_of_it(name, dtype):
    f, limits = OF_TWO[name], np.iinfo(dtype)
    for kind, k in itertools.product("efd", (0, 1, limits.max, limits.min)):
        x, k = np.array([1.5, 20.0], kind), np.full(2, k, dtype)
        for call in (f, lambda x, k: f(k, x)):
            value = call(x, k)
            slope = lambda k, x=x, call=call: gradient(lambda x: np.sum(call(x, k)), x)[0]
            got, expected = (np.array(slope(k), float) for k in (k, k.astype(value.dtype)))  # None is NaN
            if np.isfinite(value).all():
                np.testing.assert_allclose(got, expected, rtol=1e-2 if kind == "e" else 1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OF_FLOATS)
def test_where_leaves_out_elements_of_every_result_of_a_ufunc(name):
    f, xs = UFUNCS[name], [np.array([[0.3, 0.7, 0.2], [0.4, 0.9, 0.6]]), np.array([0.25, 0.5, 0.7])]
    xs = [x + 1 if name in ("acosh", "arccosh") else x for x in xs[: f.nin]]
    where = np.array([[True, False, True], [False, True, True]])
    seen = []

    def loss(*xs, **options):
        results = f(*xs, **options)
        results = results if isinstance(results, tuple) else (results,)
        seen.append([np.where(where, dropgrad(r), 0) for r in results])
        return sum(np.sum((i + 1.0) * np.where(where, r, 0)) for i, r in enumerate(results))

    got, expected = gradient(lambda *xs: loss(*xs, where=where), *xs), gradient(loss, *xs)
    np.testing.assert_equal(*seen)
    for g, of_all in zip(got, expected, strict=True):
        np.testing.assert_allclose(*(0 if slope is None else slope for slope in (g, of_all)), rtol=1e-12)


def test_what_can_be_gone_through_once_is_refused_where_the_derivative_needs_it_again():
    x = np.arange(6.0).reshape(2, 3)
    for f in (
        lambda axes: np.sum(np.roll(W, 1, axes) * x),
        lambda axes: np.sum(np.roll(W, shift=1, axis=axes) * x),
        lambda axes: np.sum(np.flip(W, axis=axes) * x),
    ):
        W = x + 1
        assert f(iter((0,))) == f((0,))
        W = param(W)
        np.testing.assert_array_equal(gradient(lambda f=f: f((0,)), params(W))[W], x[::-1])
        with pytest.raises(TypeError, match="needs an iterator again: pass a tuple"):
            gradient(lambda f=f: f(iter((0,))), params(W))
        assert f(iter((0,))) == f((0,))


def test_an_iterator_is_no_matter_where_it_is_not_needed_again():
    W, steps = param(np.arange(3.0)), np.arange(3.0)
    (g,) = gradient(lambda x: scaled(x, itertools.count(2)), 1.5)
    assert g == 2
    np.testing.assert_array_equal(gradient(lambda: np.sum(W + steps.flat), params(W))[W], 1)
    with pytest.raises(NotImplementedError, match=r"np\.save has no gradient"):
        gradient(lambda: np.save(io.BytesIO(), W) or np.sum(W), params(W))


@derivative(lambda g, ans, x, numbers: g * ans / x)
def scaled(x, numbers):
    return x * next(numbers)


@pytest.mark.parametrize(
    "f",
    [
        lambda z: np.real(1j * np.sum(z) * np.array([1.0, 1j])).sum(),
        lambda z: np.abs((1 + 2j) * np.mean(z)) ** 2,
        lambda z: np.imag(1j - np.sum(z)) + np.real(2j * z[0] * 3j),
    ],
)
def test_a_python_complex_number_may_be_met(f):
    x, h = np.array([0.5, 1.5]), 1e-6
    slopes = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(gradient(f, x)[0], slopes, atol=1e-6)


def test_kinks_have_the_gradient_zero_and_infinite_logarithms_their_limits():
    np.testing.assert_array_equal(gradient(lambda x: np.hypot(x, 0.0), 0.0), [0.0])
    inf = np.inf
    for x, y, dx in [(-inf, 1.0, 0.0), (inf, 1.0, 1.0), (1.0, -inf, 1.0), (1.0, inf, 0.0), (-inf, -inf, 0.5)]:
        assert gradient(lambda x: np.logaddexp(x, y), x) == (dx,)


def test_solve_of_a_stack_and_a_vector():
    A = np.array([[[2.0, 1.0], [0.0, 3.0]], [[1.0, 0.5], [0.25, 2.0]]])
    b, h = np.array([1.0, 2.0]), 1e-6
    f = lambda A: np.sum(np.linalg.solve(A, b) ** 2)
    (g,) = gradient(f, A)
    for place in np.ndindex(A.shape):
        E = np.zeros_like(A)
        E[place] = h
        np.testing.assert_allclose(g[place], (f(A + E) - f(A - E)) / (2 * h), rtol=1e-5)


def test_zero_dimensions_may_be_taken_from_and_repeated():
    assert gradient(lambda x: np.sum(np.repeat(x, 3, axis=0) * np.arange(3.0)), 2.0) == (3.0,)
    assert gradient(lambda x: np.take(x, 0, axis=0) * 2, 2.0) == (2.0,)


def test_cholesky_reads_the_lower_triangle_alone():
    A = np.array([[4.0, 7.0], [1.0, 3.0]])
    h = 1e-6
    f = lambda A: np.sum(np.linalg.cholesky(A) * [[1.0, 0.0], [2.0, 3.0]])
    (g,) = gradient(f, A)
    for place in np.ndindex(A.shape):
        E = np.zeros_like(A)
        E[place] = h
        np.testing.assert_allclose(g[place], (f(A + E) - f(A - E)) / (2 * h), atol=1e-8)


ATTRIBUTES = {"shape": (3, 1), "dtype": int, "strides": (0,)}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_not_assigned_to(name):
    with pytest.raises(TypeError, match="Assignment"):
        gradient(lambda z: setattr(z * 1, name, ATTRIBUTES[name]), np.ones(3))


def test_what_shares_or_guards_memory_is_refused_and_the_device_is_the_only_one():
    for use in (np.from_dlpack, lambda x: (x * 1).setflags(write=False)):
        with pytest.raises(TypeError, match="under differentiation"):
            gradient(lambda x: np.sum(use(x)), np.ones(3))
    W = param([1.0, 2.0])
    assert np.from_dlpack(W).tolist() == [1.0, 2.0]
    assert W.__dlpack_device__() == W.value.__dlpack_device__()  # which other libraries ask for first
    with pytest.raises(TypeError, match="under differentiation"):
        gradient(lambda: np.sum(np.from_dlpack(W)), params(W))
    assert gradient(lambda x: np.sum(x.to_device("cpu")), np.ones(3))[0].all()
    with pytest.raises(ValueError, match="cpu"):
        gradient(lambda x: np.sum(x.to_device("gpu")), np.ones(3))


def test_under_the_guard_no_array_is_refilled_that_a_loss_has_used():
    W, buffer, frozen = param([1.0, 2.0]), np.ones((2, 2)), np.ones(2)
    frozen.flags.writeable = False

    def refill(part):
        def loss():
            y = np.sum(W * part)
            buffer[0, 0] += 1
            return y

        return loss

    for part in (buffer, buffer[:1], buffer[0], buffer.T):
        with guard():
            with pytest.raises(ValueError, match="read-only"):
                gradient(refill(part), params(W))
            assert buffer.flags.writeable
            grads = gradient(lambda: np.sum(W * buffer * frozen), params(W))
            buffer[...] = 1.0
            W[...] = 1.0
        np.testing.assert_array_equal(grads[W], [2.0, 2.0])
    with guard():
        _, back = pullback(lambda: W * buffer, params(W))
        with pytest.raises(ValueError, match="read-only"):
            buffer[...] = 0.0
        np.testing.assert_array_equal(back(1.0)[W], [2.0, 2.0])
    assert buffer.flags.writeable
    assert not frozen.flags.writeable
    assert gradient(refill(buffer[0]), params(W))[W].tolist() == [2.0, 1.0]  # without: the refilled one
