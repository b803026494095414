"""The command that the package brings is the engine's command line: its exit codes, signals and pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import COMMAND, MODEL, QUESTION, command

import colar_engine

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and pipes are those of POSIX")


def started(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([COMMAND, *arguments], text=True, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


def test_it_is_on_the_path_and_a_module() -> None:
    said = f"colar-engine {colar_engine.__version__}\n"
    assert command("--version").stdout == said
    module = subprocess.run([sys.executable, "-m", "colar_engine", "--version"], capture_output=True, text=True)
    assert (module.returncode, module.stdout) == (0, said)
    misused = subprocess.run([sys.executable, "-m", "colar_engine", "status", "--no"], capture_output=True, text=True)
    assert misused.returncode == 2
    assert "Usage: colar-engine status" in misused.stderr


def test_exit_codes(tmp_path: Path) -> None:
    assert command("data", "synth", "--help").returncode == 0
    bad = command("generate", "--modle", MODEL)
    assert bad.returncode == 2
    assert "--model" in bad.stderr
    assert command().returncode == 2
    failed = command("score", "--data", tmp_path / "absent.jsonl")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)


def test_arguments_come_as_they_are() -> None:
    result = command("generate", "--model", MODEL, "--method", "plain", "--greedy", "--max-new-tokens", "1", "--json",
                     "naïve — 日本語\n🦀")
    assert json.loads(result.stdout)["question"] == "naïve — 日本語\n🦀"


@POSIX
def test_a_reader_that_has_gone_is_no_failure() -> None:
    with started("generate", "--model", MODEL, "--method", "plain", "--greedy", "--batch-size", "1",
                 "--device", "cpu", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()
        try:
            process.stdin.write(f"{QUESTION}\n" * 50)
            process.stdin.close()
        except BrokenPipeError:
            pass
        said = process.stderr.read()
    assert (process.returncode, "rror" in said) == (0, False), said


@POSIX
def test_ctrl_c_ends_a_command_at_once() -> None:
    with started("generate", "--model", MODEL, "--method", "plain", stdin=subprocess.PIPE,
                 stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        # It has answered, and so waits for the next question.
        process.stdin.write(f"{QUESTION}\n" * 8)
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, "Traceback" in said) == (-signal.SIGINT, False), said


@POSIX
def test_ctrl_c_ends_training_after_its_step(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    sample = {"question": QUESTION, "steps": ["3 * 24 = 72"], "answer": "72"}
    data.write_text((json.dumps(sample) + "\n") * 32)
    run = tmp_path / "run"
    with started("train", "--method", "cot", "--model", MODEL, "--data", data, "--val", data, "--out", run,
                 "--max-steps", "1000000", "--batch-size", "2", "--val-samples", "2",
                 stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        metrics = run / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT
    assert "--resume" in said and "Traceback" not in said
    assert (run / "last").is_dir()
