"""What a recorded value has of an array's methods, beside those that stand in `Traced` itself.

Many do what NumPy's function of the same name does. The others would lose the gradient, and say what to
write instead.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from autograd.tracer import getval

from minidiff.tracing.calls import call
from minidiff.tracing.record import Traced, constant, is_of_sparse
from minidiff.tracing.refusals import ELSEWHERE, is_called_here, no_attribute, refuse
from minidiff.tracing.table import CONSTANT, shown


def _recorded(function: Any) -> Any:
    """Make the method that does what the NumPy function of the same name does."""
    return lambda self, *args, **kwargs: call(function, (self, *args), kwargs)


def _plain(function: Callable[..., Any]) -> Any:
    """Make the method that has no gradient to record and works on plain values: a comparison, `argmax`."""
    return lambda self, *args, **kwargs: function(getval(self), *map(constant, args), **kwargs)


def _clip(self: Traced, min: Any = None, max: Any = None, **options: Any) -> Any:
    return call(np.clip, (self, min, max), options)


def _compress(self: Traced, condition: Any, axis: Any = None, **options: Any) -> Any:
    return call(np.compress, (condition, self, axis), options)


Traced.clip, Traced.compress = _clip, _compress
Traced.__neg__, Traced.__pos__ = _recorded(np.negative), _recorded(np.positive)
for _name, _function in {"T": np.transpose, "real": np.real, "imag": np.imag}.items():
    setattr(Traced, _name, property(_recorded(_function)))
# Methods that do what NumPy's function of the same name does: recorded, or with plain values where there is
# no gradient to record.
for _name in (
    "cumprod", "cumsum", "diagonal", "dot", "max", "mean", "min", "prod", "ravel",
    "ptp", "repeat", "squeeze", "std", "sum", "swapaxes", "take", "trace", "var",
):  # fmt: skip
    setattr(Traced, _name, _recorded(getattr(np, _name)))
for _name in ("conj", "conjugate"):  # a real array gives itself
    setattr(Traced, _name, lambda self: np.conj(self) if self.dtype.kind == "c" else self)
for _name in dir(np.ndarray):
    if getattr(np, _name, None) in CONSTANT and _name not in vars(Traced):
        setattr(Traced, _name, _plain(getattr(np, _name)))
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "floordiv", "or_", "and_", "xor"):
    _operate = getattr(operator, _name)
    setattr(Traced, f"__{_name.strip('_')}__", _plain(_operate))
    setattr(Traced, f"__r{_name.strip('_')}__", _plain(lambda x, y, f=_operate: f(y, x)))
# What would lose the gradient, and what to do instead.
_REFUSED = {
    "__float__": ("float() of a value under differentiation (a `math` function or x[i] = … may call it)",
        "Use np.* functions; np.stack makes an array of numbers."),
    "__int__": ("int() of a value under differentiation", "Use np.* functions."),
    "__index__": ("A value under differentiation as an index", "An index has no gradient."),
    "__complex__": ("complex() of a value under differentiation", "Use np.* functions."),
    "__array__": ("np.asarray() (or a function that calls it) on a value under differentiation",
        "NumPy functions take it as it is; np.stack and np.concatenate join several, np.block nested lists."),
    "__reduce_ex__": ("Pickling of a value under differentiation", "It belongs to the running loss."),
    "item": (".item() of a value under differentiation", "A number is used as it is; x[i] picks one."),
    "__round__": ("round() of a value under differentiation", "Use np.round(x)."),
    "tolist": (".tolist() of a value under differentiation", "Iterate over it instead."),
    "tobytes": (".tobytes() of a value under differentiation", "Work with the array itself."),
    **dict.fromkeys(("resize", "setfield", "byteswap"),
        ("Changing the memory of an array under differentiation", "Build a new array instead.")),
    "setflags": ("setflags() on a value under differentiation", "Take a copy of it, x.copy()."),
    "__dlpack__": ("np.from_dlpack() of a value under differentiation", "NumPy functions take it as it is."),
    **dict.fromkeys(("view", "getfield"),
        ("A view of other type on a value under differentiation",
            "Use astype; of complex numbers take x.real and x.imag.")),
}  # fmt: skip


def _refused(name: str, what: str, instead: str) -> Callable[..., Any]:
    """Make the method that is refused. Once the trace has ended it does what the plain value does."""

    def method(self: Traced, *args: Any, **kwargs: Any) -> Any:
        if self.owner.open and (self.parents or self.function is None):  # not just made, as by np.zeros_like
            try:
                refuse(what, instead)
            except TypeError as error:
                self.owner.refusal = error
                raise
        plain = getval(self)
        if name == "__array__":  # that of NumPy's numbers takes no keywords
            plain = np.asarray(plain)
        return getattr(plain, name)(*args, **kwargs)

    return method


for _name, _words in _REFUSED.items():
    setattr(Traced, _name, _refused(_name, *_words))
_to_array, _view_of_bits = Traced.__array__, Traced.view


def _view(self: Traced, *args: Any, **kwargs: Any) -> Any:
    plain = getval(self)
    like = plain.view(*args, **kwargs)
    # SciPy's product with a sparse matrix would take it for the data of one.
    if type(like) is type(plain) and like.dtype == plain.dtype and not is_of_sparse(sys._getframe(1)):
        return self[...] if type(shown(like)) is np.ndarray else self
    return _view_of_bits(self, *args, **kwargs)


Traced.view = _view


def _array(self: Traced, *args: Any, **kwargs: Any) -> Any:
    """Refuse, except in SciPy's product with a sparse matrix, which leaves all but arrays to the value."""
    if in_a_sparse_product():
        return np.array(None, object)
    try:
        return _to_array(self, *args, **kwargs)
    except TypeError as error:
        if is_called_here("nditer"):  # it has its own words for every TypeError
            raise NotImplementedError(str(error)) from None
        raise


def in_a_sparse_product() -> bool:
    """Tell whether SciPy asks, in ``A @ x`` of a sparse A, about x or the parameter that x stands for."""
    frame = sys._getframe(1).f_back
    if frame is not None and frame.f_code.co_name == "__array__":  # a parameter's
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_matmul_dispatch" and is_of_sparse(frame)


Traced.__array__ = _array
Traced.__name__ = "value under differentiation"  # in Python's own messages


def _elsewhere(name: str) -> Any:
    """Make an attribute that says where else to look. With a `__getattr__` every attribute would be slow."""

    def refuse(_: Traced) -> NoReturn:
        raise AttributeError(no_attribute("a value under differentiation", name))

    return property(refuse)


for _name in (*ELSEWHERE, *dir(np.ndarray), *dir(np.float64)):
    if not hasattr(Traced, _name) and not _name.startswith("__"):
        setattr(Traced, _name, _elsewhere(_name))
