"""What a server serves: runs that embed or write, and indexes, each behind a queue of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np

from sensorium.search.index import Hit, Index, Mode
from sensorium.search.layout import IndexFolder
from sensorium.search.model import Model, Vector
from sensorium.serving.batching import Batcher, Batching
from sensorium.serving.counts import Counts
from sensorium.serving.requests import ServedModel
from sensorium.serving.writing import Conversation, Written, write
from sensorium.systems.baselines.assistant import Assistant
from sensorium.training.folder import RunFolder
from sensorium.types import UserError
from sensorium.types.names import did_you_mean

Kind = TypeVar("Kind")


class NotServed(UserError):
    """No such model or index is served."""


@dataclass(frozen=True)
class Search:
    """A search, as `Index.search` takes it."""

    vector: Vector | None
    words: str
    mode: Mode
    where: str | None
    fields: Sequence[str]
    limit: int


@dataclass(frozen=True)
class Embedder:
    """A run that makes vectors."""

    name: str
    model: Model
    queue: Batcher[Mapping[str, Any], Vector]


@dataclass(frozen=True)
class Writer:
    """An assistant."""

    name: str
    model: Model
    system: Assistant
    queue: Batcher[Conversation, Written]


@dataclass(frozen=True)
class Collection:
    """An index, and the run that made it."""

    name: str
    index: Index
    embedder: Embedder
    queue: Batcher[Search, list[Hit]]


class Served:
    """Runs and indexes, opened.

    Of a run that is asked for nothing here, and of a comparison, there are the results to look at.

    Args:
        paths: their folders. An index brings the run that made it along.
        counts: where calls are counted.
        batching: how calls are put together.
        device: as for `load`.

    Raises:
        UserError: a folder is none of these, two have the same name, or an index and its run do not
            fit.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        counts: Counts,
        batching: Batching | None = None,
        device: str | None = None,
    ) -> None:
        self._counts, self._device = counts, device
        self._batching = batching or Batching()
        self._stack = AsyncExitStack()
        self.embedders: dict[str, Embedder] = {}
        self.writers: dict[str, Writer] = {}
        self.collections: dict[str, Collection] = {}
        self.reports: dict[str, Path] = {}
        self._folders: dict[str, Path] = {}
        runs = [path for path in paths if RunFolder(path).run_file.exists()]
        for path in runs:
            self._add_run(path)
        for path in paths:
            if path in runs:
                continue
            if (path / "compare.json").is_file():
                self.reports[self._name(path)] = path
            elif IndexFolder(path).exists:
                self._add_index(path)
            else:
                raise UserError(
                    f"{path} is no run, index or comparison: it has no run.json, index.json or "
                    "compare.json"
                )

    def _add_run(self, path: Path) -> None:
        model = Model(path, self._device)
        system = model.run.system
        if isinstance(system, Assistant):
            name = self._name(path)
            answer = self._counted(name, partial(write, system))
            # answers that are written together are chosen in the same way
            queue = self._queue(name, answer, kind=lambda each: each.settings)
            self.writers[name] = Writer(name, model, system, queue)
            self.reports[name] = path
        elif "embed" in system.capabilities:
            self._add_embedder(model)
        else:
            self.reports[self._name(path)] = path

    def _add_embedder(self, model: Model) -> Embedder:
        for known in self.embedders.values():
            if known.model.identity == model.identity:
                return known
        name = self._name(model.folder.path)
        assert model.embedded  # or it says why there is nothing
        embedder = Embedder(name, model, self._queue(name, model.ask_all))
        self.embedders[name] = embedder
        self.reports[name] = model.folder.path
        return embedder

    def _add_index(self, path: Path) -> None:
        index = Index(path)
        maker = index.layout.maker
        served = [e for e in self.embedders.values() if e.model.identity == maker.identity]
        if not served and not Path(maker.path).exists():
            raise UserError(
                f"the run that made {path} is no longer at {maker.path}; serve its folder as well"
            )
        embedder = served[0] if served else self._add_embedder(index.model(device=self._device))
        name = self._name(path)
        queue = self._queue(name, partial(_search, index))
        self.collections[name] = Collection(name, index, embedder, queue)

    def _name(self, path: Path) -> str:
        name = path.resolve().name
        if name in self._folders:
            raise UserError(
                f"two of what is to be served are called '{name}': {self._folders[name]} and {path}; "
                "rename the folder of one"
            )
        self._folders[name] = path
        return name

    def _queue(
        self,
        name: str,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        kind: Callable[[Any], Any] = lambda asked: None,
    ) -> Batcher[Any, Any]:
        return Batcher(name, answer, self._batching, self._counts, kind)

    def _counted(
        self, name: str, answer: Callable[[Sequence[Conversation]], list[Written | UserError]]
    ) -> Callable[[Sequence[Conversation]], list[Written | UserError]]:
        words = self._counts.words.labels(name)

        def counted(conversations: Sequence[Conversation]) -> list[Written | UserError]:
            written = answer(conversations)
            words.inc(sum(each.said.tokens for each in written if isinstance(each, Written)))
            return written

        return counted

    async def __aenter__(self) -> Self:
        everything = (self.embedders, self.writers, self.collections)
        for each in (each for kind in everything for each in kind.values()):
            await self._stack.enter_async_context(each.queue)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """End once all accepted calls are answered."""
        await self._stack.aclose()

    def embedder(self, name: str) -> Embedder:
        """The run of this name that makes vectors."""
        return _find(name, self.embedders, "model that makes vectors")

    def writer(self, name: str) -> Writer:
        """The assistant of this name."""
        return _find(name, self.writers, "assistant")

    def collection(self, name: str | None) -> Collection:
        """The index of this name; the only one, if none is given.

        Raises:
            UserError: there are several.
        """
        if name is None and len(self.collections) > 1:
            raise UserError(f"index: say which of {', '.join(self.collections)}")
        return _find(name or next(iter(self.collections), ""), self.collections, "index")

    def report(self, name: str) -> Path:
        """The folder of the run or comparison of this name."""
        return _find(name, self.reports, "run or comparison")

    def models(self) -> list[ServedModel]:
        """All that is served."""
        runs: list[Embedder | Writer] = [*self.embedders.values(), *self.writers.values()]
        listed = [
            ServedModel(
                id=each.name,
                object="model",
                created=int(each.model.folder.run_file.stat().st_mtime),
                system=each.model.info["system"],
                can=["embeddings" if isinstance(each, Embedder) else "chat"],
                reads=_reads(each),
            )
            for each in runs
        ]
        return listed + [
            ServedModel(
                id=each.name,
                object="index",
                created=int(each.index.folder.layout_file.stat().st_mtime),
                system=each.index.layout.maker.system,
                can=["search"],
                reads=_reads(each.embedder),
            )
            for each in self.collections.values()
        ]


