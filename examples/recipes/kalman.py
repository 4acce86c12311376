"""A Kalman filter whose noises are learned.

The filter follows a body by noisy measurements of its place. How much it trusts them
depends on two variances, which nobody tells it. The likelihood of the measurements,
which the filter gives on the way, is a function of them, and its gradient finds them.
"""

import matplotlib.pyplot as plt
import numpy as np

from minidiff import param, params, train
from minidiff.optimise import ADAM

F = np.array([[1.0, 1.0], [0.0, 1.0]])  # place and speed, a step later
G = np.array([[0.25, 0.5], [0.5, 1.0]])  # how a random push moves them
H = np.array([1.0, 0.0])  # what is measured


def kalman(q, r, measured):
    """Give the filtered places, and -log of the likelihood of what was measured."""
    state, P, places, surprise = np.array([measured[0], 0.0]), np.eye(2) * 10.0, [], 0.0
    for z in measured:
        state, P = F @ state, F @ P @ F.T + q * G
        S = H @ P @ H + r
        error = z - H @ state
        gain = P @ H / S
        state, P = state + gain * error, P - np.outer(gain, H @ P)
        surprise = surprise + 0.5 * (np.log(2 * np.pi * S) + error**2 / S)
        places.append(state[0])
    return places, surprise


def main():
    rng = np.random.default_rng(1)
    true_q, true_r, state, truth = 0.05, 4.0, np.zeros(2), []
    for _ in range(120):
        state = F @ state + np.array([0.5, 1.0]) * rng.normal(0, true_q**0.5)
        truth.append(state[0])
    truth = np.array(truth)
    measured = truth + rng.normal(0, true_r**0.5, 120)

    log_q, log_r = param(0.0), param(0.0)
    loss = lambda: kalman(np.exp(log_q), np.exp(log_r), measured)[1] / 120
    losses = train(loss, params(log_q, log_r), [()] * 80, ADAM(0.1))
    q, r = float(np.exp(log_q)), float(np.exp(log_r))
    print(f"variances {q:.3f} and {r:.2f}, in truth {true_q} and {true_r}")

    errors = {}
    for name, settings in {"guessed": (1.0, 1.0), "learned": (q, r)}.items():
        places = np.array(kalman(*settings, measured)[0])
        errors[name] = float(np.sqrt(np.mean((places - truth)[20:] ** 2)))
    print(
        f"error of the measurements {np.std(measured - truth):.2f}, filtered:", errors
    )

    _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    ax.plot(measured, ".", color="0.6", label="measured")
    ax.plot(truth, "k:", label="truth")
    ax.plot(np.array(kalman(q, r, measured)[0]), color="#0072b2", label="filtered")
    ax.set(xlabel="time", ylabel="place")
    ax.legend(fontsize="small")
    ax.figure.savefig("kalman.png", dpi=300)
    return losses, (q, r), errors


if __name__ == "__main__":
    main()
