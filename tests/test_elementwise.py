"""Elementwise functions and sequences that autograd has no derivative for."""

import contextlib

import numpy as np
import pytest
import scipy
from beside_numpy import OF_TWO, check
from scipy import special

from minidiff import check_gradient, compiled, dropgrad, gradient, withgradient

rng = np.random.default_rng(1)
A, B = rng.normal(size=(2, 3)), rng.uniform(0.6, 2.4, size=3)
Z = B + 0.3j * A[0]
SAMPLES = {
    "float_power": [(np.float_power, B, A), (lambda x: np.float_power(x, 2), A), (np.float_power, Z, B)],
    "fmod": [(np.fmod, 3 * A, B), (np.fmod, -2.3, 0.7), (np.fmod, A[:, :1] * 5, B)],
    "copysign": [(np.copysign, A, -B), (np.copysign, A[0, 0], A), (lambda x: np.copysign(x, -0.0), A)],
    "heaviside": [(np.heaviside, A, B), (lambda y: np.heaviside(0.0, y), B)],
    "ldexp": [(lambda x: np.ldexp(x, [1, -2, 0]), A)],
    "nextafter": [(np.nextafter, A, B)],
    "divmod": [(np.divmod, 3 * A, B), (divmod, 3 * A, B)],
    "modf": [(np.modf, 3 * A), (np.modf, -2.3)],
    "frexp": [(np.frexp, 9 * A), (lambda x: np.frexp(x)[0], 0.3)],
    "logspace": [
        (lambda x, y: np.logspace(x, y, 4), A[0, 0], A[1, 1]),
        (lambda x, y: np.logspace(x, y, 3, axis=-1, base=2), A, B),
        (lambda x, y, b: np.logspace(x, y, 3, False, b), A[0, 0], B[1], B),
        (lambda x: np.logspace(x, 1, 3, dtype=complex), B),
    ],
    "geomspace": [
        (lambda x, y: np.geomspace(x, y, 4), B[0], B[1]),
        (lambda x, y: np.geomspace(x, y, 3, endpoint=False, axis=1), B, 3 * B + abs(A)),
        (lambda x, y: np.geomspace(x, y, 5), Z, 2j * B),
        (lambda x: np.geomspace(x, -40.0, 1), -B),
    ],
    "emath": [
        *[
            (f, x)
            for f in (np.emath.sqrt, np.emath.log, np.emath.log2, np.emath.log10)
            for x in (A, B, Z, -0.7)
        ],
        *[(f, x) for f in (np.emath.arccos, np.emath.arcsin) for x in (A, B / 3, 2 * B, -1.5)],
        *[(np.emath.arctanh, x) for x in (B, B / 3, -B)],
        (lambda x: np.emath.power(x, 2.5), A),
        (lambda x: np.emath.power([2, 3, 4], x), A),
        (np.emath.power, B, A),
        (lambda x: np.emath.logn(2, x), A),
        (np.emath.logn, B, 2 * B),
    ],
    "ediff1d": [(np.ediff1d, A), (lambda x, y: np.ediff1d(x, y, [1.0, 2.0]), A, B)],
}
if hasattr(np, "cumulative_sum"):
    SAMPLES |= {
        "cumulative_sum": [(lambda x: np.cumulative_sum(x, axis=1, include_initial=True), A)],
        "cumulative_prod": [
            (np.cumulative_prod, B),
            (lambda x: np.cumulative_prod(x, axis=0, include_initial=True), A),
        ],
    }


@pytest.mark.parametrize("name", SAMPLES)
def test_it_has_numpys_values_and_both_derivatives(name):
    for f, *arrays in SAMPLES[name]:
        check(f, *arrays)


def test_where_a_result_turns_complex_the_gradient_is_zero():
    for f, x in (
        (np.emath.sqrt, 0.0),
        (np.emath.arcsin, 1.0),
        (np.emath.arcsin, -1.0),
        (np.emath.arccos, 1.0),
    ):
        assert gradient(lambda x, f=f: np.real(f(x)) + np.imag(f(x)), x) == (0.0,)
        np.testing.assert_array_equal(
            gradient(lambda x, f=f: np.sum(np.abs(f(x))), np.array([x, x]))[0], [0, 0]
        )


def test_a_step_gives_its_gradient_to_what_it_is_at_zero():
    of_x, of_y = gradient(lambda x, y: np.sum(np.heaviside(x, y)), np.array([-1.0, 0, 2]), 0.5)
    assert of_x.tolist() == [0, 0, 0]
    assert of_y == 1


def test_a_remainder_jumps_with_its_divisor():
    # 7 = 3·2 + 1
    assert gradient(np.fmod, 7.0, 2.0) == (1.0, -3.0)
    assert gradient(np.fmod, -7.0, 2.0) == (1.0, 3.0)


