"""Parameters: outside a gradient the arrays they hold; together an ordered set, found in any model."""

import copy
import functools
import gc
import io
import math
import operator
import pickle
import subprocess
import sys
import warnings
import weakref
from collections import OrderedDict, UserDict, deque, namedtuple
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from ctrl_c import pressed_at
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidiff import Grads, Param, Params, gradient, load, param, params, recompute, save
from minidiff.optimise import ADAM, AbstractOptimiser, Descent, Momentum, Optimiser, update

quick = settings(derandomize=True, max_examples=25, deadline=None)
DTYPES = ["float16", "float32", "float64", "complex64", "complex128"]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@st.composite
def arrays(draw, shape=shapes, dtypes=DTYPES):
    """Arrays of small eighths, so that all arithmetic on them is the same wherever it runs; often strided."""
    shape, dtype = draw(shape), draw(st.sampled_from(dtypes))
    numbers = draw(hnp.arrays("int8", shape, elements=st.integers(-16, 16))) / 8
    a = np.asarray(numbers + (1j * numbers[::-1] if dtype[0] == "c" and numbers.ndim else 0)).astype(dtype)
    return np.asfortranarray(a) if draw(st.booleans()) else a


def outcome(f, *args):
    """What `f` gives, down to type, dtype and shape, or how it fails."""
    try:
        with np.errstate(all="ignore"):
            result = f(*args)
    except Exception as error:
        return type(error)
    return described(result)


def described(x):
    if isinstance(x, (tuple, list)):
        return type(x).__name__, [described(item) for item in x]
    if isinstance(x, (np.ndarray, np.generic)):
        elements = repr(x.tolist()) if x.dtype == object else np.asarray(x).tobytes()
        return type(x), x.dtype, x.shape, elements
    return type(x), repr(x)


# --- One parameter --------------------------------------------------------------------------------------

BINARY = {
    f.__name__: f
    for f in (
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
        operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, divmod,
        np.add, np.arctan2, np.maximum, np.logaddexp, np.array_equal, np.broadcast_shapes,
        np.append, np.outer, np.dot, np.isclose, np.result_type,
    )
}  # fmt: skip
UNARY = {
    "neg": operator.neg, "pos": operator.pos, "abs": abs, "bool": bool, "len": len, "float": float,
    "int": int, "complex": complex, "str": str, "list": list, "iter": lambda x: [r + 0 for r in x],
    "reversed": lambda x: [r + 0 for r in reversed(x)], "round": lambda x: np.round(x, 1),
    "unpack": lambda x: (lambda first, *rest: (first, rest))(*x), "sum": sum, "max": max,
    "f-string": lambda x: f"{x}", "format": lambda x: f"{x:.3f}", "percent": "%.3f".__mod__,
    "repr": lambda x: repr(x).replace("param", "array"), "math.sin": math.sin, "math.floor": math.floor,
    "shape": lambda x: (x.shape, x.ndim, x.size, x.dtype, x.nbytes, x.itemsize),
    "T": lambda x: x.T, "real": lambda x: x.real, "imag": lambda x: x.imag, "mT": lambda x: x.mT,
    "flags": lambda x: (x.flags.c_contiguous, x.strides), "flat": lambda x: list(x.flat),
    "in": lambda x: (0.125 in x, 99 in x), "not in": lambda x: None not in x.shape,
    "asarray": np.asarray, "array": np.array, "asarray float64": lambda x: np.asarray(x, np.complex128),
    "ascontiguousarray": np.ascontiguousarray, "asanyarray": np.asanyarray, "copy": np.copy,
    "array of list": lambda x: np.array([x, x]), "in a row": lambda x: np.array([1.0, x]),
    "np.exp": np.exp, "np.sum": np.sum, "np.mean": lambda x: np.mean(x, axis=0), "np.abs": np.abs,
    "np.where": lambda x: np.where(x == 0, x, 1), "np.sort": np.sort, "np.median": np.median,
    "np.concatenate": lambda x: np.concatenate([x, x]), "np.stack": lambda x: np.stack([x, x]),
    "np.block": lambda x: np.block([x, x]), "np.select": lambda x: np.select([x == 0], [x], 2),
    "np.einsum": lambda x: np.einsum("...,...", x, x), "np.shape": np.shape, "np.ndim": np.ndim,
    "np.add.reduce": np.add.reduce, "np.multiply.outer": lambda x: np.multiply.outer(x, x),
    "np.divmod": lambda x: np.divmod(x, 2), "np.modf": np.modf, "np.isfinite": np.isfinite,
    "np.meshgrid": lambda x: np.meshgrid(x, x), "np.histogram": np.histogram, "np.unique": np.unique,
    "np.zeros_like": np.zeros_like, "np.full_like": lambda x: np.full_like(x, 2),
    "np.iscomplexobj": np.iscomplexobj,
    "np.linalg.norm": np.linalg.norm, "np.linalg.inv": np.linalg.inv, "np.linalg.svd": np.linalg.svd,
    "np.fft.fft": np.fft.fft, "np.split": lambda x: np.split(x, 1),
    "np.percentile": lambda x: np.percentile(x, 30),
    "np.apply_along_axis": lambda x: np.apply_along_axis(np.sum, 0, x),
    "np.vectorize": np.vectorize(abs),
    "np.interp": lambda x: np.interp(x, [0, 1], [2, 3]), "np.poly1d": lambda x: np.polyval(x, 2.0),
    "np.char": np.array2string, "np.nditer": lambda x: [float(abs(v)) for v in np.nditer(x)],
    "keyword": lambda x: np.sum(a=x, axis=0), "where=": lambda x: np.sum(x, where=x == 0),
    "out=": lambda x: np.exp(x, out=np.zeros(x.shape, x.dtype)),
    "dtype=": lambda x: np.sum(x, dtype=np.complex128),
    "np.ufunc.at": lambda x: np.add.at(np.zeros(3), [0], x), "pow3": lambda x: pow(x, 3),
    "rshift": lambda x: x >> 1,
    "and": lambda x: x & 1, "no such": lambda x: x.no_such_attribute, "call": lambda x: x(),
}  # fmt: skip
METHODS = {
    "all": (), "any": (), "argmax": (), "argmin": (0,), "argpartition": (0,), "argsort": (),
    "astype": (np.float32,),
    "byteswap": (), "choose": ([1, 2],), "clip": (-1, 1), "compress": ([True],), "conj": (), "conjugate": (),
    "copy": (), "cumprod": (), "cumsum": (0,), "diagonal": (), "dot": (2.0,), "dumps": (), "flatten": ("F",),
    "getfield": (np.int8,), "item": (), "max": (), "mean": (0,), "min": (), "nonzero": (), "prod": (),
    "ravel": (),
    "repeat": (2,), "reshape": (-1,), "round": (1,), "searchsorted": (0.0,), "squeeze": (), "std": (),
    "sum": (0,), "swapaxes": (0, -1), "take": ([0],), "tobytes": (), "to_device": ("cpu",), "tolist": (),
    "trace": (),
    "transpose": (), "var": (), "view": (np.int8,),
}  # fmt: skip
CHANGING = {
    "fill": (2,), "partition": (0,), "put": ([0], [5]), "resize": ((1,),), "setfield": (1, np.int8),
    "setflags": (),
    "sort": (), "dump": (), "tofile": (),
}  # fmt: skip


