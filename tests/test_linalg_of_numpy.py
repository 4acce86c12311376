"""NumPy's linear algebra: values, shapes and dtypes are NumPy's, derivatives those of differences."""

import itertools
import tracemalloc

import numpy as np
import pytest
from beside_numpy import check

from minidiff import check_gradient, dropgrad, gradient, hessian, hvp

rng = np.random.default_rng(2)


def normal(*shape):
    return rng.normal(size=shape)


def unitary(*shape):
    return normal(*shape) + 1j * normal(*shape)


V, W = normal(3), normal(4)
A, T = normal(3, 4), normal(2, 3, 4)
S = normal(3, 3) + 3 * np.eye(3)
SS = normal(2, 3, 3) + 4 * np.eye(3)
P = S @ S.T + np.eye(3)
Z, ZZ = unitary(3, 4), unitary(2, 3, 3) + 4 * np.eye(3)
H = ZZ @ np.conj(ZZ).swapaxes(-1, -2)
LOW = normal(4, 2) @ normal(2, 3)  # of rank 2
ROWS = normal(2, 3, 6)
ORDERS = [None, 1, 2, -1, -2, np.inf, -np.inf]
lin = np.linalg
SAMPLES = {
    "solve": [
        *[
            (lin.solve, a, b)
            for a, b in [(S, V), (S, A), (SS, V), (SS, T), (S, T), (SS, A), (SS[:, None], T)]
        ],
        (lin.solve, ZZ, V),
        (lin.solve, S[:0, :0], V[:0]),
    ],
    "lstsq": [
        *[
            (lambda a, b: lin.lstsq(a, b, rcond=None), a, b)
            for a, b in [(A.T, W), (A.T, normal(4, 2)), (A, V)]
        ],
        (lambda a, b: lin.lstsq(a, b)[0], Z.T, W),
        (lambda b: lin.lstsq(LOW, b)[0], W),
        *[  # the shares cut off none of the singular values, one, two; the others are no shares
            (lambda a, b, r=r: lin.lstsq(a, b, rcond=r), a, b)
            for r in (0.4, 0.5, 0.9, 0.0, -1.0, 1.0, 2.0)
            for a, b in [(A, V), (A.T, W)]
        ],
    ],
    "pinv": [
        *[(lin.pinv, a) for a in (A, T, Z, SS)],
        (lambda a: lin.pinv(a @ a.T + 1.0, hermitian=True), S),
        *[(lambda a, r=r: lin.pinv(a, rcond=r), T) for r in (0.01, 0.4, np.array([0.3, 0.5]))],
        (lambda a, b: lin.pinv(a @ b, rcond=1e-9), normal(4, 2), normal(2, 3)),
    ],
    "qr": [
        *[(lambda a, mode=mode: lin.qr(a, mode), a) for a in (A, A.T, T, S, Z) for mode in ("reduced", "r")],
        *[(lambda a: lin.qr(a, mode="complete"), a) for a in (A, S, T[..., :3, :3])],
        (lambda a: lin.qr(a).Q, Z.T),
    ],
    "cholesky": [
        *[(lambda a, up=up: lin.cholesky(a, upper=up), a) for a in (P, H, H[0]) for up in (False, True)],
    ],
    "svd": [
        (lambda a: abs(lin.svd(a)[2]), A[:2, :3]),
        (lambda a: (lambda u, s, v: u[:, 2:] @ u[:, 2:].T)(*lin.svd(a)), normal(4, 2)),
        (lambda a: (lambda u, s, v: np.conj(v[2:]).T @ v[2:])(*lin.svd(a)), unitary(2, 4)),
        (lambda a: lin.svd(a + a.T, hermitian=True).S, S),
        (lambda a: lin.svd(a + a.T, compute_uv=False, hermitian=True), S),
        (lambda a: lin.svd(a + a.T, hermitian=True), S),
        (lin.svdvals, T),
    ],
    "eigenvalues": [
        (lambda a: lin.eigvalsh(a + a.T), S),
        (lambda a: lin.eigvalsh(a, "U"), H),
        (lambda a: abs(lin.eigvals(a)) ** 2, S),
    ],
    "cond": [(lambda a, p=p: lin.cond(a, p), S) for p in [*ORDERS, "fro", "nuc"]]
    + [(lin.cond, T), (lambda a: lin.cond(a, "nuc"), SS), (lin.cond, Z)],
    "norm of a vector": [
        (lambda x, p=p, k=k: lin.norm(x, p, axis=1, keepdims=k), A)
        for p in [*ORDERS, 3, 0.5, 1.5, -3]
        for k in (False, True)
    ]
    + [(lambda x: lin.norm(x, 0.5), unitary(3)), (lambda x: lin.norm(x, -2), V)],
    "norm of a matrix": [
        (lambda x, p=p: lin.norm(x, p, axis=(2, 0), keepdims=True), T) for p in [*ORDERS, "fro", "nuc"]
    ]
    + [(lambda x, p=p: lin.norm(x, p), Z) for p in (1, 2, "nuc", -np.inf)]
    + [(lambda x, p=p: lin.matrix_norm(x, ord=p), T) for p in ("nuc", 2, 1)],
    "vector_norm": [
        (lambda x: lin.vector_norm(x, axis=(0, 2), ord=3), T),
        (lambda x: lin.vector_norm(x, axis=(2, 0), keepdims=True), T),
        (lambda x: lin.vector_norm(x, keepdims=True, ord=-1), T),
        (lambda x: lin.vector_norm(x, axis=()), T),
    ],
    "cross": [
        *[(np.cross, a, b) for a, b in [(V, S), (S, V), (S, SS), (SS[:, :1], S), (unitary(3), V)]],
        (lambda a, b: np.cross(a, b, 0, -1, 0), A, normal(4, 3)),
        (lambda a, b: np.cross(a, b, axis=0), S, S[:, :1]),
        (lambda a, b: lin.cross(a, b, axis=0), S, S.T + 1),
    ],
    "tensor": [
        (lin.tensorinv, ROWS.transpose(2, 0, 1), 1),
        (lambda x: lin.tensorinv(x), ROWS),
        (lin.tensorsolve, ROWS, normal(2, 3)),
        (lambda a, b: lin.tensorsolve(a, b, axes=(0,)), ROWS.transpose(2, 0, 1), normal(2, 3)),
    ],
    "aliases": [
        (lin.matmul, S, A),
        (lin.outer, V, W),
        (lambda x: lin.diagonal(x, offset=-1), T),
        (lin.matrix_transpose, T),
        (lambda x, y: lin.tensordot(x, y, axes=1), T, A.T),
        (lambda x, y: lin.vecdot(x, y, axis=0), Z, unitary(3, 1)),
        (lambda x, y: np.vecdot(x, y, keepdims=True), T, A),
        (lambda x: lin.trace(x, offset=1, dtype=complex), T),
    ],
}
SAMPLES["tensor"][0] = (lambda x: lin.tensorinv(x, ind=1), ROWS.transpose(2, 0, 1).reshape(6, 6))
if hasattr(np, "matvec"):
    SAMPLES["matvec"] = [(np.matvec, T, W), (np.matvec, Z, unitary(2, 4)), (np.vecmat, unitary(2, 3), Z)]


