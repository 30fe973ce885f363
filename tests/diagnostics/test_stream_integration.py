"""The integration rate: by hand, against a matrix square root, and on the states of a model."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from sensorium.diagnostics.streams.integration import (
    Measure,
    frechet_distance,
    integration_rate,
    without_odd_norms,
)
from sensorium.diagnostics.streams.states import StreamStates, describe_rate, vision_and_text
from sensorium.nn.language.base import Hooks
from sensorium.nn.language.decoder import Decoder, DecoderConfig
from sensorium.nn.masks import causal
from sensorium.types import Tokens
from sensorium.types.names import number_of

RAW = Measure(scaled=False, replaced=False)
IMAGE, TEXT = number_of("image"), number_of("text")


def draw(seed, rows, width=6, skew=1.0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.eye(width, dtype=torch.float64)
    mix = mix + skew * 0.3 * torch.randn(width, width, generator=g, dtype=torch.float64)
    return torch.randn(rows, width, generator=g, dtype=torch.float64) @ mix + seed


def by_square_root(vision, text):
    """The distance as it is usually written, with SciPy's square root."""
    means = vision.mean(0) - text.mean(0)
    first, second = (np.cov(x.numpy(), rowvar=False) for x in (vision, text))
    root = sqrtm(first @ second).real
    return float(means @ means + np.trace(first) + np.trace(second) - 2 * np.trace(root))


def released_iteration(vision, text):
    """The released approximation of the square root, five rounds from (M, I), in double precision."""
    first, second = (torch.cov(x.T) for x in (vision, text))
    product = first @ second
    y, z = product, torch.eye(len(product), dtype=product.dtype)
    for _ in range(5):
        y = 0.5 * (y + torch.inverse(z) @ product)
        z = 0.5 * (z + torch.inverse(y) @ product)
    means = vision.mean(0) - text.mean(0)
    return float(means @ means + first.trace() + second.trace() - 2 * y.trace())


def test_one_dimension_by_hand():
    """Means 2 and 5, variances 4 and 9: 9 + (2 - 3)²; without the square root 9 + 4 + 9 - 2 · 36."""
    vision = torch.tensor([[0.0], [2.0], [4.0]], dtype=torch.float64)  # variance 8 / 2
    text = torch.tensor([[2.0], [5.0], [8.0]], dtype=torch.float64)  # variance 18 / 2
    assert frechet_distance(vision, text) == pytest.approx(10)
    assert frechet_distance(vision, text, "released") == pytest.approx(-50)
    assert frechet_distance(vision, text, "means") == pytest.approx(9)


@pytest.mark.parametrize("seed", range(4))
def test_exact_distance_is_that_of_the_matrix_square_root(seed):
    vision, text = draw(seed, 200), draw(seed + 1, 300)
    assert frechet_distance(vision, text) == pytest.approx(by_square_root(vision, text), rel=1e-9)


def test_released_value_is_what_the_released_iteration_gives_and_lacks_the_root():
    """Unit-norm text in 256 dimensions: the two are on different scales, exact below released."""
    g = torch.Generator().manual_seed(0)
    text = torch.randn(2000, 256, generator=g, dtype=torch.float64)
    text = text / text.norm(dim=1, keepdim=True)
    vision = 1.2 * torch.randn(2000, 256, generator=g, dtype=torch.float64) / 16
    exact, released = (frechet_distance(vision, text, kind) for kind in ("exact", "released"))
    assert released == pytest.approx(released_iteration(vision, text), abs=1e-5)
    assert released > 2 and exact < 0.4
    assert exact == pytest.approx(by_square_root(vision, text), rel=1e-6)


def test_singular_covariances_do_no_harm():
    """Twelve states in forty dimensions: equal ones are at distance zero, shifted ones at the shift."""
    states = draw(0, 12, width=40)
    assert frechet_distance(states, states) == pytest.approx(0, abs=1e-9)
    shift = torch.zeros(40, dtype=torch.float64)
    shift[3] = 2.0
    assert frechet_distance(states + shift, states) == pytest.approx(4)