def test_differences_keep_the_dtype_of_their_array():
    x = np.arange(3, dtype=np.float32)
    (g,) = gradient(lambda x: np.sum(np.ediff1d(x, to_end=[1.0])), x)
    assert g.dtype == np.float32
    with pytest.raises(TypeError, match="to_end"):
        gradient(lambda x: np.sum(np.ediff1d(x, to_end=[1j])), x)


@pytest.mark.skipif(not hasattr(np, "cumulative_sum"), reason="NumPy has none")
def test_a_cumulative_sum_of_a_matrix_needs_an_axis():
    with pytest.raises(ValueError, match="axis"):
        gradient(lambda x: np.sum(np.cumulative_sum(x)), A)


# Before 1.15 SciPy's hypergeometric functions of complex numbers had few digits, or none.
IS_OLD = tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 15)
PLANE = [
    0.3 + 0.7j,
    -1.3 - 0.4j,
    -0.6 + 1.1j,
    1.7 - 0.2j,
    0.5j,
    -2j,
    -0.0 + 1.5j,
    1 + 1j,
    -1 - 1j,
    0.5 + 0j,
    -0.5 + 0j,
    2j,
]


def complex_functions(*modules):
    for module in modules:
        for name in dir(module):
            f = getattr(module, name)
            if IS_OLD and name.startswith(("eval_", "hyp")):
                continue
            if (
                isinstance(f, np.ufunc)
                and f.signature is None
                and any("D" in kinds[: f.nin] for kinds in f.types)
            ):
                yield pytest.param(f, id=f"{module.__name__}.{name}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("f", [*complex_functions(np, special)])
def test_over_the_complex_plane_derivatives_are_those_of_differences(f):
    """Both are of the real part of a multiple, which sees a wrong sign, and what is not holomorphic."""
    h = 1e-4
    for i in range(f.nin):
        for others in ([0.7] * f.nin, [1.3, 0.4, 0.6, 0.2][: f.nin]):
            for z in PLANE:

                def value(z, i=i, others=others):
                    given = [*others[:i], z, *others[i + 1 :]]
                    result = f(*given)
                    return np.real((0.7 - 0.4j) * (result[0] if f.nout > 1 else result))

                try:
                    values = {d: [value(z + k * h * d) for k in (-2, -1, 0, 1, 2)] for d in (1, 1j)}
                    (g,) = gradient(value, z)
                except (NotImplementedError, TypeError):
                    continue
                slopes = [np.dot([1, -8, 0, 8, -1], v) / (12 * h) for v in values.values()]
                jumps = [np.ptp(v) for v in values.values()]  # on a branch cut
                if np.isfinite(slopes).all() and max(jumps) < 0.05:
                    expected = complex(*slopes)
                    np.testing.assert_allclose(
                        0 if g is None else g, expected, rtol=1e-6, atol=1e-6, err_msg=f"{others}, {z} at {i}"
                    )


@pytest.mark.parametrize(
    ("f", "x"),
    [
        *[(lambda x, n=n: np.linalg.matrix_power(x, n), rng.normal(size=(3, 3))) for n in (-5, 2, 3, 7, 12)],
        (lambda x: np.vander(x, 9), A[0]),
        (lambda x: np.float_power(x, 2.3), rng.uniform(0.1, 9, size=99)),
        (lambda x: np.hypot.reduce(x.astype(np.float32)), A),
    ],
)
def test_what_is_written_with_others_has_the_bits_of_numpy(f, x):
    seen = []
    gradient(lambda x: (seen.append(dropgrad(f(x))), np.sum(f(x)))[1], x)
    np.testing.assert_array_equal(seen[0], f(x))


@pytest.mark.parametrize("base", [-2, -2.0, np.float64(-0.5), np.float32(-3.0), np.array([-2.0, 0.5, -1.0])])
@pytest.mark.parametrize("exponent", [1 + 0.5j, np.complex64(0.5 - 1j), np.array([1 + 0.5j, -2 + 1j, 0.25j])])
def test_the_derivative_by_a_complex_exponent_is_finite_for_a_negative_base(base, exponent):
    f = lambda z: np.sum(np.abs(np.power(base, z) + 0.3))
    (g,) = gradient(f, exponent)
    (expected,) = gradient(lambda z: np.sum(np.abs(np.exp(z * np.log(base + 0j)) + 0.3)), exponent)
    is_single = {np.dtype("f4"), np.dtype("c8")} & {np.asarray(x).dtype for x in (base, exponent)}
    np.testing.assert_allclose(g, expected, rtol=1e-5 if is_single else 1e-13)
    check_gradient(f, exponent)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("function", [np.linspace, np.logspace, np.geomspace])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_a_python_number_at_an_end_takes_the_others_dtype(function, dtype, shape):
    x = np.full(shape, 0.7, dtype)[()]
    for f in (lambda x: function(x, 0.3, 3), lambda x: function(2, x, 3)):
        kept = []
        gradient(lambda x, f=f: np.sum(np.abs(kept.append(f(x)) or kept[0])), x)
        result = dropgrad(kept[0])
        assert result.dtype == f(x).dtype
        np.testing.assert_array_equal(result, f(x))


def test_the_size_of_a_complex_number_has_the_bits_of_pythons():
    rng = np.random.default_rng(0)
    for z in rng.normal(size=(200, 2)) @ [1, 1j]:
        value, grad = withgradient(abs, z)
        assert value == abs(z)
        np.testing.assert_allclose(grad[0], z / abs(z))
    loss = lambda z: abs(z[0]) + abs(z[1]) ** 2
    f, z = compiled(loss), rng.normal(size=(2, 2)) @ [1, 1j]
    f(z)
    (value, (g,)), (expected, (right,)) = f(z * 3j), withgradient(loss, z * 3j)
    assert value == expected == loss(z * 3j)
    np.testing.assert_array_equal(g, right)


@pytest.mark.parametrize(
    "f",
    [
        lambda z: np.kron(z[0], z[1]),
        lambda z: np.kron(z, z[1]),
        lambda z: np.kron(z[0], z),
        lambda z: np.kron(z.reshape(2, 2).T, z[1]).ravel("K"),
        lambda z: np.polyval([0.5, 0.31, 0.2, 0.7], z[0]),
        lambda z: np.polyval(z, z[0]),
        lambda z: np.polyval(z, 0.3 + 0.7j),
        lambda z: np.polyval(z, z),
    ],
)
def test_products_of_complex_numbers_have_the_bits_that_numpys_functions_make_of_them(f):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(50, 4, 2)) @ [1, 1j]
    loss = lambda z: np.sum(f(z)).imag
    program = compiled(loss)
    for z in numbers:
        seen = []
        gradient(lambda z, seen=seen: np.sum(seen.append(f(z)) or seen[0]).real, z)
        np.testing.assert_array_equal(dropgrad(seen[0]), f(z), strict=True)
        assert program(z).val == loss(z)
    check_gradient(loss, numbers[0], order=2)


