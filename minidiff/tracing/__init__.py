"""All that knows autograd's inside: how NumPy calls are recorded, and how a gradient comes back."""

from minidiff.tracing import composites as composites
from minidiff.tracing.backward import backward, history
from minidiff.tracing.record import (
    Leaf,
    Trace,
    Traced,
    constant,
    derivative,
    guard,
    is_recorded,
    lift,
    map_container,
    no_attribute,
)

__all__ = [
    "Leaf",
    "Trace",
    "Traced",
    "backward",
    "constant",
    "derivative",
    "guard",
    "history",
    "is_recorded",
    "lift",
    "map_container",
    "no_attribute",
]
