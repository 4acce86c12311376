"""Settings that hold for all tests, docstring examples included."""

import os

os.environ["MPLBACKEND"] = "Agg"  # no windows
