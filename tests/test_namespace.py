"""Every public function of NumPy stands on the page that tells of its derivative, and has that."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from minidiff import dropgrad, gradient

PAGE = (Path(__file__).parent.parent / "tutorials" / "which_numpy.md").read_text(encoding="utf-8")
WITH, INSTEAD, WITHOUT = [
    re.findall(r"`([a-z][\w.]*)`", re.sub(but, "", section, flags=re.MULTILINE))
    for section, but in zip(
        re.split("^## ", PAGE, flags=re.MULTILINE)[1:4],
        (r"^[^`\n].*", r"\|[^|]*\|$", "^$"),  # what is said about the names
        strict=True,
    )
]
PUBLIC = {
    prefix + name: getattr(module, name)
    for prefix, module in {"": np, "linalg.": np.linalg, "fft.": np.fft, "emath.": np.emath}.items()
    for name in module.__all__
    if callable(getattr(module, name, None)) and name[0] != "_"
}
PUBLIC |= {f"ufunc.{name}": f for name, f in vars(np.ufunc).items() if callable(f) and name[0] != "_"}


M = np.array([[0.31, 1.23, -0.74], [0.92, -0.43, 0.57]])  # no ties, no zeros
A = np.cos(np.arange(24.0)).reshape(2, 3, 4) * 2
P, U = np.abs(M) + 0.2, M / 2  # positive, within (-1, 1)
V, W = np.array([0.71, -0.22, 1.63]), np.array([1.13, 0.42, -0.54])
S = np.array([[4.1, 0.3, -0.2], [0.5, 3.2, 0.7], [-0.4, 0.6, 5.3]])
H = S + S.T
Z = M + 0.5j * M[::-1]
HOLED = np.where(M > 1, np.nan, M)
ROWS = [0, 2, 2, 1]

DOMAINS = {
    **dict.fromkeys(("arccosh", "acosh"), P + 1),
    **dict.fromkeys(("arcsin", "asin", "arccos", "acos", "arctanh", "atanh"), U),
    **dict.fromkeys(("log", "log2", "log10", "log1p", "sqrt"), P),
}
BASES = dict.fromkeys(("power", "pow", "float_power"), P)


def of(*arrays, **options):
    return lambda f: (lambda *xs: f(*xs, **options), arrays)


def with_first(first, *arrays, **options):
    return lambda f: (lambda *xs: f(first, *xs, **options), arrays)


def with_last(*last, x=M, **options):
    return lambda f: (lambda x: f(x, *last, **options), (x,))


def changing(*arguments):
    """Change a copy, of which the result is another function."""

    def call(f):
        def changed(x):
            b = x.copy()
            f(b, *arguments)
            return b * x

        return changed, (M,)

    return call


def joined(*arrays, **options):
    return lambda f: (lambda *xs: f(xs, **options), arrays)


def each(names, how):
    return dict.fromkeys(names.split(), how)


# How each function is called that is no ufunc: on arrays under differentiation, and with what else.
CALLS = {
    **each(
        """angle atleast_1d atleast_2d atleast_3d average corrcoef cov cumprod cumsum diagonal diff ediff1d
        fliplr flipud imag max amax mean median min amin nancumprod nancumsum ptp prod ravel real
        real_if_close rot90 sinc sort squeeze std sum trapezoid tril triu var matrix_transpose transpose
        permute_dims trace unwrap fft.fft fft.ifft fft.fft2 fft.ifft2 fft.fftn fft.ifftn fft.rfft
        fft.rfft2 fft.rfftn fft.irfft fft.irfft2 fft.irfftn fft.hfft fft.ihfft fft.fftshift fft.ifftshift
        linalg.norm linalg.matrix_norm linalg.vector_norm linalg.svdvals linalg.diagonal linalg.trace
        linalg.matrix_transpose linalg.pinv nan_to_num copy gradient sort_complex i0 flip
        diagflat""",
        of(M),
    ),
    **each("nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar", of(HOLED, axis=1)),
    **each("linalg.inv linalg.det linalg.cond diag linalg.qr", of(S)),
    **each("cumulative_sum cumulative_prod unstack", of(M, axis=0)),
    **each("percentile nanpercentile", with_last(30)),
    **each("quantile nanquantile", with_last(0.3)),
    **each("array_split split hsplit", with_last(3, x=V)),
    **each("append kron meshgrid outer linalg.outer convolve correlate", of(V, W)),
    **each("cross linalg.cross dot inner vdot polyadd polysub polymul polyval", of(V, W)),
    **each("linspace logspace", of(V, W)),
    "polydiv": of(V, W[:2]),
    **each("trim_zeros poly polyder polyint roots vander", of(V)),
    **each("column_stack concat concatenate dstack hstack stack vstack row_stack", joined(M, M)),
    **each("linalg.matmul tensordot linalg.tensordot", of(S, M.T)),
    "astype": with_last(complex),
    "bincount": with_first(ROWS[:3], V),
    "block": lambda f: (lambda x, y: f([[x, y], [y, x]]), (M, M)),
    "broadcast_arrays": of(M, V),
    "broadcast_to": with_last((2, 2, 3)),
    "choose": lambda f: (lambda x, y: f([0, 1, 0], [x, y]), (V, W)),
    "clip": of(M, -P, P / 2),
    "compress": with_first([True, False, True], V),
    "delete": with_last([0, 2]),
    "dsplit": with_last(2, x=A),
    "einsum": with_first("ij,j->i", M, V),
    "expand_dims": with_last(1),
    "extract": with_first(M > 0, M),
    "full_like": lambda f: (lambda x: f(x, x[0, 0]), (M,)),
    "geomspace": of(P[0, 0], P[0, 1]),
    "histogram2d": lambda f: (lambda x: f([0.1, 0.2, 0.7], [2.0, 1.0, 3.0], bins=2, weights=x)[0], (V,)),
    "histogramdd": lambda f: (lambda x: f([[0.1, 0.2, 0.7]], bins=2, weights=x)[0], (V,)),
    "histogram": lambda f: (lambda x: f([0.1, 0.2, 0.7], bins=2, weights=x)[0], (V,)),
    "insert": lambda f: (lambda x, y: f(x, 1, y), (V, W[0])),
    "interp": lambda f: (lambda x, y: f(x, [0.0, 0.5, 2.0], y), (P, V)),
    "ix_": lambda f: (lambda x: f(x)[0], (V,)),
    "linalg.cholesky": lambda f: (lambda x: f(x @ x.T), (S,)),
    "linalg.eig": lambda f: (lambda x: f(x)[0], (H,)),
    "linalg.eigh": lambda f: (lambda x: f(x)[0], (H,)),
    "linalg.eigvals": of(H),
    "linalg.eigvalsh": of(H),
    "linalg.lstsq": lambda f: (lambda x, y: f(x, y, rcond=None)[0], (S, V)),
    "linalg.matrix_power": with_last(3, x=S),
    "linalg.multi_dot": joined(M, S, S),
    "linalg.slogdet": lambda f: (lambda x: f(x)[1], (S,)),
    "linalg.solve": of(S, V),
    "linalg.svd": lambda f: (lambda x: f(x, full_matrices=False)[1], (S,)),
    "linalg.tensorinv": with_last(1, x=S),
    "linalg.tensorsolve": of(S, V),
    "linalg.vecdot": of(M, V),
    "moveaxis": with_last(0, 1),
    "pad": with_last(1),
    "partition": with_last(1),
    "polyfit": lambda f: (lambda x, y: f(x, y, 1), (V, W)),
    "repeat": with_last(2),
    "reshape": with_last((3, 2)),
    "resize": with_last((2, 2)),
    "roll": with_last(2),
    "rollaxis": with_last(1),
    "select": lambda f: (lambda x, y: f([M > 0, M < -0.5], [x, y]), (M, P)),
    "swapaxes": with_last(0, 1),
    "take": with_last(ROWS),
    "take_along_axis": with_last(np.argsort(M, axis=1), axis=1),
    "tile": with_last((2, 1)),
    "vsplit": with_last(2),
    "unique": of(M),
    **each("unique_all unique_counts unique_inverse", lambda f: (lambda x: f(x).values, (M,))),
    **each("setdiff1d setxor1d union1d", of(V, W)),
    "copyto": changing(P),
    "fill_diagonal": changing(0.5),
    "place": changing(M > 0, [0.3, 0.7]),
    "put": changing([0, 4], [0.3, 0.7]),
    "put_along_axis": changing(np.array([[0], [2]]), 0.3, 1),
    "putmask": changing(M > 0, P),
    "piecewise": lambda f: (lambda x: f(x, [x < 0, x >= 0], [lambda v: -v, lambda v: v**2]), (M,)),
    "apply_along_axis": lambda f: (lambda x: f(lambda v: v * v[0], 1, x), (M,)),
    "apply_over_axes": lambda f: (lambda x: f(np.sum, x, [0, -1]), (A,)),
    **each("emath.arccos emath.arcsin emath.arctanh", of(2 * M)),
    **each("emath.log emath.log10 emath.log2 emath.sqrt", of(M)),
    "emath.logn": with_first(2.5, M),
    "emath.power": with_last(1.7),
    "histogram_bin_edges": with_last(3),
    "where": with_first(M > 0, M, P),
}
CALLS["tensordot"] = CALLS["linalg.tensordot"] = of(S, M.T, axes=1)


def ufunc(name, f):
    if f.signature:
        arrays = {"matmul": (S, M.T), "matvec": (S, V), "vecmat": (V, S), "vecdot": (M, V)}[name]
        return f, arrays
    if name == "ldexp":
        return lambda x: f(x, [1, 2, -1]), (M,)
    if f.nin == 1:
        return f, (DOMAINS.get(name, M),)
    return f, (BASES.get(name, M), V)


def call(name):
    """Give a function of the arrays to differentiate by, and these."""
    f = PUBLIC[name]
    return CALLS[name](f) if name in CALLS else ufunc(name, f)


def number(result):
    """Make a number of what a call gives, in which each element counts differently; NaN does not count."""
    if isinstance(result, (tuple, list)):
        return sum(number(part) * (i + 1) for i, part in enumerate(result))
    weights = np.cos(1.0 + np.arange(np.size(result))).reshape(np.shape(result))
    result = np.where(np.isnan(result), 0, result)
    return np.sum(np.real(result) * weights) + np.sum(
        np.imag(result) * weights[..., ::-1] if np.ndim(result) else 0
    )


def slope(f, arrays, directions, h=1e-4):
    at = lambda t: f(*[a + t * d for a, d in zip(arrays, directions, strict=True)])
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def agrees_with_differences(f, arrays):
    arrays = [np.asarray(a) for a in arrays]
    directions = [np.sin(2.0 + np.arange(a.size)).reshape(a.shape) for a in arrays]
    loss = lambda *xs: number(f(*xs))
    g = gradient(loss, *arrays)
    along = sum(np.sum(h * d) for h, d in zip(g, directions, strict=True) if h is not None)
    np.testing.assert_allclose(along, slope(loss, arrays, directions), rtol=1e-6, atol=1e-8)
    return g


def test_the_page_names_each_public_function_once():
    names = [*WITH, *INSTEAD, *WITHOUT]
    is_number = lambda f: isinstance(f, type) and issubclass(f, np.generic)
    missing = {name for name, f in PUBLIC.items() if not is_number(f)} - set(names)
    assert not missing, "give them a derivative and a call in CALLS, or a line in tutorials/which_numpy.md"
    assert len(names) == len(set(names))


METHODS = [name.removeprefix("ufunc.") for name in WITH if name.startswith("ufunc.")]
HERE = [name for name in WITH if name in PUBLIC and not name.startswith("ufunc.")]  # in this version of NumPy


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", HERE)
def test_a_function_has_the_derivative_of_differences(name):
    f, arrays = call(name)
    g = agrees_with_differences(f, arrays)
    assert any(h is not None for h in g)


UFUNCS = [
    name
    for name in HERE
    if isinstance(f := PUBLIC[name], np.ufunc) and f.nin == 2 and f.nout == 1 and not f.signature
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", UFUNCS)
def test_so_has_each_method_of_a_ufunc(name, method):
    if PUBLIC[name] in (np.arctan2, np.power) and method in ("reduce", "reduceat"):
        with pytest.raises(NotImplementedError, match="an order that depends on its dtype"):
            gradient(lambda x: np.sum(getattr(PUBLIC[name], method)(x, *[[0]] * (method[6:] == "at"))), P)
        return
    method, x = getattr(np.ufunc, method), BASES.get(name, M)
    others = {"reduceat": ([0, 1, 0],), "outer": (V,), "at": ([0, 1, 0], V)}.get(method.__name__, ())

    def f(x):
        if method.__name__ == "outer":
            return method(PUBLIC[name], x, *others)
        if method.__name__ != "at":
            every = [method(PUBLIC[name], x, *others, axis=axis) for axis in range(-1, x.ndim)]
            return np.concatenate([np.ravel(along) for along in every])
        b = x.copy()
        method(PUBLIC[name], b, *others)
        return b

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f(x)
    except TypeError:
        pytest.skip("NumPy has no such loop")
    agrees_with_differences(f, [x])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted({*WITHOUT} & {*PUBLIC}))
def test_a_constant_may_be_asked_of_what_is_under_differentiation(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    f = PUBLIC[name]
    if isinstance(f, type) or name == "test":
        return  # a class, or the tests of NumPy

    def refused(*args):
        try:
            f(*args)
        except Exception as error:
            return str(error)
        return ""

    def loss(x):
        inside.extend([refused(x), refused(x, x)])
        return np.sum(x)

    x = S.copy()  # some write into what they get
    inside, outside = list[str](), [refused(x), refused(x, x)]
    gradient(loss, x)
    assert not any("no gradient" in words and not plain for words, plain in zip(inside, outside, strict=True))


@pytest.mark.parametrize("name", [name for name in sorted(PUBLIC) if name.startswith("save")])
def test_what_writes_a_file_gets_the_plain_value(name, tmp_path):
    assert name in INSTEAD
    path = tmp_path / "array"

    def written(x):
        with path.open("wb") as file:
            PUBLIC[name](file, x)
        return np.sum(x)

    with pytest.raises(NotImplementedError, match=rf"np\.{name} .* np\.save\(path, dropgrad\(x\)\)"):
        gradient(written, S)
    written(S)
    expected = path.read_bytes()
    gradient(lambda x: written(dropgrad(x)) + np.sum(x), S)
    if name.startswith("savez"):  # which notes the time
        np.testing.assert_array_equal(np.load(path)["arr_0"], S)
    else:
        assert path.read_bytes() == expected


def test_the_snippet_about_scipy_runs():
    pytest.importorskip("scipy")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(snippet, {})
