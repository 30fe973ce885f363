"""Modality calibration: visual tokens are scaled and shifted behind each layer, text never is."""

import pytest
import torch

from sensorium.nn.language.base import InOrder, Recorder
from sensorium.nn.language.calibration import ModalityCalibration
from sensorium.nn.language.decoder import Decoder, DecoderConfig
from sensorium.types import Tokens
from sensorium.types.names import number_of

IMAGE, TEXT = number_of("image"), number_of("text")


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder(DecoderConfig(10, width=8, depth=3, heads=2, key_heads=1)).eval()


@pytest.fixture
def tokens():
    kinds = torch.tensor([[TEXT, IMAGE, IMAGE, TEXT, TEXT], [IMAGE, IMAGE, TEXT, TEXT, TEXT]])
    values = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    ids = {"modality": kinds, "position": torch.arange(5).expand(2, 5)}
    return Tokens(values, torch.ones(2, 5, dtype=torch.bool), ids)


def changed(decoder, **settings):
    calibration = ModalityCalibration(decoder.num_layers, decoder.width, **settings)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for vector in calibration.parameters():
            vector.add_(torch.randn(vector.shape, generator=g))
    return calibration


def test_it_begins_as_the_identity(decoder, tokens):
    calibration = ModalityCalibration(3, 8)
    assert torch.equal(decoder(tokens).values, decoder(tokens, hooks=calibration).values)


def test_formula_at_visual_tokens_and_nothing_at_text(decoder, tokens):
    calibration = changed(decoder)
    before, after = Recorder(), Recorder()
    with torch.no_grad():
        decoder(tokens, hooks=InOrder(before, calibration, after))
    assert torch.equal(before.states[0], after.states[0])  # embeddings are no layer's output
    visual = tokens.id("modality") == IMAGE
    for layer in (1, 2):
        scale, shift = calibration.scale[layer - 1], calibration.shift[layer - 1]
        expected = scale * before.states[layer][visual] + shift
        assert torch.allclose(after.states[layer][visual], expected, atol=1e-6)
        assert torch.equal(after.states[layer][~visual], before.states[layer][~visual])


def test_control_changes_all_tokens_with_as_many_parameters(decoder, tokens):
    control, calibration = changed(decoder, is_for_all=True), changed(decoder)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (control, calibration)]
    assert sizes == [2 * 2 * 8] * 2
    states = control.enter(1, tokens).values
    assert torch.allclose(states, control.scale[0] * tokens.values + control.shift[0])


def test_every_parameter_is_trained_by_what_text_reads(decoder, tokens):
    """The reason why none stand behind the last layer: there would be no gradient."""
    calibration = ModalityCalibration(3, 8)
    final = decoder(tokens, hooks=calibration).values
    final[:, -1].sum().backward()
    assert all((vector.grad != 0).any() for vector in calibration.parameters())


def test_words_decoded_one_at_a_time_are_as_in_one_pass(decoder, tokens):
    calibration = changed(decoder)
    with torch.no_grad():
        whole = decoder(tokens, hooks=calibration).values
        cache = decoder.new_cache(5)
        parts = [
            decoder(tokens.narrow(start, length), cache=cache, hooks=calibration).values
            for start, length in ((0, 3), (3, 1), (4, 1))
        ]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


def test_half_precision_is_calibrated_in_single(tokens):
    calibration = ModalityCalibration(3, 8)
    torch.nn.init.constant_(calibration.scale[0], 1 + 1e-4)  # one in half precision
    half = tokens.with_values((1000 * tokens.values).bfloat16())
    found = calibration.to(torch.float32).enter(1, half).values
    assert found.dtype == torch.bfloat16
    visual = tokens.id("modality") == IMAGE
    expected = (half.values.float() * (1 + 1e-4)).bfloat16()
    assert torch.equal(found[visual], expected[visual])
    assert torch.equal(found[~visual], half.values[~visual])
