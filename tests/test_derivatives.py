"""Each direct rule is autograd's own, in value and in its derivative; at ties and ends it is fair."""

import warnings

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
import scipy.special
from autograd.core import primitive_vjps
from autograd.tracer import trace_primitives_map, trace_stack
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidiff import gradient, hvp, param, params, pullback
from minidiff.tracing.derivatives import RULES

REAL = ["float16", "float32", "float64"]
ALL = [*REAL, "complex64", "complex128"]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


def numbers(draw, shape, dtype, low=-16, high=16):
    """Eighths, so that ties are common; a 0-d one is an array or a scalar, as results are."""
    x = draw(hnp.arrays("int16", shape, elements=st.integers(low, high))) / np.float64(8)
    x = (x + 1j * x[::-1] if dtype[0] == "c" and x.ndim else x).astype(dtype)
    return x[()] if x.ndim == 0 and draw(st.booleans()) else x


def one(dtypes=ALL, low=-16, high=16):
    return lambda draw: ((numbers(draw, draw(shapes), draw(st.sampled_from(dtypes)), low, high),), {})


def two(dtypes=ALL, low=-16, high=16):
    def draw_case(draw):
        a, b = draw(
            hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=4)
        ).input_shapes
        dtype = draw(st.sampled_from(dtypes))
        other = draw(st.sampled_from([dtype, dtype, *dtypes]))
        return (numbers(draw, a, dtype, low, high), numbers(draw, b, other, low, high)), {}

    return draw_case


def ldexp(draw):
    (x, y), _ = two(REAL)(draw)
    return (x, y.astype(int)), {}


def fourier(dtypes=ALL[1:]):
    def draw_case(draw):
        shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=2, max_side=6))
        shape = (*shape[:-1], shape[-1] // 2 * 2)  # autograd has even lengths only
        return (numbers(draw, shape, draw(st.sampled_from(dtypes))),), {}

    return draw_case


def reshape(draw):
    x = numbers(draw, draw(shapes), draw(st.sampled_from(ALL)))
    order = draw(st.sampled_from(["C", "F"]))
    return draw(
        st.sampled_from([((x, x.size), {"order": order}), ((x, (1, x.size)), {}), ((x, x.shape, order), {})])
    )


def ravel(draw):
    x = numbers(draw, draw(shapes), draw(st.sampled_from(ALL)))
    return draw(st.sampled_from([((x,), {}), ((x, "F"), {}), ((x,), {"order": "F"})]))


def power(draw):
    x, y = two(low=1, high=16)(draw)[0]
    return draw(st.sampled_from([(x, y), (x, 2), (x, 3.0), (x, 0), (x, -1), (x, 1), (2.0, y)])), {}


def matmul(draw):
    result = draw(
        hnp.mutually_broadcastable_shapes(
            signature="(n?,k),(k,m?)->(n?,m?)", min_side=0, max_side=3, max_dims=2
        )
    )
    dtype = draw(st.sampled_from(ALL))
    return tuple(numbers(draw, shape, dtype) for shape in result.input_shapes), {}


def dot(draw):
    """Of arrays of one dimension or more: of scalars autograd's rule is wrong."""
    n, dtype = draw(st.integers(1, 3)), draw(st.sampled_from(ALL))
    a = (*draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)), n)
    b = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    b = (*b[:-1], n, *b[-1:])
    return (numbers(draw, a, dtype), numbers(draw, b, dtype)), {}


def outer(draw):
    dtype = draw(st.sampled_from(ALL))
    a, b = (draw(hnp.array_shapes(min_dims=1, max_dims=1, min_side=0, max_side=3)) for _ in range(2))
    return (numbers(draw, a, dtype), numbers(draw, b, dtype)), {}


