"""Calls that are put together: each gets its own answer, whatever happens to the others."""

import asyncio
import threading
import time

import pytest

from sensorium.serving import batching as module
from sensorium.serving.batching import Batcher, Batching, Busy
from sensorium.serving.counts import Counts
from sensorium.types import UserError


def run(asking, answer, batching=None, kind=lambda asked: None):
    """What comes of `asking(batcher)`."""

    async def whole():
        async with Batcher("q", answer, batching or Batching(), Counts(), kind) as batcher:
            return await asyncio.wait_for(asking(batcher), 20)

    return asyncio.run(whole())


def everything(*asked):
    async def asking(batcher):
        calls = [asyncio.ensure_future(batcher.ask(each)) for each in asked]
        return await asyncio.gather(*calls, return_exceptions=True)

    return asking


def test_calls_that_come_together_are_made_as_one_and_keep_their_answers():
    batches = []

    def answer(asked):
        batches.append(list(asked))
        return [each * 10 for each in asked]

    found = run(everything(*range(70)), answer, Batching(most=32, wait=0.05))
    assert found == [each * 10 for each in range(70)]
    assert [len(batch) for batch in batches] == [32, 32, 6]
    assert [each for batch in batches for each in batch] == list(range(70))


def test_a_full_batch_does_not_wait_and_a_lone_call_waits_no_longer_than_it_may():
    begin = time.perf_counter()
    run(everything(1, 2), list, Batching(most=2, wait=10.0))
    assert time.perf_counter() - begin < 5
    begin = time.perf_counter()
    run(everything(1), list, Batching(most=2, wait=0.2))
    assert 0.2 <= time.perf_counter() - begin < 5


def test_what_comes_while_a_batch_is_answered_is_the_next_batch():
    batches, may_go = [], threading.Event()

    def answer(asked):
        batches.append(len(asked))
        may_go.wait(10)
        return asked

    async def asking(batcher):
        first = asyncio.ensure_future(batcher.ask("first"))
        while not batches:
            await asyncio.sleep(0.01)
        others = [asyncio.ensure_future(batcher.ask(each)) for each in range(5)]
        await asyncio.sleep(0.05)
        may_go.set()
        return await asyncio.gather(first, *others)

    assert run(asking, answer, Batching(wait=0.0)) == ["first", 0, 1, 2, 3, 4]
    assert batches == [1, 5]


def test_nobody_gets_the_failure_of_another():
    def answer(asked):
        if "broken" in asked:
            raise ValueError("broken")
        return [UserError("wrong") if each == "wrong" else each for each in asked]

    found = run(everything("a", "broken", "wrong", "b"), answer)
    assert found[0] == "a" and found[3] == "b"
    assert isinstance(found[1], ValueError) and isinstance(found[2], UserError)


def test_what_nobody_waits_for_is_left_out():
    seen, may_go = [], threading.Event()

    def answer(asked):
        seen.extend(asked)
        may_go.wait(10)
        return asked

    async def asking(batcher):
        first = asyncio.ensure_future(batcher.ask("first"))
        while not seen:
            await asyncio.sleep(0.01)
        left, stays = (asyncio.ensure_future(batcher.ask(each)) for each in ("left", "stays"))
        await asyncio.sleep(0.01)
        left.cancel()
        may_go.set()
        return await asyncio.gather(first, stays)

    assert run(asking, answer) == ["first", "stays"]
    assert seen == ["first", "stays"]


def test_different_kinds_are_not_put_together_and_none_is_forgotten():
    batches = []

    def answer(asked):
        batches.append(list(asked))
        return asked

    asked = [1, 2, 11, 3, 12]
    assert run(everything(*asked), answer, kind=lambda each: each > 10) == asked
    assert batches == [[1, 2, 3], [11, 12]]


@pytest.mark.parametrize("number", [1, 5])
def test_it_ends_only_when_what_was_accepted_is_answered(number):
    done = []

    def answer(asked):
        time.sleep(0.05)
        done.extend(asked)
        return asked

    async def whole():
        async with Batcher("q", answer, Batching(most=1, wait=0.0), Counts()) as batcher:
            calls = [asyncio.ensure_future(batcher.ask(each)) for each in range(number)]
            await asyncio.sleep(0.02)  # the first is being answered
        return await asyncio.gather(*calls)

    assert asyncio.run(whole()) == done == list(range(number))


def test_too_many_calls_are_refused_and_those_that_wait_are_answered(monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    found = run(everything(*range(5)), list)
    assert found[:3] == [0, 1, 2]
    assert all(isinstance(each, Busy) for each in found[3:])


@pytest.mark.parametrize("most", [1, 2, 7])
def test_no_order_of_coming_and_leaving_loses_a_call(most):
    async def asking(batcher):
        async def one(number):
            await asyncio.sleep(number % 5 / 1000)
            call = asyncio.ensure_future(batcher.ask(number))
            if number % 3 == 0:
                await asyncio.sleep(0.001)
                call.cancel()
            return (await asyncio.gather(call, return_exceptions=True))[0]

        return await asyncio.gather(*map(one, range(60)))

    def answer(asked):
        time.sleep(0.001)
        return asked

    found = run(asking, answer, Batching(most=most, wait=0.001))
    for number, each in enumerate(found):
        assert each == number or (number % 3 == 0 and isinstance(each, asyncio.CancelledError))
