"""The rows of a Jacobian that are pulled back at once are those that are pulled back one after another."""

import sys
from pathlib import Path

import numpy as np
import pytest
from autograd.extend import defvjp, defvjp_argnums, primitive

from minidiff import derivative, gradient, hessian, jacobian, param, params
from minidiff.optimise import least_squares
from minidiff.tracing import rows

sys.path.insert(0, str(Path(__file__).parent))
from test_all_of_numpy import SAMPLES
from test_numpy_functions import CASES

ALL = [
    *[(case.id, lambda x, call=case.values[1]: call(np, x), [case.values[2]]) for case in CASES],
    *[(f"{name}-{i}", f, arrays) for i, (name, f, *arrays) in enumerate(SAMPLES)],
]
pytestmark = pytest.mark.filterwarnings("ignore")  # of NaN and of infinities, as the samples have them


def real(f):
    """Make one real vector of all the numbers that f gives."""

    def joined(*arrays):
        out = f(*arrays)
        is_one = type(out).__name__ not in ("SequenceBox", "tuple", "list")
        several = [out] if is_one else [out[i] for i in range(len(out))]
        return np.concatenate([np.ravel(part(a)) for a in several for part in (np.real, np.imag)])

    return joined


def slopes(f):
    """Make one real vector of the gradients of a weighted sum of what f gives."""

    def joined(*arrays):
        weighed = lambda *xs: np.sum(real(f)(*xs) * np.cos(np.arange(real(f)(*xs).size) + 0.5))
        return np.concatenate([np.ravel(g) for g in gradient(weighed, *arrays) if g is not None])

    return joined


@pytest.fixture
def as_one(monkeypatch):
    """Give a function's Jacobian with all rows at once, none of which may be done again alone."""

    def refuse(*args):
        raise AssertionError("these rows went back one after another") from sys.exc_info()[1]

    def rows_at_once(f, *arrays):
        monkeypatch.setattr(rows, "FEW", 1)
        monkeypatch.setattr(rows, "_one_by_one", refuse)
        found = jacobian(f, *arrays)
        monkeypatch.undo()
        return found

    return rows_at_once


def one_by_one(f, *arrays):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "FEW", np.inf)
        return jacobian(f, *arrays)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("name", "f", "arrays"), ALL, ids=[name for name, *_ in ALL])
def test_every_function_has_its_rows_at_once(name, f, arrays, order, as_one):
    f, arrays = (real if order == 1 else slopes)(f), [np.asarray(a) for a in arrays]
    try:
        expected = one_by_one(f, *arrays)
    except (TypeError, ValueError, NotImplementedError) as error:
        with pytest.raises(type(error)):
            jacobian(f, *arrays)
        return
    for got, block in zip(as_one(f, *arrays), expected, strict=True):
        assert got.dtype == block.dtype
        np.testing.assert_allclose(got, block, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("most", [40, 100, 1 << 20])
def test_rows_go_back_in_parts_where_memory_would_not_do(most, monkeypatch):
    monkeypatch.setattr(rows, "MOST", most)
    A, x = np.arange(36.0).reshape(12, 3), np.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(
        jacobian(lambda x: np.tanh(A @ x), x)[0], (1 - np.tanh(A @ x) ** 2)[:, None] * A, atol=1e-15
    )


def written(g, x):
    out = np.empty_like(x)
    np.copyto(out, g)
    return out


COUNT, TOTAL = [0], np.zeros(9)
RULES = {
    "writes by copyto": written,
    "writes by out=": lambda g, x: np.multiply(g, 1.0, out=np.empty_like(x)),
    "writes by position": lambda g, x: np.take(g, range(len(x)), 0, np.empty_like(x)),
    "writes in place": lambda g, x: [written(g, x), np.add.at(z := np.zeros_like(x), range(len(x)), g)] and z,
    "counts": lambda g, x: (COUNT.__setitem__(0, COUNT[0] + 1), g)[1],
    "adds up": lambda g, x: (np.add.at(TOTAL, range(len(x)), g), g)[1],
    "changes the gradient": lambda g, x: [np.add.at(g, 0, 0 * g[0] + 1), np.add.at(g, 0, -1)] and g,
    "branches on a value": lambda g, x: g if g[0] > 0 else g * 1,
    "asks for the kind": lambda g, x: g if isinstance(g, np.ndarray) else 0 * x,
    "asks for numbers": lambda g, x: np.array([float(item) for item in g]),
    "goes over it": lambda g, x: np.stack([1 * item for item in g]),
    "a constant": lambda g, x: g + 0 * np.zeros_like(x),
    "sorts it": lambda g, x: np.sort(g)[np.argsort(np.argsort(g))],
    "an inner product": lambda g, x: np.inner(np.eye(len(x)), g),
}


def known_to_autograd(rule):
    function = primitive(lambda x: x.copy())
    defvjp(function, lambda ans, x: lambda g: rule(g, ans, x))
    return function


def known_to_autograd_of_numpys(rule):
    function = primitive(np.copy)
    defvjp(function, lambda ans, x: lambda g: rule(g, ans, x))
    return function


def known_to_autograd_by_argnums(rule):
    function = primitive(lambda x: x.copy())
    defvjp_argnums(function, lambda argnums, ans, args, kwargs: lambda g: [rule(g, ans, *args)])
    return function


def known_to_minidiff(rule):
    return derivative(rule)(lambda x: x.copy())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "known",
    [known_to_minidiff, known_to_autograd, known_to_autograd_of_numpys, known_to_autograd_by_argnums],
)
def test_whatever_a_rule_does_with_a_gradient_the_jacobian_is_right(known, name):
    same = known(lambda g, ans, x: RULES[name](g, x))
    x, COUNT[0], TOTAL[...] = np.linspace(-1, 1, 9), 0, 0
    np.testing.assert_allclose(jacobian(lambda x: same(x) ** 3, x)[0], np.diag(3 * x**2))
    assert COUNT[0] in (0, 9)
    assert TOTAL.tolist() in (np.zeros(9).tolist(), (3 * x**2).tolist())


