"""At kinks and singular points a derivative is 0 by convention, or exact where there is one: never NaN."""

import itertools
import re

import numpy as np
import pytest

from minidiff import compiled, derivative, gradient, hessian, hvp, jacobian, param, params, recompute
from minidiff.losses import huber_loss


def slopes(f, x, h=1e-5):
    """The gradient by central differences, of complex numbers as minidiff has it."""
    units = [1.0, 1j] if np.iscomplexobj(x) else [1.0]
    g = np.zeros(x.shape, x.dtype)
    for place, unit in itertools.product(np.ndindex(x.shape), units):
        step = np.zeros(x.shape, x.dtype)
        step[place] = h * unit
        g[place] += unit * (f(x + step) - f(x - step)) / (2 * h)
    return g


C = np.array([1 + 2j, 0.5 - 1j])
# A length that is 0 at 0, and its square written without it.
LENGTHS = {
    "norm": (np.linalg.norm, lambda x: np.sum(x**2)),
    "norm, 2": (lambda x: np.linalg.norm(x, 2, keepdims=True)[0], lambda x: np.sum(x**2)),
    "vector_norm": (np.linalg.vector_norm, lambda x: np.sum(x**2)),
    "fro": (lambda x: np.linalg.norm(np.outer(x, [1.0, 3.0]), "fro"), lambda x: 10 * np.sum(x**2)),
    "of complex": (lambda x: np.linalg.norm(C * x), lambda x: np.sum(np.array([5.0, 1.25]) * x**2)),
    "hypot": (lambda x: np.hypot(x[0], x[1]), lambda x: np.sum(x**2)),
    "abs": (lambda x: np.abs(x[0] - x[1]), lambda x: (x[0] - x[1]) ** 2),
    "fabs": (lambda x: np.fabs(2 * x[1]), lambda x: 4 * x[1] ** 2),
    "method": (lambda x: abs(x[1]), lambda x: x[1] ** 2),
    "abs of complex": (lambda x: np.abs(x[0] + 1j * x[1]), lambda x: np.sum(x**2)),
    "std": (np.std, lambda x: np.sum((x - np.mean(x)) ** 2) / 2),
    "std, where": (
        lambda x: np.std(np.concatenate([x, [7.0]]), where=np.array([True, True, False])),
        lambda x: np.sum((x - np.mean(x)) ** 2) / 2,
    ),
    "parts": (lambda x: np.linalg.norm(x[np.array([0, 1]),] * 3), lambda x: 9 * np.sum(x**2)),
    "std, ddof": (lambda x: x.std(ddof=1), lambda x: np.sum((x - np.mean(x)) ** 2)),
    "std, mean": (
        lambda x: np.std(x, mean=np.mean(x, keepdims=True)),
        lambda x: np.sum((x - np.mean(x)) ** 2) / 2,
    ),
    "nanstd": (
        lambda x: np.nanstd(np.concatenate([x, [np.nan]]), ddof=1),
        lambda x: np.sum((x - np.mean(x)) ** 2),
    ),
}
EVEN = {
    "r**2": (lambda r: r() ** 2, lambda s: s),
    "square": (lambda r: np.square(r()) * 3, lambda s: 3 * s),
    "r * r": (lambda r: r() * r(), lambda s: s),
    "dot": (lambda r: np.dot(r(), r()), lambda s: s),
    "r**4": (lambda r: np.power(r(), 4.0), lambda s: s**2),
    "exp": (lambda r: np.exp(-(r() ** 2) / 2), lambda s: np.exp(-s / 2)),
    "cosh": (lambda r: np.cosh(r()), lambda s: 1 + s / 2 + s**2 / 24),
    "cos": (lambda r: np.cos(2 * r()), lambda s: 1 - 2 * s + 2 * s**2 / 3),
}


@pytest.mark.parametrize("even", EVEN)
@pytest.mark.parametrize("length", LENGTHS)
def test_what_undoes_a_kink_has_its_second_derivative_there(length, even):
    r, square = LENGTHS[length]
    f, of_square = EVEN[even]
    right = hessian(lambda x: of_square(square(x)), np.zeros(2))
    np.testing.assert_allclose(hessian(lambda x: f(lambda: r(x)), np.zeros(2)), right, atol=1e-14)
    W, v = param(np.zeros(2)), np.array([1.0, 3.0])

    def slope():
        return np.sum(gradient(lambda: f(lambda: r(W)), params(W))[W] * v)

    np.testing.assert_allclose(gradient(slope, params(W))[W], right @ v, atol=1e-14)


