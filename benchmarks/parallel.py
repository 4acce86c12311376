"""What a step costs on several ranks: measured on those there are, and by a model on more.

mpiexec -n 2 python benchmarks/parallel.py
"""

import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each rank
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
from itertools import pairwise

import numpy as np
from mpi4py import MPI

from minidiff import Grads, compiled, param, params
from minidiff.functions import relu
from minidiff.losses import logitcrossentropy
from minidiff.parallel import average

comm = MPI.COMM_WORLD
MODELS = (64, 48, 10), (784, 256, 10), (784, 2048, 2048, 10)
rng = np.random.default_rng(0)
BATCH = 1024  # samples in a step, of all ranks together
NETWORKS = {"InfiniBand, 100 Gbit/s": (2e-6, 12e9), "Ethernet, 10 Gbit/s": (30e-6, 1.2e9)}


def show(*text):
    if comm.rank == 0:
        print(*text, flush=True)


def timed(works, repeats=100):
    """Give the seconds that each function takes, one after another in turns, all ranks at once.

    The quickest of all turns counts: what else the machine does falls on the others.
    """
    times = np.empty((repeats, len(works)))
    for i in range(-3, repeats):
        for j, (before, work) in enumerate(works):
            before()
            comm.Barrier()
            start = time.perf_counter()
            work()
            times[i, j] = time.perf_counter() - start
    slowest = times.min(0)
    comm.Allreduce(MPI.IN_PLACE, slowest, MPI.MAX)
    return slowest.tolist()


def allreduce_of(n):
    buffer = np.zeros(n)
    return (lambda: buffer.fill(0)), lambda: comm.Allreduce(MPI.IN_PLACE, buffer)


def network():
    """Measure the latency α and the bandwidth β of an Allreduce, by what two ranks send in it."""
    counts = [10**k for k in range(8)]
    seconds = timed([allreduce_of(n) for n in counts])
    for n, t in zip(counts, seconds, strict=True):
        show(f"  {8 * n:>10,} bytes  {1e6 * t:9.1f} µs  {8e-9 * n / t:6.2f} GB/s")
    return min(seconds[:3]), 8 * (counts[-2] - counts[0]) / (seconds[-2] - seconds[0])


