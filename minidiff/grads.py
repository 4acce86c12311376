"""What `gradient` returns for a set of parameters: `Grads`, a mapping from parameter to gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, NoReturn

import autograd.numpy as anp
import numpy as np

from minidiff.checks import described, warn
from minidiff.params import Param, Params, table
from minidiff.tracing import constant, is_recorded

__all__ = ["Grads"]


class Grads(Mapping[Param, Any]):
    """The gradients of a loss, one for each parameter: a mapping keyed by the parameters themselves.

    A parameter that the loss does not depend on has `None`, which counts as zero in what follows. Iterating
    and unpacking give the parameters, as of any mapping, with a warning, since in PyTorch and JAX they give
    the gradients: ``grads.values()`` are those, ``grads.keys()`` the parameters.
    Gradients of the same parameters add and subtract; they multiply and divide by numbers. One may
    be replaced: ``grads[W] *= 0.5``; with ``grads[W] = None`` an update leaves W as it is.

    Parameters
    ----------
    ps : Params
        The parameters.
    arrays : list of (ndarray or None)
        Their gradients, in the same order.
    named : Params, optional
        The parameters with their names, where `ps` is a list without.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import gradient, param, params
    >>> W, b = param([3.0, 4.0]), param(0.0)
    >>> grads = gradient(lambda: np.sum(W**2) / 2, params(W, b))
    >>> grads[W], grads[b]
    (array([3., 4.]), None)
    >>> grads
    Grads of 2 parameters, norm 5
      0  (2,)  norm 5  [3. 4.]
      1  ()    None
    >>> grads.norm()
    5.0
    >>> (grads / grads.norm())[W]
    array([0.6, 0.8])
    """

    __slots__ = ("_arrays", "_named", "_params")
    __array_ufunc__ = None  # so that a NumPy number times this asks __rmul__

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise TypeError(
            f"{function.__module__}.{function.__name__} takes no Grads: grads.map(f) goes over gradients, "
            "grads.norm() is their norm, grads.to_vector() one array of all"
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("Grads are no array: grads[W] is one, grads.to_vector() is one of all")

    def __init__(self, ps: Iterable[Param], arrays: list[Any], named: Params | None = None) -> None:
        if type(ps) is list:  # isinstance(ps, Params) takes a third of the time of all this
            self._params, self._named = ps, named
        else:
            self._params, self._named = list(ps), ps if isinstance(ps, Params) else named
        if len(arrays) != len(self._params):
            raise ValueError(f"Grads: {len(arrays)} gradients for {len(self._params)} parameters.")
        self._arrays = dict(zip(self._params, arrays))  # noqa: B905 - strict takes its time

    def __getitem__(self, p: Param) -> Any:
        try:
            return self._arrays[p]
        except (KeyError, TypeError):  # an array has no hash
            what, advice = described(p), ""
            if isinstance(p, Param):
                what = f"parameter of shape {p.value.shape}"
            elif isinstance(p, np.ndarray):
                what = f"ndarray of shape {p.shape}"
                advice = " If it was one, step with W -= …: W = W - … makes a plain array."
            raise KeyError(
                f"this {what} is not among the {len(self)} parameters of these gradients. They are found by "
                f"the parameter, grads[W], if it was in the Params given to gradient(f, ps).{advice}"
            ) from None

    def __setitem__(self, p: Param, g: Any) -> None:
        self[p]  # raises KeyError for another parameter
        if g is not None:
            g = g.lift() if isinstance(g, Param) else g
            if isinstance(g, np.ma.MaskedArray):
                raise TypeError("the gradient is a masked array: g.filled(0) takes no step there.")
            g = g if is_recorded(g) else np.array(g)
            shape, dtype = p.value.shape, p.value.dtype
            if g.shape != shape:
                raise ValueError(f"the gradient must have its parameter's shape {shape}, got {g.shape}.")
            if g.dtype.kind not in ("fciub" if dtype.kind == "c" else "fiub"):
                raise TypeError(f"the gradient of a {dtype} parameter cannot be of dtype {g.dtype}.")
            g = _of_floats(g, p)
        self._arrays[p] = g

    def __contains__(self, p: object) -> bool:
        return isinstance(p, Param) and p in self._arrays

    def __iter__(self) -> Iterator[Param]:
        warn(
            "Iterating over or unpacking gradients gives their parameters, as of any mapping. Write "
            "grads.values() for the gradients, grads.items() for both, grads.keys() for the parameters."
        )
        return iter(self._params)

    def keys(self) -> KeysView[Param]:
        """Give the parameters, in order."""
        return self._arrays.keys()

    def values(self) -> ValuesView[Any]:
        """Give the gradients, in the order of the parameters."""
        return self._arrays.values()

    def items(self) -> ItemsView[Param, Any]:
        """Give pairs of a parameter and its gradient, in order."""
        return self._arrays.items()

    def __len__(self) -> int:
        return len(self._params)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def map(self, f: Callable[[Any], Any]) -> Grads:
        """Apply `f` to every gradient that is not `None`.

        Parameters
        ----------
        f : callable
            Takes an ndarray, returns its replacement. Integers and truth values come to be of the parameter's
            dtype.

        Returns
        -------
        Grads
            New gradients of the same parameters.
        """
        arrays = [None if g is None else _of_floats(f(g), p) for p, g in self.items()]
        return Grads(self._params, arrays, self._named)

    def norm(self) -> Any:
        """Give the Euclidean norm of all gradients together.

        Returns
        -------
        float
            √Σ|g|² over every element of every gradient, summed in double precision.
        """

        def sizes() -> Iterator[Any]:  # one after another: together they take twice the memory of float32
            return (abs(g).astype(np.float64) for g in self.values() if g is not None)

        with np.errstate(over="ignore", under="ignore"):
            norm = np.sqrt(sum(((a * a).sum() for a in sizes()), np.float64(0)))
        if type(norm) is np.float64 and not 1e-140 < norm < math.inf:  # squares may have left the range
            top = max((float(np.max(a, initial=0.0)) for a in sizes()), default=0.0)
            if 0 < top < math.inf:
                unit = math.ldexp(0.5, math.frexp(top)[1])
                norm = unit * math.sqrt(sum(((a / unit) ** 2).sum() for a in sizes()))
        return norm if is_recorded(norm) else float(norm)

    def to_vector(self) -> Any:
        """Copy all gradients into one 1-D array, ordered as `Params.to_vector`; zeros for `None`.

        Returns
        -------
        ndarray
            As many elements as all the parameters have.
        """
        pieces = [np.zeros_like(p.value) if g is None else g for p, g in self.items()]
        return anp.concatenate([anp.ravel(g) for g in pieces]) if pieces else np.zeros(0)

    def __add__(self, other: Grads) -> Grads:
        if not isinstance(other, Grads):
            return NotImplemented
        if self._arrays.keys() != other._arrays.keys():
            raise ValueError("these Grads are of different parameters and cannot be added.")
        return Grads(self._params, [_sum(g, other[p]) for p, g in self.items()], self._named or other._named)

    def __radd__(self, other: Any) -> Grads:
        return self if _is_number(other) and other == 0 else NotImplemented  # so that sum() adds them

    def __sub__(self, other: Grads) -> Grads:
        return self + -other if isinstance(other, Grads) else NotImplemented

    def __neg__(self) -> Grads:
        return self.map(lambda g: -g)

    def __mul__(self, number: complex) -> Grads:
        return self.map(lambda g: g * number) if _is_number(number) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, number: complex) -> Grads:
        return self.map(lambda g: g / number) if _is_number(number) else NotImplemented

    def __repr__(self) -> str:
        names = dict(zip(map(id, self._named), self._named.names, strict=True)) if self._named else {}
        rows = [(names.get(id(p), str(i)), p.value.shape, _brief(g)) for i, (p, g) in enumerate(self.items())]
        return "\n".join([f"Grads of {len(self)} parameters, norm {constant(self.norm()):.4g}", *table(rows)])

    def __reduce__(self) -> tuple[Any, ...]:
        return Grads, (self._params, list(self._arrays.values()), self._named)


def _of_floats(g: Any, p: Param) -> Any:
    """Give a gradient of whole numbers in its parameter's dtype, as sums and factors of them would be cut."""
    return g.astype(p.value.dtype) if getattr(g, "dtype", p.value.dtype).kind in "biu" else g


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:
        g = b if a is None else a
        return g if g is None else +g  # a copy
    return a + b


def _brief(g: Any) -> str:
    if g is None:
        return "None"
    values = np.array2string(np.asarray(constant(g)), threshold=6, edgeitems=2, precision=4).split("\n")
    line = values[0] + (" …" if len(values) > 1 else "")
    return f"norm {np.linalg.norm(np.ravel(constant(g)).astype('c16')):.4g}  {line}"


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, complex, np.number)) or (getattr(x, "shape", None) == ())
