"""A user's own derivatives: by rules, jointly, and of a class that keeps something for the way back."""

import pickle
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

from minidiff import (
    check_gradient,
    compiled,
    derivative,
    dropgrad,
    gradient,
    hessian,
    hvp,
    jacobian,
    jvp,
    param,
    params,
    recompute,
    watch,
    withgradient,
)

X, Y = np.array([0.3, 1.2, 2.5]), np.array([[1.0, 0.4, 2.0], [0.7, 3.0, 1.1]])
A, B = np.array([[2.0, 1.0], [0.5, 3.0]]), np.array([1.0, -1.0])


@derivative(lambda g, ans, x: 3 * g * x * x)
def cube(x):
    return x**3


@derivative(
    lambda g, ans, x, y, power=1: (g * y**power).sum(axis=0),
    lambda g, ans, x, y, power=1: g * x * power * y ** (power - 1),
)
def weighed(x, y, power=1):
    return x * y**power


@derivative(jointly=lambda argnums, g, ans, *xs: [g * ans / xs[i] for i in argnums])
def product(*xs):
    return np.prod(xs, axis=0)


@derivative
class solve:  # noqa: N801 - it becomes a function
    """Keep the inverse."""

    def forward(self, A, b, *, twice=False):
        self.inverse = np.linalg.inv(A)
        return self.inverse @ (2 * b if twice else b)

    def backward(self, g, ans, A, b, *, twice=False):
        h = self.inverse.T @ g
        return -np.outer(h, ans), (2 * h if twice else h)


@derivative(lambda g, ans, x: g[0] * ans[1] - g[1] * ans[0])
def sine_and_cosine(x):
    return np.sin(x), np.cos(x)


def test_rules_have_first_and_second_derivatives():
    check_gradient(cube, X)
    check_gradient(weighed, X, Y)
    check_gradient(lambda x, y: weighed(x, y, power=3), X, Y)
    check_gradient(product, X, 2 * X, X**2)
    check_gradient(lambda x: sine_and_cosine(x)[0] * sine_and_cosine(x)[1] ** 2, X)
    assert gradient(lambda x: gradient(lambda x: gradient(cube, x)[0], x)[0], 2.0) == (6.0,)


@pytest.mark.parametrize("twice", [False, True])
def test_what_is_kept_serves_the_way_back(twice):
    check_gradient(lambda A, b: solve(A, b, twice=twice), A, B)
    np.testing.assert_array_equal(solve(A, B, twice=twice), np.linalg.inv(A) @ B * (1 + twice))


def test_each_call_keeps_its_own():
    f = lambda A, b: solve(A + np.eye(2), solve(A, b))
    check_gradient(f, A, B)
    check_gradient(lambda b: solve(A, b), B)


def test_forward_runs_once_for_a_gradient():
    runs = []

    @derivative
    class square:  # noqa: N801
        def forward(self, x):
            runs.append(type(x))
            self.x = x
            return x * x

        def backward(self, g, ans, x):
            return 2 * g * self.x

    assert gradient(lambda x: square(x) + 1, 3.0) == (6.0,)
    assert runs == [np.float64]
    assert hessian(square, 3.0) == 2.0


def test_what_is_kept_by_other_means_than_numpy_has_no_second_derivative_and_says_so():
    @derivative
    class square:  # noqa: N801
        def forward(self, x):
            self.x = float(x)
            return x * x

        def backward(self, g, ans, x):
            return 2 * g * self.x

    assert gradient(square, 3.0) == (6.0,)
    with pytest.raises((TypeError, NotImplementedError), match="float"):
        hessian(square, 3.0)


def test_parameters_keywords_and_jacobians():
    W = param(X)
    (g,) = gradient(lambda: np.sum(weighed(y=Y, x=W)), params(W)).values()
    np.testing.assert_allclose(g, Y.sum(0))
    b = param(B)
    (g,) = gradient(lambda: np.sum(solve(A, b=b)), params(b)).values()
    np.testing.assert_allclose(g, np.linalg.inv(A).sum(0))
    np.testing.assert_allclose(jacobian(lambda b: solve(A, b), B)[0], np.linalg.inv(A))


