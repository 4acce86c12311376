"""What must hold on several ranks: ``mpiexec -n 2 python tests/parallel_checks.py`` runs it all.

`tests/test_parallel.py` does so with two and three. Every check runs on all ranks at once.
"""

import doctest
import os
import pickle
import re
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mpi4py import MPI

import minidiff.optimise as mo
import minidiff.parallel
from minidiff import (
    DataLoader,
    Grads,
    compiled,
    gradient,
    load,
    param,
    params,
    save,
    skip,
    stop,
    train,
    withgradient,
)
from minidiff.parallel import average, share
from minidiff.schedules import Exp, Scheduler, Step

comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
last = size - 1

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(41, 6)), rng.normal(size=(41, 2))  # 41: parts of every size, at the end too few


class Model:
    """Two layers, the same on all ranks."""

    def __init__(self, dtype="f8", seed=1):
        rng = np.random.default_rng(seed)
        self.W, self.V = (param(rng.normal(size=shape), dtype) for shape in ((6, 4), (4, 2)))
        self.b = param(np.zeros(4), dtype)
        self.θ = params(self)

    def loss(self, x, y):
        return np.mean((np.tanh(x @ self.W + self.b) @ self.V - y) ** 2)

    def vector(self):
        return self.θ.to_vector()


def loader(batchsize=4 * size, seed=3, data=(X, Y)):
    return DataLoader(data, batchsize=batchsize, shuffle=True, rng=seed)


def shard(*arguments, **keywords):
    return loader(*arguments, **keywords).shard(rank, size)


def same_everywhere(x):
    """Whether all ranks have the same bits."""
    return len(set(comm.allgather(pickle.dumps(np.asarray(x))))) == 1


def raised(work, *arguments, **keywords):
    """Give what this raises, which may not take long."""
    start = time.monotonic()
    try:
        work(*arguments, **keywords)
    except BaseException as error:
        assert time.monotonic() - start < 10
        return error
    raise AssertionError("nothing was raised")


def on_all(error, kind, text):
    """Whether all ranks have raised this, and can work together after it."""
    assert type(error) is kind, error
    notes = " ".join(getattr(error, "__notes__", []))
    assert re.search(text, f"{error} {notes}"), (error, notes)
    model = Model()
    train(model.loss, model.θ, shard(), mo.Descent(0.1), transform=average(comm))
    assert same_everywhere(model.vector())


OPTIMISERS = {
    "ADAM": lambda: Scheduler(Exp(0.05, 0.9), mo.ADAM()),
    "Momentum": lambda: Scheduler(Step(0.05, 0.5, 4), mo.Momentum(rho=0.8)),
    "RMSProp": lambda: Scheduler(Exp(0.02, 0.95), mo.RMSProp()),
    "AdaBelief": lambda: Scheduler(Step(0.03, 0.7, 3), mo.AdaBelief()),
    "Nesterov": lambda: Scheduler(Exp(0.02, 0.99), mo.Nesterov()),
    "composition": lambda: mo.Optimiser(
        mo.ClipNorm(0.5), mo.WeightDecay(0.01), mo.ExpDecay(0.5), mo.ADAM(0.1)
    ),
}


def check_equal_to_one_process():
    for name, make in OPTIMISERS.items():
        for how in {"compiled": False}, {"compiled": True}:
            alone, together = Model(), Model()
            one = train(alone.loss, alone.θ, loader(), make(), epochs=3, **how)
            many = train(together.loss, together.θ, shard(), make(), epochs=3, transform=average(comm), **how)
            np.testing.assert_allclose(many, one, rtol=1e-9, err_msg=name)
            np.testing.assert_allclose(together.vector(), alone.vector(), rtol=1e-8, atol=1e-12, err_msg=name)
            assert same_everywhere(many)


def check_all_have_the_same_bits_after_every_step():
    for dtype in "f4", "f8":
        model, opt = Model(dtype), mo.ADAM(0.05)

        def compare(model=model):
            assert same_everywhere(model.vector())

        data = np.asarray(X, dtype), np.asarray(Y, dtype)
        train(model.loss, model.θ, shard(data=data), opt, cb=compare, transform=average(comm), epochs=2)


