"""Settings: what an annotation lets through, for rules and for schedules, wherever the class is written."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pytest

from minidiff.checks import described, integer, number
from minidiff.optimise import ADAM, Rule, apply
from minidiff.schedules import Exp, OneCycle, Schedule
from minidiff.settings import Fraction, NonNegative, NonNegativeInt, Number, PositiveInt

if TYPE_CHECKING:
    from nowhere import Unknown


def even(name, n):
    if n % 2:
        raise ValueError(f"{name} must be even")
    return n


class Own(Rule):
    eta: float = 0.1
    beta: tuple[float, float, float] = (0.9, 0.99, 0.999)
    share: Fraction = 0.5
    times: PositiveInt = 3
    since: NonNegativeInt = 0
    offset: Number = -1.0
    width: NonNegative = 0.0
    n: int = -1
    marks: tuple[float, ...] = ()
    pairs: tuple[float, str] = (1.0, "a")
    even: Annotated[int, "an even number", even] = 2
    plain: Annotated[float, "of any kind"] = 1.0
    words: tuple[str, ...] = ()
    unknown: Unknown = None
    anything: Any = None

    def coefficients(self, t):
        return (self.eta,)

    @staticmethod
    def formula(x, Δ, η):
        return η * Δ


REFUSED = {
    "eta": [(-1, ValueError), (math.inf, ValueError), (math.nan, ValueError), (10**400, ValueError),
            ("1", TypeError), (1j, TypeError), (True, TypeError), (np.True_, TypeError), (None, TypeError)],
    "beta": [((1, 2), ValueError), (0.9, TypeError), (range(3), TypeError), (np.ones((3, 1)), TypeError),
             (np.array(0.5), TypeError), ("abc", TypeError), ((0, 0, -1), ValueError)],
    "share": [(1, ValueError), (-0.1, ValueError), ("x", TypeError)],
    "times": [(0, ValueError), (2.0, TypeError), (True, TypeError)],
    "since": [(-1, ValueError)],
    "offset": [(math.inf, ValueError), ("x", TypeError)],
    "width": [(-1e-9, ValueError)],
    "n": [(2.5, TypeError), (2.0, TypeError)],
    "marks": [((1, -1), ValueError), (1.0, TypeError)],
    "pairs": [((-1, "a"), ValueError), ((1.0,), ValueError)],
    "even": [(3, ValueError)],
    "plain": [(-1, ValueError)],
}  # fmt: skip

TAKEN = {
    "eta": [(0, 0.0), (np.float32(0.5), 0.5), (np.float16(0.5), 0.5), (1e308, 1e308)],
    "beta": [([1, 2, 3], (1.0, 2.0, 3.0)), (np.array([0.5, 1, 2], np.float32), (0.5, 1.0, 2.0))],
    "share": [(math.nextafter(1, 0), math.nextafter(1, 0)), (0, 0.0)],
    "times": [(np.int8(1), 1)],
    "offset": [(-5, -5.0)],
    "n": [(-7, -7)],
    "marks": [((1, 2, 3), (1.0, 2.0, 3.0)), ([], ())],
    "pairs": [((1, None), (1.0, None))],
    "even": [(4, 4)],
    "words": [("no tuple", "no tuple")],
    "unknown": [(-1, -1)],
    "anything": [("x", "x")],
}


@pytest.mark.parametrize(("name", "value", "error"), [(k, *v) for k, vs in REFUSED.items() for v in vs])
def test_a_value_that_the_annotation_excludes_is_refused_when_made_and_when_set(name, value, error):
    opt = Own()
    for attempt in (lambda: Own(**{name: value}), lambda: setattr(opt, name, value)):
        with pytest.raises(error, match=name):
            attempt()
    assert repr(opt) == repr(Own())


@pytest.mark.parametrize(("name", "value", "stored"), [(k, *v) for k, vs in TAKEN.items() for v in vs])
def test_other_values_are_stored_as_what_the_annotation_says(name, value, stored):
    opt = Own(**{name: value})
    assert getattr(opt, name) == stored
    assert type(getattr(opt, name)) is type(stored)
    setattr(opt, name, value)
    assert getattr(opt, name) == stored


def test_positions_keywords_and_greek_letters_mean_the_same():
    assert repr(Own(0.2, (1, 2, 3))) == repr(Own(eta=0.2, beta=(1, 2, 3))) == repr(Own(η=0.2, β=(1, 2, 3)))
    with pytest.raises(TypeError, match="eta is given twice, also as η"):
        Own(η=0.2, eta=0.2)
    with pytest.raises(TypeError, match="no setting 'lr': it has eta, beta, share"):
        Own(lr=0.2)
    with pytest.raises(AttributeError, match="no setting 'lr': it has eta, beta, share"):
        Own().lr = 0.2


def test_the_signature_and_the_repr_show_the_settings():
    assert list(inspect.signature(ADAM).parameters) == ["eta", "beta", "epsilon"]
    assert list(inspect.signature(Own).parameters)[:3] == ["eta", "beta", "share"]
    assert list(inspect.signature(OneCycle).parameters)[:2] == ["nsteps", "maxval"]
    assert list(inspect.signature(Exp(1.0, 0.5)).parameters) == ["t"]  # of the call
    assert repr(Own()).startswith("Own(eta=0.1, beta=(0.9, 0.99, 0.999), share=0.5, times=3,")


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, dataclasses.replace, lambda x: pickle.loads(pickle.dumps(x))],
)
def test_copies_have_the_settings_and_check_them(duplicate):
    other = duplicate(Own(0.5))
    assert repr(other) == repr(Own(0.5))
    with pytest.raises(ValueError, match="eta"):
        other.eta = -1


def test_a_subclass_adds_settings_and_may_say_more_of_one():
    class More(Own):
        eta: Fraction = 0.25
        more: float = 0.5

    assert (More().eta, More(0.5).eta, More(more=2).more) == (0.25, 0.5, 2.0)
    for wrong in ({"eta": 1.0}, {"more": -1}, {"beta": (1,)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            More(**wrong)
    np.testing.assert_array_equal(apply(More(0.5), np.zeros(1), [1.0]), [0.5])


def test_two_rules_in_one_have_the_settings_of_both():
    class A(Rule):
        a: float = 1.0

    class B(Rule):
        b: float = 2.0

    class Both(A, B):
        pass

    assert (Both(a=3).a, Both(a=3).b) == (3.0, 2.0)
    for wrong in ("a", "b"):
        with pytest.raises(ValueError, match=wrong):
            Both(**{wrong: -1})


@pytest.mark.parametrize("base", [Rule, Schedule])
def test_keywords_of_a_class_go_to_its_other_bases_and_no_further(base):
    class Tagged:
        def __init_subclass__(cls, tag, **kwargs):
            super().__init_subclass__(**kwargs)
            cls.tag = tag

    class Mine(base, Tagged, tag=3):
        eta: float = 0.1

        def at(self, t):
            return self.eta

    assert (Mine.tag, Mine().eta) == (3, 0.1)
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        type("Wrong", (base,), {"at": Mine.at}, typo=3)


def test_an_init_of_its_own_is_kept_and_what_it_sets_is_checked():
    class Half(Rule):
        eta: float
        rho: Fraction = 0.9

        def __init__(self, eta):
            self.eta = eta / 2

    class Same(Half):
        pass

    class Through(Half):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    for cls in (Half, Same, Through):
        assert cls(0.5).eta == cls(η=0.5).eta == 0.25
        assert repr(cls(0.5)) in (f"{cls.__name__}(eta=0.25)", f"{cls.__name__}(eta=0.25, rho=0.9)")
        with pytest.raises(ValueError, match="eta"):
            cls(-1.0)
        with pytest.raises(TypeError, match="no setting 'lr'"):
            cls(0.5, lr=1)


def test_settings_beside_those_that_an_init_sets_are_made_from_all_of_them():
    class Half(Rule):
        eta: float = 0.1

        def __init__(self, eta):
            self.eta = eta / 2

    class Wider(Half):
        rho: float = 0.9

    assert repr(Wider(0.5, rho=0.8)) == "Wider(eta=0.5, rho=0.8)"


def test_what_is_shown_only_where_it_is_no_default_is_shown_where_there_is_none():
    class Own(Rule):
        epsilon: float

    assert repr(Own(1e-3)) == "Own(epsilon=0.001)"


def test_names_that_are_local_to_a_function_are_known():
    Small = Annotated[float, lambda name, x: number(name, x, "[0, 0.5]")]

    class Local(Rule):
        small: Small = 0.1

    class LocalSchedule(Schedule):
        small: Small

        def at(self, t):
            return self.small

    for make in (Local, LocalSchedule):
        with pytest.raises(ValueError, match=r"small must be in \[0, 0.5\]"):
            make(0.6)


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_a_class_in_a_notebook_is_checked(future):
    cell = f"""{future}