@quick
@given(arrays(), st.data())
@pytest.mark.parametrize("name", BINARY)
def test_operators_give_what_its_array_gives(name, a, data):
    f = BINARY[name]
    others = st.sampled_from([2, 2.5, True, np.float32(0.5), 1j, [1.0], None, "two"])
    b = data.draw(others | arrays(st.just(a.shape)) | arrays())
    assert outcome(f, param(a), b) == outcome(f, a, b)
    assert outcome(f, b, param(a)) == outcome(f, b, a)
    if isinstance(b, np.ndarray):
        assert outcome(f, param(a), param(b)) == outcome(f, a, b)


@quick
@given(arrays())
@pytest.mark.parametrize("name", UNARY)
def test_functions_give_what_its_array_gives(name, a):
    assert outcome(UNARY[name], param(a)) == outcome(UNARY[name], np.array(a))


@pytest.mark.parametrize(
    "name", sorted(n for n in dir(np.ndarray) if callable(getattr(np.ndarray, n)) and n[0] != "_")
)
def test_every_method_gives_what_its_array_gives(name):
    for a in (
        np.array([[2.0, -1.0], [0.5, 3.0]]),
        np.float32([1, 2, -3]),
        np.array(1 + 2j),
        np.zeros((0, 2)),
    ):
        p, q = param(a), np.array(a)
        args = {**METHODS, **CHANGING}.get(name, ())
        assert outcome(getattr(p, name), *args) == outcome(getattr(q, name), *args)
        assert np.array_equal(p.value, q, equal_nan=True)


@quick
@given(arrays(hnp.array_shapes(min_dims=0, max_dims=4, max_side=3)), st.data())
def test_indexing_gives_what_its_array_gives_and_assigns_as_it_does(a, data):
    index = data.draw(hnp.basic_indices(a.shape, allow_newaxis=True, allow_ellipsis=True) | fancy(a.shape))
    p, q = param(a), np.array(a)
    assert outcome(lambda: p[index]) == outcome(lambda: q[index])
    held = p.value
    p[index] = 7
    q[index] = 7
    assert p.value is held
    assert np.array_equal(p.value, q)
    p[...] = param(a)
    assert np.array_equal(p.value, a)


def fancy(shape):
    masks = hnp.arrays(bool, shape)
    return (
        masks
        if not shape
        else masks | hnp.integer_array_indices(shape) | st.just([0]) | st.just(([0], ...)[: len(shape)])
    )


def test_indexing_with_a_parameters_comparison_or_argsort():
    p = param([3.0, -1.0, 2.0])
    assert p[p > 0].tolist() == [3.0, 2.0]
    assert p[np.argsort(p)].tolist() == [-1.0, 2.0, 3.0]
    assert np.arange(3)[p > 2.5].tolist() == [0]
    p[p < 0] = 0
    assert p.tolist() == [3.0, 0.0, 2.0]


IN_PLACE = [
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod,
    operator.ipow, operator.imatmul, operator.iand,
]  # fmt: skip


@quick
@given(arrays(), st.data())
@pytest.mark.parametrize("change", IN_PLACE, ids=lambda f: f.__name__)
def test_in_place_operators_change_the_very_array_or_fail_as_it_does(change, a, data):
    b = data.draw(st.sampled_from([2, 0.5, np.float32(3), 1j, "no", [1.0, 2.0]]) | arrays(st.just(a.shape)))
    p, q = param(a), np.array(a)
    held = p.value
    with np.errstate(all="ignore"):
        try:
            q = change(q, b)
        except Exception as error:
            with pytest.raises(type(error)):
                change(p, b)
        else:
            assert change(p, b) is p
    assert p.value is held
    assert described(p.value) == described(q)