@pytest.mark.parametrize("method", ["reduce", "accumulate", "reduceat", "outer"])
@pytest.mark.parametrize("name", sorted(OF_TWO))
def test_methods_of_every_ufunc_have_the_derivatives_of_differences_or_are_refused(name, method):
    x, do = np.array([[1.31, 0.73, 1.97], [0.87, 1.53, 1.13]]), getattr(OF_TWO[name], method)
    calls = {
        "reduce": [lambda x: do(x, 0), lambda x: do(x, 1, keepdims=True), lambda x: do(x[0])],
        "accumulate": [lambda x: do(x, 0), lambda x: do(x, 1), lambda x: do(x[0])],
        "reduceat": [lambda x: do(x, [1, 0, 1], 0), lambda x: do(x, [0, 2], 1)],
        "outer": [lambda x: do(x, x[0] + 0.01), lambda x: do(x[:, 0], 1.17)],
    }
    goes_as_it_likes = name in ("power", "pow", "arctan2") and method in ("reduce", "reduceat")
    for f in calls[method]:
        with contextlib.suppress(*[NotImplementedError] * goes_as_it_likes):
            check(f, x)


def test_of_a_complex_number_with_one_infinite_part_the_other_keeps_its_gradient():
    z = np.array([complex(1, np.inf), complex(np.inf, 2), 3 + 4j, complex(np.nan, 5)])
    with np.errstate(invalid="ignore"):
        (of_real,) = gradient(lambda z: np.sum(np.nan_to_num(z)).real, z)
        (of_imag,) = gradient(lambda z: np.sum(np.nan_to_num(z)).imag, z)
    np.testing.assert_array_equal(np.abs(of_real), [1, 0, 1, 0])
    np.testing.assert_array_equal(np.abs(of_imag), [0, 1, 1, 1])


@pytest.mark.parametrize("z", [1 + 2j, -0.3 + 0.1j, -2j])
def test_an_angle_in_degrees_has_its_slope_by_real_and_imaginary_part(z):
    for turn in (1, 1j):
        check_gradient(lambda t, z=z, turn=turn: np.angle(z + turn * t, deg=True), 0.0)
        check_gradient(lambda t, z=z, turn=turn: np.angle(z + turn * t), 0.0)
