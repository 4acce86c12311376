"""The training loop and its helpers."""

import _thread
import functools
import gc
import itertools
import math
import re
import runpy
import signal
import sys
import threading
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from minidiff import gradient, load, param, params, watch, withgradient
from minidiff.data import DataLoader
from minidiff.optimise import (
    ADAM,
    AbstractOptimiser,
    ClipNorm,
    Descent,
    ExpDecay,
    KeepBest,
    Momentum,
    Optimiser,
    ReducePlateau,
    RMSProp,
    accumulate,
    early_stopping,
    minimize,
    patience,
    plateau,
    skip,
    stop,
    throttle,
    train,
    update,
)
from minidiff.schedules import Cos, Exp, Stateful


@pytest.fixture
def a():
    return param(1.0)


@pytest.fixture(autouse=True)
def _python_hears_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def quadratic(a):
    return lambda x: (a - x) ** 2


# The loop -----------------------------------------------------------------------------------------


def test_training_is_gradient_and_update_for_each_element(a):
    b, opt = param(1.0), ADAM(0.1)
    data = [0.5, -1.0, 3.0]
    expected = []
    for _ in range(2):
        for x in data:
            expected.append(float(quadratic(b)(x)))
            update(opt, params(b), gradient(lambda x=x: quadratic(b)(x), params(b)))
    losses = train(quadratic(a), params(a), data, ADAM(0.1), epochs=2)
    assert a.value == b.value
    assert losses.tolist() == expected
    assert losses.dtype == np.float64


def test_training_twice_goes_on_where_it_stopped(a):
    b = param(1.0)
    data = [0.5, -1.0, 3.0]
    opt = Momentum(0.1)
    for _ in range(2):
        train(quadratic(a), params(a), data, opt)
    train(quadratic(b), params(b), data, Momentum(0.1), epochs=2)
    assert a.value == b.value


def test_a_tuple_is_splatted_and_anything_else_is_not(a):
    seen = []

    def loss(*args):
        seen.append(args)
        return a**2

    data = [(1, 2), [3, 4], {"x": 5}, 6, ((7, 8),), ()]
    train(loss, params(a), data, Descent())
    assert seen == [(1, 2), ([3, 4],), ({"x": 5},), (6,), ((7, 8),), ()]


def test_data_may_be_any_iterable(a):
    class Endless:
        def __iter__(self):
            while True:
                yield 1.0

    x = np.arange(4.0)
    for data in (
        [1.0, 2.0],
        np.ones(2),
        (i for i in (1.0, 2.0)),
        iter([1.0, 2.0]),
        DataLoader(x, 2),
        zip(x, x, strict=True),
    ):
        assert train(lambda *x: np.mean((a - x[0]) ** 2), params(a), data, Descent()).size in (2, 4)
    calls = iter(range(5))
    assert (
        train(
            quadratic(a), params(a), Endless(), Descent(), cb=lambda: next(calls, None) is None and stop()
        ).size
        == 6
    )


def test_no_data_or_no_epochs_are_no_steps(a):
    for data, epochs in [([], 1), ([], 3), ([1.0], 0)]:
        with nullcontext() if data else pytest.warns(UserWarning, match=r"no batch in the data$"):
            losses = train(quadratic(a), params(a), data, Descent(), epochs=epochs)
        assert losses.shape == (0,)
        assert losses.dtype == np.float64
    assert a.value == 1


@pytest.mark.parametrize("data", [iter([1.0]), (x for x in (1.0,)), map(float, [1]), zip([1.0])])
def test_what_can_be_gone_through_once_is_refused_for_several_epochs_and_not_touched(a, data):
    with pytest.raises(ValueError, match="only once, but epochs is 2"):
        train(quadratic(a), params(a), data, Descent(), epochs=2)
    assert a.value == 1
    assert len(list(data)) == 1


def test_a_generator_function_behind_iter_is_gone_through_in_each_epoch(a):
    loader = DataLoader(np.arange(3.0), shuffle=True, rng=0)
    seen = []

    def loss(x):
        seen.append(float(x[0]))
        return np.sum((a - x) ** 2)

    train(loss, params(a), loader, Descent(), epochs=2)
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]
    assert seen[:3] != seen[3:]


def test_parameters_that_the_loss_does_not_reach_stay(a):
    b = param([5.0])
    with pytest.warns(UserWarning, match="did not depend on these parameters in the first epoch: 1"):
        train(quadratic(a), [a, b], [3.0], Descent())
    assert b.value == [5]


def test_a_loss_of_one_element_or_of_another_dtype_is_a_number(a):
    w = param([[2.0]], np.float32)
    assert train(lambda _: w * w, params(w), [0, 0], Descent(0.25)).tolist() == [4, 1]


