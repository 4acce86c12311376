"""The ufuncs of `scipy.special`, plainly imported, have derivatives in losses."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from minidiff import check_gradient, compiled, dropgrad, gradient, hessian, param, params

scipy = pytest.importorskip("scipy")
special = pytest.importorskip("scipy.special")
_ufuncs = pytest.importorskip("scipy.special._ufuncs")
U, Q = np.array([0.3, 0.62, 0.45]), np.array([0.7, 0.12, 0.56])  # within (0, 1)
P, R = np.array([0.4, 1.3, 2.6]), np.array([1.7, 0.6, 3.1])  # positive
X = np.array([-1.3, 0.4, 2.2])
Z = np.array([0.5 + 0.3j, -0.7 + 1.1j, 1.4 - 0.6j])
N = np.array([0, 1, 4])


def each(names, *samples):
    return dict.fromkeys(names.split(), samples)


# By name: arguments; those that are arrays of floats or complex numbers are differentiated by.
CASES = {
    **each("dawsn erf erfc erfcx erfi expit expm1 exprel exp2 exp10 log_expit log_ndtr ndtr", (X,)),
    **each("sindg cosdg tandg cosm1 itj0y0 j0 j1 i0 i1 i0e i1e itstruve0 loggamma", (P,), (R[1],)),
    **each("fresnel sici shichi it2i0k0 it2j0y0 it2struve0 itmodstruve0 iti0k0", (P,)),
    **each("y0 y1 k0 k1 k0e k1e ber bei ker kei berp beip kerp keip exp1 expi", (P,)),
    **each("gamma gammaln psi digamma rgamma entr cbrt log1p cotdg spence zetac wrightomega", (P,)),
    **each("erfinv erfcinv logit ndtri ellipk ellipe ellipkm1", (U,)),
    **each("jv yv iv kv", (1.4, P), (N, P), (2, Z)),
    **each("hankel1 hankel2 hankel1e hankel2e kve jn", (1.4, P), (2, Z)),
    **each("ive jve yve struve modstruve", (1.4, P), (N, P)),
    **each("yn kn expn", (3, P), (np.array([1, 2, 4], np.uint8), P)),
    **each("_spherical_jn _spherical_yn _spherical_in _spherical_kn", (N, P)),
    **each("xlogy xlog1py rel_entr kl_div beta betaln poch binom agm elliprc", (P, R), (P[0], R)),
    **each("boxcox boxcox1p", (P, X), (R, 0.0)),
    **each("huber pseudo_huber", (P, X)),
    **each("gammainc gammaincc chdtr chdtrc", (P, R), (30 * R, 30 * P), (P[0], R)),
    **each("gammaincinv gammainccinv chdtri stdtrit", (R, U)),
    **each("betainc betaincc betaincinv betainccinv", (P, R, U), (30.0, R, Q)),
    **each("gdtr gdtrc fdtr fdtrc", (P, R, P[::-1])),
    **each("bdtr bdtrc bdtri nbdtr nbdtrc nbdtri", (np.array([1, 2, 3]), 5, U)),
    **each("pdtr pdtrc pdtri", (N, U)),
    **each("elliprd elliprf", (P, R, U)),
    **each("ellipeinc ellipkinc inv_boxcox inv_boxcox1p", (U, Q)),
    **each("eval_legendre eval_chebyt eval_chebyu eval_chebyc eval_chebys eval_laguerre", (N, U)),
    **each("eval_sh_legendre eval_sh_chebyt eval_sh_chebyu eval_hermite eval_hermitenorm", (N, U)),
    **each("eval_gegenbauer eval_genlaguerre", (N, 1.3, U)),
    **each("eval_jacobi eval_sh_jacobi", (N, 2.7, 1.4, U)),
    **each("hyp1f1 hyperu wright_bessel log_wright_bessel", (0.7, 1.3, P)),
    "airy": [(X,), (Z,)],
    "_lambertw": [(P, 0, 1e-12)],
    "_riemann_zeta": [(P + 1.5,)],
    "_zeta": [(P + 1.5, R)],
    "elliprg": [(P, R, U + 1)],
    "elliprj": [(P, R, U, Q)],
    "gdtria": [(U, R, P)],
    "gdtrix": [(P, R, U)],
    "hyp0f1": [(1.3, X)],
    "hyp2f1": [(0.7, 1.3, 2.1, U)],
    "lpmv": [(1, 3.0, U)],
    "ndtri_exp": [(-P,)],
    "nrdtrimn": [(U, P, X)],
    "nrdtrisd": [(P, U, X)],
    "owens_t": [(X, P)],
    "powm1": [(P, X)],
    "radian": [(X, P, R)],
    "stdtr": [(R, X), (40.0, X)],
    "tklmbda": [(0.3 * U, Q)],
    "voigt_profile": [(X, P, R)],
    "wofz": [(X,), (Z,)],
}
CONSTANT = ["gammasgn", "round"]
WITHOUT = {
    "an inverse that SciPy finds by a search": """
        bdtrik bdtrin btdtria btdtrib chdtriv chndtridf chndtrinc chndtrix fdtri fdtridfd gdtrib nbdtrik
        nbdtrin ncfdtri ncfdtridfd ncfdtridfn ncfdtrinc nctdtridf nctdtrinc nctdtrit pdtrik stdtridf""",
    "a distribution whose density SciPy has no ufunc for": """
        chndtr ncfdtr nctdtr kolmogorov kolmogi smirnov smirnovi""",
    "several results by several arguments, or of complex numbers alone": """
        ellipj pbdv pbvv pbwa kelvin airye itairy modfresnelm modfresnelp mathieu_cem mathieu_sem
        mathieu_modcem1 mathieu_modcem2 mathieu_modsem1 mathieu_modsem2 obl_ang1 obl_ang1_cv obl_rad1
        obl_rad1_cv obl_rad2 obl_rad2_cv pro_ang1 pro_ang1_cv pro_rad1 pro_rad1_cv pro_rad2 pro_rad2_cv""",
    "no closed form": "besselpoly mathieu_a mathieu_b obl_cv pro_cv sph_harm",
}
UFUNCS = [name for name in dir(special) if isinstance(getattr(special, name), np.ufunc)]


def function(name):
    found = getattr(special, name, None)
    return found if isinstance(found, np.ufunc) else getattr(_ufuncs, name, None)


def joined(result):
    return np.concatenate([np.ravel(x) for x in result]) if isinstance(result, tuple) else result


SAMPLES = [
    pytest.param(name, arguments, id=f"{name}-{i}")
    for name, samples in CASES.items()
    for i, arguments in enumerate(samples)
    if function(name) is not None
]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("name", "arguments"), SAMPLES)
def test_first_and_second_derivatives_are_those_of_differences(name, arguments):
    f = function(name)
    varied = [i for i, x in enumerate(arguments) if getattr(x, "dtype", np.dtype(int)).kind in "fc"]

    def call(*arrays):
        given = list(arguments)
        for i, x in zip(varied, arrays, strict=True):
            given[i] = x
        return joined(f(*given))

    seen = []
    gradient(lambda *xs: np.sum(np.real(seen.append(call(*xs)) or seen[0])), *[arguments[i] for i in varied])
    np.testing.assert_array_equal(seen[0]._value, joined(f(*arguments)))  # to the last bit
    check_gradient(call, *[arguments[i] for i in varied])


@pytest.mark.parametrize("name", UFUNCS)
def test_every_ufunc_has_a_derivative_or_a_reason_why_not(name):
    reasons = [reason for reason, names in WITHOUT.items() if name in names.split()]
    assert len(reasons) + (name in CASES) + (name in CONSTANT) == 1
    if name in CASES or name in CONSTANT:
        return
    f = function(name)
    with pytest.raises(NotImplementedError, match=f"{f.__name__} has no gradient"):
        gradient(lambda x: np.sum(np.ravel(joined(f(x, *[2] * (f.nin - 1))))[0]), U)


def test_no_reason_is_out_of_date():
    named = " ".join(WITHOUT.values()).split()
    assert len(named) == len(set(named))
    assert not set(named) & set(CASES)


@pytest.mark.parametrize("name", CONSTANT)
def test_steps_are_constants(name):
    assert (
        gradient(lambda x: np.sum(x * getattr(special, name)(x)), P)[0].tolist()
        == getattr(special, name)(P).tolist()
    )


@pytest.mark.parametrize(
    "name", ["jv", "iv", "kv", "yn", "hyp1f1", "hyp2f1", "eval_legendre", "bdtr", "expn"]
)
def test_what_has_no_derivative_by_its_order_says_so(name):
    f = function(name)
    with pytest.raises(NotImplementedError, match=rf"{name} has no gradient .*: there is none by"):
        gradient(lambda v: np.sum(f(v, *[1] * (f.nin - 2), 0.5)), 2.0)


@pytest.mark.parametrize("name", ["ive", "jve", "yve"])
def test_what_is_not_holomorphic_is_refused_of_complex_numbers(name):
    with pytest.raises(NotImplementedError, match=f"{name} has no gradient .*: there is none of complex"):
        gradient(lambda z: np.sum(np.abs(function(name)(2, z))), Z)


@pytest.mark.parametrize("f", [special.xlogy, special.xlog1py])
def test_nothing_times_a_logarithm_has_no_slope_in_it(f):
    assert gradient(lambda y: f(0.0, y), 0.0) == (0.0,)


def test_slopes_where_a_formula_divides_nothing_by_nothing():
    assert gradient(special.spence, 1.0) == (-1.0,)
    assert gradient(lambda x: special.shichi(x)[0], 0.0) == (1.0,)
    np.testing.assert_allclose(gradient(special.boxcox, 3.0, 0.0)[1], np.log(3) ** 2 / 2)
    np.testing.assert_allclose(gradient(special.ellipk, 0.0)[0], np.pi / 8)
    for n in range(4):
        np.testing.assert_allclose(gradient(lambda x: special.eval_legendre(n, x), 1.0)[0], n * (n + 1) / 2)


def test_a_distribution_far_out_moves_with_its_shape():
    # Γ(a, x) ~ xᵃ⁻¹ e⁻ˣ / Γ(a) for large x, and P(a, x) ~ xᵃ / Γ(a + 1) for small x.
    a, x = 2.5, 200.0
    slope = gradient(lambda a: np.log(special.gammaincc(a, x)), a)[0]
    np.testing.assert_allclose(slope, np.log(x) - special.psi(a), rtol=1e-2)
    slope = gradient(lambda a: np.log(special.gammainc(a, 1e-12)), a)[0]
    np.testing.assert_allclose(slope, np.log(1e-12) - special.psi(a + 1), rtol=1e-9)


@pytest.mark.parametrize("x", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize(("a", "b"), [(2.5, 2.5), (2.5, 30.0), (0.7, 2.5), (0.7, 30.0)])
def test_a_beta_distribution_is_that_of_the_shapes_exchanged_from_the_other_end(a, b, x):
    # P(X < x) for the shapes a and b is P(X > 1 - x) for b and a, and so are the slopes, in a far tail too.
    one = gradient(special.betainc, a, b, x)
    other = gradient(lambda a, b, x: special.betaincc(b, a, 1 - x), a, b, x)
    np.testing.assert_allclose(one[:2], other[:2], rtol=1e-8)
    np.testing.assert_allclose(one[2], other[2], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_derivative_by_a_shape_is_exact_also_in_single_precision(dtype):
    a = np.asarray([1.0], dtype)
    (g,) = gradient(lambda a: np.sum(special.gammainc(a, 1.5)), a)
    # ∂P/∂a is the integral of (log t - ψ(a)) tᵃ⁻¹ e⁻ᵗ / Γ(a), with t = 1.5 u⁴.
    u, w = np.polynomial.legendre.leggauss(40)
    u, w = (u + 1) / 2, w / 2
    t = 1.5 * u**4
    exact = np.sum(w * 6 * u**3 * (np.log(t) + np.euler_gamma) * np.exp(-t))
    assert g.dtype == dtype
    np.testing.assert_allclose(g, exact, rtol=1e-6)
    np.testing.assert_allclose(gradient(lambda a: special.gammainc(a, 1.5), 1.0)[0], exact, rtol=1e-9)


def test_parameters_are_differentiated_by_too():
    W = param([0.3, 0.7])
    (g,) = gradient(lambda: np.sum(special.gammaln(W) + special.log_ndtr(W)), params(W)).values()
    expected = gradient(lambda x: np.sum(special.gammaln(x) + special.log_ndtr(x)), W.value)[0]
    np.testing.assert_allclose(g, expected)


def test_nobody_needs_to_import_autograds_twin():
    code = (
        "from scipy.special import gammaln; import numpy as np; from minidiff import gradient; "
        "assert np.isclose(gradient(gammaln, 1.0)[0], -np.euler_gamma)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_the_same_where_autograds_twin_has_been_imported():
    code = (
        "import autograd.scipy.special; from scipy.special import gammainc; from minidiff import gradient; "
        "assert gradient(lambda a: gammainc(a, 1.0), 1.5)[0] < 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scipy_is_imported_by_nobody_but_its_user():
    code = "import minidiff, sys; assert not any(name.startswith('scipy') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nor_does_anything_that_is_computed_without_it_import_scipy():
    code = (
        "import sys, numpy as np, minidiff as md; from minidiff.optimise import ADAM, update\n"
        "W = md.param(np.eye(3)); ps = md.params(W)\n"
        "loss = lambda: np.sum(np.exp(W) @ np.linalg.inv(W)) + np.median(np.convolve(W[0], W[1]))\n"
        "update(ADAM(), ps, md.gradient(loss, ps)); md.hessian(loss, ps); md.compiled(loss, ps)()\n"
        "md.jacobian(np.sin, np.ones(20))\n"
        "assert not any(name.startswith(('scipy', 'minidiff.tracing.special')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("f", "arguments"),
    [
        (np.power, (2.0, 0.0)), (np.power, (2.0, np.zeros(2))), (np.float_power, (3.0, 0.0)),
        (special.xlogy, (0.0, 2.0)), (special.xlog1py, (0.0, 2.0)), (special.spence, (1.0,)),
        (lambda x: special.shichi(x)[0], (0.0,)), (lambda x: special.shichi(x)[0], (0.7,)),
        *[(lambda m, f=f, φ=φ: f(φ, m), (m,)) for f in (special.ellipkinc, special.ellipeinc)
            for φ in (1.0, -4.0) for m in (0.0, 1e-12, 2e-3)],
        *[(special.rgamma, (x,)) for x in (0.0, -1.0, -4.0, 0.2, 0.7)],
        (lambda k: special.binom(5.0, k), (6.0,)),
    ],
)  # fmt: skip
def test_where_a_formula_is_0_over_0_derivatives_are_those_of_differences(f, arguments):
    check_gradient(f, *arguments)
    if len(arguments) == 2 and np.ndim(arguments[1]) == 0:
        slope = lambda i: lambda x, y: gradient(f, x, y)[i]
        np.testing.assert_allclose(gradient(slope(0), *arguments)[1], gradient(slope(1), *arguments)[0])


@pytest.mark.parametrize(
    ("f", "x"),
    [*[(lambda p: special.tklmbda(0.5, p), p) for p in (0.0, 1e-9, -0.5, 1.0)],
        (lambda n: special.binom(n, 8.0), 5.0)],
)  # fmt: skip
def test_derivatives_of_what_scipy_has_to_a_few_digits(f, x):
    slope = lambda x: gradient(f, x)[0]
    for h, derivative in ((f, slope(x)), (slope, gradient(slope, x)[0])):
        np.testing.assert_allclose(derivative, (h(x + 1e-3) - h(x - 1e-3)) / 2e-3, rtol=1e-5)


def test_tukeys_distribution_is_flat_beyond_its_ends():
    x = np.array([-1.5, 0.3, 0.6, 0.7, 0.9, 1.5])  # they are at ±2/3
    inside = [0, 1, 1, 0, 0, 0]
    for f, z in ((lambda x: special.tklmbda(x, 1.5), x), (lambda p: special.tklmbda(x, p), np.full(6, 1.5))):
        loss = lambda z, f=f: np.sum(f(z))
        assert (gradient(loss, z)[0] != 0).tolist() == (np.diag(hessian(loss, z)) != 0).tolist() == inside


@pytest.mark.parametrize("x", [1e4, 1e6, 1e9])
def test_far_out_slopes_of_the_error_functions_are_those_of_their_asymptotes(x):
    z = 1 / (np.sqrt(np.pi) * x**2)
    for f, place, first, second in (
        (special.log_ndtr, -x, x + 1 / x, 1 / x**2 - 1),
        (special.erfcx, x, -z, 2 * z / x),
        (special.dawsn, x, -1 / (2 * x**2), 1 / x**3),
        (special.dawsn, -x, -1 / (2 * x**2), -1 / x**3),
        (lambda x: np.imag(special.wofz(x)), x, -z, 2 * z / x),
    ):
        np.testing.assert_allclose(gradient(f, place)[0], first, rtol=1e-7)
        np.testing.assert_allclose(hessian(f, place), second, rtol=1e-7)


@pytest.mark.parametrize(
    ("f", "ends"),
    [
        *[(f, (-np.inf, np.inf)) for f in (special.ndtr, special.erf, special.erfc)],
        (special.log_ndtr, (np.inf,)),
        (lambda x: special.stdtr(3.0, x), (-np.inf, np.inf)), (lambda x: special.gammainc(2.0, x), (np.inf,)),
        (lambda x: special.gammaincc(0.5, x), (np.inf,)), (lambda x: special.chdtr(3.0, x), (np.inf,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distributions_are_flat_at_infinity(f, ends, dtype):
    x = np.array([*ends, 0.7], dtype)
    loss = lambda x: np.sum(f(x) ** 2)
    (g,), H = gradient(loss, x), hessian(loss, x)
    assert g.dtype == H.dtype == dtype
    assert g[:-1].tolist() == np.diag(H)[:-1].tolist() == [0.0] * len(ends)
    np.testing.assert_array_equal(g[-1:], gradient(loss, x[-1:])[0])
    np.testing.assert_array_equal(H[-1:, -1:], hessian(loss, x[-1:]))
    squares = lambda x: np.sum(gradient(loss, x)[0] ** 2)
    program = compiled(squares)
    for at in (x[-1:].repeat(len(x)), x):  # recorded where no element is infinite
        np.testing.assert_array_equal(program(at).grad[0], gradient(squares, at)[0])


@pytest.mark.parametrize(
    ("f", "end"),
    [
        *[(partial(f, a), 0) for f in (special.gammainc, special.gammaincc) for a in (1.0, 2.0, 3.5)],
        *[(partial(f, a, b), end) for f in (special.betainc, special.betaincc) for a, b, end in (
            (1.0, 2.5, 0), (2.0, 0.5, 0), (3.5, 1.0, 0), (0.5, 1.0, 1), (1.0, 2.0, 1), (2.5, 3.5, 1),
        )],
        (partial(special.chdtr, 4.0), 0), (partial(special.gdtr, 1.3, 2.0), 0),
        (partial(special.bdtr, 1, 5), 0), (partial(special.fdtr, 4.0, 5.0), 0),
        (partial(special.bdtr, 3, 5), 1), (partial(special.pdtr, 1), 0),
    ],
)  # fmt: skip
def test_second_derivatives_of_distributions_go_on_to_where_these_begin_and_end(f, end):
    near = 1e-9 if end == 0 else 1 - 1e-9
    for x in (float(end), np.array([float(end), near, 0.4])):
        H = hessian(lambda x: np.sum(f(x)), x)
        np.testing.assert_allclose(H.flat[0], hessian(f, near), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("f", [special.gammainc, special.gammaincc])
def test_a_distribution_that_ends_at_infinity_does_not_move_with_its_shape_there(f):
    check_gradient(lambda a: np.log(np.abs(np.diff(f(a, np.array([0.5, 1.0, 2.0, np.inf]))))), 1.7)
    assert gradient(lambda a: f(a, np.inf), 2.0) == (0.0,)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (special.log_ndtr, -1.0), (special.erfcx, 30.0), (special.dawsn, 30.0), (special.it2struve0, 1.0),
        (lambda x: special.it2j0y0(x)[0], 1.0), (lambda x: special.it2i0k0(x)[0], 1.0),
        (lambda x: np.real(special.spence(x + 0j)), 0.9),
    ],
)  # fmt: skip
def test_where_another_formula_begins_slopes_go_on(f, x):
    for y in (lambda x: gradient(f, x)[0], lambda x: hessian(f, x)):
        np.testing.assert_allclose(y(x * (1 - 1e-12)), y(x * (1 + 1e-12)), rtol=1e-8)


def test_third_derivatives_at_0_over_0():
    slope = lambda x: gradient(lambda x: special.shichi(x)[0], x)[0]
    np.testing.assert_allclose(gradient(lambda x: gradient(slope, x)[0], 0.0)[0], 1 / 3)


def test_elements_do_not_change_each_other():
    for f in (special.ellipkinc, special.ellipeinc):
        m = np.array([1e-4, 0.5, 0.99])
        (g,) = gradient(lambda m, f=f: np.sum(f(0.3, m)), m)
        np.testing.assert_allclose(g, [gradient(lambda m, f=f: f(0.3, m), one)[0] for one in m], rtol=1e-13)
    np.testing.assert_allclose(
        gradient(lambda m: np.sum(special.ellipeinc(0.3, m)), np.array([1e-4, 1.0]))[0][1],
        -0.00454188,
        rtol=1e-5,
    )
    n = np.array([5.0, 200.0])
    H = hessian(lambda n: np.sum(special.binom(n, 3.0)), n)
    np.testing.assert_allclose(np.diag(H), n - 1, rtol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(2.5, -1.0), (3.0, -2.0), (5.0, 6.0), (5.0, 2.0)])
def test_binomials_by_k_at_poles_too(n, k):
    slope = (special.binom(n, k + 1e-6) - special.binom(n, k - 1e-6)) / 2e-6
    np.testing.assert_allclose(gradient(lambda k: special.binom(n, k), k)[0], slope, rtol=1e-5)


@pytest.mark.parametrize("z", [0.0, -1.0, -3.0])
def test_rising_factorials_at_poles_too(z):
    # At a pole of Γ(z) the value, Γ(z + m) / Γ(z), is 0, and crosses it.
    slope = (special.poch(z + 1e-5, 0.5) - special.poch(z - 1e-5, 0.5)) / 2e-5
    np.testing.assert_allclose(gradient(lambda z: special.poch(z, 0.5), z)[0], slope, rtol=1e-7)


@pytest.mark.parametrize(("a", "b"), [(-2.0, 0.5), (0.5, -2.5), (-2.5, 0.5)])
def test_where_a_logarithm_is_infinite_it_has_no_finite_slope(a, b):
    assert np.isinf(special.betaln(a, b))
    assert not np.isfinite(gradient(lambda a: special.betaln(a, b), a)[0])


@pytest.mark.parametrize("y", [-3.0, -0.5, -0.2, 0.7])
def test_carlsons_degenerate_integral_has_its_principal_values_slopes(y):
    check_gradient(special.elliprc, 1.3, y)


@pytest.mark.parametrize("x", [0.3, 0.9, 1.0, 2.0])
def test_carlsons_degenerate_integral_has_slopes_where_its_arguments_are_equal(x):
    by_x, by_y = gradient(special.elliprc, x, x)
    assert by_x == pytest.approx(-1 / (6 * x**1.5), rel=1e-14)
    assert by_y == pytest.approx(-1 / (3 * x**1.5), rel=1e-14)


@pytest.mark.parametrize("a", [1e4, 1e6])
@pytest.mark.parametrize("away", [-2.0, 0.0, 1.0])
def test_distributions_of_large_shapes_have_slopes_of_many_digits(a, away):
    x, h = a + away * np.sqrt(a), 0.2 * np.sqrt(a)
    f = lambda i: special.gammainc(a + i * h, x) - special.gammainc(a - i * h, x)
    slope = (4 / 5 * f(1) - f(2) / 5 + 4 / 105 * f(3) - f(4) / 280) / h
    np.testing.assert_allclose(gradient(lambda a: special.gammainc(a, x), a)[0], slope, rtol=1e-6)


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("y", [0.0, 1.0, 2.0, 3.5])
def test_a_power_less_1_has_the_slope_of_the_power(x, y):
    less, power = (gradient(lambda x, f=f: f(x, y), x)[0] for f in (special.powm1, np.power))
    np.testing.assert_allclose(less, power, rtol=1e-14)


@pytest.mark.parametrize("z", [0.3 + 1.7j, -1.4 + 2.6j, 0.9 + 0.2j])
def test_complex_reciprocal_gammas(z):
    f = lambda z: np.real(special.rgamma(z))
    h = 1e-6
    expected = (f(z + h) - f(z - h)) / (2 * h) + 1j * (f(z + 1j * h) - f(z - 1j * h)) / (2 * h)
    np.testing.assert_allclose(gradient(f, z)[0], expected, rtol=1e-6)


def test_the_complex_integral_of_the_hyperbolic_sine_at_0():
    slope = lambda z: np.real(gradient(lambda z: np.real(special.shichi(z)[0]), z)[0])
    assert gradient(slope, 0j)[0] == 0


# Where arguments are 0, whole, or at an end, and their derivatives are not those beside them.
EDGES = {
    "agm huber pseudo_huber": "kinks where two arguments are 0",
    "tklmbda": "a kink at the end of its range",
    "betaincinv betainccinv gammaincinv gammainccinv chdtri powm1 lpmv": "NaN at the end of a range",
    "nrdtrisd voigt_profile": "without width",
    "struve modstruve": "NaN at 0 of orders below 0, which second derivatives of order 0 take",
    "poch": "of z = 0 it jumps where m is whole",
}
SCIPY = tuple(map(int, scipy.__version__.split(".")[:2]))
if SCIPY < (1, 17):
    EDGES["chdtrc"] = "1 below 0 in SciPy, where it is NaN now"
if SCIPY < (1, 15):
    EDGES["hyperu"] = "a few digits of SciPy's, or none"
SINGLE = [
    name for name, samples in CASES.items()
    if getattr(function(name), "nout", 2) == 1 and not any(name in names.split() for names in EDGES)
]  # fmt: skip


def slopes(f, x, h):
    """Give the first and the second derivative by differences; NaN where there is none to be seen."""
    values = [[f(x + k * step) for k in range(-2, 3)] for step in (h, h / 2)]
    if not (np.isrealobj(values) and np.isfinite(values).all()):
        return np.nan, np.nan
    first = [np.dot([1, -8, 0, 8, -1], v) / (12 * step) for v, step in zip(values, (h, h / 2), strict=True)]
    second = [
        np.dot([-1, 16, -30, 16, -1], v) / (12 * step**2) for v, step in zip(values, (h, h / 2), strict=True)
    ]
    is_smooth = [
        abs(a - b) < tolerance * (1 + abs(a)) for (a, b), tolerance in ((first, 1e-6), (second, 1e-4))
    ]
    return first[1] if is_smooth[0] else np.nan, second[1] if all(is_smooth) else np.nan


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SINGLE)
def test_at_whole_numbers_zeros_and_broken_orders_derivatives_are_those_of_differences(name):
    ufunc = function(name)
    for others in (
        [0.7, 1.3, 2.0, 0.4],
        [2.0, 3.0, 1.0, 4.0],
        [0.0] * 4,
        [1.0] * 4,
        [3, 0.5, 0.5, 0.5],
        [0.5, 0, 0.5, 0.5],
    ):
        for i in range(ufunc.nin):
            for x in (0.0, 1.0, -1.0, 2.0, -0.5):

                def f(x, i=i, others=others):
                    given = others[: ufunc.nin]
                    given[i] = x
                    return ufunc(*given)

                try:
                    g, expected = gradient(f, x)[0], slopes(f, x, 1e-3)
                except (NotImplementedError, TypeError):  # by an order, or of whole numbers alone
                    continue
                where = f"{others} with {x} at {i}"
                if np.isfinite(expected[0]):
                    np.testing.assert_allclose(g, expected[0], rtol=1e-5, atol=1e-5, err_msg=where)
                if np.isfinite(expected[1]):
                    np.testing.assert_allclose(
                        hessian(f, x), expected[1], rtol=1e-3, atol=1e-3, err_msg=where
                    )


@pytest.mark.parametrize(
    "name", ["legendre", "sh_legendre", "chebyt", "chebyu", "chebyc", "chebys", "laguerre"]
)
@pytest.mark.parametrize("n", [-1.5, -0.5, 0.3, 0.7, 1.5])
def test_polynomials_of_broken_orders(name, n):
    check_gradient(lambda x: function(f"eval_{name}")(n, x), np.array([0.3, 0.6]))


@pytest.mark.parametrize("z", [1 + 0j, 1.05 - 0.02j, 0.3 + 1j])
def test_the_complex_dilogarithm_has_all_its_derivatives(z):
    slope = lambda z: np.real(gradient(lambda z: np.real(special.spence(z)), z)[0])
    u = 1 - z
    expected = 1 / 2 if u == 0 else 1 / (z * u) + np.log(z) / u**2
    np.testing.assert_allclose(np.real(gradient(slope, z)[0]), np.real(expected), rtol=1e-12)


def test_the_complex_digamma_function_has_none_and_that_is_said():
    with pytest.raises(NotImplementedError, match=r"psi has no gradient.*there is none of complex numbers"):
        gradient(lambda z: np.real(special.psi(z)), 1.0 + 0.5j)


@pytest.mark.parametrize(("x", "slope"), [(np.inf, np.inf), (1e300, np.inf), (-1e300, 0.0), (-np.inf, 0.0)])
def test_the_relative_exponential_ends_far_out(x, slope):
    np.testing.assert_allclose(gradient(special.exprel, x)[0], slope, atol=1e-50)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_relative_exponential_has_slopes_of_every_precision(dtype):
    x = np.array([-np.inf, 0, 1, np.inf], dtype)
    found = gradient(lambda x: np.sum(special.exprel(x)), x)[0]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, [0, 0.5, 1, np.inf], rtol=np.finfo(dtype).eps)


@pytest.mark.parametrize(
    "name", ["chdtr", "chdtrc", "chdtri", "fdtr", "gdtr", "gdtria", "nrdtrimn", "voigt_profile"]
)
def test_what_is_written_with_others_has_the_bits_of_scipy(name):
    f = getattr(special, name)
    arguments = np.random.default_rng(0).uniform(0.1, 0.9, size=(f.nin, 99))

    def loss(*arguments):
        seen.append(dropgrad(f(*arguments)))
        return np.sum(f(*arguments))

    seen = []
    gradient(loss, *arguments)
    np.testing.assert_array_equal(seen[0], f(*arguments))
