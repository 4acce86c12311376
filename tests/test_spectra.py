"""Eigenvalues, singular values and vectors: also where values are equal, and never by an arbitrary choice."""

import functools
import itertools

import numpy as np
import pytest

from minidiff import (
    derivative,
    dropgrad,
    gradient,
    hessian,
    implicit_root,
    jacobian,
    jvp,
    param,
    params,
    recompute,
)
from minidiff.compiled import compiled

RNG = np.random.default_rng(0)
C = RNG.normal(size=(3, 4))
Q = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
Z = RNG.normal(size=(3, 3)) + 1j * RNG.normal(size=(3, 3))
UNITARY = np.linalg.qr(Z)[0]


def slopes(f, x, h=1e-5):
    units = [1.0, 1j] if np.iscomplexobj(x) else [1.0]
    g = np.zeros(x.shape, x.dtype)
    for place in np.ndindex(x.shape):
        for unit in units:
            step = np.zeros(x.shape, x.dtype)
            step[place] = h * unit
            g[place] += unit * (f(x + step) - f(x - step)) / (2 * h)
    return g


def has_both_derivatives(f, A):
    (g,) = gradient(f, A)
    assert g.dtype == A.dtype
    np.testing.assert_allclose(g, slopes(f, A), rtol=1e-6, atol=1e-7)
    W = param(A)
    np.testing.assert_allclose(gradient(lambda: f(W), params(W))[W], g, rtol=1e-12, atol=1e-12)
    fixed = np.cos(np.arange(A.size)).reshape(A.shape)
    along = lambda A: np.sum(np.real(np.conj(gradient(f, A)[0]) * fixed))
    np.testing.assert_allclose(gradient(along, A)[0], slopes(along, A, 1e-4), rtol=1e-5, atol=1e-5)


def by_svd(h, A, **options):
    U, s, Vh = np.linalg.svd(A, **options)
    k = s.shape[-1]
    return (U[..., :k] * h(s)[..., None, :]) @ Vh[..., :k, :]


def by_eigh(h, A, *options):
    w, v = np.linalg.eigh(A, *options)
    return (v * h(w)[..., None, :]) @ np.conj(np.swapaxes(v, -1, -2))


def weighed(x):
    c = C[: x.shape[-2], : x.shape[-1]]
    return np.sum(np.real(x) * c) + np.sum(np.imag(x) * c**2)


MATRICES = {
    "identity": np.eye(3),
    "orthogonal": Q,
    "two equal": np.diag([1.0, 1.0, 2.0]),
    "nearly equal": Q @ np.diag([1.0, 1.0 + 1e-13, 3.0]) @ Q.T,
    "apart": C[:, :3],
    "one zero": np.diag([1.0, 0.0, 2.0]),
    "two zeros": Q @ np.diag([0.0, 0.0, 2.0]),
    "zero": np.zeros((3, 3)),
    "wide": np.eye(3, 4),
    "wide, one zero": np.diag([1.0, 0.0, 2.0, 0.0])[:3],
    "tall": np.eye(4, 3)[[1, 0, 3, 2]] * 2,
    "several": np.stack([np.eye(3), C[:, :3], Q]),
    "unitary": UNITARY,
    "complex": Z,
    "complex, wide": Z[:2],
}
ODD = {"s": lambda s: s, "s**3": lambda s: s**3, "sin": np.sin}


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("h", ODD)
@pytest.mark.parametrize("name", MATRICES)
def test_smooth_functions_of_singular_values_and_vectors(name, h, full):
    A = MATRICES[name]
    c = np.resize(C, A.shape)
    f = lambda A: np.sum(np.real(by_svd(ODD[h], A, full_matrices=full)) * c)
    has_both_derivatives(f, A)