# Skip and stop ------------------------------------------------------------------------------------


def test_skip_from_the_loss_skips_the_update_and_its_callbacks(a):
    steps = []

    def loss(x):
        if x < 0:
            skip()
        return (a - x) ** 2

    opt = Momentum(0.1)
    losses = train(loss, params(a), [2.0, -1.0, 3.0], opt, cb=lambda: steps.append(float(a)))
    b = param(1.0)
    assert losses.tolist() == train(quadratic(b), params(b), [2.0, 3.0], Momentum(0.1)).tolist()
    assert a.value == b.value
    assert len(steps) == 2


def test_stop_from_the_loss_ends_all_epochs_without_the_step(a):
    def loss(x):
        if x == 3:
            stop()
        return (a - x) ** 2

    losses = train(loss, params(a), [2.0, 3.0, 4.0], Descent(0.5), epochs=5)
    assert losses.tolist() == [1]
    assert a.value == 2


def test_stop_from_a_callback_ends_the_loop_after_the_step(a):
    losses = train(
        quadratic(a), params(a), [2.0, 3.0, 4.0], Descent(0.5), cb=lambda: a > 2.5 and stop(), epochs=5
    )
    assert losses.tolist() == [1, 1]
    assert a.value == 3


def test_callbacks_run_in_order_after_each_step_and_skip_leaves_out_the_rest(a):
    calls = []
    callbacks = (
        lambda: calls.append(("first", float(a))),
        lambda: a == 3 and skip(),
        lambda: calls.append("last"),
    )
    losses = train(quadratic(a), params(a), [2.0, 3.0, 4.0], Descent(0.5), cb=callbacks)
    assert calls == [("first", 2), "last", ("first", 3), ("first", 4), "last"]
    assert len(losses) == 3


def test_stop_in_an_inner_training_ends_that_one_only(a):
    b = param(0.0)

    def inner():
        train(quadratic(b), params(b), [1.0] * 9, Descent(), cb=stop)

    assert train(quadratic(a), params(a), [1.0] * 3, Descent(), cb=inner).size == 3


@pytest.mark.parametrize("f", [stop, skip])
def test_outside_of_a_training_stop_and_skip_say_where_they_belong(f):
    with pytest.raises(Exception, match=rf"{f.__name__}\(\) was called outside of train"):
        f()


# What goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_an_error_with_its_step_and_nothing_moves(a, value):
    opt = Momentum(0.1)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(
            FloatingPointError, match=rf"loss is {value} at step 3.*=clip_norm\(1.0\).*`with watch"
        ),
    ):
        train(lambda x: a * x, params(a), [1.0, 1.0, value, 1.0], opt)
    with watch(), pytest.raises(FloatingPointError, match="in line"):
        train(lambda x: a * x, params(a), [value], opt)
    b = param(1.0)
    other = Momentum(0.1)
    train(lambda x: b * x, params(b), [1.0, 1.0], other)
    assert a.value == b.value
    train(lambda x: a * x, params(a), [1.0], opt)
    train(lambda x: b * x, params(b), [1.0], other)
    assert a.value == b.value


def test_an_error_in_loss_data_or_callback_comes_through(a):
    class OwnError(Exception):
        pass

    def fail(*_):
        raise OwnError

    for arguments in [
        (fail, [1.0], None),
        (quadratic(a), map(fail, [1.0]), None),
        (quadratic(a), [1.0], fail),
    ]:
        with pytest.raises(OwnError):
            train(arguments[0], params(a), arguments[1], Descent(), cb=arguments[2])


@pytest.mark.parametrize("fails", range(3))
def test_callbacks_hear_of_no_step_that_has_failed(a, fails):
    class Failing(AbstractOptimiser):
        def apply(self, x, Δ):
            if len(heard) == fails:
                raise ZeroDivisionError
            return 0.1 * Δ

    heard = []
    with pytest.raises(ZeroDivisionError):
        train(quadratic(a), params(a), [2.0] * 5, Failing(), cb=lambda: heard.append(float(a)))
    assert len(heard) == fails
    assert heard[-1:] == [float(a)] * bool(fails)


def LOSS(x):
    return x


PS = params()