def test_in_place_with_itself_with_views_and_with_other_parameters():
    p, q = param([1.0, 2.0, 3.0]), param([10.0, 20.0, 30.0])
    p += p
    p[1:] += p[:-1]
    p -= q
    q[0] = p[1]
    assert p.tolist() == [-8.0, -14.0, -20.0]
    assert q.tolist() == [-14.0, 20.0, 30.0]
    view = p[::2]
    view *= 0
    assert p.tolist() == [0.0, -14.0, 0.0]
    x = np.ones(3)
    x += p
    x[0] = q[1]
    x[1:] = q[1:]
    assert x.tolist() == [20.0, 20.0, 30.0]
    assert type(x) is np.ndarray


def test_ufuncs_write_into_a_parameter_given_as_out():
    p = param([1.0, 4.0])
    held = p.value
    assert np.sqrt(p, out=p) is p
    assert np.add([1.0, 1.0], 1.0, out=p, where=[True, False]) is p
    assert np.sum(np.ones((2, 2)), axis=0, out=p[:]) is not None
    np.copyto(p[:1], 5.0)
    np.multiply.at(p, [0, 0], 2.0)
    assert p.value is held
    assert p.tolist() == [20.0, 2.0]


@pytest.mark.parametrize(
    "given_", [3, True, [1, 2], [[True], [False]], np.arange(3, dtype=np.uint8), (), range(3)], ids=repr
)
def test_param_of_integers_and_booleans_is_float64(given_):
    assert described(param(given_).value) == described(np.array(given_, dtype=np.float64))


@quick
@given(arrays())
def test_param_copies_and_keeps_the_dtype(a):
    p = param(a)
    assert type(p) is Param
    assert described(p.value) == described(np.array(a))
    assert p.value.flags.writeable
    assert not np.may_share_memory(p.value, a)
    assert not np.may_share_memory(param(p).value, p.value)
    assert param(p) is not p
    assert param(np.broadcast_to(a, (2, *a.shape)))[...].shape == (2, *a.shape)
    frozen = np.array(a)
    frozen.flags.writeable = False
    q = param(frozen)
    q += 1
    assert np.array_equal(frozen, a)


@pytest.mark.parametrize("dtype", [*DTYPES, float, complex, np.float32, np.dtype("c8")], ids=repr)
def test_param_takes_a_dtype(dtype):
    p = param([[1, 2]], dtype=dtype)
    assert (p.dtype, p.shape, p.tolist()) == (np.dtype(dtype), (1, 2), [[1, 2]])


def test_a_parameter_hashes_by_identity_and_compares_elementwise():
    p, q = param([1.0, 2.0]), param([1.0, 3.0])
    assert {p: "p", q: "q"}[p] == "p"
    assert len({p, q, p}) == 2
    assert (p == q).tolist() == [True, False]
    assert (p != 1).tolist() == [False, True]
    assert (p == None).tolist() == [False, False]  # noqa: E711
    assert param(2.0) == 2


def test_a_parameter_is_freed_with_its_last_reference():
    p = param([1.0])
    gradient(lambda p=p: np.sum(p * p), params(p))
    alive = weakref.ref(p)
    del p
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    "a", [np.arange(6.0).reshape(2, 3), np.float32(1.5), np.zeros((0, 2)), np.ones(2000) * 1j], ids=np.shape
)
def test_its_repr_reads_like_the_arrays(a):
    assert repr(param(a)) == repr(np.asarray(a)).replace("array", "param")
    assert str(param(a)) == str(np.asarray(a))


def test_mathematics_text_and_scipy_take_it_for_its_array():
    W, s = param([[2.0, 1.0], [1.0, 3.0]]), param(0.5)
    assert math.exp(s) == math.exp(0.5)
    assert f"{s:.2f}, {s}, {float(s)}" == "0.50, 0.5, 0.5"
    assert [1, 2, 3][int(param(2.0))] == 3
    assert np.allclose(scipy.linalg.expm(W), scipy.linalg.expm(W.value))
    assert np.allclose(scipy.linalg.cho_factor(W)[0], scipy.linalg.cho_factor(W.value)[0])
    assert np.allclose(scipy.special.expit(W), 1 / (1 + np.exp(-W.value)))
    assert scipy.optimize.minimize(lambda v: np.sum((v - W[0]) ** 2), W[1]).x == pytest.approx(
        [2, 1], abs=1e-5
    )
    assert np.random.default_rng(0).normal(W).shape == (2, 2)
    file = io.BytesIO()
    np.save(file, W)
    file.seek(0)
    assert np.array_equal(np.load(file), W)
    assert np.shares_memory(np.asarray(W), W.value)
    assert np.array(W).base is None
    assert memoryview(np.asarray(s)).nbytes == 8
    assert {"shape", "sum", "value"} <= set(dir(W))


CLONES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle, protocol 5 out of band": lambda x: pickle.loads(
        pickle.dumps(x, 5, buffer_callback=(buffers := []).append), buffers=map(bytearray, buffers)
    ),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@quick
@given(arrays())
@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
def test_a_clone_is_another_parameter_with_the_same_elements(clone, a):
    p = param(a)
    q = clone(p)
    assert type(q) is Param
    assert q is not p
    assert described(q.value) == described(p.value)
    q += 1
    assert np.array_equal(p.value, a)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy])