def test_only_where_it_is_zero_does_the_limit_count():
    x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    f = lambda x: np.sum(np.linalg.norm(x, axis=1) ** 2 * np.array([1.0, 2.0, 3.0]))
    right = np.diag([2.0, 2.0, 4.0, 4.0, 6.0, 6.0]).reshape(3, 2, 3, 2)
    np.testing.assert_allclose(hessian(f, x), right, atol=1e-12)
    f = lambda x: np.sum(np.abs(x) ** 2 + np.abs(x))
    np.testing.assert_allclose(hessian(f, x.ravel()), 2 * np.eye(6), atol=1e-12)


SQUARE = np.ones((2, 2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: np.abs(x[0]), lambda x: np.abs(x[1])),
        (lambda x: np.linalg.norm(x * [1.0, 2.0]), lambda x: np.linalg.norm(x * [2.0, 1.0])),
        (lambda x: np.linalg.norm(x * SQUARE, axis=0), lambda x: np.linalg.norm(x * SQUARE, axis=1)),
        (lambda x: np.hypot(x[0], 1 * x[1]), lambda x: np.hypot(x[0], 2 * x[1])),
    ],
)
def test_lengths_that_differ_in_a_constant_do_not_undo_each_others_kink(one, other):
    assert not hessian(lambda x: np.sum(one(x) * other(x)), np.zeros(2)).any()
    for r in (one, other):
        assert hessian(lambda x: np.sum(r(x) * r(x)), np.zeros(2)).any()


def test_a_third_derivative_takes_the_second_at_the_kink():
    c, W = param(2.0), param(np.zeros(2))

    def curve():
        inner = lambda: np.sum(gradient(lambda: c**3 * np.linalg.norm(W) ** 2, params(W))[W] * [1.0, 3.0])
        return np.sum(gradient(inner, params(W))[W])

    np.testing.assert_allclose(gradient(curve, params(c))[c], 3 * 2.0**2 * 2 * 4)
    third = jacobian(lambda x: hessian(lambda x: np.cosh(np.linalg.norm(x)), x), np.zeros(2))[0]
    assert not third.any()


KINKS = {
    "norm": np.linalg.norm,
    "norm, axis": lambda x: np.linalg.norm(x, axis=0),
    "norm, fro": lambda x: np.linalg.norm(x, "fro", (0, 1), True),
    "norm, 3": lambda x: np.linalg.norm(x, 3, 1),
    "norm, 1.5": lambda x: np.linalg.norm(x, 1.5, 0, keepdims=True),
    "norm, 1": lambda x: np.linalg.norm(x, 1, 0),
    "abs": np.abs,
    "hypot": lambda x: np.hypot(x, x),
    "std": np.std,
    "std, axis": lambda x: np.std(x, 1),
    "std, where": lambda x: np.std(x, axis=0, where=np.array([[True], [False], [True]])),
    "std, keepdims": lambda x: x.std(axis=(0, 1), ddof=1, keepdims=True),
}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", "F", "D"])
@pytest.mark.parametrize("name", KINKS)
def test_the_derivative_at_a_kink_is_zero_in_every_dtype(name, dtype):
    if (name == "hypot" and np.dtype(dtype).kind == "c") or (dtype == "f2" and "norm" in name):
        pytest.skip("NumPy has none")
    x = np.zeros((3, 2), dtype)
    (g,) = gradient(lambda x: np.sum(KINKS[name](x)), x)
    assert g.dtype == dtype
    np.testing.assert_array_equal(g, 0)


@pytest.mark.parametrize(
    "x", [np.full(3, 0.1), np.full((7, 3), 1 / 3), np.full(1000, 1e9 / 7), np.full(2, 0.1 + 0.7j)]
)
def test_equal_numbers_have_no_spread_though_their_mean_is_rounded(x):
    for f in (
        np.std,
        np.var,
        lambda x: np.sum(np.std(x, axis=0, ddof=0.5)),
        lambda x: np.std(x, where=np.abs(x) > 0),
    ):
        np.testing.assert_array_equal(gradient(f, x)[0], 0)