USES = {
    **{name: (lambda g, name=name: getattr(g, name)) for name in ("shape", "ndim", "size", "dtype", "T")},
    **{f"np.{f.__name__}": f for f in (np.ndim, np.shape, np.iscomplexobj, np.real, np.imag, np.ravel)},
    "parts": lambda g: g.real - 2 * g.imag,
    "copy": lambda g: g.copy(),
    "astype": lambda g: g.astype(np.float32),
    "view": lambda g: g.view(np.ndarray),
    **{f"item {i}": (lambda g, i=i: g[i]) for i in (0, -1, ..., (1, slice(1, None)), (None, 0), ([1, 0],))},
    "reshape": lambda g: g.reshape(3, 2),
    "reshape, tuple": lambda g: g.reshape((1, 6)),
    "reshape, F": lambda g: g.reshape(-1, order="F"),
    "np.reshape": lambda g: np.reshape(g, (3, 2)),
    "transpose": lambda g: g.transpose(),
    "transpose, None": lambda g: g.transpose(None),
    "transpose, axes": lambda g: g.transpose(1, 0),
    "transpose, tuple": lambda g: g.transpose((-1, 0)),
    "np.transpose": np.transpose,
    "np.transpose, axes": lambda g: np.transpose(g, (1, 0)),
    "swapaxes": lambda g: g.swapaxes(0, -1),
    "sum": lambda g: g.sum(),
    "sum, axis": lambda g: g.sum(axis=-1),
    "sum, axes": lambda g: g.sum((0, 1), keepdims=True),
    "np.sum": lambda g: np.sum(g, 0, keepdims=True),
    "cumsum": lambda g: g.cumsum(),
    "cumsum, axis": lambda g: g.cumsum(1),
    "where": lambda g: np.where(MASK, g, 0),
    "elementwise": lambda g: np.exp(g) * np.arange(6.0).reshape(2, 1, 3) - g / 2,
    "reduce": lambda g: np.maximum.reduce(np.real(g), axis=1),
    "einsum": lambda g: np.einsum("ij,kj->ik", g, MASK),
    **{f"matmul {len(n)}": (lambda g, n=n: g @ np.ones(n)) for n in ((3,), (3, 4), (2, 3, 4))},
    **{f"rmatmul {len(n)}": (lambda g, n=n: np.ones(n) @ g) for n in ((2,), (5, 2), (4, 5, 2))},
    "a vector's matmul": lambda g: np.arange(6.0).reshape(3, 2) @ g[:, 0],
    "a vector's matmul with matrices": lambda g: g[0] @ np.arange(24.0).reshape(2, 3, 4),
    "matrices' matmul with a vector": lambda g: np.arange(24.0).reshape(2, 4, 3) @ g[0],
    "their matmul with a vector": lambda g: g[:, None] @ np.arange(3.0),
    "matmul with itself": lambda g: g @ g.T,
    "a vector's matmul with itself": lambda g: g[0] @ g[1],
}
MASK = np.array([[True, False, True], [True, True, False]])


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("name", USES)
def test_many_gradients_answer_as_each_of_them(name, dtype):
    stack = np.random.default_rng(7).normal(size=(4, 2, 3, 2)).view(complex)[..., 0].astype(dtype)
    found, each = USES[name](rows.Rows(stack)), [USES[name](g) for g in stack]
    if isinstance(each[0], (np.ndarray, np.generic)):
        assert type(found) is rows.Rows
        assert found.dtype == each[0].dtype
        np.testing.assert_allclose(found.stack, each, rtol=1e-14)
    else:
        assert [found] * 4 == each


