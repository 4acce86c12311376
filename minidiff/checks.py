"""How arguments are checked, and how error messages describe what came.

A check takes an argument's name and its value. It returns the value to use, or raises an error that says
what the argument must be and what it is.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np
from numpy.lib.array_utils import byte_bounds

__all__ = [
    "a_count",
    "add_note",
    "anything",
    "bit_generator",
    "described",
    "ends",
    "extra",
    "fits",
    "flag",
    "function",
    "generator",
    "hint",
    "instance",
    "integer",
    "is_complex",
    "is_ndarray",
    "is_number",
    "no_option",
    "number",
    "owner_of",
    "owners_of",
    "scipy",
    "several",
    "share_memory",
    "takes",
    "warn",
]


def anything(_: str, x: Any) -> Any:
    """Let pass whatever comes."""
    return x


def is_ndarray(x: object) -> TypeGuard[np.ndarray[Any, Any]]:
    """Tell whether something is an ndarray: by its class, as a parameter passes for one with `isinstance`."""
    return issubclass(type(x), np.ndarray)


def is_complex(x: Any) -> bool:
    """Tell whether something is complex: by its dtype, and without one by the dtype of its class."""
    return bool(getattr(x, "dtype", np.dtype(type(x))).kind == "c")


def owners_of(x: Any) -> list[Any]:
    """List an array and those whose memory it shows, one behind another."""
    owners = []
    while is_ndarray(x):
        owners.append(x)
        x = x.base if is_ndarray(x.base) else getattr(x.base, "base", None)  # through stride tricks
    return owners


def owner_of(x: Any) -> Any:
    """Give the array whose memory an array shows: itself, if it is no view."""
    return [x, *owners_of(x)][-1]


def share_memory(xs: Sequence[np.ndarray[Any, Any]]) -> bool:
    """Tell whether some arrays may be views of one another.

    Parameters
    ----------
    xs : sequence of ndarray
        The arrays.
    """
    bounds = sorted(map(byte_bounds, xs))
    return any(end > begin for (_, end), (begin, _) in pairwise(bounds))


def fits(a: Any, x: np.ndarray[Any, Any]) -> bool:
    """Tell whether an array can become the value of another: of its shape, and real where that is real."""
    return np.shape(a) == x.shape and np.can_cast(np.asarray(a).dtype, x.dtype, "same_kind")


def warn(message: str, kind: type[Warning] = UserWarning) -> None:
    """Warn at the caller's line: the first that is none of ours."""
    level, frame, ours = 0, inspect.currentframe(), ("minidiff.", "contextlib.")
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, kind, stacklevel=level + 1)


def described(x: object) -> str:
    """Describe a value for an error message.

    An attribute ``__description__`` of its class, if there is one, takes the place of the repr.
    """
    if is_ndarray(x):
        return f"an ndarray of shape {x.shape} and dtype {x.dtype}"
    description = getattr(type(x), "__description__", None)
    if isinstance(description, str):
        return description
    name, text = type(x).__name__, repr(x)
    line = text.partition("\n")[0][:60]
    line += " …" if line != text else ""
    if x is None or line.startswith(name):
        return line
    return f"{name} of {len(x)}: {line}" if isinstance(x, (list, tuple, dict)) else f"{name} {line}"


