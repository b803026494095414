"""The example runs, on a run directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_latents_are_plotted(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "latents.png"
    example = ROOT / "python/examples/latents.py"
    made = subprocess.run([sys.executable, example, "--run", run, "--out", picture], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