@pytest.mark.parametrize("name", SAMPLES)
def test_it_has_numpys_values_and_both_derivatives(name):
    for f, *arrays in SAMPLES[name]:
        check(f, *arrays)


OF_EACH_MATRIX = {
    "inv": lin.inv,
    "det": lin.det,
    "slogdet": lambda x: lin.slogdet(x)[1],
    "pinv": lin.pinv,
    "pinv, Hermitian": lambda x: lin.pinv(x, hermitian=True),
    "cholesky": lin.cholesky,
    "cholesky, upper": lambda x: lin.cholesky(x, upper=True),
    "qr": lambda x: lin.qr(x)[1],
    "eigvalsh": lin.eigvalsh,
    "eigvalsh, upper": lambda x: lin.eigvalsh(x, "U"),
    "eigh": lambda x: lin.eigh(x)[1] ** 2,
    "eigvals": lambda x: np.real(lin.eigvals(x)),
    "svdvals": lin.svdvals,
    "svd": lambda x: lin.svd(x)[0] ** 2,
    "singular values, Hermitian": lambda x: lin.svd(x, compute_uv=False, hermitian=True),
    "svd, Hermitian": lambda x: lin.svd(x, hermitian=True)[0] ** 2,
    "matrix_power": lambda x: lin.matrix_power(x, -3),
    "solve": lambda x: lin.solve(x, A),
    **{f"matrix_norm {p}": lambda x, p=p: lin.matrix_norm(x, ord=p) for p in [*ORDERS[1:], "nuc", "fro"]},
    **{f"cond {p}": lambda x, p=p: lin.cond(x, p) for p in [*ORDERS, "fro"]},
}


