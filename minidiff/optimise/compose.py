"""Composition: several optimisers as one."""

from __future__ import annotations

import textwrap
from abc import abstractmethod
from collections.abc import Iterable, MutableSequence
from functools import partial
from typing import Annotated, Any, ClassVar, overload

import numpy as np

from minidiff.checks import instance, number
from minidiff.optimise.base import AbstractOptimiser, inside, member_with
from minidiff.optimise.rule import Rule, widened
from minidiff.optimise.step import step_of
from minidiff.program.signature import held_by
from minidiff.settings import PositiveInt
from minidiff.typing import Array

__all__ = ["Holder", "Lookahead", "Optimiser"]


class Holder(AbstractOptimiser):
    """The base of optimisers that hold others: it keeps no setting of theirs, which nobody would read."""

    _attributes: ClassVar[tuple[str, ...]] = ()

    def __bool__(self) -> bool:
        return True  # also without members

    def __setattr__(self, name: str, value: Any) -> None:
        is_ours = name in self._attributes or isinstance(getattr(type(self), name, None), property)
        if not (is_ours or self._may_have(name)):
            raise AttributeError(
                f"{type(self).__name__} has no {name!r} of its own: set a member's, "
                f"{member_with(self, name)}.{name} = {value!r:.40}"
            )
        super().__setattr__(name, value)

    @abstractmethod
    def _members_stages(self, x: Any) -> list[AbstractOptimiser]:
        """Return the optimisers that a gradient goes through, those of nested compositions in their place."""

    def stages(self, x: Any = None) -> list[AbstractOptimiser]:
        """Return these. A subclass with an `apply` of its own is one."""
        return [self] if type(self).apply is not Holder.apply else self._members_stages(x)

    def apply(self, x: Any, Δ: Array) -> Array:
        """Advance the state of those held by the gradient Δ and return the step to subtract from `x`."""
        return step_of(self._members_stages(x), x, Δ)

    def _may_have(self, name: str) -> bool:
        """Tell whether an attribute is one of a user's own class, and none of what it holds."""
        held = [*vars(self).get("members", ()), vars(self).get("opt")]
        is_users = not type(self).__module__.startswith("minidiff.")
        return is_users and not any(hasattr(x, name) for x in held)


class Optimiser(Holder, MutableSequence[AbstractOptimiser]):
    """Several optimisers as one: the gradient goes through each in turn, and the last one's step is taken.

    It is a list of its members: it indexes, slices, iterates, appends and inserts. Members may be
    compositions themselves.

    Parameters
    ----------
    *members : AbstractOptimiser
        The optimisers, in the order in which the gradient goes through them.

    Raises
    ------
    TypeError
        For a member that is no optimiser.
    ValueError
        For a composition that would contain itself.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import ADAM, ClipValue, Descent, WeightDecay
    >>> from minidiff.optimise import Optimiser, update
    >>> opt = Optimiser(WeightDecay(0.5), Descent(0.1))
    >>> x = np.array([2.0])
    >>> update(opt, x, [1.0])
    >>> x
    array([1.8])
    >>> opt[1].eta = 0.2
    >>> opt.insert(0, ClipValue(1.0))
    >>> Optimiser(opt, ADAM())
    Optimiser(
        Optimiser(
            ClipValue(thresh=1.0),
            WeightDecay(wd=0.5),
            Descent(eta=0.2),
        ),
        ADAM(eta=0.001, beta=(0.9, 0.999)),
    )
    """

    _attributes = ("members",)

    def __init__(self, *members: AbstractOptimiser) -> None:
        self.members: list[AbstractOptimiser] = [self._member(member) for member in members]

    def _members_stages(self, x: Any) -> list[AbstractOptimiser]:
        """Return those of one member after another."""
        return [stage for member in self.members for stage in member.stages(x)]

    def insert(self, index: int, value: AbstractOptimiser) -> None:
        """Put an optimiser in before the member at `index`."""
        self.members.insert(index, self._member(value))

    @overload
    def __getitem__(self, index: int) -> AbstractOptimiser: ...
    @overload
    def __getitem__(self, index: slice) -> Optimiser: ...
    def __getitem__(self, index: int | slice) -> AbstractOptimiser:
        if isinstance(index, slice):
            return Optimiser(*self.members[index])
        return self.members[index]

    @overload
    def __setitem__(self, index: int, value: AbstractOptimiser) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[AbstractOptimiser]) -> None: ...
    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            self.members[index] = [self._member(member) for member in value]
        else:
            self.members[index] = self._member(value)

    def __delitem__(self, index: int | slice) -> None:
        del self.members[index]

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        lines = "".join(textwrap.indent(f"{member!r},\n", "    ") for member in self.members)
        return f"{type(self).__name__}(\n{lines})" if lines else f"{type(self).__name__}()"

    def _member(self, member: Any) -> AbstractOptimiser:
        several = ": write Optimiser(*members)" if isinstance(member, (list, tuple)) else ""
        what = "an optimiser such as ADAM()"
        opt: AbstractOptimiser = instance(
            "a member of a composition", member, AbstractOptimiser, what, several
        )
        if any(x is self for x in held_by(opt, inside)):
            raise ValueError("a composition cannot contain itself")
        return opt


class SlowWeights(Rule):
    """What `Lookahead` does to the steps of its optimiser."""

    k: PositiveInt = 5
    alpha: Annotated[float, partial(number, within="[0, 1]")] = 0.5
    keeps = ("slow",)

    def begin(self, x: Array) -> dict[str, Any]:
        return super().begin(x) | {"slow": np.array(widened(x))}

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.alpha, t % self.k == 0

    @staticmethod
    def formula(x: Any, Δ: Any, slow: Any, α: Any, is_due: Any) -> Any:
        new = np.where(is_due, slow + α * (x - Δ - slow), slow)
        return np.where(is_due, x - new, Δ), new


class Lookahead(Optimiser):
    r"""An optimiser that goes k steps ahead, and then a part of the way back.

    .. math:: s \leftarrow s + α (x - s), \qquad x \leftarrow s \qquad \text{at every } k\text{-th step}

    where the slow weights s begin as the parameter does. It is a composition of two: ``opt[0]`` is the
    optimiser, and ``opt[1]`` has the settings k and alpha.

    Parameters
    ----------
    opt : AbstractOptimiser
        The optimiser that goes ahead.
    k : int, default 5
        The number of its steps from one synchronisation to the next, at least 1.
    alpha : float, default 0.5
        How much of the way is kept, α in [0, 1].

    Attributes
    ----------
    eta : float
        The learning rate of ``opt[0]``.

    Notes
    -----
    Each parameter counts its own steps. The optimiser's state stays at a synchronisation, as in the paper's
    experiments on images.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff.optimise import Descent, Lookahead, update
    >>> opt, x = Lookahead(Descent(1.0), k=2), np.zeros(1)
    >>> for _ in range(3):
    ...     update(opt, x, [1.0])
    ...     print(x)
    [-1.]
    [-1.]
    [-2.]
    >>> opt
    Lookahead(
        Descent(eta=1.0),
        SlowWeights(k=2, alpha=0.5),
    )

    References
    ----------
    M. R. Zhang, J. Lucas, G. Hinton and J. Ba, "Lookahead Optimizer: k steps forward, 1 step back", 2019,
    arXiv:1907.08610.
    """

    def __init__(self, opt: AbstractOptimiser, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(opt, SlowWeights(k, alpha))

    eta = property(lambda self: self[0].eta, lambda self, value: setattr(self[0], "eta", value))
