"""The ufuncs of `scipy.special`: what autograd has no derivative for, or none that broadcasts.

It is imported when a value under differentiation meets one of them, so that SciPy is there. All are
elementwise: a rule here is a slope, ``slope(ans, *arguments)``, by which the gradient is multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from minidiff.checks import is_complex
from minidiff.tracing.exact import Exact
from minidiff.tracing.record import PLAIN
from minidiff.tracing.table import COMPOSITES, CONSTANT, Rule, define, is_nowhere, unbroadcast

import_module("autograd.scipy.special")  # its derivatives first: ours take their place
sp: Any = import_module("scipy.special")
_own: Any = import_module("scipy.special._ufuncs")  # what SciPy's functions written in Python call


def _ufunc(name: str) -> Any:
    found = getattr(sp, name, None)
    return found if isinstance(found, np.ufunc) else getattr(_own, name, None)


def _function(name: str, *slopes: Rule) -> None:
    """Enter the slopes of a ufunc of one result, if this SciPy has it."""
    function = _ufunc(name)
    if function is not None:
        define(function, tuple(_elementwise(slope, i) for i, slope in enumerate(slopes)))


def _elementwise(slope: Rule, i: int) -> Rule:
    return lambda g, ans, *arguments: unbroadcast(g * slope(ans, *arguments), arguments[i])


def _pair(name: str, *slopes: Rule) -> None:
    """Enter the slopes of the several results of a ufunc of one argument."""

    def rule(g: Any, ans: Any, x: Any) -> Any:
        # A slope may be infinite whose result nobody has used.
        used = [(h, slope) for h, slope in zip(g, slopes, strict=True) if type(h) not in PLAIN or np.any(h)]
        return sum((h * slope(ans, x) for h, slope in used), anp.zeros_like(x))

    define(getattr(sp, name), (rule,))


def _none(words: str) -> Rule:
    def refuse(*_: Any) -> Any:
        raise NotImplementedError(f"there is none {words}")

    return refuse


_BY_ORDER = _none("by the order")
_BY_PARAMETER = _none("by the parameters, only by the last argument")
_BY_COUNT = _none("by what is a whole number")


def _real(slope: Rule) -> Rule:
    """Refuse complex arguments, of which the function is not holomorphic."""

    def checked(ans: Any, *arguments: Any) -> Any:
        if any(map(is_complex, arguments)):
            raise NotImplementedError("there is none of complex numbers")
        return slope(ans, *arguments)

    return checked


def _over(x: Any, y: Any) -> Any:
    """Divide x by y, which gives 0 where both are 0."""
    both = (x == 0) & (y == 0)
    return anp.where(both, 0.0, np.divide(x, anp.where(both, 1.0, y)))


def _near(x: Any, limit: float, near: Callable[[Any], Any], far: Callable[[Any], Any]) -> Any:
    """Take another formula where |x| < limit, as one that divides by x has lost its digits there."""
    return _split(x, abs(x) < limit, limit, near, far)


def _split(x: Any, is_one: Any, edge: float, one: Callable[[Any], Any], other: Callable[[Any], Any]) -> Any:
    """Take one formula in a part of the range and another elsewhere, both of which hold at its edge."""
    if is_nowhere(is_one):
        return other(x)
    return anp.where(is_one, one(anp.where(is_one, x, edge)), other(anp.where(is_one, edge, x)))


def _ending(density: Rule) -> Rule:
    """Make a density 0 where its last argument is infinite, with all derivatives: a formula has 0 · ∞."""

    def ended(*arguments: Any) -> Any:
        *shapes, x = arguments
        return _split(x, np.isinf(x), 1.0, lambda x: 0.0, lambda x: density(*shapes, x))

    return ended


def _series(x: Any, terms: list[float]) -> Any:
    """Give the sum of a power series."""
    total = 0.0
    for term in reversed(terms):
        total = total * x + term
    return total


def _sinh_over(x: Any) -> Any:
    """Give sinh(x) / x; of real numbers with all derivatives at 0."""
    if x.dtype.kind == "c":
        return _over(np.sinh(x), x) + (x == 0)
    return _near(x, 1, lambda x: np.exp(-x) * sp.exprel(2 * x), lambda x: np.sinh(x) / x)


# --- Derivatives by a parameter -------------------------------------------------------------------------

# Central differences of eighth order. Of a step of a 32nd of the width over which an analytic function
# changes they leave out less than what rounding makes, about 1e-14 of the function itself.
_WEIGHTS = 4 / 5, -1 / 5, 4 / 105, -1 / 280


def _by_difference(name: str, place: int, width: Callable[..., Any]) -> Rule:
    def slope(ans: Any, *arguments: Any) -> Any:
        arguments = tuple(
            [x.astype(np.result_type(x.dtype, float)) if hasattr(x, "dtype") else x for x in arguments]
        )
        step = width(*map(getval, arguments)) / 32
        before, x, after = arguments[:place], arguments[place], arguments[place + 1 :]

        def at(k: int) -> Any:
            return _ufunc(name)(*before, x + k * step, *after)

        return sum(w * (at(k) - at(-k)) for k, w in enumerate(_WEIGHTS, 1)) / step

    return slope


def _width(shape: Any, odds: Any) -> Any:
    """Say over which a distribution function changes with its shape: `odds` is how far in a tail x lies."""
    return np.minimum(shape, 1 / (np.abs(np.log(np.clip(odds, 1e-300, 1e300))) + 1 / np.sqrt(shape)))


# --- Logarithms, entropies, powers ----------------------------------------------------------------------

_function("xlogy", lambda ans, x, y: np.log(y), lambda ans, x, y: _over(x, y))
_function("xlog1py", lambda ans, x, y: np.log1p(y), lambda ans, x, y: _over(x, 1 + y))
_function("entr", lambda ans, x: -np.log(x) - 1)
_function("rel_entr", lambda ans, x, y: np.log(x / y) + 1, lambda ans, x, y: -x / y)
_function("kl_div", lambda ans, x, y: np.log(x / y), lambda ans, x, y: 1 - x / y)
_function("log_expit", lambda ans, x: -np.expm1(ans))
_function("log1p", lambda ans, x: 1 / (1 + x))
_function("expm1", lambda ans, x: np.exp(x))
_function("exp2", lambda ans, x: ans * math.log(2))
_function("exp10", lambda ans, x: ans * math.log(10))
_function("cbrt", lambda ans, x: 1 / (3 * ans * ans))
_function("cosm1", lambda ans, x: -np.sin(x))
_function("exprel", lambda ans, x: _exprel_slope(x))
_function(
    "powm1",
    lambda ans, x, y: y * anp.where((x == 0) & (y == 0), 1.0, x) ** (y - 1.0),
    lambda ans, x, y: sp.xlogy(ans + 1, x),
)


def _exprel_slope(x: Any) -> Any:
    within = np.clip(x, np.finfo(x.dtype).min, 800.0)  # at infinity SciPy does not come to an end
    return sp.hyp1f1(2.0, 3.0, within) / 2


def _box_power(log: Any, power: Any) -> Any:
    # (xᵖ - 1) / p = log x · exprel(p log x), which is -1 / p at x = 0
    at_0 = (log == -np.inf) & (power > 0)
    log, p = anp.where(at_0, 0.0, log), anp.where(at_0, power, 1.0)
    return anp.where(at_0, 1 / (p * p), log * log * _exprel_slope(power * log))


def _enter_box_powers(end: str, log: Any, xlogy: Any) -> None:
    _function(
        f"boxcox{end}",
        lambda ans, x, p: np.exp(xlogy(p - 1, x)),
        lambda ans, x, p: _box_power(log(x), p),
    )
    _function(
        f"inv_boxcox{end}",
        lambda ans, y, p: np.exp(xlogy(1 - p, ans)),
        lambda ans, y, p: -_box_power(log(ans), p) * np.exp(xlogy(1 - p, ans)),
    )


_enter_box_powers("", np.log, sp.xlogy)
_enter_box_powers("1p", np.log1p, sp.xlog1py)
_function(
    "huber",
    lambda ans, d, r: np.maximum(np.abs(r) - d, 0),
    lambda ans, d, r: np.maximum(-d, np.minimum(r, d)),
)
_function(
    "pseudo_huber",
    lambda ans, d, r: 2 * ans / d - r * r / (d * np.sqrt(1 + (r / d) ** 2)),
    lambda ans, d, r: r / np.sqrt(1 + (r / d) ** 2),
)
_function("wrightomega", lambda ans, z: ans / (1 + ans))
_function("_lambertw", lambda ans, z, k, tol: np.exp(-ans) / (1 + ans), _BY_ORDER, _BY_COUNT)
_function("spence", lambda ans, x: _spence_slope(x))


def _spence_slope(x: Any) -> Any:
    """Give log x / (1 - x)."""
    if x.dtype.kind != "c":
        return -1 / sp.exprel(np.log(x))
    terms = [1 / k for k in range(1, 17)]
    return _near(1 - x, 0.1, lambda u: -_series(u, terms), lambda u: np.log(1 - u) / u)


_function("sindg", lambda ans, x: np.pi / 180 * sp.cosdg(x))
_function("cosdg", lambda ans, x: -np.pi / 180 * sp.sindg(x))
_function("tandg", lambda ans, x: np.pi / 180 * (1 + ans * ans))
_function("cotdg", lambda ans, x: -np.pi / 180 * (1 + ans * ans))
_function("radian", *(lambda ans, *_, n=n: np.pi / 180 / n for n in (1, 60, 3600)))
CONSTANT |= {sp.round, sp.gammasgn}

# --- The error function and its kin ---------------------------------------------------------------------

_ROOT = math.sqrt(2 * math.pi)
_bell = _ending(lambda x: np.exp(-x * x / 2))
_of_erf = _ending(lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x))
_function("erf", lambda ans, x: _of_erf(x))
_function("erfc", lambda ans, x: -_of_erf(x))
_function("erfi", lambda ans, x: 2 / math.sqrt(math.pi) * np.exp(x * x))


def _tail(c: Any, a: int, is_far: Callable[[Any], Any]) -> Rule:
    """Make the slope c + a x ans, far out by its series in 1 / x²: there the two are nearly equal."""

    def far(x: Any) -> Any:
        v = -a / 4 / x / x
        return -c * v * _series(v, [1, 3, 15, 105, 945, 10395])

    return lambda ans, x: _split(x, is_far(x), 30.0, far, lambda x: c + a * x * ans)


_function("erfcx", _tail(-2 / math.sqrt(math.pi), 2, lambda x: anp.real(x) > 30))
_function("dawsn", _tail(1, -2, lambda x: abs(anp.real(x)) - abs(anp.imag(x)) > 30))
_function("wofz", _tail(2j / math.sqrt(math.pi), -2, lambda z: (abs(z) > 30) & (anp.imag(z) >= 0)))
_function("ndtr", lambda ans, x: _bell(x) / _ROOT)
_function("ndtri", lambda ans, p: _ROOT * np.exp(ans * ans / 2))
_function("ndtri_exp", lambda ans, y: _ROOT * np.exp(y + ans * ans / 2))
_function(
    "log_ndtr",
    lambda ans, x: _split(
        x, anp.real(x) < -1, -1.0,
        lambda x: 2 / _ROOT / sp.erfcx(-x / math.sqrt(2)), lambda x: _bell(x) / _ROOT / sp.ndtr(x),
    ),
)  # fmt: skip
_function(
    "owens_t",
    lambda ans, h, a: -np.exp(-h * h / 2) * sp.erf(a * h / math.sqrt(2)) / (2 * _ROOT),
    lambda ans, h, a: np.exp(-h * h * (1 + a * a) / 2) / (2 * np.pi * (1 + a * a)),
)
_pair("fresnel", lambda ans, x: np.sin(np.pi / 2 * x * x), lambda ans, x: np.cos(np.pi / 2 * x * x))
_pair("sici", lambda ans, x: np.sinc(x / np.pi), lambda ans, x: np.cos(x) / x)
_pair("shichi", lambda ans, x: _sinh_over(x), lambda ans, x: np.cosh(x) / x)
_function("exp1", lambda ans, x: -np.exp(-x) / x)
_function("expi", lambda ans, x: np.exp(x) / x)
_function(
    "expn",
    _BY_ORDER,
    lambda ans, n, x: -anp.where(n < 1, ans * (1 + 1 / x), sp.expn(np.maximum(np.trunc(n), 1) - 1, x)),
)

# --- Gamma and beta functions and their distributions ---------------------------------------------------


_function("psi", _real(lambda ans, x: _own._zeta(2.0, x)))
_function("loggamma", lambda ans, z: sp.psi(z))
_function("gammaln", lambda ans, x: sp.psi(x))
_function("gamma", lambda ans, x: ans * sp.psi(x))


def _rgamma_slope(x: Any) -> Any:
    """Give the slope of 1 / Γ(x), to the left by the reflection Γ(1 - x) sin(πx) / π, which has no poles."""
    is_left = np.real(getval(x)) < 0.5
    right, left = anp.where(is_left, 1.0, x), anp.where(is_left, 1.0 - x, 1.0)
    turn = np.pi * (x - 2 * np.round(np.real(getval(x)) / 2))  # x less its period, with all its digits
    by_reflection = sp.gamma(left) * (np.cos(turn) - np.sin(turn) * sp.psi(left) / np.pi)
    return anp.where(is_left, by_reflection, -sp.psi(right) * sp.rgamma(right))


def _is_pole(x: Any) -> Any:
    """Tell where Γ has a pole."""
    x = getval(x)
    return (x <= 0) & (x == np.round(x))


def _binom_slope(ans: Any, n: Any, k: Any, by_n: bool) -> Any:
    """Give the slope of Γ(n + 1) / (Γ(k + 1) Γ(n - k + 1)): at a pole of the latter by those of 1 / Γ."""
    n, k, rest = n + 1.0, k + 1.0, n - k + 1.0
    at_pole = _is_pole(rest) if by_n else _is_pole(rest) | _is_pole(k)
    k_, rest_ = anp.where(at_pole, 1.0, k), anp.where(at_pole, 1.0, rest)
    slope = ans * (sp.psi(n if by_n else rest_) - sp.psi(rest_ if by_n else k_))
    if is_nowhere(at_pole):
        return slope
    n, k, rest = (anp.where(at_pole, x, 1.0) for x in (n, k, rest))
    there = -sp.gamma(n) * sp.rgamma(k) * _rgamma_slope(rest)
    if by_n:
        return anp.where(at_pole, ans * sp.psi(n) - there, slope)
    return anp.where(at_pole, sp.gamma(n) * _rgamma_slope(k) * sp.rgamma(rest) + there, slope)


_function("rgamma", lambda ans, x: _rgamma_slope(x))


def _psi_between(x: Any, y: Any) -> Any:
    """Give ψ(x) - ψ(y): where both are at poles the limit as both grow, by the reflection ψ(1 - x)."""
    at_poles = _is_pole(x) & _is_pole(y)
    if not is_nowhere(at_poles):
        x, y = anp.where(at_poles, 1.0 - x, x), anp.where(at_poles, 1.0 - y, y)
    return sp.psi(x) - sp.psi(y)


def _ratio_slope(ans: Any, x: Any, y: Any, factor: Any = 1.0) -> Any:
    """Give the slope of factor · Γ(x) / Γ(y) as both grow."""
    at_pole = _is_pole(y) & ~_is_pole(x)
    if is_nowhere(at_pole):
        return ans * _psi_between(x, y)
    there = factor * sp.gamma(x) * (sp.psi(x) * sp.rgamma(y) + _rgamma_slope(y))
    return anp.where(at_pole, there, ans * _psi_between(x, anp.where(at_pole, 1.0, y)))


_function(
    "poch",
    lambda ans, z, m: _ratio_slope(ans, z + m, z),
    lambda ans, z, m: ans * sp.psi(z + m),
)
_function(
    "beta",
    lambda ans, a, b: _ratio_slope(ans, a, a + b, sp.gamma(b)),
    lambda ans, a, b: _ratio_slope(ans, b, a + b, sp.gamma(a)),
)
_function("betaln", lambda ans, a, b: _psi_between(a, a + b), lambda ans, a, b: _psi_between(b, a + b))
_function(
    "binom",
    lambda ans, n, k: _binom_slope(ans, n, k, True),
    lambda ans, n, k: _binom_slope(ans, n, k, False),
)


def _from_pole(x: Any, *_: Any) -> Any:
    return np.minimum(1.0, np.abs(x - 1) / 2)


_function("zetac", _by_difference("zetac", 0, _from_pole))
_function("_riemann_zeta", _by_difference("zetac", 0, _from_pole))
_function("_zeta", _by_difference("_zeta", 0, _from_pole), lambda ans, x, q: -x * _own._zeta(x + 1, q))


# At the ends powers have the derivatives that their logarithms lose; elsewhere they may overflow.
@_ending
def _gamma_density(a: Any, x: Any) -> Any:
    return _split(
        x, x == 0, 1.0,
        lambda x: np.power(x, a - 1) * np.exp(-x - sp.gammaln(a)),
        lambda x: np.exp(sp.xlogy(a - 1, x) - x - sp.gammaln(a)),
    )  # fmt: skip


def _beta_density(a: Any, b: Any, x: Any) -> Any:
    return _split(
        x, (x == 0) | (x == 1), 0.5,
        lambda x: np.power(x, a - 1) * np.power(1 - x, b - 1) * np.exp(-sp.betaln(a, b)),
        lambda x: np.exp(sp.xlogy(a - 1, x) + sp.xlog1py(b - 1, -x) - sp.betaln(a, b)),
    )  # fmt: skip


@_ending
def _t_density(df: Any, t: Any) -> Any:
    half = (df + 1) / 2
    return np.exp(sp.gammaln(half) - sp.gammaln(df / 2) - half * np.log1p(t * t / df)) / np.sqrt(np.pi * df)


def _gamma_by_shape(name: str) -> Rule:
    return _by_difference(name, 0, lambda a, x: _width(a, x / a))


def _beta_by_shapes(name: str) -> tuple[Rule, Rule]:
    return (
        _by_difference(name, 0, lambda a, b, x: _width(a, x * (a + b) / a)),
        _by_difference(name, 1, lambda a, b, x: _width(b, (1 - x) * (a + b) / b)),
    )


_by_shape = _gamma_by_shape("gammainc")
_by_a, _by_b = _beta_by_shapes("betainc")
_function("gammainc", _by_shape, lambda ans, a, x: _gamma_density(a, x))
_function("gammaincc", _gamma_by_shape("gammaincc"), lambda ans, a, x: -_gamma_density(a, x))
_function("betainc", _by_a, _by_b, lambda ans, a, b, x: _beta_density(a, b, x))
_function("betaincc", *_beta_by_shapes("betaincc"), lambda ans, a, b, x: -_beta_density(a, b, x))
# Where F(a, x) = p, dx = (dp - F_a da) / F_x.
for _name, _sign in {"gammaincinv": 1, "gammainccinv": -1}.items():
    _function(
        _name,
        lambda ans, a, p: -_over(_by_shape(p, a, ans), _gamma_density(a, ans)),
        lambda ans, a, p, s=_sign: s / _gamma_density(a, ans),
    )
for _name, _sign in {"betaincinv": 1, "betainccinv": -1}.items():
    _function(
        _name,
        lambda ans, a, b, p: -_over(_by_a(p, a, b, ans), _beta_density(a, b, ans)),
        lambda ans, a, b, p: -_over(_by_b(p, a, b, ans), _beta_density(a, b, ans)),
        lambda ans, a, b, p, s=_sign: s / _beta_density(a, b, ans),
    )
_by_df = _by_difference("stdtr", 0, lambda df, t: df / 2)
_function("stdtr", _by_df, lambda ans, df, t: _t_density(df, t))
_function(
    "stdtrit",
    lambda ans, df, p: -_by_df(p, df, ans) / _t_density(df, ans),
    lambda ans, df, p: 1 / _t_density(df, ans),
)


def _binomial(k: Any, n: Any, p: Any) -> Any:
    """Give how fast the share of at most k of n successes falls with their probability."""
    return _beta_density(np.floor(k) + 1, np.trunc(n) - np.floor(k), p)


def _waiting(k: Any, n: Any, p: Any) -> Any:
    """Give how fast the share of at most k failures before the n-th success grows with their probability."""
    return _beta_density(np.trunc(n), np.floor(k) + 1, p)


_function("bdtr", _BY_COUNT, _BY_COUNT, lambda ans, k, n, p: -_binomial(k, n, p))
_function("bdtrc", _BY_COUNT, _BY_COUNT, lambda ans, k, n, p: _binomial(k, n, p))
_function("bdtri", _BY_COUNT, _BY_COUNT, lambda ans, k, n, y: -1 / _binomial(k, n, ans))
_function("nbdtr", _BY_COUNT, _BY_COUNT, lambda ans, k, n, p: _waiting(k, n, p))
_function("nbdtrc", _BY_COUNT, _BY_COUNT, lambda ans, k, n, p: -_waiting(k, n, p))
_function("nbdtri", _BY_COUNT, _BY_COUNT, lambda ans, k, n, y: 1 / _waiting(k, n, ans))
_function("pdtr", _BY_COUNT, lambda ans, k, m: -_gamma_density(np.floor(k) + 1, m))
_function("pdtrc", _BY_COUNT, lambda ans, k, m: _gamma_density(np.floor(k) + 1, m))
_function("pdtri", _BY_COUNT, lambda ans, k, y: -1 / _gamma_density(np.floor(k) + 1, ans))


def _tukey(slope: Callable[[Any, Any], Any]) -> Rule:
    def within(ans: Any, x: Any, p: Any) -> Any:  # outside of its range the function is 0 or 1
        outside = (ans == 0) | (ans == 1)
        return anp.where(outside, 0.0, slope(anp.where(outside, 0.5, ans), p))

    return within


def _tukey_by_shape(F: Any, p: Any) -> Any:
    # Where Q(F, p) = x, dF = -Q_p dp / Q_F; Q is (Fᵖ - (1 - F)ᵖ) / p.
    by_p = _box_power(np.log(F), p) - _box_power(np.log1p(-F), p)
    return -by_p / (F ** (p - 1) + (1 - F) ** (p - 1))


_function("tklmbda", _tukey(lambda F, p: 1 / (F ** (p - 1) + (1 - F) ** (p - 1))), _tukey(_tukey_by_shape))

_WRITTEN: dict[Any, Callable[..., Any]] = {
    sp.chdtr: lambda v, x: sp.gammainc(v / 2, x / 2),
    sp.chdtrc: lambda v, x: sp.gammaincc(v / 2, x / 2),
    sp.chdtri: lambda v, p: 2 * sp.gammainccinv(v / 2, p),
    sp.fdtr: lambda m, n, x: sp.betainc(m / 2, n / 2, m * x / (n + m * x)),
    sp.fdtrc: lambda m, n, x: sp.betainc(n / 2, m / 2, n / (n + m * x)),
    sp.gdtr: lambda a, b, x: sp.gammainc(b, a * x),
    sp.gdtrc: lambda a, b, x: sp.gammaincc(b, a * x),
    sp.gdtria: lambda p, b, x: sp.gammaincinv(b, p) / x,
    sp.gdtrix: lambda a, b, p: sp.gammaincinv(b, p) / a,
    sp.nrdtrimn: lambda p, sd, x: x - sd * sp.ndtri(p),
    sp.nrdtrisd: lambda mean, p, x: (x - mean) / sp.ndtri(p),
    sp.voigt_profile: lambda x, s, y: np.real(sp.wofz((x + 1j * y) / (s * math.sqrt(2)))) / (s * _ROOT),
}
COMPOSITES |= {function: Exact(function, composition) for function, composition in _WRITTEN.items()}

# --- Bessel functions, by their argument ----------------------------------------------------------------


def _bessel(name: str, below: float, above: float, rest: Rule = lambda ans, v, z: 0, of: str = "") -> None:
    """Enter the slope (below · f(v-1, z) + above · f(v+1, z)) / 2 and a rest, of f or another function."""
    f = getattr(sp, of or name)

    def slope(ans: Any, v: Any, z: Any) -> Any:
        v = np.trunc(v) if of else v  # these take the whole part of an order
        return (below * f(v - 1.0, z) + above * f(v + 1.0, z)) / 2 + rest(ans, v, z)

    _function(name, _BY_ORDER, slope)


def _struve_rest(ans: Any, v: Any, x: Any) -> Any:
    return (x / 2) ** v * sp.rgamma(v + 1.5) / (2 * math.sqrt(math.pi))


_bessel("jv", 1, -1)
_bessel("yv", 1, -1)
_bessel("yn", 1, -1, of="yv")
_bessel("iv", 1, 1)
_bessel("kv", -1, -1)
_bessel("kn", -1, -1, of="kv")
_bessel("hankel1", 1, -1)
_bessel("hankel2", 1, -1)
_bessel("struve", 1, -1, _struve_rest)
_bessel("modstruve", 1, 1, _struve_rest)
# Those scaled by e to the power of x, of ∓ix, of minus |x| and minus |Im x|.
_bessel("kve", -1, -1, lambda ans, v, z: ans)
_bessel("hankel1e", 1, -1, lambda ans, v, z: -1j * ans)
_bessel("hankel2e", 1, -1, lambda ans, v, z: 1j * ans)
_bessel("ive", 1, 1, _real(lambda ans, v, x: -np.sign(x) * ans))
_bessel("jve", 1, -1, _real(lambda ans, v, x: 0))
_bessel("yve", 1, -1, _real(lambda ans, v, x: 0))
_function("j0", lambda ans, x: -sp.j1(x))
_function("y0", lambda ans, x: -sp.y1(x))
_function("i0", lambda ans, x: sp.i1(x))
_function("k0", lambda ans, x: -sp.k1(x))
_function("j1", lambda ans, x: (sp.j0(x) - sp.jv(2, x)) / 2)
_function("y1", lambda ans, x: (sp.y0(x) - sp.yv(2, x)) / 2)
_function("i1", lambda ans, x: (sp.i0(x) + sp.iv(2, x)) / 2)
_function("k1", lambda ans, x: -(sp.k0(x) + sp.kv(2, x)) / 2)
_function("i0e", lambda ans, x: sp.i1e(x) - np.sign(x) * ans)
_function("i1e", lambda ans, x: (sp.i0e(x) + sp.ive(2, x)) / 2 - np.sign(x) * ans)
_function("k0e", lambda ans, x: ans - sp.k1e(x))
_function("k1e", lambda ans, x: ans - (sp.k0e(x) + sp.kve(2, x)) / 2)


def _spherical(name: str, below: int, above: int) -> None:
    def slope(ans: Any, n: Any, z: Any) -> Any:
        f = getattr(_own, name)
        return (below * n * f(np.maximum(n - 1, 0), z) + above * (n + 1) * f(n + 1, z)) / (2 * n + 1)

    _function(name, _BY_ORDER, slope)


_spherical("_spherical_jn", 1, -1)
_spherical("_spherical_yn", 1, -1)
_spherical("_spherical_in", 1, 1)
_spherical("_spherical_kn", -1, -1)


_function("itstruve0", lambda ans, x: sp.struve(0, x))


def _bessel_over(x: Any, sign: int) -> Any:
    """Give (1 - J₀(x)) / x, or with the sign -1 (I₀(x) - 1) / x."""
    terms = [(-sign) ** k / (4 ** (k + 1) * math.factorial(k + 1) ** 2) for k in range(10)]
    far = (lambda x: (1 - sp.j0(x)) / x) if sign > 0 else (lambda x: (sp.i0(x) - 1) / x)
    return _near(x, 1, lambda x: x * _series(x * x, terms), far)


def _struve_over(x: Any) -> Any:
    """Give H₀(x) / x."""
    terms = [2 / np.pi * (-1) ** k / math.prod(range(1, 2 * k + 2, 2)) ** 2 for k in range(10)]
    return _near(x, 1, lambda x: _series(x * x, terms), lambda x: sp.struve(0, x) / x)


_function("it2struve0", lambda ans, x: -_struve_over(x))
_function("itmodstruve0", lambda ans, x: sp.modstruve(0, x))
_pair("itj0y0", lambda ans, x: sp.j0(x), lambda ans, x: sp.y0(x))
_pair("iti0k0", lambda ans, x: sp.i0(x), lambda ans, x: sp.k0(x))
_pair("it2j0y0", lambda ans, x: _bessel_over(x, 1), lambda ans, x: -sp.y0(x) / x)
_pair("it2i0k0", lambda ans, x: _bessel_over(x, -1), lambda ans, x: -sp.k0(x) / x)
_pair(
    "airy",
    lambda ans, z: ans[1],
    lambda ans, z: z * ans[0],
    lambda ans, z: ans[3],
    lambda ans, z: z * ans[2],
)


def _kelvin(name: str, second: Callable[[Any], Any]) -> None:
    _function(name, lambda ans, x: getattr(sp, f"{name}p")(x))
    _function(f"{name}p", lambda ans, x: second(x))


# ber x + i bei x = J₀(wx) with w² = -i.
_W = np.exp(0.75j * np.pi)
_kelvin("ber", lambda x: np.imag(sp.jv(2, _W * x) - sp.jv(0, _W * x)) / 2)
_kelvin("bei", lambda x: -np.real(sp.jv(2, _W * x) - sp.jv(0, _W * x)) / 2)
_kelvin("ker", lambda x: -sp.kei(x) - sp.kerp(x) / x)
_kelvin("kei", lambda x: sp.ker(x) - sp.keip(x) / x)

# --- Hypergeometric functions, orthogonal polynomials, elliptic integrals -------------------------------

_function("hyp0f1", _BY_PARAMETER, lambda ans, v, z: sp.hyp0f1(v + 1, z) / v)
_function("hyp1f1", *[_BY_PARAMETER] * 2, lambda ans, a, b, z: _over(a, b) * sp.hyp1f1(a + 1, b + 1, z))
_function("hyperu", *[_BY_PARAMETER] * 2, lambda ans, a, b, x: -a * sp.hyperu(a + 1, b + 1, x))
_function(
    "hyp2f1",
    *[_BY_PARAMETER] * 3,
    lambda ans, a, b, c, z: _over(a * b, c) * sp.hyp2f1(anp.where(a * b == 0, 0.0, a + 1), b + 1, c + 1, z),
)
_function("wright_bessel", *[_BY_PARAMETER] * 2, lambda ans, a, b, x: sp.wright_bessel(a, a + b, x))
_function(
    "log_wright_bessel",
    *[_BY_PARAMETER] * 2,
    lambda ans, a, b, x: np.exp(sp.log_wright_bessel(a, a + b, x) - ans),
)


def _below(n: Any) -> Any:
    """Give the order below n, but 0 for 0, whose slope is 0."""
    return n - (n != 0)


def _jacobi(n: Any, a: Any, b: Any, x: Any) -> Any:
    slope = (n + a + b + 1) / 2 * sp.eval_jacobi(_below(n), a + 1, b + 1, x)
    return anp.where(n == 0, 0.0, slope)


def _legendre(n: Any, x: Any) -> Any:
    return _jacobi(np.maximum(n, -n - 1), 0, 0, x)


def _gegenbauer(n: Any, a: Any, x: Any) -> Any:
    return anp.where(n == 0, 0.0, 2 * a * sp.eval_gegenbauer(_below(n), a + 1, x))


def _lower(name: str, factor: float) -> Rule:
    """Give the slope factor · n · f(n - 1, x)."""
    return lambda ans, n, x: factor * n * getattr(sp, name)(_below(n), x)


_function("eval_jacobi", *[_BY_PARAMETER] * 3, lambda ans, n, a, b, x: _jacobi(n, a, b, x))
_function(
    "eval_sh_jacobi",
    *[_BY_PARAMETER] * 3,
    lambda ans, n, p, q, x: 2 * _jacobi(n, p - q, q - 1, 2 * x - 1) / sp.binom(2 * n + p - 1, n),
)
_function("eval_legendre", _BY_ORDER, lambda ans, n, x: _legendre(n, x))
_function("eval_sh_legendre", _BY_ORDER, lambda ans, n, x: 2 * _legendre(n, 2 * x - 1))
_function("eval_gegenbauer", *[_BY_PARAMETER] * 2, lambda ans, n, a, x: _gegenbauer(n, a, x))
_function("eval_chebyt", _BY_ORDER, _lower("eval_chebyu", 1))
_function("eval_sh_chebyt", _BY_ORDER, _lower("eval_sh_chebyu", 2))
_function("eval_chebyc", _BY_ORDER, _lower("eval_chebys", 1))
_function("eval_chebyu", _BY_ORDER, lambda ans, n, x: _gegenbauer(n, 1, x))
_function("eval_sh_chebyu", _BY_ORDER, lambda ans, n, x: 2 * _gegenbauer(n, 1, 2 * x - 1))
_function("eval_chebys", _BY_ORDER, lambda ans, n, x: _gegenbauer(n, 1, x / 2) / 2)
_function("eval_hermite", _BY_ORDER, _lower("eval_hermite", 2))
_function("eval_hermitenorm", _BY_ORDER, _lower("eval_hermitenorm", 1))


def _laguerre(n: Any, a: Any, x: Any) -> Any:
    return anp.where(n == 0, 0.0, -sp.eval_genlaguerre(_below(n), a + 1, x))


_function("eval_laguerre", _BY_ORDER, lambda ans, n, x: _laguerre(n, 0, x))
_function("eval_genlaguerre", *[_BY_PARAMETER] * 2, lambda ans, n, a, x: _laguerre(n, a, x))
_function(
    "lpmv",
    *[_BY_PARAMETER] * 2,
    lambda ans, m, v, x: (v * x * ans - (v + m) * sp.lpmv(m, v - 1, x)) / (x * x - 1),
)

_function("ellipk", lambda ans, m: (ans - sp.elliprd(0.0, 1 - m, 1.0) / 3) / (2 * (1 - m)))
_function("ellipkm1", lambda ans, p: -(ans - sp.elliprd(0.0, p, 1.0) / 3) / (2 * p))
_function("ellipe", lambda ans, m: -sp.elliprd(0.0, 1 - m, 1.0) / 6)


def _slope_by_m(f: Any, m: Any, integral: Any) -> Any:
    """Give a slope by m near 0, where the others divide by m: by Carlson's R_D, from the nearest kπ."""
    k = np.round(getval(f) / np.pi)
    s, c = np.sin(f - k * np.pi), np.cos(f - k * np.pi)
    return (s**3 * integral(c * c, 1 - m * s * s) + 2 * k * integral(0.0, 1 - m)) / 6


