"""What is trained: `Param`, an array that gradients can reach, and `Params`, an ordered set of them."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, MutableSet, ValuesView
from contextlib import suppress
from copy import deepcopy
from functools import partial
from types import GeneratorType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np

from minidiff.checks import described, fits, is_ndarray, is_number, owner_of, warn
from minidiff.interrupts import whole
from minidiff.tracing import ELSEWHERE, Leaf, constant, is_recorded, lift, no_attribute
from minidiff.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["Param", "Params", "param", "params"]


_HINT = ": parameters are no settings, they come with update(opt, ps, grads) or train(loss, ps, data, opt)"


def _binary(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def forward(self: Param, other: Any) -> Any:
        return operate(self.lift(), other.lift() if type(other) is Param else other)

    return forward


def _reflected(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: operate(other, self.lift())


def _unary(operate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: operate(self.lift())


def _in_place(operate: Callable[[Any, Any], Any], symbol: str) -> Callable[[Any, Any], Any]:
    def change(self: Param, other: Any) -> Param:
        try:
            operate(self.in_place(f"W {symbol} …"), lift(other))
        except TypeError:
            if isinstance(other, Mapping):
                raise TypeError(
                    f"W {symbol} … takes an array, got {described(other)}: the parameter's own is grads[W]"
                ) from None
            raise
        return self

    return change


class Param(Leaf):
    """An array to be trained.

    Outside a gradient it behaves like the ndarray it holds and gives plain ndarrays back; inside one, all
    that is computed from it is recorded. So take ``W.T`` or ``W[:2]`` inside the loss: taken before, they are
    views that follow W, and constants to a gradient. Made by `param`.

    Parameters
    ----------
    value : ndarray of float or complex dtype
        The array itself, any shape; it is not copied.

    Attributes
    ----------
    value : ndarray
        The array, always the same object. Change it in place: ``W -= 0.1 * g``, ``W[0] = 1``,
        ``W[...] = a``.

    Notes
    -----
    A parameter is hashed, and found in `Params` and `Grads`, by identity; ``==`` is elementwise. What
    ``copy``, ``pickle`` and `param` make of one is another parameter, also inside a gradient. To `isinstance`
    it is an ndarray, so that code which asks does with it what it does with its array; ``type(W)`` is Param.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import param
    >>> W = param([[1.0, 2.0], [3.0, 4.0]])
    >>> W @ np.ones(2)
    array([3., 7.])
    >>> W -= 1
    >>> W
    param([[0., 1.],
           [2., 3.]])
    """

    __slots__ = ()
    __hint__ = _HINT

    def __init__(self, value: NDArray[Any]) -> None:
        if not is_ndarray(value) or value.dtype.kind not in "fc":
            raise TypeError(
                f"Param holds a float or complex ndarray, got {described(value)}. Make one with param(x)."
            )
        super().__setattr__("_array", value)

    __add__, __radd__ = _binary(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _binary(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _binary(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _binary(operator.mod), _reflected(operator.mod)
    __divmod__, __rdivmod__ = _binary(divmod), _reflected(divmod)
    __pow__, __rpow__ = _binary(operator.pow), _reflected(operator.pow)
    __matmul__, __rmatmul__ = _binary(operator.matmul), _reflected(operator.matmul)
    __eq__ = _binary(operator.eq)
    __ne__ = _binary(operator.ne)
    __lt__, __le__ = _binary(operator.lt), _binary(operator.le)
    __gt__, __ge__ = _binary(operator.gt), _binary(operator.ge)
    __neg__, __pos__, __abs__ = _unary(operator.neg), _unary(operator.pos), _unary(abs)
    __hash__ = object.__hash__

    __iadd__ = _in_place(operator.iadd, "+=")
    __isub__ = _in_place(operator.isub, "-=")
    __imul__ = _in_place(operator.imul, "*=")
    __itruediv__ = _in_place(operator.itruediv, "/=")
    __ifloordiv__ = _in_place(operator.ifloordiv, "//=")
    __imod__ = _in_place(operator.imod, "%=")
    __ipow__ = _in_place(operator.ipow, "**=")
    __imatmul__ = _in_place(operator.imatmul, "@=")

    __bool__, __len__ = _unary(bool), _unary(len)
    __float__, __int__, __complex__ = _unary(float), _unary(int), _unary(complex)
    __str__, __iter__ = _unary(str), _unary(iter)

    def __getitem__(self, index: Any) -> Any:
        return self.lift()[lift(index)]

    def __setitem__(self, index: Any, x: Any) -> None:
        self.in_place("W[…] = …")[constant(index)] = lift(x)

    def __contains__(self, item: object) -> bool:
        return item in self.lift()

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    # The rows stay aligned, as 'array' and 'param' have the same length.
    def __repr__(self) -> str:
        return repr(self.value).replace("array", "param", 1)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        value = self.lift()
        return value.__array__() if is_recorded(value) else np.array(value, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.lift().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    # NumPy would take an array through any of the other special attributes without asking `__array__`. What
    # it calls data is a buffer, and no array as PyTorch's: `W.data -= x` would fail in Python's words.
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "data":
            raise AttributeError(no_attribute("Param", name))
        try:
            return getattr(self.lift(), name)
        except AttributeError:
            raise AttributeError(no_attribute("Param", name)) from None

    def __setattr__(self, name: str, x: object) -> NoReturn:
        instead = ELSEWHERE.get(name, "W[...] = a replaces its elements, in its shape.")
        raise AttributeError(f"A parameter's {name} cannot be set. {instead}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self.value) if not name.startswith("__"))})

    def __copy__(self) -> Param:
        return type(self)(self.to_copy().copy(order="K"))

    def __deepcopy__(self, memo: dict[int, Any]) -> Param:
        return type(self)(deepcopy(self.to_copy(), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.to_copy(),)


def param(x: ArrayLike, dtype: DTypeLike | None = None) -> Param:
    """Make a parameter: a copy of `x` that gradients can reach and optimisers train.

    Parameters
    ----------
    x : array_like
        Its first value, of any shape. Integers and booleans become float64.
    dtype : dtype, optional
        A float or complex dtype, where it is not to be that of `x`.

    Returns
    -------
    Param
        The parameter. The array `x` itself is never changed by training.

    Raises
    ------
    TypeError
        If `x` is not numeric, or `dtype` is neither float nor complex.

    Examples
    --------
    >>> from minidiff import param
    >>> param([1, 2])
    param([1., 2.])
    >>> param(0.5, dtype="float32")
    param(0.5, dtype=float32)
    """
    if isinstance(dtype, int):
        raise TypeError(
            f"param(x, dtype): dtype is no number such as {dtype}; of a shape write param(np.zeros((2, 5)))."
        )
    if isinstance(dtype, np.ndarray):  # a parameter, too
        raise TypeError(
            f"param(x, dtype): dtype is no array, got {described(dtype)}: several parameters are "
            "params(W, b), of W = param(x) and b = param(y)."
        )
    if dtype is not None and np.dtype(dtype).kind not in "fc":
        raise TypeError(
            f"param(x, dtype): dtype must be float or complex to have a gradient, got {np.dtype(dtype)}."
        )
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("param(x): x is a masked array, and the mask would be lost: pass x.filled(…).")
    value = np.array(x.to_copy() if isinstance(x, Param) else x, dtype=dtype)
    if value.dtype.kind in "biu":
        value = value.astype(np.float64)
    if value.dtype.kind not in "fc":
        raise TypeError(f"param(x): x must be an array of numbers, got {described(x)}.")
    return Param(value)


class Params(MutableSet[Param]):
    """An ordered set of parameters, each once, told apart by identity.

    Parameters
    ----------
    iterable : iterable of Param, optional
        The parameters, in order. `params` collects them from models instead.

    Raises
    ------
    TypeError
        If something else than a `Param` is to be added, or a mapping is given: ``θ -= grads`` takes no step.

    Attributes
    ----------
    names : tuple of str
        A name for each parameter: the path by which `params` found it, such as ``layers[0].W``, or the number
        of its place where it was given as such. Checkpoints store parameters under their names.

    Examples
    --------
    >>> from minidiff import Params, param
    >>> W, b = param([[1.0, 2.0]]), param([0.5])
    >>> θ = Params([W, b, W])
    >>> len(θ), b in θ, θ[0] is W
    (2, True, True)
    >>> θ.to_vector()
    array([1. , 2. , 0.5])
    >>> θ
    Params: 2 parameters, 3 elements
      0  (1, 2)  float64
      1  (1,)    float64
    """

    __slots__ = ("_paths",)
    __hint__ = _HINT

    def __init__(self, iterable: Iterable[Param] = ()) -> None:
        # The parameters in order, each with the path by which it was found, if it has one.
        self._paths: dict[Param, str | None] = {}
        if isinstance(iterable, Params):
            self._paths.update(iterable._paths)
        else:
            for p in _several(iterable):
                self.add(p)

    def __contains__(self, p: object) -> bool:
        return isinstance(p, Param) and p in self._paths

    def __iter__(self) -> Iterator[Param]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Param: ...
    @overload
    def __getitem__(self, index: slice) -> Params: ...
    def __getitem__(self, index: int | slice) -> Param | Params:
        ps = list(self)
        try:
            return self._some(ps[index]) if isinstance(index, slice) else ps[index]
        except TypeError:
            raise TypeError(
                f"Params are indexed by place, θ[0], got {described(index)}; a gradient is grads[W]"
            ) from None

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in their order."""
        names: dict[str, None] = {}
        for i, path in enumerate(self._paths.values()):
            name = str(i) if path is None else path
            while name in names:  # two models may use the same name
                name += "'"
            names[name] = None
        return tuple(names)

    def add(self, value: Param) -> None:
        """Add a parameter at the end, if it is not there yet."""
        if not isinstance(value, Param):
            raise TypeError(_not_a_param(value))
        self._paths.setdefault(value, None)

    def discard(self, value: Param) -> None:
        """Take a parameter out, if it is there."""
        if value in self:
            del self._paths[value]

    def __and__(self, other: Iterable[Any]) -> Params:
        if not isinstance(other, Iterable):
            return NotImplemented
        others = {id(p) for p in _several(other)}
        return self._some(p for p in self if id(p) in others)

    def __sub__(self, other: Iterable[Any]) -> Params:
        if not isinstance(other, Iterable):
            return NotImplemented
        others = Params(other)
        return self._some(p for p in self if p not in others)

    def _some(self, ps: Iterable[Param]) -> Params:
        """Return some of these parameters, by the same names."""
        some = Params(ps)
        some._paths = {p: self._paths[p] for p in some}
        return some

    def __or__(self, other: Iterable[Any]) -> Params:
        if not isinstance(other, Iterable):
            return NotImplemented
        both = Params(self)
        both |= other
        return both

    def __ior__(self, other: Iterable[Any]) -> Params:
        for p, path in Params(other)._paths.items():
            self._paths[p] = self._paths.get(p) or path
        return self

    def __isub__(self, other: Iterable[Any]) -> Params:
        return super().__isub__(Params(other))

    def __ixor__(self, other: Iterable[Any]) -> Params:  # type: ignore[misc]
        other = Params(other)
        both = self & other
        self |= other
        self -= both
        return self

    def __ror__(self, other: Iterable[Any]) -> Params:
        return Params(other) | self

    def __rand__(self, other: Iterable[Any]) -> Params:
        return self._some(p for p in Params(other) if p in self)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Say what there is in place of another library's method."""
            raise AttributeError(f"Params has no attribute {name!r}. {ELSEWHERE.get(name, '')}".rstrip())

    def to_vector(self) -> Any:
        """Copy all elements into one 1-D array, parameter after parameter, each in C order.

        Returns
        -------
        ndarray
            Its dtype is the one that holds all parameters' dtypes. Inside a gradient it is recorded.
        """
        return np.concatenate([p.ravel() for p in self]) if self else np.zeros(0)

    def from_vector(self, v: ArrayLike) -> None:
        """Set all elements from a 1-D array as `to_vector` gives it, or none of them.

        Parameters
        ----------
        v : array_like
            One number for each element of all the parameters. Casts to each parameter's dtype.

        Raises
        ------
        ValueError
            If `v` has another length, or an imaginary part where the parameter is real; or if a parameter
            is read-only.
        TypeError
            If `v` does not consist of numbers; or inside a gradient of these parameters.
        """
        if isinstance(v, np.ma.MaskedArray):
            raise TypeError(
                "from_vector(v): v is a masked array, and the mask would be lost: pass v.filled(…)."
            )
        vector = np.array(v)  # a copy: it may be a view of a parameter
        size = sum(p.value.size for p in self)
        if vector.shape != (size,):
            raise ValueError(
                f"from_vector(v): these parameters have {size} elements, got an array {vector.shape}."
            )
        if vector.dtype.kind not in "fcbiu":
            raise TypeError(f"from_vector(v): v must be an array of numbers, got dtype {vector.dtype}.")
        pieces = pieces_of(self, vector)
        for name, p, piece in zip(self.names, self, pieces, strict=True):
            if p.value.dtype.kind == "f" and piece.dtype.kind == "c":
                raise ValueError(f"from_vector(v): parameter {name} is real, but v is complex there.")
        assign(self, pieces, "from_vector(v)")

    def __repr__(self) -> str:
        rows = [(name, p.value.shape, p.value.dtype) for name, p in zip(self.names, self, strict=True)]
        return "\n".join([self._summary(), *table(rows)])

    def _repr_html_(self) -> str:
        from html import escape  # here, as few need it

        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{p.value.shape}</td><td>{p.value.dtype}</td>"
            f"<td>{p.value.size:,}</td></tr>"
            for name, p in zip(self.names, self, strict=True)
        )
        return (
            "<table><thead><tr><th></th><th>shape</th><th>dtype</th><th>elements</th></tr></thead>"
            f"<tbody>{rows}</tbody><caption>{self._summary()}</caption></table>"
        )

    def _summary(self) -> str:
        return f"Params: {len(self)} parameters, {sum(p.value.size for p in self):,} elements"

    def __reduce__(self) -> tuple[Any, ...]:
        return Params, (list(self),), list(self._paths.values())

    def __setstate__(self, paths: list[str | None]) -> None:
        self._paths = dict(zip(self._paths, paths, strict=True))