def tensordot(draw):
    dtype, k = draw(st.sampled_from(ALL)), draw(st.integers(0, 2))
    n = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    shared = draw(hnp.array_shapes(min_dims=k, max_dims=k, max_side=3)) if k else ()
    m = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    x, y = numbers(draw, (*n, *shared), dtype), numbers(draw, (*shared, *m), dtype)
    if not (n and m) or draw(st.booleans()):
        return (np.asarray(x), np.asarray(y), k), {}
    # The same sum, with the axes of both in any order.
    ours, theirs = (draw(st.permutations(range(a.ndim))) for a in (x, y))
    pairs = draw(st.permutations(range(k)))
    axes = ([ours.index(len(n) + i) for i in pairs], [theirs.index(i) - y.ndim for i in pairs])
    return (x.transpose(ours), y.transpose(theirs), axes), {}


def where(draw):
    """The condition may broadcast; of choices that do, autograd's rule is wrong."""
    shape, dtype = draw(shapes), draw(st.sampled_from(ALL))
    narrowed = [n if draw(st.booleans()) else 1 for n in shape][draw(st.integers(0, len(shape))) :]
    return (draw(hnp.arrays(bool, narrowed)), numbers(draw, shape, dtype), numbers(draw, shape, dtype)), {}


def clip(draw):
    (x,), _ = one(REAL)(draw)
    return (x, -0.5, 0.5), {}


def reduction(dtypes=ALL, min_side=0, low=-16):
    def draw_case(draw):
        shape = draw(shapes.filter(lambda s: min(s, default=1) >= min_side))
        x = numbers(draw, shape, draw(st.sampled_from(dtypes)), low)
        axes = st.none() | (
            hnp.valid_tuple_axes(len(shape)) | st.integers(-len(shape), len(shape) - 1)
            if shape
            else st.none()
        )
        axis, options = draw(axes), draw(st.sampled_from([{}, {"keepdims": True}, {"keepdims": False}]))
        return draw(st.sampled_from([((x, axis), options), ((x,), {"axis": axis, **options})]))

    return draw_case


def spread(draw):
    """Of numbers of which none are equal, where autograd's derivative of `std` would be nan."""
    x = numbers(draw, draw(hnp.array_shapes(max_dims=3, min_side=2, max_side=3)), "float64")
    axes = st.none() | st.integers(-x.ndim, x.ndim - 1) | hnp.valid_tuple_axes(x.ndim, min_size=1)
    options = st.sampled_from([{}, {"ddof": 1}, {"keepdims": True}, {"ddof": 0.5, "keepdims": True}])
    return (x + 8.0 * np.arange(x.size).reshape(x.shape), draw(axes)), draw(options)


def matrices(draw):
    n, dtype = draw(st.integers(0, 3)), draw(st.sampled_from(["float64", "complex128"]))
    x = numbers(draw, (*draw(hnp.array_shapes(min_dims=0, max_dims=1, max_side=2)), n, n), dtype)
    return (x + 9 * np.eye(n),), {}


def diagonal(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3))
    return (numbers(draw, (*shape, shape[-1]), "float64"), 0, -1, -2), {}


def equations(draw):
    """Of one matrix: of a vector and several matrices autograd's rule is wrong."""
    A = matrices(draw)[0][0]
    A = A if A.ndim == 2 else A[0]
    shape = draw(st.sampled_from([A.shape[:1], (A.shape[0], 2)]))
    return (A, numbers(draw, shape, A.dtype.name)), {}


def cumsum(draw):
    (x,), _ = one()(draw)
    return (x, draw(st.none() | st.integers(-x.ndim, x.ndim - 1)) if x.ndim else None), {}


def shaped(f):
    """Of an array with two dimensions or more, and what follows it among the arguments."""

    def draw_case(draw):
        x = numbers(
            draw,
            draw(hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=3)),
            draw(st.sampled_from(ALL)),
        )
        axis = st.integers(-x.ndim, x.ndim - 1)
        return (x, *f(draw, x, axis)), {}

    return draw_case


def squeeze(draw):
    x = numbers(draw, draw(hnp.array_shapes(max_side=3)), draw(st.sampled_from(ALL)))[None, ..., None]
    return draw(st.sampled_from([((x,), {}), ((x, 0), {}), ((x,), {"axis": -1}), ((x, (0, -1)), {})]))