HOLES = np.array([[True, False, True, True], [False, True, True, False], [True, True, True, True]])
OPTIONS = [
    *[{"axis": axis} for axis in (None, 0, 1, -1, (0, 1), (1,))],
    *[{"ddof": ddof} for ddof in (0, 1, 0.5, -1)],
    *[{"correction": correction} for correction in (0, 1, 0.5)],
    *[{"keepdims": keepdims} for keepdims in (True, False)],
    *[{"where": where} for where in (True, HOLES, HOLES[0], HOLES[:, :1] | HOLES[:, 1:2])],
    *[{"dtype": dtype} for dtype in (None, "f8", "g", "c16")],
]


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("function", [np.var, np.std])
def test_a_variance_has_every_option(function, kind):
    x = np.cos(np.arange(12.0) ** 2).reshape(3, 4)
    x = x + 1j * np.sin(x * 3) if kind == "complex" else x
    at = np.cos(x.real + 1)
    tried = 0
    for one, other in itertools.product(OPTIONS, OPTIONS):
        options = {**one, **other}
        where = np.broadcast_to(options.get("where", True), x.shape)
        least = where.sum(axis=options.get("axis")).min() - options.get("ddof", options.get("correction", 0))
        of_other_kind = np.dtype(options.get("dtype") or x.dtype).kind != x.dtype.kind
        if least <= 0 or of_other_kind or {"ddof", "correction"} <= options.keys():
            continue
        tried += 1

        def f(x, options=options):
            spread = np.real(function(x, **options))
            return np.sum(spread * np.cos(np.arange(spread.size)).reshape(spread.shape))

        np.testing.assert_allclose(gradient(f, x)[0], slopes(f, x), rtol=1e-7, atol=1e-8)
        if one is other:
            along = lambda x, f=f: np.sum(np.real(np.conj(gradient(f, x)[0]) * at))
            np.testing.assert_allclose(gradient(along, x)[0], slopes(along, x), rtol=1e-6, atol=1e-7)
    assert tried > 200


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4, np.inf])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_a_norm_of_vectors_with_zeros_in_them(p, kind):
    x = np.array([[0.0, 1.0, -2.0], [0.5, 0.0, 3.0], [0.0, 0.0, 0.0]])
    x = x * (1 + 2j) if kind == "complex" else x
    for options in ({"axis": 1}, {"axis": 1, "keepdims": True}, {"axis": 0}):
        f = lambda x: np.sum(np.linalg.norm(x, p, **options))
        (g,) = gradient(f, x)
        assert np.all(np.isfinite(g))
        np.testing.assert_allclose(g, slopes(f, x), rtol=1e-5, atol=1e-2 if p == 1.5 else 1e-5)
    for scale in (1e-60, 1e60):
        (g,) = gradient(lambda x: np.linalg.norm(x * scale, p) / scale, x[0])
        np.testing.assert_allclose(g, gradient(lambda x: np.linalg.norm(x, p), x[0])[0], rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"keepdims": True}])
@pytest.mark.parametrize(("shape", "order", "axis"), [
    ((3,), "fro", None), ((3,), "nuc", None), ((3,), "other", None), ((2, 3), "nuc", 0),
    ((2, 3), "other", None), ((2, 3), 3, None), ((2, 3), 0, (0, 1)), ((2, 3), 2, (0, 1, 0)),
    ((2, 3, 2), 2, None), ((2, 3, 2), "fro", (0, 1, 2)), ((2, 3, 2), None, (0, 1, 2)),
])  # fmt: skip
def test_a_norm_that_numpy_refuses_is_refused_in_its_words(shape, order, axis, options):
    norm = lambda x: np.sum(np.linalg.norm(x, order, axis, **options))
    with pytest.raises(ValueError) as numpys:  # noqa: PT011
        norm(np.ones(shape))
    with pytest.raises(ValueError, match=f"^{re.escape(str(numpys.value))}"):
        gradient(norm, np.ones(shape))


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
def test_a_zero_has_no_part_in_a_norm_by_less_than_one(p):
    """Its slope there is infinite on both sides, with opposite signs: 0 by convention."""
    x = np.array([[0.0, 3.0, -4.0], [0.5, 0.0, 1.0], [0.0, 0.0, 0.0]])
    (g,) = gradient(lambda x: np.sum(np.linalg.norm(x, p, axis=1)), x)
    for row, g_row in zip(x, g, strict=True):
        some = row != 0
        np.testing.assert_array_equal(g_row[~some], 0)
        if some.any():
            expected = slopes(lambda v: np.linalg.norm(v, p), row[some])
            np.testing.assert_allclose(g_row[some], expected, rtol=1e-6)


