"""What runs around the steps of a training: transforms, progress, triggers, the best parameters, rates."""

import copy
import io
import json
import math
import pickle
import re
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ctrl_c import pressed_at
from hypothesis import given
from hypothesis import strategies as st

from minidiff import DataLoader, Grads, gradient, load, param, params, save, skip, stop, train
from minidiff.optimise import (
    ADAM,
    ADAMW,
    AbstractOptimiser,
    Average,
    ClipNorm,
    ClipValue,
    Descent,
    Grouped,
    KeepBest,
    Momentum,
    Optimiser,
    Progress,
    ReducePlateau,
    ScheduleFreeADAMW,
    accumulate,
    clip_norm,
    early_stopping,
    patience,
    plateau,
    reset,
    skip_nonfinite,
    throttle,
    update,
)
from minidiff.schedules import Constant, Exp, Scheduler

TORCH = json.loads((Path(__file__).parent / "golden" / "torch.json").read_text())


def grads_of(*arrays):
    ps = [param(np.zeros_like(a)) for a in arrays]
    return Grads(ps, list(arrays))


def square(a):
    return lambda x: np.sum((a - x) ** 2)


# clip_norm ----------------------------------------------------------------------------------------


def test_clipping_by_the_norm_of_all_gradients_is_pytorchs():
    g, h = (np.array(g) for g in TORCH["clip"]["gradients"])
    grads = grads_of(g, h)
    assert grads.norm() == pytest.approx(TORCH["clip"]["norm"], rel=1e-14)
    clipped = clip_norm(0.5)(grads)
    for mine, theirs in zip(clipped.values(), TORCH["clip"]["clipped"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)  # PyTorch adds 1e-6 to the norm
    assert clipped.norm() == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_clipping_keeps_direction_dtype_and_what_is_short_enough(dtype):
    g, h = np.array([[3.0, 4.0]], dtype), np.array(12.0, dtype)
    grads = grads_of(g, h)
    assert clip_norm(13.0)(grads) is grads
    clipped = clip_norm(6.5)(grads)
    for before, after in zip((g, h), clipped.values(), strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_allclose(after, before / 2)
    assert g[0, 0] == 3
    np.testing.assert_array_equal(clip_norm(0.0)(grads).to_vector(), 0)


def test_clipping_leaves_out_what_has_no_gradient_and_refuses_a_negative_threshold():
    a, b = param(3.0), param(1.0)
    clipped = clip_norm(1.0)(gradient(lambda: 5 * a, params(a, b)))
    assert (clipped[a], clipped[b]) == (1.0, None)
    with pytest.raises(ValueError, match="thresh"):
        clip_norm(-1.0)
    for transform in (clip_norm(1.0), skip_nonfinite(), accumulate(2)):
        with pytest.raises(TypeError, match=r"^grads must be Grads, as gradient\(loss, θ\) gives them, got "):
            transform({a: np.array(5.0)})


def test_in_training_a_transform_is_what_it_is_by_hand():
    a, b = param([3.0, -1.0]), param([3.0, -1.0])
    train(square(a), params(a), [0.0, 1.0], Momentum(0.1), transform=clip_norm(0.5))
    opt = Momentum(0.1)
    for x in (0.0, 1.0):
        update(opt, params(b), clip_norm(0.5)(gradient(lambda x=x: square(b)(x), params(b))))
    assert a.value.tolist() == b.value.tolist()


def test_several_transforms_run_in_order_and_none_leaves_the_step_out():
    a, seen = param(1.0), []

    def note(name, result):
        return lambda grads: seen.append((name, grads[a])) or result(grads)

    transforms = [note("first", lambda grads: 2 * grads), note("second", lambda grads: None)]
    losses = train(
        square(a), params(a), [0.0], Descent(0.1), transform=(*transforms, note("never", None)), cb=stop
    )
    assert seen == [("first", 2.0), ("second", 4.0)]
    assert (a, losses.size) == (1.0, 0)


@pytest.mark.parametrize(
    ("transform", "error", "words"),
    [
        (5, TypeError, "transform must be a function"),
        ([clip_norm(1.0), None], TypeError, "transform must be a function"),
        (lambda grads: 3.0, TypeError, "transform returns must be Grads, or None.* float 3.0"),
        (lambda grads: dict(grads.items()), TypeError, "must be Grads"),
    ],
)
def test_a_transform_that_is_none_is_named_and_nothing_moves(transform, error, words):
    a = param(1.0)
    with pytest.raises(error, match=words):
        train(square(a), params(a), [0.0], Descent(0.1), transform=transform)
    assert a == 1


# What is not finite -------------------------------------------------------------------------------


class Model:
    def __init__(self):
        self.good, self.bad = param([2.0]), param([1.0, 4.0])


def kinked(model):
    return lambda x: np.sum(model.good**2) * x + np.sum(np.sqrt(model.bad * x))


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_an_error_and_nothing_moves():
    model, opt = Model(), ADAM(0.1)
    θ = params(model)
    with (
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match=r"gradient of parameter bad .* at step 3") as e,
    ):
        train(kinked(model), θ, [1.0, 1.0, 0.0, 1.0], opt)
    assert len(e.value.losses) == 2
    again, other = Model(), ADAM(0.1)
    train(kinked(again), params(again), [1.0, 1.0], other)
    assert θ.to_vector().tolist() == params(again).to_vector().tolist()
    train(kinked(model), θ, [1.0], opt)
    train(kinked(again), params(again), [1.0], other)
    assert θ.to_vector().tolist() == params(again).to_vector().tolist()


def test_a_step_that_is_not_finite_is_left_out_for_all_parameters():
    model, again, guard = Model(), Model(), skip_nonfinite()
    loader = DataLoader(np.array([1.0, 0.0, np.nan, 2.0]))
    with np.errstate(all="ignore"):
        losses = train(
            lambda x: kinked(model)(x[0]), params(model), loader, ADAM(0.1), transform=guard, epochs=2
        )
    assert len(losses) == 4
    assert guard.skipped == 4
    train(lambda x: kinked(again)(x), params(again), [1.0, 2.0], ADAM(0.1), epochs=2)
    assert params(model).to_vector().tolist() == params(again).to_vector().tolist()


def test_so_many_steps_in_a_row_may_be_left_out_and_no_more():
    bad, good = grads_of(np.array([1.0, np.inf])), grads_of(np.ones(2))
    guard = skip_nonfinite(at_most=2)
    for grads in (bad, bad, good, bad, bad):
        assert guard(grads) is (good if grads is good else None)
    with pytest.raises(FloatingPointError, match="after 2 steps in a row"):
        guard(bad)
    guard.reset()
    assert guard(bad) is None
    with pytest.raises(FloatingPointError):
        skip_nonfinite(0)(bad)


@pytest.mark.parametrize(
    "g",
    [
        np.array([1e200, -1e200]),
        np.full(3, 3e38, "f4"),
        np.full(3, 60000, "f2"),
        np.zeros((0, 3)),
        np.array(5.0),
        np.array([1e200 + 1e200j]),
        np.ones((4, 6)).T[::2],
        np.array([1 + 2j], "c8"),
    ],
)
def test_what_is_large_is_finite_still_and_any_single_element_may_not_be(g):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert skip_nonfinite()(grads_of(g)) is not None
        for value in [np.nan, np.inf, -np.inf, *([complex(0, np.inf)] if g.dtype.kind == "c" else [])]:
            for i in np.ndindex(g.shape):
                h = g.copy()
                h[i] = value
                assert skip_nonfinite()(grads_of(np.ones(2), h)) is None


# accumulate ---------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.sampled_from(["f2", "f4", "f8", "c16"]))
def test_accumulated_batches_are_one_step_with_their_mean(n, dtype):
    rng = np.random.default_rng(n)
    batches = [rng.standard_normal(3).astype(dtype) for _ in range(2 * n)]
    a, b, opt = param(np.ones(3, dtype)), param(np.ones(3, dtype)), Scheduler(Exp(0.5, 0.5), Momentum())
    same = copy.deepcopy(opt)

    def loss(a, x):
        return np.sum(abs(a - x) ** 2) / 8

    losses = train(lambda x: loss(a, x), params(a), batches, opt, transform=accumulate(n))
    for i in (0, n):
        gs = [gradient(lambda x=x: loss(b, x), params(b))[b] for x in batches[i : i + n]]
        update(same, b, np.mean(gs, axis=0))
    assert a.value.dtype == dtype
    np.testing.assert_allclose(a.value, b.value, rtol=4 * np.finfo(dtype).eps)
    assert len(losses) == 2
    assert opt.eta == same.eta == 0.25


def test_accumulation_goes_on_over_epochs_counts_none_as_zero_and_takes_no_half_precision_sums():
    total = accumulate(3)
    a, b, idle = param(np.zeros(2, "f2")), param(0.0), param(0.0)
    big = np.full(2, 40000, "f2")
    results = [total(Grads([a, b, idle], [big, g, None])) for g in (None, np.array(3.0), None)]
    assert results[:2] == [None, None]
    assert results[2][a].dtype == np.float16
    assert (results[2][a].tolist(), results[2][b], results[2][idle]) == ([40000, 40000], 1.0, None)
    a = param(0.0)
    assert len(train(square(a), params(a), [1.0] * 2, Descent(0.1), transform=accumulate(3), epochs=4)) == 2


def test_one_bad_batch_does_not_spoil_the_accumulated_ones():
    total = accumulate(2)
    assert total(grads_of(np.ones(2))) is None
    with pytest.raises(FloatingPointError, match="skip_nonfinite"):
        total(grads_of(np.array([1.0, np.nan])))
    assert total.count == 1
    a = param(1.0)
    losses = train(
        lambda x: a * x,
        params(a),
        [1.0, np.nan, 3.0],
        Descent(0.25),
        transform=[skip_nonfinite(), accumulate(2)],
    )
    assert (len(losses), a) == (1, 0.5)


def test_an_accumulation_goes_on_from_a_checkpoint(tmp_path):
    def run(a, total, xs):
        train(square(a), params(a), xs, Descent(0.1), transform=total)

    a, total = param([1.0, 2.0]), accumulate(3)
    run(a, total, [1.0, 2.0, 3.0, 4.0])
    save(tmp_path / "run.npz", params(a), total=total.state)
    run(a, total, [5.0, 6.0])
    b, other = param([0.0, 0.0]), accumulate(3)
    other.state = load(tmp_path / "run.npz", params(b))["total"]
    run(b, other, [5.0, 6.0])
    assert a.value.tolist() == b.value.tolist()
    other.state = {"count": 1, "total": [np.ones(2)]}
    with pytest.raises(ValueError, match="2 parameters"):
        other(grads_of(np.ones(2), np.ones(2)))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("frozen", range(3))
def test_waiting_gradients_are_those_of_their_parameters_whichever_are_trained(frozen, added, compiled):
    """One gradient waits when a parameter is frozen: it is dropped, those of the others stay theirs."""
    every = [param(0.0) for _ in range(4)]
    ps = params(every[:3])

    def freeze(progress):
        if progress.epoch == 1:
            ps.discard(every[frozen])
            if added:
                ps.add(every[3])

    loss = lambda _: every[0] + 10.0 * every[1] + 100.0 * every[2] + 1000.0 * every[3]
    total = accumulate(2)
    train(loss, ps, range(3), Descent(1.0), transform=total, each_epoch=freeze, epochs=2, compiled=compiled)
    expected = [-3.0, -30.0, -300.0, -1500.0 * added]  # the last had no gradient that waited
    expected[frozen] /= 3
    assert [float(p) for p in every] == expected


def test_a_parameter_that_is_trained_again_starts_without_a_waiting_gradient():
    total = accumulate(3)
    a, b = param(0.0), param(0.0)
    one = np.ones(())
    for ps in ([a, b], [b]):
        assert total(Grads(ps, [one] * len(ps))) is None
    mean = total(Grads([b, a], [one, one]))
    assert (mean[a], mean[b]) == (1 / 3, 1)


def test_waiting_gradients_from_a_checkpoint_go_by_place_once_and_by_parameter_then():
    total, other = accumulate(4), accumulate(4)
    a, b, c, d = (param(0.0) for _ in range(4))
    arrays = [np.array(1.0), np.array(10.0)]
    total(Grads([a, b], arrays))
    file = io.BytesIO()
    save(file, params(a, b), total=total.state)
    other.state = load(file, params(c, d))["total"]
    for few, number in (([c], 1), ([c, d, a], 3)):
        with pytest.raises(
            ValueError, match=rf"2 parameters wait in accumulate.* {number} parameters.*reset\(\)"
        ):
            other(Grads(few, [np.ones(())] * number))
    other(Grads([c, d], arrays))
    other(Grads([d, c], arrays[::-1]))
    mean = other(Grads([d, c], arrays[::-1]))
    assert (mean[c], mean[d]) == (1, 10)
    other(Grads([c, d], arrays))
    other.state = total.state  # of other parameters than those that it knows
    assert other(Grads([a, b], arrays)) is None


def test_where_no_gradient_waits_none_waits_after_a_checkpoint_either():
    a, b, file, total, other = param(0.0), param(0.0), io.BytesIO(), accumulate(2), accumulate(2)
    total(Grads([a, b], [None, np.ones(())]))
    save(file, params(a, b), total=total.state)
    other.state = load(file, params(a, b))["total"]
    for each in (total, other):
        mean = each(Grads([a, b], [None, np.ones(())]))
        assert (mean[a], mean[b]) == (None, 1)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
def test_waiting_gradients_are_copied_with_their_model_or_refused(again):
    model, total = [param([1.0, 2.0]), param(3.0)], accumulate(2)
    gs = [np.array([1.0, 3.0]), np.array(5.0)]
    total(Grads(model, gs))
    alone, (other_model, other) = again(total), again((model, total))
    for each in (alone, other):
        with pytest.raises(ValueError, match=r"accumulate are of none of these .*deepcopy\(.*reset\(\)"):
            each(Grads(model, gs))
        assert str(each.state) == str(total.state)
    for ps, each in ((model, total), (other_model, other)):
        assert [g.tolist() for g in each(Grads(ps, gs)).values()] == [[1, 3], 5]
    alone.reset()
    assert alone(Grads(model, gs)) is None


@pytest.mark.parametrize("shape", [(), (1,), (0,)])
def test_waiting_gradients_of_every_shape_go_into_checkpoints(shape):
    a, total, other = param(np.zeros(shape)), accumulate(3), accumulate(3)
    train(square(a), params(a), [1.0, 2.0], Descent(0.5), transform=total)
    file = io.BytesIO()
    save(file, params(a), total=total.state)
    other.state = load(file, params(a))["total"]
    for each in (total, other):
        a[...] = 0
        train(square(a), params(a), [3.0], Descent(0.5), transform=each)
        assert np.array_equal(a, np.full(shape, 2.0))


def test_gradients_wait_on_where_their_mean_is_too_large_for_the_parameter():
    total = accumulate(2)
    ps, large = [param(np.zeros(1, "float32"))], np.full(1, 1e300)
    total(Grads(ps, [large]))
    before = str(total.state)
    with pytest.raises(RuntimeWarning, match="overflow"):
        total(Grads(ps, [large]))
    assert str(total.state) == before


class FailsAt(AbstractOptimiser):
    """Fails at one of its steps."""

    def __init__(self, at):
        self.calls, self.at = iter(range(1, 10**6)), at

    def apply(self, x, Δ):
        if next(self.calls) == self.at:
            raise RuntimeError
        return 0.1 * Δ


@pytest.mark.parametrize("where", ["after it", "step", "not finite", "Ctrl-C", "stop"])
def test_what_waits_for_a_step_that_fails_waits_on(where):
    """The batches before the failing one count, and are not given again: their gradients may not be lost."""
    end = {
        "after it": lambda _: 1 / 0,
        "not finite": lambda grads: grads * math.nan,
        "Ctrl-C": lambda _: signal.raise_signal(signal.SIGINT),
        "stop": lambda _: stop(),
    }.get(where, lambda grads: grads)
    steps = iter(range(9))

    def at_the_second(grads):
        return end(grads) if next(steps) == 1 else grads

    def run(a, opt, guard, total, state=None, *later):
        loader = DataLoader(np.array([1.0, 2, np.nan, 3, 4, 5, 6, 7, 8]), shuffle=True, rng=0)
        loader.state = state or loader.state
        with suppress(ArithmeticError, RuntimeError, KeyboardInterrupt):
            train(lambda x: np.sum(a * x), params(a), loader, opt, transform=[guard, total, *later])
        return loader.state

    a, guard, total = param([1.0, 2.0]), skip_nonfinite(), accumulate(3)
    opt = FailsAt(2 if where == "step" else -1)
    state = run(a, opt, guard, total, None, at_the_second)
    assert total.count == 2
    run(a, opt, guard, total, state)
    b, other, others = param([1.0, 2.0]), skip_nonfinite(), accumulate(total.n)
    run(b, FailsAt(-1), other, others)
    assert a.value.tolist() == b.value.tolist()
    assert str((guard.state, total.state)) == str((other.state, others.state))


# Progress -----------------------------------------------------------------------------------------


def test_callbacks_that_take_one_argument_get_the_progress_and_others_none():
    a, seen = param(1.0), []

    class Called:
        def __call__(self, progress):
            seen.append(("object", progress))

    train(
        square(a),
        params(a),
        [0.0, 2.0],
        Descent(0.25),
        epochs=2,
        cb=[lambda progress: seen.append(progress), lambda: seen.append(None), Called()],
        each_epoch=lambda progress: seen.append(("epoch", progress)),
    )
    steps = [Progress(1, 1, 1.0), Progress(2, 1, 2.25), Progress(3, 2, 1.5625), Progress(4, 2, 1.890625)]
    each = [[step, None, ("object", step)] for step in steps]
    epochs = [("epoch", Progress(2, 1, 1.625)), ("epoch", Progress(4, 2, (1.5625 + 1.890625) / 2))]
    assert seen == [*each[0], *each[1], epochs[0], *each[2], *each[3], epochs[1]]
    assert all(type(step.loss) is float for step in steps)


TAKING = {
    "a default": (lambda seen: lambda note="mine": seen.append(note), "mine"),
    "a keyword": (lambda seen: lambda *, note="mine": seen.append(note), "mine"),
    "a partial": (lambda seen: partial(seen.append, "mine"), "mine"),
    "keywords": (lambda seen: lambda **notes: seen.append(notes), {}),
    "anything": (lambda seen: lambda *notes: seen.append(notes), (Progress(1, 1, 1.0),)),
    "beside the progress": (lambda seen: lambda progress, note="mine": seen.append(note), "mine"),
}


@pytest.mark.parametrize("name", ["cb", "each_epoch"])
@pytest.mark.parametrize(("make", "expected"), TAKING.values(), ids=TAKING)
def test_a_callback_that_can_do_without_the_progress_keeps_its_defaults(name, make, expected):
    a, seen = param(1.0), []
    train(square(a), params(a), [0.0], Descent(), **{name: make(seen)})
    assert seen == [expected]


@pytest.mark.parametrize("name", ["cb", "each_epoch"])
@pytest.mark.parametrize("stray", [Exp(0.1, 0.5), [Exp(0.1, 0.5)], clip_norm(1.0)])
def test_what_belongs_elsewhere_is_no_callback_and_told_where(name, stray):
    a = param(1.0)
    with pytest.raises(TypeError, match=rf"{name} got .*(Scheduler\(schedule|transform=clip_norm)"):
        train(square(a), params(a), [1.0], Descent(), **{name: stray})
    assert a == 1


def test_the_end_of_an_epoch_may_stop_or_skip_and_has_nan_for_a_loss_without_steps():
    a, seen = param(1.0), []
    train(
        lambda x: skip(),
        params(a),
        [0.0],
        Descent(),
        epochs=3,
        each_epoch=[
            lambda p: seen.append(p),
            lambda p: p.epoch == 1 and skip(),
            lambda: stop(),
        ],
    )
    assert [p.epoch for p in seen] == [1, 2]
    assert all(math.isnan(p.loss) and p.step == 0 for p in seen)


def test_losses_survive_an_exception_and_an_interrupt():
    a = param(1.0)

    def press():
        if a == 3:
            signal.raise_signal(signal.SIGINT)

    for data, cb, error in [
        ([2.0, 3.0, "x"], None, Exception),
        ([2.0, 3.0, np.nan], None, FloatingPointError),
        ([2.0, 3.0, 4.0], press, KeyboardInterrupt),
    ]:
        a[...] = 1.0
        with pytest.raises(error) as caught:
            train(square(a), params(a), data, Descent(0.5), cb=cb)
        assert caught.value.losses.tolist() == [1.0, 1.0]


def test_one_bar_spans_all_epochs_with_loss_and_epoch(capsys):
    a = param(1.0)
    train(square(a), params(a), [2.0] * 5, Descent(0.5), epochs=3, progress=True)
    shown = capsys.readouterr().err
    assert "epoch 3/3" in shown
    assert "15/15" in shown
    assert "loss" in shown
    assert shown.count("\n") == 1


def test_in_a_notebook_without_ipywidgets_the_bar_is_plain_and_nothing_warns():
    code = """
import sys, types
ipython = types.ModuleType("IPython")
ipython.get_ipython = lambda: types.SimpleNamespace(config={"IPKernelApp": 1})
sys.modules.update({"IPython": ipython, "ipywidgets": None})
from minidiff import param, params, train
from minidiff.optimise import Descent
a = param(1.0)
train(lambda x: (a - x) ** 2, params(a), [2.0] * 3, Descent(0.5), progress=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3/3" in done.stderr


# Warnings -----------------------------------------------------------------------------------------


def test_a_parameter_that_the_first_epoch_does_not_reach_is_warned_of_once_by_name():
    model = Model()
    with pytest.warns(UserWarning, match="first epoch: bad") as warned:
        train(lambda x: np.sum(model.good), params(model), [1, 2], Descent(), epochs=3)
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_a_parameter_that_some_step_of_the_first_epoch_reaches_is_not_warned_of():
    model = Model()
    losses = train(lambda p: np.sum(p), params(model), [model.good, model.bad], Descent(), epochs=2)
    assert len(losses) == 4
    with pytest.warns(UserWarning, match="first epoch: bad"):
        train(np.sum, params(model), [model.good, model.bad], Descent(), cb=stop)


def test_a_loader_without_batches_is_warned_of():
    a = param(0.0)
    with pytest.warns(UserWarning, match="no batch.*20 samples, batchsize=32.* too few"):
        train(square(a), params(a), DataLoader(np.ones(20), batchsize=32, partial=False), Descent(), epochs=3)


# Triggers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cb", "each_epoch"])
def test_a_trigger_as_a_callback_stops_and_counts_where_it_hangs(where):
    a, scores = param(0.0), iter([3.0, 2.0, 2.5, 2.6, 0.0])
    trigger = early_stopping(lambda: next(scores), 2)
    losses = train(square(a), params(a), [1.0] * 3, Descent(0.1), epochs=9, **{where: trigger})
    assert len(losses) == 4 * (3 if where == "each_epoch" else 1)
    assert trigger.best == 2.0


def test_callbacks_after_a_trigger_see_the_epoch_that_it_ends():
    a, seen = param(0.0), []
    each_epoch = [lambda p: seen.append(("before", p.epoch)), patience(lambda p: p.epoch >= 2, 1)]
    each_epoch += [lambda p: seen.append(("after", p.epoch))]
    train(square(a), params(a), [1.0], Descent(0.25), epochs=5, each_epoch=each_epoch)
    assert seen == [("before", 1), ("after", 1), ("before", 2), ("after", 2)]


def test_a_rate_that_a_schedule_sets_is_not_one_to_lower():
    with pytest.raises(AttributeError, match="sets eta before every step"):
        ReducePlateau(Scheduler(Exp(0.1, 0.5), Descent()), identity)


def test_a_trigger_can_go_by_the_training_loss_of_the_epoch():
    a = param(0.0)
    trigger = plateau(lambda progress: progress.loss, 2, min_dist=0.01)
    losses = train(square(a), params(a), [1.0, -1.0], Descent(0.25), epochs=50, each_epoch=trigger)
    assert 6 <= len(losses) < 50


def identity(score):
    return score


def is_low(score):
    return score < 2.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: early_stopping(identity, 2, init_score=9.0),
        lambda: patience(is_low, 2),
        lambda: plateau(identity, 2, init_score=0.0),
    ],
)
def test_a_trigger_is_reset_copied_pickled_and_saved_with_its_memory(make):
    scores = [3.0, 2.0, 2.0, 2.0, 2.0]
    alone = [make()(score) for score in scores]
    trigger = make()
    expected = [trigger(score) for score in scores]
    for cut in range(len(scores)):
        trigger.reset()
        for score in scores[:cut]:
            trigger(score)
        file = io.BytesIO()
        save(file, [], trigger=trigger.state)
        loaded = make()
        loaded.state = load(file, [])["trigger"]
        copies = [copy.deepcopy(trigger), pickle.loads(pickle.dumps(trigger)), loaded]
        trigger(0.0)  # the copies are on their own
        for other in copies:
            assert [other(score) for score in scores[cut:]] == expected[cut:]
    assert expected != alone


REMEMBERING = {
    "skip_nonfinite": skip_nonfinite, "accumulate": lambda: accumulate(2),
    "patience": lambda: patience(is_low, 2), "plateau": lambda: plateau(identity, 2),
    "early_stopping": lambda: early_stopping(identity, 2), "Average": lambda: Average(params(param(1.0))),
    "KeepBest": lambda: KeepBest(params(param(1.0)), identity),
    "ReducePlateau": lambda: ReducePlateau(Descent(), identity),
}  # fmt: skip


@pytest.mark.parametrize("make", REMEMBERING.values(), ids=REMEMBERING)
def test_what_has_only_begun_goes_into_a_checkpoint_too(make):
    begun, loaded, file = make(), make(), io.BytesIO()
    save(file, [], begun=begun.state)
    loaded.state = load(file, [])["begun"]
    assert loaded.state == begun.state


@pytest.mark.parametrize("make", [early_stopping, plateau])
def test_a_score_is_noted_as_it_was_though_its_array_changes(make):
    live, a = np.zeros(1), param(0.0)
    triggers = make(lambda: live, 3), make(lambda: a, 3), make(lambda: float(a), 3)
    for score in [5.0, 4.0, 3.0, 2.0, 2.0, 2.0, 2.0]:
        live[...] = a[...] = score
        first, second, third = [trigger() for trigger in triggers]
        assert first == second == third
    assert third
    a[...] = 5
    with KeepBest(params(a), lambda: a) as best:
        for a[...] in (5.0, 3.0, 4.0):
            best()
    assert a == 3


@pytest.mark.parametrize("score", [0.0, 1e-9, -5.0, math.inf])
def test_a_first_score_is_compared_with_none(score):
    trigger = plateau(identity, 1)
    assert [trigger(score), trigger(score + 1)] == [False, False]
    stop_early = early_stopping(identity, 1)
    assert not stop_early(score)


def test_a_score_that_cannot_be_compared_is_not_noted():
    trigger = plateau(identity, 2)
    trigger(1.0), trigger(1.0)
    trigger.distance = lambda last, score: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trigger(2.0)
    assert trigger.state == {"count": 1, "last": 1.0}


@pytest.mark.parametrize("kind", ["early_stopping", "plateau", "ReducePlateau", "state"])
def test_an_interrupt_of_what_remembers_leaves_all_of_it_as_before_or_after(kind):
    def run(moment):
        scores, opt = iter([1.0, 1.0, 1.0 if kind == "ReducePlateau" else 0.5]), Descent(1.0)
        make = {"early_stopping": early_stopping, "plateau": plateau, "state": plateau}
        f = lambda: next(scores)
        memory = ReducePlateau(opt, f, patience=1) if kind == "ReducePlateau" else make[kind](f, 3)
        memory(), memory()
        before, is_cut = (memory.state, opt.eta), False
        work = partial(setattr, memory, "state", {"count": 2, "last": 7.0}) if kind == "state" else memory
        try:
            with pressed_at(moment, "callbacks.py", "memory.py", "settings.py", "interrupts.py"):
                work()
        except KeyboardInterrupt:
            is_cut = True
        return before, (memory.state, opt.eta), is_cut

    before, after, _ = run(0)
    assert before != after
    for moment in range(1, 10**4):
        _, found, is_cut = run(moment)
        assert found in (before, after)
        if not is_cut:
            break
    assert moment > 20


@pytest.mark.parametrize(
    "state", [5, {}, {"count": -1, "best": None}, {"count": 1.5, "best": 0}, {"count": 1}]
)
def test_a_state_that_is_none_is_refused_and_changes_nothing(state):
    trigger = early_stopping(identity, 2)
    trigger(3.0), trigger(4.0)
    with pytest.raises((TypeError, ValueError), match="state"):
        trigger.state = state
    assert trigger.state == {"count": 1, "best": 3.0}


@pytest.mark.filterwarnings("ignore:the best parameters are kept")  # outside of with
@pytest.mark.parametrize("make", [Average, lambda ps: KeepBest(ps, lambda: 1.0)], ids=["average", "best"])
def test_a_state_of_other_parameters_is_refused_and_changes_nothing(make):
    memory = make(params(param(np.ones(3)), param(0.0)))
    for _ in range(2):
        memory()
    before = str(memory.state)
    for shapes in [(3,), (1, 1), (3, (), ()), ((3, 1), ())]:
        other = make(params([param(np.ones(shape)) for shape in shapes]))
        other()
        with pytest.raises(ValueError, match="state is of other parameters"):
            memory.state = other.state
    with pytest.raises(ValueError, match="state is of other parameters"):
        memory.state = memory.state | {"values": [None, None]}
    for values in ([np.ones(3), np.array("a")], [np.ones(3), np.array(1j)], [np.ones(3), None]):
        with pytest.raises((TypeError, ValueError), match="state"):
            memory.state = memory.state | {"values": values}
    assert str(memory.state) == before
    memory.state = make(memory.ps).state  # of one that has not been called yet
    memory()


@pytest.mark.filterwarnings("ignore:the best parameters are kept")  # outside of with
@pytest.mark.parametrize("make", [Average, lambda ps: KeepBest(ps, lambda: 1.0)], ids=["average", "best"])
def test_a_state_goes_by_the_names_of_the_parameters(make):
    def model(*names):
        ps = {name: param(np.zeros(2)) for name in names}
        return params(ps), ps

    ps, by_name = model("W", "b", "c")
    memory = make(ps)
    before = memory.state
    for i, p in enumerate(by_name.values()):
        p[...] = i
    memory()
    file = io.BytesIO()
    save(file, ps, memory=memory.state)
    for order in ("Wbc", "cWb", "bcW"):
        ps, by_name = model(*order)
        other = make(ps)
        for state in (load(file, ps)["memory"], memory.state):
            other.state = state
            expected = ["Wbc".index(name) for name in order]
            assert [x.tolist() for x in other.values] == [[i, i] for i in expected]
            assert other.state["names"] == list(ps.names)
        other.state = before  # which has no arrays yet
        assert other.values is None
        older = {name: x for name, x in memory.state.items() if name != "names"}
        other.state = older
        assert [x.tolist() for x in other.values] == [[i, i] for i in range(3)]
    for names in (["['W']", "['b']"], ["['W']", "['b']", "['d']"], [*memory.state["names"], "['c']"]):
        with pytest.raises(
            ValueError, match=r"state is of other parameters: those of .*'names' it goes by place"
        ):
            memory.state = memory.state | {"names": names}
    for names in ("W", None):
        with pytest.raises(TypeError, match="must be a list of names"):
            memory.state = memory.state | {"names": names}
    assert [x.tolist() for x in memory.values] == [[i, i] for i in range(3)]
    with pytest.raises(ValueError, match="state is of something else"):
        patience(identity, 2).state = {"count": 1, "names": ["0"]}


def test_waiting_gradients_of_another_model_are_refused():
    total = accumulate(2)
    total(grads_of(np.ones(1)))
    with pytest.raises(
        ValueError, match=r"is an ndarray of shape \(1,\).* parameter an ndarray of shape \(3,\).* of another"
    ):
        total(grads_of(np.ones(3)))
    assert total.count == 1


# KeepBest -----------------------------------------------------------------------------------------


def test_the_best_parameters_come_back_and_not_the_last():
    a, b = param(0.0), param([1.0, 2.0])
    with KeepBest(params(a, b), lambda: (a - 1) ** 2) as keep:
        for a[...], b[...] in [(0.0, 1.0), (0.9, 2.0), (np.nan, 3.0), (1.3, 4.0)]:
            keep()
    assert (a, b.value.tolist()) == (0.9, [2.0, 2.0])
    assert keep.best == pytest.approx(0.01)
    a[...] = 7
    keep.restore()
    assert a == 0.9


def test_the_best_come_back_after_an_interrupt_and_from_a_checkpoint():
    a = param(5.0)
    keep = KeepBest(params(a))

    def press():
        if a > 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), keep:
        train(square(a), params(a), [3.0, 3.5, 20.0, 0.0], Descent(0.25), cb=[keep, press])
    assert a == 3.75
    file = io.BytesIO()
    save(file, params(a), keep=keep.state)
    b = param(0.0)
    other = KeepBest(params(b))
    other.state = load(file, params(b))["keep"]
    b[...] = 8
    other(Progress(1, 1, 100.0))  # which knows what it kept before: no warning
    other.restore()
    assert b == 3.75
    assert other.best == keep.best


def test_an_interrupt_at_the_end_of_a_block_still_puts_the_best_back():
    for moment in range(10**3):
        a, is_cut = param(5.0), False
        keep = KeepBest(params(a), lambda a=a: float(a)).__enter__()
        keep()
        a[...] = 6
        try:
            with pressed_at(moment, "callbacks.py", "interrupts.py"):
                keep.__exit__(None, None, None)
        except KeyboardInterrupt:
            is_cut = True
        assert a == 5 or moment in (1, 2, 3)  # before its `try` has begun
        if moment and not is_cut:
            break
    assert moment > 20


def test_without_anything_kept_the_block_ends_as_it_is_and_restore_says_so():
    a = param(5.0)
    with KeepBest(params(a)) as keep:
        a[...] = 6
    assert a == 6
    with pytest.warns(UserWarning, match="put back"):
        keep(Progress(1, 1, math.nan))
    with pytest.raises(ValueError, match="nothing is kept"):
        keep.restore()
    accuracy = KeepBest(params(a), lambda: float(a), distance=lambda best, score: score - best)
    a[...] = 1
    with pytest.warns(UserWarning, match=r"write with KeepBest\(ps, …\) as best: .* best\.restore\(\)"):
        accuracy()
    for a[...] in (3.0, 2.0):
        accuracy()
    accuracy.restore()
    assert a == 3
    assert [p.value for p in pickle.loads(pickle.dumps(keep)).ps] == [3.0]


def averages(a, b):
    average = Average(params(a, b))
    average()
    a[...], b[...] = 5, 6

    def work():
        with average.swapped():
            pass

    return work, (5, 6)


def the_best(a, b):
    best = KeepBest(params(a, b), lambda: 1.0).__enter__()
    best()
    a[...], b[...] = 5, 6
    return best.__exit__, (1, 2)


@pytest.mark.parametrize("make", [averages, the_best])
def test_an_interrupt_of_an_exchange_of_values_loses_none(make):
    for moment in range(2, 10**4):  # before the first instruction nothing has begun
        a, b = param(1.0), param(2.0)
        work, expected = make(a, b)
        press = pressed_at(moment, "average.py", "callbacks.py", "interrupts.py")
        with suppress(KeyboardInterrupt), press:
            work()
        assert (a, b) == expected
        if press.left > 0:
            break
    assert moment > 100


@pytest.mark.parametrize(
    "make",
    [
        lambda f: early_stopping(f, 2),
        lambda f: plateau(f, 2),
        lambda f: KeepBest(params(param(0.0)), f),
        lambda f: ReducePlateau(Descent(), f),
    ],
)
def test_a_score_from_a_state_is_one(make):
    memory = make(lambda: 1.0)
    before = memory.state
    for score in ("a", np.ones(2), {}):
        noted = {name: score for name in ("best", "last") if name in before}
        with pytest.raises(TypeError, match=r"state\['(best|last)'\] must .*score"):
            memory.state = before | noted
    assert memory.state == before
    memory.state = before | {name: math.nan for name in ("best", "last") if name in before}


def test_values_that_are_too_large_for_one_parameter_change_none():
    a, b = param([1.0]), param([2.0], "float16")
    average = Average(params(a, b))
    average()
    average.state = average.state | {"values": [np.ones(1), np.full(1, 1e6, "float32")]}
    with pytest.raises(RuntimeWarning, match="overflow"), average.swapped():
        pass
    assert (a, b) == (1.0, 2.0)


@pytest.mark.parametrize("make", [averages, the_best])
def test_a_read_only_parameter_keeps_all_others_from_being_exchanged(make):
    a, b = param([1.0]), param([2.0])
    work, _ = make(a, b)
    b.value.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        work()
    assert (a, b) == (5.0, 6.0)


# ReducePlateau ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [math.inf, math.nan])
def test_a_rate_stays_while_scores_fall_from_no_number(first):
    scores, opt = iter([first, 5.0, 4.0, 3.0, 2.0, 1.0]), Descent(1.0)
    reduce = ReducePlateau(opt, lambda: next(scores), patience=1)
    for _ in range(6):
        reduce()
    assert (opt.eta, reduce.best) == (1.0, 1.0)


@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.5])
@pytest.mark.parametrize("best", [0.0, 1e-9, 1.0, -1e6])
def test_a_score_is_better_by_a_part_of_the_best_of_whatever_size(best, threshold):
    margin = threshold * abs(best)
    for less, rate in [(1.01 * margin or 1e-3 * abs(best) or 1e-9, 1.0), (0.99 * margin, 0.5)]:
        scores, opt = iter([best, best - less]), Descent(1.0)
        reduce = ReducePlateau(opt, lambda: next(scores), factor=0.5, patience=0, threshold=threshold)
        reduce(), reduce()
        assert opt.eta == rate


@pytest.mark.parametrize("case", TORCH["plateau"], ids=lambda case: f"{case['mode']} {case['settings']}")
def test_a_rate_falls_on_a_plateau_as_pytorchs_does(case):
    settings = dict(case["settings"])
    settings["least"] = settings.pop("min_lr", 0.0)
    sign = -1 if case["mode"] == "max" else 1
    scores = iter([math.nan if score is None else sign * score for score in case["scores"]])
    opt = Descent(1.0)
    reduce = ReducePlateau(opt, lambda: next(scores), **settings)
    rates = []
    for i in range(len(case["scores"])):
        reduce()
        rates.append(opt.eta)
        if i == 20:  # the memory goes into checkpoints
            other = ReducePlateau(opt, reduce.__wrapped__, **settings)
            other.state = reduce.state
            reduce = other
    assert rates == pytest.approx(case["rates"], rel=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ReducePlateau(Optimiser(Descent())), TypeError, r"no eta to lower.*opt\[0\]"),
        (lambda: ReducePlateau(Optimiser(ClipNorm(1.0), Descent())), TypeError, r"such as opt\[1\]"),
        (lambda: ReducePlateau(Descent), TypeError, "opt must be an optimiser"),
        (lambda: ReducePlateau(Descent(), 3), TypeError, "metric must be a function"),
        (lambda: ReducePlateau(Descent(), factor=1.0), ValueError, "factor"),
        (lambda: ReducePlateau(Descent(), patience=-1), ValueError, "patience"),
        (lambda: KeepBest(params(), 3), TypeError, "metric must be a function"),
        (lambda: KeepBest(identity, params()), TypeError, "expected parameters, got function"),
        (lambda: Average(0.99, params()), TypeError, "expected parameters, got float 0.99"),
        (lambda: patience(identity, 2)(0.5), TypeError, "true or false, got float 0.5.*early_stopping"),
        (lambda: accumulate(0), ValueError, "n must be at least 1"),
        (lambda: skip_nonfinite(-1), ValueError, "at_most"),
    ],
)
def test_a_mistake_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_in_a_training_the_rate_falls_with_the_loss_of_the_epochs():
    a, opt = param(0.0), Descent(0.5)
    train(
        square(a),
        params(a),
        [1.0, -1.0],
        opt,
        epochs=6,
        each_epoch=ReducePlateau(opt, factor=0.5, patience=1),
    )
    assert opt.eta < 0.5


# throttle -----------------------------------------------------------------------------------------


def test_without_leading_the_first_call_only_begins_the_time():
    calls = []
    throttled = throttle(lambda *a, **k: calls.append((a, k)), 10, leading=False, clock=lambda: now)
    for now in (0, 5, 10, 15, 21):
        throttled(now, key=now)
    assert calls == [((10,), {"key": 10}), ((21,), {"key": 21})]


def test_a_throttled_callback_gets_the_progress_if_it_takes_it():
    a, seen = param(0.0), []

    def report(progress):
        seen.append(progress.step)

    train(square(a), params(a), [1.0] * 3, Descent(0.1), cb=throttle(report, 3600))
    assert seen == [1]


# Grouped ------------------------------------------------------------------------------------------


def network():
    rng = np.random.default_rng(0)
    return {name: param(rng.standard_normal(shape)) for name, shape in (("W", (3, 2)), ("b", 2), ("V", 2))}


def fitted(model):
    return lambda x: np.sum(np.tanh(x @ model["W"] + model["b"]) * model["V"]) ** 2 + np.sum(model["b"])


BATCHES = list(np.random.default_rng(1).standard_normal((6, 3)))


@pytest.mark.parametrize("around", [lambda opt: opt, lambda opt: Optimiser(ClipValue(0.1), opt)])
def test_each_group_goes_as_with_its_own_optimiser(around):
    together, apart = network(), network()
    opt = Grouped((params(together["W"], together["V"]), Momentum(0.05)), rest=ADAM(0.1))
    train(fitted(together), params(together), BATCHES, around(opt))
    own = {"W": Momentum(0.05), "b": ADAM(0.1), "V": Momentum(0.05)}
    for x in BATCHES:
        grads = gradient(lambda x=x: fitted(apart)(x), params(apart))
        for name, p in apart.items():
            update(around(own[name]), p, grads[p])
    assert params(together).to_vector().tolist() == params(apart).to_vector().tolist()


def test_a_parameter_outside_the_groups_is_frozen_by_leaving_it_out_and_named_if_it_is_not():
    model = network()
    before = model["b"].value.copy()
    opt = Grouped((params(model["W"]), Descent(0.1)), (model["V"], Descent(0.2)))
    train(fitted(model), params(model) - params(model["b"]), BATCHES, opt)
    assert (model["b"] == before).all()
    with pytest.raises(ValueError, match=r"shape \(2,\) is in no group"):
        train(fitted(model), params(model["b"]), BATCHES, opt)


def test_groups_are_scheduled_together_in_their_proportions_and_from_zero_on():
    a, b = param(0.0), param(0.0)
    opt = Grouped((params(a), Descent(0.01)), rest=Descent(0.1))
    scheduled = Scheduler(lambda t: (t - 1) / 2, opt)
    for t in range(1, 4):
        update(scheduled, params(a, b), {a: -1.0, b: -1.0})
        assert (opt[0].eta, opt[-1].eta, opt.eta) == pytest.approx(((t - 1) / 20, (t - 1) / 2, (t - 1) / 2))
    assert (a, b) == pytest.approx((0.15, 1.5))
    reduce = ReducePlateau(opt, lambda: 1.0, factor=0.5, patience=0)
    reduce(), reduce()
    assert opt[0].eta == pytest.approx(0.05)
    with pytest.raises(TypeError, match="no eta to schedule"):
        Scheduler(Exp(1.0, 0.5), Grouped((params(a), Optimiser(ADAM())), rest=ADAM()))


def test_a_rate_that_one_group_refuses_is_set_in_none():
    opt = Grouped(([], Descent(1.0)), ([], Scheduler(Exp(0.5, 0.5), ADAM(0.5))), rest=Momentum(0.1))
    for rate, error in [(0.2, AttributeError), (-1.0, ValueError), (1e308, ValueError)]:
        with pytest.raises(error):
            opt.eta = rate
        assert [each.eta for each in opt] == [1.0, 0.5, 0.1]


def test_groups_are_one_object_to_save_copy_pickle_and_reset(tmp_path):
    def begin():
        model = network()
        return model, Grouped(
            (params(model["W"]), ADAMW(0.1, decay=0.1)), rest=Scheduler(Exp(0.1, 0.9), ADAM())
        )

    model, opt = begin()
    train(fitted(model), params(model), BATCHES[:3], opt)
    save(tmp_path / "run.npz", params(model), opt)
    resumed, other = begin()
    load(tmp_path / "run.npz", params(resumed), other)
    runs = [
        (resumed, other),
        copy.deepcopy((model, opt)),
        pickle.loads(pickle.dumps((model, opt))),
        (model, opt),
    ]
    for each, its in runs:
        train(fitted(each), params(each), BATCHES[3:], its)
        assert params(each).to_vector().tolist() == params(runs[0][0]).to_vector().tolist()
    with pytest.warns(UserWarning, match="copy, made without its parameters"):
        update(copy.deepcopy(opt), model["W"], np.ones((3, 2)))
    reset(opt)
    assert len(opt[0].state) == len(opt[1].opt.state) == 0
    assert len(opt.places) == 1


def test_the_rates_of_a_file_or_of_the_program_keep_their_proportions():
    def begin(rate):
        a, b = param(1.0), param(1.0)
        return params(a, b), Scheduler(Constant(0.2), Grouped((params(a), Descent(rate)), rest=Descent(0.1)))

    for settings, expected in {"file": [0.98, 0.8], "code": [0.9, 0.8]}.items():
        file = io.BytesIO()
        save(file, *begin(0.01))
        θ, opt = begin(0.05)
        load(file, θ, opt, settings=settings)
        update(opt, θ, dict.fromkeys(θ, 1.0))
        np.testing.assert_allclose(θ.to_vector(), expected)


def test_a_file_of_other_groups_is_refused():
    a, b = param(1.0), param(1.0)
    make = {
        "one": lambda: Grouped((params(a), Descent(0.01)), rest=Descent(0.1)),
        "the other": lambda: Grouped((params(b), Descent(0.01)), rest=Descent(0.1)),
        "both": lambda: Grouped((params(a, b), Descent(0.01)), rest=Descent(0.1)),
        "no rest": lambda: Grouped((params(a), Descent(0.01)), (params(b), Descent(0.1))),
    }
    for saved, begin in make.items():
        file = io.BytesIO()
        save(file, params(a, b), begin())
        for loaded, again in make.items():
            opt = again()
            if loaded == saved:
                load(file, params(a, b), opt)
            else:
                with pytest.raises(ValueError, match=r"does not fit: opt\.places\[.* was .* when saved"):
                    load(file, params(a, b), opt)
            assert repr(opt) == repr(again())


@pytest.mark.parametrize("rates", [(0.01, 0.0), (0.0, 0.01), (0.0, 0.01, 0.0), (0.0, 0.0)])
def test_a_group_without_a_rate_stays_where_it_is(rates):
    ps = [param(1.0) for _ in rates]
    opt = Grouped(*((params(p), Descent(rate)) for p, rate in zip(ps, rates, strict=True)))
    assert opt.eta == max(rates)
    if any(rates):
        opt.eta = 0.5
        assert [each.eta for each in opt] == [50 * rate for rate in rates]


def test_groups_do_not_keep_parameters_alive():
    model = network()
    opt = Grouped((params(model), Descent()))
    del model
    assert len(opt.places) == 0
    assert repr(opt) == "Grouped(\n    (0 parameters, Descent(eta=0.1)),\n)"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda a: Grouped(), TypeError, "needs groups"),
        (lambda a: Grouped(params(a), Descent()), TypeError, r"group 0 must be \(parameters, optimiser\)"),
        (lambda a: Grouped(params(a, param(2.0)), Descent()), TypeError, r"group 0 must be \(parameters"),
        (lambda a: Grouped((params(a), Descent(), 0.1)), TypeError, r"group 0 must be \(parameters"),
        (lambda a: Grouped([params(a), Descent()]), TypeError, r"group 0 must be \(parameters"),
        (lambda a: Grouped((params(a), Descent)), TypeError, "optimiser of group 0 must be an optimiser"),
        (lambda a: Grouped((params(a), Descent()), ([a], ADAM())), ValueError, "in groups 0 and 1"),
        (lambda a: Grouped((params(a), Descent()), rest=0.1), TypeError, "rest must be an optimiser"),
        (lambda a: Grouped(([1.0], Descent())), TypeError, "Param"),
    ],
)
def test_a_mistake_in_groups_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make(param(1.0))


# Average ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "name"), [(0.9, "ema"), (None, "swa")])
def test_an_average_is_pytorchs(decay, name):
    a = param(0.0)
    average = Average(params(a), decay)
    for a[...], expected in zip(TORCH["average"]["values"], TORCH["average"][name], strict=True):
        average()
        with average.swapped() as ps:
            assert ps[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c16"])
def test_an_average_is_of_each_parameters_dtype_and_of_better_precision_than_half(dtype):
    a, b = param(np.array([[0.0, 1.0]]), dtype), param(np.array(1.0), dtype)
    average = Average(params(a, b), 0.9999)
    average()
    a[...] = 1
    for _ in range(1000):
        average()
    with average.swapped():
        np.testing.assert_allclose(a.value[0, 0], 1 - 0.9999**1000, rtol=2e-3)
        assert a.value.dtype == dtype
    assert a.value.tolist() == [[1, 1]]


def test_own_values_come_back_after_an_error_and_an_average_goes_into_checkpoints():
    a = param([1.0, 2.0])
    average = Average(params(a), None)
    with pytest.raises(ValueError, match="no average yet"), average.swapped():
        pass
    average()
    a[...] = 3
    average()

    def fail():
        assert a.value.tolist() == [2.0, 2.5]
        raise KeyError

    with pytest.raises(KeyError), average.swapped():
        fail()
    assert a.value.tolist() == [3, 3]
    file = io.BytesIO()
    save(file, params(a), average=average.state)
    other = Average(params(a), None)
    other.state = load(file, params(a))["average"]
    copied = copy.deepcopy((average, a))[0]
    for each in (average, other):
        each()
        with each.swapped():
            np.testing.assert_allclose(a.value, [7 / 3, 8 / 3])
    assert copied.count == 2
    with pytest.raises(ValueError, match="decay"):
        Average(params(a), 1.0)


def test_a_state_has_averages_or_counts_no_calls():
    a = param([1.0, 2.0])
    average = Average(params(a))
    empty = average.state
    average()
    full = average.state
    for state in (full | {"count": 0}, full | {"values": None}, empty | {"count": 3}):
        with pytest.raises(ValueError, match="no values, or no count of them"):
            average.state = state
        assert (average.count, *average.values[0]) == (1, 1.0, 2.0)
    average.state = empty
    assert average.values is None


def test_a_training_while_the_average_is_in_place_is_lost_and_warns():
    a = param([1.0, np.nan])
    average, opt = Average(params(a)), ScheduleFreeADAMW(0.1)
    average()
    update(opt, a, [1.0, 1.0])
    for swapped in (average.swapped, opt.swapped):
        before = a.value.copy()
        with pytest.warns(UserWarning, match=r"the change is lost\. Train outside") as caught, swapped():
            update(Descent(0.1), a, [1.0, 1.0])
        assert caught[0].filename == __file__
        np.testing.assert_array_equal(a.value, before)
        with swapped():
            assert np.isnan(a.value[1])


def test_an_average_follows_a_training_from_where_it_is_called():
    a, seen = param(0.0), []
    average = Average(params(a), decay=None)

    def late(progress):
        if progress.epoch > 2:
            seen.append(float(a))
            average()

    train(square(a), params(a), [1.0, 2.0], Descent(0.1), epochs=5, cb=late)
    with average.swapped():
        assert a == pytest.approx(np.mean(seen))


def test_groups_are_shown_in_order_and_the_rest_by_name():
    a, b = param(1.0), param(2.0)
    opt = Grouped((params(a), Descent(0.1)), (params(b), Descent(0.2)), rest=Descent(0.0))
    assert repr(opt).split("\n")[1:4] == [
        "    (1 parameters, Descent(eta=0.1)),",
        "    (1 parameters, Descent(eta=0.2)),",
        "    rest=Descent(eta=0.0),",
    ]
    assert Grouped((params(a), Descent(0.0)), rest=Descent(0.0)).ratios == (1.0, 1.0)


def test_a_norm_beyond_all_floats_is_clipped_as_any():
    W = param(np.zeros(2))
    with np.errstate(all="ignore"):
        g = clip_norm(1.0)(Grads(params(W), [np.array([1.5e308, -1.5e308])]))[W]
    np.testing.assert_allclose(g, [0.5**0.5, -(0.5**0.5)], rtol=1e-14)


def fired():
    trigger = early_stopping(lambda: 1.0, 2)
    while not trigger():
        pass
    return trigger


@pytest.mark.parametrize("option", ["cb", "each_epoch"])
@pytest.mark.parametrize("wrapped", [lambda f: f, lambda f: [print, f], lambda f: throttle(f, 0)])
def test_a_trigger_that_has_fired_warns_at_the_callers_line(option, wrapped, capsys):
    trigger, W = fired(), param(np.ones(2))
    run = lambda: train(lambda x: np.sum((W - x) ** 2), params(W), [0.0], Descent(0.1), epochs=9,
                        **{option: wrapped(trigger)})  # fmt: skip
    with pytest.warns(
        UserWarning, match=rf"{option} has .*fired already.*call its reset\(\), or make"
    ) as caught:
        assert len(run()) == 1
    assert [warning.filename for warning in caught] == [__file__]
    trigger.reset()
    assert len(run()) == 3  # the first is the best


def test_what_a_trigger_that_has_fired_waits_for_may_be_over():
    scores = iter([3.0, 3.0, 3.0, 1.0, 0.5])
    W, trigger = param(np.ones(2)), early_stopping(lambda: next(scores), 2)
    run = lambda n: train(lambda x: np.sum((W - x) ** 2), params(W), [0.0], Descent(0.1), epochs=n,
                          each_epoch=trigger)  # fmt: skip
    assert len(run(9)) == 3
    state = trigger.state
    trigger.reset()
    trigger.state = state  # as from a checkpoint
    with pytest.warns(UserWarning, match="unless what it waits for is over"):
        assert len(run(2)) == 2


@pytest.mark.parametrize(
    ("make", "option", "words"),
    [
        (early_stopping, {"min_delta": 0.1}, "min_dist="),
        (early_stopping, {"mode": "max"}, "distance=lambda best, score: score - best"),
        (early_stopping, {"restore_best_weights": True}, "with KeepBest(ps, f) as best"),
        (early_stopping, {"monitor": "val_loss"}, "a function"),
        (early_stopping, {"baseline": 1.0}, "init_score="),
        (early_stopping, {"color": 1}, "it has f, patience, distance, init_score, min_dist"),
        (plateau, {"min_delta": 0.1}, "min_dist="),
        (ReducePlateau, {"min_lr": 0.1}, "least="),
        (ReducePlateau, {"verbose": True}, "progress"),
        (ReducePlateau, {"mode": "max"}, "lambda: -accuracy()"),
        (ReducePlateau, {"min_delta": 0.1}, "threshold="),
        (KeepBest, {"patience": 3}, "it has ps, metric, distance, min_dist"),
        (KeepBest, {"mode": "max"}, "distance="),
    ],
)
def test_options_of_kerass_callbacks_lead_to_ours(make, option, words):
    arguments = {
        early_stopping: (lambda: 1.0, 3),
        plateau: (lambda: 1.0, 3),
        ReducePlateau: (Descent(),),
        KeepBest: (params(param(1.0)), lambda: 1.0),
    }[make]
    with pytest.raises(
        TypeError, match=f"{make.__name__} has no option '{min(option)}': .*{re.escape(words)}"
    ):
        make(*arguments, **option)
    make(*arguments)