def test_scale_is_one_factor_from_the_norms_of_text():
    vision = torch.tensor([[8.0, 0.0], [8.0, 0.0]])
    text = torch.tensor([[2.0, 0.0], [6.0, 0.0]])  # mean norm 4: vision 2, text 0.5 and 1.5
    found = Measure(replaced=False).between(vision, text)
    assert found == pytest.approx((2 - 1) ** 2 + 0.5)  # means, and the variance of text
    # each modality by its own norms would hide that one is longer
    assert found > Measure(replaced=False).between(vision / 2, text)


def test_rate_does_not_depend_on_a_common_scale_or_rotation():
    vision, text = draw(1, 150).float(), draw(2, 150).float()
    rotation = torch.linalg.qr(draw(3, 6)).Q.float()
    plain = Measure().between(vision, text)
    assert Measure().between(7 * vision, 7 * text) == pytest.approx(plain, rel=1e-5)
    raw = RAW.between(vision, text)
    assert RAW.between(vision @ rotation, text @ rotation) == pytest.approx(raw, rel=1e-5)
    assert RAW.between(7 * vision, 7 * text) == pytest.approx(49 * raw, rel=1e-5)


def test_rows_of_odd_norm_become_the_median_of_each_coordinate():
    states = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 5 + [[0.0, 100.0]])
    found = without_odd_norms(states)
    assert torch.equal(found[:11], states[:11])
    # of twelve numbers the lower middle one; the odd row itself counts
    assert found[11].tolist() == [0.0, 0.0]
    assert states[11].tolist() == [0.0, 100.0]  # not in place


def test_odd_is_more_than_three_deviations_from_the_median_norm():
    norms = torch.tensor([1.0] * 10 + [1.0 + 1e-3, 2.0], dtype=torch.float64)
    deviation = norms.std()
    assert (norms[11] - 1) > 3 * deviation > (norms[10] - 1)
    states = norms[:, None] * torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    found = without_odd_norms(states)
    assert torch.equal(found[:11], states[:11])
    assert found[11].norm() == pytest.approx(1)


def test_a_few_huge_tokens_decide_without_the_replacement():
    vision, text = draw(0, 300), draw(0, 300)
    vision[:2] *= 500
    kept = Measure(replaced=False).between(vision, text)
    assert kept > 100 * Measure().between(vision, text)


def test_rate_is_the_logarithm_of_the_sum_over_layers():
    layers = [(draw(s, 60).float(), draw(s + 1, 60).float()) for s in range(3)]
    found = integration_rate(layers)
    distances = [Measure().between(*layer) for layer in layers]
    assert found.layers == tuple(distances)
    assert found.value == pytest.approx(math.log10(sum(distances)))
    twice = integration_rate(layers + layers)
    assert twice.value == pytest.approx(found.value + math.log10(2))
    assert twice.mean_of_layers == pytest.approx(found.mean_of_layers)
    assert found.warnings == ()


def test_fewer_tokens_than_dimensions_are_warned_of():
    found = integration_rate([(draw(0, 6), draw(1, 50))])
    assert found.warnings == (
        "6 visual tokens are few for 6 dimensions: their covariance is singular, and the distance "
        "too large",
    )
    with pytest.raises(ValueError, match="1 visual and 50 text states"):
        integration_rate([(draw(0, 1), draw(1, 50))])


# ---------------------------------------------------------------------- on a model