def test_a_copy_lies_in_memory_as_the_parameter_does(clone):
    """Sums go by that, and with it their last bits."""
    for axes in permutations(range(3)):
        p = param(np.empty((2, 3, 4)).transpose(axes))
        assert clone(p).value.strides == p.value.strides


@pytest.mark.parametrize("clone", [CLONES["pickle"], copy.deepcopy], ids=["pickle", "deepcopy"])
def test_clones_of_models_keep_which_parts_are_shared(clone):
    W = param([1.0, 2.0])
    model = {"in": Slotted(W, param(3.0)), "out": [W], "θ": params(W), "arrays": W.value}
    new = clone(model)
    assert new["in"].W is new["out"][0] is new["θ"][0]
    assert new["in"].W is not W
    assert new["arrays"] is new["in"].W.value
    new["out"][0][0] = 9
    assert new["in"].W.tolist() == [9.0, 2.0]
    assert W.tolist() == [1.0, 2.0]
    grads = gradient(lambda: np.sum(W**2), params(W))
    θ, new_grads = clone((params(W), grads))
    assert isinstance(new_grads, Grads)
    assert new_grads[θ[0]].tolist() == [2.0, 4.0]
    assert W in grads
    assert W not in new_grads


# --- Sets of parameters ---------------------------------------------------------------------------------

POOL = [param(float(i % 3)) for i in range(8)]  # equal elements: only identity tells them apart
members = st.lists(st.integers(0, 7), max_size=10)


def numbers(θ):
    return [next(i for i, p in enumerate(POOL) if p is q) for q in θ]


def once(numbers):
    return list(dict.fromkeys(numbers))


@quick
@given(members, members, st.integers(0, 7))
def test_params_are_an_ordered_set_by_identity(a, b, i):
    θ, φ, p = Params([POOL[k] for k in a]), Params(POOL[k] for k in b), POOL[i]
    A, B = once(a), once(b)
    assert numbers(θ) == A
    assert len(θ) == len(A)
    assert bool(θ) == bool(A)
    assert (p in θ) == (i in A)
    assert p.value not in θ
    assert numbers(θ | φ) == once(A + B)
    assert numbers(θ & φ) == [k for k in A if k in B]
    assert numbers(θ - φ) == [k for k in A if k not in B]
    assert sorted(numbers(θ ^ φ)) == sorted(set(A) ^ set(B))
    assert (θ == φ) == (set(A) == set(B))
    assert (θ <= φ) == (set(A) <= set(B))
    assert θ.isdisjoint(φ) == set(A).isdisjoint(B)
    assert type(θ | φ) is type(θ & φ) is type(θ - φ) is Params
    assert [θ[k] is POOL[A[k]] for k in range(-len(A), len(A))] == [True] * (2 * len(A))
    assert numbers(θ[1:]) == A[1:]
    assert numbers(reversed(list(θ))) == A[::-1]
    assert numbers(params(θ, φ) if A or B else ()) == once(A + B)
    θ.add(p)
    assert numbers(θ) == once([*A, i])
    θ.discard(p)
    θ.discard(p)
    assert numbers(θ) == [k for k in A if k != i]
    θ |= φ
    assert set(numbers(θ)) == {k for k in A if k != i} | set(B)
    clone = copy.copy(θ)
    clone.clear()
    assert len(θ) == len(once([k for k in A if k != i] + B))


SETS = [getattr(operator, name) for name in ("or_", "and_", "sub", "xor", "ior", "iand", "isub", "ixor")]


@pytest.mark.parametrize("operate", SETS)
@pytest.mark.parametrize("listed", [None, 0, 1, "once"])
def test_what_sets_of_parameters_have_in_common_or_not_keeps_its_name(operate, listed):
    sides = [params({"W": p0, "a": p1}), params({"a": p1, "b": p2})]
    known = [dict(zip(θ, θ.names, strict=True)) for θ in sides]
    if listed == "once":
        sides[1], known[1] = iter([*sides[1]]), {}
    elif listed is not None:
        sides[listed], known[listed] = [*sides[listed]], {}
    expected = set(map(id, operate({p0, p1}, {p1, p2})))
    result = operate(*sides)
    assert set(map(id, result)) == expected
    for name, p in zip(result.names, result, strict=True):
        assert p not in known[0] | known[1] or name == (known[0].get(p) or known[1][p])


def test_params_removes_pops_and_indexes_like_a_set_and_a_list():
    θ = Params(POOL[:3])
    θ.remove(POOL[1])
    assert numbers(θ) == [0, 2]
    with pytest.raises(KeyError):
        θ.remove(POOL[1])
    with pytest.raises(IndexError):
        θ[2]
    assert θ.pop() in POOL[:3]
    assert "W" not in θ
    assert 1.0 not in θ
    W, b = Params(POOL[:2])
    assert (W, b) == (POOL[0], POOL[1])
    assert Params() == Params([])


