"""Under `watch` the first number that is not finite is named, with the user's line; nothing else changes."""

import threading

import numpy as np
import pytest

from minidiff import compiled, gradient, guard, hessian, jacobian, param, params, pullback, watch
from minidiff.losses import mse
from minidiff.optimise import Descent


def test_the_first_value_that_is_not_finite_is_named_with_its_line():
    W = param([1.0, 0.0])

    def loss():
        y = W * 2
        z = np.log(y)  # -inf
        return np.sum(np.sqrt(z))  # and nan

    line = loss.__code__.co_firstlineno + 2
    with (
        watch(),
        pytest.raises(FloatingPointError, match=f"np.log, in line {line}, .*np.log.y.*: the value is not"),
    ):
        gradient(loss, params(W))
    with pytest.warns(RuntimeWarning):
        gradient(loss, params(W))  # outside it runs as before


def test_the_first_gradient_that_is_not_finite_is_named_with_its_line():
    def loss(x, y):
        z = np.sqrt(x)
        return np.sum(np.where(y > 0, z * y, y))

    line = loss.__code__.co_firstlineno + 1
    with (
        watch(),
        pytest.raises(FloatingPointError, match=f"np.sqrt, in line {line}, .*gradient by argument 0"),
    ):
        gradient(loss, np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    power = lambda x, n: x**n
    with (
        watch(),
        pytest.raises(FloatingPointError, match=r"np.power, .*: the gradient by argument 0 is not"),
    ):
        gradient(power, 0.0, 0.5)


def test_library_functions_are_named_with_the_line_that_calls_them():
    W = param([1e200])

    def loss():
        prediction = 1 * W
        return mse(prediction, np.zeros(1))

    line = loss.__code__.co_firstlineno + 2
    with watch(), pytest.raises(FloatingPointError, match=f", in line {line}, .*mse.*value"):
        gradient(loss, params(W))


def test_several_results_parts_second_derivatives_and_pullbacks_are_watched():
    with watch(), pytest.raises(FloatingPointError, match=r"np\.linalg\.slogdet.*: the value"):
        gradient(lambda A: np.linalg.slogdet(A)[1], np.zeros((2, 2)))
    with watch(), pytest.raises(FloatingPointError, match=r"x\[…\], in line.*: the value"):
        gradient(lambda x: np.sum(x[1:]), np.array([0.0, np.inf]))
    with watch(), pytest.raises(FloatingPointError, match=r"np\.power.*: the gradient"):
        hessian(lambda x: np.sum(x**1.5), np.zeros(2))
    with watch():
        _, back = pullback(lambda x: x**2, np.ones(2))
    with pytest.raises(FloatingPointError, match=r"np\.power.*: the gradient"):
        back(np.array([np.inf, 1.0]))  # recorded under it


def test_finite_losses_give_the_same_under_watch_and_guard():
    W, x = param(np.arange(6.0).reshape(2, 3)), np.ones(3)
    losses = [
        lambda: np.sum(np.tanh(W @ x) ** 2),
        lambda: np.sum(np.linalg.eigh(W @ W.T)[0] * [1, 2]),
        lambda: np.sum(W[0, 1:] * np.abs(W[1, :2] * 1j)),
        lambda: np.sum(gradient(lambda: np.sum(W**3), params(W))[W]),
    ]
    for loss in losses:
        expected = gradient(loss, params(W))[W]
        with watch():
            np.testing.assert_array_equal(gradient(loss, params(W))[W], expected)
            with guard():
                np.testing.assert_array_equal(gradient(loss, params(W))[W], expected)
            f = compiled(losses[0], params(W))
            np.testing.assert_array_equal(f().grad[W], gradient(losses[0], params(W))[W])
    with watch():
        np.testing.assert_array_equal(jacobian(np.sin, np.zeros(2))[0], np.eye(2))


def test_the_watch_is_of_its_own_thread_and_block():
    found = []
    log = lambda: found.append(gradient(lambda x: np.log(x), 0.0)[0])
    with watch():
        thread = threading.Thread(target=lambda: np.errstate(all="ignore").__enter__() or log())
        thread.start()
        thread.join()
    assert found == [np.inf]
    with pytest.raises(ZeroDivisionError), watch():
        raise ZeroDivisionError
    with np.errstate(all="ignore"):
        log()
    assert found == [np.inf] * 2


@pytest.mark.parametrize("is_step", [False, True])
def test_a_program_made_before_the_block_is_watched_as_its_loss_is(is_step):
    W = param([1.0, 1.0])
    f = compiled(lambda x: np.sum(np.log(W * x)), params(W), *[Descent()] * is_step)
    f(np.ones(2))
    before = W.value.tolist()
    with watch(), pytest.raises(FloatingPointError, match=r"np.log, in line .*: the value is not"):
        f(np.array([0.0, 1.0]))
    assert W.value.tolist() == before
    with np.errstate(all="ignore"):
        val = f(np.array([0.0, 1.0]))
    assert (val if is_step else val.val) == -np.inf