CASES = {
    **dict.fromkeys((np.add, np.subtract, np.multiply), two()),
    np.divide: two(low=1),
    np.power: power,
    **dict.fromkeys((np.maximum, np.minimum, np.logaddexp, np.logaddexp2), two(REAL)),
    np.arctan2: two(REAL, low=1),
    **dict.fromkeys((np.fft.fft, np.fft.ifft, np.fft.irfft), fourier()),
    np.fft.rfft: fourier(REAL[1:]),
    np.reshape: reshape,
    np.ravel: ravel,
    np.angle: one(low=1),
    **dict.fromkeys((np.hypot, np.fmod), two(REAL, low=1)),
    **dict.fromkeys((np.copysign, np.heaviside, np.nextafter), two(REAL)),
    np.ldexp: ldexp,
    **dict.fromkeys((np.negative, np.square, np.exp, np.expm1, np.sin, np.cos, np.tanh, np.positive), one()),
    **dict.fromkeys((np.real, np.real_if_close, np.imag, np.conjugate), one()),
    **dict.fromkeys((np.arcsin, np.arccos), one(low=-7, high=7)),
    np.arccosh: one(low=9),
    **dict.fromkeys((np.cbrt, np.i0, np.sinc), one(REAL, low=1)),
    **dict.fromkeys((np.reciprocal, np.log, np.log1p, np.sqrt), one(low=1)),
    np.matmul: matmul,
    np.dot: dot,
    np.outer: outer,
    np.tensordot: tensordot,
    np.where: where,
    np.clip: clip,
    np.abs: one(),
    np.fabs: one(REAL),
    np.nan_to_num: one(),
    np.sum: reduction(),
    **dict.fromkeys((np.var, np.std), spread),
    np.linalg.det: matrices,
    np.linalg.solve: equations,
    np.mean: reduction(min_side=1),
    np.prod: reduction(low=1),  # of zeros autograd makes nan
    **dict.fromkeys((np.max, np.min, np.amax, np.amin), reduction(REAL, min_side=1)),
    np.cumsum: cumsum,
    np.cumprod: cumsum,
    np.diagonal: diagonal,
    np.expand_dims: shaped(lambda draw, x, axis: (draw(axis),)),
    **dict.fromkeys((np.tril, np.triu), shaped(lambda draw, x, axis: (draw(axis),))),
    np.squeeze: squeeze,
    **dict.fromkeys((np.atleast_1d, np.atleast_2d, np.atleast_3d), one()),
    np.transpose: shaped(lambda draw, x, axis: draw(st.sampled_from([(), (None,),
        (draw(st.permutations(range(x.ndim))),)]))),
    np.roll: shaped(lambda draw, x, axis: (draw(st.integers(-4, 4)), draw(axis))),
    # Of fewer repetitions than axes autograd takes the first axes for the last.
    np.tile: shaped(lambda draw, x, axis: (draw(hnp.array_shapes(min_dims=x.ndim, max_dims=5, max_side=3)),)),
    np.swapaxes: shaped(lambda draw, x, axis: (draw(axis), draw(axis))),
    np.broadcast_to: lambda draw: ((numbers(draw, (3, 1), "float64"),
        draw(st.sampled_from([(3, 1), (3, 2)]))), {}),
}  # fmt: skip
RULED = [pytest.param(f, id=f.__name__) for f in RULES]


def test_every_rule_has_a_case():
    assert [f.__name__ for f in RULES if f not in CASES] == []


def derivative(f, argnum, args, kwargs):
    """The gradient by our rule and by autograd's, as functions of the result's gradient and the arguments."""
    primitive = trace_primitives_map.get(f)
    part = (lambda h: h) if np.iscomplexobj(args[argnum]) else np.real
    ours = lambda g, *args: part(RULES[f][argnum](g, f(*args, **kwargs), *args, **kwargs))

    def theirs(g, *args):
        ans = primitive(*args, **kwargs)
        return next(iter(primitive_vjps[primitive]((argnum,), ans, args, kwargs)(g)))

    return ours, theirs if primitive in primitive_vjps else None


def arrays_of(f, args):
    return [i for i, rule in enumerate(RULES[f]) if i < len(args) and hasattr(args[i], "dtype")]


def cast(h, x):
    return (h if np.iscomplexobj(x) else np.real(h)).astype(x.dtype)