def generates():
    yield 1.0


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((PS, LOSS, [], Descent()), {}, TypeError, "loss must be a function.*the order is"),
        ((LOSS, PS, Descent(), []), {}, TypeError, "opt must be an optimiser.*the order is"),
        (
            (LOSS, PS, [], ADAM),
            {},
            TypeError,
            r"opt must be an optimiser, got the class ADAM: make one, ADAM\(",
        ),
        (
            (np.float64(3), PS, [], ADAM()),
            {},
            TypeError,
            "loss must be .* the function itself, not its value",
        ),
        (
            (LOSS, PS, [], Descent()),
            {"scheduler": 1},
            TypeError,
            r"an optimiser, .* Scheduler\(s",
        ),
        ((LOSS, param(1.0), [], Descent()), {}, TypeError, r"ps must be Params.*params\("),
        ((LOSS, np.ones(2), [], Descent()), {}, TypeError, r"ps must be Params.*params\("),
        ((LOSS, object(), [], Descent()), {}, TypeError, r"ps must be Params.*params\("),
        ((LOSS, [np.ones(2)], [], Descent()), {}, TypeError, "param"),
        ((LOSS, PS, 3, Descent()), {}, TypeError, "data must be an iterable"),
        ((LOSS, PS, {"x": [1]}, Descent()), {}, TypeError, r"one batch alone is \[batch\]"),
        ((LOSS, PS, generates, Descent()), {}, TypeError, r"got .*function.*call it, once for each training"),
        (
            (LOSS, [(1.0, 2.0)], PS, Descent()),
            {},
            TypeError,
            r"^data must be .* got Params.* the order is train",
        ),
        ((LOSS, object(), [], Descent()), {}, TypeError, r"params\(model\)"),
        ((LOSS, PS, [], Descent()), {"epoch": 3}, TypeError, "no option 'epoch': it has epochs="),
        (
            (LOSS, PS, [], Descent()),
            {"callbacks": []},
            TypeError,
            "it has cb= after each step and each_",
        ),
        ((LOSS, PS, [], Descent()), {"verbose": 1}, TypeError, "it has progress=True"),
        ((LOSS, PS, [], Descent()), {"batch_size": 1}, TypeError, r"DataLoader\(\(x, y\), batchsize\)"),
        ((LOSS, PS, [], Descent()), {"validation_data": 1}, TypeError, r"each_epoch=early_stopping\("),
        ((LOSS, PS, [], Descent()), {"another": 1}, TypeError, "it has cb, .* compiled"),
        ((LOSS, PS, [], Descent()), {"epochs": -1}, ValueError, "epochs must be at least 0"),
        ((LOSS, PS, [], Descent()), {"epochs": 1.5}, TypeError, "epochs must be an integer"),
        ((LOSS, PS, [], Descent()), {"cb": 3}, TypeError, "cb must be"),
        ((LOSS, PS, [], Descent()), {"cb": [print, 3]}, TypeError, "cb must be"),
        ((LOSS, PS, [], Descent(), 10), {}, TypeError, "with all else by its name, epochs=10 for one"),
        ((LOSS, PS, [1], [2], Descent()), {}, TypeError, r"several arrays are one thing, DataLoader\("),
        ((object(), PS, [], Descent()), {}, TypeError, "it is called with each batch, as lambda x, y"),
        *[
            ((LOSS, PS, [], Descent()), {option: Stateful(Exp(1.0, 0.5))}, TypeError, f"{option} must be")
            for option in ("cb", "each_epoch", "transform")
        ],
        ((LOSS, PS, [], Descent()), {"cb": itertools.count()}, TypeError, "cb must be"),
        (
            (LOSS, PS, [], Descent()),
            {"transform": [accumulate(2)] * 2},
            ValueError,
            "has the same .*accumulate.* twice",
        ),
        ((LOSS, PS, [], Descent()), {"cb": [patience(print, 2)] * 2}, ValueError, "cb has the same .* twice"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(arguments, options, error, message):
    with pytest.raises(error, match=message):
        train(*arguments, **options)


# Ctrl-C -------------------------------------------------------------------------------------------


class Interrupted(AbstractOptimiser):
    """Momentum of two parameters, with Ctrl-C pressed in the middle of its update."""

    def __init__(self, at):
        self.at, self.calls, self.rule = at, 0, Momentum(0.1)

    def apply(self, x, Δ):
        self.calls += 1
        if self.calls == self.at:
            signal.raise_signal(signal.SIGINT)
        return self.rule.apply(x, Δ)


@pytest.mark.parametrize("at", [3, 4])
def test_ctrl_c_during_an_update_waits_for_the_end_of_the_step(at):
    before = signal.getsignal(signal.SIGINT)
    a, b, opt, heard = param(1.0), param([1.0, 2.0]), Interrupted(at), []
    with pytest.raises(KeyboardInterrupt):
        train(
            lambda x: a**2 + np.sum(b**2) * x, params(a, b), [1.0] * 9, opt, cb=lambda p: heard.append(p.step)
        )
    assert heard == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before
    assert opt.calls == 4
    a2, b2, rule = param(1.0), param([1.0, 2.0]), Momentum(0.1)
    train(lambda x: a2**2 + np.sum(b2**2) * x, params(a2, b2), [1.0] * 2, rule)
    assert a.value == a2.value
    assert b.value.tolist() == b2.value.tolist()


@pytest.mark.parametrize("where", ["loss", "callback"])
def test_ctrl_c_elsewhere_is_obeyed_at_once(a, where):
    def press(name):
        if name == where and a != 1:
            signal.raise_signal(signal.SIGINT)

    def loss(x):
        press("loss")
        return (a - x) ** 2

    with pytest.raises(KeyboardInterrupt):
        train(loss, params(a), [2.0, 3.0, 4.0], Descent(0.5), cb=lambda: press("callback"))
    assert a.value == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_hears_ctrl_c_and_the_training_goes_on(a):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(float(a)))
    try:
        opt = Interrupted(2)
        losses = train(lambda x: (a - x) ** 2, params(a), [2.0] * 3, opt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(losses) == 3
    assert len(heard) == 1


def test_a_handler_that_a_callback_sets_stays(a):
    before = signal.getsignal(signal.SIGINT)
    try:
        train(
            quadratic(a), params(a), [2.0], Descent(), cb=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
        )
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_training_in_a_thread_leaves_signals_alone(a):
    result = []
    thread = threading.Thread(
        target=lambda: result.append(train(quadratic(a), params(a), [2.0], Descent(0.5)))
    )
    thread.start()
    thread.join()
    assert result[0].tolist() == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def no_collections():
    """Let no garbage be collected: an interrupt that comes meanwhile is lost in what Python calls then.

    These are the callbacks of weak references, and of the collector, of which Hypothesis has one.
    """
    gc.disable()
    yield
    gc.enable()


def test_ctrl_c_from_another_thread_finds_whole_steps(no_collections):
    a, b = param(np.zeros(1000)), param(np.zeros(1000))
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        train(lambda x: np.sum(a) + np.sum(b), params(a, b), iter(int, 1), Descent(1.0))
    timer.join()
    assert a[0] < 0
    assert np.array_equal(a, b)


# Progress -----------------------------------------------------------------------------------------


def test_progress_shows_a_bar_with_the_running_loss(a, capsys):
    losses = train(quadratic(a), params(a), [2.0] * 5, Descent(0.5), epochs=2, progress=True)
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "loss" in shown
    assert "step/s" in shown
    assert len(losses) == 10


def test_the_figure_beside_the_bar_is_a_running_mean_of_the_losses(a, capsys):
    losses = iter([8.0, 4.0, 0.0])
    train(lambda _: a * 0 + next(losses), params(a), range(3), Descent(), progress=True)
    assert re.findall(r"loss ([\d.]+)", capsys.readouterr().err)[-1] == "7.41"


@pytest.mark.parametrize(
    "own", [lambda x: None + 1, lambda x: np.sum(a_missing_argument()), lambda x: "a" + 1]
)
def test_a_type_error_of_the_loss_itself_on_a_list_comes_as_it_is(a, own):
    with pytest.raises(TypeError) as caught:
        train(own, params(a), [[1.0, 2.0]], Descent())
    assert "list" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.traceback[-1].name in ("<lambda>", "a_missing_argument")


def a_missing_argument():
    raise TypeError("missing")


def test_a_batch_that_is_a_list_is_explained_where_the_loss_takes_two(a):
    with pytest.raises(TypeError, match="make it a tuple") as caught:
        train(lambda x, y: a * x * y, params(a), [[1.0, 2.0]], Descent())
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_loss_that_does_not_take_the_batches_is_told_how_they_fit(a, compiled):
    x, y = np.ones(2), np.ones(2)
    loss = lambda x, y: np.sum((a * x - y) ** 2)
    for f, data, takes in [(loss, [x, y], r"\(x, y\)"), (lambda: loss(x, y), [(x, y)], r"\(\)")]:
        with pytest.raises(TypeError, match=rf"takes {takes}, but .* \[\(x, y\)\].* lambda \*_: loss\(\)"):
            train(f, params(a), data, Descent(), compiled=compiled)
    for f in (loss, lambda *_: loss(x, y)):
        assert len(train(f, params(a), [(x, y)], Descent(), compiled=compiled)) == 1


def test_a_compiled_loss_itself_runs_for_the_first_batches_alone(a):
    runs = []
    loss = lambda x: runs.append(1) or (a - x) ** 2  # what it counts, it counts when it is recorded
    train(loss, params(a), [0.5], Descent(0.01), compiled=True)
    first = len(runs)
    train(loss, params(a), [0.5] * 9, Descent(0.01), compiled=True)
    assert len(runs) == 2 * first


def test_progress_counts_what_is_skipped_and_does_without_a_length(a, capsys):
    train(lambda x: skip(), params(a), (x for x in range(7)), Descent(), progress=True)
    assert "7step" in capsys.readouterr().err


def test_progress_without_tqdm_says_what_to_install(a, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install 'minidiff\[plot\]'"):
        train(quadratic(a), params(a), [2.0], Descent(), progress=True)
    assert a.value == 1


# Helpers ------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_throttle_calls_at_once_and_then_at_most_once_per_interval():
    clock, calls = Clock(), []

    def f(i, *, key):
        calls.append(i)
        return key

    throttled = throttle(f, 10, clock=clock)
    results = []
    for clock.now in (5, 6, 14.9, 15, 15.1, 24, 40):
        results.append(throttled(clock.now, key=-clock.now))
    assert calls == [5, 15, 40]
    assert results == [-5, -5, -5, -15, -15, -15, -40]


@pytest.mark.parametrize(
    ("seconds", "calls"), [(0, [0, 0, 1, 1.5]), (0.5, [0, 1, 1.5]), (np.float32(0.5), [0, 1, 1.5])]
)
def test_throttle_takes_any_number_of_seconds_from_none_on(seconds, calls):
    clock, called = Clock(), []
    throttled = throttle(lambda: called.append(clock.now) or len(called), seconds, clock=clock)
    returned = []
    for clock.now in (0, 0, 1, 1.5):
        returned.append(throttled())
    assert called == calls
    assert returned[-1] == len(calls)
    assert throttle(lambda: 7, seconds)() == 7


def test_the_interval_of_throttle_begins_when_the_call_has_returned():
    clock, calls = Clock(), []

    def slow():
        calls.append(clock.now)
        clock.now += 100

    throttled = throttle(slow, 10, clock=clock)
    for _ in range(3):
        throttled()
    assert calls == [0]
    clock.now += 10
    throttled()
    assert calls == [0, 110]


@pytest.mark.parametrize("around", [lambda f: throttle(f, 0), lambda f: throttle(throttle(f, 0), 0)])
def test_a_throttled_trigger_ends_a_training_as_it_does_by_itself(a, around):
    trigger = lambda: patience(lambda: True, 2)
    for option in ("cb", "each_epoch"):
        lengths = [
            len(train(quadratic(a), params(a), [1.0] * 3, Descent(), epochs=3, **{option: cb}))
            for cb in (trigger(), around(trigger()))
        ]
        assert lengths[0] == lengths[1] == (2 if option == "cb" else 6)


def test_what_calls_a_trigger_without_giving_its_result_ends_nothing(a):
    trigger = early_stopping(lambda: 1.0, 2)

    @functools.wraps(trigger)
    def report():
        return "logged"

    assert len(train(quadratic(a), params(a), [1.0] * 5, Descent(), cb=report)) == 5


@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_of_no_parameters_moves_nothing_and_warns(a, compiled):
    with pytest.warns(UserWarning, match="reaches none of the parameters"):
        losses = train(quadratic(a), params(a) - params(a), [1.0, 1.0], Descent(), compiled=compiled)
    assert losses[0] == losses[1] == quadratic(a)(1.0)


def test_throttle_keeps_the_number_of_callbacks_down_in_a_training(a):
    clock, calls = Clock(), []

    def tick():
        clock.now += 1

    report = throttle(lambda: calls.append(clock.now), 3, clock=clock)
    train(quadratic(a), params(a), [2.0] * 10, Descent(), cb=[tick, report])
    assert calls == [1, 4, 7, 10]


def test_throttle_with_the_real_clock_calls_once_within_an_hour():
    calls = []
    throttled = throttle(calls.append, 3600)
    for i in range(3):
        throttled(i)
    assert calls == [0]


def test_a_call_that_throttle_could_not_finish_does_not_count():
    throttled = throttle(stop, 3600)
    for _ in range(2):
        with pytest.raises(Exception, match="stop"):
            throttled()


def test_patience_counts_in_a_row():
    trigger = patience(lambda x, *, limit: x > limit, 3)
    assert [trigger(x, limit=0) for x in (1, 1, -1, 1, 1, 1, 1, -1)] == [False] * 5 + [True, True, False]


def triggered(trigger, scores):
    return [trigger(score) for score in scores].index(True) + 1


def test_early_stopping_waits_for_an_improvement():
    scores = [5, 4, 3, 3.5, 3.2, 2.9, 3, 2.95, 2.9, 1]
    assert triggered(early_stopping(lambda s: s, 3), scores) == 9
    assert triggered(early_stopping(lambda s: s, 2), scores) == 5
    assert triggered(early_stopping(lambda s: s, 3, min_dist=0.5), scores) == 6
    accuracy = early_stopping(lambda s: s, 3, distance=lambda best, score: score - best)
    assert triggered(accuracy, [1, 2, 3, 2, 2.5, 2.9, 4]) == 6


def test_early_stopping_counts_nan_and_standstill_as_no_improvement():
    assert triggered(early_stopping(lambda s: s, 3), [1, math.nan, math.nan, math.nan]) == 4
    assert triggered(early_stopping(lambda s: s, 3), [1, 1, 1, 1]) == 4


def test_early_stopping_from_a_first_score_as_in_flux():
    count = iter(range(1, 100))
    trigger = early_stopping(lambda: next(count), 3, init_score=0)
    assert [trigger() for _ in range(3)] == [False, False, True]


def test_plateau_waits_for_scores_that_hardly_change():
    assert triggered(plateau(lambda s: s, 2, min_dist=0.1), [3, 2, 2.05, 2, 1]) == 4
    assert triggered(plateau(lambda s: s, 2), [3, 3, 3]) == 3
    sequence = iter([-9, 8, -7, 6, -5])
    trigger = plateau(lambda: next(sequence), 3, init_score=10, min_dist=18)
    assert [trigger() for _ in range(4)] == [False, False, False, True]


def test_a_trigger_ends_a_training(a):
    trigger = early_stopping(lambda: float(a) ** 2, 2)
    losses = train(
        lambda x: a * x,
        params(a),
        [1.0, 1.0, -1.0, -1.0, -1.0],
        Descent(0.5),
        cb=lambda: trigger() and stop(),
    )
    assert len(losses) == 4


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: throttle(print, -1), ValueError, "seconds"),
        (lambda: throttle(print, math.nan), ValueError, "seconds"),
        (lambda: patience(bool, 0), ValueError, "at least 1"),
        (lambda: early_stopping(float, 2.5), TypeError, "integer"),
        (lambda: plateau(float, 0), ValueError, "at least 1"),
        (lambda: throttle(print, 1, clock=3), TypeError, "clock must be a function"),
        (lambda: early_stopping(float, 2, distance=3), TypeError, "distance must be a function"),
        (lambda: early_stopping(float, 2, min_dist=math.nan), ValueError, "min_dist must be finite"),
        (lambda: plateau(float, 2, min_dist="a"), TypeError, "min_dist must be a number"),
        (lambda: KeepBest(params(), float, distance=3), TypeError, "distance must be a function"),
        (lambda: early_stopping(lambda: None, 2)(), TypeError, "^f must give a number.*None: does it lack a"),
        (lambda: plateau(lambda: "a", 2)(), TypeError, "^f must give a number, the score, got str 'a'"),
        (lambda: KeepBest(params(), lambda: None)(), TypeError, "^metric must give a number.*lack a return"),
        (lambda: ReducePlateau(Descent(), lambda: np.ones(2))(), TypeError, "^metric must give a number"),
        (lambda: ReducePlateau(Descent(), factor=1), ValueError, r"^factor must be in \[0, 1\)"),
        (lambda: ReducePlateau(Descent(), patience=-1), ValueError, "^patience must be at least 0"),
        (lambda: ReducePlateau(Descent(), cooldown=-1), ValueError, "^cooldown must be at least 0"),
        (lambda: ReducePlateau(Descent(), least=-1), ValueError, r"^least must be in \[0, inf\)"),
        (lambda: ReducePlateau(Descent(), threshold=2), ValueError, r"^threshold must be in \[0, 1\]"),
        (lambda: ReducePlateau(Descent())(), TypeError, "metric is the loss in the Progress"),
        (lambda: KeepBest(params())(), TypeError, "metric is the loss in the Progress"),
    ],
)
def test_nonsensical_waits_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_score_may_be_any_number_and_with_a_distance_anything():
    for score in (1, np.float32(1), np.ones(1), param(1.0), Fraction(1, 3)):
        trigger = early_stopping(lambda score=score: score, 2)
        assert [trigger() for _ in range(3)] == [False, False, True]
    pair = early_stopping(lambda: (1, 2), 1, distance=lambda best, score: best[0] - score[0])
    assert [pair(), pair()] == [False, True]
    a = param(1.0)
    with KeepBest(params(a), lambda: (float(a), 2), distance=lambda best, score: best[0] - score[0]) as best:
        for a[...] in (3.0, 2.0, 5.0):
            best()
    assert (best.best, a) == ((2.0, 2), 2.0)


