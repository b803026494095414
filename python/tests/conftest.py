"""What the tests share: a tiny model with random weights, loaded with a checkpoint and without, and the command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from colar_engine import Engine

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/golden/llama-tiny"
CHECKPOINT = MODEL / "adapter"
COMMAND = Path(sysconfig.get_path("scripts")) / "colar-engine"
QUESTION = "Tom has 3 boxes with 24 pens each."

# A shell has what it runs in the background ignore SIGINT, and processes inherit that: those that the tests interrupt would not
# hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(MODEL, CHECKPOINT, device="cpu", threads=2)


@pytest.fixture(scope="session")
def bare() -> Engine:
    return Engine(MODEL, device="cpu", threads=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory, as `train` leaves one of the embedded default."""
    run = tmp_path / "runs/first"
    (run / "colar").mkdir(parents=True)
    shutil.copytree(MODEL, run / "model")
    shutil.copytree(CHECKPOINT, run / "colar/best")
    return run


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command line that the package brings."""
    environment = {**os.environ, "COLAR_LOG": "error"}
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120, env=environment)