@pytest.mark.parametrize("name", OF_EACH_MATRIX)
def test_of_a_stack_each_matrix_has_the_gradient_that_it_has_alone(name):
    f, positive = OF_EACH_MATRIX[name], np.real(H)
    stack = np.stack([positive, positive[::-1] + np.eye(3)], 1)
    stack = stack if "cholesky" in name else stack * np.array([[1.0], [-0.5]])[..., None, None]
    weights = np.cos(np.arange(f(stack).size)).reshape(f(stack).shape)
    (g,) = gradient(lambda x: np.sum(weights * f(x)), stack)
    for i in np.ndindex(stack.shape[:2]):
        (alone,) = gradient(lambda x, i=i: np.sum(weights[i] * f(x)), stack[i])
        np.testing.assert_allclose(g[i], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")
def test_a_cross_product_in_the_plane_is_numpys_while_it_has_one():
    try:
        np.cross(V[:2], V[1:])
    except ValueError:
        pytest.skip("NumPy has none")
    check(np.cross, V[:2], A[:, :2])
    check(np.cross, V[:2], S)


def test_what_no_vector_decides_has_a_gradient_and_what_one_does_is_refused():
    two = normal(2, 4)
    projection = lambda x: np.sum((lambda v: v.T @ v)(np.linalg.svd(x)[2][2:]) ** 2 * W)
    check_gradient(projection, two)
    with pytest.raises(NotImplementedError, match=r"svd .*vectors"):
        gradient(lambda x: np.sum(np.linalg.svd(x)[2][2:] * W), two)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_least_squares_by_a_matrix_keep_the_shape_of_a_vector():
    check(lambda b: np.linalg.lstsq(np.matrix(A.T), b)[0], W)


def test_an_orthogonal_complement_is_refused():
    with pytest.raises(NotImplementedError, match=r"np.linalg.qr has no gradient with mode='complete'"):
        gradient(lambda x: np.sum(np.linalg.qr(x, "complete")[0]), A.T)


def test_a_matrix_that_is_not_square_is_refused_as_numpy_does():
    for f in (np.linalg.cholesky, lambda x: np.linalg.pinv(x, hermitian=True)):
        with pytest.raises(np.linalg.LinAlgError, match="square"):
            gradient(lambda x: np.sum(f(x)), A[:1])


def test_a_power_norm_has_a_kink_where_an_element_is_zero():
    (g,) = gradient(lambda x: np.linalg.norm(x, 0.5), np.array([0.0, 1.0, 4.0]))
    assert g.tolist() == [0, 3, 1.5]
    with np.errstate(divide="ignore"):
        (g,) = gradient(lambda x: np.linalg.norm(x, -1), np.array([0.0, 1.0, 4.0]))
    assert g.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "sizes", [(3, 3), (2, 3, 4), (5, 2, 7, 1), (5, 1, 7, 2), (2, 0, 3, 2), (3, 2, 0), (9, 2, 8, 3, 7, 4)]
)
@pytest.mark.parametrize("ends", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtypes", ["d", "f", "D", "fd", "efd"])
def test_a_chain_of_products_has_numpys_bits(sizes, ends, dtypes):
    shapes = list(itertools.pairwise(sizes))
    shapes[0], shapes[-1] = shapes[0][ends[0] :], shapes[-1]
    shapes[-1] = shapes[-1][: len(shapes[-1]) - ends[1]]
    if len(shapes) < 2:
        shapes *= 2  # of one vector, or a square matrix, the product with itself
    arrays = [normal(*s).astype(d) for s, d in zip(shapes, itertools.cycle(dtypes), strict=False)]
    expected = np.linalg.multi_dot(arrays)
    seen = []
    gradient(lambda *xs: seen.append(np.linalg.multi_dot(xs)) or np.sum(np.abs(seen[0])), *arrays)
    assert seen[0].dtype == expected.dtype
    np.testing.assert_array_equal(seen[0]._value, expected)
    if dtypes == "d" and expected.size:
        check_gradient(lambda *xs: np.sum(np.linalg.multi_dot(xs) ** 2), *arrays)


BITS = {
    "pinv, Hermitian": lambda x: lin.pinv(x @ np.conj(x.T), hermitian=True),
    "pinv, cut": lambda x: lin.pinv(x, rcond=0.5),
    "Q": lambda x: lin.qr(x)[0],
    "R": lambda x: lin.qr(x)[1],
    "R alone": lambda x: lin.qr(x, "r"),
    **{f"norm {o}": lambda x, o=o: lin.norm(x, *o) for o in (("fro",), (), ("fro", (0, 1)))},
}
if hasattr(np, "vecmat"):
    BITS["vecmat"] = lambda x: np.vecmat(x[:, 0], x)


@pytest.mark.parametrize("f", BITS.values(), ids=BITS)
def test_it_has_numpys_bits(f):
    for shape in ((3, 5), (7, 9), (17, 40), *[(5, n) for n in range(10, 18)]):
        for x in (normal(*shape), unitary(*shape), np.asfortranarray(normal(*shape))):
            seen = []
            gradient(lambda x: seen.append(f(x)) or np.sum(np.abs(seen[0])), x)
            np.testing.assert_array_equal(seen[0]._value, f(x))


def test_how_many_are_not_zero_has_no_slope():
    assert gradient(lambda x: np.linalg.norm(x, 0) * np.sum(x), V)[0].tolist() == [3, 3, 3]


@pytest.mark.parametrize("least", [0.1, 10, 1e12])
@pytest.mark.parametrize("rcond", [None, -1, 0, 1, 2, 1e-3, 1e-18])
def test_least_squares_are_linear_in_their_right_side_whatever_share_is_cut(rcond, least):
    """By default the shares below eps times the larger side are cut, and below eps for what is no share."""
    A, c = np.eye(99, 2), normal(2)
    A[1, 1] = least * np.finfo(float).eps
    (g,) = gradient(lambda b: c @ np.linalg.lstsq(A, b, rcond)[0], normal(99))
    np.testing.assert_allclose(g, c @ np.linalg.lstsq(A, np.eye(99), rcond)[0], rtol=1e-12)


@pytest.mark.parametrize("solved", [
    lambda A, b: np.linalg.lstsq(A, b, rcond=0.3)[0], lambda A, b: np.linalg.pinv(A, rcond=0.3) @ b,
    lambda A, b: np.linalg.pinv(A, rtol=0.3) @ b,
    lambda A, b: np.linalg.pinv(A @ A.T, 0.09, hermitian=True) @ b,
], ids=["lstsq", "pinv, rcond", "pinv, rtol", "pinv, hermitian"])  # fmt: skip
def test_where_shares_that_are_not_small_are_cut_there_are_both_derivatives(solved):
    A = np.linalg.qr(normal(4, 3))[0] @ np.diag([2.0, 1.5, 0.4]) @ np.linalg.qr(normal(3, 3))[0]
    check_gradient(lambda A, b: np.sum(solved(A, b) ** 2), A, W)


@pytest.mark.parametrize("ind", [0, -1])
@pytest.mark.parametrize("a", [np.full((1, 1), 2.0), np.eye(2), np.array(2.0)], ids=np.shape)
def test_an_inverse_of_a_tensor_needs_first_axes(a, ind):
    with pytest.raises(ValueError):  # noqa: PT011
        np.linalg.tensorinv(a, ind)
    with pytest.raises(ValueError, match="ind must be positive"):
        gradient(lambda a: np.sum(np.linalg.tensorinv(a, ind)), a)


def test_half_the_squared_distance_to_a_column_space_has_a_projector_for_its_hessian():
    X = normal(4, 2)
    rest = lambda y: np.sum(np.linalg.lstsq(X, y)[1]) / 2
    np.testing.assert_allclose(hessian(rest, W), np.eye(4) - X @ np.linalg.pinv(X), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_stays_so(dtype):
    x = (S + 0.3j * S.T if dtype == np.complex64 else S).astype(dtype)
    for f in (
        np.linalg.pinv,
        lambda x: np.linalg.qr(x, "r"),
        lambda x: np.linalg.solve(x, x),
        np.linalg.cond,
    ):
        check(f, x)
        (g,) = gradient(lambda x: np.sum(np.real(f(x))), x)
        assert g.dtype == dtype


@pytest.mark.parametrize("A", [np.ones((3, 3)), np.arange(9.0).reshape(3, 3), np.outer([1.0, 2, 3], [1, 1]),
                               np.zeros((2, 2)), np.stack([np.eye(2), np.ones((2, 2))])])  # fmt: skip
@pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
def test_qr_of_dependent_columns_has_no_gradient(A, dtype):
    with pytest.raises(np.linalg.LinAlgError, match=r"np.linalg.qr has no gradient where the columns"):
        gradient(lambda A: np.sum(np.real(np.linalg.qr(A)[1]) ** 2), A.astype(dtype))
    close = A + 1e-3 * np.eye(*A.shape[-2:])
    gradient(lambda A: np.sum(np.real(np.linalg.qr(A)[1]) ** 2), close.astype(dtype))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3), (2, 0, 0)])
