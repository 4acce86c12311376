"""Settings, which a class declares by annotation as a dataclass does: checked, shown, with Greek names.

The annotation says what a setting may be:

``float``, ``int``
    A finite number, an integer. A `Rule` asks for floats of at least 0.
`Number`, `Fraction`, `NonNegative`
    Any finite number, a number in [0, 1), one of at least 0.
`NonNegativeInt`, `PositiveInt`
    An integer of at least 0, of at least 1.
``Annotated[T, check]``
    What ``check(name, value)`` returns, a function such as those of `minidiff.checks`.
``tuple[A, B]``, ``tuple[A, ...]``
    Two of these, or any number of the first.
Anything else
    Whatever comes.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin

from minidiff.checks import a_count, anything, hint, integer, number, several

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform as dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Stand in for what only type checkers need."""
        return lambda cls: cls


__all__ = ["Fraction", "NonNegative", "NonNegativeInt", "Number", "PositiveInt", "Settings"]

Check = Callable[[str, Any], Any]

Number = Annotated[float, number]
Fraction = Annotated[float, partial(number, within="[0, 1)")]
NonNegative = Annotated[float, partial(number, within="[0, inf)")]
NonNegativeInt = Annotated[int, a_count]
PositiveInt = Annotated[int, partial(integer, least=1)]


class Settings:
    """The base of what has settings. Its subclasses become dataclasses.

    A class may have an ``__init__`` of its own. What that assigns to an annotated name is checked as well.
    """

    _greek: ClassVar[tuple[str, ...]] = ()  # Greek keywords, each with the name it stands for
    _elsewhere: ClassVar[Mapping[str, str]] = {}  # what there is in place of other libraries' settings
    _floats: ClassVar[Check] = number  # checks a setting annotated float
    _checks: ClassVar[Mapping[str, Check]] = {}
    _own_init: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Settings in cls.__bases__:
            return  # a base class of rules or schedules has no settings of its own
        own = inspect.get_annotations(cls)
        cls._own_init = "__init__" in vars(cls) or (cls._own_init and not own)
        dataclass(init=not cls._own_init, eq=False, repr=False)(cls)
        if "__init__" in vars(cls):
            cls.__init__ = _with_greek_names(cls)  # type: ignore[method-assign]
        place: Any = sys._getframe(1)
        while place.f_code.co_name in ("__init_subclass__", "__new__"):
            place = place.f_back
        names = {**place.f_globals, **place.f_locals}  # where the class is written
        checks = {f.name: cls._check_of(f.type, names) for f in fields(cls) if f.name in own}  # type: ignore
        inherited = [vars(base).get("_checks", {}).items() for base in reversed(cls.__mro__)]
        cls._checks = dict(chain(*inherited, checks.items()))

    @classmethod
    def _check_of(cls, annotation: Any, names: dict[str, Any]) -> Check:
        """Return the check that an annotation asks for, which may be a string made of `names`."""
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, names)
            except Exception:
                return anything  # it has names that only type checkers see
        kind, parts = get_origin(annotation), get_args(annotation)
        if kind is Annotated:
            return next(filter(callable, parts[1:]), None) or cls._check_of(parts[0], names)
        if kind is tuple:
            each = tuple(part if part is ... else cls._check_of(part, names) for part in parts)
            return anything if {*each} <= {anything, ...} else partial(several, each=each)
        return cls._floats if annotation is float else integer if annotation is int else anything

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self._checks.get(name, anything)(name, value))

    def arguments(self) -> dict[str, Any]:
        """Return what the repr shows: the settings, by name."""
        return {name: vars(self)[name] for name in _names_of(type(self)) if name in vars(self)}

    def __repr__(self) -> str:
        return as_call(self)

    def _finish(self) -> None:
        """Do what there is to do when all settings are set."""


def _with_greek_names(cls: type[Settings]) -> Callable[..., None]:
    """Return a class's ``__init__`` that takes Greek keywords too, and refuses others in plain words."""
    init = cls.__init__
    known = {name: parameter.kind for name, parameter in inspect.signature(init).parameters.items()}
    pairs = [words.split() for words in cls._greek]
    greek = {letter: name for letter, name in pairs if name in known and letter not in known}

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        for letter in greek.keys() & kwargs.keys():
            if greek[letter] in kwargs:
                raise TypeError(f"{greek[letter]} is given twice, also as {letter}")
            kwargs[greek[letter]] = kwargs.pop(letter)
        if len(args) >= len(known) and inspect.Parameter.VAR_POSITIONAL not in known.values():
            names = ", ".join(_names_of(type(self)))
            none = "no settings; in the class, one is written eta: float = 0.1"
            raise TypeError(
                f"{type(self).__name__} got {len(args)} arguments, but has {names or none}{hint(args[0])}"
            )
        for name in kwargs.keys() - known.keys():
            if inspect.Parameter.VAR_KEYWORD not in known.values():
                raise TypeError(no_setting(type(self), name))
        init(self, *args, **kwargs)
        if type(self).__init__ is wrapped:
            self._finish()

    return wrapped


def _names_of(cls: type[Settings]) -> Iterable[str]:
    """Return the settings' names: the arguments of ``__init__``, or what is annotated beside its own."""
    return (cls._own_init and cls._checks) or inspect.signature(cls).parameters


def no_setting(cls: type[Settings], name: str) -> str:
    """Say that a class has no such setting, and which it has."""
    names = ", ".join(_names_of(cls))
    written = f"in the class, one is written {name}: float = 0.1"
    if name in _names_of(cls):  # which its own __init__ takes
        return f"{cls.__name__} has no setting {name!r} yet: {written}, without an __init__"
    none = f"it has none; {written}"
    elsewhere = cls._elsewhere.get(name, "")
    return f"{cls.__name__} has no setting {name!r}: " + (f"it has {names}{elsewhere}" if names else none)


def as_call(x: Any) -> str:
    """Write an object as the call that makes it."""
    return f"{type(x).__name__}({', '.join(f'{name}={value!r}' for name, value in x.arguments().items())})"