def test_complex_numbers_are_conjugated_as_everywhere():
    check_gradient(cube, X + 1j)


def test_a_compiled_loss_has_it_too():
    f = compiled(lambda x, A: np.sum(cube(x)) + np.sum(solve(A, x[:2])))
    for x in (X, 2 * X):
        assert f(x, A).val == np.sum(cube(x)) + np.sum(solve(A, x[:2]))
        expected = gradient(lambda x: np.sum(cube(x)) + np.sum(solve(A, x[:2])), x)[0]
        np.testing.assert_array_equal(f(x, A).grad[0], expected)


OF_WAVES = derivative(lambda g, ans, x, y: g * y * np.cos(x * y), lambda g, ans, x, y: g * x * np.cos(x * y))


def wave(x, y):
    return np.sin(x * y)


def wave_by_cases(x, y):
    return np.sin(x * y) if np.all(y > 0) else -np.sin(-x * y)


@pytest.mark.parametrize("slope", [
    lambda f, x, y: gradient(lambda z: np.sum(f(z, y) * z), x)[0],
    lambda f, x, y: gradient(lambda z: np.sum(f(y, z)), x)[0],
    lambda f, x, y: jacobian(lambda z: f(z, 2 * y), x)[0],
    lambda f, x, y: jvp(lambda z: f(y * y, z), (x,), (y,))[1],
    lambda f, x, y: hvp(lambda z: np.sum(f(z, y)), x, y),
])  # fmt: skip
@pytest.mark.parametrize("function", [wave, wave_by_cases])
def test_a_compiled_loss_may_hold_a_derivative_of_it_beside_other_values(function, slope):
    f = OF_WAVES(function)
    loss = lambda x, y: np.sum(slope(f, x, y) * np.arange(1.0, 4.0))
    program = compiled(loss)
    for x in (X, X / 2):
        for got, expected in zip(program(x, Y[0]).grad, gradient(loss, x, Y[0]), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12)


def until_it_stands(step, x):
    while np.max(np.abs(step(x) - x)) > 1e-12:
        x = step(x)
    return x


@derivative(lambda g, ans, a: g / 2 / (ans if np.all(ans > 0) else np.abs(ans)))
def heron(a):
    return until_it_stands(lambda x: (x + a / x) / 2, np.ones_like(a))


BUFFER = np.zeros(3)


@derivative(lambda g, ans, x: g * np.exp(x))
def into_a_buffer(x):
    if np.any(x):
        np.exp(x, out=BUFFER)
    return BUFFER


@derivative(lambda g, ans, x: np.where(x > 1, np.max(g), 0.0))
def above(x):
    return x[np.asarray(x) > float(1)]


@pytest.mark.parametrize("f", [heron, lambda x: heron(x) * heron(2 * x) + 1.0, into_a_buffer, above])
def test_a_program_calls_one_that_it_cannot_see_inside_as_it_is(f):
    loss = lambda x: np.sum(np.exp(f(x) * 0.5)) + np.sum(f(3 * x))
    program = compiled(loss)
    for x in (X, 2 * X, X[::-1].copy()):
        (val, (g,)), (expected, (h,)) = program(x), withgradient(loss, x)
        assert val == expected
        np.testing.assert_array_equal(g, h)


def test_a_program_calls_it_for_what_it_finds_now():
    scale = [2.0]
    times = derivative(lambda g, ans, x: g * scale[0])(lambda x: np.frombuffer(x.tobytes()) * scale[0])
    loss = lambda x: np.sum(times(x))
    program = compiled(loss)
    for scale[0] in (2.0, 3.0):
        assert program(X).val == loss(X)


def test_what_a_program_calls_so_cannot_write_into_what_it_gets():
    def doubled(x):
        x.tobytes()
        x *= 2
        return x

    doubled = derivative(lambda g, ans, x: 2 * g)(doubled)
    x = X.copy()
    for f in (lambda x: gradient(lambda x: np.sum(doubled(x)), x), compiled(lambda x: np.sum(doubled(x)))):
        with pytest.raises(ValueError, match="read-only"):
            f(x)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("size", [3, 100_000])
