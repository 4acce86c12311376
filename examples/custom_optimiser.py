"""The page's own optimiser, written twice: with an `apply`, and as a formula."""

import numpy as np

from minidiff import IdDict, gradient, param, params
from minidiff.optimise import AbstractOptimiser, Rule, update


class Momentum(AbstractOptimiser):
    """As on the page: a velocity for each parameter, kept under the parameter."""

    def __init__(self, eta, rho):
        self.eta, self.rho, self.velocity = eta, rho, IdDict()

    def apply(self, x, Δ):
        """Return the step; Δ is a copy and may be written into."""
        η, ρ = self.eta, self.rho
        v = self.velocity.setdefault(x, np.zeros_like(x))
        v[...] = ρ * v - η * Δ
        Δ[...] = -v
        return Δ


class MomentumRule(Rule):
    """The same as a formula, which runs block by block, and compiled with Numba."""

    eta: float = 0.01
    rho: float = 0.9
    keeps = ("v",)

    def coefficients(self, t):
        """Return what the formula takes after x, Δ and v."""
        return self.eta, self.rho

    @staticmethod
    def formula(x, Δ, v, η, ρ):
        """Return the step and the new velocity."""
        v = ρ * v - η * Δ
        return -v, v


def main():
    rng = np.random.default_rng(0)
    target, x = rng.normal(size=(2, 5)), rng.normal(size=(5, 100))
    for opt in (Momentum(0.01, 0.9), MomentumRule(0.01, 0.9)):
        W = param(np.zeros((2, 5)))
        loss = lambda W=W: np.mean((W @ x - target @ x) ** 2)
        print(f"{opt}\n    loss before: {loss():.3f}")
        for _ in range(500):
            update(opt, params(W), gradient(loss, params(W)))
        print(f"    loss after 500 steps: {loss():.1e}")


if __name__ == "__main__":
    main()
