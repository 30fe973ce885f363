"""A small system for tests of the loop: two losses that count different things."""

import torch
from torch import nn
from torch.nn import functional as F

from sensorium.modalities.base import default_views
from sensorium.systems.base import System, SystemConfig
from sensorium.types import Batch, Card, Loss, Stage


class Toy(System):
    """A linear model of a table; `spread` counts all rows, `label` those above the middle."""

    card = Card(title="toy", family="toy", modalities=("table",), tasks=("classification",))

    class Config(SystemConfig):
        """Settings."""

        dropout: float = 0.0
        explode_below: float = 0.0
        num_stages: int = 1

    def __init__(self, config, schema, tokenizer=None):
        super().__init__(config, schema, tokenizer)
        self.table = schema.find(modality="table")[0].name
        self.label = schema.find(role="label")[0].name
        self.trunk = nn.Linear(2, 8)
        self.head = nn.Linear(8, 2)

    def views(self):
        """Both fields."""
        return dict(default_views(self.schema.find(modality=("table", "category"))))

    def stages(self):
        """One or two."""
        return [
            Stage(name=f"stage {i}", batch_size=16, learning_rate=0.05, ema=0.9 if i else None)
            for i in range(self.config.num_stages)
        ]

    def hidden(self, batch: Batch) -> torch.Tensor:
        """The trunk's output."""
        hidden = self.trunk(batch[self.table].first(batch.size)[0]).tanh()
        return F.dropout(hidden, self.config.dropout, self.training)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Two of them."""
        hidden = self.hidden(batch)
        labels, _ = batch[self.label].first(batch.size)
        chosen = batch.uniform("chosen", 1)[:, 0] > 0.6
        per_row = F.cross_entropy(self.head(hidden), labels, reduction="none")
        spread = (hidden**2).mean(1)
        if per_row.detach().mean() < self.config.explode_below:
            per_row = per_row * float("nan")
        return {"label": Loss.mean(per_row[chosen]), "spread": Loss.mean(spread, weight=0.1)}

    def predict(self, batch: Batch) -> torch.Tensor:
        """Class probabilities."""
        return self.head(self.hidden(batch)).softmax(-1)