BAD = np.array([[1.0, np.nan, 2.0], [np.inf, 3.0, np.inf]])
GOOD = np.isfinite(BAD)
MASKED = {
    "nansum": (lambda x: np.nansum(x, axis=1)[0], [[1, 0, 1], [0, 0, 0]]),
    "nansum, all": (lambda x: np.nansum(x[:1] * 3), [[3, 0, 3], [0, 0, 0]]),
    "nanmean": (lambda x: np.nanmean(x[:1]), [[0.5, 0, 0.5], [0, 0, 0]]),
    "nanmean, axis": (lambda x: np.nanmean(x, axis=0, keepdims=True)[0, 1], [[0, 0, 0], [0, 1, 0]]),
    "sum": (lambda x: np.sum(x, where=GOOD) ** 2, [[12, 0, 12], [0, 12, 0]]),
    "sum, axis": (lambda x: np.sum(np.sum(x, axis=1, where=GOOD) ** 2), [[6, 0, 6], [0, 6, 0]]),
    "mean": (lambda x: np.mean(x, where=GOOD), np.where(GOOD, 1 / 3, 0)),
    "mean, axis": (lambda x: np.sum(x.mean(axis=0, where=GOOD)), [[1, 0, 1], [0, 1, 0]]),
    "var": (lambda x: np.var(x, where=GOOD), [[-2 / 3, 0, 0], [0, 2 / 3, 0]]),
    "std": (lambda x: np.std(x, where=GOOD), [[-(6**-0.5), 0, 0], [0, 6**-0.5, 0]]),
}


@pytest.mark.parametrize(("f", "right"), MASKED.values(), ids=MASKED)
def test_what_a_reduction_leaves_out_has_the_gradient_zero_and_spoils_no_other(f, right):
    np.testing.assert_allclose(gradient(f, BAD)[0], right, rtol=1e-12)
    second = hessian(f, BAD)
    assert np.all(np.isfinite(second))
    assert not second[~GOOD].any()


RNG = np.random.default_rng(0)
RANKS = {
    f"{r} of {n}": RNG.normal(size=(n, r)) @ RNG.normal(size=(r, n))
    for n in (1, 2, 3, 4)
    for r in range(n + 1)
}
SINGULAR = {
    **RANKS,
    "equal rows": np.ones((3, 3)),
    "nearly": np.array([[1.0, 2.0], [2.0, 4.0 + 1e-15]]),
    "some of several": np.array([np.eye(2), [[0.0, 1.0], [0.0, 1.0]], np.zeros((2, 2))]),
    "none": np.zeros((0, 2, 2)),
    "of no rows": np.zeros((2, 0, 0)),
    "complex": RANKS["2 of 3"] * (1 + 2j) - 1j * np.outer([1.0, 2.0, 3.0], RANKS["2 of 3"][0]),
}