def check_a_run_is_the_same_bits_again():
    for reproducible in False, True:
        runs = []
        for _ in range(2):
            model = Model()
            mean = average(comm, reproducible=reproducible)
            losses = train(model.loss, model.θ, shard(), mo.ADAM(0.05), transform=mean, epochs=2)
            runs.append((losses.tobytes(), model.vector().tobytes()))
        assert runs[0] == runs[1]


def check_compiled_steps_have_the_bits_of_eager_ones():
    ends = []
    for make in lambda f, θ: compiled(f, θ), lambda f, θ: lambda *d: withgradient(lambda: f(*d), θ):
        model, opt = Model(), mo.ADAM(0.05)
        slope, part = make(model.loss, model.θ), shard()
        with average(comm) as mean:
            for _ in range(2):
                for d in part:
                    mo.update(opt, model.θ, mean(slope(*d).grad, part.weight))
        ends.append(model.vector().tobytes())
    assert ends[0] == ends[1]


def check_any_shape_and_dtype():
    rng = np.random.default_rng(rank)
    shapes = (), (0,), (3,), (2, 3), (4, 0), (1, 1, 5)
    for reproducible in False, True:
        mean = average(comm, reproducible=reproducible)
        for dtypes in (["f2"], ["f4"], ["f8"], ["c8"], ["c16"], ["g"], ["f2", "f4", "f8", "c8", "c16"]):
            ps = params([param(np.ones(s, d)) for d in dtypes for s in shapes])
            gs = []
            for p in ps:
                g = rng.normal(size=p.shape) + (1j * rng.normal(size=p.shape) if p.dtype.kind == "c" else 0)
                gs.append(np.asarray(g).astype(p.dtype))
            gs = [np.asfortranarray(g) if g.ndim == 2 else g for g in gs]
            weight = 1 + rank
            before = [g.copy() for g in gs]
            result = mean(Grads(ps, gs), weight)
            assert all(np.array_equal(a, b) for a, b in zip(gs, before, strict=True))
            everyone = comm.allgather(before)
            for i, (p, g) in enumerate(result.items()):
                assert g.shape == p.shape
                assert g.dtype == p.dtype
                assert same_everywhere(g)
                wide = np.result_type(p.dtype, np.float64)
                expected = np.average([np.asarray(gs[i], wide) for gs in everyone], 0, range(1, size + 1))
                precision = max(np.finfo(p.dtype).eps, 2**-52)  # weights are floats
                np.testing.assert_allclose(g, expected, rtol=9 * precision, atol=9 * precision)
        strided = np.arange(12.0).reshape(3, 4)[::2, ::-2]
        strided.flags.writeable = False
        W = param(np.zeros((2, 2)))
        assert np.array_equal(mean(Grads(params(W), [strided]))[W], strided)


def check_sums_go_in_the_order_of_the_ranks():
    g = np.random.default_rng(rank).normal(size=1001) * 10.0 ** (5 * rank)
    W = param(g)
    total = sum(g * (1 / size) for g in comm.allgather(g))
    mean = average(comm, reproducible=True)
    assert mean(Grads(params(W), [g]))[W].tobytes() == total.tobytes()


def check_one_sum_for_each_dtype():
    class Counting:
        def __init__(self, comm):
            self.comm, self.calls = comm, []

        def __getattr__(self, name):
            self.calls.append(name)
            return getattr(self.comm, name)

    mean = average(comm)
    counting = mean._ranks.comm = Counting(mean._ranks.comm)
    for dtypes, sums in (["f8"] * 9, 1), (["f8", "c16", "f4", "f2", "c8"], 2):
        ps = params([param(np.ones(5), d) for d in dtypes])
        grads = Grads(ps, [p.value for p in ps])
        for _ in range(3):
            counting.calls.clear()
            mean(grads)
            assert counting.calls == ["Iallgather"] + ["Allreduce"] * sums
    mean._ranks.comm = counting.comm


