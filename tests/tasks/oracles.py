"""Systems whose answers are known, for tests of what is made of them."""

import torch
from torch import nn

from sensorium.modalities.base import default_views
from sensorium.systems.base import System, SystemConfig
from sensorium.types import Batch, Card, Loss


class Oracle(System):
    """Knows by heart which text and which number belong to the same thing."""

    name = "oracle"
    card = Card(title="oracle", family="test", modalities=("any",), tasks=("retrieval",))
    Config = SystemConfig

    def __init__(self, config, schema, tokenizer=None):
        super().__init__(config, schema, tokenizer)
        self.scale = nn.Parameter(torch.ones(()))

    def views(self):
        """All fields."""
        return dict(default_views(f for f in self.schema if f.role != "ignore"))

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Nothing to learn."""
        return {"none": Loss.mean(self.scale.expand(batch.size))}


class EmbeddingOracle(Oracle):
    """The thing a number stands for is its integer part."""

    def embed(self, batch: Batch, field: str) -> torch.Tensor:
        """A corner of a simplex for each thing."""
        values, _ = batch[field].first(batch.size)
        return nn.functional.one_hot(values.reshape(batch.size, -1)[:, 0].long(), 64).float()


class PairOracle(Oracle):
    """The same by pairs; counts what it was asked."""

    asked = 0
    prepared = 0

    def prepare(self, batch: Batch) -> Batch:
        """Counts."""
        type(self).prepared += batch.size
        return batch

    def score_pairs(self, batch: Batch) -> torch.Tensor:
        """1 for a match."""
        type(self).asked += batch.size
        left, right = (batch[name].first(batch.size)[0].long() for name in ("a", "b"))
        return (left == right).float()


class ConstantPairs(Oracle):
    """Finds everything equally good."""

    def score_pairs(self, batch: Batch) -> torch.Tensor:
        """Zero."""
        return torch.zeros(batch.size)