@pytest.mark.parametrize("name", ["tall", "wide", "wide, one zero"])
def test_the_whole_product_of_the_full_matrices(name):
    A = MATRICES[name]

    def f(A):
        U, s, Vh = np.linalg.svd(A)
        S = np.concatenate([np.diag(s), np.zeros((1, 3))])
        return np.sum((U @ (S if A.shape[0] > 3 else S.T) @ Vh) * np.resize(C, A.shape))

    has_both_derivatives(f, A)


@pytest.mark.parametrize(
    "name", ["identity", "orthogonal", "two equal", "apart", "tall", "several", "unitary"]
)
def test_the_polar_factor_of_matrices_of_full_rank(name):
    A = MATRICES[name]
    has_both_derivatives(lambda A: np.sum(np.real(by_svd(np.ones_like, A)) * np.resize(C, A.shape)), A)


@pytest.mark.parametrize("name", MATRICES)
def test_singular_values_alone_have_exact_derivatives(name):
    A = MATRICES[name]
    for options in ({}, {"full_matrices": False}, {"compute_uv": False}):
        last = lambda A: (lambda r: r if "compute_uv" in options else r[1])(np.linalg.svd(A, **options))
        np.testing.assert_allclose(gradient(lambda A: np.sum(last(A) ** 2), A)[0], 2 * A, atol=1e-14)
    has_both_derivatives(lambda A: np.sum(np.linalg.svd(A)[1] ** 2), A)


SYMMETRIC = {
    "identity": np.eye(3),
    "two equal": Q @ np.diag([1.0, 1.0, 2.0]) @ Q.T,
    "orthogonal": Q @ Q.T,
    "zero": np.zeros((3, 3)),
    "apart": C[:, :3] + C[:, :3].T,
    "several": np.stack([np.eye(3), Q @ np.diag([1.0, 2.0, 2.0]) @ Q.T]),
    "hermitian": Z + Z.conj().T,
    "hermitian, two equal": UNITARY @ np.diag([1.0, 1.0, 2.0]) @ UNITARY.conj().T,
}


@pytest.mark.parametrize("UPLO", ["L", "U", "l"])
@pytest.mark.parametrize("h", [lambda w: w, np.exp, lambda w: w**3 - w**2], ids=["w", "exp", "polynomial"])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_smooth_functions_of_eigenvalues_and_vectors(name, h, UPLO):
    A = SYMMETRIC[name]
    has_both_derivatives(lambda A: np.sum(np.real(by_eigh(h, A, UPLO)) * np.resize(C, A.shape)), A)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_eigenvalues_alone(name):
    A = SYMMETRIC[name]
    has_both_derivatives(lambda A: np.sum(np.linalg.eigh(A)[0] ** 2), A)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("turn", [np.eye(3), Q])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("of", "h"), [(by_eigh, np.exp), (by_svd, np.sin)])
def test_equal_values_are_not_moved_to_where_the_next_one_is(of, h, first, turn, steps):
    gap = steps * np.finfo(float).eps ** 0.2  # of the largest value; so far they are moved where none is
    values = [1 - gap, 1.0, 1.0] if first else [1 - gap, 1 - gap, 1.0]
    A, f = turn @ np.diag(values) @ turn.T, lambda A: np.sum(of(h, A) * C[:, :3])
    np.testing.assert_allclose(gradient(f, A)[0], slopes(f, A), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("turn", [np.eye(3), Q])
@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4, 1e-5])
def test_the_second_derivative_where_a_value_is_near_to_equal_ones(gap, turn, first):
    A = turn @ np.diag([1 - gap, 1.0, 1.0] if first else [1 - gap, 1 - gap, 1.0]) @ turn.T

    def series(A):
        power = total = np.eye(3)
        for k in range(1, 25):
            power = power @ A / k
            total = total + power
        return total

    ours, expected = (
        hessian(lambda A, of=of: np.sum(of((A + A.T) / 2) * C[:, :3]), A)
        for of in (functools.partial(by_eigh, np.exp), series)
    )
    np.testing.assert_allclose(ours, expected, atol=3e-4)