@quick
@given(st.lists(arrays(), max_size=4))
def test_to_vector_and_from_vector_are_inverse(values):
    θ = Params(map(param, values))
    v = θ.to_vector()
    assert v.shape == (sum(a.size for a in values),)
    assert v.dtype == np.result_type(*values) if values else np.float64
    assert np.array_equal(v, np.concatenate([np.zeros(0), *(a.ravel() for a in values)]))
    assert not any(np.may_share_memory(v, p.value) for p in θ)
    held = [p.value for p in θ]
    for p in θ:
        p[...] = 9
    θ.from_vector(v)
    assert [described(p.value) for p in θ] == [described(np.array(a)) for a in values]
    assert [p.value is h for p, h in zip(θ, held, strict=True)] == [True] * len(held)
    assert described(θ.to_vector()) == described(v)


def test_from_vector_takes_integers_lists_and_other_precisions():
    θ = params(param([[1.0, 2.0]], dtype="float32"), param(1j))
    θ.from_vector([1, 2, 3])
    assert θ.to_vector().tolist() == [1, 2, 3]
    θ.from_vector(np.array([4.0, 5.0, 6 + 7j]))
    assert (θ[0].dtype, θ[0].tolist(), θ[1][()]) == (np.float32, [[4.0, 5.0]], 6 + 7j)


def test_a_notebook_shows_shapes_dtypes_and_the_total():
    θ = params(param(np.zeros((200, 30)), dtype="float32"), param(0.0))
    for text in (repr(θ), str(θ), θ._repr_html_()):
        assert all(word in text for word in ("(200, 30)", "float32", "()", "float64", "6,001"))
    assert θ._repr_html_().count("<tr>") == 3
    assert "0 parameters" in repr(Params())


@pytest.mark.parametrize("x", [None, 1.0, np.float16(1), np.float64(1)])
def test_a_number_is_no_set_of_parameters(x):
    with pytest.raises(TypeError, match=r"expected parameters, got .*: they come as params\(W, b\)"):
        Params(x)


# --- Parameters of models -------------------------------------------------------------------------------

p0, p1, p2, p3 = (param(float(i)) for i in range(4))


@dataclass
class Dense:
    W: Any
    b: Any = None
    activation: Any = np.tanh

    def __call__(self, x):
        return self.activation(x @ self.W + self.b)


@dataclass
class Deeper(Dense):
    extra: Any = field(default=None, repr=False)


@dataclass(slots=True)
class Slotted:
    W: Any
    b: Any


@dataclass(slots=True)
class SlottedDeeper(Slotted):
    extra: Any


@dataclass(frozen=True)
class Frozen:
    W: Any


class Plain:
    constant = param(9.0)  # of the class: no attribute of an object's own

    def __init__(self, *args):
        self.second, self.first = args
        self.data, self.rng, self.name = np.ones(3), np.random.default_rng(0), "plain"


class SlotsAndDict(Plain):
    __slots__ = ("__private", "a")

    def __init__(self, a, *args):
        self.a = a
        self.__private = args[-1]
        super().__init__(*args[:-1])


class AnyAttribute:
    __slots__ = ("W", "__dict__", "__weakref__")


class UnsetSlot:
    __slots__ = ("missing", "there")

    def __init__(self, there):
        self.there = there


class Chain(list):
    pass


class Trained:
    def __init__(self, kept, frozen):
        self.frozen, self.kept = frozen, kept

    def trainable(self):
        return {"kept": self.kept}


class Untrained(Trained):
    def trainable(self):
        return ()


class Property:
    def __init__(self, W):
        self._W = W

    @property
    def expensive(self):
        raise AssertionError("params must not compute properties")


class Counts:
    def __init__(self, W):
        self.trainable = True  # a flag, not the method
        self.W = W


def cycle():
    a, b = SimpleNamespace(W=p0), SimpleNamespace(W=p1)
    a.next, b.next = b, a
    a.me = a
    return a


def with_attribute(model):
    model.W = p0
    return model


class Layers(dict):
    pass


class SlottedLayers(dict):
    __slots__ = ("W",)


class Layer(Plain):
    def __call__(self, x):
        return x


Pair = namedtuple("Pair", "left right")
shared = Dense(p0, p1)
deep = functools.reduce(lambda model, _: [model], range(20_000), [p0])