@pytest.mark.parametrize("value", ["no", None, 1, 0.0])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("shuffle", lambda x: DataLoader(np.ones(3), shuffle=x)),
        ("partial", lambda x: DataLoader(np.ones(3), partial=x)),
        ("compiled", lambda x: train(np.sum, params(), [1.0], Descent(), compiled=x)),
        ("progress", lambda x: train(np.sum, params(), [1.0], Descent(), progress=x)),
        ("progress", lambda x: minimize(lambda: 1.0, params(param(1.0)), progress=x)),
        ("compiled", lambda x: minimize(lambda: 1.0, params(param(1.0)), compiled=x)),
        ("leading", lambda x: throttle(print, 1, leading=x)),
        ("partial", lambda x: load("nowhere", params(), partial=x)),
        ("restart", lambda x: Cos(0.0, 1.0, 3, restart=x)),
        ("centred", lambda x: RMSProp(centred=x)),
    ],
)
def test_what_is_to_be_true_or_false_is_nothing_else(name, call, value):
    with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
        call(value)


def test_a_transform_may_give_numbers_and_lists_and_what_is_neither_is_refused(a):
    def one_step(f):
        b = param(1.0)
        train(lambda _: b**2, params(b), [0], Descent(0.25), transform=lambda grads: grads.map(f))
        return float(b)

    assert one_step(float) == one_step(lambda g: g.tolist()) == one_step(int) == 0.5
    with pytest.raises(TypeError, match=r"gradient of parameter 0 is .*does not consist of numbers"):
        one_step(lambda g: "x")
    with pytest.raises(FloatingPointError, match="gradient of parameter 0 is not finite"):
        one_step(lambda g: math.inf)


