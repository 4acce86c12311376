"""Handwritten digits on several processes, each with its part of every batch.

pip install 'minidiff[mpi,tutorials]'
mpiexec -n 2 python examples/parallel_digits.py

The same file trains on one process (``-n 1``), on a laptop and on a cluster, with the
same numbers to rounding. A run that was stopped goes on from its checkpoint, with any
number of processes.
"""

import os

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits

from minidiff import DataLoader, load, param, params, save, train
from minidiff.functions import relu
from minidiff.losses import logitcrossentropy
from minidiff.optimise import ADAM
from minidiff.parallel import average, share


def main(path="parallel_digits.npz", epochs=15):
    """Train, and give the accuracy on images that the network has not seen."""
    comm = MPI.COMM_WORLD
    mean = average(comm)  # first: from here on an error on one rank ends all
    images, labels = load_digits(return_X_y=True)
    x, y = images / 16, labels
    loader = DataLoader((x[:1500], y[:1500]), batchsize=64, shuffle=True, rng=0)
    shard = loader.shard(comm.rank, comm.size)

    rng = np.random.default_rng(0)
    W = param(rng.normal(scale=64**-0.5, size=(64, 48)))
    V = param(rng.normal(scale=48**-0.5, size=(48, 10)))
    b, c = param(np.zeros(48)), param(np.zeros(10))
    θ, opt = params({"W": W, "b": b, "V": V, "c": c}), ADAM(0.005)

    def predict(x):
        return relu(x @ W + b) @ V + c

    def loss(x, y):
        return logitcrossentropy(predict(x), y)

    start = {"epoch": 0, "loader": shard.state}
    if comm.rank == 0 and os.path.exists(path):
        start = load(path, θ, opt)
    start = share(θ, opt, comm, **start)
    shard.state = start["loader"]

    def keep(progress):
        if comm.rank == 0:
            epoch = start["epoch"] + progress.epoch
            save(path, θ, opt, epoch=epoch, loader=shard.state)
            print(f"epoch {epoch:2}  loss {progress.loss:.4f}", flush=True)

    epochs -= start["epoch"]
    train(loss, θ, shard, opt, transform=mean, epochs=epochs, each_epoch=keep)
    accuracy = np.mean(predict(x[1500:]).argmax(-1) == y[1500:])
    if comm.rank == 0:
        print(f"test accuracy {accuracy:.1%} with {comm.size} processes")
    return accuracy


if __name__ == "__main__":
    main()