def table(rows: list[tuple[str, Any, Any]]) -> list[str]:
    """Give lines of three columns: a name, a shape, and what else there is to say."""
    names, shapes = (max((len(str(row[i])) for row in rows), default=0) for i in (0, 1))
    return [f"  {name:<{names}}  {shape!s:<{shapes}}  {rest}" for name, shape, rest in rows]


def pieces_of(ps: Params, vector: Any) -> list[Any]:
    """Split a vector as `to_vector` gives it into arrays of the parameters' shapes.

    That of a real parameter is real, unless it has an imaginary part: complex ones have made the vector so.
    """
    pieces, ends = [], np.cumsum([p.value.size for p in ps])[:-1].tolist()
    for p, piece in zip(ps, np.split(vector, ends), strict=False):  # of no parameters there is one piece
        is_wider = piece.dtype.kind == "c" != p.value.dtype.kind
        piece = np.real(piece) if is_wider and not np.imag(constant(piece)).any() else piece
        pieces.append(np.reshape(piece, p.shape))
    return pieces


def assign(ps: Params, values: Iterable[Any], call: str = "an assignment of values") -> None:
    """Set parameters to values, all of them or none.

    Parameters
    ----------
    ps : Params
        The parameters.
    values : iterable of ndarray
        One for each, of its shape.
    call : str
        What an error calls this.
    """
    pairs = [(p.in_place(call), value) for p, value in zip(ps, values, strict=True)]
    for i, (x, value) in enumerate(pairs):
        if not x.flags.writeable:
            raise ValueError(f"{call}: parameter {ps.names[i]} is a read-only array.")
        if not fits(value, x):
            raise ValueError(
                f"{call}: parameter {ps.names[i]}, {described(x)}, cannot be set to {described(value)}."
            )
    # Before anything changes: a number may be too large for its dtype, and the warning an error.
    new = [np.asarray(value).astype(x.dtype, copy=False) for x, value in pairs]

    def change() -> None:
        for (x, _), values in zip(pairs, new, strict=True):
            x[...] = values

    whole(change)