def check_none_is_agreed_upon():
    a, b, c = param(np.ones(2)), param(np.ones(3)), param(1.0)
    for reproducible in False, True:
        mean = average(comm, reproducible=reproducible)
        grads = gradient(lambda: np.sum(a * a) + (np.sum(b) if rank == last else 0), params(a, b, c))
        assert (grads[b] is None) == (rank != last)
        grads = mean(grads)
        assert grads[a].tolist() == [2, 2]
        np.testing.assert_allclose(grads[b], np.full(3, 1 / size), rtol=1e-15)
        assert grads[c] is None
        assert mean(Grads(params(c), [None]))[c] is None


def check_what_came_before_stays():
    for n in 5, 300_001:  # the second fills more than a huge page
        W, mean = param(np.zeros(n)), average(comm)
        kept = [mean(Grads(params(W), [np.full(n, float(i))]))[W][1:] for i in range(20)]
        for i, g in enumerate(kept):
            np.testing.assert_allclose(g, np.full(n - 1, float(i)), rtol=1e-15)
        addresses = {mean(Grads(params(W), [np.ones(n)]))[W].ctypes.data for _ in range(20)}
        assert len(addresses) < 3


def check_weights():
    W, mean = param(np.zeros(2)), average(comm)
    gs = Grads(params(W), [np.full(2, np.nan if rank else 3.0)])
    assert mean(gs, weight=0 if rank else 7)[W].tolist() == [3, 3]  # what has no weight does not count
    assert "finite sum above 0" in str(raised(mean, gs, 0))
    assert "weight must be in [0, inf)" in str(raised(mean, gs, -1))
    assert "data.weight must be in [0, inf)" in str(raised(mean.join, 0.0, gs, SimpleNamespace(weight=-1), 1))
    parts = DataLoader(np.arange(rank + 1.0), batchsize=9)  # data that each rank has cut by itself
    losses = train(lambda x: np.mean(W * 0 + x.mean()), params(W), parts, mo.Descent(0.1), transform=mean)
    expected = np.average([r / 2 for r in range(size)], weights=range(1, size + 1))
    np.testing.assert_allclose(losses, [expected], rtol=1e-14)


def check_arguments():
    assert "comm must be a communicator of mpi4py" in str(raised(average, None))
    assert "comm must be" in str(raised(average, MPI.COMM_NULL))
    assert "grads must be Grads" in str(raised(average(comm), {}))
    assert "grace must be" in str(raised(average, comm, grace=-1))
    assert repr(average(comm, reproducible=True)) == f"average(of {size} ranks, reproducible)"


def check_one_rank_is_as_without():
    alone = comm.Split(rank, 0)
    W = param(np.ones(2))
    grads = gradient(lambda: np.sum(W * rank), params(W))
    assert average(alone)(grads) is grads
    with average(alone):
        pass
    assert type(raised(train, lambda _: 1 / 0, params(W), [1], mo.Descent(), transform=average(alone)))
    assert share(params(W), None, alone, a=1) == {"a": 1}
    alone.Free()


def fails(f, **keywords):
    """Train with a loss that calls `f` in the third step of the last rank; give the error and the losses."""
    model, calls = Model(), []

    def loss(x, y):
        calls.append(1)
        if rank == last and len(calls) == 3:
            f()
        return model.loss(x, y)

    error = raised(train, loss, model.θ, shard(), mo.ADAM(), transform=average(comm), epochs=2, **keywords)
    assert len(error.losses) == 2
    assert same_everywhere(model.vector())
    return error