from minidiff.optimise import Rule
from minidiff.settings import Fraction as Share
class Noted(Rule):
    eta: float = 0.1
    share: Share = 0.5
"""
    names: dict[str, Any] = {}
    exec(cell, names)
    for wrong in ({"eta": -1}, {"share": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            names["Noted"](**wrong)


# Schedules ----------------------------------------------------------------------------------------


class Line(Schedule):
    slope: float
    steps: int = 3

    def __post_init__(self):
        self.nsteps = self.steps

    def at(self, t):
        return self.slope * t


def test_a_schedule_of_ones_own_is_written_like_a_rule():
    assert list(Line(-2.0)) == [-2.0, -4.0, -6.0]
    assert repr(Line(1, steps=5)) == "Line(slope=1.0, steps=5)"
    assert Line(1) == Line(1.0) == pickle.loads(pickle.dumps(Line(1))) != Line(1, 4)
    for wrong, error in [((math.inf,), ValueError), (("x",), TypeError), ((1.0, 2.5), TypeError)]:
        with pytest.raises(error, match=r"slope|steps"):
            Line(*wrong)
    with pytest.raises(AttributeError, match="immutable"):
        Line(1).slope = 2.0
    with pytest.raises(AttributeError, match="immutable"):
        Line(1).other = 2.0


def test_a_schedule_without_settings_is_immutable_too():
    class Zero(Schedule):
        def at(self, t):
            return 0.0

    with pytest.raises(AttributeError, match="immutable"):
        Zero().other = 1


def test_an_init_that_extends_another_may_still_assign_after_it():
    class Short(Line):
        def __init__(self, slope):
            super().__init__(slope)
            self.nsteps = 2

    assert list(Short(1.0)) == [1.0, 2.0]
    with pytest.raises(AttributeError, match="immutable"):
        Short(1.0).nsteps = 3


def test_a_greek_letter_that_is_a_setting_means_itself():
    class Both(Schedule):
        γ: float
        decay: float

        def at(self, t):
            return self.γ

    assert repr(Both(γ=1, decay=2)) == "Both(γ=1.0, decay=2.0)"


# Checks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [
        ("(-inf, inf)", [-1e308, 0, 1e308], [-math.inf, math.inf, math.nan]),
        ("[0, inf)", [0, 5e-324, 1e308], [-5e-324, math.inf, math.nan]),
        ("(0, inf)", [5e-324], [0, -1, math.nan]),
        ("[0, inf]", [0, math.inf], [-1, math.nan, -(10**400)]),
        ("[0, 1)", [0, np.nextafter(1, 0)], [1, -5e-324]),
        ("[0, 1]", [0, 1], [np.nextafter(1, 2)]),
    ],
)
def test_the_ends_of_an_interval_belong_to_it_or_not(within, inside, outside):
    for x in inside:
        assert number("x", x, within) == x
    for x in outside:
        with pytest.raises(ValueError, match="x must be"):
            number("x", x, within)


def test_an_integer_may_come_as_a_float_where_that_is_allowed():
    assert integer("n", 10.0, of_any_type=True) == 10
    for wrong in (2.5, math.inf, math.nan, np.float16(math.inf)):
        with pytest.raises(ValueError, match="n must be"):
            integer("n", wrong, of_any_type=True)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        integer("n", 0, 1)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (None, "None"),
        (1.5, "float 1.5"),
        ("a", "str 'a'"),
        ([1, 2], "list of 2: [1, 2]"),
        ({}, "dict of 0: {}"),
        (np.ones((2, 3), np.float32), "an ndarray of shape (2, 3) and dtype float32"),
        (ADAM(), "ADAM(eta=0.001, beta=(0.9, 0.999))"),
        ("x" * 100, "str '" + "x" * 59 + " …"),
    ],
)
def test_a_value_is_described_in_one_short_line(x, words):
    assert described(x) == words


@pytest.mark.parametrize(("name", "what"), [("marks", "a tuple"), ("beta", "a tuple of 3")])
def test_what_is_no_tuple_is_told_how_long_one_must_be(name, what):
    with pytest.raises(TypeError, match=f"{name} must be {what}, "):
        Own(**{name: 1.0})


def test_a_setting_that_only_an_init_knows_is_told_how_it_is_written():
    class Own(Rule):
        def __init__(self, eta):
            self.eta = eta

        def formula(self, Δ, η):
            return η * Δ

    with pytest.raises(AttributeError, match=r"no setting 'eta' yet: in the class.*eta: float = 0\.1"):
        Own(0.1)


@pytest.mark.parametrize("name", ["keeps", "real"])
def test_what_a_rule_keeps_is_a_tuple_of_names(name):
    with pytest.raises(TypeError, match="must be a tuple of names"):
        type("R", (Rule,), {name: ["m", 3]})


def test_dir_of_a_rule_lists_nothing_private():
    class Mine(ADAM):
        def _helper(self):
            pass

        def shown(self):
            pass

    assert "shown" in dir(Mine())
    assert not [name for name in dir(Mine()) if name[0] == "_" != name[1]]


def test_too_many_settings_are_told_which_there_are():
    with pytest.raises(TypeError, match="ADAM got 4 arguments, but has eta, beta, epsilon"):
        ADAM(0.1, (0.9, 0.9), 1e-8, 4)