@pytest.mark.parametrize("f", RULED)
@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.data())
def test_a_rule_is_autograds(f, data):
    args, kwargs = CASES[f](data.draw)
    with np.errstate(all="ignore"):
        ans = f(*args, **kwargs)
        g = numbers(data.draw, np.shape(ans), ans.dtype.name)
        assume(np.all(np.isfinite(ans)))
        for i in arrays_of(f, args):
            ours, theirs = derivative(f, i, args, kwargs)
            h = ours(g, *args)
            assert h.shape == args[i].shape
            if theirs is None:
                continue
            expected = cast(np.asarray(theirs(g, *args)), args[i])
            eps = max(
                np.finfo(a.dtype).eps for a in (ans, *args) if hasattr(a, "dtype") and a.dtype.kind in "fc"
            )
            np.testing.assert_allclose(
                cast(h, args[i]),
                expected,
                rtol=64 * eps,
                atol=64 * eps * max(1, np.max(np.abs(expected), initial=0)),
            )


@pytest.mark.parametrize("f", RULED)
@settings(derandomize=True, max_examples=15, deadline=None)
@given(st.data())
def test_the_derivative_of_a_rule_is_autograds(f, data):
    args, kwargs = CASES[f](data.draw)
    to_double = lambda a: (
        a.astype(np.result_type(a, np.float64)) if hasattr(a, "dtype") and a.dtype.kind in "fc" else a
    )
    args = tuple(map(to_double, args))
    g = to_double(numbers(data.draw, np.shape(f(*args, **kwargs)), np.asarray(f(*args, **kwargs)).dtype.name))
    for i in arrays_of(f, args):
        ours, theirs = derivative(f, i, args, kwargs)
        if theirs is None:
            continue
        w = np.cos(np.arange(args[i].size)).reshape(args[i].shape)
        size = lambda xp, h, w=w: (
            xp.sum(w * xp.real(h)) + xp.sum(w[::-1] * xp.imag(h) if w.ndim else xp.imag(h))
        )
        for j in [0, *(1 + k for k in arrays_of(f, args))]:
            put = lambda x, j=j: [x if k == j else a for k, a in enumerate((g, *args))]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    expected = np.conj(autograd.grad(lambda x: size(anp, theirs(*put(x))))((g, *args)[j]))
                except (NotImplementedError, AttributeError, TypeError, ValueError, AssertionError):
                    trace_stack.top = -1  # autograd leaves its count of traces behind an exception
                    continue  # autograd's rule is not differentiable itself
            (found,) = gradient(lambda x: size(np, ours(*put(x))), (g, *args)[j])
            found = np.zeros_like(expected) if found is None else found
            np.testing.assert_allclose(
                found, expected, rtol=1e-9, atol=1e-9 * max(1, np.max(np.abs(expected), initial=0))
            )


# --- Where a derivative is a choice, or an edge ---------------------------------------------------------