def check_an_exception_ends_all():
    def bad():
        raise KeyError("image 17")

    class PrivateError(Exception):
        pass

    def private():
        raise PrivateError("of its own")

    def named():
        raise UnicodeDecodeError("utf8", b"", 0, 1, "of five arguments")

    error = fails(bad)
    on_all(error, KeyError, f"image 17.* on rank {last}" if rank == last else f"rank {last}: 'image 17'")
    kind = PrivateError if rank == last else RuntimeError
    on_all(fails(private), kind, "on rank" if rank == last else f"rank {last}: of its own")
    kind = UnicodeDecodeError if rank == last else RuntimeError
    on_all(fails(named), kind, "of five arguments")


def check_ctrl_c_on_one_side_ends_all():
    on_all(fails(lambda: signal.raise_signal(signal.SIGINT)), KeyboardInterrupt, f"rank {last}")


def check_exit_on_one_side_ends_all():
    on_all(fails(sys.exit, cb=[]), SystemExit, f"rank {last}")


def check_errors_around_the_step_end_all():
    def data():
        for i in range(4):
            if rank == last and i == 2:
                raise OSError("the disk is gone")
            yield X[:2], Y[:2]

    def callback(progress):
        if rank == last and progress.step == 2:
            raise OSError("no place to write")

    for text, given in ("disk is gone", (data(), None)), ("no place", ([(X, Y)] * 4, callback)):
        model = Model()
        d, cb = given
        error = raised(train, model.loss, model.θ, d, mo.ADAM(), transform=average(comm), cb=cb)
        assert len(error.losses) == 2
        on_all(error, OSError, f"{text}.*rank {last}|rank {last}: .*{text}")


def check_what_is_not_finite_is_named():
    model, bad = Model(), [X.copy() for _ in range(3)]
    bad[1][0, 0] = np.nan if rank == last else 0
    data = [(x, Y) for x in bad]
    error = raised(train, model.loss, model.θ, data, mo.ADAM(), transform=average(comm))
    assert len(error.losses) == 1
    on_all(error, FloatingPointError, rf"the loss is nan at step 2.*\(rank {last}: the loss is nan\)")

    a, b = param(1.0), param(4.0)  # a finite loss with a gradient that is not
    θ = params({"a": a, "b": b})

    def loss(x):
        return a * b + np.sqrt(b * x)

    with np.errstate(all="ignore"):
        error = raised(
            train, loss, θ, [1.0, 0.0 if rank == last else 1.0], mo.ADAM(), transform=average(comm)
        )
    on_all(
        error,
        FloatingPointError,
        rf"of parameter ..b.. is not finite at step 2.*\(rank {last}: .*parameter ..b.. is",
    )


def check_steps_that_are_not_finite_are_left_out_by_all():
    model, guard = Model(), mo.skip_nonfinite()
    data = [(X, Y), (X * (np.nan if rank == last else 1), Y), (X, Y)]
    losses = train(model.loss, model.θ, data, mo.ADAM(), transform=[average(comm), guard])
    assert len(losses) == 2
    assert guard.skipped == 1
    model = Model()  # in the other order all leave out what one has to
    losses = train(model.loss, model.θ, data, mo.ADAM(), transform=[mo.skip_nonfinite(), average(comm)])
    assert len(losses) == 2
    assert same_everywhere(model.vector())


def check_skip_on_one_side_is_for_all():
    model, calls = Model(), []

    def loss(x, y):
        calls.append(1)
        if rank == last and len(calls) in (1, 4):
            skip()
        return model.loss(x, y)

    data = [(X[i::5], Y[i::5]) for i in range(5)]
    losses = train(loss, model.θ, data, mo.ADAM(), transform=average(comm))
    expected = Model()
    one = train(expected.loss, expected.θ, [data[i] for i in (1, 2, 4)], mo.ADAM())
    np.testing.assert_allclose(losses, one, rtol=1e-12)
    np.testing.assert_allclose(model.vector(), expected.vector(), rtol=1e-9)


def check_stop_on_one_side_is_for_all():
    for where in "loss", "callback":
        model, calls = Model(), []

        def loss(x, y, model=model, where=where, calls=calls):
            calls.append(1)
            if rank == last and len(calls) == 3 and where == "loss":
                stop()
            return model.loss(x, y)

        def callback(progress, where=where):
            if rank == 0 and progress.step == 2 and where == "callback":
                stop()

        losses = train(loss, model.θ, shard(), mo.ADAM(), transform=average(comm), cb=callback, epochs=2)
        assert len(losses) == 2
        assert same_everywhere(model.vector())


