"""Warnings of the engine are Python's."""

from __future__ import annotations

import logging

import pytest
from conftest import CHECKPOINT, MODEL, QUESTION

from colar_engine import Engine, Sampling


def test_a_warning_is_of_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(MODEL, CHECKPOINT, device="cpu", threads=1)
    with caplog.at_level(logging.WARNING, logger="colar_engine"):
        made = engine.generate(QUESTION, sampling=Sampling(max_latents=100_000, separator_bias=-1e6))
    assert made.ending == "limit"
    [record] = caplog.records
    assert (record.name, record.levelname) == ("colar_engine", "WARNING")
    assert "max_position_embeddings" in record.getMessage()
