"""Names for annotations.

Only type checkers see them: importing `numpy.typing` takes longer than importing all of minidiff.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array = NDArray[Any]
else:
    Array = NDArray = np.ndarray
    ArrayLike = DTypeLike = Any

__all__ = ["Array", "ArrayLike", "DTypeLike", "NDArray"]
