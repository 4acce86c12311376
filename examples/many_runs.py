"""Many runs instead of one large one: seeds and settings, each on a core of its own.

Over the cores of this machine, and over the ranks of MPI, on many machines:

python examples/many_runs.py
mpiexec -n 8 python -m mpi4py.futures examples/many_runs.py
"""

import os

# A run has one core, and NumPy is to take no more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np

from minidiff import DataLoader, param, params, train
from minidiff.optimise import ADAM


def run(seed, eta):
    """Fit a line to noisy points; give the last loss, parameters and optimiser."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=200)
    w, opt = param(rng.normal(size=3)), ADAM(eta)
    loader = DataLoader((x, y), batchsize=20, shuffle=True, rng=seed)
    losses = train(
        lambda x, y: np.mean((x @ w - y) ** 2), params(w), loader, opt, epochs=20
    )
    return losses[-10:].mean(), (w, opt)


def executor():
    """Give what runs functions elsewhere: on the ranks of MPI, or on the cores."""
    if "mpi4py.futures" in sys.modules:
        from mpi4py.futures import MPIPoolExecutor

        return MPIPoolExecutor()
    return ProcessPoolExecutor()


def main(seeds=3, etas=(0.3, 0.03, 0.003)):
    """Run all, and go on with the best."""
    settings = list(product(range(seeds), etas))
    with executor() as pool:
        results = list(pool.map(run, *zip(*settings, strict=True)))
    for eta in etas:
        pairs = zip(settings, results, strict=True)
        scores = [score for (_, used), (score, _) in pairs if used == eta]
        print(f"rate {eta:<6} loss {np.mean(scores):.4f} ± {np.std(scores):.4f}")
    score, (w, opt) = min(results, key=lambda result: result[0])
    print(
        f"best {score:.4f} with {opt}, w {w.value.round(2)}, "
        f"its state still tied: {w in opt.state}"
    )
    return score


if __name__ == "__main__":
    main()