@pytest.mark.parametrize("A", SINGULAR.values(), ids=SINGULAR)
def test_a_determinant_has_derivatives_at_singular_matrices(A):
    weights = (
        np.cos(np.arange(A.size // max(A.shape[-1] ** 2, 1) or 1)).reshape(A.shape[:-2]) if A.size else 1.0
    )
    f = lambda A: (
        np.sum(np.real((1 - 2j) * np.linalg.det(A) * weights)) + np.sum(np.real(np.linalg.det(A)) ** 2)
    )
    (g,) = gradient(f, A)
    assert (g.shape, g.dtype) == (A.shape, A.dtype)
    np.testing.assert_allclose(g, slopes(f, A), rtol=1e-6, atol=1e-8)
    fixed = np.cos(np.arange(A.size)).reshape(A.shape)
    along = lambda A: np.sum(np.real(np.conj(gradient(f, A)[0]) * fixed))
    (second,) = gradient(along, A)
    np.testing.assert_allclose(second, slopes(along, A), rtol=1e-5, atol=1e-7)


def test_a_determinant_of_zeros_has_its_third_derivative():
    third = jacobian(lambda A: hessian(np.linalg.det, A), np.zeros((3, 3)))[0]
    signs = {p: np.linalg.det(np.eye(3)[list(p)]) for p in itertools.permutations(range(3))}
    for p, sign in signs.items():
        assert third[0, p[0], 1, p[1], 2, p[2]] == pytest.approx(sign)
    assert np.abs(third).sum() == pytest.approx(36)


def test_a_determinant_too_large_to_be_differentiated_twice_says_so():
    A = np.zeros((65, 65))
    assert not gradient(np.linalg.det, A)[0].any()
    with pytest.raises(NotImplementedError, match="64"):
        gradient(lambda A: np.sum(gradient(np.linalg.det, A)[0]), A)


@pytest.mark.parametrize("name", ["norm", "abs", "std", "hypot"])
def test_a_program_knows_kinks_and_singular_matrices(name):
    W = param(np.zeros((3, 2)))
    loss = lambda x: np.sum(KINKS[name](W * x)) + np.linalg.det((W * x)[:2])
    step = compiled(loss, params(W))
    for x in (1.0, 2.0):
        np.testing.assert_array_equal(step(x).grad[W], gradient(lambda: loss(x), params(W))[W])
        W += 0.3


def test_a_length_computed_twice_is_recorded_the_same_way_each_time():
    def slope(x):
        unit = lambda x: np.sum((x / np.linalg.norm(x)) ** 3 * np.sum(x[1:] / np.linalg.norm(x)))
        return np.sum(gradient(unit, x)[0] ** 2)

    x = np.array([0.3, -1.2, 0.7])
    for i in range(20):  # the order of a set is another at other addresses
        held = [np.zeros(1) for _ in range(7 * i)]
        assert compiled(slope)(x).val == slope(x), len(held)


LENGTH_BY = {
    "norm": np.linalg.norm,
    "vector_norm": np.linalg.vector_norm,
    "hypot": lambda x: np.hypot(x[0], x[1]),
    "hypot.reduce": np.hypot.reduce,
    "abs": lambda x: np.abs(x[0] + 1j * x[1]),
    "std": lambda x: np.std(np.stack([x, -x]).ravel()) * np.sqrt(2),
    "Frobenius": lambda x: np.linalg.norm(x[:, None]),
    "spectral": lambda x: np.linalg.norm(x[None], 2),
    "nuclear": lambda x: np.linalg.norm(x[:, None], "nuc"),
    "matrix_norm": lambda x: np.linalg.matrix_norm(x[None], ord=2),
    "svdvals": lambda x: np.linalg.svdvals(x[:, None])[0],
}
SQUARE_BY = {
    "**": lambda n: n**2,
    "float_power": lambda n: np.float_power(n, 2),
    "select": lambda n: np.select([n < 1], [n * n], n),
    "where": lambda n: np.where(n < 1, n * n, 2 * n - 1),
    "recompute": recompute(lambda n: n * n),
    "derivative": derivative(lambda g, ans, n: 2 * g * n)(lambda n: n * n),
    "vecdot": lambda n: np.vecdot(np.stack([n, n]), np.stack([n, n])) / 2,
    "prod": lambda n: np.prod(np.stack([n, n])),
    "huber_loss": lambda n: 2 * huber_loss(n, 0.0),
    "cosh": lambda n: 2 * np.cosh(n) - 2,
    "gradient": lambda n: gradient(lambda m: m**3 / 3, n)[0],
}


@pytest.mark.parametrize("several", [2, 3])
@pytest.mark.parametrize("length", LENGTH_BY)
def test_the_square_of_a_sum_of_lengths_has_the_curvature_of_all_of_them(length, several):
    loss = lambda x: sum([LENGTH_BY[length](x) for _ in range(several)]) ** 2
    np.testing.assert_allclose(hessian(loss, np.zeros(2)), 2 * several**2 * np.eye(2), atol=1e-6)


@pytest.mark.parametrize("length", LENGTH_BY)
@pytest.mark.parametrize("square", SQUARE_BY)
def test_however_a_length_is_squared_its_curvature_at_0_is_2(length, square):
    f = lambda x: SQUARE_BY[square](LENGTH_BY[length](x))
    np.testing.assert_array_equal(gradient(f, np.zeros(2))[0], [0, 0])
    np.testing.assert_allclose(hessian(f, np.zeros(2)), 2 * np.eye(2), atol=1e-6)
    np.testing.assert_allclose(hvp(f, np.zeros(2), np.array([1.0, 2.0])), [2, 4], atol=1e-6)


@pytest.mark.parametrize("f", [np.abs, np.fabs, abs])
def test_the_slope_beside_a_kink_is_exact_at_every_size(f):
    x, w = np.array([3e-310, -5e-324, 0.3, -0.7, 1e300]), np.array([0.1, 0.3, 0.7, 0.9, 1.1])
    np.testing.assert_array_equal(gradient(lambda x: w @ f(x), x)[0], w * np.sign(x))
