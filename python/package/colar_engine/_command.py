"""The command line, in the process of the interpreter."""

from __future__ import annotations

import signal
import sys

from . import _native


def main() -> int:
    """Runs the command of sys.argv and returns its exit code, as the binary does."""
    # Python would only note a Ctrl-C, and tell of it when the command has ended. Where nobody else has a handler, the signal
    # does what it does to any program, until a command watches for it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _native.run_command(["colar-engine", *sys.argv[1:]])
