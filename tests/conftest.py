"""Settings that hold for all tests, docstring examples included."""

import os
import signal

os.environ["MPLBACKEND"] = "Agg"  # no windows
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
