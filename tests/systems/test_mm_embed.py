"""MM-Embed, and the score fusion that it is compared with: what an instruction does, and what is mined."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from sensorium.data import open_data, read_batches
from sensorium.data.partners import of_partner, with_partners
from sensorium.modalities.text import Tokenizer
from sensorium.nn.latent_attention import LatentAttention
from sensorium.systems.baselines.assistant import AssistantConfig
from sensorium.systems.registry import get_system
from sensorium.training.optimizer import select_trained
from sensorium.training.run import train
from sensorium.types import Entries, Schema, UserError

WHERE = "playground:universal?train=64&validation=8&test=16&pictures=20&size=32"
SMALL = {"width": 32, "depth": 2, "heads": 2, "key_heads": 1, "image_size": 32, "latent_heads": 2}
SMALL |= {"encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "num_latents": 4}
OF_TOWERS = {"width": 32, "depth": 1, "text_depth": 1, "heads": 2, "image_size": 32}


def build(name="mm-embed", where=WHERE, **settings):
    data = open_data(where).fit()
    tokenizer = Tokenizer.train(data.texts(400), 500)
    torch.manual_seed(0)
    kind = get_system(name)
    small = SMALL if name == "mm-embed" else OF_TOWERS
    system = kind(kind.Config().override({**small, **settings}), data.schema, tokenizer).eval()
    (batch,) = read_batches(data, data.rows("train")[:16], system.views(), batch_size=16)
    return system, batch, data


def with_words(system, batch, name, text):
    """The batch with the same words in all rows of a field."""
    ids, mask = system.tokenizer.encode([text] * batch.size, 64)
    every = torch.arange(batch.size)
    return batch.with_fields(**{name: Entries(ids, every, torch.zeros_like(every), mask)})


@torch.no_grad()
@pytest.mark.parametrize("name", ["mm-embed", "score-fusion"])
def test_an_instruction_changes_the_query_and_no_candidate(name):
    system, batch, _ = build(name)
    one, other = (
        with_words(system, batch, "instruction", text) for text in ("find a picture", "a text")
    )
    difference = system.embed_side(one, "query") - system.embed_side(other, "query")
    assert (difference.norm(dim=1) > 1e-3).all()
    for changed in (one, other, batch.without("instruction")):
        assert torch.equal(system.embed_side(changed, "target"), system.embed_side(batch, "target"))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["latent", "mean"])
def test_an_instruction_is_attended_to_but_no_part_of_the_mean(pooling, monkeypatch):
    """With layers that pass everything on, nothing of it is left; rows' instructions differ in length."""
    system, batch, _ = build(pooling=pooling)
    other = with_words(system, batch, "instruction", "something else altogether")
    assert batch["instruction"].mask.sum(1).unique().numel() > 1
    attended = system.embed_side(batch, "query") - system.embed_side(other, "query")
    assert (attended.norm(dim=1) > 1e-3).all()
    monkeypatch.setattr(system.reader.language, "forward", lambda tokens, rule: tokens)
    torch.testing.assert_close(system.embed_side(batch, "query"), system.embed_side(other, "query"))
    other = with_words(system, batch, "query_text", "something else altogether")
    assert not torch.allclose(
        system.embed_side(batch, "query"), system.embed_side(other, "query"), atol=1e-3
    )


@torch.no_grad()
def test_all_tokens_of_a_side_see_each_other():
    system, batch, _ = build()
    tokens = system.tokens(batch, "query")
    seen = {}
    keep = system.reader.language.forward

    def look(tokens, rule):
        seen["states"] = keep(tokens, rule).values
        return tokens.with_values(seen["states"])

    system.reader.language.forward = look
    system.encode(batch, "query")
    before = seen["states"]
    last = [int(row.nonzero()[-1]) for row in tokens.mask]
    ids = torch.arange(batch.size)
    keep_embed = system.tokens

    def changed(batch, side):
        found = keep_embed(batch, side)
        values = found.values.clone()
        values[ids, last] += 1.0
        return found.with_values(values)

    system.tokens = changed
    system.encode(batch, "query")
    first = tokens.mask.int().argmax(1)
    difference = (seen["states"] - before)[ids, first]
    assert (difference.norm(dim=1) > 1e-4).all(), "the first token does not see the last one"


@torch.no_grad()
def test_absent_parts_leave_no_trace():
    """Positions are those of what is there, and a row gives the same beside rows that have more."""
    system, batch, _ = build()
    texts = batch.present("query_text") & ~batch.present("query_image")
    rows = texts.nonzero().squeeze(1)
    alone = system.embed_side(batch.take(rows).without("query_image"), "query")
    torch.testing.assert_close(system.embed_side(batch, "query")[rows], alone)
    tokens = system.tokens(batch, "query")
    for row in range(batch.size):
        position = tokens.id("position")[row][tokens.mask[row]]
        assert torch.equal(position, torch.arange(len(position)))