def overhead():
    """Compare `average` with an Allreduce from one array to another, and with all that by hand."""
    for dtype in "f4", "f8":
        for pieces in 1, 10:
            gs = [rng.random(1_000_000 // pieces).astype(dtype) for _ in range(pieces)]
            g, out = rng.random(1_000_000).astype(dtype), np.zeros(1_000_000, dtype)
            grads = Grads(params([param(g) for g in gs]), gs)
            mean, exact = average(comm), average(comm, reproducible=True)

            def touch(gs=gs, g=g):  # a gradient has just been computed
                for a in (g, *gs):
                    np.multiply(a, 1, out=a)

            def by_hand(gs=gs, out=out):
                np.concatenate(gs, out=out)
                comm.Allreduce(MPI.IN_PLACE, out)
                np.divide(out, comm.size, out=out)

            alone, by_hand, ours, ordered = timed(
                [
                    (touch, lambda g=g, out=out: comm.Allreduce(g, out)),
                    (touch, by_hand),
                    (touch, lambda mean=mean, grads=grads: mean(grads)),
                    (touch, lambda exact=exact, grads=grads: exact(grads)),
                ],
                400,
            )
            show(
                f"  {dtype} in {pieces:2} arrays: Allreduce {1e3 * alone:.2f} ms, by hand "
                f"{1e3 * by_hand:.2f}, average {1e3 * ours:.2f} ({ours / alone - 1:+.0%}), "
                f"reproducible {1e3 * ordered:.2f}"
            )


def overlap():
    """Compare computing and then reducing with reducing meanwhile."""
    A, g, out = rng.random((500, 500)), rng.random(1_000_000), np.zeros(1_000_000)

    def compute():
        for _ in range(4):
            A @ A

    def meanwhile():
        request = comm.Iallreduce(g, out)
        compute()
        request.Wait()

    def after():
        compute()
        comm.Allreduce(g, out)

    none = lambda: None
    first, second, third = timed([(none, compute), (none, after), (none, meanwhile)])
    show(f"  compute {1e3 * first:.2f} ms, then reduce {1e3 * second:.2f} ms, meanwhile {1e3 * third:.2f} ms")


def network_of(sizes):
    layers = [
        (param(rng.normal(size=(n, m)) / n**0.5, "f4"), param(np.zeros(m), "f4")) for n, m in pairwise(sizes)
    ]

    def loss(x, y):
        *hidden, (V, c) = layers
        for W, b in hidden:
            x = relu(x @ W + b)
        return logitcrossentropy(x @ V + c, y)

    return loss, params(layers)


def compute(sizes):
    """Measure the gradient of a whole batch on one core; give seconds, and the number of parameters."""
    loss, θ = network_of(sizes)
    slope, n = compiled(loss, θ), 128
    x, y = rng.random((n, sizes[0])).astype("f4"), np.eye(10, dtype="f4")[rng.integers(0, 10, n)]
    seconds = timed([((lambda: None), lambda: slope(x, y))], 20)[0]
    return seconds * BATCH / n, θ.to_vector().size


def tree(P, n, α, β):
    """Every rank exchanges all with another, log P times over."""
    return math.ceil(math.log2(P)) * (α + n / β)


def ring(P, n, α, β):
    """Every rank sends a P-th to its neighbour, 2 (P - 1) times over."""
    return 2 * (P - 1) * (α + n / P / β)


def halving(P, n, α, β):
    """As the ring, but with pieces that are halved and doubled: what MPI libraries do with long messages."""
    return 2 * math.ceil(math.log2(P)) * α + 2 * (P - 1) / P * n / β


def meeting(P, α):
    """Every rank tells all others in a few numbers how it stands."""
    return math.ceil(math.log2(P)) * α


def model(α, β, models):
    """Print how long a step takes on P ranks, how many times as fast that is, and by which way."""
    show("| ranks | " + " | ".join("-".join(map(str, sizes)) for sizes in models) + " |")
    show("| ---: |" + " --- |" * len(models))
    for P in 2, 10, 100, 1000:
        cells = []
        for seconds, parameters in models.values():
            ways = {f.__name__: f(P, 4 * parameters, α, β) for f in (tree, ring, halving)}
            best = min(ways, key=ways.__getitem__)
            step = seconds / P + ways[best] + meeting(P, α)
            cells.append(f"{milliseconds(step)} ms, {seconds / step:.1f} × ({best})")
        show(f"| {P} | " + " | ".join(cells) + " |")


def milliseconds(t):
    return f"{1e3 * t:.3g}" if t < 1 else f"{1e3 * t:.0f}"


def measured(sizes, seconds):
    """Measure whole gradients with a part of the batch on each rank."""
    loss, θ = network_of(sizes)
    part = BATCH // comm.size
    x, y = rng.random((part, sizes[0])).astype("f4"), np.eye(10, dtype="f4")[rng.integers(0, 10, part)]
    slope, mean = compiled(loss, θ), average(comm)
    none = lambda: None
    alone, together = timed([(none, lambda: slope(x, y)), (none, lambda: mean(slope(x, y).grad))], 20)
    show(
        f"  {'-'.join(map(str, sizes))}: one core {1e3 * seconds:.3g} ms, {comm.size} ranks "
        f"{1e3 * together:.3g} ms, of which average {1e3 * (together - alone):.3g} ms: "
        f"{seconds / together:.2f} times as fast"
    )


def main():
    average(comm)  # an error on one rank ends all
    show(f"{comm.size} ranks, {MPI.Get_library_version().splitlines()[0].split(':')[-1].strip()}\nAllreduce")
    α, β = network()
    show(f"  α {1e6 * α:.1f} µs, β {1e-9 * β:.2f} GB/s\naverage, 1,000,000 elements")
    overhead()
    show("overlap, 1,000,000 elements")
    overlap()
    models = {sizes: compute(sizes) for sizes in MODELS}
    show(f"measured, {BATCH} samples in a step")
    for sizes, (seconds, _) in models.items():
        measured(sizes, seconds)
    for sizes, (seconds, n) in models.items():
        show(f"  {'-'.join(map(str, sizes))}: {n:,} parameters, {milliseconds(seconds)} ms on one core")
    for name, (a, b) in {"these ranks": (α, β), **NETWORKS}.items():
        show(f"{name}: α {1e6 * a:.1f} µs, β {1e-9 * b:.1f} GB/s\n")
        model(a, b, models)


if __name__ == "__main__":
    main()
