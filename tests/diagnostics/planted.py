"""A tiny model that answers "which colour has this shape?" over a picture of patches, by a planted way."""

import torch
from torch import nn
from torch.nn import functional as F

from sensorium.nn.language.decoder import Decoder, DecoderConfig
from sensorium.nn.masks import Rule, causal
from sensorium.types import Tokens
from sensorium.types.names import number_of

SHAPES, COLOURS, PATCHES, THINGS = 4, 4, 6, 3
# ids: begin, "colour of", "?", shapes, colours, "answer", ":"
FIRST_SHAPE = 3
FIRST_COLOUR = FIRST_SHAPE + SHAPES
VOCABULARY = FIRST_COLOUR + COLOURS + 2
IMAGE, TEXT = number_of("image"), number_of("text")
PARTS = ["prompt"] * (1 + PATCHES) + ["question"] * 3 + ["prompt"] * 2
AFTER_QUESTION = 1 + PATCHES + 3  # position of the first token behind it

ONLY_QUESTION_READS = causal & Rule(
    lambda q, k: ~((q["position"] >= AFTER_QUESTION) & (k["modality"] == IMAGE)),
    frozenset({"position", "modality"}),
)
"""Nothing behind the question sees the picture: its evidence goes through the question."""

ONLY_ANSWER_READS = causal & Rule(
    lambda q, k: ~((q["part"] == number_of("question")) & (k["modality"] == IMAGE)),
    frozenset({"part", "modality"}),
)
"""The question does not see the picture: what is behind it reads both."""


class Scenes(nn.Module):
    """Prompts with their answers, and the model that reads them."""

    def __init__(self, depth=2, width=48):
        super().__init__()
        self.language = Decoder(
            DecoderConfig(VOCABULARY, width=width, depth=depth, heads=4, key_heads=2)
        )
        self.patch = nn.Linear(SHAPES + COLOURS, width)
        for (
            module
        ) in self.language.modules():  # a model as small as this learns late from small ones
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
        nn.init.normal_(self.language.embedding.weight, std=0.3)

    def prompts(self, number, generator):
        """Rows with three things in six patches, and the colour that is asked for."""

        def chosen(size):
            drawn = torch.rand(number, size, generator=generator).argsort(1)
            return drawn[:, :THINGS]

        shapes, places = chosen(SHAPES), chosen(PATCHES)
        colours = torch.randint(COLOURS, (number, THINGS), generator=generator)
        pixels = torch.zeros(number, PATCHES, SHAPES + COLOURS)
        rows = torch.arange(number)[:, None]
        pixels[rows, places, shapes] = 1
        pixels[rows, places, SHAPES + colours] = 1
        words = torch.tensor([0, 1, 0, 2, VOCABULARY - 2, VOCABULARY - 1]).repeat(number, 1)
        words[:, 2] = FIRST_SHAPE + shapes[:, 0]
        vectors = self.language.embed(words)
        values = torch.cat([vectors[:, :1], self.patch(pixels), vectors[:, 1:]], 1)
        length = values.shape[1]
        kinds = [TEXT] + [IMAGE] * PATCHES + [TEXT] * 5
        ids = {
            "modality": torch.tensor(kinds).expand(number, -1),
            "part": torch.tensor([number_of(part) for part in PARTS]).expand(number, -1),
            "position": torch.arange(length).expand(number, -1),
        }
        mask = torch.ones(number, length, dtype=torch.bool)
        return Tokens(values, mask, ids), FIRST_COLOUR + colours[:, 0]


def trained(rule, *, depth=2, most_steps=500, seed=0):
    """A model that answers rightly under a rule."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    scenes = Scenes(depth)
    optimizer = torch.optim.AdamW(scenes.parameters(), 4e-3, weight_decay=0.01)
    for _ in range(most_steps):
        tokens, answer = scenes.prompts(32, generator)
        logits = scenes.language.logits(scenes.language(tokens, rule).values[:, -1])
        loss = F.cross_entropy(logits, answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    return scenes.eval()