def check_an_error_counts_for_more_than_a_stop():
    model, calls = Model(), []

    def loss(x, y):
        calls.append(1)
        if len(calls) == 3:
            if rank == last:
                raise ValueError("bad data")
            stop()
        return model.loss(x, y)

    error = raised(train, loss, model.θ, shard(), mo.ADAM(), transform=average(comm), epochs=2)
    on_all(error, ValueError, f"rank {last}")


def check_accumulated_batches():
    ends = []
    for transform in (
        [average(comm), mo.accumulate(2)],
        [mo.accumulate(2), average(comm)],
        [average(comm), mo.clip_norm(9.0), mo.accumulate(2)],
    ):
        model = Model()
        data = loader(data=(X[:32], Y[:32])).shard(rank, size) if size == 2 else [(X, Y)] * 4
        train(model.loss, model.θ, data, mo.ADAM(0.1), transform=transform)
        assert same_everywhere(model.vector())
        ends.append(model.vector())
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-10)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-10)


def check_parts_of_several_sizes_are_not_accumulated_before_they_are_weighed():
    model = Model()
    data = DataLoader((X[:6], Y[:6]), 4).shard(rank, size)
    error = raised(
        train, model.loss, model.θ, data, mo.Descent(0.1), transform=[mo.accumulate(2), average(comm)]
    )
    on_all(error, ValueError, r"parts of \d and \d samples.*\[average\(comm\), accumulate\(n\)\]")


def check_unequal_numbers_of_batches_are_refused():
    model = Model()
    error = raised(
        train, model.loss, model.θ, [(X, Y)] * (2 + (rank == 0)), mo.ADAM(), transform=average(comm)
    )
    on_all(error, RuntimeError, "rank 1 has ended its training, and rank 0 has not")


def check_different_orders_and_parameters_are_refused():
    model = Model()
    part = loader(seed=rank).shard(rank, size)
    error = raised(train, model.loss, model.θ, part, mo.ADAM(), transform=average(comm))
    on_all(error, RuntimeError, "the same seed")
    assert np.array_equal(model.vector(), Model().vector())
    a, b = param(np.zeros(3 - (rank == last))), param(0.0)
    error = raised(average(comm), gradient(lambda: b * np.sum(a), params(a, b)))
    on_all(
        error, ValueError, rf"rank {last} has other parameters than rank 0: \(2,\) float64, where rank 0 has"
    )


def check_share():
    model, opt = Model(seed=rank), mo.ADAM(0.1 * (rank + 1))
    for _ in range(rank + 1):
        mo.update(opt, model.θ, gradient(lambda: model.loss(X, Y), model.θ))
    state = np.random.default_rng(rank).bit_generator.state
    result = share(model.θ, opt, comm, rng=state, names=["a", rank], mine=object() if rank else None)
    assert result == {"rng": np.random.default_rng(0).bit_generator.state, "names": ["a", 0], "mine": None}
    assert opt.eta == 0.1
    for _ in range(2):
        mo.update(opt, model.θ, gradient(lambda: model.loss(X, Y), model.θ))
        assert same_everywhere(model.vector())
    assert share(Model().θ, None, comm) == {}


