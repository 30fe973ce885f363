"""Information flow: planted ways are found, forbidden ones change nothing, numbers by hand."""

import numpy as np
import planted
import pytest
import torch

from sensorium.diagnostics.streams.curves import describe_changes, describe_layers
from sensorium.diagnostics.streams.flow import Flow, FlowProbe, published_flows
from sensorium.diagnostics.streams.groups import groups_of
from sensorium.diagnostics.streams.knockout import between, cut, numbered
from sensorium.diagnostics.streams.lens import answers_by_depth
from sensorium.nn.language.base import Hooks
from sensorium.nn.language.decoder import Decoder, DecoderConfig
from sensorium.nn.masks import causal
from sensorium.types import Tokens
from sensorium.types.names import number_of

ROWS = 128
TO_LAST = Flow("image", "last")
TO_QUESTION = Flow("image", "question")
ASKED = Flow("question", "last")


@pytest.fixture(scope="module")
def through_question():
    return planted.trained(planted.ONLY_QUESTION_READS)


@pytest.fixture(scope="module")
def straight():
    return planted.trained(planted.ONLY_ANSWER_READS)


def probe_of(scenes, rule):
    tokens, answer = scenes.prompts(ROWS, torch.Generator().manual_seed(99))
    probe = FlowProbe(scenes.language, tokens, groups_of(tokens), rule)
    assert (probe.answer == answer).float().mean() > 0.97
    assert probe.probability.mean() > 0.9
    return probe


def test_a_planted_way_through_the_question_is_found(through_question):
    probe = probe_of(through_question, planted.ONLY_QUESTION_READS)
    assert (probe.changes(TO_LAST, 1) == 0).all()  # forbidden, to the last bit
    question = probe.changes(TO_QUESTION, 1).mean(0)
    last = probe.changes(ASKED, 1).mean(0)
    # the picture is read in the lower layer, and what was read goes on in the upper one
    assert question[0] < -50 and question[1] == 0 and question[2] < -50
    assert last[1] < -50 and abs(last[0]) < 10


def test_a_planted_way_straight_to_the_answer_is_found(straight):
    probe = probe_of(straight, planted.ONLY_ANSWER_READS)
    assert (probe.changes(TO_QUESTION, 1) == 0).all()
    everywhere = probe.changes(TO_LAST, 1).mean(0)[-1]
    assert everywhere < -50
    other = probe.changes(Flow("other", "last"), 1).mean(0)
    assert abs(other).max() < 25  # the detour over the template is no way of this model


def test_forbidden_edges_that_are_cut_leave_every_state_as_it_was(straight):
    """Not only because the probe counts them as absent: the states are the same to the last bit."""
    tokens = numbered(straight.prompts(8, torch.Generator().manual_seed(1))[0])
    groups, rule = groups_of(tokens), planted.ONLY_ANSWER_READS
    edges = between(groups["image"], groups["question"])
    assert edges.any()
    with torch.inference_mode():
        before = straight.language(tokens, lambda _: rule).values
        after = straight.language(tokens, cut(rule, edges, range(2))).values
    assert torch.equal(before, after)


def test_random_edges_do_less_than_the_way_itself(through_question):
    probe = probe_of(through_question, planted.ONLY_QUESTION_READS)
    random = probe.changes_of_random(ASKED, 1, torch.arange(ROWS)).mean(0)
    assert probe.changes(ASKED, 1).mean(0)[-1] < random[-1] - 30


def test_padding_and_neighbours_change_nothing(through_question):
    tokens, _ = through_question.prompts(4, torch.Generator().manual_seed(5))
    rule, row = planted.ONLY_QUESTION_READS, torch.arange(4)
    whole = FlowProbe(through_question.language, tokens, groups_of(tokens), rule)
    for before, after in ((3, 0), (0, 2)):
        pad = torch.nn.functional.pad
        padded = Tokens(
            pad(tokens.values, (0, 0, before, after), value=7.0),
            pad(tokens.mask, (before, after), value=False),
            {name: pad(ids, (before, after)) for name, ids in tokens.ids.items()},
        )
        found = FlowProbe(through_question.language, padded, groups_of(padded), rule)
        assert torch.equal(found.answer, whole.answer)
        for flow in (TO_QUESTION, ASKED):
            expected = whole.changes(flow, 1)
            assert found.changes(flow, 1) == pytest.approx(expected, abs=1e-2)
            expected = whole.changes_of_random(flow, 1, row)
            assert found.changes_of_random(flow, 1, row) == pytest.approx(expected, abs=1e-2)