def slope(f, x):
    p = param(x)
    return gradient(lambda: np.sum(f(p)), params(p))[p].tolist()


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (lambda x: np.maximum(x, 1.0), [0.0, 1.0, 2.0], [0.0, 0.5, 1.0]),
        (lambda x: np.minimum(1.0, x), [0.0, 1.0, 2.0], [1.0, 0.5, 0.0]),
        (lambda x: np.maximum(x, x), [1.0, 2.0], [1.0, 1.0]),
        (np.max, [3.0, 1.0, 3.0], [0.5, 0.0, 0.5]),
        (lambda x: np.min(x, axis=1), [[1.0, 1.0], [2.0, 3.0]], [[0.5, 0.5], [1.0, 0.0]]),
        (np.abs, [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]),
        (np.prod, [0.0, 2.0, 3.0], [6.0, 0.0, 0.0]),
        (np.prod, [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]),
        (np.prod, [2.0**-700, 2.0**-700, 2.0**1000], [2.0**300, 2.0**300, 0.0]),
        (lambda x: np.prod(x, axis=1), [[2.0**-600, 2.0**-500], [3, 5]], [[2.0**-500, 2.0**-600], [5, 3]]),
        (lambda x: np.prod(x, axis=0), [[0.0, 2.0], [5.0, 3.0]], [[5.0, 3.0], [0.0, 2.0]]),
        (lambda x: x**2, [0.0, -3.0], [0.0, -6.0]),
        (lambda x: x**0, [0.0, -3.0], [0.0, 0.0]),
        (lambda x: x**1, [0.0, -3.0], [1.0, 1.0]),
        (lambda x: x**3.0, [0.0, -3.0], [0.0, 27.0]),
        (lambda x: x ** np.array([0.0, 1.0, 2.0]), [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        (lambda x: 0.0**x, [1.0, 2.0], [0.0, 0.0]),
        (lambda x: np.clip(x, -1.0, 1.0), [-2.0, 0.5, 2.0], [0.0, 1.0, 0.0]),
        (lambda x: np.clip(x, None, 1.0), [-2.0, 2.0], [1.0, 0.0]),
        (lambda x: np.where(x > 0, x, 0.0), [-1.0, 0.0, 1.0], [0.0, 0.0, 1.0]),
        (np.sort, [[3.0, 1.0]], [[1.0, 1.0]]),
        (lambda x: np.sum(x[0:0]) + x[0], [1.0, 2.0], [1.0, 0.0]),
        (lambda x: np.logaddexp(x, -np.inf), [0.0, 800.0], [1.0, 1.0]),
        (np.tanh, [0.0, 1000.0], [1.0, 0.0]),
    ],
)  # fmt: skip
def test_at_ties_zeros_and_ends_the_slope_is_shared_or_its_limit(f, x, expected):
    assert slope(f, x) == expected


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.data())
def test_indexing_gives_back_to_each_element_as_often_as_it_was_read(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    integers = st.integers(-shape[0], shape[0] - 1)
    index = data.draw(
        hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)
        | hnp.arrays(bool, shape)
        | hnp.arrays(bool, shape[:1])
        | hnp.integer_array_indices(shape)
        | st.lists(integers, min_size=1, max_size=6)
        | integers.map(np.int64)
        | st.tuples(st.just(...), st.just([0, 0]))
        | st.tuples(st.lists(integers, min_size=1, max_size=3), st.just(None), st.just(...))
        | st.tuples(hnp.arrays(bool, shape[:1]), st.just(...))
        | st.sampled_from([slice(None, None, -1), slice(None, None, -2), True, False, (), (True, 0)])
    )
    dtype = data.draw(st.sampled_from(ALL))
    p = param(np.ones(shape), dtype)
    value, back = pullback(lambda: p[index] * 1, params(p))
    g = numbers(data.draw, np.shape(value), dtype, -8, 8)
    expected = np.zeros(p.size, np.result_type(dtype, float))
    np.add.at(expected, np.arange(p.size).reshape(shape)[index].ravel(), np.ravel(g))
    np.testing.assert_allclose(back(g)[p], expected.reshape(shape), rtol=1e-2 if dtype == "float16" else 1e-5)
    assert back(g)[p].dtype == dtype
    _, back = pullback(lambda: p[index] + p[index] + np.sum(p), params(p))
    np.testing.assert_allclose(
        back(g)[p],
        (2 * expected + np.sum(g)).reshape(shape),
        rtol=2e-2 if dtype == "float16" else 1e-5,
        atol=1e-2 if dtype == "float16" else 1e-5,
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_bessel_function_has_its_derivatives_in_every_precision(dtype, shape):
    x = np.full(shape, 1.5, dtype)[()]
    loss = lambda x: np.sum(np.i0(x) * 2)
    (g,), product = gradient(loss, x), hvp(loss, x, np.ones_like(x))
    assert g.dtype == product.dtype == dtype
    rtol = max(1e-14, 4 * float(np.finfo(dtype).eps))
    i0, i1 = scipy.special.i0(1.5), scipy.special.i1(1.5)
    np.testing.assert_allclose(g.astype(float), np.full(shape, 2 * i1), rtol=rtol)
    np.testing.assert_allclose(product.astype(float), np.full(shape, 2 * (i0 - i1 / 1.5)), rtol=rtol)
