"""All that knows autograd's inside: how NumPy calls are recorded, and how a gradient comes back."""

from minidiff.tracing.backward import backward
from minidiff.tracing.record import (
    Leaf,
    Trace,
    Traced,
    constant,
    derivative,
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
    "is_recorded",
    "lift",
    "map_container",
    "no_attribute",
]
