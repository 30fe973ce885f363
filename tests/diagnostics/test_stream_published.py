"""The same measurements on a language model of `transformers` that keeps its own layers."""

from copy import deepcopy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sensorium.diagnostics.streams.flow import Flow, FlowProbe
from sensorium.diagnostics.streams.groups import groups_of
from sensorium.diagnostics.streams.lens import answers_by_depth
from sensorium.diagnostics.streams.states import StreamStates, vision_and_text
from sensorium.nn.language.hub import PublishedModel
from sensorium.nn.masks import causal, sees
from sensorium.types import Tokens
from sensorium.types.names import number_of

KINDS = ["text"] + ["image"] * 4 + ["text"] * 4
PARTS = ["prompt"] + ["media"] * 4 + ["question"] * 2 + ["prompt"] * 2


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=3, n_embd=16, n_head=2, vocab_size=20, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return PublishedModel(model)


@pytest.fixture
def tokens():
    values = torch.randn(6, 9, 16, generator=torch.Generator().manual_seed(1))
    ids = {
        "modality": torch.tensor([number_of(kind) for kind in KINDS]).expand(6, 9),
        "part": torch.tensor([number_of(part) for part in PARTS]).expand(6, 9),
        "position": torch.arange(9).expand(6, 9),
    }
    return Tokens(values, torch.ones(6, 9, dtype=torch.bool), ids)


def test_states_are_those_that_transformers_shows(published, tokens):
    """The first of its hidden states are embeddings, the last is behind the final norm."""
    states = StreamStates(published)
    states.read(tokens)
    twin = GPT2LMHeadModel(deepcopy(published.model.config)).eval()
    twin.load_state_dict(published.model.state_dict())
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        hidden = twin(inputs_embeds=tokens.values, output_hidden_states=True).hidden_states
    vision, text = vision_and_text(tokens)
    assert len(hidden) == 4
    for layer, expected in enumerate(hidden[1:]):
        found = [torch.cat(part) for part in states._layers[layer]]
        assert torch.allclose(found[0], expected[vision], atol=1e-5)
        assert torch.allclose(found[1], expected[text], atol=1e-5)


def test_ways_are_cut_in_its_layers_too(published, tokens):
    probe = FlowProbe(published, tokens, groups_of(tokens))
    cut = probe.changes(Flow("image", "last"), 1)
    assert cut.shape == (6, 4) and (cut != 0).any(0).all()
    # what the question reads in the last layer reaches nobody
    asked = probe.changes(Flow("image", "question"), 1)
    assert (asked[:, 2] == 0).all() and (asked[:, 0] != 0).all()
    backwards = Flow("question", "image")
    assert (probe.changes(backwards, 1) == 0).all()  # it is causal
    mutual = causal | sees("image", part="question")
    open_one = FlowProbe(published, tokens, groups_of(tokens), mutual)
    assert (open_one.changes(backwards, 1)[:, 0] != 0).any()


def test_attention_that_is_no_longer_taken_over_is_noticed(published, tokens):
    twin = deepcopy(published)
    twin.model.set_attn_implementation("eager")
    probe = FlowProbe(twin, tokens, groups_of(tokens))
    with pytest.raises(RuntimeError, match="moves nothing: its attention does not follow"):
        probe.changes(Flow("image", "last"), 1)


def test_attention_and_lens_of_a_published_model(published, tokens):
    groups = groups_of(tokens)
    probe = FlowProbe(published, tokens, groups)
    ways = [Flow(source, "last") for source in groups]
    shares = probe.attention(ways)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    candidates = probe.answer[:, None]
    for normed in (False, True):
        found = answers_by_depth(published, tokens, candidates, normed=normed)
        assert found.shape == (6, 4, 1)
        assert torch.allclose(found[:, -1, 0], probe.probability.float(), atol=1e-5)
    plain = answers_by_depth(published, tokens, candidates)
    assert not torch.allclose(plain[:, 1], found[:, 1], atol=1e-4)