def _several(iterable: Iterable[Any]) -> Iterable[Any]:
    """Return what a set of parameters may be made of or meet: not one parameter, and not gradients."""
    if isinstance(iterable, (Param, np.ndarray)):
        raise TypeError(
            f"Params takes a list of parameters, got {described(iterable)}: write Params([W, b]), and "
            "θ - params(W) or θ | params(W)."
        )
    if isinstance(iterable, Mapping):
        raise TypeError(
            f"Params are a set, neither made of {described(iterable)} nor calculated with. To collect "
            "from a dict write params(model); to take a step, update(Descent(0.1), θ, grads)."
        )
    is_several = isinstance(iterable, Iterable) or hasattr(iterable, "__getitem__")
    if not is_several or isinstance(iterable, np.generic):
        raise TypeError(
            f"expected parameters, got {described(iterable)}: they come as params(W, b) or params(model)."
        )
    return iterable


def params(*things: Any) -> Params:
    """Collect the parameters of models.

    Parameters
    ----------
    *things
        Parameters, and anything that holds some: lists, tuples, dicts, dataclasses, bound methods, and the
        attributes of any object, to any depth. An object with a method ``trainable()`` offers only what that
        returns.

    Returns
    -------
    Params
        Depth first, in the order of definition, each parameter once, with the path of the first place it was
        found in as its name. Parts may be shared or refer back to each other. To freeze one is to leave
        it out: ``params(model) - params(model[0])``.

    Raises
    ------
    TypeError
        If one of the `things` is a plain array, or some parameters are in a `set` alone, or in what that
        holds: it has no order. Also if there are plain arrays but no parameters, or a class in place of a
        model. Beside parameters, plain arrays within a model are not trained: they may be its constants.
    ValueError
        If there is nothing of the kind in the things, or a generator.

    Warns
    -----
    UserWarning
        If a model keeps an array in the memory of one of its parameters, as ``W.T`` of tied weights is.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from minidiff import Param, param, params
    >>> @dataclass
    ... class Dense:
    ...     W: Param
    ...     b: Param
    >>> first = Dense(param([[1.0, 2.0]]), param([0.0]))
    >>> second = Dense(param([[3.0]]), param([1.0]))
    >>> params([first, second])
    Params: 4 parameters, 5 elements
      [0].W  (1, 2)  float64
      [0].b  (1,)    float64
      [1].W  (1, 1)  float64
      [1].b  (1,)    float64
    """
    for thing in things:
        if is_ndarray(thing) and thing.dtype != object:
            raise TypeError(_not_a_param(thing))
        if any(isinstance(x, GeneratorType) for x in (thing if type(thing) in (list, tuple) else [thing])):
            raise ValueError(
                "params: a generator is used up by looking into it. Make a list of it, params([*models]), or "
                "give what it gives: params(W, b)."
            )
    found, arrays = _searched(things)
    if things and not found:
        raise _nothing_found(things, bool(arrays))
    if arrays:
        _warn_of_views(found, arrays)
    for thing in things:  # such as a bias that b = b - … has made a number
        every = thing if isinstance(thing, list) and thing else [thing]
        if all(isinstance(x, (float, np.inexact)) for x in every):
            raise TypeError(_not_a_param(thing))
    return found