def hint(x: object) -> str:
    """Say where a value belongs that came where it does not: the attribute ``__hint__`` of its class."""
    return getattr(type(x), "__hint__", "")


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what an error says, also before Python 3.11."""
    add: Callable[[str], None] | None = getattr(error, "add_note", None)
    if add is not None:
        add(note)
    else:  # later tools read the same attribute
        error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined]


def instance(name: str, x: Any, kind: Any, what: str, advice: str = "") -> Any:
    """Check that an argument is an instance of `kind`, which the message calls `what`."""
    if not isinstance(x, kind):
        if isinstance(x, type) and issubclass(x, kind):
            raise TypeError(f"{name} must be {what}, got the class {x.__name__}: make one, {x.__name__}(...)")
        raise TypeError(f"{name} must be {what}, got {described(x)}{advice or hint(x)}")
    return x


def function(name: str, f: Any, what: str = "a function", advice: str = "") -> Callable[..., Any]:
    """Check that an argument can be called."""
    if not callable(f):  # first, as `isinstance` takes three times as long, for each call of a loss
        instance(name, f, Callable, what, advice)
    return f  # type: ignore[no-any-return]


def takes(f: Callable[..., Any], /, *arguments: Any, **options: Any) -> bool:
    """Tell whether `f` can be called with these arguments. It may, if it has no signature."""
    try:
        inspect.signature(f).bind(*arguments, **options)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def no_option(
    f: Callable[..., Any], name: str, cures: Mapping[str, str], says: str, listed: Callable[[list[str]], str]
) -> TypeError:
    """Give the error for an option that `f` has not: it says what to write in its place, or what `f` has.

    What to write is in `cures` under the option's name, or under ``f.name`` where it is for `f` alone. One
    that begins with an option of ours, such as ``smoothing=``, is for those that have that.
    """
    parameters = inspect.signature(f).parameters.values()
    has = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    cure = cures.get(f"{f.__name__}.{name}") or cures.get(name, "")
    option = re.match(r"(\w+)=", cure)
    if not cure or (option and option[1] not in has):
        cure = listed(has)
    return TypeError(f"{f.__name__} has no option {name!r}: {says} {cure}")


def flag(name: str, x: Any) -> bool:
    """Check that an argument is True or False: of other things, "no" for one, nobody knows what they mean."""
    return bool(instance(name, x, (bool, np.bool_), "True or False"))


def is_number(x: object) -> bool:
    """Tell whether something is one real number. True and False are none, nor is a recorded value."""
    return isinstance(x, Real) and not isinstance(x, bool) and not hasattr(type(x), "__description__")


def number(name: str, x: Any, within: str = "(-inf, inf)") -> float:
    """Check that an argument is a number in an interval such as "[0, 1)", and return it as a float."""
    if not is_number(x):
        raise TypeError(f"{name} must be a number, got {described(x)}{hint(x)}")
    least, greatest = ends(within)
    try:
        value = float(x)
    except OverflowError:
        value = math.nan  # an integer that no float can hold
    if not least <= value <= greatest:
        what = "finite" if within == "(-inf, inf)" else f"in {within}"
        raise ValueError(f"{name} must be {what}, got {described(x)}")
    return value


@cache
def ends(within: str) -> tuple[float, float]:
    """Return the least and the greatest float in an interval."""
    low, high = map(float, within[1:-1].split(","))
    least = low if within[0] == "[" else math.nextafter(low, math.inf)
    return least, high if within[-1] == "]" else math.nextafter(high, -math.inf)


def integer(name: str, n: Any, least: float = -math.inf, *, of_any_type: bool = False) -> int:
    """Check that an argument is an integer of at least `least`.

    With `of_any_type` a float such as 10.0 is one too.
    """
    if not is_number(n) or not (of_any_type or isinstance(n, Integral)):
        raise TypeError(f"{name} must be an integer, got {described(n)}")
    if of_any_type and not number(name, n).is_integer():
        raise ValueError(f"{name} must be a whole number, got {n!r}")
    if n < least:
        raise ValueError(f"{name} must be at least {least}, got {n!r}")
    return int(n)


def a_count(name: str, n: Any) -> int:
    """Check that an argument is an integer of at least 0."""
    return integer(name, n, 0)


def several(name: str, x: Any, each: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check that an argument is a tuple, list or array, and each of its items with a check of its own.

    With ``...`` for the second check the first is for all items, however many there are.
    """
    items = x.tolist() if is_ndarray(x) else x
    instance(name, items, (tuple, list), "a tuple" if ... in each else f"a tuple of {len(each)}")
    checks = each[:1] * len(items) if ... in each else each
    if len(items) != len(checks):
        raise ValueError(f"{name} must be a tuple of {len(checks)}, got {described(x)}")
    return tuple(check(f"{name}[{i}]", items[i]) for i, check in enumerate(checks))


def generator(name: str, rng: Any) -> np.random.Generator:
    """Give argument `rng` as a generator: itself, or one made from a seed."""
    # NumPy follows nested lists to any depth: a list that holds itself would end the process.
    several = rng.ravel().tolist() if is_ndarray(rng) else rng if hasattr(rng, "__len__") else ()
    if not all(isinstance(n, Integral) for n in several):
        raise TypeError(f"{name} must be a seed (an integer or several) or a generator, got {described(rng)}")
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be a seed or a generator, got {described(rng)}: {error}") from None


def bit_generator(name: str, state: Any) -> np.random.BitGenerator:
    """Give a new bit generator in the state `state`, if it is one."""
    try:
        kind = getattr(np.random, state["bit_generator"])
        bits: np.random.BitGenerator = kind(0)
        bits.state = state
        # The place among the words drawn ahead. NumPy does not check it, and would read past their end.
        place, drawn = 0, 0
        if isinstance(bits, np.random.MT19937):
            place, drawn = state["state"]["pos"], 624
        elif isinstance(bits, np.random.Philox):
            place, drawn = state["buffer_pos"], 4
        if not isinstance(bits, np.random.BitGenerator) or not 0 <= place <= drawn:
            raise ValueError(f"{kind.__name__} at place {place}")
    except Exception as error:
        raise ValueError(f"{name} is no state of a generator of NumPy's: {error!r}") from error
    return bits


def extra(module: str, message: str) -> Any:
    """Import a module of an extra. Without it the message says how to install that."""
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(message) from None


def scipy(name: str, part: str = "optimize") -> Any:
    """Import a part of SciPy for who asks by name."""
    return extra(f"scipy.{part}", f"{name} needs SciPy: pip install 'minidiff[scipy]'")