def check_share_refuses_what_differs():
    a, b = param(np.full(2, rank + 1.0), "f4" if rank == last else "f8"), param(np.zeros(1 + (rank == last)))
    for θ, text in (
        (params({"b": b}), r"\['b'\]: \(2,\) float64, where rank 0 has \['b'\]: \(1,\) float64"),
        (params({"a": a}), r"\['a'\]: \(2,\) float32, where rank 0 has \['a'\]: \(2,\) float64"),
        (params({"c" if rank == last else "d": b}), r"\['c'\]: .* where rank 0 has \['d'\]"),
        (params([a, b] if rank != last else [a]), r".* where rank 0 has \[0\]"),
    ):
        before = [p.value.copy() for p in θ]
        error = raised(share, θ, mo.ADAM(), comm)
        on_all(error, ValueError, f"rank {last} has other parameters than rank 0: {text}")
        assert all(np.array_equal(p.value, x) for p, x in zip(θ, before, strict=True))
    error = raised(share, Model().θ, mo.ADAM() if rank else mo.Descent(), comm)
    on_all(error, ValueError, "what rank 0 shares does not go in here")
    error = raised(share, Model().θ, None, comm, thing=object() if rank == 0 else 1)
    on_all(error, TypeError, "rank 0|cannot be stored")


def check_a_checkpoint_goes_on_with_another_number_of_ranks():
    path = comm.bcast(os.path.join(tempfile.mkdtemp(), "run.npz") if rank == 0 else None)
    whole = Model()
    expected = train(whole.loss, whole.θ, loader(6), mo.ADAM(0.05), epochs=2)

    model, opt, part = Model(), mo.ADAM(0.05), loader(6).shard(rank, size)

    def keep(progress):
        if progress.step == 4:  # amid the first epoch
            if rank == 0:
                save(path, model.θ, opt, loader=part.state)
            stop()

    before = train(model.loss, model.θ, part, opt, cb=keep, transform=average(comm))
    for ranks in 1, size:
        group = comm.Split(rank < ranks, 0)
        if rank < ranks:
            model, opt, part = Model(seed=9), mo.ADAM(), loader(6, seed=8).shard(rank, ranks)
            start = load(path, model.θ, opt) if rank == 0 else {}
            part.state = share(model.θ, opt, group, **start)["loader"]
            after = [train(model.loss, model.θ, part, opt, transform=average(group)) for _ in range(2)]
            np.testing.assert_allclose(np.concatenate([before, *after]), expected, rtol=1e-9)
            np.testing.assert_allclose(model.vector(), whole.vector(), rtol=1e-8)
        group.Free()


def check_loops_by_hand():
    model, opt, part = Model(), mo.ADAM(0.05), shard()
    alone = Model()
    with average(comm) as mean:
        for x, y in part:
            mo.update(opt, model.θ, mean(gradient(lambda: model.loss(x, y), model.θ), part.weight))
    train(alone.loss, alone.θ, loader(), mo.ADAM(0.05))
    np.testing.assert_allclose(model.vector(), alone.vector(), rtol=1e-9)

    def bad():
        with average(comm) as mean:
            for i in range(3):
                if i == 1 and rank == last:
                    raise ValueError("by hand")
                mean(gradient(lambda: model.loss(X, Y), model.θ))

    on_all(raised(bad), ValueError, f"rank {last}")


def check_the_examples_of_the_docstrings():
    assert doctest.testmod(minidiff.parallel).failed == 0


def check_the_snippets_of_the_page():
    page = Path(__file__).parent.parent / "tutorials" / "parallel.md"
    folder = comm.bcast(tempfile.mkdtemp() if rank == 0 else None)
    here, namespace = os.getcwd(), {}
    os.chdir(folder)
    for i, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M)):
        exec(compile(snippet, f"{page.name}[{i}]", "exec"), namespace)
    os.chdir(here)
    assert namespace["losses"][-1] < namespace["losses"][0]


def main(names):
    checks = [(n.removeprefix("check_"), f) for n, f in globals().items() if n.startswith("check_")]
    for name, check in checks:
        if names and name not in names:
            continue
        start = time.monotonic()
        try:
            check()
            comm.Barrier()
        except BaseException:
            print(f"FAILED on rank {rank} of {size}: {name}", flush=True)
            traceback.print_exc()
            sys.stderr.flush()
            time.sleep(0.5)  # for others that fail to say so as well
            comm.Abort(1)
        if rank == 0:
            print(f"passed {name} {time.monotonic() - start:.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