def _searched(things: tuple[Any, ...]) -> tuple[Params, list[tuple[str, Any]]]:
    """Find the parameters in some things, and the plain arrays there with the paths that lead to them."""
    found = Params()
    seen: dict[int, Any] = {}  # holds the objects themselves, so that no id is used twice
    arrays: list[tuple[str, Any]] = []
    waiting = deque((str(i) if len(things) > 1 else "", thing) for i, thing in enumerate(things))
    while waiting:
        path, thing = waiting.popleft()
        if isinstance(thing, Param):
            if thing not in found:  # the first path counts; what is given by itself has none
                if path.startswith(_IN_A_SET):
                    raise TypeError(
                        "params: parameters in a set, or in what it holds, have no order. Use a list, or "
                        "params(W, b)."
                    )
                found._paths[thing] = path.removeprefix(".") if path and not path.isdecimal() else None
        elif id(thing) not in seen and not is_recorded(thing):  # what a loss has kept there holds none
            seen[id(thing)] = thing
            if isinstance(thing, (set, frozenset)):  # at the end: what it holds may stand elsewhere, too
                waiting.extend((_IN_A_SET, part) for part in thing)
                continue
            if is_ndarray(thing):
                arrays.append((path.removeprefix("."), thing))
            parts = [(path + step, part) for step, part in _parts(thing)]
            waiting.extendleft(reversed(parts))
    return found, arrays


