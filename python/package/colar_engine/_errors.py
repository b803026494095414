"""The exceptions of the engine: each says in one line what is wrong, as the command line does."""

from __future__ import annotations

# Where users have them from, which is what a traceback shows.
__name__ = "colar_engine"


class ColarError(Exception):
    """An error of the engine. Those that have no class below are of the memory, the device, or a fault of the engine."""


class OptionError(ColarError, ValueError):
    """A wrong option, or options that do not go together; the line names them in backticks."""


class FileError(ColarError):
    """A file that cannot be read or written, or whose content is wrong; the line names the tensor or the line in it."""

    path: str | None
    """The file or directory."""

    def __init__(self, line: str, path: str | None = None) -> None:
        super().__init__(line)
        self.path = path


class NumericalError(ColarError, ArithmeticError):
    """Logits or losses that are no numbers."""
