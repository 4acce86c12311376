"""Ctrl-C, or another signal, at every instruction: nothing is left half done, none is lost, handlers stay."""

import linecache
import signal
import sys
import threading
from contextvars import copy_context
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from minidiff import (
    DataLoader,
    compiled,
    derivative,
    gradient,
    guard,
    interrupts,
    load,
    param,
    params,
    save,
    stop,
    train,
    watch,
)  # fmt: skip
from minidiff.interrupts import finish, trying, whole
from minidiff.optimise import ADAM, Average, ExpDecay, Momentum, Optimiser, engine, sharp_gradient, update
from minidiff.tracing import watching

PACKAGE = str(Path(interrupts.__file__).parent)

NAMES = "SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2"
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@pytest.fixture
def all_handled():
    """Give each signal a handler that raises an error."""
    before = [signal.signal(number, heard_and_raised) for number in SIGNALS]
    HEARD.clear()
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


HEARD = []


def heard_and_raised(number, _):
    HEARD.append(number)
    raise SignalError(number)


class SignalError(BaseException):
    pass


@pytest.fixture(autouse=True)
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    press_at((), lambda: None)  # Python 3.12 traces instructions only after they have been asked for once
    yield
    signal.signal(signal.SIGINT, before)


def press(number=signal.SIGINT):
    signal.raise_signal(number)


def press_at(
    moments, run, *, event="opcode", files=(interrupts.__file__, __file__), within="", number=signal.SIGINT
):
    """Call `run`; press Ctrl-C at the moments given: instructions or lines of these files, counted from 1.

    Only those of functions whose name ends with `within` count. Or raise another signal, of that number.

    Return how often it was pressed, and the exception that came of it.
    """
    now = pressed = 0

    def trace(frame, what, _):
        nonlocal now, pressed
        if not frame.f_code.co_filename.startswith(files) or frame.f_code is press_at.__code__:
            return None
        if not frame.f_code.co_name.endswith(within):
            return None
        frame.f_trace_opcodes = event == "opcode"
        # Python hears no signal while a block is left, of which tracing tells as the line of its `with`, nor
        # at a `try`, which is no instruction.
        if what == event and not (what == "line" and line_of(frame).startswith(("with ", "try:"))):
            now += 1
            if now in moments:
                pressed += 1
                press(number)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except BaseException as exception:
        return pressed, exception
    finally:
        sys.settrace(before)
    return pressed, None


def line_of(frame):
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


class FailedError(Exception):
    pass


def both(log, *, fail=False):
    log.append(1)
    log.append(2)
    if fail:
        raise FailedError


def fails(log):
    both(log, fail=True)


def nested(log):
    whole(both, log)


def another(*_):
    raise KeyboardInterrupt("another")


@pytest.mark.parametrize("work", [both, fails, nested])
def test_an_interrupt_at_any_instruction_comes_through_and_cuts_nothing(work):
    for moment in count(1):
        log = []
        pressed, exception = press_at({moment}, lambda log=log: whole(work, log))
        if not pressed:
            break
        assert type(exception) is KeyboardInterrupt
        assert log in ([], [1, 2])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert moment > 50


@pytest.mark.parametrize("work", [both, nested])
def test_of_two_interrupts_at_least_one_comes_through(work):
    for first in range(1, 60, 3):
        for second in range(first + 1, 90, 5):
            log = []
            pressed, exception = press_at({first, second}, lambda log=log: whole(work, log))
            assert type(exception) is KeyboardInterrupt or not pressed
            assert log in ([], [1, 2])
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_goes_on_hears_every_interrupt_once_and_the_result_comes():
    heard = []

    def hear(number, frame):
        heard.append(number)

    signal.signal(signal.SIGINT, hear)
    for moment in count(1):
        heard.clear()
        log = []
        pressed, exception = press_at({moment}, lambda log=log: whole(both, log))
        assert exception is None
        assert log == [1, 2]
        assert heard == [signal.SIGINT] * pressed
        assert signal.getsignal(signal.SIGINT) is hear
        if not pressed:
            break
    assert whole(len, "abc") == 3


