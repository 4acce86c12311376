"""What can be recorded in place of SciPy's functions in Python, which make plain arrays of what they get."""

from __future__ import annotations

import re
from importlib import import_module

import numpy as np

_AUTOGRADS = {
    "special": "polygamma multigammaln",
    "linalg": "sqrtm solve_triangular solve_banded solve_sylvester",
    "signal": "convolve",
}
_NUMPYS = "inv det norm pinv eig eigh eigvals eigvalsh svd qr lstsq"
_SOLVERS = """
minimize minimize_scalar root root_scalar bisect brenth brentq ridder toms748 newton fsolve least_squares
fixed_point linprog
"""
_SPHERICAL = "np.sqrt(np.pi / (2 * x)) * scipy.special.{}(n + 0.5, x)"
_ODE = "autograd.scipy.integrate.odeint(f, y0, t, autograd.builtins.tuple((k,))) with f(y, t, k)"
# Its derivative is a block of itself, so that it has them to any order.
_EXPM = (
    "expm = minidiff.derivative(lambda g, ans, A: expm(np.block([[A.T, g], [0 * A, A.T]]))[:len(A), len(A):])"
    "(scipy.linalg.expm), of one real matrix"
)
_LINEAR = (
    "It is linear: give it a minidiff.derivative, whose rule is the transposed transform (of dct and dst "
    "with norm='ortho' that is idct and idst), and that one likewise."
)
_TWINS = {
    "logsumexp": "minidiff.functions.logsumexp(x)",
    "softmax": "minidiff.functions.softmax(x)",
    "log_softmax": "minidiff.functions.logsoftmax(x)",
    **{f: f"autograd.scipy.{home}.{f}" for home, names in _AUTOGRADS.items() for f in names.split()},
    **{f"spherical_{kind}n": _SPHERICAL.format(f"{kind}v") for kind in "jyik"},
    "comb": "scipy.special.binom(n, k)",
    "factorial": "scipy.special.gamma(n + 1)",
    **{f: f"np.linalg.{f}" for f in _NUMPYS.split()},
    "svdvals": "np.linalg.svd(A, compute_uv=False)",
    "pinvh": "np.linalg.pinv(A, hermitian=True)",
    "euclidean": "np.linalg.norm(x - y)",
    **dict.fromkeys(("fftconvolve", "convolve2d"), "autograd.scipy.signal.convolve"),
    "solve": "np.linalg.solve(A, b)",
    "cho_solve": "np.linalg.solve(A, b)",
    "cho_factor": "np.linalg.cholesky(A)",
    "cholesky": "np.linalg.cholesky(A), which is lower triangular",
    "expm": _EXPM,
    "odeint": _ODE,
    "solve_ivp": _ODE,
    "quad": "h * (w @ f(a + h * (x + 1))), h = (b - a) / 2 and x, w = np.polynomial.legendre.leggauss(n)",
    "trapezoid": "np.trapezoid(y, x)",
    "cumulative_trapezoid": "np.cumsum((y[1:] + y[:-1]) / 2 * np.diff(x))",
    "interp1d": "np.interp(x, xp, fp)",
    "cdist": "np.linalg.norm(x[:, None] - y, axis=-1)",
    **dict.fromkeys(_SOLVERS.split(), "minidiff.implicit_root(f, z, a), with the solution z for dropgrad(a)"),
}
_DISTRIBUTIONS = {
    "beta": "x, a, b",
    "chi2": "x, df",
    "dirichlet": "x, alpha",
    "gamma": "x, a",
    "multivariate_normal": "x, mean, cov",
    "norm": "x, loc, scale",
    "poisson": "k, mu",
    "t": "x, df, loc, scale",
}


def twin(called: str, source: str) -> str:
    """Say what to take for a function of SciPy's.

    Parameters
    ----------
    called : str
        Its name, which for a decorated function is that of the decorator.
    source : str
        The source of the call.

    Returns
    -------
    str
        A sentence for an error message.
    """
    if called.startswith("scipy.stats"):
        return _of_statistics(*["", "", *called.split(".")][-2:])
    if called.startswith("scipy.fft"):
        is_numpys = called.rpartition(".")[2] in np.fft.__all__
        return "Take the function of that name in np.fft." if is_numpys else _LINEAR
    words = re.findall(r"\w+", f"{called} {source}")
    known = next((_TWINS[word] for word in words if word in _TWINS), "")
    return f"Take {known}." if known else "Write it with NumPy's functions, or give it a minidiff.derivative."


def _of_statistics(name: str, method: str) -> str:
    """Say what to take for a distribution's method, or for another function of `scipy.stats`."""
    twins = import_module("autograd.scipy.stats")
    if name in _DISTRIBUTIONS and hasattr(getattr(twins, name), method):
        cure = f"Take autograd.scipy.stats.{name}.{method}({_DISTRIBUTIONS[name]}), by position."
    elif method in ("logpdf", "logpmf", "pdf", "pmf"):
        cure = "Write the logarithm of the density with gammaln, xlogy, … of scipy.special."
    else:
        cure = "Write it with np.mean, np.std, … and the functions of scipy.special."
    ufuncs = " The ufuncs ndtr, log_ndtr and ndtri of scipy.special are its cdf, logcdf and ppf."
    return cure + ufuncs * (name == "norm")
