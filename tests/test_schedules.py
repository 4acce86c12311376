"""Schedules: their formulas, what they have in common, and how optimisers use them."""

import copy
import gc
import inspect
import json
import math
import pickle
import re
import runpy
import sys
import threading
import weakref
from fractions import Fraction
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidiff.schedules as schedules_module
from minidiff import compiled, param, params, train
from minidiff.checkpoint import load, save
from minidiff.optimise import (
    ADAM,
    AbstractOptimiser,
    ClipNorm,
    ClipValue,
    Descent,
    Grouped,
    InvDecay,
    Lookahead,
    Momentum,
    Optimiser,
    Rprop,
    WeightDecay,
    apply,
    reset,
    update,
)
from minidiff.schedules import (
    ComposedSchedule,
    Constant,
    Cos,
    CosAnneal,
    Exp,
    Interpolator,
    Inv,
    Loop,
    OneCycle,
    Poly,
    Schedule,
    Scheduler,
    Sequence,
    Shifted,
    Shortened,
    Sin,
    SinDecay2,
    SinExp,
    Stateful,
    Step,
    Triangle,
    TriangleDecay2,
    TriangleExp,
    WarmupCos,
    reverse,
    symmetric,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "schedules.json").read_text(encoding="utf-8"))[
    "cases"
]


def third_of(t):
    return t / 3


EACH = [
    Step(1.0, 0.8, 3),
    Step(1.0, 0.8, [2, 3, 2]),
    Exp(1.0, 0.9),
    Poly(1.0, 2, 12),
    Inv(1.0, 0.8, 2),
    Triangle(0.1, 1.0, 5),
    TriangleDecay2(1.0, 0.1, 5),
    TriangleExp(0.1, 1.0, 5, 0.9),
    Sin(0.1, 1.0, 5),
    SinDecay2(1.0, 0.1, 5),
    SinExp(0.1, 1.0, 5, 0.9),
    CosAnneal(0.1, 1.0, 5),
    CosAnneal(1.0, 0.1, 5, restart=False),
    Constant(0.3),
    Sequence((0.1, 3), (Exp(1.0, 0.5), 4), (third_of, 2)),
    Sequence([0.1, Poly(1.0, 2, 5)], [3, 5]),
    Loop(Exp(1.0, 0.5), 4),
    Interpolator(Exp(1.0, 0.5), 3),
    Interpolator(Poly(1.0, 1, 5), 2.5),
    Shifted(Poly(1.0, 1, 5), 3),
    Shortened(Exp(1.0, 0.5), 6),
    ComposedSchedule(Sin, (0.0, Exp(1.0, 0.5), 4)),
    OneCycle(20, 0.1),
    reverse(Exp(1.0, 0.5), 8),
    symmetric(Exp(1.0, 0.5), 8),
]
steps = st.integers(1, 10**6)
each = pytest.mark.parametrize("schedule", EACH, ids=lambda s: repr(s).split(" at 0x")[0])


def exact(u, period):
    """πu/period as a float, rounded once, for a u of any size: whole turns are taken off exactly."""
    return float(Fraction(u % (2 * period), period)) * math.pi


