"""A small system with all that a resumed run could get wrong: dropout, augmentation, two stages."""

import torch
from torch import nn
from torch.nn import functional as F

from sensorium.modalities.base import View
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import TextView
from sensorium.systems.base import System, SystemConfig
from sensorium.types import Batch, Card, Loss, Stage


class Small(System):
    """A linear map of an augmented picture and a bag of words, with dropout between."""

    name = "small"
    card = Card(
        title="small", family="small", modalities=("image", "text"), tasks=("classification",)
    )

    class Config(SystemConfig):
        """Settings."""

        tokenizer: str = "bpe:300"
        dropout: float = 0.3

    def __init__(self, config, schema, tokenizer=None):
        super().__init__(config, schema, tokenizer)
        self.image = schema.find(modality="image")[0].name
        self.text = schema.find(modality="text")[0].name
        self.label = schema.find(role="label")[0].name
        self.see = nn.Linear(8 * 8 * 3, 16)
        self.read = nn.EmbeddingBag(tokenizer.size, 16, mode="mean")
        self.norm = nn.BatchNorm1d(32, momentum=0.2)
        self.head = nn.Linear(32, 2)

    def views(self):
        """All three fields."""
        return {
            self.image: ImageView(size=8, augment=("crop", "flip", "colour")),
            self.text: TextView(tokenizer=self.tokenizer, max_tokens=12),
            self.label: View(),
        }

    def stages(self):
        """Two, the second with a running average."""
        return [
            Stage(name="first", batch_size=8, learning_rate=0.02, share=0.5),
            Stage(name="second", batch_size=8, learning_rate=0.01, share=0.5, ema=0.9),
        ]

    def predict(self, batch: Batch) -> torch.Tensor:
        """Class probabilities."""
        pixels, _ = batch[self.image].first(batch.size)
        words, _ = batch[self.text].first(batch.size)
        seen = self.see(pixels.flatten(1).float() / 255)
        joined = torch.cat([seen, self.read(words)], 1)
        if len(joined) > 1 or not self.training:
            joined = self.norm(joined)
        hidden = F.dropout(joined.tanh(), self.config.dropout, self.training)
        return self.head(hidden).softmax(-1)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Of the label."""
        labels, _ = batch[self.label].first(batch.size)
        chosen = self.predict(batch).clamp(min=1e-6).log()
        return {"label": Loss.mean(F.nll_loss(chosen, labels, reduction="none"))}
