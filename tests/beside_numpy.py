"""What a NumPy function gives under differentiation, beside what it gives outside, and beside differences."""

import warnings

import numpy as np

from minidiff import check_gradient, gradient
from minidiff.tracing import constant

# NumPy's elementwise functions by their names, and those of two floats that give one.
UFUNCS = {f.__name__: f for f in vars(np).values() if isinstance(f, np.ufunc) and not f.signature}
OF_TWO = {name: f for name, f in UFUNCS.items() if f.nin == 2 and f.nout == 1 and "dd->d" in f.types}


def parts(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def check(f, *arrays, order=2):
    """Values, shapes and dtypes are NumPy's; the derivatives up to this order are those of differences."""
    arrays = [np.asarray(a) if isinstance(a, list) else a for a in arrays]
    seen = []

    def watched(*xs):
        result = f(*xs)
        seen.append([constant(x) for x in parts(result)])
        return sum(np.sum(np.real(x)) for x in parts(result))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no gradient at all
        gradient(watched, *arrays)
    tol = 1e-10 if all(np.asarray(a).dtype.itemsize >= 8 for a in arrays) else 1e-4
    for ours, numpys in zip(seen[0], parts(f(*arrays)), strict=True):
        np.testing.assert_array_equal(ours, numpys)  # to the last bit
        assert np.shape(ours) == np.shape(numpys)
        assert np.asarray(ours).dtype == np.asarray(numpys).dtype
    if tol > 1e-10:
        return

    def joined(*xs):
        return np.concatenate([np.ravel(x) for x in parts(f(*xs))])

    check_gradient(joined, *arrays, order=order)
