"""Masked modelling: choose words and regions to hide, and score how well they are recovered.

What is hidden depends on draws that are a function of the row (`Batch.uniform`). So a row is masked
alike in whatever batch it is, and however much padding it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sensorium.nn.regions import pairwise_iou
from sensorium.types import Draw, Loss

SpanPolicy = Literal["anchor", "single", "token"]


@dataclass(frozen=True)
class MaskedWords:
    """Words of which some are hidden.

    Attributes:
        ids: what the system reads.
        where: what it must predict; the ids that were there are the targets.
    """

    ids: Int[Tensor, "batch words"]
    where: Bool[Tensor, "batch words"]


@dataclass(frozen=True)
class MaskedRegions:
    """Which regions are hidden.

    Attributes:
        where: what the system must predict.
        zeroed: whose features become zeros.
    """

    where: Bool[Tensor, "batch regions"]
    zeroed: Bool[Tensor, "batch regions"]


def choose_spans(
    maskable: Bool[Tensor, "batch words"], draw: Draw, policy: SpanPolicy, rate: float
) -> Bool[Tensor, "batch words"]:
    """Which words to hide.

    Args:
        maskable: real words; neither padding nor special tokens.
        draw: the random numbers of the rows.
        policy: `anchor`: each word is an anchor with probability `rate`, and it is hidden together
            with none to two of the words that follow, each number being equally likely (InterBERT's
            paper). `single`: one span, its start uniform in 0..n and its length in 1..n where n is
            the number of words, cut at the end (InterBERT's release). `token`: each word by itself
            with probability `rate` (BERT).
        rate: see there; not used by `single`.
    """
    length = maskable.shape[1]
    if policy == "single":
        rank = maskable.long().cumsum(1) - 1
        num_words = maskable.sum(1, keepdim=True)
        numbers = draw("span", 2)
        start = below(numbers[:, :1], num_words + 1)
        end = start + 1 + below(numbers[:, 1:], num_words)
        return maskable & (rank >= start) & (rank < end)
    anchor = maskable & (draw("anchor", length) < rate)
    if policy == "token":
        return anchor
    following = below(draw("following", length), 3)
    where = anchor
    for distance in range(1, min(3, length)):
        reached = anchor & (following >= distance)
        where = where | F.pad(reached[:, :-distance], (distance, 0))
    return where & maskable


def mask_words(
    ids: Int[Tensor, "batch words"],
    maskable: Bool[Tensor, "batch words"],
    draw: Draw,
    *,
    mask_id: int,
    vocabulary: Int[Tensor, "kinds"],
    policy: SpanPolicy = "anchor",
    rate: float = 0.1,
) -> MaskedWords:
    """Hide words: of those chosen, 80 % become the mask token, 10 % a random word, 10 % stay.

    Args:
        ids: the words.
        maskable: those that may be chosen.
        draw: the random numbers of the rows.
        mask_id: the mask token.
        vocabulary: the ids that a random word is drawn from.
        policy: how they are chosen, and `rate`: see `choose_spans`.
    """
    where = choose_spans(maskable, draw, policy, rate)
    kind = draw("kind", ids.shape[1])
    random = vocabulary[below(draw("random word", ids.shape[1]), len(vocabulary))]
    hidden = torch.where(kind < 0.8, mask_id, torch.where(kind < 0.9, random, ids))
    return MaskedWords(torch.where(where, hidden, ids), where)


def mask_region_groups(
    boxes: Float[Tensor, "batch regions 4"],
    real: Bool[Tensor, "batch regions"],
    draw: Draw,
    *,
    rate: float = 0.1,
    threshold: float = 0.4,
) -> MaskedRegions:
    """Hide whole groups of overlapping regions, which would show each other's content (InterBERT).

    Each region is an anchor with probability `rate`. It is hidden together with all whose
    intersection over union with it is at least `threshold`.
    """
    anchor = real & (draw("region anchor", boxes.shape[1]) < rate)
    overlaps = pairwise_iou(boxes, boxes) >= threshold
    where = (anchor | (overlaps & anchor[:, :, None]).any(1)) & real
    return MaskedRegions(where, where)


def mask_single_regions(
    real: Bool[Tensor, "batch regions"], draw: Draw, *, rate: float = 0.15
) -> MaskedRegions:
    """Hide regions one by one: of those chosen, 90 % become zeros and 10 % stay (ViLBERT)."""
    where = real & (draw("region anchor", real.shape[1]) < rate)
    return MaskedRegions(where, where & (draw("region kind", real.shape[1]) < 0.9))


def masked_word_loss(
    logits: Float[Tensor, "masked kinds"], targets: Int[Tensor, "masked"], weight: float = 1.0
) -> Loss:
    """Cross-entropy, averaged over the hidden words of the batch."""
    return Loss.mean(F.cross_entropy(logits, targets, reduction="none"), weight)


def masked_class_loss(
    logits: Float[Tensor, "masked classes"],
    targets: Float[Tensor, "masked classes"],
    weight: float = 1.0,
) -> Loss:
    """Divergence KL(target || prediction), summed over classes, averaged over hidden regions.

    Args:
        logits: of the hidden regions.
        targets: distributions over classes.
        weight: of the loss.
    """
    prediction = F.log_softmax(logits, dim=-1)
    divergence = F.kl_div(prediction, targets, reduction="none").sum(-1)
    return Loss.mean(divergence, weight)


def masked_feature_loss(
    predicted: Float[Tensor, "masked width"],
    features: Float[Tensor, "masked width"],
    weight: float = 1.0,
) -> Loss:
    """Squared error against the features that were hidden, averaged over hidden regions.

    No gradient reaches the features. Each is standardised and the error averaged over its width,
    since features that are trained along have no scale of their own (with the features of a fixed
    detector, InterBERT's release sums the plain squared error).
    """
    targets = F.layer_norm(features.detach(), features.shape[-1:])
    return Loss.mean((predicted - targets).square().mean(-1), weight)


def smoothed(
    classes: Int[Tensor, "*shape"], num_classes: int, smoothing: float = 0.1
) -> Float[Tensor, "*shape {num_classes}"]:
    """Distributions that give a class `1 - smoothing`, and the rest to all classes alike."""
    return F.one_hot(classes, num_classes) * (1 - smoothing) + smoothing / num_classes


def below(numbers: Float[Tensor, "*shape"], limit: int | Int[Tensor, "*#shape"]) -> Tensor:
    """Uniform integers in 0..limit-1 from uniform numbers in [0, 1); 0 where the limit is 0."""
    # The product can round up to the limit.
    top = torch.as_tensor(limit, device=numbers.device)
    return torch.minimum((numbers * limit).long(), top - 1).clamp(min=0)