def test_rows_without_a_group_have_no_change(through_question):
    tokens, _ = through_question.prompts(3, torch.Generator().manual_seed(5))
    groups = groups_of(tokens)
    groups["image"] = groups["image"] & torch.tensor([[True], [False], [True]])
    rule = planted.ONLY_QUESTION_READS
    probe = FlowProbe(through_question.language, tokens, groups, rule)
    changes = probe.changes(TO_QUESTION, 1)
    assert np.isnan(changes[1]).all() and not np.isnan(changes[[0, 2]]).any()
    share = probe.attention([TO_QUESTION])[TO_QUESTION]
    assert np.isnan(share[1]).all() and not np.isnan(share[[0, 2]]).any()


def test_change_is_that_of_probabilities_in_percent(through_question):
    """Against the definition: two probabilities of the intact model's first token."""
    tokens, _ = through_question.prompts(6, torch.Generator().manual_seed(8))
    groups, rule = groups_of(tokens), causal
    language = through_question.language
    probe = FlowProbe(language, tokens, groups, rule)
    edges = between(groups["image"], groups["question"])

    def probabilities(layers):
        with torch.inference_mode():
            states = language(numbered(tokens), cut(rule, edges, layers)).values[:, -1]
            return language.logits(states).softmax(1)

    whole = probabilities(range(0))
    answer = whole.argmax(1)
    before = whole.gather(1, answer[:, None])[:, 0]
    windows = [range(1), range(1, 2), range(2)]
    expected = [probabilities(each).gather(1, answer[:, None])[:, 0] for each in windows]
    expected = torch.stack([100 * (after - before) / before for after in expected], 1)
    assert probe.changes(TO_QUESTION, 1) == pytest.approx(expected.numpy(), abs=1e-2)
    assert torch.equal(probe.answer, answer)


def test_attention_is_the_share_that_a_target_gives_a_source():
    """Hand-built: queries of zero, so that every token attends equally to all that it sees."""
    language = Decoder(DecoderConfig(10, width=8, depth=2, heads=4, key_heads=2)).eval()
    for layer in language.layers:
        torch.nn.init.zeros_(layer.query_key_value.weight[:8])
    kinds = ["text", "image", "image", "text", "text"]
    parts = ["prompt", "prompt", "prompt", "question", "prompt"]
    ids = {
        "modality": torch.tensor([[number_of(kind) for kind in kinds]]),
        "part": torch.tensor([[number_of(part) for part in parts]]),
        "position": torch.arange(5)[None],
    }
    tokens = Tokens(torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool), ids)
    probe = FlowProbe(language, tokens, groups_of(tokens))
    flows = (TO_QUESTION, TO_LAST, ASKED, Flow("last", "last"), Flow("other", "last"))
    found = {str(flow): share.tolist()[0] for flow, share in probe.attention(flows).items()}
    assert found["image → question"] == pytest.approx([2 / 4] * 2)
    into_last = [found[f"{source} → last"][0] for source in ("image", "question", "last", "other")]
    assert into_last == pytest.approx([2 / 5, 1 / 5, 1 / 5, 1 / 5])


def test_a_model_that_ignores_its_rule_is_refused(straight):
    class Deaf(Decoder):
        def forward(self, tokens, rule=causal, cache=None, hooks=None):
            return super().forward(tokens, causal, cache, hooks)

    language = Deaf(straight.language.config)
    tokens, _ = straight.prompts(4, torch.Generator().manual_seed(0))
    probe = FlowProbe(language, tokens, groups_of(tokens))
    with pytest.raises(
        RuntimeError, match="cutting image → last in all layers of Deaf moves nothing"
    ):
        probe.changes(TO_LAST, 1)