def _nothing_found(things: tuple[Any, ...], has_arrays: bool) -> Exception:
    """Give the error for things without a parameter."""
    for thing in things:
        if isinstance(thing, type):
            return TypeError(f"params: {thing.__name__} is a class: make a model of it, params(model).")
    held = ", ".join(type(thing).__name__ for thing in things)
    if has_arrays:
        return TypeError(
            f"params: no Param in {held}, only plain arrays. Wrap what is to be trained: W = param(W)."
        )
    return ValueError(
        f"params: no Param in {held}. Make arrays trainable with param(x) and keep them in the model's "
        "attributes; what a function closes over cannot be seen, so give its parameters: params(W, b)."
    )


def _warn_of_views(found: Params, arrays: list[tuple[str, Any]]) -> None:
    """Warn of arrays in a model that show a parameter's memory: to a gradient they are constants."""
    homes: dict[int, list[tuple[str, Any]]] = {}
    for name, p in zip(found.names, found, strict=True):
        homes.setdefault(id(owner_of(p.value)), []).append((name, p.value))
    for path, array in arrays:
        for name, value in homes.get(id(owner_of(array)), ()):
            if array.size > value.size or not np.may_share_memory(array, value):
                continue  # they are different parts of one array
            warn(
                f"params: {path} is a plain array in the memory of parameter {name}, and to a gradient a "
                "constant. Take it in the loss (W.T, W[i]); if it is to be a constant, take a copy."
            )