def test_a_composition_trains(a):
    losses = train(quadratic(a), params(a), [0.0] * 50, Optimiser(Momentum(0.01), Descent(1.0)))
    assert losses[-1] < losses[0]


# Examples -----------------------------------------------------------------------------------------


def example(name):
    return runpy.run_path(str(Path(__file__).parent.parent / "examples" / f"{name}.py"))["main"]


def test_the_digits_are_read_and_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    main = example("digits")
    first, whole = tmp_path / "first", tmp_path / "whole"
    assert main(epochs=9, checkpoint=whole, progress=False) > 0.95
    main(epochs=4, checkpoint=first, progress=False)
    main(epochs=9, checkpoint=first, resume=True, progress=False)
    with np.load(first) as a, np.load(whole) as b:
        assert a["checksum"].tolist() == b["checksum"].tolist()


def test_the_recipe_reads_the_digits_in_sixty_lines():
    accuracy, averaged = example("digits_recipe")(epochs=15, progress=False)
    assert min(accuracy, averaged) > 0.95
    source = (Path(__file__).parent.parent / "examples" / "digits_recipe.py").read_text()
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 60


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("make", [lambda: ADAM(0.1), lambda: Optimiser(Momentum(0.1), ExpDecay(1.0, 0.5, 7))])
def test_a_callback_may_freeze_parameters_and_add_others(make, compiled):
    x, y = np.random.default_rng(0).normal(size=(2, 12))

    def run(change):
        a, b, c, opt = param(1.0), param([2.0]), param(0.5), make()
        θ = params(a, b)
        loss = lambda x, y: (a * x + b[0] * x**2 + c - y) ** 2
        losses = change(θ, a, c, lambda data, **more: train(loss, θ, data, opt, compiled=compiled, **more))
        kept = [[*map(float, opt_.state[p]["clock"])] for opt_ in opt.stages() for p in (a, b, c)]
        return losses, [*params(a, b, c).to_vector()], kept

    def amid(θ, a, c, go_on):
        def cb(progress):
            if progress.step == 4:
                θ.discard(a)
            elif progress.step == 8:
                θ.add(c)

        return [*go_on([*zip(x, y, strict=True)], cb=cb)]

    def apart(θ, a, c, go_on):
        data = [*zip(x, y, strict=True)]
        losses = [*go_on(data[:4])]
        θ.discard(a)
        losses += [*go_on(data[4:8])]
        θ.add(c)
        return [*losses, *go_on(data[8:])]

    assert run(amid) == run(apart)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_transform_freezes_and_adds_parameters_from_the_next_element_on_as_a_callback_does(compiled):
    def run(place):
        a, b, c, calls = param(1.0), param([2.0]), param(0.5), itertools.count(1)
        θ = params(a, b)

        def change(grads):
            call = next(calls)
            if call == 2:
                θ.discard(a)
            elif call == 4:
                θ.add(c)
            return grads

        loss = lambda x: (a * x + b[0] * x**2 + c - 1) ** 2
        losses = train(loss, θ, np.arange(6.0) / 6, Momentum(0.1), compiled=compiled, **{place: change})
        return [*losses], [*params(a, b, c).to_vector()]

    assert run("transform") == run("cb")


