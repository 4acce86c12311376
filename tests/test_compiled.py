"""Compiled functions: the bits of the eager gradient for other values, or a refusal that names the line."""

import functools
import gc
import math
import pickle
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from autograd.builtins import SequenceBox
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidiff.functions as mf
import minidiff.losses as ml
import minidiff.optimise as mo
from minidiff import compiled, dropgrad, gradient, param, params, withgradient

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


# Samples that make arrays of others as they run, and one whose axes NumPy hands over as an array.
REFUSED_SAMPLES = {"where-0", "where-1", "where-2", "clip-1", "select-0", "einsum-3"}
# Derivatives that look at values, or write into arrays, when they are differentiated themselves.
REFUSED_TWICE = REFUSED_SAMPLES | {f"prod-{i}" for i in range(6)} | {
    "partition-0", "linalg.norm-4",
}  # fmt: skip


@pytest.mark.parametrize(("name", "call", "x"), CASES)
def test_a_compiled_gradient_has_the_bits_of_the_eager_one(name, call, x, request):
    why = refusal_of(lambda x: projected(call(np, x)), x)
    assert (why is not None) == (request.node.callspec.id in REFUSED_SAMPLES), why


@pytest.mark.parametrize(("name", "call", "x"), CASES)
def test_so_has_a_gradient_of_a_gradient(name, call, x, request):
    def squared_slope(x):
        (g,) = gradient(lambda x: projected(call(np, x)), x)
        return 0.0 * np.sum(np.real(x)) if g is None else np.sum(np.real(g) ** 2 + np.imag(g) ** 2)

    why = refusal_of(squared_slope, x)
    assert (why is not None) == (request.node.callspec.id in REFUSED_TWICE), why


@pytest.mark.parametrize("method", [method for method, _ in METHODS.values()], ids=METHODS)
def test_so_have_methods_and_operators(method, request):
    why = refusal_of(lambda x: projected(method(x)), M)
    masked = request.node.callspec.id in ("mask", "sum where", "mean where")
    assert (why is not None) == masked, why


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
    with pytest.raises(TypeError, match="plain arrays, not MaskedArray"):
        f(np.ma.array(x), 2)


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
    ]
    for loss in losses:
        f = compiled(loss, params(W))
        for _ in range(3):
            assert bits(f()) == bits(withgradient(loss, params(W)))
            for array in (W, V, data, weights):
                array[...] = rng.random(3)


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


# --- What is refused ------------------------------------------------------------------------------------

W, DATA, RNG = param(np.array([0.5, 0.7, 1.5])), np.ones(3), np.random.default_rng(0)
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
    "index": (lambda x: np.sum(W) * [1, 2, 3][np.argmax(x)], "index of a list"),
    "size": (lambda x: np.sum(W) * np.zeros(np.argmax(x)).size, "size, a count or an index"),
    "round": (lambda x: np.sum(W) * round(x[0]), "round.. makes"),
    "item": (lambda x: np.sum(W) * x[0].item(), ".item of a value"),
    "text": (lambda x: np.sum(W) * float(f"{x[0]}"), "makes text"),
    "key": (lambda x: np.sum(W) * {0.5: 1}[x[0]], "as a key"),
    "asarray": (lambda x: np.sum(W * np.asarray(x)), "asarray"),
    "array": (lambda x: np.sum(W * np.array([x[0], 1.0, 2.0])), "np.stack"),
    "in place": (changed, r"in place \(\*=\)"),
    "assignment": (assigned, "assigns into an array"),
    "out": (lambda x: np.sum(W * np.add(x, 1, out=np.zeros(3))), "writes into an array"),
    "mask": (lambda x: np.sum((W * x)[x > 0]), "how many elements.*np.where"),
    "nonzero": (lambda x: np.sum(W[np.nonzero(x)]), "np.nonzero cannot be compiled"),
    "where": (lambda x: np.sum(W[np.where(x > 0)]), "np.where.mask. gives indices"),
    "slice": (lambda x: np.sum(W[: np.argmax(x)]), "i or j computed"),
    "unique": (lambda x: np.sum(W) * np.unique(x)[0], "np.unique cannot be compiled"),
    "random": (lambda x: np.sum(W * RNG.random(3)), "random numbers.*arguments"),
    "a random bit": (lambda x: np.sum(W) * (RNG.random() < 0.5), "random numbers"),
    "np.random": (lambda x: np.sum(W * np.random.rand(3)), "random numbers"),
    "random module": (lambda x: np.sum(W) * (random.random() < 0.5), "random numbers"),
    "counter": (lambda x: np.sum(W) * counted(), "second recording differs"),
    "counter in calls": (lambda x: np.sum(W) if counted() % 2 else np.sum(W * x), "differs"),
    "clock": (lambda x: np.sum(W) * time.perf_counter_ns(), "second recording differs"),
    "made of data": (lambda x: np.sum(W * (DATA * 2)), "makes anew, perhaps of DATA"),
    "a number of data": (lambda x: np.sum(W) * float(DATA[0]), "makes anew, perhaps of DATA"),
    "a target made of data": (lambda x: ml.mse(W, DATA + 1), "makes anew, perhaps of DATA"),
    "a mask of data": (lambda x: ml.crossentropy(mf.softmax(W), DATA / 3), "makes anew, perhaps of DATA"),
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


def test_what_is_given_to_compiled_is_checked():
    for arguments, why in [
        ((3,), "must be a function, got int 3"),
        ((W,), "must be a function"),
        ((np.sum, [W]), "ps must be Params"),
        ((np.sum, params(W), 0.1), "opt must be an optimiser"),
    ]:
        with pytest.raises(TypeError, match=why):
            compiled(*arguments)
    with pytest.raises(TypeError, match="must return one real number"):
        compiled(lambda x: x)(np.ones(3))


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


def test_a_dtype_that_depends_on_values_is_recorded_anew():
    f = compiled(lambda x: np.sum(np.abs(np.linalg.eig(x)[0]) ** 2) * np.sum(W), params(W))
    loss = lambda x: np.sum(np.abs(np.linalg.eig(x)[0]) ** 2) * np.sum(W)
    real, turning = np.array([[2.0, 1.0], [0.5, 3.0]]), np.array([[0.0, 1.0], [-1.0, 0.1]])
    for x in (real, turning, real, turning * 2):
        assert bits(f(x)) == bits(withgradient(lambda: loss(x), params(W)))


def test_source_and_print():
    A, b = param(np.ones((2, 3))), param(np.zeros(2))

    def loss(x, y):
        h = np.tanh(A @ x + b)
        return np.sum((h - y) ** 2)

    f = compiled(loss, params(A, b))
    assert f.source == ""
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


def norm_of(x):
    return np.sum(x * x)


def test_it_pickles_without_its_programs():
    f = compiled(norm_of)
    f(np.ones(2))
    again = pickle.loads(pickle.dumps(f))
    assert again.source == ""
    assert again(np.ones(3)).val == 3.0


def test_a_recording_leaves_nothing_behind():
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
