"""Threads take gradients at the same time, over the same parameters; and a failure leaves nothing behind."""

import contextlib
import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import autograd
import autograd.numpy as anp
import autograd.tracer
import numpy as np
import pytest

from minidiff import Params, compiled, gradient, hessian, param, params, pullback, tracing
from minidiff.optimise import ADAM, engine, update

W, b, s = param(np.cos(np.arange(12.0)).reshape(3, 4)), param([0.1, -0.2, 0.3]), param(0.7)
θ = params(W, b, s)
x = np.sin(np.arange(20.0)).reshape(4, 5)


def net(k=1.0):
    return np.sum(np.tanh(W @ x * k + b[:, None]) ** 2) * s


def penalty(k):
    inner = gradient(lambda: net(k), params(W, s))
    return np.sum(inner[W] ** 2) + inner[s] * net()


def autograds(k):
    g = autograd.grad(lambda z: anp.sum(anp.sin(anp.dot(W, z)) ** 2))(x[:, 0] * k)
    return np.sum(g**2) + autograd.grad(autograd.grad(lambda t: anp.sin(t) * k))(0.5)


def plain_autograd(k):
    inner = lambda z: autograd.grad(lambda y: anp.sum(anp.sin(y * z)))(z)
    return autograd.grad(lambda z: anp.sum(inner(z) ** 2))(np.arange(3.0) * k)


WORK = {
    "first order": lambda k: gradient(lambda: net(k), θ).to_vector(),
    "second order": lambda k: gradient(lambda: penalty(k), θ).to_vector(),
    "autograd within": lambda k: gradient(lambda: autograds(k), params(W)).to_vector(),
    "autograd alone": plain_autograd,
    "explicit over a parameter": lambda k: gradient(lambda v: np.sum(v**3 * W * k), W)[0].ravel(),
    "other parameters": lambda k: gradient(lambda: np.sum(W) * s * k + net(), params(s, b)).to_vector(),
    "pullback": lambda k: pullback(lambda: np.tanh(W @ x * k), params(W))[1](
        np.cos(np.arange(15.0)).reshape(3, 5)
    ).to_vector(),
    "hessian": lambda k: hessian(lambda v: np.sum(np.sin(v * k) * b) * np.prod(v), b).ravel(),
}