def test_an_error_of_the_work_is_the_context_of_the_interrupt():
    def work():
        press()
        raise FailedError

    with pytest.raises(KeyboardInterrupt) as caught:
        whole(work)
    assert type(caught.value.__context__) is FailedError


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_python_does_not_hear_interrupts_nothing_changes(handler):
    signal.signal(signal.SIGINT, handler)
    assert whole(signal.getsignal, signal.SIGINT) == handler
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_handler_that_is_not_pythons_is_left_alone(monkeypatch):
    monkeypatch.setattr(interrupts, "_handler", lambda _: None)  # what getsignal says of one
    monkeypatch.setattr(interrupts, "_set_handler", None)
    assert whole(len, "abc") == 3


def test_a_thread_works_without_handlers():
    result = []
    thread = threading.Thread(target=lambda: result.append(whole(signal.getsignal, signal.SIGINT)))
    thread.start()
    thread.join()
    assert result == [signal.default_int_handler]


def test_a_handler_that_the_work_installs_stays_and_what_came_before_it_takes_effect():
    def work(log):
        press()
        signal.signal(signal.SIGINT, another)
        both(log)

    log = []
    with pytest.raises(KeyboardInterrupt) as caught:
        whole(work, log)
    assert str(caught.value) == ""
    assert log == [1, 2]
    assert signal.getsignal(signal.SIGINT) is another


def test_a_handler_that_passes_on_to_the_one_it_found_does_so_also_afterwards():
    def work():
        found = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *args: found(*args))
        press()

    with pytest.raises(KeyboardInterrupt):
        whole(work)
    with pytest.raises(KeyboardInterrupt):
        press()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("work", [both, nested])
def test_whatever_signal_comes_at_any_instruction_is_heard_and_cuts_nothing(all_handled, number, work):
    for moment in count(1):
        log = []
        HEARD.clear()
        pressed, exception = press_at({moment}, lambda log=log: whole(work, log), number=number)
        assert [number] * pressed == HEARD
        assert log in ([], [1, 2])
        assert all(signal.getsignal(other) is heard_and_raised for other in SIGNALS)
        if not pressed:
            break
        assert type(exception) is SignalError
    assert moment > 50


def test_of_several_signals_all_are_heard_in_their_order_though_their_handlers_raise(all_handled):
    order = [*SIGNALS[::-1], *SIGNALS]

    def work(log):
        for number in order:
            whole(press, number)
        fails(log)

    log = []
    with pytest.raises(SignalError) as caught:
        whole(work, log)
    assert log == [1, 2]
    assert order == HEARD
    error = caught.value
    for number in order[::-1]:
        assert error.args == (number,)
        error = error.__context__
    assert type(error) is FailedError


def test_of_each_signal_the_handler_that_the_work_installs_stays(all_handled):
    def work(number):
        press(number)
        signal.signal(number, another)

    for number in SIGNALS:
        with pytest.raises(SignalError):
            whole(work, number)
        assert [signal.getsignal(other) is another for other in SIGNALS] == [n is number for n in SIGNALS]
        signal.signal(number, heard_and_raised)


# finish -------------------------------------------------------------------------------------------


def test_what_an_interrupt_cuts_is_finished_or_not_begun():
    def assign(log):
        log["a"] = 1
        log["b"] = 2

    for moment in count(1):
        log = {}
        pressed, exception = press_at({moment}, lambda log=log: finish(assign, log))
        if not pressed:
            break
        assert type(exception) is KeyboardInterrupt
        assert log in ({}, {"a": 1, "b": 2})
    assert moment > 10


def test_an_error_of_what_is_finished_comes_through():
    log = []
    with pytest.raises(FailedError):
        finish(fails, log)


# Training -----------------------------------------------------------------------------------------