SQUARE = {
    "real": C[:, :3] + np.diag([1.0, 4.0, 9.0]),
    "rotation": np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.3], [0.2, 0.0, 2.0]]),
    "complex": Z,
    "several": np.stack([C[:, :3] + np.diag([1.0, 4.0, 9.0]), C[:, 1:].T + np.diag([1.0, 4.0, 9.0])]),
}


@pytest.mark.parametrize("name", SQUARE)
def test_eigenvalues_and_vectors_of_any_matrix(name):
    A = SQUARE[name]
    has_both_derivatives(lambda A: np.sum(np.abs(np.linalg.eig(A)[0]) ** 2 * C[0, :3]), A)
    has_both_derivatives(lambda A: np.sum(np.abs(np.linalg.eig(A)[1]) ** 2 * C[:, :3]), A)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
@pytest.mark.parametrize("vectors", [
    lambda A: np.linalg.eig(A)[1], lambda A: np.linalg.eigh(A)[1], lambda A: np.linalg.svd(A)[0]
])  # fmt: skip
def test_vectors_move_alike_whatever_the_unit_of_the_values(vectors, unit):
    A, f = SQUARE["real"], lambda A: np.sum(np.abs(vectors(A)) ** 2 * C[:, :3])
    np.testing.assert_allclose(unit * gradient(f, unit * A)[0], gradient(f, A)[0], rtol=1e-9, atol=1e-12)


ARBITRARY = {
    "a phase of eigh": (lambda A: weighed(np.linalg.eigh(A)[1]), Z + Z.conj().T),
    "a phase of eig": (lambda A: weighed(np.linalg.eig(A)[1]), Z),
    "a phase of eig, of a real matrix": (lambda A: np.sum(np.real(np.linalg.eig(A)[1])), SQUARE["rotation"]),
    "a phase of svd": (lambda A: np.real(np.linalg.svd(A)[0][0, 0]), Z),
    "a basis of eigh": (lambda A: np.linalg.eigh(A)[1][0, 0], np.eye(3)),
    "a basis of eigh, where it is stationary": (lambda A: np.linalg.eigh(A)[1][0, 0] ** 2, np.eye(3)),
    "a basis of eig": (lambda A: np.sum(np.abs(np.linalg.eig(A)[1]) ** 4), np.eye(3)),
    "a basis of svd": (lambda A: np.linalg.svd(A)[0][0, 0] ** 2, np.eye(3)),
    "a basis of two": (lambda A: np.sum(np.linalg.svd(A)[2][0] ** 4), Q @ np.diag([2.0, 2.0, 1.0])),
    "a sign of zero": (lambda A: np.sum(by_svd(np.cos, A) * C[:, :3]), np.diag([1.0, 2.0, 0.0])),
    "a vector of zero": (lambda A: np.sum(by_svd(np.cos, A, full_matrices=False) * C),
        MATRICES["wide, one zero"]),
    "a vector beyond": (lambda A: np.sum(np.linalg.svd(A)[0][:, 2]), C[:, :1]),
}  # fmt: skip


@pytest.mark.parametrize(("f", "A"), ARBITRARY.values(), ids=ARBITRARY)
def test_a_loss_that_depends_on_a_choice_of_numpys_is_refused(f, A):
    with pytest.raises(NotImplementedError, match=r"np\.linalg\.(svd|eigh?) has no gradient"):
        gradient(f, A)
    with pytest.raises(NotImplementedError, match=r"np\.linalg\.(svd|eigh?) has no gradient"):
        compiled(f)(A)


def test_vectors_apart_from_a_group_of_equal_values():
    A = Q @ np.diag([3.0, 1.0, 1.0]) @ Q.T
    has_both_derivatives(lambda A: np.sum(np.abs(np.linalg.svd(A)[0][:, 0]) ** 3), A)
    has_both_derivatives(lambda A: np.sum(np.abs(np.linalg.eigh(A)[1][:, 2]) ** 3), A)
    projection = lambda A: (lambda v: v[:, :2] @ v[:, :2].T)(np.linalg.eigh(A)[1])
    has_both_derivatives(lambda A: np.sum(projection(A) * C[:, :3]), A)


