"""Engines give what the command line gives, in Python's types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CHECKPOINT, MODEL, QUESTION, command
from numpy.typing import NDArray

import colar_engine
from colar_engine import Done, Engine, Latent, Prefilled, Sample, Sampling, Token

SHORT = Sampling(max_latents=6, max_new_tokens=8, seed=3)


def form(array: NDArray[Any]) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape of an array."""
    return array.dtype.name, array.shape


def told(*arguments: str | Path) -> list[dict[str, Any]]:
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_generation_is_that_of_the_command(engine: Engine) -> None:
    made = engine.generate(QUESTION, compression_factor=2, sampling=SHORT)
    options = ["--cf", "2", "--max-latents", "6", "--max-new-tokens", "8", "--seed", "3", "--device", "cpu"]
    [line] = told("generate", "--model", MODEL, "--adapter", CHECKPOINT, *options, "--json", QUESTION)
    assert made.text == line["text"]
    assert made.token_ids == line["token_ids"]
    assert made.n_latents == line["n_latents"]
    assert made.answer == line["answer"]
    assert made.prompt_tokens == line["prompt_tokens"]
    assert made.answer_tokens == line["answer_tokens"]
    assert (made.ending == "finished") == line["finished"]
    assert (made.question, made.compression_factor) == (QUESTION, "2")
    assert made.prefill_ms > 0 and made.latents_ms > 0 and made.answer_ms > 0
    assert made.trace is None


def test_factors_are_numbers_or_texts(engine: Engine) -> None:
    def stated(factor: float | str) -> str:
        return engine.generate(QUESTION, compression_factor=factor, sampling=SHORT).compression_factor

    assert [stated(factor) for factor in (2, 2.0, "2")] == ["2"] * 3
    assert (stated(1.5), stated("auto"), stated(np.int64(3))) == ("1.5", "auto", "3")  # type: ignore[arg-type]


def test_a_batch_gives_what_its_texts_give_alone(engine: Engine) -> None:
    samplings = [Sampling(max_latents=6, max_new_tokens=8, seed=seed) for seed in range(5)]
    together = engine.generate_batch([QUESTION] * 5, sampling=samplings)
    alone = [engine.generate(QUESTION, sampling=sampling) for sampling in samplings]
    assert [made.token_ids for made in together] == [made.token_ids for made in alone]
    assert len({tuple(made.token_ids) for made in together}) > 1
    same = engine.generate_batch([QUESTION, "How many hens?"], sampling=SHORT)
    assert same[0].token_ids == engine.generate(QUESTION, sampling=SHORT).token_ids
    assert engine.generate_batch([]) == []


def test_a_stream_tells_what_happens(engine: Engine) -> None:
    sampling = Sampling(max_latents=6, max_new_tokens=8, seed=3)
    stream = engine.stream(QUESTION, compression_factor=2, sampling=sampling)
    assert stream.generation is None
    events = list(stream)
    made = engine.generate(QUESTION, compression_factor=2, sampling=sampling)
    assert isinstance(events[0], Prefilled)
    assert [event.number for event in events if isinstance(event, Latent)] == list(range(1, made.n_latents + 1))
    assert [event.id for event in events if isinstance(event, Token)] == made.token_ids
    assert "".join(event.text for event in events if isinstance(event, (Token, Done))) == made.text
    assert isinstance(events[-1], Done)
    assert events[-1].generation is stream.generation
    assert events[-1].generation.text == made.text
    assert events[-1].generation.ending == made.ending
    assert list(stream) == []


def test_a_trace_has_the_latents_and_what_they_are_near_to(engine: Engine) -> None:
    trace = engine.generate(QUESTION, sampling=SHORT, trace=True).trace
    assert trace is not None
    n, k = trace.token_ids.shape
    assert n == len(trace) == engine.generate(QUESTION, sampling=SHORT).n_latents
    assert form(trace.latents) == ("float32", (n, engine.hidden_size))
    assert (form(trace.token_ids), form(trace.cosines)) == (("uint32", (n, k)), ("float32", (n, k)))
    assert form(trace.end_probabilities) == ("float32", (n,))
    assert np.all((trace.end_probabilities >= 0) & (trace.end_probabilities <= 1))
    assert trace.tokens == [[engine.token_text(id) for id in row] for row in trace.token_ids.tolist()]
    table = engine.embeddings(range(engine.vocab_size)).astype(np.float64)
    latents = trace.latents.astype(np.float64)
    cosines = (latents / np.linalg.norm(latents, axis=1)[:, None]) @ (table / np.linalg.norm(table, axis=1)[:, None]).T
    nearest = -np.sort(-cosines, axis=1)[:, :k]
    # float32 sums of `hidden_size` products.
    bound = (engine.hidden_size + 4) * np.finfo(np.float32).eps
    assert np.max(np.abs(nearest - trace.cosines)) < bound
    [line] = told("generate", "--model", MODEL, "--adapter", CHECKPOINT, "--max-latents", "6", "--max-new-tokens", "8",
                  "--seed", "3", "--device", "cpu", "--trace", "--json", QUESTION)
    told_ids = [[token["id"] for token in tokens] for tokens in line["trace"]]
    assert trace.token_ids.tolist() == told_ids