def test_hooks_of_the_model_are_called_in_every_pass(straight):
    class Louder(Hooks):
        def enter(self, layer, tokens):
            return tokens.with_values(3 * tokens.values) if layer == 1 else tokens

    tokens, _ = straight.prompts(4, torch.Generator().manual_seed(0))
    groups = groups_of(tokens)
    plain = FlowProbe(straight.language, tokens, groups)
    louder = FlowProbe(straight.language, tokens, groups, hooks=Louder())
    assert not torch.equal(plain.probability, louder.probability)
    none = Flow("nobody", "last")
    louder.groups = {**groups, "nobody": torch.zeros_like(groups["last"])}
    assert (louder._changes(louder.edges(none), 1, "nothing") == 0).all()


def test_published_ways_into_the_last_token_are_all_there_are():
    flows = published_flows("audio")
    into_last = [flow.source for flow in flows if flow.target == "last"]
    assert sorted(into_last) == ["audio", "last", "other", "question"]
    assert [str(flow) for flow in flows if flow.target == "question"] == [
        "audio → question",
        "object → question",
        "background → question",
    ]
    assert str(flows[-1]) == "audio → other"


# ---------------------------------------------------------------------- lens


def test_lens_reads_embeddings_first_and_the_models_own_answer_last(straight):
    tokens, answer = straight.prompts(16, torch.Generator().manual_seed(3))
    rule = planted.ONLY_ANSWER_READS
    candidates = torch.stack([answer, torch.zeros_like(answer)], 1)
    plain = answers_by_depth(straight.language, tokens, candidates, rule=rule)
    normed = answers_by_depth(straight.language, tokens, candidates, rule=rule, normed=True)
    assert plain.shape == normed.shape == (16, 3, 2)
    with torch.no_grad():
        language = straight.language
        own = language.logits(language(tokens, rule).values[:, -1]).softmax(1)
        first = language.logits(tokens.values[:, -1]).softmax(1)
        first_normed = language.logits(language.norm(tokens.values[:, -1])).softmax(1)
    assert torch.allclose(plain[:, -1], own.gather(1, candidates), atol=1e-5)
    assert torch.allclose(normed[:, -1], plain[:, -1], atol=1e-5)
    assert torch.allclose(plain[:, 0], first.gather(1, candidates), atol=1e-5)
    assert torch.allclose(normed[:, 0], first_normed.gather(1, candidates), atol=1e-5)
    assert (plain[:, 2, 0] > plain[:, 0, 0]).all()


# ---------------------------------------------------------------------- curves


def test_summaries_of_a_curve_by_hand():
    changes = np.array([[-10.0, -20.0, 10.0, 0.0, -40.0], [10.0, -40.0, 10.0, -20.0, -60.0]])
    found = describe_changes(changes, np.arange(2))
    means = [layer["value"] for layer in found["layers"]]
    assert means == pytest.approx([0, -30, 10, -10])
    assert found["everywhere"]["value"] == pytest.approx(-50)
    assert found["drop"]["value"] == pytest.approx(30)
    assert found["peak"]["value"] == pytest.approx((2 * 30 + 4 * 10) / 40)
    assert found["area"]["value"] == pytest.approx(40 / 4)
    assert found["rows"] == 2
    assert found["layers"][1]["low"] == pytest.approx(-40)


def test_rows_without_a_change_are_left_out_and_a_curve_without_a_drop_has_no_peak():
    changes = np.array([[5.0, 0.0, 5.0], [np.nan] * 3])
    found = describe_changes(changes, np.arange(2))
    assert found["rows"] == 1 and found["peak"]["value"] is None
    assert found["drop"]["value"] == 0
    assert describe_changes(changes[1:], np.arange(1)) == {"rows": 0}


def test_layers_are_averaged_over_the_rows_that_have_them():
    found = describe_layers(np.array([[0.2, 0.4], [np.nan, np.nan], [0.4, 0.8]]), np.arange(3))
    assert [layer["value"] for layer in found] == pytest.approx([0.3, 0.6])
    none = describe_layers(np.full((2, 3), np.nan), np.arange(2))
    assert [layer["value"] for layer in none] == [None] * 3