@pytest.mark.parametrize("use", [bool, lambda g: bool(g), lambda g: 1 if g else 2])
def test_many_gradients_are_true_or_false_if_all_of_them_are(use):
    for truth in (True, False):
        assert use(rows.Rows(np.full(3, truth))) == use(truth)
    with pytest.raises(ValueError, match="too many values"):
        use(rows.Rows(np.array([True, False])))


def test_a_rule_of_autograds_of_several_results_sees_one_gradient_of_each():
    both = primitive(lambda x: (x * 2, x**2))
    defvjp(both, lambda ans, x: lambda g: 2 * g[0] + 2 * x * g[1] if type(g[1]) is np.ndarray else 0 * x)
    x = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(jacobian(lambda x: np.multiply(*both(x)), x)[0], np.diag(6 * x**2), atol=1e-15)


@pytest.mark.parametrize("shapes", [((9,), (9,)), ((9,), (9, 4)), ((3, 4), (4,)), ((3, 4), (4, 5)),
                                    ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((4,), (2, 4, 5)),
                                    ((2, 3, 4), (4,)), ((2, 1, 3, 4), (5, 4, 2))])  # fmt: skip
def test_products_of_every_rank(shapes, as_one):
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=shape) for shape in shapes)
    twice = lambda x, y: np.ravel((x @ y) * np.sin(x @ y))
    for got, expected in zip(as_one(twice, x, y), one_by_one(twice, x, y), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sizes", [(4, 4), (2, 5)])
def test_outer_products_of_every_size(sizes, as_one):
    x, y = (np.cos(np.arange(1.0, n + 1)) for n in sizes)
    by_x, by_y = as_one(lambda x, y: np.ravel(np.outer(x, y)), x, y)
    np.testing.assert_allclose(by_x, np.kron(np.eye(x.size), y[:, None]))
    np.testing.assert_allclose(by_y, np.kron(x[:, None], np.eye(y.size)))


def test_hessians_and_least_squares_have_them_too(as_one):
    rng = np.random.default_rng(5)
    A, w = rng.normal(size=(12, 10)), param(rng.normal(size=10))
    np.testing.assert_allclose(hessian(lambda: np.sum((A @ w) ** 2), params(w)), 2 * A.T @ A)
    least_squares(lambda: A @ w - 1, params(w))
    np.testing.assert_allclose(w.value, np.linalg.lstsq(A, np.ones(12))[0], atol=1e-8)


INDICES = [(True, slice(None), 0), (slice(None), 0, True), (True,), (False, 1), (0, None, ...),
    ([0, 2], 1), (np.int64(1),), (np.True_, 0)]  # fmt: skip


@pytest.mark.parametrize("index", INDICES)
def test_parts_by_any_index(index, as_one):
    x = np.arange(1.0, 10).reshape(3, 3)
    f = lambda x: np.ravel(x[index] ** 2)
    for got, expected in zip(as_one(f, x), one_by_one(f, x), strict=True):
        np.testing.assert_array_equal(got, expected)
    H = hessian(lambda x: np.sum(x[index] ** 2), x).reshape(9, 9)
    np.testing.assert_array_equal(H, np.diag(2.0 * np.isin(np.arange(9), np.arange(9).reshape(3, 3)[index])))


def test_an_axis_that_is_none_is_refused_as_of_one_gradient():
    M = np.arange(81.0).reshape(9, 9)
    f = derivative(lambda g, ans, x: (g[:, None] * M).sum(axis=2))(lambda x: x @ M.T)
    for call in (lambda: jacobian(f, np.ones(9)), lambda: gradient(lambda x: f(x)[0], np.ones(9))):
        with pytest.raises(NotImplementedError, match="<lambda> has no gradient"):
            call()
