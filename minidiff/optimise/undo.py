"""What optimisers were before a step. If the step fails, they become that again.

What a formula keeps for a parameter changes with the parameter, when nothing can fail any more. An `apply`
changes what it keeps earlier, and so do the optimisers that it calls. Copies of that are made here.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from operator import attrgetter
from typing import Any

import numpy as np

from minidiff.iddict import IdDict
from minidiff.interrupts import trying
from minidiff.optimise.base import SETTINGS, AbstractOptimiser

__all__ = ["any_changes_more", "remembered"]

_HOLDERS = AbstractOptimiser, IdDict, list, tuple, dict
_CHANGES_MORE = attrgetter("changes_more")


def any_changes_more(stages: list[Any]) -> bool:
    """Tell whether a step may change more than what formulas keep for their parameters.

    Parameters
    ----------
    stages : list of AbstractOptimiser
        From `AbstractOptimiser.stages`.
    """
    return any(map(_CHANGES_MORE, stages))


def remembered(ps: list[Any], stages: list[Any]) -> Callable[[], None]:
    """Note what optimisers are before steps.

    Parameters
    ----------
    ps : list of Param or ndarray
        The parameters that are to make a step.
    stages : list of AbstractOptimiser
        From `AbstractOptimiser.stages`.

    Returns
    -------
    callable
        Makes the optimisers what they were. An array among their attributes that has been written into
        stays as it is.
    """
    attributes = {id(x): (x, x.__dict__.copy()) for x in stages if x.has_formula}
    waiting = [(x, False) for stage in stages for x in stage.sets()]
    waiting += [(stage, True) for stage in stages if not stage.has_formula]
    entries: list[tuple[Any, Any, list[Any]]] = []
    containers: dict[tuple[int, bool], Any] = {}  # one may hold itself
    while waiting:
        x, is_called = waiting.pop()
        if isinstance(x, AbstractOptimiser):
            if id(x) not in attributes:
                attributes[id(x)] = x, x.__dict__.copy()
                waiting += [(part, is_called) for part in attributes[id(x)][1].values()]
        elif isinstance(x, IdDict) and is_called:
            entries += [(x, p, [_copied(x[p], p)] if p in x else []) for p in ps]
        elif isinstance(x, (list, tuple, dict)) and (id(x), is_called) not in containers:
            containers[id(x), is_called] = x
            parts = x.values() if isinstance(x, dict) else x
            holders = _HOLDERS[:2] if len(x) > 100 else _HOLDERS  # such as all losses so far
            if any(issubclass(kind, holders) for kind in {*map(type, islice(parts, 100))}):
                waiting += [(part, is_called) for part in parts]

    def back() -> None:
        with SETTINGS:
            for opt, values in attributes.values():
                vars(opt).update(values)
                for name in vars(opt).keys() - values.keys():
                    del vars(opt)[name]
        for kept, p, value in entries:
            if value:
                (kept[p],) = value
            elif p in kept:
                del kept[p]

    return back


def _copied(value: Any, p: Any) -> Any:
    if type(value) is np.ndarray and not value.dtype.hasobject:
        return value.copy()
    with trying():  # it may be of a kind that has no copies
        return deepcopy(value, {id(p): p})
    return value
