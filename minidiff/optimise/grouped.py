"""Another optimiser, rate or decay for some of the parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from minidiff.checks import described, instance
from minidiff.iddict import IdDict
from minidiff.interrupts import whole
from minidiff.optimise.base import AbstractOptimiser
from minidiff.optimise.compose import Holder
from minidiff.params import Param, Params

__all__ = ["Grouped"]


class Grouped(Holder):
    """Several optimisers as one, each for parameters of its own.

    It indexes: ``opt[0]`` is the first group's optimiser, ``opt[-1]`` the last one's, or `rest`. What is to
    stay as it is belongs to no group: ``params(model) - params(model.body)`` are the parameters to train.

    Parameters
    ----------
    *groups : (Params, AbstractOptimiser) tuples
        Parameters, and the optimiser that takes their steps.
    rest : AbstractOptimiser, optional
        Takes the steps of all other parameters. Unless given, there may be none.

    Attributes
    ----------
    eta : float
        The learning rate of the last optimiser whose rate was not 0, where all have one. Setting it, as a
        `Scheduler` does, sets them all, in the proportions that they had when this was made.

    Raises
    ------
    TypeError
        For a group that is no tuple of parameters and an optimiser.
    ValueError
        For a parameter that is in two groups; at a step, for one that is in none.

    Examples
    --------
    A lower rate for the body, no decay on the biases:

    >>> import numpy as np
    >>> from minidiff import param, params
    >>> from minidiff.optimise import ADAMW, Descent, Grouped, update
    >>> body, head = param([1.0]), param([1.0])
    >>> opt = Grouped((params(body), Descent(0.01)), rest=Descent(0.1))
    >>> update(opt, params(body, head), {body: np.ones(1), head: np.ones(1)})
    >>> body.value, head.value
    (array([0.99]), array([0.9]))
    >>> opt.eta = 0.2
    >>> opt
    Grouped(
        (1 parameters, Descent(eta=0.02)),
        rest=Descent(eta=0.2),
    )
    >>> W, b = param(np.ones((3, 2))), param(np.zeros(2))
    >>> biases = [p for p in params(W, b) if p.ndim == 1]
    >>> opt = Grouped((biases, ADAMW(0.001)), rest=ADAMW(0.001, decay=0.01))

    References
    ----------
    PyTorch: parameter groups; optax: ``multi_transform``.
    """

    by_parameter = True
    _attributes = "members", "places", "has_rest", "ratios"
    _structure = ("places",)
    _of_settings = ("ratios",)

    def __init__(
        self,
        *groups: tuple[Params | Iterable[Param], AbstractOptimiser],
        rest: AbstractOptimiser | None = None,
    ) -> None:
        self.members: list[Any] = []
        self.places: IdDict[Param, int] = IdDict()
        for i, group in enumerate(groups):
            if not (isinstance(group, tuple) and len(group) == 2):
                raise TypeError(f"group {i} must be (parameters, optimiser), got {described(group)}")
            ps, opt = group
            self.members.append(_optimiser(f"the optimiser of group {i}", opt))
            for p in Params([ps] if isinstance(ps, Param) else ps):
                if p in self.places:
                    raise ValueError(f"a parameter of shape {p.shape} is in groups {self.places[p]} and {i}")
                self.places[p] = i
        self.has_rest = rest is not None
        if self.has_rest:
            self.members.append(_optimiser("rest", rest))
        if not self.members:
            raise TypeError("Grouped needs groups, (parameters, optimiser) each")
        rates: list[Any] = [getattr(opt, "eta", None) for opt in self.members]
        unit = next(filter(None, reversed(rates)), None)
        self.ratios = None if None in rates else tuple(rate / unit if unit else 1.0 for rate in rates)

    @property
    def eta(self) -> float:
        """The rate of the last that has one; setting it sets all rates, in the same proportions."""
        pairs = zip(self._check_rates(), self.members, strict=True)
        return [opt for ratio, opt in pairs if ratio][-1].eta  # type: ignore[no-any-return]

    @eta.setter
    def eta(self, value: float) -> None:
        rates = [ratio * value for ratio in self._check_rates()]

        def change() -> None:
            before = [(opt, opt.eta) for opt in self.members]
            try:
                for opt, rate in zip(self.members, rates, strict=True):
                    opt.eta = rate
            except Exception:
                for opt, rate in before:
                    if opt.eta != rate:  # one that a schedule sets has refused
                        opt.eta = rate
                raise

        whole(change)

    def _check_rates(self) -> tuple[float, ...]:
        if self.ratios is None:
            raise AttributeError(
                "not all optimisers of these groups have an eta: set a group's own, opt[0].eta"
            )
        return self.ratios

    def __getitem__(self, index: int) -> AbstractOptimiser:
        return self.members[index]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.members)

    def _members_stages(self, x: Any) -> list[AbstractOptimiser]:
        """Return those of the parameter's own optimiser."""
        if x is None:
            return [self]
        i = self.places.get(x, -1)  # the last is the rest
        if i < 0 and not self.has_rest:
            raise ValueError(f"a parameter of shape {x.shape} is in no group: put it in one, or give rest=")
        return self.members[i].stages(x)  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Forget the state of all members. The groups stay."""
        for opt in self.members:
            opt.reset()

    def __repr__(self) -> str:
        sizes = [sum(place == i for place in self.places.values()) for i in range(len(self.members))]
        rows = [f"({n} parameters, {opt!r}),\n" for n, opt in zip(sizes, self.members, strict=True)]
        if self.has_rest:
            rows[-1] = f"rest={self.members[-1]!r},\n"
        return f"{type(self).__name__}(\n{textwrap.indent(''.join(rows), '    ')})"


def _optimiser(name: str, opt: Any) -> Any:
    return instance(name, opt, AbstractOptimiser, "an optimiser, such as ADAM()")
