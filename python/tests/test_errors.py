"""Errors are exceptions with one line, which is that of the command."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKPOINT, MODEL, QUESTION, command

import colar_engine
from colar_engine import ColarError, Engine, FileError, OptionError, Sample, Sampling


def spelled(line: str, *options: str) -> str:
    """The line as the command says it, which shows flags where the library names fields."""
    for option in options:
        line = line.replace(f"`{option}`", "--" + option.replace("_", "-"))
    return line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError) as error:
        Engine(tmp_path / "absent")
    assert error.value.path is not None and error.value.path.startswith(str(tmp_path / "absent"))
    result = command("generate", "--model", tmp_path / "absent", "--cf", "2", QUESTION)
    assert (result.returncode, result.stderr) == (1, f"error: {error.value}\n")


def test_a_file_whose_content_is_wrong(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FileError) as error:
        Engine(model)
    assert error.value.path == str(weights)
    assert "\n" not in str(error.value)
    result = command("generate", "--model", model, "--method", "plain", QUESTION)
    assert (result.returncode, result.stderr) == (1, f"error: {error.value}\n")


def test_a_line_of_a_data_set(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "1+1?", "steps": [], "answer": "2"}\n{"question": "2+2?"}\n')
    with pytest.raises(FileError, match="line 2") as error:
        colar_engine.load_samples(data)
    assert error.value.path == str(data)


def test_runs_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as error:
        Engine()
    result = command("generate", QUESTION)
    assert (result.returncode, result.stderr) == (2, f"error: {spelled(str(error.value), 'model')}\n")
    with pytest.raises(FileError, match="no such directory"):
        Engine(run=tmp_path / "absent")


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: Sampling(top_p=0.0), "`top_p` takes numbers above 0 and at most 1, not 0"),
    (lambda: Sampling(temperature=float("nan")), "`temperature` takes numbers of at least 0, not NaN"),
    (lambda: Sampling(max_latents=0), "`max_latents` takes 1 to 1048576, not 0"),
    (lambda: Sampling(max_latents=-1), "`max_latents` takes whole numbers from 0 to 2^64 - 1, not -1"),
    (lambda: Sampling(seed=2**64), "`seed` takes whole numbers from 0 to 2^64 - 1, not 18446744073709551616"),
    (lambda: Engine(MODEL, device="gpu"), "`device`: unknown variant `gpu`"),  # type: ignore[arg-type]
    (lambda: Engine(MODEL, dtype="bf16", device="cpu"), "`dtype`"),
    (lambda: Engine(MODEL, threads=-1), "`threads` takes whole numbers"),
    (lambda: Engine(MODEL, threads=2**40), "`threads`"),
    (lambda: Engine(MODEL, run="runs/a"), "`run` has a model of its own, and goes without `model`"),
    (lambda: Engine(adapter=CHECKPOINT), "`adapter` goes with `model`"),
]


@pytest.mark.parametrize("wrong, line", WRONG, ids=[line for _, line in WRONG])
def test_options_that_are_wrong(wrong: Callable[[], object], line: str) -> None:
    with pytest.raises(OptionError) as error:
        wrong()
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ColarError) and isinstance(error.value, ValueError)


def test_requests_that_are_wrong(engine: Engine, bare: Engine) -> None:
    with pytest.raises(OptionError, match="`compression_factor`"):
        engine.generate(QUESTION, compression_factor=0)
    with pytest.raises(OptionError, match="`compression_factor`"):
        engine.generate(QUESTION, compression_factor=2**80)
    with pytest.raises(OptionError, match="`method`: unknown variant `latent`"):
        engine.generate(QUESTION, method="latent")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no latent head"):
        bare.generate(QUESTION)
    with pytest.raises(OptionError, match="`sampling` has 1 entries for 2 texts"):
        engine.generate_batch([QUESTION, QUESTION], sampling=[Sampling()])
    with pytest.raises(TypeError):
        engine.generate_batch(QUESTION)
    with pytest.raises(TypeError):
        engine.generate(QUESTION, compression_factor=[2])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="`escape_marks`"):
        engine.generate("### " + QUESTION)
    assert Engine(MODEL, CHECKPOINT, escape_marks=True).generate("### " + QUESTION).question.startswith("###")
    with pytest.raises(OptionError, match="beyond the vocabulary"):
        engine.embeddings([engine.vocab_size + 1000])
    with pytest.raises(OptionError, match="data set is empty"):
        engine.score([])
    with pytest.raises(OptionError, match="compression factor"):
        engine.score([Sample(QUESTION, [], "72")], compression_factor=0)


def test_a_prompt_beyond_the_positions_is_the_command_s_error(engine: Engine) -> None:
    question = "pens " * 4000
    with pytest.raises(ColarError) as error:
        engine.generate(question)
    result = command("generate", "--model", MODEL, "--adapter", CHECKPOINT, "--cf", "2", question)
    assert result.returncode == (2 if isinstance(error.value, OptionError) else 1)
    assert result.stderr.splitlines()[-1] == f"error: {spelled(str(error.value), 'allow_long')}"
    stream = engine.stream(question)
    with pytest.raises(type(error.value)) as streamed:
        next(stream)
    assert str(streamed.value) == str(error.value)
    assert list(stream) == []


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(FileError("a: wrong", "a")))
    assert (type(error), str(error), error.path) == (FileError, "a: wrong", "a")
