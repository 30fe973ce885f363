"""Calls that come close together are made as one: a model reads many rows in little more time than one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from sensorium.serving.counts import Counts
from sensorium.types import UserError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MOST_WAITING = 1024
"""Calls that may wait; further ones are refused, so that those that wait are answered in time."""


class Busy(Exception):
    """Too many calls wait."""


@dataclass(frozen=True)
class Batching:
    """How calls are put together.

    Attributes:
        most: how many are made as one; with 1, each is made alone.
        wait: seconds that a call waits at most for others to come.
    """

    most: int = 32
    wait: float = 0.002


class Batcher(Generic[Asked, Answer]):
    """A queue before something that answers several calls at once, in a thread of its own.

    Calls go in the order in which they came; one that nobody waits for any more is left out. If a batch
    fails, each of its calls is made alone, so that nobody gets another's failure.

    Args:
        name: by which it is counted.
        answer: gives the answers to calls, in their order; what is wrong with one, in its place.
        batching: how calls are put together.
        counts: where batches are counted.
        kind: calls of different kinds are not put together.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Sequence[Asked]], Sequence[Answer | UserError]],
        batching: Batching,
        counts: Counts,
        kind: Callable[[Asked], Hashable] = lambda asked: None,
    ) -> None:
        self._answer, self._batching, self._kind = answer, batching, kind
        self._sizes = counts.batches.labels(name)
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._unanswered: set[asyncio.Future[Answer]] = set()
        self._come = asyncio.Event()
        self._full = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sensorium-{name}")
        self._work: asyncio.Task[None] | None = None
        counts.waiting.labels(name).set_function(lambda: len(self._waiting))

    async def __aenter__(self) -> Self:
        self._work = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        """End once all accepted calls are answered."""
        assert self._work is not None
        while self._unanswered:
            await asyncio.wait(self._unanswered)
        self._work.cancel()
        with suppress(asyncio.CancelledError):
            await self._work
        self._thread.shutdown()

    async def ask(self, asked: Asked) -> Answer:
        """The answer to a call.

        Raises:
            UserError: what is wrong with it.
            Busy: too many calls wait.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Busy
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        self._waiting.append((asked, future))
        self._come.set()
        if len(self._waiting) >= self._batching.most:
            self._full.set()
        return await future

    async def _run(self) -> None:
        while True:
            await self._come.wait()
            if len(self._waiting) < self._batching.most and self._batching.wait:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._batching.wait)
            batch = self._take()
            if not self._waiting:
                self._come.clear()
            if len(self._waiting) < self._batching.most:
                self._full.clear()
            if batch:
                await self._answer_batch(batch)

    def _take(self) -> list[tuple[Asked, asyncio.Future[Answer]]]:
        """The first call and those of its kind that came after it."""
        waiting = [call for call in self._waiting if not call[1].cancelled()]
        if not waiting:
            self._waiting = []
            return []
        kind = self._kind(waiting[0][0])
        fitting = [call for call in waiting if self._kind(call[0]) == kind]
        batch = fitting[: self._batching.most]
        taken = {id(future) for _, future in batch}
        self._waiting = [call for call in waiting if id(call[1]) not in taken]
        return batch

    async def _answer_batch(self, batch: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        loop = asyncio.get_running_loop()
        self._sizes.observe(len(batch))
        try:
            answers = await loop.run_in_executor(
                self._thread, self._answer, [asked for asked, _ in batch]
            )
        except Exception as error:
            if len(batch) > 1:
                for call in batch:
                    await self._answer_batch([call])
                return
            answers = [error]  # type: ignore[list-item]
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