MODELS = {
    "a parameter": (p0, [p0]),
    "a list": ([p1, p0, p1], [p1, p0]),
    "a tuple in a dict in a list": ([{"b": (p1, [p2])}, p0], [p1, p2, p0]),
    "a named tuple": (Pair(p1, p0), [p1, p0]),
    "an ordered dict": (OrderedDict(b=p1, a=p0), [p1, p0]),
    "a deque": (deque([p1, p0]), [p1, p0]),
    "Params": (Params([p1, p0]), [p1, p0]),
    "a dataclass": (Dense(p1, p0), [p1, p0]),
    "an inherited dataclass": (Deeper(W=p2, extra=p1, b=p0), [p2, p0, p1]),
    "a slotted dataclass": (Slotted(p1, p0), [p1, p0]),
    "an inherited slotted dataclass": (SlottedDeeper(p2, p1, p0), [p2, p1, p0]),
    "a frozen dataclass": (Frozen(Frozen(p0)), [p0]),
    "an object": (Plain(p1, p0), [p1, p0]),
    "a namespace": (SimpleNamespace(b=p1, W=p0), [p1, p0]),
    "slots and attributes": (SlotsAndDict(p3, p2, p1, p0), [p0, p3, p2, p1]),
    "a slot that is not set": (UnsetSlot(p0), [p0]),
    "a list with attributes": (with_attribute(Chain([p1])), [p1, p0]),
    "a dict with attributes": (with_attribute(Layers(b=p1)), [p1, p0]),
    "a dict with slots": (with_attribute(SlottedLayers(b=p1)), [p1, p0]),
    "a mapping with attributes": (with_attribute(UserDict(b=p1)), [p1, p0]),
    "a bound method": (Plain(p1, p0).__init__, [p1, p0]),
    "a partial of a method in a list": ([p2, functools.partial(Plain(p1, p0).__init__)], [p2, p1, p0]),
    "a function's attributes": (with_attribute(lambda x: x), [p0]),
    "a decorated layer": (functools.wraps(Plain(p1, p0))(lambda x: x), [p1, p0]),
    "recomputed layers": ([recompute(Layer(p1, p0)), recompute(Layer(p2, p0))], [p1, p0, p2]),
    "a cached layer": (functools.lru_cache(Layer(p1, p0)), [p1, p0]),
    "a partial": (functools.partial(Dense(p0), p1, b=p2), [p0, p1, p2]),
    "an array of objects": (np.array([p1, None, Dense(p0)], dtype=object), [p1, p0]),
    "trainable": (Trained(p1, p0), [p1]),
    "trainable, nested": ([Untrained(p2, p3), Trained(Trained(p1, p0), p2)], [p1]),
    "trainable as a flag": (Counts(p0), [p0]),
    "a property": (Property(p0), [p0]),
    "a cycle": (cycle(), [p0, p1]),
    "shared parts": ([shared, p2, shared, Dense(p1, p3)], [p0, p1, p2, p3]),
    "twenty thousand levels": (deep, [p0]),
    "a model that holds itself in a list": ((lambda x: (x.append(x), x)[1])([p0]), [p0]),
}  # fmt: skip


@pytest.mark.parametrize(("model", "expected"), MODELS.values(), ids=MODELS)
def test_params_collects_each_once_depth_first_in_definition_order(model, expected):
    assert list(map(id, params(model))) == list(map(id, expected))


def test_params_takes_several_models_and_none():
    assert numbers_of(params(Dense(p1), p0, [p2, p1])) == [1, 0, 2]
    assert params() == Params()


def numbers_of(θ):
    return [int(p) for p in θ]


@pytest.mark.parametrize(
    "model",
    [
        {p0},
        [p1, {p0}],
        Plain([p1], frozenset({Plain(p0, 1)})),
        Plain({(1, Plain(p0, 1))}, p1),
        {Plain({p0}, 1)},
    ],
)
def test_what_only_a_set_holds_has_no_order(model):
    with pytest.raises(TypeError, match="in a set, or in what it holds, have no order"):
        params(model)


def test_a_set_of_what_stands_elsewhere_too_is_no_matter():
    layers = [Plain(p1, p0), Plain(p2, 1)]
    assert numbers_of(params(Plain({*layers, "a word", 3}, layers))) == [1, 0, 2]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, p1]])
def test_trainable_that_forgets_to_return_is_told(wrap):
    class Forgetful:
        W = p0

        def trainable(self):
            self.W

    with pytest.raises(
        TypeError, match=r"Forgetful\.trainable\(\) returned None: it must return what to train"
    ):
        params(wrap(Forgetful()))


def test_temporaries_returned_by_trainable_are_not_confused():
    class Fresh:
        def __init__(self, W):
            self.W = W

        def trainable(self):
            return [[self.W]]

    ps = [param(0.0) for _ in range(50)]
    assert list(map(id, params([Fresh(p) for p in ps]))) == list(map(id, ps))


def test_from_vector_changes_nothing_where_one_parameter_is_read_only():
    a, b = param([1.0, 1.0]), param([1.0])
    b.value.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 1 is a read-only array"):
        params(a, b).from_vector([7, 8, 9])
    assert a.value.tolist() == [1, 1]


class Weight(Param):
    __slots__ = ()


def test_copies_and_pickles_of_a_subclass_are_of_that_class():
    W = Weight(np.ones(2))
    for clone in (copy.copy(W), copy.deepcopy(W), pickle.loads(pickle.dumps(W))):
        assert type(clone) is Weight
        assert clone.value is not W.value


@pytest.mark.parametrize(
    "offer", [dict.values, dict.items, lambda d: (p for p in d.values()), lambda d: map(id_, d.values())]
)
def test_what_a_model_offers_may_be_any_iterable(offer):
    class Model:
        def __init__(self):
            self.held = {"W": param([1.0]), "b": param(2.0)}

        def trainable(self):
            return offer(self.held)

    model = Model()
    assert list(params(model)) == list(model.held.values())
    assert list(params(model.held.values())) == list(model.held.values())


def id_(x):
    return x


@pytest.mark.parametrize(
    "copied", [np.array, np.copy, lambda W: np.array(W, dtype=float), lambda W: W.copy()]
)
def test_a_copy_of_a_parameter_stays_when_the_parameter_changes(copied):
    W = param([1.0, 2.0])
    a = copied(W)
    W -= 5
    assert a.tolist() == [1, 2]
    assert np.asarray(W) is W.value


