"""Attention edges that are cut in some layers: who of one group no longer reads another.

    edges = between(groups["image"], groups["question"])      # the question does not read the picture
    rule  = cut(causal, edges, window(4, 3, num_layers))
    language(numbered(tokens), rule)

A cut is a part of the attention rule, so that it acts on the logits before the softmax: what remains has
weights that sum to 1. (Geva et al., 2023, arXiv 2304.14767; for pictures, arXiv 2411.18620.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sensorium.nn.language.base import LayerRule
from sensorium.nn.masks import Ids, Rule
from sensorium.types import Tokens, draws

Edges = Bool[Tensor, "batch queries keys"]

_MOST = 9  # layers, of the published models of 32 and 40


def window_size(num_layers: int) -> int:
    """How many layers a window has: an odd number near a quarter of them, 9 at most."""
    return min(_MOST, round(num_layers / 4) | 1)


def window(centre: int, size: int, num_layers: int) -> range:
    """The layers around one, fewer at the ends: what is cut there is not to be compared with the middle."""
    return range(max(0, centre - size // 2), min(num_layers, centre + (size + 1) // 2))


def numbered(tokens: Tokens) -> Tokens:
    """The tokens with the ids `row` and `place`, by which `cut` finds its edges."""
    size, length = tokens.mask.shape
    device = tokens.mask.device
    row = torch.arange(size, device=device)[:, None].expand(size, length)
    place = torch.arange(length, device=device).expand(size, length)
    return tokens.replace(ids={**tokens.ids, "row": row, "place": place})


def between(source: Bool[Tensor, "batch tokens"], target: Bool[Tensor, "batch tokens"]) -> Edges:
    """All edges by which the tokens of `target` read those of `source`."""
    return target[:, :, None] & source[:, None, :]


def rule_at(rule: LayerRule, layer: int) -> Rule:
    """Who sees whom in a layer."""
    return rule if isinstance(rule, Rule) else rule(layer)


def cut(rule: LayerRule, edges: Edges, layers: range) -> Callable[[int], Rule]:
    """The rule of each layer: without the edges in some of them, as it was in the others.

    Args:
        rule: of the model.
        edges: that are cut; those that the rule does not have do no harm.
        layers: in which they are.
    """

    def is_kept(query: Ids, key: Ids) -> Tensor:
        return ~edges[query["row"], query["place"], key["place"]]

    kept = Rule(is_kept, frozenset({"row", "place"}))
    # a model makes the mask of a rule once, if layers are given the same rule
    made: dict[int, tuple[Rule, Rule]] = {}

    def of_layer(layer: int) -> Rule:
        whole = rule_at(rule, layer)
        if layer not in layers:
            return whole
        return made.setdefault(id(whole), (whole, whole & kept))[1]

    return of_layer


def existing(rule: LayerRule, tokens: Tokens, edges: Edges, num_layers: int) -> Edges:
    """Those of the edges that the rule has in any layer, from real tokens to real tokens.

    Raises:
        ValueError: without them a token reads nothing at all.
    """
    found = torch.zeros_like(edges)
    for whole in _masks(rule, tokens, num_layers):
        found |= edges & whole
        blind = (edges & whole).any(2) & ~(whole & ~edges).any(2)
        if blind.any():
            row, place = blind.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}: token {place} would read nothing, not even itself; leave it one key at "
                "least"
            )
    return found


def random_edges(
    rule: LayerRule, tokens: Tokens, edges: Edges, row: Int[Tensor, "batch"], num_layers: int
) -> Edges:
    """As many edges of each row, drawn from all that the rule has, but for those of a token to itself.

    Args:
        rule: of the model.
        tokens: of the rows.
        edges: whose number is kept.
        row: the numbers of the rows in the data, which decide what is drawn.
        num_layers: of the model.
    """
    whole = torch.stack(_masks(rule, tokens, num_layers)).any(0)
    pool = whole & ~torch.eye(whole.shape[1], dtype=torch.bool, device=whole.device)
    place = (tokens.mask.long().cumsum(1) - 1).cpu().numpy()  # whatever padding stands before it
    keys = row.cpu().numpy()[:, None, None], place[:, :, None], place[:, None, :]
    order = torch.from_numpy(draws.uniform("random edges", *keys)).to(whole.device)
    order = order.masked_fill(~pool, 2.0).flatten(1)
    rank = order.argsort(1).argsort(1)
    wanted = edges.flatten(1).sum(1, keepdim=True)
    return (rank < wanted).view_as(pool) & pool


def _masks(rule: LayerRule, tokens: Tokens, num_layers: int) -> list[Edges]:
    """All edges between real tokens, of each rule that is that of a layer."""
    size, length = tokens.mask.shape
    rules = [rule_at(rule, layer) for layer in range(num_layers)]
    distinct = list({id(each): each for each in rules}.values())
    masks = [each.dense(tokens).expand(size, 1, length, length)[:, 0] for each in distinct]
    return [mask & tokens.mask[:, :, None] for mask in masks]
