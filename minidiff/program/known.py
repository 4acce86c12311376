"""What NumPy's functions, operators and methods are to a recording."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["ABOUT", "CHANGING", "CHECKED", "FAILING", "FIXED", "INSTEAD", "LOOKING", "METHODS", "NAMES",
    "OPERATORS", "PARTS", "PYTHONS", "REDUCTIONS", "SETTINGS", "UFUNCS", "VALUES"]  # fmt: skip

# They tell of shape, dtype or kind, which are the same whenever the program runs.
ABOUT = {
    np.iscomplexobj, np.isrealobj, np.ndim, np.shape, np.size, np.result_type, np.can_cast, np.common_type,
    np.isfortran,
}  # fmt: skip
# The shape and dtype of what they give follow from those of their arguments, whatever the values.
_KNOWN = """
all allclose amax amin angle any append argmax argmin argpartition argsort array_equal array_split around
astype atleast_1d atleast_2d atleast_3d average block broadcast_arrays broadcast_to choose clip
column_stack concatenate convolve copy corrcoef correlate count_nonzero cov cross cumprod cumsum
cumulative_prod cumulative_sum diag diagflat diagonal diff digitize dot dsplit dstack ediff1d einsum
expand_dims fix flip fliplr flipud full_like gradient hsplit hstack i0 imag inner interp isclose isin
isneginf isposinf kron lexsort linspace logspace geomspace matmul matrix_transpose max mean median
meshgrid min moveaxis nan_to_num nanargmax nanargmin nancumprod nancumsum nanmax nanmean nanmedian nanmin
nanpercentile nanprod nanquantile nanstd nansum nanvar ones_like outer pad partition percentile
permute_dims polyval prod ptp quantile ravel real repeat reshape roll rollaxis rot90 round searchsorted
select sinc sort sort_complex split squeeze stack std sum swapaxes take take_along_axis tensordot tile
trace transpose trapezoid tri tril triu unwrap vander var vdot vecdot vsplit vstack where zeros_like
linalg.cholesky linalg.cond linalg.cross linalg.det linalg.diagonal linalg.eigh linalg.eigvalsh
linalg.inv linalg.matmul linalg.matrix_norm linalg.matrix_power linalg.matrix_rank
linalg.matrix_transpose linalg.multi_dot linalg.norm linalg.outer linalg.pinv linalg.qr linalg.slogdet
linalg.solve linalg.svd linalg.svdvals linalg.tensordot linalg.tensorinv linalg.tensorsolve linalg.trace
linalg.vecdot linalg.vector_norm fft.fft fft.ifft fft.fft2 fft.ifft2 fft.fftn fft.ifftn fft.rfft
fft.irfft fft.rfft2 fft.irfft2 fft.rfftn fft.irfftn fft.hfft fft.ihfft fft.fftshift fft.ifftshift
diag_indices_from tril_indices_from triu_indices_from lib.stride_tricks.sliding_window_view
"""
# Other values may give results of another dtype (real or complex) or shape: a program checks that.
_GUARDED = ["real_if_close", "linalg.eig", "linalg.eigvals", "linalg.lstsq", "polyfit", "bincount"]


def _functions(names: Iterable[str]) -> dict[Any, str]:
    found = {}
    for name in names:
        *modules, last = name.split(".")
        module = functools.reduce(getattr, modules, np)
        if hasattr(module, last):  # not of a later NumPy
            found[getattr(module, last)] = f"np.{name}"
    return found


# How many numbers they give depends on values. So they are called when a loss is recorded, with found arrays
# alone.
_LOOKING_AT = """
argwhere array_equiv bincount compress delete extract flatnonzero histogram histogram2d histogramdd
histogram_bin_edges insert intersect1d ix_ nonzero packbits poly polyfit roots setdiff1d setxor1d trim_zeros
union1d unique unique_all unique_counts unique_inverse unique_values unpackbits where
"""
INSTEAD: dict[Any, str] = {
    np.bincount: "Fill total = minidiff.functions.zeros(n) by np.add.at(total, places, weights), or 1.0",
    np.piecewise: "Write np.where(x > 0, f(x), g(x))",
    np.repeat: "How long its result is depends on the counts: make the places before, and write x[places]",
    np.take: "Make the array that it takes from before, outside of the loss; one-hot rows are "
    "y[:, None] == np.arange(n), too",
    **dict.fromkeys(
        (np.argwhere, np.compress, np.extract, np.flatnonzero, np.nonzero),
        "np.where(mask, x, 0) has always as many elements: write it so",
    ),
}
NAMES = _functions([*_KNOWN.split(), *_GUARDED])
CHANGING = {np.copyto, np.fill_diagonal, np.place, np.put, np.put_along_axis, np.putmask}
LOOKING = set(_functions(_LOOKING_AT.split()))
CHECKED = set(_functions(_GUARDED))
# They fail for some matrices, or indices.
FAILING = set(
    _functions(f"linalg.{name}" for name in ("cholesky", "inv", "solve", "tensorinv", "tensorsolve"))
) | {np.take, np.take_along_axis}

# Operators: the ufunc that each calls for arrays, and how the source writes it. A power has none: for some
# exponents NumPy computes it in another way.
OPERATORS: dict[str, tuple[Any, str]] = {
    "add": (np.add, "{} + {}"), "sub": (np.subtract, "{} - {}"), "mul": (np.multiply, "{} * {}"),
    "truediv": (np.divide, "{} / {}"), "floordiv": (np.floor_divide, "{} // {}"),
    "mod": (np.remainder, "{} % {}"), "pow": (operator.pow, "{} ** {}"),
    "matmul": (np.matmul, "{} @ {}"), "and": (np.bitwise_and, "{} & {}"), "or": (np.bitwise_or, "{} | {}"),
    "xor": (np.bitwise_xor, "{} ^ {}"), "lshift": (np.left_shift, "{} << {}"),
    "rshift": (np.right_shift, "{} >> {}"), "divmod": (np.divmod, "divmod({}, {})"),
    "lt": (np.less, "{} < {}"), "le": (np.less_equal, "{} <= {}"), "gt": (np.greater, "{} > {}"),
    "ge": (np.greater_equal, "{} >= {}"), "eq": (np.equal, "{} == {}"), "ne": (np.not_equal, "{} != {}"),
    "neg": (np.negative, "-{}"), "pos": (np.positive, "+{}"), "abs": (np.absolute, "abs({})"),
    "invert": (np.invert, "~{}"),
}  # fmt: skip
# A call is made with Python's function, which gives Python's numbers, and noted as the ufunc.
PYTHONS: dict[str, Any] = {name: getattr(operator, f"__{name}__", divmod) for name in OPERATORS}
UFUNCS = {f: OPERATORS[name][0] for name, f in PYTHONS.items()}

# Attributes of an array that are the same whenever the program runs, those that are arrays, and methods.
FIXED = {"shape", "ndim", "size", "itemsize", "nbytes", "strides"}
PARTS = {"T", "mT", "real", "imag"}
REDUCTIONS = {"sum": np.add.reduce, "max": np.maximum.reduce, "min": np.minimum.reduce}
METHODS = {
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "astype", "clip", "conj", "conjugate",
    "copy", "cumprod", "cumsum", "diagonal", "dot", "flatten", "max", "mean", "min", "prod", "ravel",
    "repeat", "reshape", "round", "searchsorted", "squeeze", "std", "sum", "swapaxes", "take", "trace",
    "transpose", "var",
}  # fmt: skip
# How many operands of a method are values, besides the array itself.
VALUES = {".clip": 2, ".dot": 1, ".repeat": 1, ".searchsorted": 3, ".take": 1}
# What functions call an axis, a shape or a length, and what decides over a shape.
_SETTINGS_ARE = """
axis axes axis1 axis2 axisa axisb axisc compute_uv destination full_matrices hermitian include_initial ind
indices_or_sections k keepdims kth N M n num offset pad_width reps retstep returned rowvar s shape newshape
source sparse window_shape
"""
SETTINGS = set(_SETTINGS_ARE.split())