def test_names_are_the_paths_by_which_parameters_are_found():
    layer = lambda: SimpleNamespace(W=param([1.0]), b=param(0.0))
    model = SimpleNamespace(layers=[layer(), layer()], heads={"a": param(1.0), ("b", 2): (param(2.0),)})
    names = ("layers[0].W", "layers[0].b", "layers[1].W", "layers[1].b", "heads['a']", "heads[('b', 2)][0]")
    θ = params(model)
    assert θ.names == names
    assert params(θ).names == Params(θ).names == (θ | params()).names == names
    assert pickle.loads(pickle.dumps(θ)).names == copy.deepcopy(θ).names == copy.copy(θ).names == names
    assert θ[1:3].names == (θ & θ[1:3]).names == (θ - θ[:1] - θ[3:]).names == names[1:3]
    assert params(θ[0], θ[1]).names == Params([θ[0], θ[1]]).names == ("0", "1")
    assert params(θ[0], model).names == ("0", *(f"1.{name}" for name in names[1:]))
    assert params(layer().W).names == ("0",)
    assert "  layers[0].W         (1,)  float64" in repr(θ)
    assert "<td>heads[&#x27;a&#x27;]</td>" in θ._repr_html_()


def test_a_slot_for_all_other_attributes_is_in_no_name():
    model = AnyAttribute()
    model.W, model.b = param([1.0]), param(0.0)
    assert set(params(model).names) == {"W", "b"}


def test_every_parameter_has_a_name_of_its_own():
    models = [SimpleNamespace(W=param(float(i))) for i in range(3)]
    θ = params(models[0]) | params(models[1]) | params(models[2])
    assert θ.names == ("W", "W'", "W''")
    θ.discard(models[0].W)
    θ.add(models[0].W)
    assert θ.names == ("W", "W'", "2")
    by_object = params({object(): models[0].W, object(): models[1].W})
    assert by_object.names == ("[0]", "[1]")  # an address is another in the next run


# Names --------------------------------------------------------------------------------------------


class Layer:
    def __init__(self):
        self.W, self.b = param(np.ones((2, 3))), param(np.zeros(2))

    def __call__(self, x):
        return self.W @ x + self.b


def test_gradients_are_shown_by_name_with_their_norms():
    layer = Layer()
    θ = params(layer)
    grads = gradient(lambda: np.sum(3 * layer.W), θ)
    assert repr(grads).split("\n")[0] == f"Grads of 2 parameters, norm {3 * 6**0.5:.4g}"
    assert "W  (2, 3)  norm 7.348" in repr(grads)
    assert "b  (2,)    None" in repr(grads)
    for other in (2 * grads, grads + grads, -grads, pickle.loads(pickle.dumps(grads)), grads.map(abs)):
        assert "  W  (2, 3)  norm" in repr(other)
    assert "  0  (2, 3)  norm" in repr(Grads(list(θ), [np.ones((2, 3)), None]))
    assert "inf" in repr(Grads(list(θ), [np.full((2, 3), np.inf), None]))
    assert "norm 1.224e+05" in repr(Grads([param(np.zeros(6, "f2"))], [np.full(6, 5e4, "f2")]))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda θ: update(ADAM(), θ, {θ[0]: None, θ[1]: np.ones(3)}), ValueError),
        (lambda θ: update(ADAM(), θ, {θ[0]: None, θ[1]: 1j * np.ones(2)}), TypeError),
        (lambda θ: update(ADAM(), θ, {θ[0]: None}), KeyError),
        (lambda θ: θ.from_vector(np.arange(8) + 1j * (np.arange(8) > 6)), ValueError),
    ],
)
def test_an_error_about_a_parameter_names_it(call, error):
    θ = params(Layer())
    with pytest.raises(error, match="parameter b"):
        call(θ)
    θ = params({"x": θ[0], "a b": θ[1]})
    with pytest.raises(error, match=r"parameter \['a b'\]"):
        call(θ)


def test_an_error_while_a_step_is_taken_names_the_parameter():
    class Fails(AbstractOptimiser):
        def apply(self, x, Δ):
            if x.ndim == 1:
                raise RuntimeError("no step")
            return Δ

    layer = Layer()
    θ = params(layer)
    with pytest.raises(RuntimeError) as caught:
        update(Fails(), θ, {p: np.ones(p.shape) for p in θ})
    assert "at parameter b of shape (2,)" in "".join(caught.value.__notes__)


def test_a_read_only_parameter_is_named_by_load_and_from_vector():
    layer, file = Layer(), io.BytesIO()
    θ = params(layer)
    save(file, θ)
    layer.b.value.flags.writeable = False
    with pytest.raises(ValueError, match="parameter b is a read-only array"):
        load(file, θ)
    with pytest.raises(ValueError, match="parameter b is a read-only array"):
        θ.from_vector(np.zeros(8))


def test_state_that_does_not_fit_is_told_by_the_parameters_name():
    layer, file = Layer(), io.BytesIO()
    θ, opt = params(layer), Momentum()
    update(opt, layer.b, np.ones(2))
    opt.state[layer.b]["velocity"] = object()
    with pytest.raises(TypeError, match=r"state\[parameter b\]"):
        save(file, θ, opt)


def test_an_optimiser_lists_what_users_need():
    for opt, names in [
        (ADAM(), {"eta", "beta", "epsilon", "apply", "reset", "state"}),
        (Descent(), {"eta", "apply", "reset", "state"}),
    ]:
        assert {name for name in dir(opt) if not name.startswith("_")} == names
        assert {"__class__", "__init__", "__repr__"} <= set(dir(opt))
    assert {"members", "append", "apply"} <= set(dir(Optimiser(ADAM())))

    class Own(AbstractOptimiser):
        def __init__(self):
            self.rate = 0.1

        def warm(self):
            pass

    assert {name for name in dir(Own()) if not name.startswith("_")} == {"rate", "warm", "apply", "reset"}