def state_of(ps, opt):
    """Return the parameters and all that the optimiser's stages know, as something to compare."""
    known = [
        [(k, np.copy(v).tolist()) for p in ps if p in stage.state for k, v in sorted(stage.state[p].items())]
        for stage in opt.stages()
    ]
    return [p.value.tolist() for p in ps], known, repr(opt)


def training(make):
    a, b = param([1.0, 2.0]), param(3.0)
    ps, opt = params(a, b), make()
    return ps, opt, lambda steps: train(lambda x: np.sum(a**2) * b + x, ps, [1.0] * steps, opt)


@pytest.mark.parametrize(
    ("make", "event", "files"),
    [
        (lambda: Momentum(0.1), "opcode", f"{PACKAGE}/optimise"),
        (lambda: Optimiser(ADAM(0.1), ExpDecay(1.0, 0.5, 1)), "line", PACKAGE),
    ],
    ids=["instruction", "line"],
)
def test_an_interrupt_at_any_moment_of_a_training_leaves_whole_steps(make, event, files):
    allowed = []
    for steps in (1, 2):
        ps, opt, run = training(make)
        run(steps)
        allowed.append(state_of(ps, opt))
    with engine("numpy"):
        for moment in count(1):
            ps, opt, run = training(make)
            run(1)
            step = partial(copy_context().run, run, 1)  # a gradient that is cut short ends with its context
            pressed, exception = press_at({moment}, step, event=event, files=(files,))
            if not pressed:
                break
            assert type(exception) is KeyboardInterrupt
            assert state_of(ps, opt) in allowed
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert moment > 500


@pytest.mark.parametrize(
    ("file", "within"),
    [("tracing/reading", ("for_leaves", "_reading")), ("optimise/together", ""), ("compiled", "")],
)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError])
def test_an_interrupt_in_the_first_call_of_a_program_leaves_whole_steps_and_no_stand_ins(file, within, kind):
    def late(*_):
        raise kind

    signal.signal(signal.SIGINT, late)

    def fresh():
        a, b = param([1.0, 2.0]), param(3.0)
        ps, opt = params(a, b), ADAM(0.1)
        return ps, opt, compiled(lambda x: np.sum(a**2) * b + x, ps, opt)

    allowed = []
    for steps in range(3):
        ps, opt, step = fresh()
        for _ in range(steps):
            step(1.0)
        allowed.append(state_of(ps, opt))
    for moment in count(1):
        ps, opt, step = fresh()
        pressed, exception = press_at(
            {moment}, lambda: step(1.0), event="line", files=(f"{PACKAGE}/{file}",), within=within
        )
        if not pressed:
            break
        assert type(exception) is kind
        taken = allowed.index(state_of(ps, opt))
        assert [type(p + 1) for p in ps] == [np.ndarray, np.float64]
        step(1.0)
        assert allowed.index(state_of(ps, opt)) == taken + 1
    assert moment > 20


class Late:
    def __call__(self, *_):
        raise TimeoutError("it takes too long")

    def tell(self, *_):
        raise TimeoutError("it takes too long")


def too_late(words, *_):
    raise TimeoutError(words)


@pytest.mark.parametrize("handler", [Late(), Late().tell, partial(too_late, "it takes too long")])
def test_an_error_of_a_signals_handler_is_told_from_others_and_caught_nowhere(tmp_path, handler):
    W, path = param([1.0, 2.0]), tmp_path / "checkpoint.npz"
    opt, due = ADAM(0.1), []

    @derivative(lambda g, ans, x: g)
    def same(x):
        if due:
            due.pop()
            press()
        return x * 1.0

    step = compiled(lambda x: np.sum(W * same(x)), params(W), opt)
    step(np.ones(2))
    save(path, params(W), opt)
    before = W.value.tolist()
    signal.signal(signal.SIGINT, handler)
    due.append(1)

    with pytest.raises(TimeoutError, match="it takes too long"):
        step(np.ones(2))
    for moment in count(1, 20):
        read = partial(load, path, params(W), opt)
        pressed, exception = press_at({moment}, read, event="line", files=(f"{PACKAGE}/checkpoint",))
        assert W.value.tolist() == before
        if not pressed:
            break
        assert (type(exception), str(exception)) == (TimeoutError, "it takes too long")
    assert moment > 100
    with trying():
        raise TimeoutError("of its own")
    with pytest.raises(TimeoutError), trying():
        press()