# Formulas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['schedule']}-{c['kwargs']}")
def test_agrees_with_the_golden_values(case):
    schedule = getattr(schedules_module, case["schedule"])(**case["kwargs"])
    t = np.arange(1, len(case["values"]) + 1)
    np.testing.assert_allclose(schedule(t), case["values"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("t", [10**9, 10**9 + 3, 10**15 + 7])
def test_waves_stay_exact_at_any_step(t):
    period = 7
    x = exact(t - 1, period)
    triangle = 1 - abs(1 - 2 * float(Fraction((t - 1) % period, period)))
    assert Triangle(0, 1, period)(t) == pytest.approx(triangle, abs=1e-11)
    assert Sin(0, 1, period)(t) == pytest.approx(abs(math.sin(x)), abs=1e-11)
    assert CosAnneal(0, 1, period, restart=False)(t) == pytest.approx((1 + math.cos(x)) / 2, abs=1e-11)
    assert CosAnneal(0, 1, period)(t) == CosAnneal(0, 1, period)((t - 1) % period + 1)


def test_decays_neither_overflow_nor_slow_down_at_a_late_step():
    t = 10**9
    assert Exp(1.0, 0.9)(t) == Step(1.0, 0.5, 2)(t) == 0.0
    assert Exp(1.0, 1.1)(t) == math.inf
    assert Exp(1.0, -2.0)(t) == -math.inf
    assert Inv(1.0, 1.0, 1)(t) == pytest.approx(1e-9, rel=1e-12)
    assert Inv(1.0, 1.0, 1000)(t) == 0.0
    assert TriangleDecay2(0.25, 1.0, 3)(t) == SinDecay2(0.25, 1.0, 3)(t) == SinExp(0.25, 1, 3, 0.9)(t) == 0.25


@pytest.mark.parametrize("degree", [2000, 2001])
def test_what_no_float_can_hold_has_the_sign_of_the_power(degree):
    assert Inv(1.0, 0.0, degree)(9) == 1.0
    assert Poly(1.0, -degree, 2)(2) == Poly(3.0, -float(degree), 4)(3) == math.inf  # (1/2) ** -degree
    assert Exp(1.0, 2.0)(degree + 1) == math.inf
    assert Exp(1.0, -2.0)(degree + 1) == (-1) ** degree * math.inf


@pytest.mark.parametrize("t", [1, 3, 2049, 10**9])
def test_what_is_zero_stays_so_however_large_its_factor(t):
    for schedule in (Exp(0.0, 2.0), Exp(0.0, -2.0), Step(0.0, 3.0, 1), Inv(0.0, 1.0, -99.0)):
        assert schedule(t) == 0.0
    assert TriangleExp(0.5, 0.5, 2, 1.5)(t) == SinExp(0.5, 0.5, 2, 1.5)(t) == 0.5


def test_one_cycle_by_its_two_cosines():
    schedule = OneCycle(10, 1.0, startval=0.2, endval=0.1, percent_start=0.35)
    rise = [0.2 + 0.8 * (1 - math.cos(math.pi * u / 4)) / 2 for u in range(4)]
    fall = [0.1 + 0.9 * (1 + math.cos(math.pi * u / 6)) / 2 for u in range(6)]
    np.testing.assert_allclose(list(schedule), rise + fall, rtol=1e-14)


@pytest.mark.parametrize(("percent_start", "first"), [(0.0, 1.0), (1.0, 1 / 25)])
def test_one_cycle_may_be_all_fall_or_all_rise(percent_start, first):
    values = list(OneCycle(5, 1.0, percent_start=percent_start))
    assert values[0] == pytest.approx(first, rel=1e-15)
    assert values == sorted(values, reverse=percent_start == 0)


def test_the_ends_of_a_wave_may_be_given_in_either_order():
    for wave in (Triangle, TriangleDecay2, Sin, SinDecay2, CosAnneal):
        np.testing.assert_array_equal(wave(0.1, 0.7, 6)(range(1, 30)), wave(0.7, 0.1, 6)(range(1, 30)))


# What all schedules have in common -----------------------------------------------------------------


@each
def test_iterating_equals_calling_and_starts_over(schedule):
    first = list(islice(schedule, 30))
    assert first == [schedule(t) for t in range(1, len(first) + 1)]
    assert list(islice(schedule, 30)) == first
    if schedule.nsteps is not None:
        assert len(first) == len(schedule) == schedule.nsteps
        with pytest.raises(IndexError, match=f"step {schedule.nsteps + 1} "):
            schedule(schedule.nsteps + 1)


@each
def test_an_array_of_steps_gives_the_array_of_values(schedule):
    n = 6 if schedule.nsteps is None else min(6, schedule.nsteps // 2 * 2)
    t = np.arange(1, n + 1, dtype=np.int32).reshape(2, -1)[:, ::-1]
    values = schedule(t)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [[schedule(i) for i in row] for row in t])
    assert schedule(t[:0]).shape == (0, n // 2)


@each
def test_a_step_gives_a_python_float(schedule):
    for t in (2, np.int64(2), np.uint8(2), np.array(2)):
        assert type(schedule(t)) is float
        assert schedule(t) == schedule(2)


@each
def test_pickles_copies_and_compares_by_what_it_was_made_of(schedule):
    for other in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert list(islice(other, 10)) == list(islice(schedule, 10))
    assert [s for s in EACH if s == schedule] == [schedule]


@pytest.mark.parametrize(
    "schedule", [s for s in EACH if not isinstance(s, ComposedSchedule) and "<" not in repr(s)], ids=repr
)
def test_repr_reads_like_the_call_that_makes_it(schedule):
    assert eval(repr(schedule), vars(schedules_module)) == schedule


def test_the_pages_name_is_the_same_schedule():
    assert repr(Cos(λ0=1e-4, λ1=1e-2, period=10)) == "CosAnneal(l0=0.0001, l1=0.01, period=10, restart=True)"


@each
def test_cannot_be_changed(schedule):
    name = next(iter(vars(schedule)))
    for change in (lambda: setattr(schedule, name, 1.0), lambda: delattr(schedule, name)):
        with pytest.raises(AttributeError, match="immutable"):
            change()


@each
def test_is_true(schedule):
    assert schedule


def test_one_without_end_has_no_length():
    with pytest.raises(TypeError, match="without end"):
        len(Exp(1.0, 0.5))


@pytest.mark.parametrize(
    ("greek", "plain"),
    [
        (Step(λ=1, γ=0.5, step_sizes=3), Step(start=1, decay=0.5, step_sizes=3)),
        (Exp(λ=1, γ=0.5), Exp(start=1, decay=0.5)),
        (Poly(λ=1, p=2, max_iter=3), Poly(start=1, degree=2, max_iter=3)),
        (Inv(λ=1, γ=0.5, p=2), Inv(start=1, decay=0.5, degree=2)),
        (Sin(λ0=0, λ1=1, period=3), Sin(l0=0, l1=1, period=3)),
        (TriangleExp(λ0=0, λ1=1, period=3, γ=0.5), TriangleExp(l0=0, l1=1, period=3, decay=0.5)),
        (Cos(0, λ1=1, period=3), Cos(0, l1=1, period=3)),
    ],
)
def test_greek_keywords_are_other_names_for_the_plain_ones(greek, plain):
    assert greek == plain


@pytest.mark.parametrize(
    "twice", [lambda: Exp(λ=1, start=1, decay=0.5), lambda: Exp(1, 0.5, λ=1), lambda: Exp(λ0=1, decay=1)]
)
def test_a_keyword_given_twice_or_unknown_is_an_error(twice):
    with pytest.raises(TypeError, match=r"start|λ0"):
        twice()


def test_the_signature_shows_the_arguments():
    assert list(inspect.signature(Cos).parameters) == ["l0", "l1", "period", "restart"]


def test_a_schedule_of_ones_own_needs_only_the_value_at_t():
    class Warm(Schedule):
        def __init__(self, p, γ):
            self.p, self.γ, self.nsteps = p, γ, 3

        def at(self, t):
            return self.γ if t < self.p else 1

    schedule = Warm(p=2, γ=0.5)  # its own keywords stay its own
    assert list(schedule) == [0.5, 1.0, 1.0]
    assert repr(schedule) == "Warm(p=2, γ=0.5)"
    assert schedule == Warm(2, 0.5) != Warm(3, 0.5)


# Schedules made of schedules -----------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.1, 0.9), st.integers(1, 6)), min_size=1, max_size=5))
def test_a_sequence_is_a_concatenation(stages):
    parts = [(Exp(1.0, decay), n) for decay, n in stages]
    joined = [v for s, n in parts for v in islice(s, n)]
    schedule = Sequence(*parts)
    assert list(islice(schedule, len(joined))) == joined
    last, n = parts[-1]
    assert schedule(len(joined) + 5) == last(n + 5)
    assert schedule == Sequence([s for s, _ in parts], np.array([n for _, n in parts]))


def test_a_late_stage_of_a_long_sequence_is_found():
    n = 10**5
    assert Sequence(*((float(i), 2) for i in range(n)))(2 * n - 2) == n - 2
    assert Step(0.0, 1.0, [2] * n)(2 * n) == 0.0


@given(st.integers(1, 20), steps)
def test_a_loop_is_periodic(period, t):
    schedule = Loop(third_of, period)
    assert schedule(t + period) == schedule(t)
    assert schedule(t) == third_of(1 + (t - 1) % period)


@given(st.integers(1, 1000), steps)
def test_shifted_starts_at_its_offset(offset, t):
    assert Shifted(Inv(1.0, 0.1, 1), offset)(t) == Inv(1.0, 0.1, 1)(t - 1 + offset)


@given(st.one_of(st.integers(1, 50), st.floats(0.05, 50)), steps)
def test_an_interpolator_counts_in_larger_units(rate, t):
    assert Interpolator(Inv(1.0, 0.1, 1), rate)(t) == Inv(1.0, 0.1, 1)(math.ceil(t / rate))


@given(st.one_of(st.integers(1, 50), st.floats(0.05, 50)), st.integers(1, 50))
def test_an_interpolated_schedule_ends_when_its_schedule_does(rate, nsteps):
    schedule = Interpolator(Poly(1.0, 1, nsteps), rate)
    values = list(schedule)
    assert len(values) == sum(math.ceil(t / rate) <= nsteps for t in range(1, len(values) + 2))


def test_a_composed_schedule_makes_its_schedule_anew_at_every_step():
    schedule = ComposedSchedule(Triangle, (0.0, Exp(1.0, 0.9), 4))
    for t in range(1, 20):
        assert schedule(t) == Triangle(0.0, 0.9 ** (t - 1), 4)(t)
    assert len(ComposedSchedule(lambda top: OneCycle(9, top), (Exp(1.0, 0.5),))) == 9
    assert len(ComposedSchedule(Exp, (Poly(1.0, 1, 7), 0.5))) == 7


@pytest.mark.parametrize("lengths", [(3, 1, 4), (1,), (5, 5)])
def test_a_sequence_of_a_generator_is_that_of_its_stages(lengths):
    stages = [(Exp(1.0 + n, 0.5), n) for n in lengths]
    lazy, eager = Sequence(stage for stage in stages), Sequence(*stages)
    for t in (2, 30, 1, *range(1, 20)):  # in any order
        assert lazy(t) == eager(t)
    assert lazy.nsteps is None
    assert copy.deepcopy(lazy)(9) == eager(9)
    assert hash(lazy) == hash(lazy)
    assert repr(lazy).startswith("Sequence(<generator")


def test_a_sequence_of_a_generator_may_be_without_end_and_makes_its_stages_when_they_are_reached():
    made = []
    lazy = Sequence((made.append(n) or Cos(0.0, 1.0, n), n) for n in count(1))
    assert made == [1]
    assert lazy(4) == 1.0
    assert made == [1, 2, 3]
    t = 1 + sum(range(1, 50))
    assert lazy([t, t + 25]).tolist() == pytest.approx([1.0, 0.5])
    assert len(made) == 50


def test_a_sequence_of_a_generator_names_a_stage_that_is_none():
    for stages, error, words in [
        (iter([]), ValueError, "at least one"),
        (iter([5]), TypeError, "tuples"),
        (iter([(0.1, 0)]), ValueError, "stage 1"),
    ]:
        with pytest.raises(error, match=words):
            Sequence(stages)
    lazy = Sequence(iter([(0.1, 2), ("x", 3), (0.2, 4)]))
    for _ in range(2):  # the next stage does not come in its place
        assert lazy(2) == 0.1
        with pytest.raises(TypeError, match="stage 2"):
            lazy(3)


def test_a_generator_that_has_failed_is_not_at_its_end():
    lazy = Sequence((1 / n, 2) for n in [1, 0, 4])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            lazy([1, 2, 3, 4, 5])
    assert lazy([1, 2]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("ceil", "values", "nsteps"),
    [
        (math.ceil, [1, 1, 2, 2, 3, 3], 6),
        (lambda x: math.floor(x) + 1, [1, 2, 2, 3, 3], 5),
        (lambda x: np.int64(max(1, round(x))), [1, 1, 2, 2, 2, 3], 6),
    ],
)
def test_an_interpolator_rounds_as_it_is_told(ceil, values, nsteps):
    assert [Interpolator(float, 2, ceil)(t) for t in range(1, len(values) + 1)] == values
    finite = Interpolator(Shortened(float, 3), 2, ceil)
    assert list(finite) == values
    assert len(finite) == nsteps


def test_an_interpolators_rounding_must_give_steps():
    with pytest.raises(ValueError, match="what ceil gives"):
        Interpolator(float, 2, lambda x: x)(1)
    with pytest.raises(TypeError, match="ceil must be"):
        Interpolator(float, 2, 3)


@given(st.integers(2, 30))
def test_reverse_and_symmetric_by_their_equations(period):
    f = Inv(1.0, 0.3, 1)
    assert list(reverse(f, period)) == [f(period - t) for t in range(1, period)]
    mirror = list(symmetric(f, period))
    assert mirror == mirror[::-1] == [f(min(t, period - t)) for t in range(1, period)]
    assert reverse(third_of, period)(period + 3) == third_of(-3)
    assert Loop(reverse(f, period + 1), period)(period + 1) == f(period)


# Stateful ------------------------------------------------------------------------------------------


def test_next_runs_through_the_schedule_and_reset_starts_over():
    schedule = Stateful(Cos(λ0=1e-4, λ1=1e-2, period=10))
    assert [next(schedule) for _ in range(25)] == list(islice(schedule.schedule, 25))
    schedule.reset()
    assert next(schedule) == 1e-2


def test_advance_decides_whether_the_step_moves_on():
    schedule = Stateful(third_of, advance=lambda step: step == 1)
    assert [next(schedule) for _ in range(3)] == [1 / 3, 2 / 3, 2 / 3]


def test_a_loop_over_stateful_goes_on_and_ends_with_its_schedule():
    schedule = Stateful(Poly(1.0, 1, 5))
    assert [v for v, _ in zip(schedule, range(1), strict=False)] == [1.0]
    next(schedule)
    again = pickle.loads(pickle.dumps(schedule))
    assert list(schedule) == list(again)
    assert list(schedule) == []


def test_next_holds_the_last_value_of_a_schedule_that_has_ended():
    schedule = Stateful(Poly(1.0, 1, 4))
    assert [next(schedule) for _ in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
    assert list(schedule) == []
    schedule.reset()
    assert [v for v, _ in zip(schedule, range(9), strict=False)] == [1.0, 0.75, 0.5, 0.25]


def test_stateful_stays_where_it_is_when_there_is_no_value():
    schedule = Stateful(lambda t: "x" if t == 2 else 1.0)
    next(schedule)
    with pytest.raises(TypeError, match="step 2"):
        next(schedule)
    assert schedule.step == 2


# Schedules of others -------------------------------------------------------------------------------

SHEET = (Path(__file__).parents[1] / "tutorials" / "cheatsheet.md").read_text(encoding="utf-8")
ROWS = dict(
    re.findall(r"^\| `(\w+\([^…]*?\))` \| `(.*)` \|$", SHEET[SHEET.index("| PyTorch |") :], re.MULTILINE)
)
PYTORCH = json.loads((Path(__file__).parent / "golden" / "torch.json").read_text())["schedules"]


def smooth(x):
    return (1 + math.cos(math.pi * x)) / 2


def restarts(u, n=4, height=1.0):
    return height * smooth(u / n) if u < n else restarts(u - n, 2 * n, height / 2)


# By Keras's documentation, for step u from 0 on.
KERAS = {
    "ExponentialDecay(1.0, 10, 0.5)": lambda u: 0.5 ** (u / 10),
    "ExponentialDecay(1.0, 10, 0.5, staircase=True)": lambda u: 0.5 ** (u // 10),
    "PiecewiseConstantDecay([5, 20], [1.0, 0.5, 0.1])": lambda u: 1.0 if u <= 5 else 0.5 if u <= 20 else 0.1,
    "PolynomialDecay(1.0, 20, end_learning_rate=0.1, power=2)": (
        lambda u: (1.0 - 0.1) * (1 - min(u, 20) / 20) ** 2 + 0.1
    ),
    "InverseTimeDecay(1.0, 10, 0.5)": lambda u: 1 / (1 + 0.5 * u / 10),
    "InverseTimeDecay(1.0, 10, 0.5, staircase=True)": lambda u: 1 / (1 + 0.5 * (u // 10)),
    "CosineDecay(1.0, 20, alpha=0.1)": lambda u: (1 - 0.1) * smooth(min(u, 20) / 20) + 0.1,
    "CosineDecay(0.0, 20, warmup_target=1.0, warmup_steps=5)": (
        lambda u: u / 5 if u < 5 else smooth(min(u - 5, 20) / 20)
    ),
    "CosineDecayRestarts(1.0, 4, t_mul=2.0, m_mul=0.5)": restarts,
    "LearningRateScheduler(f)": lambda u: 0.95**u,
}


@pytest.mark.parametrize("call", ROWS)
def test_a_schedule_of_pytorch_or_keras_is_the_one_beside_it_in_the_table(call):
    namespace = vars(schedules_module) | {"f": lambda epoch: 0.95**epoch, "count": count}
    schedule = eval(ROWS[call], namespace)
    expected = PYTORCH[call] if call in PYTORCH else [KERAS[call](u) for u in range(45)]
    steps = 40 if "OneCycle" in call else 45
    values = [schedule(t) for t in range(1, steps + 1)]
    np.testing.assert_allclose(values, expected[:steps], rtol=1e-9, atol=1e-12)


def test_the_table_has_every_scheduler():
    assert ROWS.keys() == PYTORCH.keys() | KERAS.keys()


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (10, 0), (10, 3), (10, 9)])
def test_a_warm_up_rises_straight_falls_along_a_cosine_and_holds(steps, warmup):
    schedule = WarmupCos(steps, 2.0, warmup, startval=0.5, endval=0.25)
    values = np.array([schedule(t) for t in range(1, steps + 20)])
    rise, fall, rest = np.split(values, [warmup, steps])
    np.testing.assert_allclose(rise, 0.5 + 1.5 * np.arange(warmup) / max(warmup, 1))
    np.testing.assert_allclose(fall, Cos(0.25, 2.0, steps - warmup)(range(1, steps - warmup + 1)))
    assert (rest == 0.25).all()
    assert schedule.nsteps is None


# Scheduler -----------------------------------------------------------------------------------------


class ByHand(AbstractOptimiser):
    """Gradient descent with an `apply` of its own, which may be told to fail."""

    def __init__(self, eta):
        self.eta, self.fails = eta, False

    def apply(self, x, Δ):
        if self.fails:
            raise RuntimeError("told to")
        return self.eta * Δ


def set_rho(opt, rho):
    opt.rho = rho


def set_second_eta(opt, eta):
    opt[1].eta = eta


def clipped(make):
    return Optimiser(ClipNorm(1.0), make())


SCHEDULE = Cos(λ0=1e-4, λ1=1e-2, period=5)


@pytest.mark.parametrize("n", [1, 50, 40_000])
@pytest.mark.parametrize(
    ("make", "assign"),
    [
        (Momentum, None),
        (ADAM, None),
        (Momentum, set_rho),
        (lambda: ByHand(0.1), None),
        (lambda: clipped(ADAM), set_second_eta),
        (lambda: clipped(lambda: ByHand(0.1)), set_second_eta),
    ],
)
@pytest.mark.parametrize(
    "around", [lambda opt: opt, lambda opt: Optimiser(WeightDecay(0.1), opt, InvDecay(0.1))]
)
def test_a_scheduler_does_what_setting_the_value_before_every_step_does(make, assign, around, n):
    rng = np.random.default_rng(0)
    scheduled, by_hand = param(np.ones(n)), param(np.ones(n))
    opt = around(Scheduler(SCHEDULE, make(), update=assign))
    inner = make()
    steered = around(inner)
    for value in islice(SCHEDULE, 12):
        g = rng.standard_normal(n)
        (assign or (lambda opt, eta: setattr(opt, "eta", eta)))(inner, value)
        update(opt, scheduled, g)
        update(steered, by_hand, g)
        np.testing.assert_array_equal(scheduled.value, by_hand.value)


def test_parameters_stepped_one_after_another_see_the_same_value_and_a_late_one_starts_at_the_beginning():
    opt = Scheduler(Exp(1.0, 0.5), Descent())
    a, b, late = params(param(0.0), param(0.0), param(0.0))
    for _ in range(3):
        update(opt, params(a, b), {a: -1.0, b: -1.0})
    update(opt, late, -1.0)
    assert (float(a), float(b), float(late)) == (1.75, 1.75, 1.0)


def test_apply_gives_the_scheduled_step_and_leaves_the_gradient():
    opt, x, g = Scheduler(Exp(1.0, 0.5), Descent()), np.zeros(2), np.ones(2)
    assert [apply(opt, x, g)[0] for _ in range(3)] == [1.0, 0.5, 0.25]
    assert opt.apply(x, g)[0] == 0.125
    np.testing.assert_array_equal(g, 1.0)


def test_a_shallow_copy_follows_its_own_schedule():
    opt, x = Scheduler(Constant(0.2), Descent()), np.zeros(1)
    other = copy.copy(opt)
    other.schedule, other.opt = Constant(0.5), Descent()
    update(other, x, [1.0])
    assert x == -0.5
    update(opt, x, [1.0])
    assert x == -0.7
    assert (opt.eta, other.eta) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (lambda t: -1.0, ValueError),
        (lambda t: "0.9", TypeError),
        (lambda t: math.nan, ValueError),
        (lambda t: 1 / 0, ZeroDivisionError),
        (lambda t: json.loads("x"), ValueError),
    ],
    ids=["negative", "text", "NaN", "an error", "an error of its own"],
)
def test_of_several_settings_all_are_set_or_none(refused, error):
    opt = Scheduler(Momentum(0.3, 0.8), eta=lambda t: 0.7, rho=refused)
    with pytest.raises(error):
        update(opt, np.ones(2), np.ones(2))
    assert (opt.opt.eta, opt.opt.rho) == (0.3, 0.8)
    opt = Scheduler(ADAM(0.3), eta=lambda t: 0.7, beta=lambda t: 0.9)
    with pytest.raises(TypeError, match="at step 1: beta must be"):
        update(opt, np.ones(2), np.ones(2))
    assert opt.opt.eta == 0.3


@pytest.mark.parametrize(
    "step",
    [
        lambda opt, a, b: update(opt, a, np.ones(2)),
        lambda opt, a, b: apply(opt, a, np.ones(2)),
        lambda opt, a, b: update(opt, params(a, b), {a: np.ones(2), b: np.ones(3)}),
        lambda opt, a, b: train(lambda _: np.sum(a) + np.sum(b), params(a, b), [0] * 3, opt),
        lambda opt, a, b: train(lambda _: np.sum(a) + np.sum(b), params(a, b), [0] * 3, opt, compiled=True),
    ],
    ids=["update", "apply", "several", "train", "compiled"],
)
@pytest.mark.parametrize(
    ("fails", "error"),
    [
        (lambda t: math.nan, ValueError),
        (lambda t: 1 / 0, ZeroDivisionError),
        (lambda t: sys.exit(), SystemExit),
    ],
    ids=["NaN", "an error", "an end"],
)
def test_a_step_that_fails_leaves_the_rates_of_the_members_before(step, fails, error):
    rule = Momentum()
    opt = Optimiser(
        Scheduler(Exp(0.1, 0.5), rule), Scheduler(lambda t: 1.0 if t < 3 else fails(t), Descent())
    )
    a, b = param(np.ones(2)), param(np.ones(3))
    with pytest.raises(error):
        [step(opt, a, b) for _ in range(3)]
    assert rule.eta == 0.05
    assert rule.state[a]["clock"] == (2,)


@pytest.mark.parametrize("make", [Momentum, lambda: ByHand(0.1)])
def test_the_count_is_state_that_is_copied_reset_and_freed(make):
    opt, x = Scheduler(SCHEDULE, make()), param(np.ones(3))
    for _ in range(3):
        update(opt, x, np.ones(3))
    for opt2, x2 in (copy.deepcopy((opt, x)), pickle.loads(pickle.dumps((opt, x)))):
        update(opt2, x2, np.ones(3))
        assert opt2.eta == SCHEDULE(4)
        assert opt.eta == SCHEDULE(3)  # the copy is on its own
    reset(opt)
    update(opt, x, np.ones(3))
    assert opt.eta == SCHEDULE(1)
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("make", [ADAM, lambda: ByHand(0.1)])
def test_a_run_resumed_from_a_checkpoint_equals_an_uninterrupted_one(make, tmp_path):
    def begin():
        return param(np.ones(3)), Optimiser(WeightDecay(0.1), Scheduler(SCHEDULE, make()))

    def run(x, opt, rounds):
        for i in rounds:
            update(opt, x, np.arange(3) - i)

    x, opt = begin()
    run(x, opt, range(4))
    save(tmp_path / "run.npz", params(x), opt)
    run(x, opt, range(4, 9))
    resumed, opt = begin()
    load(tmp_path / "run.npz", params(resumed), opt)
    assert opt[1].eta == SCHEDULE(4)
    run(resumed, opt, range(4, 9))
    np.testing.assert_array_equal(resumed.value, x.value)


def test_its_schedule_may_be_exchanged_between_two_steps():
    opt, x = Scheduler(Exp(1.0, 0.5), Descent()), np.zeros(1)
    update(opt, x, [1.0])
    opt.schedule = Constant(0.25)
    update(opt, x, [1.0])
    assert opt.eta == opt.opt.eta == 0.25


def test_two_settings_are_scheduled_by_two_schedulers():
    opt, x = Scheduler(SCHEDULE, Scheduler(Exp(0.9, 0.5), Momentum(), update=set_rho)), np.zeros(1)
    for _ in range(2):
        update(opt, x, [1.0])
    assert (opt.opt.opt.eta, opt.opt.opt.rho) == (SCHEDULE(2), 0.45)


@pytest.mark.parametrize("make", [Momentum, lambda: clipped(Momentum)[1]])
def test_several_settings_are_scheduled_at_once(make):
    both, x = Scheduler(make(), eta=SCHEDULE, rho=Exp(0.9, 0.5)), np.zeros(3)
    nested, y = Scheduler(SCHEDULE, Scheduler(Exp(0.9, 0.5), make(), update=set_rho)), np.zeros(3)
    for i in range(4):
        for opt, z in ((both, x), (nested, y)):
            update(opt, z, np.arange(3.0) - i)
    np.testing.assert_array_equal(x, y)
    assert (both.eta, both.opt.rho) == (SCHEDULE(4), 0.9 * 0.5**3)
    other = copy.deepcopy(both)
    assert repr(other) == (
        f"Scheduler(schedule={SCHEDULE!r}, opt={both.opt!r}, rho=Exp(start=0.9, decay=0.5))"
    )
    assert repr(eval(repr(other), vars(schedules_module) | {"Momentum": Momentum})) == repr(other)


def test_a_setting_alone_leaves_the_rate_to_be_set_and_a_refusal_puts_all_back(tmp_path):
    opt, x = Scheduler(Momentum(0.5), rho=lambda t: 0.5 if t < 3 else 1.5), np.zeros(1)
    opt.eta = 0.25
    update(opt, x, [-1.0])
    assert (opt.eta, opt.opt.rho, x[0]) == (0.25, 0.5, 0.25)
    both = Scheduler(Momentum(), eta=Exp(1.0, 0.5), rho=lambda t: 0.5 if t < 2 else 1.5)
    update(both, x, [-1.0])
    before = x.copy()
    with pytest.raises(ValueError, match=r"lambda.* at step 2: rho"):
        update(both, x, [-1.0])
    assert (both.opt.eta, both.opt.rho, x) == (1.0, 0.5, before)
    p = param(np.zeros(2))
    opt = Scheduler(Momentum(), eta=Exp(1.0, 0.5), rho=Exp(0.9, 0.5))
    update(opt, p, [1.0, 2.0])
    save(tmp_path / "a.npz", params(p), opt)
    other = Scheduler(Momentum(), eta=Exp(1.0, 0.5), rho=Exp(0.9, 0.5))
    load(tmp_path / "a.npz", params(p), other)
    update(other, p, [1.0, 2.0])
    assert other.eta == 0.5


@pytest.mark.parametrize("make", [Momentum, lambda: ByHand(0.1)])
def test_a_schedule_that_has_ended_keeps_its_last_value(make):
    opt, x, rates = Scheduler(Poly(1.0, 1, 4), make()), np.zeros(1), []
    for _ in range(7):
        update(opt, x, [1.0])
        rates.append(opt.eta)
    assert rates == [1.0, 0.75, 0.5, 0.25, 0.25, 0.25, 0.25]


class NotElementwise(Descent):
    elementwise = False


class RateOfLast(Optimiser):
    eta = property(lambda self: self[-1].eta, lambda self, value: setattr(self[-1], "eta", value))


@pytest.mark.parametrize(
    "make",
    [
        Descent,
        NotElementwise,
        lambda: RateOfLast(NotElementwise(1.0), NotElementwise(1.0), Descent(1.0)),
        lambda: ByHand(0.1),
    ],
)
@pytest.mark.parametrize("around", [lambda opt: opt, lambda opt: Optimiser(ClipValue(9.0), opt)])
def test_threads_that_update_different_parameters_have_each_its_own_rate(make, around):
    opt = around(Scheduler(lambda t: float(t), make()))
    xs = [np.zeros(1) for _ in range(4)]
    n, interval = 300, sys.getswitchinterval()

    def run(x, first):
        for _ in range(n if first else n // 3):
            update(opt, x, [-1.0])

    threads = [threading.Thread(target=run, args=(x, i % 2)) for i, x in enumerate(xs)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    totals = [m * (m + 1) / 2 for m in (n // 3, n)]
    assert [float(x[0]) for x in xs] == [totals[0], totals[1]] * 2


@pytest.mark.parametrize("how", ["update", "compiled"])
def test_a_rule_begins_with_the_rate_of_its_step_whatever_rate_another_thread_asks_for(how):
    others = []

    class BesideAnother(Rprop):
        def initial(self, name):
            if not others and V in self.state:
                others.append(threading.Thread(target=update, args=(opt, V, [1.0])))
                others[0].start()
                others[0].join(0.1)
            return super().initial(name)

    W, V = param([1.0]), param([1.0])
    opt = Scheduler(Exp(start=1.0, decay=0.5), BesideAnother())
    update(opt, V, [1.0])
    if how == "update":
        update(opt, W, [1.0])
    else:
        compiled(lambda: np.sum(W), params(W), opt)()
    others[0].join()
    assert (opt.opt.state[W]["h"], opt.opt.state[V]["clock"]) == (1.0, (2,))


@pytest.mark.parametrize("around", [lambda opt: opt, lambda opt: Optimiser(ClipValue(1.0), opt)])
def test_a_step_that_fails_counts_for_nothing(around):
    scheduler = Scheduler(Exp(1.0, 0.5), ByHand(0.1))
    opt, x = around(scheduler), np.zeros(1)
    update(opt, x, [-1.0])
    scheduler.opt.fails = True
    with pytest.raises(RuntimeError, match="told to"):
        update(opt, x, [-1.0])
    assert (x[0], scheduler.eta) == (1.0, 1.0)
    scheduler.opt.fails = False
    update(opt, x, [-1.0])
    assert (x[0], scheduler.eta) == (1.5, 0.5)


def test_the_count_does_not_advance_when_a_later_member_fails():
    fails = ByHand(1.0)
    scheduler, x = Scheduler(SCHEDULE, Momentum()), np.zeros(1)
    opt, y = Scheduler(SCHEDULE, Momentum()), np.zeros(1)
    for failing in (False, True, True, False, False):
        fails.fails = failing
        if failing:
            with pytest.raises(RuntimeError, match="told to"):
                update(Optimiser(scheduler, fails), x, [1.0])
        else:
            update(Optimiser(scheduler, fails), x, [1.0])
            update(opt, y, [1.0])
        assert x == y


@pytest.mark.parametrize("make", [Descent, lambda: ByHand(0.1)])
@pytest.mark.parametrize(
    ("schedule", "error", "says"),
    [
        (lambda t: 1.0 if t == 1 else None, TypeError, r"step 2 .*lambda.* gave None"),
        (lambda t: 1.0 if t == 1 else np.ones(1), TypeError, r"lambda.* gave array"),
        (
            lambda t: 1.0 if t == 1 else (0.9, 0.99),
            TypeError,
            r"gave \(0.9, 0.99\).*update=lambda opt, value",
        ),
        (lambda t: 1.0 if t == 1 else np.array("x"), TypeError, r"lambda.* gave .*'x'"),
        (lambda t: 1.0 if t == 1 else math.nan, ValueError, r"lambda.* gave nan at step 2"),
    ],
)
def test_a_value_that_is_none_names_schedule_and_step_and_changes_nothing(make, schedule, error, says):
    opt, x = Scheduler(schedule, make()), np.zeros(1)
    update(opt, x, [-1.0])
    with pytest.raises(error, match=says):
        update(opt, x, [-1.0])
    assert (x[0], opt.eta) == (1.0, 1.0)
    opt.schedule = Constant(2.0)
    update(opt, x, [-1.0])
    assert x[0] == 3.0


@pytest.mark.parametrize("assign", [None, lambda opt, value: setattr(opt, "eta", value)])
def test_a_value_the_optimiser_refuses_names_schedule_and_step(assign):
    opt, x = Scheduler(Step(1.0, -1.0, 1), Momentum(), update=assign), np.zeros(1)
    update(opt, x, [-1.0])
    with pytest.raises(ValueError, match=r"Step.* at step 2: eta must be"):
        update(opt, x, [-1.0])
    assert (x[0], opt.eta) == (1.0, 1.0)


@pytest.mark.parametrize("kind", [np.float32, np.array, lambda v: np.array(v, "f2"), Fraction])
def test_any_one_number_is_the_value_of_a_schedule(kind):
    opt, x = Scheduler(lambda t: kind(0.25 * t), Descent()), np.zeros(1)
    for t in (1, 2):
        update(opt, x, [-1.0])
        assert (type(opt.opt.eta), opt.eta) == (float, 0.25 * t)
    assert Shifted(lambda t: kind(0.25 * t), 2)(1) == 0.5


def test_of_a_setting_of_several_one_is_scheduled_as_the_error_says():
    opt, x = Scheduler(ADAM(), beta=lambda t: (1 / (t + 1), 0.999)), np.zeros(1)
    with pytest.raises(TypeError, match="For a setting of several") as refused:
        update(opt, x, [1.0])
    cure = re.search(r"Scheduler\(.*\)$", str(refused.value))[0]
    opt = eval(cure, {"Scheduler": Scheduler, "opt": ADAM(), "schedule": lambda t: 1 / (t + 1)})
    for β1 in (1 / 2, 1 / 3):
        update(opt, x, [1.0])
        assert opt.opt.beta == (β1, 0.999)


def test_its_repr_shows_schedule_and_optimiser():
    assert repr(Scheduler(Exp(1.0, 0.5), Descent())) == (
        "Scheduler(schedule=Exp(start=1.0, decay=0.5), opt=Descent(eta=0.1))"
    )


def test_the_example_trains_all_four_ways():
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "cosine_schedule.py"))
    first, ways = example["main"]()
    rates = list(islice(Cos(λ0=1e-4, λ1=1e-2, period=10), 100))
    assert ways["zip_with_epochs"] == ways["stateful"] == ways["scheduler"]
    assert ways["stateful"][1] == rates
    warm_up = ways["warm_up_then_cosine"][1]
    assert np.argmax(warm_up) == 10
    assert np.all(np.diff(warm_up[:11]) > 0)
    assert np.all(np.diff(warm_up[10:]) < 0)
    for last, _ in ways.values():
        assert last < first / 10


# Bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: Exp("1", 0.5), TypeError, "start"),
        (lambda: Exp(1.0, True), TypeError, "decay"),
        (lambda: Exp(1.0, 1j), TypeError, "decay"),
        (lambda: Exp(math.nan, 0.5), ValueError, "start"),
        (lambda: Exp(1.0, math.inf), ValueError, "decay"),
        (lambda: Step(1.0, 0.5, 0), ValueError, "step_sizes"),
        (lambda: Step(1.0, 0.5, [3, 0]), ValueError, r"step_sizes\[1\]"),
        (lambda: Step(1.0, 0.5, "2"), TypeError, r"step_sizes"),
        (lambda: Step(1.0, 0.5, {30: 0.1}), TypeError, "step_sizes must be a number of steps, or a list"),
        (lambda: Step(1.0, 0.5, {40, 3}), TypeError, "step_sizes must be a number of steps, or a list"),
        (lambda: Step(1.0, 0.5, np.array(0)), ValueError, "step_sizes must be at least 1"),
        (lambda: Exp(1.0, 0.5)(2**63), ValueError, r"t must be below 2\*\*63"),
        (lambda: Exp(1.0, 0.5)(10**400), ValueError, r"t must be below 2\*\*63"),
        (lambda: Cos(0.0, 1.0, 10**400), ValueError, "period must be finite"),
        (lambda: Shortened(math.nan, 5), ValueError, "schedule must be finite"),
        (lambda: Sequence((math.inf, 5)), ValueError, "schedule of stage 1 must be finite"),
        (lambda: Poly(1.0, 2, 0), ValueError, "max_iter"),
        (lambda: Inv(1.0, -0.5, 2), ValueError, "decay"),
        (lambda: Triangle(0.0, None, 4), TypeError, "l1"),
        (lambda: Sin(0.0, 1.0, 0), ValueError, "period"),
        (lambda: Cos(0.0, 1.0, 2.5), ValueError, "period"),
        (lambda: Cos(0.0, 1.0, True), TypeError, "period"),
        (lambda: Cos(0.0, 1.0, 3, restart=1), TypeError, "restart"),
        (lambda: OneCycle(0, 1.0), ValueError, "nsteps"),
        (lambda: OneCycle(5, 1.0, percent_start=1.5), ValueError, "percent_start"),
        (lambda: OneCycle(5, 1.0, percent_start=-0.5), ValueError, "percent_start"),
        (lambda: Constant([1.0]), TypeError, "value"),
        (Sequence, ValueError, "at least one"),
        (lambda: Sequence(Exp(1.0, 0.5), 5), TypeError, "tuples"),
        (lambda: Sequence((0.1, 5), (0.2, 0)), ValueError, "stage 2"),
        (lambda: Sequence((0.1, 5), ("x", 1)), TypeError, "stage 2"),
        (lambda: Sequence([0.1], [5, 6]), ValueError, "1 schedules"),
        (lambda: Sequence((Poly(1.0, 1, 3), 4), (0.1, 1)), ValueError, "ends after 3"),
        (lambda: Sequence((0.1, 1), (Poly(1.0, 1, 3), 4)), ValueError, "stage 2 ends after 3"),
        (lambda: Loop(Poly(1.0, 1, 3), 4), ValueError, "ends after 3"),
        (lambda: Loop(third_of, 0), ValueError, "period"),
        (lambda: Loop("x", 3), TypeError, "f must be"),
        (lambda: Interpolator(third_of, 0), ValueError, "rate"),
        (lambda: Shifted(Exp(1.0, 0.5), 0), ValueError, "offset"),
        (lambda: Shifted(Poly(1.0, 1, 3), 4), ValueError, "ends after 3"),
        (lambda: Shortened(Exp(1.0, 0.5), 0), ValueError, "nsteps"),
        (lambda: ComposedSchedule(3, (1.0,)), TypeError, "make"),
        (lambda: ComposedSchedule(Exp, Exp(1.0, 0.5)), TypeError, "parameters"),
        (lambda: ComposedSchedule(Exp, (1.0, "x")), TypeError, r"parameters\[1\]"),
        (lambda: reverse(Exp(1.0, 0.5), 0), ValueError, "period"),
        (lambda: Stateful("x"), TypeError, "schedule"),
        (lambda: Stateful(third_of, advance=True), TypeError, "advance"),
        (lambda: Scheduler(Descent(), Exp(1.0, 0.5)), TypeError, "in second place.*got Desc.*and Exp"),
        (lambda: Scheduler(Momentum, Exp(1.0, 0.5)), TypeError, r"Scheduler\(schedule, opt\)"),
        (lambda: Scheduler(Exp(1.0, 0.5), Momentum), TypeError, r"Scheduler\(schedule, opt\)"),
        (lambda: Scheduler("x", Momentum()), TypeError, "schedule"),
        (lambda: Scheduler(Stateful(third_of), Momentum()), TypeError, r"schedule must .* its \.schedule"),
        (lambda: Loop(Stateful(third_of), 3), TypeError, r"give its \.schedule"),
        (lambda: Stateful(Stateful(third_of)), TypeError, r"give its \.schedule"),
        (lambda: Momentum(Stateful(third_of)), TypeError, r"Scheduler\(stateful\.schedule, "),
        (lambda: Scheduler(Momentum(), beta=0.5), TypeError, "no beta to schedule"),
        (lambda: Scheduler(Momentum(), eta="x"), TypeError, "schedule"),
        (lambda: Scheduler(Scheduler(Momentum(), rho=0.5), rho=0.6), TypeError, "schedule for rho already"),
        (lambda: Scheduler(Momentum()), TypeError, r"Scheduler\(opt, eta=schedule"),
        (lambda: WarmupCos(5, 1.0, 5), ValueError, "warmup must be less"),
        (lambda: Scheduler(Exp(1.0, 0.5), WeightDecay(0.1)), TypeError, "no eta .* update="),
        (lambda: Scheduler(Exp(1.0, 0.5), Optimiser(Momentum())), TypeError, "no eta .* update="),
        (
            lambda: Scheduler(Exp(1.0, 0.5), Optimiser(ClipNorm(1.0), ADAM())),
            TypeError,
            r"Optimiser\(ClipNorm\(1\.0\), Scheduler\(schedule, ADAM\(\)\)\).*setattr\(opt\[1\], 'eta', v",
        ),
        (lambda: Scheduler(Exp(1.0, 0.5), Momentum(), update="rho"), TypeError, "update must be"),
        (lambda: Exp(1.0, 0.5)(0), ValueError, "t = 0"),
        (lambda: Exp(1.0, 0.5)([3, -1]), ValueError, "t = -1"),
        (lambda: Exp(1.0, 0.5)(2.0), TypeError, "2.0"),
        (lambda: Exp(1.0, 0.5)(np.float64(2)), TypeError, "2.0"),
        (lambda: Exp(1.0, 0.5)([1.0, 2.0]), TypeError, "array of steps"),
        (lambda: Exp(1.0, 0.5)(True), TypeError, "True"),
        (lambda: Exp(1.0, 0.5)(np.array([True])), TypeError, "True"),
        (lambda: Exp(1.0, 0.5)("2"), TypeError, "'2'"),
        (lambda: Loop(lambda t: None, 3)(2), TypeError, "step 2 .* gave None"),
    ],
)
def test_bad_input_is_named(make, error, named):
    with pytest.raises(error, match=named):
        make()


def short(n):
    return Shortened(float, n)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: Sequence((short(3), 2)), [1, 2, 3]),
        (lambda: Sequence((short(3), 3)), [1, 2, 3]),
        (lambda: Sequence((float, 2), (short(7), 7), (short(4), 3)), [1, 2, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4]),
        (lambda: Sequence([float, short(2)], (n for n in (3, 1))), [1, 2, 3, 1, 2]),
        (lambda: Sequence([float, short(2)], np.array([1, 1])), [1, 1, 2]),
        # 17 / (17 / 7) is a little above 7.
        (lambda: Interpolator(short(7), 17 / 7), [1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7]),
        (lambda: Interpolator(short(3), 2), [1, 1, 2, 2, 3, 3]),
        (lambda: Interpolator(short(3), 0.5), [2]),
        (lambda: Shifted(short(4), 3), [3, 4]),
        (lambda: Loop(short(3), 3), None),
        (lambda: ComposedSchedule(lambda a: lambda t: a * t, (short(1),)), [1]),
        (lambda: ComposedSchedule(lambda a, b: lambda t: a + b, (short(3), 10.0)), [11, 12, 13]),
        (lambda: ComposedSchedule(lambda a: short(2), (short(5),)), [1, 2]),
    ],
)
def test_a_schedule_of_schedules_ends_where_its_parts_do(make, values):
    schedule = make()
    if values is None:
        assert schedule.nsteps is None
        return
    assert schedule.nsteps == len(schedule) == len(values)
    assert list(schedule) == list(Stateful(schedule)) == [schedule(t) for t in range(1, len(values) + 1)]
    assert list(schedule) == values


