"""The relevancy score: what it learns from, and what it reads."""

import pytest
import torch
from torch.nn import functional as F

from sensorium.data import open_data, read_batches
from sensorium.modalities.text import Tokenizer
from sensorium.systems.registry import get_system
from sensorium.types import Schema, UserError

WHERE = "playground:statements?train=32&validation=8&test=8&pictures=12&size=32"
SMALL = {"width": 32, "depth": 2, "heads": 2, "key_heads": 1, "image_size": 32}
SMALL |= {"encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2}


def build(**settings):
    data = open_data(WHERE).fit()
    tokenizer = Tokenizer.train(data.texts(400), 500)
    torch.manual_seed(0)
    kind = get_system("relevancy")
    system = kind(kind.Config().override({**SMALL, **settings}), data.schema, tokenizer).eval()
    (batch,) = read_batches(data, data.rows("train")[:12], system.views(), batch_size=12)
    return system, batch


def renamed(batch, source, name="statement"):
    return batch.with_fields(**{name: batch[source]})


@torch.no_grad()
def test_a_statement_scores_high_and_its_contrary_low_each_by_itself():
    system, batch = build(contrary="contrary")
    true = system.score_pairs(batch)
    false = system.score_pairs(renamed(batch, "contrary"))
    loss = system.losses(batch)["relevancy"]
    torch.testing.assert_close(
        loss.per_item, -torch.log(true.sigmoid()) - torch.log(1 - false.sigmoid())
    )
    assert loss.count == 12
    torch.testing.assert_close(system.relevancy(batch), true.sigmoid())
    pairwise, _ = build(contrary="contrary", loss="pairwise")
    found = pairwise.losses(batch)["relevancy"].per_item
    torch.testing.assert_close(found, -F.logsigmoid(true - false))


@torch.no_grad()
def test_only_the_pointwise_loss_gives_the_score_a_level():
    for loss, has_level in (("pointwise", True), ("pairwise", False)):
        system, batch = build(contrary="contrary", loss=loss)
        before = system.losses(batch)["relevancy"].per_item
        system.head.bias += 3.0
        changed = not torch.allclose(before, system.losses(batch)["relevancy"].per_item, atol=1e-4)
        assert changed == has_level


@torch.no_grad()
def test_without_contraries_the_statement_of_another_row_is_taken_if_it_is_another():
    system, batch = build()
    assert "contrary" not in system.views()
    other = system._contraries(batch)
    order = batch.uniform("contrary", 1).squeeze(1).argsort().tolist()
    partner = dict(zip(order, [order[-1], *order[:-1]], strict=True))
    for row in range(12):
        assert partner[row] != row
        mine = other["statement"].values[other["statement"].row == row]
        assert torch.equal(mine[0], batch["statement"].values[partner[row]])
    same = batch.take(torch.zeros(4, dtype=torch.long))
    assert len(system.losses(same)["relevancy"].per_item) == 0


@torch.no_grad()
def test_the_score_is_read_from_the_last_token_which_sees_both():
    system, batch = build()
    score = system.score_pairs(batch)
    for name in ("image", "statement"):
        exchanged = batch.exchanged(name)
        assert ((system.score_pairs(exchanged) - score).abs() > 1e-5).sum() > 9
    seen = {}
    keep = system.reader.language.forward

    def look(tokens, rule):
        seen["tokens"] = tokens
        read = keep(tokens, rule)
        seen["states"] = read.values
        return read

    system.reader.language.forward = look
    score = system.score_pairs(batch)
    tokens = seen["tokens"]
    last = torch.stack([row.nonzero()[-1, 0] for row in tokens.mask])
    expected = system.head(seen["states"][torch.arange(12), last]).squeeze(1)
    torch.testing.assert_close(score, expected)
    assert tokens.mask.sum(1).unique().numel() > 1


def test_what_does_not_fit_is_said():
    kind = get_system("relevancy")
    text = {"name": "a", "modality": "text", "role": "target"}
    image = {"name": "b", "modality": "image"}
    with pytest.raises(UserError, match="needs a picture"):
        kind.check(Schema(fields=(text,)))
    with pytest.raises(UserError, match="needs one text that is query or target"):
        kind.check(Schema(fields=(image,)))
    kind.check(Schema(fields=(image, text)))
    with pytest.raises(UserError, match="there is no field 'contary'"):
        build(contrary="contary")
