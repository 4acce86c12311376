"""A sparse matrix of SciPy's is a constant in a product with what is under differentiation."""

import numpy as np
import pytest

from minidiff import compiled, gradient, hvp, param, params, withgradient

sparse = pytest.importorskip("scipy.sparse")
rng = np.random.default_rng(5)
DENSE = np.where(rng.random((4, 3)) < 0.5, rng.normal(size=(4, 3)), 0)
KINDS = [
    getattr(sparse, f"{kind}_{holder}")
    for kind in ("csr", "csc", "coo", "lil", "dia", "bsr", "dok")
    for holder in ("array", "matrix")
]
LEFT = [rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=(3, 1)), np.zeros((3, 0))]
RIGHT = [rng.normal(size=(2, 4)), rng.normal(size=4), rng.normal(size=(1, 4))]


def weighed(y):
    return np.sum(np.real(y) * np.cos(np.arange(y.size)).reshape(y.shape)) + np.sum(
        np.real(y * np.conj(y)) ** 2
    )


def products():
    for W in LEFT:
        yield (lambda A, W: A @ W), W
    for W in RIGHT:
        yield (lambda A, W: W @ A), W


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("product", "W"), [*products()])
def test_a_product_has_scipys_value_and_the_derivatives_of_the_dense_one(kind, product, W):
    A, of_dense = kind(DENSE), lambda W: weighed(product(DENSE, W))
    seen = []
    loss = lambda W: weighed(seen.append(product(A, W)) or seen[-1])
    p = param(W)
    value, grads = withgradient(lambda: loss(p), params(p))
    np.testing.assert_array_equal(seen[0]._value, product(A, W))
    assert type(seen[0]._value) is np.ndarray
    np.testing.assert_allclose(value, of_dense(W), rtol=1e-12)
    expected = gradient(of_dense, W)[0]
    np.testing.assert_allclose(grads[p], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient(loss, W)[0], expected, rtol=1e-12, atol=1e-12)
    v = np.cos(np.arange(W.size)).reshape(W.shape)
    np.testing.assert_allclose(hvp(loss, W, v), hvp(of_dense, W, v), rtol=1e-12, atol=1e-12)


def test_it_may_be_complex_or_of_whole_numbers():
    W = rng.normal(size=(3, 2))
    for dense in (DENSE + 1j * DENSE[::-1], (DENSE > 0).astype(int), DENSE.astype("f4")):
        A = sparse.csr_array(dense)
        g = gradient(lambda W, A=A: weighed(A @ W), W)[0]
        np.testing.assert_allclose(g, gradient(lambda W, A=dense: weighed(A @ W), W)[0], rtol=1e-5)


def test_dot_and_matmul_are_the_same_product():
    A, W = sparse.csr_array(DENSE), LEFT[0]
    expected = gradient(lambda W: weighed(DENSE @ W), W)[0]
    np.testing.assert_allclose(gradient(lambda W: weighed(A.dot(W)), W)[0], expected)
    np.testing.assert_allclose(gradient(lambda W: weighed(np.matmul(W, A)), RIGHT[0])[0].shape, (2, 4))


@pytest.mark.parametrize(
    "f",
    [
        lambda A, W: A + W,
        lambda A, W: W * A,
        lambda A, W: A * W,
        lambda A, W: W - A,
        lambda A, W: A.multiply(W),
    ],
)
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
def test_all_else_says_what_there_is(kind, f):
    A, W = kind(DENSE[:3]), param(DENSE[:3])
    for w in (lambda: W, lambda: W * 1):
        with pytest.raises(TypeError, match=r"A @ W|toarray"):
            gradient(lambda w=w: np.sum(f(A, w())), params(W))


def test_outside_a_gradient_a_parameter_is_the_array_it_holds():
    A, W = sparse.csr_array(DENSE), param(LEFT[0])
    np.testing.assert_array_equal(A @ W, A @ LEFT[0])
    assert type(A @ W) is np.ndarray


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"mismatch|dimension"):
        gradient(lambda W: np.sum(sparse.csr_array(DENSE) @ W), np.ones((4, 3)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.__name__.startswith(("lil", "dok"))])
def test_a_program_keeps_the_matrix_by_reference(kind):
    A = kind(DENSE)
    for loss, W in ((lambda W: np.sum((A @ W) ** 2), LEFT[0]), (lambda W: np.sum((W @ A) ** 2), RIGHT[0])):
        program = compiled(loss)
        for _ in range(2):
            found, expected = program(W), withgradient(loss, W)
            assert found.val == expected.val
            np.testing.assert_array_equal(found.grad[0], expected.grad[0])
            A.data *= 2
        assert "sparse" in program.source
    with pytest.raises(TypeError, match="save: the program uses"):
        program.save("never.py")


@pytest.mark.parametrize("made", [lambda A: A * 2, lambda A: A.T.tocsr(), lambda A: sparse.diags(np.ones(4))])
def test_a_program_of_a_matrix_that_the_loss_makes_says_where_to_make_it(made):
    A = sparse.csr_array(DENSE @ DENSE.T)
    with pytest.raises(TypeError, match=r"test_sparse.py, line .*matrix anew. Make it before, outside"):
        compiled(lambda W: np.sum(made(A) @ W))(RIGHT[1])
    B = made(A)
    assert compiled(lambda W: np.sum(B @ W))(RIGHT[1]).val == np.sum(B @ RIGHT[1])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.__name__.startswith(("lil", "dok"))])
@pytest.mark.parametrize(("product", "x"), [*products()])
def test_a_program_multiplies_what_is_not_differentiated_too(kind, product, x):
    A, W = kind(DENSE), param(1.5)
    loss = lambda x: W**2 * np.sum(product(A, x) ** 2)
    program = compiled(loss, params(W))
    for given in (x, 2 * x, x - 1):
        found, expected = program(given), withgradient(lambda x=given: loss(x), params(W))
        assert found.val == expected.val
        assert found.grad[W] == expected.grad[W]
        A.data *= 2