@pytest.fixture
def hurried():
    """Have the interpreter change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def nothing_is_left():
    return autograd.tracer.trace_stack.top == -1 and all(type(p.lift()) is np.ndarray for p in θ)


def test_eight_threads_at_once_compute_what_one_does(hurried):
    names = list(WORK)
    serial = {name: [WORK[name](k) for k in (1.0, 0.5)] for name in names}
    start, failures = threading.Barrier(8), []

    def run(i):
        start.wait()
        for n in range(120):
            name, k = names[(i + n) % len(names)], n % 2
            result = WORK[name]((1.0, 0.5)[k])
            if not (np.array_equal(result, serial[name][k]) and nothing_is_left()):
                failures.append((i, n, name))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert failures == []
    assert nothing_is_left()


def test_all_threads_within_a_gradient_at_the_same_moment():
    """Each waits inside of its loss, at its inner gradient, until all others are there too."""
    inside = threading.Barrier(8, timeout=20)
    k = np.arange(1.0, 9.0)

    def run(i):
        def inner():
            inside.wait()
            return s**3 * k[i]

        def outer():
            g = gradient(inner, params(s))[s]  # 3s²k
            inside.wait()
            return g * g

        return gradient(outer, params(s))[s]

    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose(list(pool.map(run, range(8))), 36 * 0.7**3 * k**2)


def test_a_thread_sees_no_gradient_of_another():
    seen = []

    def other():
        seen.append(
            (type(W + 1), tracing.is_recorded(W.lift()), gradient(lambda: np.sum(W**2), params(W))[W])
        )
        W[0, 0] += 0.0  # only where it is under differentiation would this fail

    def loss():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return np.sum(W * 3)

    assert np.array_equal(gradient(loss, params(W))[W], np.full((3, 4), 3.0))
    ((kind, recorded, g),) = seen
    assert (kind, recorded) == (np.ndarray, False)
    assert np.array_equal(g, 2 * W.value)


def test_a_pool_within_a_loss_records_in_copies_of_its_context():
    def loss():
        with ThreadPoolExecutor(4) as pool:
            parts = [
                pool.submit(contextvars.copy_context().run, lambda i=i: np.sum(W[i] ** 2)) for i in range(3)
            ]
            return sum(part.result() for part in parts)

    assert np.array_equal(gradient(loss, params(W))[W], 2 * W.value)


class BreakError(Exception):
    pass


def fail():
    raise BreakError


FAILURES = {
    "a loss": lambda: gradient(lambda: (W @ x, fail()), θ),
    "an inner loss": lambda: gradient(lambda: gradient(lambda: (W * s, fail()), θ)[W], θ),
    "after an inner loss": lambda: gradient(lambda: (gradient(net, θ), fail()), θ),
    "autograd within": lambda: gradient(lambda: autograd.grad(lambda z: z * s * fail())(1.0), θ),
    "an explicit loss": lambda: gradient(lambda v: np.sum(v) * fail(), W),
    "a hessian": lambda: hessian(lambda v: np.sum(v**2) * (fail() if v[0] > -9 else 1), b),
    "a loss that returns nonsense": lambda: gradient(lambda: W @ x, θ),
    "a way back": lambda: gradient(lambda: broken(np.sum(W)), θ),
    "KeyboardInterrupt": lambda: gradient(lambda: (W * 2, (_ for _ in ()).throw(KeyboardInterrupt())), θ),
}


@autograd.extend.primitive
def broken(x):
    return x * 1.0


autograd.extend.defvjp(broken, lambda ans, x: lambda g: fail())


@pytest.mark.parametrize("mistake", FAILURES.values(), ids=FAILURES)
def test_an_exception_leaves_no_trace_behind(mistake):
    def run():
        before = gradient(lambda: penalty(1.0), θ).to_vector()
        for _ in range(3):
            with pytest.raises((BreakError, TypeError, KeyboardInterrupt)):
                mistake()
            assert nothing_is_left()
            assert np.array_equal(gradient(lambda: penalty(1.0), θ).to_vector(), before)
            assert type(W @ x) is np.ndarray
        return True

    assert run()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result()


def test_an_exception_through_autograds_own_gradient_does_not_disturb_ours():
    """autograd itself leaves its counter behind; gradients do not depend on it."""
    expected = gradient(lambda: penalty(1.0), θ).to_vector()
    try:
        for _ in range(2):
            with pytest.raises(BreakError):
                autograd.grad(lambda z: gradient(lambda: z * s * fail(), θ)[s])(1.0)
            assert type(W @ x) is np.ndarray
            assert np.array_equal(gradient(lambda: penalty(1.0), θ).to_vector(), expected)
            assert np.array_equal(plain_autograd(1.0), WORK["autograd alone"](1.0))
    finally:
        autograd.tracer.trace_stack.top = -1


def test_an_exception_caught_within_the_loss_costs_only_the_inner_gradient():
    def loss():
        with contextlib.suppress(BreakError):
            gradient(lambda: (s * 2, fail()), params(s))
        return s**2 * gradient(lambda: W[0, 0] * s, params(W))[W][0, 0]

    np.testing.assert_allclose(gradient(loss, params(s))[s], 3 * 0.7**2)
    assert nothing_is_left()


def test_a_pullback_outlives_its_context_and_goes_back_in_any_thread():
    value, back = pullback(lambda: np.tanh(W @ x), params(W))
    seeds = [np.full(value.shape, float(i)) for i in range(8)]
    expected = [back(seed)[W] for seed in seeds]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(np.array_equal, pool.map(lambda seed: back(seed)[W], seeds), expected))
    ps = Params(param(float(i)) for i in range(50))
    with ThreadPoolExecutor(8) as pool:
        for g in pool.map(lambda i: gradient(lambda: sum(p * i for p in ps), ps).to_vector(), range(1, 9)):
            assert len(set(g)) == 1


def test_steps_in_threads_are_the_steps_of_one(hurried):
    gs = np.random.default_rng(0).normal(size=(100, 20_000))

    def work(_):
        x, opt = np.ones(20_000), ADAM(0.1)
        with engine("numpy"):
            for g in gs:
                update(opt, x, g)
        return x

    alone = work(0)
    with ThreadPoolExecutor(4) as pool:
        for x in pool.map(work, range(4)):
            np.testing.assert_array_equal(x, alone)


def test_a_program_is_made_while_another_thread_has_made_one():
    W, V = param(np.ones(2)), param(np.ones(2))
    anew = lambda: compiled(lambda: np.sum(V**3), params(V))().grad[V].tolist()

    def loss():
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(anew).result() == [3, 3]
        return np.sum(W**2) * W.value[0]

    program = compiled(loss, params(W))
    for value in (1.0, 2.0):
        W[...] = value
        assert program().grad[W].tolist() == [2 * value**2] * 2


@pytest.mark.parametrize("n", [3, 20_000])  # a step as straight lines, and one by `update`
@pytest.mark.parametrize(
    "data",
    [
        [np.ones(1)] * 6,
        [np.ones((i + 1, 1)) for i in range(6)],
        [np.ones(1, dtype) for dtype in ("f4", "f8") * 3],
    ],
    ids=["one signature", "six shapes", "two dtypes of gradients"],
)
def test_threads_take_the_steps_of_one_program_from_its_start(n, data, hurried):
    v, opt, start = param(np.zeros(n, "f4")), ADAM(0.1), threading.Barrier(6)
    step = compiled(lambda x: np.sum((v - x) ** 2), params(v), opt)
    keys = len({(x.shape, x.dtype) for x in data})

    def run(x):
        start.wait()
        for _ in range(50):
            step(x)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, data))
    assert opt.state[v]["clock"][0] == 300
    assert step.source.count("def loss_and_gradient") == keys
    assert step._recorded == keys