@pytest.mark.parametrize(
    "stages", [[(float, 2), (short(3), 3)], [(short(4), 2)], [(short(1), 1), (short(2), 1)]]
)
def test_a_sequence_of_a_generator_ends_as_one_of_the_same_stages(stages):
    known = Sequence(*stages)
    n = known.nsteps

    def drawn():
        return Sequence(stage for stage in stages)

    assert list(drawn()) == list(Stateful(drawn())) == list(known)
    with pytest.raises(IndexError, match=f"beyond the last, {n}"):
        drawn()(n + 1)
    later = Stateful(drawn())
    later.step = n + 3
    assert next(later) == known(n)
    opt, x = Scheduler(drawn(), Descent()), np.zeros(1)
    for t in range(1, n + 3):
        update(opt, x, [0.0])
        assert opt.eta == known(min(t, n))


def test_a_sequence_of_a_generator_makes_no_stage_before_it_is_reached():
    made = []
    schedule = Sequence((short(2), made.append(n) or 2) for n in count())
    for t, _ in enumerate(zip(schedule, range(7), strict=False), 1):
        assert len(made) == (t + 1) // 2


def test_an_integer_that_no_float_can_hold_is_refused_with_its_schedule():
    for f in (lambda t: 10**400, Shifted(lambda t: 10**400, 1)):
        with pytest.raises(ValueError, match=r"at step 1 .* no float can hold"):
            next(Stateful(f))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda opt: opt,
        Lookahead,
        lambda opt: Lookahead(Lookahead(opt)),
        lambda opt: Grouped(rest=opt),
        lambda opt: Grouped((params(param(1.0)), opt), rest=Descent()),
        lambda opt: Scheduler(Exp(1.0, 0.5), opt, update=lambda *_: None),
    ],
)
def test_an_eta_has_one_schedule_whatever_passes_it_on(wrap):
    inner = Scheduler(Exp(1.0, 0.5), Momentum())
    with pytest.raises(
        TypeError, match=r"^Scheduler\(.*Momentum.* has a schedule for eta already: give the opt"
    ):
        Scheduler(Exp(1.0, 0.5), wrap(inner))
