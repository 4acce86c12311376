"""All that knows autograd's inside: how NumPy calls are recorded, and how a gradient comes back."""

from minidiff.tracing import composites as composites
from minidiff.tracing import elementwise as elementwise
from minidiff.tracing import fourier as fourier
from minidiff.tracing import kinks as kinks
from minidiff.tracing import linalg as linalg
from minidiff.tracing import places as places
from minidiff.tracing import polynomials as polynomials
from minidiff.tracing import sequences as sequences
from minidiff.tracing import sparse as sparse
from minidiff.tracing import spectra as spectra
from minidiff.tracing import statistics as statistics
from minidiff.tracing import ufuncs as ufuncs
from minidiff.tracing.assign import EXACT, assigned, made_zeros, summed
from minidiff.tracing.backward import backward, history
from minidiff.tracing.derivatives import part_of
from minidiff.tracing.guards import guard, watch
from minidiff.tracing.methods import in_a_sparse_product
from minidiff.tracing.reading import standing_for_leaves
from minidiff.tracing.record import (
    Kept,
    LacksError,
    Leaf,
    Trace,
    Traced,
    apart,
    as_array,
    constant,
    copied,
    derivative,
    is_box,
    is_of_sparse,
    is_recorded,
    is_tracing,
    lift,
    made_array,
    map_container,
    read_only,
    seen_from,
    standing,
    standing_now,
    stands_beneath,
    watching,
)
from minidiff.tracing.refusals import ELSEWHERE, called_here, name_of, no_attribute
from minidiff.tracing.rows import by_row, pull_all
from minidiff.tracing.table import (
    WITHOUT_AUTOGRAD,
    add_at,
    added,
    added_at,
    called,
    defined,
    filled,
    is_basic,
    listed,
    single,
)

__all__ = ["ELSEWHERE", "EXACT", "WITHOUT_AUTOGRAD", "Kept", "LacksError", "Leaf", "Trace", "Traced",
    "add_at", "added", "added_at", "apart", "as_array", "assigned", "backward", "by_row", "called",
    "called_here", "constant", "copied", "defined", "derivative", "filled", "guard", "history",
    "in_a_sparse_product", "is_basic", "is_box", "is_of_sparse", "is_recorded", "is_tracing", "lift",
    "listed", "made_array", "made_zeros", "map_container", "name_of", "no_attribute", "part_of",
    "pull_all", "read_only", "seen_from", "single", "standing", "standing_for_leaves", "standing_now",
    "stands_beneath", "summed", "watch", "watching"]  # fmt: skip
