"""Gradients and optimisers for plain NumPy code."""

from minidiff.gradient import Grads, dropgrad, gradient, hessian, jacobian, pullback, withgradient
from minidiff.iddict import IdDict
from minidiff.params import Param, Params, param, params

__all__ = [
    "Grads",
    "IdDict",
    "Param",
    "Params",
    "dropgrad",
    "gradient",
    "hessian",
    "jacobian",
    "param",
    "params",
    "pullback",
    "withgradient",
]