@torch.no_grad()
def test_a_field_alone_is_its_side_alone():
    system, batch, _ = build()
    for name in ("query_image", "target_text"):
        alone = system.embed_side(batch.only(name), name.partition("_")[0])
        torch.testing.assert_close(system.embed(batch, name), alone, equal_nan=True)
    with pytest.raises(UserError, match="does not embed 'image'"):
        system.embed(batch, "image")


def test_tokens_are_the_queries_of_latent_attention():
    """Before the mean each stands for itself; the latents decide what it becomes."""
    torch.manual_seed(0)
    latent = LatentAttention(16, 5, 2)
    tokens = torch.randn(1, 6, 16)
    counts = torch.zeros(1, 6, dtype=torch.bool)
    counts[0, 2] = True
    one = latent(tokens, counts)
    others = tokens + torch.randn(1, 6, 16) * ~counts[..., None]
    torch.testing.assert_close(latent(others, counts), one)
    whole = latent(tokens, torch.ones_like(counts))
    each = [latent(tokens[:, i : i + 1], torch.ones(1, 1, dtype=torch.bool)) for i in range(6)]
    torch.testing.assert_close(whole, torch.stack(each).mean(0))
    latent.latents.data.mul_(-1)
    assert not torch.allclose(latent(tokens, counts), one)
    assert torch.equal(latent(tokens, counts & False), torch.zeros(1, 16))


def test_score_fusion_is_a_sum_of_what_is_there():
    system, batch, _ = build("score-fusion")
    with torch.no_grad():
        both = batch.present("target_image") & batch.present("target_text")
        parts = [system.embed(batch, name) for name in ("target_image", "target_text")]
        found = system.embed_side(batch, "target")
        expected = F.normalize(parts[0] + parts[1], dim=1)
        torch.testing.assert_close(found[both], expected[both])
        alone = batch.present("target_image") & ~batch.present("target_text")
        torch.testing.assert_close(found[alone], parts[0][alone])
        ids, mask = system.said(batch, "query")
    texts = [system.tokenizer.decode(row[real]) for row, real in zip(ids, mask, strict=True)]
    asked = [system.tokenizer.decode(row) for row in batch["instruction"].values]
    assert all(text.startswith(said) for text, said in zip(texts, asked, strict=True))
    said = dict(zip(batch["query_text"].row.tolist(), batch["query_text"].values, strict=True))
    assert all(
        text == asked[row] + (system.tokenizer.decode(said[row]) if row in said else "")
        for row, text in enumerate(texts)
    )


@torch.no_grad()
def test_hard_negatives_are_candidates_of_all_queries_in_the_stages_that_have_them():
    system, _, data = build()
    partner = np.full(len(data), -1)
    rows = data.rows("train")[:8]
    partner[rows[:4]] = data.rows("train")[[16, 24, 33, 40]]
    both = with_partners(data, partner, system.partnered)
    (batch,) = read_batches(both, rows, both.viewed(system.views()), batch_size=8)
    query, target = (system.embed_side(batch, side) for side in ("query", "target"))
    others = data.rows("train")[[16, 24, 33, 40]]
    (mined,) = read_batches(data, others, system.views(), batch_size=4)
    negative = system.embed_side(mined, "target")
    logits = query @ torch.cat([target, negative]).T / 0.05
    equal = system.target_ids(batch)[:, None] == torch.cat(
        [system.target_ids(batch), system.target_ids(mined)]
    )
    own = torch.eye(8, 12, dtype=torch.bool)
    logits = logits.masked_fill(equal & ~own, -torch.inf)
    expected = F.cross_entropy(logits, torch.arange(8), reduction="none")
    system.stage = "hard"
    torch.testing.assert_close(system.losses(batch)["contrast"].per_item, expected)
    system.stage = "random"
    few = F.cross_entropy(logits[:, :8], torch.arange(8), reduction="none")
    torch.testing.assert_close(system.losses(batch)["contrast"].per_item, few)


@torch.no_grad()
def test_rows_of_text_count_more_in_the_last_stage():
    system, batch, _ = build(text_weight=3.0)
    system.stage = "text"
    kinds = [key for key in range(16) if key % 8 == 1]  # text->text
    weight = system.weight(batch)
    assert weight[kinds].tolist() == [3.0, 3.0]
    assert weight.sum() == 14 + 2 * 3.0
    loss = system.losses(batch)["contrast"]
    assert loss.count == weight.sum()
    system.stage = "random"
    each = system.losses(batch)["contrast"].per_item
    torch.testing.assert_close(loss.per_item, each * weight)