def test_a_reasoning_in_words_has_no_latents(bare: Engine) -> None:
    made = bare.generate(QUESTION, method="cot", sampling=Sampling(max_cot_tokens=3, max_new_tokens=2), trace=True)
    assert made.trace is not None
    assert (made.trace.latents.shape, made.trace.token_ids.shape) == ((0, bare.hidden_size), (0, 0))
    assert len(made.trace) == 0 and made.trace.end_probabilities.shape == (0,)
    plain = bare.generate(QUESTION, method="plain", sampling=Sampling(max_new_tokens=2).greedy())
    assert (plain.compression_factor, plain.n_latents) == ("", 0)


def test_a_score_is_that_of_the_command(engine: Engine, tmp_path: Path) -> None:
    samples = [
        Sample(QUESTION, ["3 * 24 = 72"], "72"),
        Sample("Ann has 4 hens and buys 5. How many hens?", ["4 + 5 = 9"], "9"),
    ]
    data = tmp_path / "test.jsonl"
    fields = [{"question": s.question, "steps": s.steps, "answer": s.answer} for s in samples]
    data.write_text("".join(json.dumps(sample) + "\n" for sample in fields))
    assert colar_engine.load_samples(data) == samples
    score = engine.score(samples, compression_factor=2)
    model: list[str | Path] = ["--model", MODEL, "--adapter", CHECKPOINT, "--device", "cpu"]
    *lines, total = told("score", *model, "--data", data, "--cf", "2", "--json")
    names = ["ce", "latent_mse", "latent_nll", "entropy"]
    columns = score.columns()
    assert list(columns) == names
    for name in names:
        assert form(columns[name]) == ("float64", (len(samples),))
        assert columns[name].tolist() == [line[name] for line in lines]
        assert getattr(score.total, name) == total[name]
    assert score.total.ce_positions == total["ce_positions"]
    assert score.total.latent_positions == total["latent_positions"]
    assert [sample.question for sample in score.samples] == [sample.question for sample in samples]
    assert score.samples[0].losses != score.samples[1].losses
    assert score.total.distill is None


def test_without_a_model_it_is_that_of_the_newest_run(run: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    want = engine.generate(QUESTION, sampling=SHORT).token_ids
    named = Engine(run=run, device="cpu")
    assert named.generate(QUESTION, sampling=SHORT).token_ids == want
    assert str(run / "colar/best") in named.description
    monkeypatch.chdir(run.parents[1])
    newest = Engine(device="cpu", no_mmap=True)
    assert newest.generate(QUESTION, sampling=SHORT).token_ids == want
    assert "runs/first/colar/best" in repr(newest)


def test_tokens_and_texts(engine: Engine, bare: Engine) -> None:
    ids = engine.tokens(QUESTION)
    assert engine.text(ids) == QUESTION
    assert all(0 <= id < engine.vocab_size for id in ids)
    embeddings = engine.embeddings(ids)
    assert form(embeddings) == ("float32", (len(ids), engine.hidden_size))
    assert engine.embeddings([]).shape == (0, engine.hidden_size)
    assert (engine.method, bare.method) == ("colar", None)


def test_samplings_are_values() -> None:
    assert Sampling(seed=3) == Sampling(seed=3) != Sampling(seed=4)
    greedy = Sampling(max_latents=7).greedy()
    assert (greedy.temperature, greedy.latent_temperature, greedy.eol_temperature) == (0, 0, 0)
    assert greedy.max_latents == 7
    assert repr(Sampling(seed=2**64 - 1)).endswith("seed=18446744073709551615, separator_bias=0)")


def test_the_documented_defaults_are_those() -> None:
    default = Sampling()
    for line in (Sampling.__doc__ or "").splitlines():
        name, _, rest = line.partition(":")
        if "Default " in rest:
            stated = float(rest.rpartition("Default ")[2].rstrip("."))
            assert getattr(default, name) == pytest.approx(stated, rel=1e-6), name