_IN_A_SET = "{…}"  # the path of what only a set holds
_HOLDS_NOTHING = frozenset({str, bytes, bool, int, float, complex, type(None)})


def _parts(thing: Any) -> Iterable[tuple[str, Any]]:
    """Give what `thing` holds, in the order of definition, each with the step that leads there."""
    if type(thing) in _HOLDS_NOTHING:
        return ()
    if type(thing) in (list, tuple):
        return _items(thing)
    if is_ndarray(thing):
        return _items(thing.flat, ".flat") if thing.dtype == object else ()
    if isinstance(thing, (type, ModuleType)):
        return ()
    if isinstance(thing, MethodType):
        return [(".__self__", thing.__self__)]
    if callable(getattr(type(thing), "trainable", None)):
        offered = thing.trainable()
        if offered is None:
            raise TypeError(
                f"params: {type(thing).__name__}.trainable() returned None: it must return what to train"
            )
        several = isinstance(offered, (Iterator, ValuesView))
        return _items(offered, ".trainable()") if several else [(".trainable()", offered)]
    if isinstance(thing, Params):
        steps = (name if name.startswith("[") else f".{name}" for name in thing.names)
        return list(zip(steps, thing, strict=True))
    if isinstance(thing, ValuesView):
        return _items(thing)
    if isinstance(thing, ItemsView):
        return _by_key(thing)
    if isinstance(thing, partial):
        return (".func", thing.func), (".args", thing.args), (".keywords", thing.keywords)
    items = _items(thing) if isinstance(thing, (list, tuple, deque)) else []
    attributes = attributes_of(thing)
    if isinstance(thing, Mapping):
        items = _by_key(thing.items())
        # The slots of other mappings are how they work: `Grads` has its parameters there.
        attributes = attributes if isinstance(thing, dict) else in_dict(thing) or {}
    return items + [(f".{name}", part) for name, part in attributes.items()]


def attributes_of(x: Any) -> dict[str, Any]:
    """Give the attributes that are of an object itself: in slots, then others, in the order of definition."""
    return in_slots(x) | (in_dict(x) or {})


def in_dict(x: Any) -> dict[str, Any] | None:
    """Give the dict of an object's attributes itself, if it has one, past a ``__getattr__`` of the user's."""
    with suppress(AttributeError):
        of_object = object.__getattribute__(x, "__dict__")
        return of_object if isinstance(of_object, dict) else None
    return None


def in_slots(x: Any) -> dict[str, Any]:
    """Give the attributes that an object has in slots."""
    found = {}
    for kind in reversed(type(x).__mro__):
        for name in _slots(kind) if "__slots__" in kind.__dict__ else ():
            with suppress(AttributeError):  # it has no value
                found[name] = object.__getattribute__(x, name)
    return found


def _items(things: Iterable[Any], of: str = "") -> list[tuple[str, Any]]:
    return [(f"{of}[{i}]", item) for i, item in enumerate(things)]


def _by_key(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[str, Any]]:
    return [(f"[{_key(key, i)}]", part) for i, (key, part) in enumerate(pairs)]


def _key(key: Any, i: int) -> str:
    """Name a key by its repr, or by its place where that is long or an address, another in each run."""
    text = repr(key)
    return text if len(text) < 100 and text.isprintable() and " at 0x" not in text else str(i)


def _slots(kind: type) -> Iterator[str]:
    slots = kind.__dict__["__slots__"]
    for name in (slots,) if isinstance(slots, str) else slots:
        if name.startswith("__") and not name.endswith("__"):
            yield f"_{kind.__name__.lstrip('_')}{name}"
        elif name not in ("__dict__", "__weakref__"):
            yield name


def _not_a_param(x: object) -> str:
    advice = "Make one with param(x), or collect those of a model with params(model)."
    if isinstance(x, (np.ndarray, list)) or is_number(x):
        advice = "Wrap it: W = param(W). If it was one, step with W -= …: W = W - … makes a plain array."
    if isinstance(x, Mapping):
        advice = "params(model) collects those that dicts and lists hold."
    return f"A parameter must be a Param, got {described(x)}. {advice}"
