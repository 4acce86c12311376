"""The ufuncs of `scipy.special`, plainly imported, have derivatives in losses."""

import subprocess
import sys

import numpy as np
import pytest

from minidiff import gradient

special = pytest.importorskip("scipy.special")
X = np.array([[0.3, 0.9, 0.45], [0.7, 0.12, 0.6]])
ONE = [
    "erf", "erfc", "expit", "logit", "gammaln", "gamma", "psi", "digamma", "rgamma", "erfinv", "erfcinv",
    "j0", "j1", "y0", "y1", "i0", "i1", "entr", "ndtr", "ndtri", "log_ndtr", "log_expit", "erfcx",
    "dawsn", "exp2", "exp10",
]  # fmt: skip
TWO = ["xlogy", "xlog1py", "rel_entr", "kl_div", "beta", "betaln"]


def slope(f, x, h=1e-4):
    return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h)


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("x", [X, X[0, 0]])
def test_a_function_of_one_argument(name, x):
    f = getattr(special, name)
    first = lambda x: gradient(lambda x: np.sum(f(x)), x)[0]
    np.testing.assert_allclose(first(x), slope(f, x), rtol=1e-8)
    np.testing.assert_allclose(gradient(lambda x: np.sum(first(x)), x)[0], slope(first, x), rtol=1e-7)


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_arguments_that_broadcast(name):
    f, y = getattr(special, name), np.array([0.4, 0.8, 1.3])
    of_x, of_y = gradient(lambda x, y: np.sum(f(x, y)), X, y)
    np.testing.assert_allclose(of_x, slope(lambda x: f(x, y), X), rtol=1e-8)
    np.testing.assert_allclose(of_y, slope(lambda y: f(X, y), y).sum(0), rtol=1e-8)
    second = lambda y: gradient(lambda x: np.sum(f(x, y)), X)[0]
    mixed = gradient(lambda y: np.sum(second(y)) + np.sum(0 * y), y)[0]
    np.testing.assert_allclose(mixed, slope(second, y).sum(0), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("f", [special.xlogy, special.xlog1py])
def test_nothing_times_a_logarithm_has_no_slope_in_it(f):
    assert gradient(lambda y: f(0.0, y), 0.0) == (0.0,)


def test_nobody_needs_to_import_autograds_twin():
    code = (
        "from scipy.special import gammaln; import numpy as np; from minidiff import gradient; "
        "assert np.isclose(gradient(gammaln, 1.0)[0], -np.euler_gamma)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
