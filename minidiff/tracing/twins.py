"""What can be recorded in place of SciPy's functions in Python, which make plain arrays of what they get."""

from __future__ import annotations

import re

_AUTOGRADS = {
    "special": "polygamma multigammaln",
    "linalg": "sqrtm solve_triangular solve_banded solve_sylvester",
    "signal": "convolve",
}
_SOLVERS = "minimize minimize_scalar root root_scalar brentq newton fsolve least_squares fixed_point linprog"
_SPHERICAL = "np.sqrt(np.pi / (2 * x)) * scipy.special.{}(n + 0.5, x)"
_ODE = "autograd.scipy.integrate.odeint(f, y0, t, autograd.builtins.tuple((k,))) with f(y, t, k)"
_TWINS = {
    "logsumexp": "minidiff.functions.logsumexp(x)",
    "softmax": "minidiff.functions.softmax(x)",
    "log_softmax": "minidiff.functions.logsoftmax(x)",
    **{f: f"autograd.scipy.{home}.{f}" for home, names in _AUTOGRADS.items() for f in names.split()},
    **{f"spherical_{kind}n": _SPHERICAL.format(f"{kind}v") for kind in "jyik"},
    "comb": "scipy.special.binom(n, k)",
    "factorial": "scipy.special.gamma(n + 1)",
    **{f: f"np.linalg.{f}" for f in ("inv", "det", "norm", "pinv", "eigh", "eigvalsh", "svd", "qr", "lstsq")},
    "solve": "np.linalg.solve(A, b)",
    "cho_solve": "np.linalg.solve(A, b)",
    "cho_factor": "np.linalg.cholesky(A)",
    "cholesky": "np.linalg.cholesky(A), which is lower triangular",
    "expm": "minidiff.derivative with scipy.linalg.expm_frechet",
    "odeint": _ODE,
    "solve_ivp": _ODE,
    "quad": "w @ f(x) with x, w = np.polynomial.legendre.leggauss(n)",
    "interp1d": "np.interp(x, xp, fp)",
    "cdist": "np.linalg.norm(x[:, None] - y, axis=-1)",
    **dict.fromkeys(_SOLVERS.split(), "minidiff.implicit_root(f, z, a), with the solution z for dropgrad(a)"),
}
_DENSITIES = {
    "beta": "logpdf(x, a, b)",
    "chi2": "logpdf(x, df)",
    "dirichlet": "logpdf(x, alpha)",
    "gamma": "logpdf(x, a)",
    "multivariate_normal": "logpdf(x, mean, cov)",
    "norm": "logpdf(x, loc, scale)",
    "poisson": "logpmf(k, mu)",
    "t": "logpdf(x, df, loc, scale)",
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
    words = re.findall(r"\w+", f"{called} {source}")
    if called.startswith("scipy.stats"):
        name = next((word for word in words if word in _DENSITIES), "")
        if name:
            return f"Take autograd.scipy.stats.{name}, by position: {name}.{_DENSITIES[name]}."
        return "Write the logarithm of the density with gammaln, xlogy, … of scipy.special."
    if called.startswith("scipy.fft"):
        return "Take the function of that name in np.fft."
    known = next((_TWINS[word] for word in words if word in _TWINS), "")
    return f"Take {known}." if known else "Take the function of that name in autograd.scipy, if it has one."