def _reads(served: Embedder | Writer) -> list[str]:
    if isinstance(served, Embedder):
        kinds = [field.modality for field, _ in served.model.embedded.values()]
    else:
        kinds = ["text", *(field.modality for field in served.system.media.fields)]
    return list(dict.fromkeys(kinds))


def _find(name: str, known: Mapping[str, Kind], what: str) -> Kind:
    if name not in known:
        raise NotServed(f"no {what} '{name:.100}' is served. {did_you_mean(name, known)}")
    return known[name]


def _search(index: Index, asked: Sequence[Search]) -> list[list[Hit] | UserError]:
    """What is found; questions that differ in their vectors alone are compared together."""
    found: dict[int, list[Hit] | UserError] = {}
    alike: dict[Any, list[int]] = {}
    for place, each in enumerate(asked):
        by_vector = each.mode == "vector"
        kind = (each.where, tuple(each.fields), each.limit) if by_vector else place
        alike.setdefault(kind, []).append(place)
    for places in alike.values():
        first = asked[places[0]]
        try:
            if first.mode == "vector":
                vectors = np.stack([cast(Vector, asked[place].vector) for place in places])
                hits = index.search_vectors(
                    vectors, where=first.where, fields=first.fields, limit=first.limit
                )
            else:
                hits = [
                    index.search(
                        first.vector,
                        first.words,
                        mode=first.mode,
                        where=first.where,
                        fields=first.fields,
                        limit=first.limit,
                    )
                ]
            found |= dict(zip(places, hits, strict=True))
        except UserError as error:
            found |= dict.fromkeys(places, error)
    return [found[place] for place in range(len(asked))]