def test_what_a_function_keeps_for_its_rule_a_program_uses_as_it_is_then(size):
    kept = []

    def doubled_by_kept(g, ans, x):  # into the gradient, which is its own
        g *= 2 * kept.pop()
        return g

    @derivative(doubled_by_kept)
    def square(x):
        x.tobytes()
        kept.append(x)
        return x * x

    loss = lambda x: np.sum(square(x + 1.0) * np.exp(-square(2.0 * x)) + np.sin(x + 1.0) * 2.0)
    program = compiled(loss)
    for x in (np.linspace(0.1, 1, size), np.linspace(-2, 0.5, size)):
        (val, (g,)), (expected, (h,)) = program(x), withgradient(loss, x)
        assert val == expected
        np.testing.assert_array_equal(g, h)


@pytest.mark.parametrize("size", [3, 100_000])
def test_what_a_function_keeps_a_program_does_not_write_over(size):
    kept = []

    @derivative(lambda g, ans, x: g)
    def seen(x):
        x.tobytes()
        kept.append(x)
        return 1.0 * x

    program = compiled(lambda x: np.sum(np.exp(seen(np.sin(x) + 1.0) * 2.0)))
    for x in (np.linspace(0.1, 1, size), np.linspace(-2, 0.5, size)):
        program(x)
        program(2 * x)
        np.testing.assert_array_equal(kept[-2], np.sin(x) + 1.0)


def test_a_function_that_the_loss_makes_anew_is_told_of():
    solved = derivative(None, lambda g, ans, f, x: g / 2 / ans)(lambda f, x: until_it_stands(f, x))
    with pytest.raises(TypeError, match=r"the loss makes a function anew\. Make it before"):
        compiled(lambda a: np.sum(solved(lambda x: (x + 4.0 / x) / 2, a)))(X)


def test_what_a_class_keeps_a_program_has_to_see():
    @derivative
    class root:  # noqa: N801
        def forward(self, a):
            self.root = until_it_stands(lambda x: (x + a / x) / 2, np.ones_like(a))
            return self.root

        def backward(self, g, ans, a):
            return g / 2 / self.root

    with pytest.raises(TypeError, match="it branches on a value"):
        compiled(lambda a: np.sum(root(a)))(X)


def test_outside_a_gradient_it_is_the_function_it_was():
    assert cube(2.0) == 8.0
    assert cube.__name__ == "cube"
    assert solve.__name__ == "solve"
    assert solve.__doc__ == "Keep the inverse."
    assert pickle.loads(pickle.dumps(cube)) is cube
    assert pickle.loads(pickle.dumps(solve)) is solve


def test_a_gradient_is_never_an_argument_nor_a_part_of_one():
    for rule in (lambda g, ans, x: x, lambda g, ans, x: x[::-1], lambda g, ans, x: ans):
        x = X.copy()
        (g,) = gradient(lambda x: np.sum(derivative(rule)(lambda x: 1 * x)(x)), x)
        assert not np.shares_memory(g, x)
        g[:] = 9
        assert x.tolist() == X.tolist()