@torch.no_grad()
def test_what_is_mined_are_targets_that_the_first_model_ranks_too_high():
    """Of a model whose vectors are known: the target of the row after it in the other modality."""
    system, _, data = build(mined_top=64, mined_skip=0, wrong_share=1.0)
    partner = system.mine(data, seed=0, cache=None)
    assert len(partner) == len(data)
    assert (partner[data.rows("test")] == -1).all() and (partner[data.rows("train")] >= 0).any()
    rows = data.rows("train")
    (batch,) = read_batches(data, rows, system.views(), batch_size=64)
    query, target = (system.embed_side(batch, side) for side in ("query", "target"))
    looks, scores = system.looks(batch, "target"), query @ target.T
    for row, other in zip(rows, partner[rows], strict=True):
        wrong = (looks != looks[row]) & (scores[row] > scores[row, row])
        assert wrong[other] if other >= 0 else not wrong.any()
    again = system.mine(data, seed=0, cache=None)
    assert np.array_equal(partner, again)
    assert not np.array_equal(partner, system.mine(data, seed=1, cache=None))
    aware = build(mined_top=64, mined_skip=0, wrong_share=0.0)[0].mine(data, 0, None)
    assert all(looks[other] == looks[row] for row, other in zip(rows, aware[rows], strict=True))
    ids = system.target_ids(batch)
    assert all(ids[other] != ids[row] for row, other in zip(rows, aware[rows], strict=True))


def test_it_begins_as_an_assistant(tmp_path):
    shape = {name: SMALL[name] for name in SMALL if name in AssistantConfig.model_fields}
    common = {"budget": "1steps", "device": "cpu", "options": {"batch_size": 8, "workers": 0}}
    where = WHERE.replace("universal", "scenes")
    first = train(
        "llava", where, out=tmp_path / "first", task="captioning", settings=shape, **common
    ).system
    common["options"] = {**common["options"], "learning_rate": 1e-9}
    run = train(
        "mm-embed", WHERE, out=tmp_path / "run", settings=SMALL, init=tmp_path / "first", **common
    )
    assert run.system.tokenizer == first.tokenizer
    pairs = [
        (run.system.reader.language, first.model.language),
        (run.system.reader.connector, first.model.connectors[0]),
        (run.system.reader.media, first.media),
    ]
    for own, theirs in pairs:
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], value, atol=1e-6, rtol=0)
    assert run.evaluate(samples=False).main_metric == "R@5"


def test_a_published_language_model_reads_the_template_and_is_changed_at_low_rank(tmp_path):
    config = GPT2Config(vocab_size=600, n_embd=32, n_layer=2, n_head=2, n_positions=512)
    torch.manual_seed(1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    system, batch, _ = build(language=f"hf:{tmp_path}", lora=4)
    text = batch.present("query_text") & batch.present("query_image")
    row = int(text.nonzero()[0])
    tokens = system.tokens(batch, "query")
    table = system.reader.language.embed(torch.arange(600))
    near = torch.cdist(tokens.values[row][tokens.mask[row]], table).detach()
    ids = [int(d.argmin()) if float(d.min()) < 1e-4 else None for d in near]
    read = "".join("<image>" if i is None else system.tokenizer.decode([i]) for i in ids).replace(
        "<image>" * 5, "<image>"
    )  # four patches and what ends them
    asked, said = (
        system.tokenizer.decode(batch[name].values[int((batch[name].row == row).nonzero())])
        for name in ("instruction", "query_text")
    )
    assert read == f"Instruct: {asked}\nQuery: <image>\n{said}"
    for stage in system.stages():
        trained = select_trained(system, stage)
        own = [name for name in trained if name.startswith("reader.language.")]
        assert own and all(".lora_" in name for name in own)
        assert any(name.startswith("latent.") for name in trained)
    system.reader.language.max_tokens = 20
    with pytest.raises(UserError, match="the language model reads 20 at most"):
        system.tokens(batch, "query")
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="ids and the language model reads 40"):
        build(language=f"hf:{tmp_path}")


def test_what_does_not_fit_is_said():
    kind = get_system("mm-embed")
    schema = Schema(fields=({"name": "a", "modality": "text", "role": "query"},))
    with pytest.raises(UserError, match="needs a text or a picture with the role 'target'"):
        kind.check(schema)
    assert of_partner("target_text") not in build()[0].views()
