"""Groups of a prompt's tokens, between which information flows.

    image       all of its pictures' tokens
    question    the text of the last question
    last        the last token, from which the answer's first one comes
    other       text that is neither: template, instructions, earlier turns
    object      of the first picture: patches that a box touches, be it with one pixel
    background  of the first picture: the other patches

The first four are a partition, so that all ways into `last` can be cut one at a time. They are known from
the ids of the joined sequence, so that no text has to be searched for and no place to be shifted by the
length of a picture. Whoever wants others, such as the options of a question, adds masks of her own.
"""

from __future__ import annotations

from math import isqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sensorium.nn.pooling import end_place
from sensorium.types import Entries, Tokens
from sensorium.types.names import number_of

Group = Bool[Tensor, "batch tokens"]

_MOST_IN_FRONT = 5  # tokens: that of a class and four registers
_SLACK = 1e-5  # of the square's side: a box that ends at the edge of a patch does, but for rounding


def groups_of(tokens: Tokens, modality: str = "image") -> dict[str, Group]:
    """The groups that the ids of a prompt tell: `image` (named by its modality), `question`, `last`, `other`.

    Args:
        tokens: of prompts that end where the answer begins, padded on either side.
        modality: of the stream that is not text.
    """
    real = tokens.mask
    place = torch.arange(real.shape[1], device=real.device)
    last = real & (place == end_place(tokens.values, real, "last")[:, None])
    seen = real & (tokens.id("modality") == number_of(modality))
    asked = real & ~seen & (tokens.id("part") == number_of("question"))
    turn = tokens.id("turn").masked_fill(~asked, -1)
    question = asked & (turn == turn.amax(1, keepdim=True)) & ~last
    return {
        modality: seen,
        "question": question,
        "last": last,
        "other": real & ~(seen | question | last),
    }


def object_groups(tokens: Tokens, boxes: Entries, modality: str = "image") -> dict[str, Group]:
    """`object` and `background`, for rows whose first picture has one token for each of its patches.

    Tokens in front of those of the patches (of a class, of registers) are in neither. No encoder here
    adds bars to a picture, so that there are no patches of padding to be left out.

    Args:
        tokens: of the prompts.
        boxes: of what the question is about, x1, y1, x2, y2 as shares of the square that is encoded;
            rows without any have neither group.
        modality: of the pictures.

    Raises:
        ValueError: the tokens of a picture are not those of a square grid.
    """
    size = len(tokens.mask)
    first = tokens.mask & (tokens.id("modality") == number_of(modality)) & (tokens.id("item") == 0)
    counts = first.sum(1)
    num_tokens = int(counts.max())
    grid = isqrt(num_tokens)
    in_front = num_tokens - grid * grid
    if in_front > _MOST_IN_FRONT or bool(((counts > 0) & (counts != num_tokens)).any()):
        raise ValueError(
            f"{num_tokens} tokens of a picture are not one for each patch of a square grid, so that "
            "boxes have no tokens"
        )
    touched = torch.zeros(size, grid * grid, dtype=torch.long, device=first.device)
    touched.index_add_(0, boxes.row, patches_of(boxes.values, grid).long())
    patch = first.long().cumsum(1) - 1 - in_front
    is_patch = first & (patch >= 0) & boxes.present(size)[:, None]
    is_object = (touched > 0).gather(1, patch.clamp(min=0)) & is_patch
    return {"object": is_object, "background": is_patch & ~is_object}


def patches_of(boxes: Float[Tensor, "boxes 4"], grid: int) -> Bool[Tensor, "boxes patches"]:
    """Which patches of a square grid, row by row, a box has any part of.

    Args:
        boxes: x1, y1, x2, y2 as shares of the square's side.
        grid: patches along a side.
    """
    starts = torch.arange(grid, device=boxes.device) / grid
    ends = starts + 1 / grid
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    across = (x1 < ends - _SLACK) & (x2 > starts + _SLACK)
    down = (y1 < ends - _SLACK) & (y2 > starts + _SLACK)
    return (down[:, :, None] & across[:, None, :]).flatten(1)