def _first_kind(ans: Any, f: Any, m: Any) -> Any:
    def far(m: Any) -> Any:
        root = np.sqrt(1 - m * np.sin(f) ** 2)
        return (sp.ellipeinc(f, m) / (1 - m) - ans) / (2 * m) - np.sin(2 * f) / (4 * (1 - m) * root)

    return _near(m, 1e-3, lambda m: _slope_by_m(f, m, lambda c, q: sp.elliprd(c, 1.0, q)), far)


def _second_kind(ans: Any, f: Any, m: Any) -> Any:
    return _near(
        m,
        1e-3,
        lambda m: -_slope_by_m(f, m, lambda c, q: sp.elliprd(c, q, 1.0)),
        lambda m: (ans - sp.ellipkinc(f, m)) / (2 * m),
    )


_function("ellipkinc", lambda ans, f, m: 1 / np.sqrt(1 - m * np.sin(f) ** 2), _first_kind)
_function("ellipeinc", lambda ans, f, m: np.sqrt(1 - m * np.sin(f) ** 2), _second_kind)


def _by_carlson(x: Any, y: Any, integral: Callable[[Any, Any], Any], times: Any) -> Any:
    """Give a slope of R_C: of a principal value, where y < 0, the other formula, which divides by y - x."""
    is_principal = y < 0
    if is_nowhere(is_principal):
        return integral(x, y)
    return anp.where(is_principal, times / (y - x), integral(x, anp.where(is_principal, 1.0, y)))


_function(
    "elliprc",
    lambda ans, x, y: _by_carlson(x, y, lambda x, y: -sp.elliprd(y, y, x) / 6, (ans - 1 / np.sqrt(x)) / 2),
    lambda ans, x, y: _by_carlson(x, y, lambda x, y: -sp.elliprd(x, y, y) / 3, (np.sqrt(x) / y - ans) / 2),
)
_function(
    "elliprf",
    lambda ans, x, y, z: -sp.elliprd(y, z, x) / 6,
    lambda ans, x, y, z: -sp.elliprd(z, x, y) / 6,
    lambda ans, x, y, z: -sp.elliprd(x, y, z) / 6,
)
# In each argument they change over a width of its own size.
for _name in ("elliprd", "elliprg", "elliprj", "agm"):
    _nin = getattr(sp, _name).nin
    _function(_name, *(_by_difference(_name, i, lambda *xs, i=i: np.abs(xs[i])) for i in range(_nin)))
