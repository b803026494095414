"""Long work leaves the interpreter alone, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import CHECKPOINT, MODEL, QUESTION

from colar_engine import Done, Engine, Latent, Sample, Sampling

# So many latents take minutes, and none of them ends the chain.
ENDLESS = Sampling(max_latents=200_000, separator_bias=-1e6)
# Far more than a step of the tiny model takes, and far less than the chain would.
SOON = 10.0


@pytest.fixture(scope="module")
def endless() -> Engine:
    """An engine whose chains do not end with the model's positions."""
    return Engine(MODEL, CHECKPOINT, device="cpu", threads=1, allow_long=True)


def working() -> bool:
    """Whether anything in the process computes: it is watched for longer than another process may have its processors."""
    before = time.process_time()
    time.sleep(0.3)
    return time.process_time() - before > 0.005


def idle() -> bool:
    """Whether nothing computes any more, soon."""
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        if not working():
            return True
    return False


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    yield
    assert idle(), "something still works after the test"


@pytest.fixture
def interrupt() -> Iterator[None]:
    """Ctrl-C, soon."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.join()


def test_ctrl_c_ends_a_generation(endless: Engine, interrupt: None) -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        endless.generate(QUESTION, sampling=ENDLESS)
    assert time.monotonic() - begun < SOON


def test_ctrl_c_ends_a_stream(endless: Engine, interrupt: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        for _ in endless.stream(QUESTION, sampling=ENDLESS):
            pass


def test_ctrl_c_ends_a_stream_that_is_kept(endless: Engine, interrupt: None) -> None:
    with pytest.raises(KeyboardInterrupt), endless.stream(QUESTION, sampling=ENDLESS) as stream:
        for _ in stream:
            pass
    assert isinstance(list(stream)[-1], Done)
    assert stream.generation is not None and stream.generation.ending == "cancelled"


def test_ctrl_c_ends_a_score(endless: Engine, interrupt: None) -> None:
    samples = [Sample(QUESTION, ["3 * 24 = 72"] * 50, "72")] * 5000
    with pytest.raises(KeyboardInterrupt):
        endless.score(samples, batch_tokens=1)


def test_other_threads_run_meanwhile(endless: Engine) -> None:
    stream = endless.stream(QUESTION, sampling=ENDLESS)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while stream.generation is None and ticks < 50:
            time.sleep(0.001)
            ticks += 1
        stream.cancel()

    ticking = threading.Thread(target=tick)
    ticking.start()
    # With the lock held until the chain ends, the thread would not come to its first tick before that.
    done = list(stream)[-1]
    ticking.join()
    assert ticks == 50
    assert isinstance(done, Done) and done.generation.ending == "cancelled"


def test_a_generation_does_not_hold_the_lock(endless: Engine) -> None:
    sampling = Sampling(max_latents=3000, separator_bias=-1e6)
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        endless.generate(QUESTION, sampling=sampling)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    ticks = 0
    while not ended.is_set():
        time.sleep(0.001)
        ticks += 1
    thread.join()
    # A call that held the lock would let this thread run between it and its neighbours only.
    assert ticks > 20


def test_another_thread_cancels_a_stream(endless: Engine) -> None:
    stream = endless.stream(QUESTION, sampling=ENDLESS)
    timer = threading.Timer(0.2, stream.cancel)
    timer.start()
    events = list(stream)
    timer.join()
    latents = [event.number for event in events if isinstance(event, Latent)]
    assert isinstance(events[-1], Done)
    made = events[-1].generation
    assert made.ending == "cancelled"
    assert latents == list(range(1, made.n_latents + 1))
    assert 0 < made.n_latents < 200_000


def test_leaving_the_loop_cancels(endless: Engine) -> None:
    for event in endless.stream(QUESTION, sampling=ENDLESS):
        if isinstance(event, Latent) and event.number == 3:
            assert working()
            break
    assert idle()


def test_leaving_a_with_block_cancels(endless: Engine) -> None:
    with endless.stream(QUESTION, sampling=ENDLESS) as stream:
        next(stream)
        assert working()
    assert idle()
    assert isinstance(list(stream)[-1], Done)


def test_streams_run_beside_each_other(endless: Engine) -> None:
    sampling = Sampling(max_latents=8, max_new_tokens=8, seed=5)
    want = endless.generate(QUESTION, sampling=sampling).token_ids
    made: list[list[int]] = []

    def ask() -> None:
        *_, done = endless.stream(QUESTION, sampling=sampling)
        assert isinstance(done, Done)
        made.append(done.generation.token_ids)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [want] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_is_told_to_load_its_own(endless: Engine) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            endless.generate(QUESTION)
        except Exception as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        line = pipe.read()
    os.waitpid(child, 0)
    assert line == (
        f"the engine was loaded by process {os.getpid()}, whose threads a fork does not have: load it in this process"
    )
