"""Modality calibration: a scale and a shift of what is seen, behind each layer of a language model.

(MoCa; Huang et al., ICCV 2025, arXiv 2410.07167.) With m = 1 at visual tokens and 0 at others, behind the
second residual of each layer

    h ← h + m (u h + w - h)

so that visual tokens (and those of any other medium) become `u h + w`, and text stays what it is. It adds
no loss, and is given to a language model as its hooks. It begins as the identity, as in the released
recipe (the release's own default draws u around 1 and w around 0).

Differs from the paper: nothing stands behind the last layer, whose visual tokens no one reads: what was
learned there would never be trained. Decoding one word at a time needs no exception, since words are no
visual tokens.
"""

from __future__ import annotations

import torch
from torch import nn

from sensorium.nn.language.base import Hooks
from sensorium.types import Tokens
from sensorium.types.names import number_of


class ModalityCalibration(nn.Module, Hooks):
    """The scales and shifts of all layers.

    Args:
        num_layers: of the language model.
        width: of its vectors.
        is_for_all: change all tokens, which is the control with as many parameters.
    """

    def __init__(self, num_layers: int, width: int, *, is_for_all: bool = False) -> None:
        super().__init__()
        self.is_for_all = is_for_all
        # one vector each, since weight decay leaves vectors alone
        behind = range(num_layers - 1)
        self.scale = nn.ParameterList([torch.ones(width) for _ in behind])
        self.shift = nn.ParameterList([torch.zeros(width) for _ in behind])

    def enter(self, layer: int, tokens: Tokens) -> Tokens:
        """What the layer before this one gave, calibrated; in single precision."""
        if layer == 0:
            return tokens
        states = tokens.values.float()
        changed = self.scale[layer - 1].float() * states + self.shift[layer - 1].float()
        changed = changed.to(tokens.values.dtype)
        if self.is_for_all:
            return tokens.with_values(changed)
        is_text = tokens.id("modality") == number_of("text")
        return tokens.with_values(torch.where(is_text[:, :, None], tokens.values, changed))