WRONG = {
    "another shape": (lambda g, ans, x: g[:2], r"f has no gradient .*gives the shape \(2,\)"),
    "nothing": (lambda g, ans, x: None, r"f has no gradient .*no rule for argument 0, or it gives None"),
    "a list": (lambda g, ans, x: [1.0, 2.0, 3.0], r"f has no gradient .*gives a list"),
    "no rule": (None, r"f has no gradient .*no rule for argument 0"),
    "a tuple": (lambda g, ans, x: (g, g), r"gives a tuple, and not an array: give a rule for each argument"),
    "too few arguments": (
        lambda g, x: g,
        r"its rule, called as rule\(g, ans.*TypeError: .*takes 2 positional",
    ),
    "a wrong name": (lambda g, ans, x: np.sum(g, axes=1), r"its rule, .* TypeError: .*'axes'"),
    "a wrong key": (lambda g, ans, x: {}["kept"], r"its rule, .* KeyError: 'kept'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_named_with_what_is_wrong(name):
    rule, words = WRONG[name]

    @derivative(rule)
    def f(x):
        return 2 * x

    with pytest.raises(NotImplementedError, match=words):
        gradient(lambda x: np.sum(f(x)), X)


def test_an_argument_beyond_the_rules_is_named():
    f = derivative(lambda g, ans, x, y: g * y)(lambda x, y: x * y)
    assert gradient(lambda x: f(x, 3.0), 2.0) == (3.0,)
    with pytest.raises(NotImplementedError, match="no rule for argument 1"):
        gradient(lambda y: f(2.0, y), 3.0)


class OfPyTorch:
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


class WithSettings:
    def __init__(self, k):
        self.k = k

    def forward(self, x):
        return self.k * x

    def backward(self, g, ans, x):
        return self.k * g


def test_mistakes_are_told_when_it_is_decorated():
    def of_two(x, y):
        return x * y

    for mistake, words in (
        (lambda: derivative(of_two), r"lacks its rules: write @derivative\(lambda g, ans, x: …\) above it"),
        (lambda: derivative()(cube), "a rule for each argument"),
        (lambda: derivative(cube, jointly=cube), "a rule for each argument"),
        (lambda: derivative(3.0), "rule 0 must be callable"),
        (lambda: derivative(cube)(3.0), "decorates a function"),
        (lambda: derivative(cube, cube)(lambda x: x), "takes 1 arguments by position, got 2 rules"),
        (lambda: derivative(type("half", (), {"forward": lambda self, x: x})), "needs a method backward"),
        (
            lambda: derivative(OfPyTorch),
            r"forward\(self, x\) and backward\(self, g, ans, x\), without @static",
        ),
        (lambda: derivative(WithSettings), r"arguments of the call: forward\(self, x, k\)"),
    ):
        with pytest.raises(TypeError, match=words):
            mistake()


def test_too_few_gradients_are_told():
    f = derivative(jointly=lambda argnums, g, ans, *xs: [g])(lambda *xs: sum(xs))
    with pytest.raises(NotImplementedError, match="2 gradients are needed, there came 1"):
        gradient(lambda x, y: f(x, y), 1.0, 2.0)


def test_a_gradient_is_not_the_array_of_a_rule():
    kept = np.ones(3)
    twice = derivative(lambda g, ans, x: kept)(lambda x: x * 1)
    (g,) = gradient(lambda x: np.sum(twice(x)), np.ones(3))
    g[...] = 8
    np.testing.assert_array_equal(kept, 1)


@pytest.mark.parametrize("results", [lambda x: x, lambda x: (2.0, x), lambda x: (2.0, [{"a": x}])])
def test_a_parameter_that_is_no_argument_is_not_lost(results):
    W, V = param(np.full(2, 3.0)), param(np.ones(2))
    scaled = derivative(lambda g, ans, x: g * W)(lambda x: results(x * W))
    itself = derivative(lambda g, ans, x: g * W)(lambda x: results(W))
    last = lambda y: (
        last(y[-1]) if isinstance(y, (tuple, list)) else last(y["a"]) if isinstance(y, dict) else y[-1]
    )
    for f in (scaled, itself):
        for x in (V, W):
            with pytest.raises(TypeError, match=r"none of its arguments.*Pass it as an argument"):
                gradient(lambda f=f, x=x: last(f(x)), params(V, W))
    # Of a plain array no rule is needed.
    assert gradient(lambda: last(scaled(np.full(2, 5.0))), params(V, W))[W].sum() == 5
    assert gradient(lambda: last(itself(np.full(2, 5.0))), params(V, W))[W].sum() == 1


def test_a_rule_that_forgets_the_broadcast_is_told_what_to_do():
    times = derivative(lambda g, ans, x, y: g * y, lambda g, ans, x, y: g * x)(lambda x, y: x * y)
    with pytest.raises(NotImplementedError, match=r"shape \(4,\) where that has \(\): sum over the axes"):
        gradient(lambda x, y: np.sum(times(x, y)), np.ones(4), 2.0)


def test_a_value_of_an_outer_derivative_may_be_known_by_name():
    def outer(t):
        scaled = derivative(lambda g, ans, x: g * t)(lambda x: x * t)
        return gradient(scaled, 3.0)[0] ** 2

    assert gradient(outer, 2.0) == (4.0,)
    W = param(np.array([1.0, 2.0]))
    by_w = derivative(lambda g, ans, x: g * W)(lambda x: x * W)
    slope = lambda: gradient(lambda x: np.sum(by_w(x)), np.ones(2))[0]
    np.testing.assert_array_equal(gradient(lambda: np.sum(slope() ** 2), params(W))[W], [2, 4])
    V = param(np.ones(2))  # under no differentiation: the rule is not needed
    np.testing.assert_array_equal(gradient(lambda: np.sum(by_w(V)), params(W))[W], [1, 1])


def test_the_gradient_of_a_result_that_nobody_has_used_may_be_written_into():
    two = derivative(lambda g, ans, x: g[0].__imul__(2 * x) + 3 * x**2 * g[1])(lambda x: (x**2, x**3))
    np.testing.assert_array_equal(gradient(lambda x: two(x)[1].sum(), np.arange(3.0))[0], [0, 3, 12])


def test_a_rule_may_write_into_the_gradient_it_gets_and_the_others_stay():
    def of_positive(g, ans, x):
        g[x < 0] = 0
        return g

    positive = derivative(of_positive)(lambda x: np.maximum(x, 0))

    def loss(x, f):
        h = 1 * x
        return np.sum((f(h) + h) * np.array([1.0, 2.0, 3.0]))

    x = np.array([-1.0, 2.0, -3.0])
    np.testing.assert_array_equal(
        gradient(lambda x: loss(x, positive), x)[0],
        gradient(lambda x: loss(x, lambda h: np.maximum(h, 0)), x)[0],
    )


@derivative(lambda g, ans, x: 2.0)
def twice(x):
    return 2 * x


def test_a_rule_may_give_a_number_of_pythons():
    assert gradient(twice, 3.0) == (2.0,)


Solved = namedtuple("Solved", "x more")
# Where a function gives what no gradient can be of beside its results: each with how to take the result.
FORMS = {
    "a tuple": (lambda y, more: (more, y), lambda r: r[1], lambda r: r[0]),
    "a list": (lambda y, more: [y, more], lambda r: r[0], lambda r: r[1]),
    "a named tuple": (Solved, lambda r: r.x, lambda r: r.more),
    "a dict": (lambda y, more: {"more": more, "y": y}, lambda r: r["y"], lambda r: r["more"]),
    "a dict of SciPy's": (
        lambda y, more: (OptimizeResult(more=more), y), lambda r: r[1], lambda r: r[0].more
    ),
    "nested": (lambda y, more: ("z", {"a": [more, y]}), lambda r: r[1]["a"][1], lambda r: r[1]["a"][0]),
}  # fmt: skip


@pytest.mark.parametrize(("form", "result", "rest"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("more", [None, 7, True, np.int64(3), np.bool_(True), "steps", [1, 2], b"", {}])
def test_what_comes_beside_the_results_stays_what_it_is(form, result, rest, more):
    own = derivative(lambda g, ans, x: 3 * result(g) * x**2)(lambda x: form(x**3, more))
    loss = lambda x: np.sum(result(own(x)) ** 2)
    x, seen = np.array([0.5, 2.0]), []
    check_gradient(loss, x)
    np.testing.assert_allclose(gradient(loss, x)[0], 6 * x**5)
    np.testing.assert_allclose(compiled(loss)(x).grad[0], 6 * x**5)
    np.testing.assert_allclose(jacobian(lambda x: result(own(x)), x)[0], np.diag(3 * x**2))
    gradient(lambda x: seen.append(own(x)) or loss(x), x)
    assert type(seen[0]) is type(own(x))
    assert type(rest(seen[0])) is type(more)
    assert rest(seen[0]) == more


SHARED = {
    "twice": lambda x: (lambda z: (z, z))(2 * x),
    "a view": lambda x: (lambda z: {"a": z, "b": z[::-1]})(2 * x),
    "the argument": lambda x: [x, 2 * x],
    "a view of the argument": lambda x: (2 * x, x[::-1]),
}


@pytest.mark.parametrize("f", SHARED.values(), ids=SHARED)
def test_results_that_share_memory_cannot_be_changed(f):
    """A change of one would have to reach the other, and its gradient."""
    own = derivative(lambda g, ans, x: 0 * x)(f)
    parts = lambda x: [*(lambda r: r.values() if isinstance(r, dict) else r)(own(x))]
    x = np.ones(2)
    assert gradient(lambda x: np.sum(parts(x)[0] * parts(x)[1]), x)[0].tolist() == [0, 0]
    for i in range(2):
        if np.may_share_memory(parts(x)[i], x) or np.may_share_memory(*parts(x)):
            with pytest.raises(ValueError, match="read-only"):
                gradient(lambda x, i=i: parts(1 * x)[i].__iadd__(1).sum(), x)


def test_a_result_that_is_the_argument_or_a_view_of_it_changes_with_it():
    for f, rule in [(lambda x: x, lambda g, ans, x: g), (lambda x: x[1:], lambda g, ans, x: np.append(0, g))]:
        own = derivative(rule)(f)

        def loss(x, f):
            y = 1 * x
            z = f(y)
            z += 1
            return np.sum(y**2)

        class Keeps:
            def forward(self, x, f=f):
                return f(x)

            def backward(self, g, ans, x, rule=rule):
                return rule(g, ans, x)

        x = np.array([1.0, 2.0, 3.0])
        plain = withgradient(lambda x, f=f: loss(x, f), x)
        for mine in (own, derivative(Keeps)):
            ours = withgradient(lambda x, f=mine: loss(x, f), x)
            assert ours.val == plain.val == loss(x, mine)
            np.testing.assert_array_equal(ours.grad[0], plain.grad[0])
            program = compiled(lambda x, f=mine: loss(x, f))
            program(2 * x)
            np.testing.assert_array_equal(program(x).grad[0], plain.grad[0])


@pytest.mark.parametrize("view", [lambda x: x[::-1].T, lambda x: x])
def test_it_may_be_written_into_where_the_argument_may(view):
    own = derivative(lambda g, ans, x: g)(view)
    for writeable in (True, False):
        c = np.ones(2)
        c.flags.writeable = writeable
        seen = []
        gradient(lambda x, y, seen=seen: seen.append(own(y)) or np.sum(x * own(x)), np.ones(2), c)
        assert seen[0].flags.writeable == own(c).flags.writeable == writeable


def test_a_function_or_rule_that_writes_into_what_it_is_given_is_refused():
    def writes(x):
        x *= 2
        return x.copy()

    def rule_writes(g, ans, x):
        x *= 2
        return g * x

    def spoils_the_result(g, ans, x):
        h = g * ans
        ans[...] = 0
        return h

    W = param([1.0, 2.0])
    own = derivative(lambda g, ans, x: 2 * g)(writes)
    with pytest.raises(ValueError, match="read-only") as caught:
        gradient(lambda: np.sum(own(W)), params(W))
    if hasattr(caught.value, "__notes__"):
        assert "writes may not write into an argument under differentiation" in caught.value.__notes__[0]
    for rule in (rule_writes, spoils_the_result):
        with pytest.raises(NotImplementedError, match="read-only"):
            gradient(lambda rule=rule: np.sum(derivative(rule)(lambda x: np.exp(x))(W)), params(W))
    assert W.value.tolist() == [1, 2]
    x = np.ones(2)
    assert own(x).tolist() == x.tolist() == [2, 2]  # outside of a gradient it is the function it was


@dataclass
class Held:
    y: Any


@pytest.mark.parametrize(
    "give",
    [Held, lambda y: (Held(y), 1), lambda y: map(np.sum, [y]), lambda y: {"a": y}.values(), lambda y: {3}],
)
def test_a_result_that_hides_its_arrays_is_refused_and_not_lost(give):
    own = derivative(lambda g, ans, x: 2 * g)(lambda x: give(2 * x))
    with pytest.raises(TypeError, match=r"which cannot be differentiated\. Give it plain"):
        gradient(lambda x: own(x) and np.sum(x), np.ones(3))


def test_what_comes_by_name_stays_what_it_is():
    Settings, cache = namedtuple("Settings", "a"), {}

    def scaled(x, *, settings, cache):
        cache["calls"] = cache.get("calls", 0) + 1
        return x * settings.a

    own = derivative(lambda g, ans, x, *, settings, cache: g * settings.a)(scaled)
    again = recompute(scaled)
    for f in (own, again):
        cache.clear()
        loss = lambda x, f=f: np.sum(f(x, settings=Settings(3.0), cache=cache))
        assert loss(np.ones(2)) == 6
        assert cache["calls"] == 1
        assert gradient(loss, np.ones(2))[0].tolist() == [3, 3]
        assert cache["calls"] > 1
    S = param(1.3)
    rounded = derivative(lambda g, ans, x, *, s: g)(lambda x, *, s: np.round(x * s))
    for x in (2.0, S * 1.0):
        with pytest.raises(TypeError, match="by position, not by keyword"):
            gradient(lambda: rounded(x, s=S), params(S))
    assert rounded(2.0, s=S) == 3


class Pair(tuple):
    def __new__(cls, a, b):
        return super().__new__(cls, (a, b))


def test_a_list_or_tuple_is_looked_into_and_not_made_anew():
    own = derivative(lambda g, ans, y, p: g * p[0])(lambda y, p: y * p[0])
    assert own(2.0, Pair(1.5, 2.0)) == 3
    assert gradient(lambda y: own(y, Pair(1.5, 2.0)), 2.0) == (1.5,)
    outer = lambda a: gradient(lambda y: own(y, [a * a]), 2.0)[0]  # a value of another gradient
    assert gradient(outer, 3.0) == (6.0,)


@pytest.mark.parametrize("nest", [lambda x: [x], lambda x: (1.0, {"a": x}), lambda x: {"a": x}])
def test_a_value_under_differentiation_within_an_argument_is_refused(nest):
    own = derivative(lambda g, ans, a, x: g, lambda g, ans, a, x: g)(lambda a, x: np.round(a))
    for call in (lambda x: own(x, nest(x)), lambda x: own(1.0, nest(x)), lambda x: own(x, x=nest(x))):
        with pytest.raises(TypeError, match=r"in a list, tuple or dict.*argument of its own"):
            gradient(call, 1.3)
    assert gradient(lambda x: own(x, nest(1.0)), 1.3) == (1.0,)


def test_an_argument_has_its_own_number_in_what_is_said_of_a_class():
    @derivative
    class Bad:
        def forward(self, x, y):
            return x * y

        def backward(self, g, ans, x, y):
            return g[:1], np.inf * g

    with pytest.raises(NotImplementedError, match=r"Bad .*with array\(2,\), 2.0: .*argument 0 gives"):
        gradient(lambda x: np.sum(Bad(x, 2.0)), np.ones(2))
    with watch(), pytest.raises(FloatingPointError, match="gradient by argument 1 is not finite"):
        gradient(lambda y: np.sum(Bad(np.ones(2), y)), np.ones(2))


def test_a_rule_that_does_not_follow_its_gradient_is_refused_where_that_decides():
    f, x = derivative(lambda g, ans, x: 2 * dropgrad(g))(lambda x: 2 * x), np.array([1.0, 2.0])
    with pytest.raises(NotImplementedError, match="must be linear in g"):
        jvp(f, (x,), (x,))
    wide = jacobian(lambda x: np.outer(np.ones(10), f(x)).ravel(), x)[0]
    np.testing.assert_array_equal(wide != 0, np.tile(np.eye(2, dtype=bool), (10, 1)))


def test_a_whole_number_that_is_the_result_has_a_gradient():
    step = derivative(lambda g, ans, x: g)(lambda x: np.sign(x).astype(int))
    for x in (2.0, np.array([2.0, -1.0])):
        np.testing.assert_array_equal(gradient(lambda x: np.sum(step(x) * x), x)[0], np.sign(x) + x)


def test_a_rule_gets_its_gradient_laid_out_alike_with_a_program_and_without():
    @derivative(lambda g, ans, x: g * (2.0 if g.flags.c_contiguous else 3.0))
    def doubled(x):
        return 2 * x if float(np.max(x)) > 0 else x

    weights, x = np.arange(6.0).reshape(3, 2), np.ones((2, 3))
    loss = lambda x: np.sum(weights * doubled(x).T)
    np.testing.assert_array_equal(compiled(loss)(x).grad[0], gradient(loss, x)[0])