def test_the_network_solves_the_differential_equation():
    assert example("physics_informed")(steps=700) < 0.1


def test_a_score_that_is_nan_from_the_beginning_is_none():
    assert triggered(early_stopping(lambda s: s, 3), [math.nan] * 5) == 3
    opt = Descent(1.0)
    lower = ReducePlateau(opt, lambda: math.nan, 0.5, 2)
    for _ in range(6):
        lower()
    assert opt.eta < 1.0


def test_early_stopping_takes_any_score_as_better_than_nan():
    scores = iter([np.nan, 3, 2, 1, 2, 2])
    trigger = early_stopping(lambda: next(scores), 2)
    assert [trigger() for _ in range(6)] == [False, False, False, False, False, True]


def test_a_tuple_of_arrays_is_not_taken_for_batches():
    x = np.ones(3)
    with pytest.raises(TypeError, match=r"one batch alone is \[\(x, y\)\]"):
        train(lambda x, y: np.sum(x * y), params(param(1.0)), (x, x), Descent())


class Once:
    """Gives one stored iterator each time."""

    def __init__(self, items):
        self.items = iter(items)

    def __iter__(self):
        return self.items


class Indexed:
    def __getitem__(self, i):
        return [1.0, 2.0][i]


def test_data_that_is_exhausted_after_an_epoch_is_no_silent_end():
    a = param(0.0)
    loss = lambda x: (a - x) ** 2
    with pytest.raises(ValueError, match="gone through only once, but epochs is 3"):
        train(loss, params(a), Once([1.0, 2.0]), Descent(0.1), epochs=3)
    with pytest.warns(UserWarning, match="no batch"):
        assert len(train(loss, params(a), [], Descent(0.1), epochs=1)) == 0