@pytest.mark.parametrize("around", [guard, watch])
def test_an_interrupt_within_a_guard_or_a_watch_leaves_arrays_writeable_and_nothing_watched(around):
    for moment in count(1):
        a, x = param([1.0, 2.0]), np.ones((3, 2))

        def run(a=a, x=x):
            with around():
                gradient(
                    lambda: np.sum(x[1:] @ a) * np.sum(gradient(lambda a: np.sum(x @ a) ** 2, a)[0]),
                    params(a),
                )

        files = f"{PACKAGE}/tracing/record", f"{PACKAGE}/tracing/guards"
        pressed, exception = press_at({moment}, run, event="line", files=files)
        if not pressed:
            break
        assert type(exception) is KeyboardInterrupt
        assert x.flags.writeable
        assert a.value.flags.writeable
        assert not watching.get()
    assert moment > 200


@pytest.mark.parametrize("name", ["swapped", "sharp_gradient"])
def test_wherever_other_values_are_interrupted_parameters_get_their_own_back(name):
    for moment in count(1):
        a, b = param([1.0, 2.0]), param(3.0)
        average = Average(params(a, b))
        average()
        a += 1
        b += 1

        def run(name=name, a=a, b=b, average=average):
            if name == "sharp_gradient":
                sharp_gradient(lambda: np.sum(a**2) * b, params(a, b))
            else:
                with average.swapped():
                    assert b == 3

        pressed, exception = press_at({moment}, run, files=(f"{PACKAGE}/params",), within="assign")
        assert (a.value.tolist(), b.value) == ([2, 3], 4)
        if not pressed:
            break
        assert type(exception) is KeyboardInterrupt
    assert moment > 8


@pytest.mark.parametrize("file", ["data", "interrupts"])
def test_a_batch_counts_if_its_step_has_been_taken_wherever_the_end_is_interrupted(file):
    def run(loader, a, opt):
        def loss(x):
            if x[0] == 2.0:
                stop()
            return (a - x[0]) ** 2

        train(loss, params(a), loader, opt)

    files = (f"{PACKAGE}/{file}.py",)
    for moment in count(1):
        loader, a, opt = DataLoader(np.arange(4.0)), param(0.0), Momentum(0.1)
        step = partial(copy_context().run, run, loader, a, opt)
        pressed, exception = press_at({moment}, step, files=files)
        if not pressed:
            break
        assert type(exception) is KeyboardInterrupt
        assert loader.state["batches"] == (opt.state[a]["clock"][0] if a in opt.state else 0)
    assert moment > 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_all_parameters_have_made_their_step(all_handled, number):
    for moment in count(1, 7):
        ps = params(param([1.0, 2.0]), param(3.0))
        opt, grads = Momentum(0.1), {p: np.ones(p.shape) for p in ps}
        files = (f"{PACKAGE}/optimise/", f"{PACKAGE}/interrupts.py")
        pressed, exception = press_at({moment}, partial(update, opt, ps, grads), files=files, number=number)
        if not pressed:
            break
        assert type(exception) is SignalError
        assert len({p in opt.state for p in ps}) == 1
        moved = [p.value.tolist() != before for p, before in zip(ps, [[1.0, 2.0], 3.0], strict=True)]
        assert moved == [p in opt.state for p in ps]
    assert moment > 300


def test_a_handler_that_work_takes_over_for_another_signal_is_the_one_that_was_there():
    """As code does by which SIGTERM is to do what Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        whole(lambda: signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