@pytest.mark.parametrize("order", [*ORDERS, 3, "fro", "nuc"])
def test_of_no_elements_norms_and_cond_are_what_numpy_makes_of_them(shape, order):
    """Some versions of NumPy give a 0 where others refuse; so does a gradient, by which nothing is lost."""
    x = np.zeros(shape)
    forms = [lambda x, a=a, k=k: lin.norm(x, order, a, k) for a in (None, 0, (-2, -1)) for k in (False, True)]
    for f in [*forms, lambda x: lin.cond(x, order), lambda x: lin.vector_norm(x, ord=order)]:
        try:
            expected, seen = f(x), []
        except Exception as error:
            with pytest.raises(type(error)):
                gradient(lambda x: np.sum(f(x)), x)
            continue
        (g,) = gradient(lambda x: (seen.append(dropgrad(y := f(x))), np.sum(y))[1], x)
        np.testing.assert_array_equal(seen[0], expected, strict=True)
        np.testing.assert_array_equal(g, x, strict=True)


OF_MATRICES = {
    **{f"qr {mode}": lambda x, mode=mode: lin.qr(x, mode) for mode in ("reduced", "r")},
    **{f"svd {uv}": lambda x, uv=uv: lin.svd(x, full_matrices=False, compute_uv=uv) for uv in (True, False)},
    **{name: getattr(lin, name) for name in ("pinv", "svdvals", "trace", "matrix_norm", "matrix_transpose")
        if hasattr(lin, name)},
}  # fmt: skip
OF_SQUARE = {
    **{
        name: getattr(lin, name)
        for name in ("eigh", "eigvalsh", "cholesky", "inv", "det", "slogdet", "eigvals")
    },
    "solve": lambda x: lin.solve(x, x),
    "matrix_power": lambda x: lin.matrix_power(x, 3),
}


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3), (3, 0), (0, 2, 2)])
@pytest.mark.parametrize("name", sorted(OF_MATRICES | OF_SQUARE))
def test_of_no_elements_there_is_a_gradient_without_any(name, shape):
    if name in OF_SQUARE and shape[-1] != shape[-2]:
        pytest.skip("of square matrices")
    f, x = (OF_MATRICES | OF_SQUARE)[name], np.zeros(shape)
    parts = lambda out: out if isinstance(out, tuple) else (out,)
    (g,) = gradient(lambda x: sum(np.sum(np.real(part)) for part in parts(f(x))), x)
    np.testing.assert_array_equal(g, x, strict=True)


@pytest.mark.parametrize("solved", [np.linalg.pinv, lambda a: np.linalg.lstsq(a, np.ones(len(a)))[0],
    lambda a: np.polyfit(a.ravel(), a.ravel() ** 2, 2)])  # fmt: skip
@pytest.mark.parametrize("shape", [(2000, 3), (3, 2000)])
def test_least_squares_of_many_rows_take_no_square_of_their_number(solved, shape):
    a, f = normal(*shape), lambda a: np.sum(solved(a) ** 2)
    tracemalloc.start()
    try:
        gradient(f, a)
        hvp(f, a, a)
        assert (
            tracemalloc.get_traced_memory()[1] < 200 * a.nbytes
        )  # of the square, 32 MB each, there were three
    finally:
        tracemalloc.stop()