@pytest.mark.parametrize("vector", [
    lambda A: np.linalg.eigh(A)[1][:, 2], lambda A: np.linalg.eigh(-A)[1][:, 0],
    lambda A: np.linalg.svd(A)[0][:, 0], lambda A: np.linalg.svd(A)[2][0],
], ids=["eigh, last", "eigh, first", "svd, left", "svd, right"])  # fmt: skip
def test_a_vector_apart_from_a_group_may_be_used_with_its_sign(vector):
    c, vectors = np.array([1.0, 2.0, 3.0]), np.random.default_rng(1).normal(size=(30, 3))
    for A in np.eye(3) + vectors[:, :, None] * vectors[:, None, :]:
        (g,) = gradient(lambda A: c @ vector(A), A)
        (of_square,) = gradient(lambda A: (c @ vector(A)) ** 2, A)
        np.testing.assert_allclose(2 * (c @ vector(A)) * g, of_square, atol=1e-9)


def test_several_calls_and_what_comes_between_them():
    """The loss is done again from one of the calls on, with all that it was recorded with."""
    A = np.eye(3)

    def f(A):
        B = by_svd(np.sin, A) @ A
        rows = np.split(by_eigh(np.exp, B + B.T), 3)
        return np.sum(np.concatenate([row[0] for row in rows[1:]]) * C[:2, :3].ravel()) + np.max(A)

    has_both_derivatives(lambda A: f(A + np.diag([0.0, 0.0, 1.0])), A)
    (J,) = jacobian(lambda A: by_svd(np.sin, A)[1] * np.arange(3), A)
    right = np.stack([gradient(lambda A: by_svd(np.sin, A)[1, i] * i, A)[0] for i in range(3)])
    np.testing.assert_allclose(J, right, atol=1e-12)


@pytest.mark.parametrize("dtype", ["f4", "F"])
def test_in_single_precision(dtype):
    A = (np.eye(3) * (1 + 2j if dtype == "F" else 1)).astype(dtype)
    (g,) = gradient(lambda A: np.sum(np.real(by_svd(lambda s: s, A)) * C[:, :3].astype("f4")), A)
    assert g.dtype == dtype
    np.testing.assert_allclose(g, C[:, :3], atol=1e-3)


def test_a_program_has_what_needs_no_limit_and_refuses_the_rest():
    W = param(Q)
    values, product = (
        compiled(lambda: np.sum(np.linalg.svd(W)[1] ** 2), params(W)),
        compiled(lambda: np.linalg.norm(by_svd(lambda s: s, W, full_matrices=False)), params(W)),
    )
    np.testing.assert_allclose(values().grad[W], 2 * Q)
    with pytest.raises(NotImplementedError, match="program"):
        product()
    W[...] = C[:, :3]
    np.testing.assert_allclose(product().grad[W], C[:, :3] / np.linalg.norm(C[:, :3]))


def test_second_derivatives_of_singular_values_alone_where_they_are_equal():
    for values in (np.linalg.svdvals, lambda A: np.linalg.svd(A, compute_uv=False)):
        for A in (np.eye(3), np.diag([2.0, 2.0, 1.0]), np.ones((2, 3)), np.cos(np.arange(6.0)).reshape(3, 2)):
            H = hessian(lambda A, values=values: np.sum(values(A) ** 2), A)  # of ‖A‖²
            np.testing.assert_allclose(H.reshape(A.size, A.size), 2 * np.eye(A.size), atol=1e-8)
        seen = []
        gradient(lambda A, values=values: np.sum(seen.append(dropgrad(values(A))) or values(A)), A)
        np.testing.assert_array_equal(seen[0], values(A))


EQUAL = [np.eye(2), np.eye(3), np.diag([1.0, 1.0, 2.0])]