def test_modules_are_there_after_import_minidiff_and_not_read_before():
    code = """
import sys, minidiff
heavy = {"minidiff.losses", "minidiff.schedules", "minidiff.plot", "matplotlib", "tqdm", "scipy", "numba"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert minidiff.losses.mse(1.0, 3.0) == 4.0
assert minidiff.schedules.Exp(1.0, 0.5)(2) == 0.5
assert minidiff.functions.relu(-1.0) == 0
assert minidiff.optimise.ADAM and minidiff.data.DataLoader
assert {"losses", "schedules", "train"} <= set(dir(minidiff))
from minidiff.optimise import Scheduler
assert Scheduler is minidiff.schedules.Scheduler
for module in (minidiff, minidiff.optimise):
    assert not hasattr(module, "nothing") and not hasattr(module, "_nothing")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_gradients_taken_for_one_gradient_are_named():
    W = param(np.ones(2))
    grads = gradient(lambda: np.sum(W**2), params(W))
    with pytest.raises(TypeError, match=r"W -= … takes an array, got Grads.*grads\[W\]"):
        W -= 0.1 * grads
    np.testing.assert_array_equal(W, 1)


def test_a_model_taken_for_its_parameters_is_named():
    with pytest.raises(TypeError, match=r"got dict of 1.*params\(model\) collects"):
        save("nowhere.npz", [{"W": param(1.0)}])


def test_what_a_loss_has_kept_in_a_model_is_not_looked_into():
    class Layer:
        def __init__(self):
            self.W, self.out = param(np.eye(2)), None

        def __call__(self, x):
            self.out = np.tanh(x @ self.W.T)
            return self.out

    model = [Layer(), Layer()]
    gradient(lambda: np.sum(model[1](model[0](np.ones(2)))), params(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert params(model).names == ("[0].W", "[1].W")


@pytest.mark.parametrize(
    "view",
    [
        lambda W: W.T,
        lambda W: W[:1],
        lambda W: W.value,
        lambda W: W.reshape(-1)[1:].view(),
        lambda W: np.lib.stride_tricks.as_strided(W.value, (2,), (8,)),
    ],
)
def test_a_model_that_keeps_a_view_of_a_parameter_is_warned_of(view):
    W = param([[1.0, 2.0], [3.0, 4.0]])
    with pytest.warns(UserWarning, match=r"\['decode'\] is a plain array in the memory of parameter \['W'\]"):
        ps = params({"W": W, "decode": view(W)})
    assert [*ps] == [W]


def test_a_model_may_keep_copies_and_the_memory_that_its_parameters_are_parts_of():
    home = np.arange(4.0)
    W, b = Param(home[:2]), Param(home[2:])
    others = {"view": home.reshape(2, 2), "rest": home[:0], "copy": W.value.copy(), "x": np.ones(2)}
    assert len(params({"home": home, "W": W, "b": b, **others})) == 2
    whole = np.arange(6.0)
    assert len(params({"W": Param(whole[:2]), "rest": whole[4:]})) == 1
    with pytest.warns(UserWarning, match=r"\['view'\] is a plain array in the memory of parameter \['W'\]"):
        params({"W": W, "b": b, "view": W.value[:1]})


@pytest.mark.parametrize(
    "use",
    [
        np.linalg.norm,
        np.sum,
        np.asarray,
        lambda grads: np.clip(grads, -1, 1),
        lambda grads: np.mean([grads, grads], axis=0),
    ],
)
def test_gradients_are_no_array_to_numpy(use):
    W, V = param(np.full(2, 10.0)), param(np.full(2, 20.0))
    with pytest.raises(TypeError, match=r"Grads.*grads\.to_vector\(\)"):
        use(gradient(lambda: np.sum(W + V), params(W, V)))


@pytest.mark.parametrize("errors", ["raise", "warn"])
def test_all_are_set_from_a_vector_or_none(errors):
    ps = params(param([1.0, 2.0]), param([3.0, 4.0], dtype="float32"), param(5.0))
    before, big = ps.to_vector(), np.full(5, 1e300)
    for n in count(1, 7):
        with suppress(KeyboardInterrupt), pressed_at(n, "params.py", "interrupts.py") as pressed:
            ps.from_vector(-before)
        assert ps.to_vector().tolist() in (before.tolist(), (-before).tolist())
        ps.from_vector(before)
        if pressed.left > 0:
            break
    assert n > 100
    with warnings.catch_warnings(), np.errstate(over=errors):
        warnings.simplefilter("error")
        with pytest.raises((FloatingPointError, RuntimeWarning)):
            ps.from_vector(big)
    np.testing.assert_array_equal(ps.to_vector(), before)


def test_a_vector_may_be_a_view_of_a_parameter():
    home = np.arange(4.0)
    ps = params(Param(home[:2]), Param(home[2:]))
    ps.from_vector(home[::-1])
    np.testing.assert_array_equal(home, [3.0, 2.0, 1.0, 0.0])


def test_a_shape_is_no_dtype():
    with pytest.raises(TypeError, match=r"of a shape write param\(np.zeros\(\(2, 5\)\)\)"):
        param(2, 5)


@pytest.mark.parametrize("operate", [operator.and_, operator.or_, operator.sub, operator.xor])
def test_parameters_and_what_is_no_set_have_no_operator(operate):
    with pytest.raises(TypeError, match="unsupported operand"):
        operate(params(param(1.0)), 5)