def rows_of(num_rows, seed=0, width=16, images=1, text=6, pad=0):
    """Rows of: one word, pictures of four tokens, words; with padding in front."""
    kinds = [TEXT] + [IMAGE] * 4 * images + [TEXT] * text
    g = torch.Generator().manual_seed(seed)
    length = len(kinds)
    values = torch.randn(num_rows, pad + length, width, generator=g)
    mask = torch.tensor([False] * pad + [True] * length).expand(num_rows, -1)
    modality = torch.tensor([TEXT] * pad + kinds).expand(num_rows, -1)
    position = torch.tensor([0] * pad + list(range(length))).expand(num_rows, -1)
    return Tokens(values, mask, {"modality": modality, "position": position})


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(vocabulary_size=20, width=16, depth=3, heads=2, key_heads=1)
    ).eval()


def test_text_in_front_of_the_first_picture_is_no_text():
    vision, text = vision_and_text(rows_of(1, images=2, text=2, pad=1))
    assert vision[0].nonzero().squeeze(1).tolist() == list(range(2, 10))
    assert text[0].nonzero().squeeze(1).tolist() == [10, 11]


def test_states_are_the_outputs_of_the_layers_the_last_behind_the_final_norm(decoder):
    tokens = rows_of(5)
    states = StreamStates(decoder)
    states.read(tokens)
    with torch.no_grad():
        final = decoder(tokens).values
        first = decoder.layers[0]
        assert len(states.rate().layers) == 3
    vision, text = vision_and_text(tokens)
    assert states.rate().layers[2] == pytest.approx(Measure().between(final[vision], final[text]))
    one = Decoder(DecoderConfig(vocabulary_size=20, width=16, depth=1, heads=2, key_heads=1)).eval()
    one.layers[0] = first
    one.norm = torch.nn.Identity()
    with torch.no_grad():
        after = one(tokens).values
    assert states.rate().layers[0] == pytest.approx(
        Measure().between(after[vision], after[text]), rel=1e-4
    )


def test_padding_on_the_left_and_batches_change_nothing(decoder):
    whole, padded = rows_of(12), rows_of(12, pad=3)
    padded = padded.with_values(torch.cat([padded.values[:, :3], whole.values], 1))
    together, apart = StreamStates(decoder), StreamStates(decoder)
    together.read(whole)
    for start in (0, 5):
        part = slice(start, 5 if start == 0 else 12)
        ids = {name: found[part] for name, found in padded.ids.items()}
        apart.read(Tokens(padded.values[part], padded.mask[part], ids))
    assert apart.rate().layers == pytest.approx(together.rate().layers, rel=1e-4)


def test_hooks_of_the_model_are_part_of_what_is_measured(decoder):
    class Away(Hooks):
        def enter(self, layer, tokens):
            moved = tokens.values + 5 * (tokens.id("modality") == IMAGE)[:, :, None]
            return tokens.with_values(moved) if layer == 2 else tokens

    plain, moved = StreamStates(decoder), StreamStates(decoder)
    plain.read(rows_of(8))
    moved.read(rows_of(8), Away())
    assert moved.rate().layers[0] == plain.rate().layers[0]
    assert moved.rate().layers[1] > plain.rate().layers[1] + 1


def test_intervals_are_over_disjoint_sets_of_one_size(decoder):
    batches = [rows_of(10, seed) for seed in range(5)]
    found = describe_rate(decoder, [(each, None) for each in batches], set_size=20)
    assert (found["sets"], found["rows"]) == (2, 20)  # ten rows fill no set
    of_sets = []
    for pair in (batches[:2], batches[2:4]):
        states = StreamStates(decoder)
        for each in pair:
            states.read(each)
        of_sets.append(states.rate().value)
    assert found["value"]["value"] == pytest.approx(np.mean(of_sets))
    assert found["spread"] == pytest.approx(np.std(of_sets, ddof=1))
    assert found["value"]["low"] < found["value"]["value"] < found["value"]["high"]
    assert len(found["layers"]) == 3 and found["warnings"] == []
    few = describe_rate(decoder, [(batches[0], None)], rule=causal)
    assert (few["sets"], few["rows"]) == (1, 10)
    assert few["value"]["low"] is None and few["spread"] is None