@pytest.mark.parametrize("A", EQUAL)
def test_what_needs_the_vectors_of_equal_eigenvalues_of_any_matrix_is_refused(A):
    with pytest.raises(NotImplementedError, match="vectors of equal eigenvalues"):
        gradient(lambda A: np.sum(((v := np.linalg.eig(A))[1] * np.exp(v[0])) @ np.linalg.inv(v[1])).real, A)
    squares = lambda A: np.sum(np.linalg.eigvals(A).real ** 2)
    np.testing.assert_allclose(gradient(squares, A)[0], 2 * A.T)
    with pytest.raises(NotImplementedError, match="vectors of equal eigenvalues"):
        hessian(squares, A)


@pytest.mark.parametrize("of", [np.linalg.eig, np.linalg.eigh, np.linalg.svd], ids=lambda f: f.__name__)
def test_each_matrix_of_a_stack_is_looked_at_in_its_own_unit(of):
    B = np.array([[1.0, 0.5], [0.5, 3.0]])
    lengths = lambda A: np.sum(
        np.abs(of(A)[1 if of is not np.linalg.svd else 0]) * np.arange(1.0, 5).reshape(2, 2)
    )
    alone = gradient(lengths, B)[0]
    for unit in (1e9, 1e-9):
        (g,) = gradient(lengths, np.stack([B * unit, B]))
        np.testing.assert_allclose(g[1], alone)
        np.testing.assert_allclose(g[0] * unit, alone)


def test_a_matrix_without_a_basis_of_eigenvectors_is_refused():
    with pytest.raises(NotImplementedError, match="without a basis of eigenvectors"):
        gradient(lambda A: np.sum(np.linalg.eigvals(A).real ** 2), np.array([[1.0, 1.0], [0.0, 1.0]]))


def test_columns_of_a_jacobian_are_refused_where_rows_are():
    jumps = lambda t: np.linalg.eigh(np.diag([1.0, 1.0, 2.0]) + t * np.ones((3, 3)))[1] ** 2
    for slope in (
        lambda: jacobian(jumps, 0.0),
        lambda: jvp(jumps, (0.0,), (1.0,)),
        lambda: gradient(lambda t: jumps(t)[0, 1], 0.0),  # 0 by the formula
    ):
        with pytest.raises(NotImplementedError, match="depends on which vectors"):
            slope()


