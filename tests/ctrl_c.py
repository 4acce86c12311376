"""Ctrl-C at a chosen moment."""

import signal
import sys


class pressed_at:  # noqa: N801 - it is called as a function is
    """Press Ctrl-C before the n-th bytecode, counted from 1, that runs in the files named within a block.

    As a real one it is heard by whatever handler is installed, and may be deferred.
    """

    def __init__(self, n, *files):
        self.left, self.files = n, files

    def __enter__(self):
        sys._getframe(1).f_trace_opcodes = True  # else Python 3.12 does not tell of the first bytecodes
        sys.settrace(self.call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def call(self, frame, *_):
        if not frame.f_code.co_filename.endswith(self.files):
            return None
        frame.f_trace = self.opcode  # without which Python 3.13 tells of none
        frame.f_trace_opcodes = True
        return self.opcode

    def opcode(self, _, event, __):
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self.opcode