def test_data_may_be_a_sequence_that_only_indexes():
    a = param(0.0)
    assert len(train(lambda x: (a - x) ** 2, params(a), Indexed(), Descent(0.1), epochs=2)) == 4


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: train(lambda x, y: a * x, params(a), [[1.0, 2.0]], Descent()), TypeError, "tuple"),
        (
            lambda a: train(lambda x: a, params(a), [1], Descent(), cb=lambda step, loss: 0),
            TypeError,
            "cb is called without arguments, or with one, the progress",
        ),
        (
            lambda a: train(lambda x: a, params(a), [1], Descent(), epochs=True),
            TypeError,
            "epochs .* integer",
        ),
        (
            lambda a: train(lambda x: a * x, params(a), [1.0], Descent(), each_epoch=KeepBest),
            TypeError,
            r"each_epoch got the class KeepBest: make one, KeepBest\(",
        ),
        (
            lambda a: train(lambda x: a * x, params(a), [1.0], Descent(), transform=[accumulate]),
            TypeError,
            r"transform got the class accumulate: make one, accumulate\(",
        ),
        (lambda a: early_stopping(1.0, 5), TypeError, "f must be a function"),
        (lambda a: early_stopping(lambda: 1.0, 0), ValueError, "patience must be at least 1"),
        (lambda a: plateau(lambda: 1.0, 0), ValueError, "width must be at least 1"),
        (lambda a: plateau(None, 1), TypeError, "f must be a function"),
        (lambda a: patience(None, 1), TypeError, "predicate must be a function"),
        (lambda a: throttle(1, 2), TypeError, "f must be a function"),
        (lambda a: throttle(print, "a"), TypeError, "seconds must be a number"),
    ],
)
def test_a_mistake_names_the_argument(call, error, words):
    a = param(1.0)
    with pytest.raises(error, match=words):
        call(a)
    assert a == 1


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "c16"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Descent(0.05),
        lambda: ADAM(0.05),
        lambda: Optimiser(ClipNorm(1.0), Momentum(0.05), ExpDecay(1.0, 0.5, 3)),
    ],
)
def test_a_long_training_has_the_bits_of_a_loop_by_hand(make, dtype, monkeypatch):
    monkeypatch.setattr("minidiff.optimise.training.PATIENCE", 3)  # after which steps are a program
    x = np.linspace(-1, 1, 6).reshape(2, 3).astype(dtype)

    def run(go):
        W, b = param(np.ones(3), dtype), param(0.5, dtype)

        def loss(k):
            z = x @ W + b if k % 4 else x @ W  # every fourth batch does not reach b
            return np.sum(np.abs(z) ** 2) * np.float32(0.1)

        losses = go(loss, params(W, b), range(1, 13), make())
        return [np.asarray(losses), W.value, b.value]

    def by_hand(loss, ps, data, opt):
        losses = []
        for k in data:
            value, grads = withgradient(lambda k=k: loss(k), ps)
            update(opt, ps, grads)
            losses.append(value)
        return losses

    for trained, expected in zip(run(train), run(by_hand), strict=True):
        np.testing.assert_array_equal(trained, expected)


def test_keep_best_outside_of_a_block_warns():
    keep = KeepBest(params(param(np.ones(2))), lambda: 1.0)
    with pytest.warns(UserWarning, match="put back at the end of a block"):
        keep()