def test_third_derivatives_of_a_determinant_near_a_singular_matrix():
    ways = [np.cos(np.arange(9.0).reshape(3, 3) + i) for i in range(3)]
    f = np.linalg.det
    for way in ways:
        f = lambda A, f=f, way=way: np.sum(gradient(f, A)[0] * way)
    polar = [sum(np.linalg.det(sum(ways[i] for i in some)) * (-1) ** (3 - len(some)) for some in [c])
             for n in (1, 2, 3) for c in itertools.combinations(range(3), n)]  # fmt: skip
    for A in (np.diag([1.0, 1.0, 1e-7]), np.eye(3), np.diag([1.0, 0.0, 0.0])):  # a cubic: the same everywhere
        np.testing.assert_allclose(f(A), sum(polar), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("A", [np.zeros((n, n)) for n in (1, 2, 3)] + [np.ones((2, 2)), np.ones((2, 1, 1))])
def test_second_derivatives_of_a_determinant_of_any_singular_matrix(A):
    def leibniz(A):
        n = A.shape[-1]
        terms = []
        for p in itertools.permutations(range(n)):
            factors = [A[..., i, j] for i, j in enumerate(p)]
            terms.append(np.linalg.det(np.eye(n)[list(p)]) * functools.reduce(np.multiply, factors))
        return np.sum(sum(terms))

    det = lambda A: np.sum(np.linalg.det(A))
    np.testing.assert_allclose(hessian(det, A), hessian(leibniz, A), atol=1e-12)


def test_an_ill_conditioned_basis_of_eigenvectors_is_one():
    (g,) = gradient(lambda A: np.linalg.eigvals(A).real.max(), np.array([[1.0, 1e8], [0.0, 2.0]]))
    np.testing.assert_allclose(g, [[0, 0], [1e8, 1]], rtol=1e-6)


@pytest.mark.parametrize("A", [*EQUAL, np.array([[2.0, 0.3], [0.3, 1.0]])])
def test_two_calls_of_the_same_count_as_one(A):
    weights = np.arange(1.0, A.size + 1).reshape(A.shape)
    one = lambda A: (lambda w, v: np.sum(((v * np.exp(w)) @ v.T) * weights))(*np.linalg.eigh(A))
    vectors = lambda A: np.linalg.eigh(A)[1]
    several = [
        lambda A: np.sum(((v := np.linalg.eigh(A)[1]) * np.exp(np.linalg.eigvalsh(A))) @ v.T * weights),
        lambda A: np.sum((vectors(A) * np.exp(np.linalg.eigvalsh(A))) @ vectors(A).T * weights),
    ]
    for f in several:
        np.testing.assert_allclose(gradient(f, A)[0], gradient(one, A)[0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(hessian(f, A), hessian(one, A), rtol=1e-12, atol=1e-12)
    cubed = lambda A: np.linalg.svd(A)[0] * np.linalg.svd(A)[1] ** 3 @ np.linalg.svd(A)[2]
    at_once = lambda A: (lambda U, s, Vh: U * s**3 @ Vh)(*np.linalg.svd(A))
    for i in range(len(A)):
        expected = gradient(lambda A, i=i: at_once(A)[0, i], A)[0]
        np.testing.assert_allclose(gradient(lambda A, i=i: cubed(A)[0, i], A)[0], expected, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"full_matrices": False}, {"full_matrices": True}, {"hermitian": False}]
)
def test_the_same_call_in_other_words_is_the_same(options):
    def f(A, svd=lambda A: np.linalg.svd(A, **options)):
        U, _, Vh = svd(A)
        return np.sum((U * np.linalg.svdvals(A)) @ Vh)

    A = np.diag([2.0, 2.0, 2.0])
    np.testing.assert_allclose(gradient(f, A)[0], np.ones((3, 3)), rtol=1e-12)
    by_position = lambda A: np.linalg.svd(A, *options.values())
    np.testing.assert_allclose(gradient(lambda A: f(A, by_position), A)[0], np.ones((3, 3)), rtol=1e-12)


CUBES = {
    "plain": lambda w: w**3,
    "float_power": lambda w: np.float_power(w, 3),
    "select": lambda w: np.select([w > 0], [w**3], w),
    "vander": lambda w: np.vander(w, 4)[:, 0],
    "vecdot": lambda w: w * np.vecdot(np.stack([w, w], 1), np.stack([w, w], 1)) / 2,
    "quantile": lambda w: np.quantile(np.stack([w**3, w**3 + 1, w**3 - 1]), 0.5, axis=0),
    "eigvalsh": lambda w: w * np.stack([np.linalg.eigvalsh(np.diag(np.stack([-a, a * a])))[1] for a in w]),
    "recompute": recompute(lambda w: w**3),
    "derivative": derivative(lambda g, ans, w: 3 * g * w**2)(lambda w: w**3),
}


@pytest.mark.parametrize("A", EQUAL)
@pytest.mark.parametrize("name", CUBES)
def test_what_is_done_with_equal_values_is_done_again_with_those_beside_them(name, A):
    A = A + 3 * np.eye(len(A))
    cube, R = CUBES[name], np.cos(np.arange(A.size)).reshape(A.shape)

    def f(A):
        w, v = np.linalg.eigh(A)
        return np.sum((v * cube(w)) @ v.T * R)

    (g,), S = gradient(f, A), R + R.T
    np.testing.assert_allclose(g + g.T, A @ A @ S + A @ S @ A + S @ A @ A, rtol=1e-6, atol=1e-6)


def test_a_root_that_depends_on_equal_values_is_refused():
    root = lambda w: implicit_root(lambda z, w: z * z - w, np.sqrt(dropgrad(w)), w)
    with pytest.raises(NotImplementedError, match="a root that depends on values that are equal"):
        gradient(lambda A: (lambda w, v: np.sum((v * root(w)) @ v.T))(*np.linalg.eigh(A)), 2 * np.eye(3))


@pytest.mark.parametrize("f", [np.linalg.eigvalsh, np.linalg.svdvals, lambda A: np.linalg.eigvals(A).real])
def test_calls_of_two_variables_of_the_same_value_are_two(f):
    A, weights = EQUAL[2] + np.diag([0.0, 1.0, 3.0]), np.arange(1.0, 4)
    loss = lambda A, B: np.sum(f(A) * weights) + np.sum(f(B) * weights**2)
    for found, expected in zip(gradient(loss, A, A), gradient(loss, A, A.copy()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("of", "one", "other"),
    [
        ("eigh", {"UPLO": "L"}, {"UPLO": "U"}),
        ("svd", {"hermitian": False}, {"hermitian": True}),
        ("svd", {"full_matrices": False}, {"full_matrices": True}),
    ],
)
def test_calls_with_other_options_are_two(of, one, other):
    A, weights = np.array([[1.0, 0.3], [0.2, 2.0]]), np.array([[1.0, 2.0], [0.5, -1.0]])
    A, weights = (np.vstack([x, x[:1]]) if "full_matrices" in one else x for x in (A, weights))

    def f(A, options):
        found = getattr(np.linalg, of)(A, **options)
        u, w, v = found if of == "svd" else (found[1], found[0], found[1].T)
        return np.sum((u[:, :2] * w**3) @ v * weights)

    (both,) = gradient(lambda A: f(A, one) + f(A, other), A)
    np.testing.assert_allclose(
        both, gradient(f, A, one)[0] + gradient(f, A, other)[0], rtol=1e-12, atol=1e-12
    )


def test_calls_with_a_change_between_them_are_two():
    def f(A):
        B = A + 0
        w = np.linalg.eigvalsh(B)
        B *= 2
        return np.sum(w * np.linalg.eigvalsh(B))

    np.testing.assert_allclose(gradient(f, EQUAL[2])[0], np.diag([4.0, 4.0, 8.0]))


@pytest.mark.parametrize("values", [[1.0, 0.0], [2.0, 1e-12], [0.0, 0.0], [1.0, 1.0]])
@pytest.mark.parametrize("turn", [np.eye(3), Q])
@pytest.mark.parametrize("wide", [False, True])
def test_vectors_of_no_singular_value_are_a_choice_beside_those_of_a_zero(values, turn, wide):
    A = turn[:, :2] * values

    def squares(A):
        U, _, Vh = np.linalg.svd(A.T if wide else A, full_matrices=True)
        return np.sum((Vh.T if wide else U) ** 2 * C[:, :3])

    with pytest.raises(
        NotImplementedError, match=r"np.linalg.svd has no gradient .*(no singular value|chosen)"
    ):
        gradient(squares, A)
    has_both_derivatives(squares, turn[:, :2] * [2.0, 0.7])


@pytest.mark.parametrize("A", [np.eye(3), np.diag([1.0, 1.0, 2.0])])
def test_where_values_are_equal_an_array_that_is_filled_with_them_is_refused(A):
    def filled(A, start):
        out = start(by_eigh(np.exp, A))
        out[1:] = by_eigh(np.exp, A)[1:]
        out[0] = 1.0
        return weighed(out)

    for start in (np.zeros_like, np.ones_like):
        with pytest.raises(NotImplementedError, match="arrays that change afterwards have no gradient where"):
            gradient(lambda A, start=start: filled(A, start), A)
        has_both_derivatives(lambda A, start=start: filled((A + A.T) / 2, start), np.diag([1.0, 2.0, 3.0]))
