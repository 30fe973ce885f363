"""The encoder of series: times as they are, missing values told apart, padding that moves nothing."""

import pytest
import torch

from sensorium.modalities.series import Series, SeriesView
from sensorium.nn.encoders import build_encoder
from sensorium.nn.encoders.scalars import sine_positions, sines
from sensorium.nn.encoders.series import SeriesEncoder
from sensorium.types import Field

SERIES = Series()
ROWS = [
    {"time": [0.0, 1.0, 2.5, 7.0], "a": [1.0, None, 3.0, 2.0], "b": [0.5, 0.1, None, 0.9]},
    {"time": [3.0], "a": [2.0]},
    {"time": [0.0, 0.5], "a": [0.0, 1.0], "b": [1.0, 2.0]},
]
FIELD = Field(name="s", modality="series")
FIELD = FIELD.replace(fitted=SERIES.fit(FIELD, ROWS))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = build_encoder(FIELD, width=16, heads=2)
    assert isinstance(encoder, SeriesEncoder)
    return encoder


def batch(*rows):
    values = [SERIES.decode(row, FIELD, SeriesView()) for row in rows]
    return SERIES.collate(values, FIELD, SeriesView())


def test_a_series_alone_is_the_same_as_in_a_batch(encoder):
    together, real = encoder(*batch(*ROWS))
    assert real.sum(1).tolist() == [4, 1, 2]
    for place, row in enumerate(ROWS):
        values, mask = batch(row)
        for alone in (encoder(values, mask)[0], encoder(values)[0]):
            torch.testing.assert_close(alone[0], together[place][real[place]])


def test_what_is_padding_moves_nothing(encoder):
    values, mask = batch(*ROWS)
    before, real = encoder(values, mask)
    after, _ = encoder(torch.where(mask[..., None], values, 5.0), mask)
    assert torch.equal(before[real], after[real])


def test_a_shift_in_time_changes_nothing_and_a_stretch_does(encoder):
    row = {**ROWS[0], "time": [0.0, 1.0, 2.5, 7.0]}
    base = encoder(*batch(row))[0]
    shifted = {**row, "time": [time + 1.7e9 for time in row["time"]]}
    assert torch.equal(encoder(*batch(shifted))[0], base)
    stretched = {**row, "time": [0.0, 1.0, 2.5, 8.0]}
    assert not torch.allclose(encoder(*batch(stretched))[0], base, atol=1e-4)


def test_a_missing_value_is_not_the_mean(encoder):
    mean = FIELD.fitted["channels"]["a"]["mean"]
    there = {"time": [0.0, 1.0], "a": [1.0, mean], "b": [1.0, 1.0]}
    absent = {"time": [0.0, 1.0], "a": [1.0, None], "b": [1.0, 1.0]}
    assert torch.equal(batch(there)[0][..., :3], batch(absent)[0][..., :3])
    assert not torch.allclose(encoder(*batch(there))[0], encoder(*batch(absent))[0], atol=1e-4)


def test_a_sample_sees_its_neighbours_and_its_own_time(encoder):
    values, mask = batch(ROWS[0])
    x, _, _ = encoder.prepare(values, mask)
    kernel = encoder.samples.weight  # (width, features, 3)
    by_hand = sum(kernel[:, :, place] @ values[0, place, 1:] for place in range(3))
    torch.testing.assert_close(x[0, 1], by_hand + sines(values[0, 1, 0], 16))


def test_every_parameter_learns(encoder):
    tokens, real = encoder(*batch(*ROWS))
    weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    (tokens * weight)[real].sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sines_of_whole_places_are_the_positions():
    assert torch.equal(sines(torch.arange(9), 6), sine_positions(9, 6))
    half = sines(torch.tensor(0.5), 4)
    torch.testing.assert_close(
        half, torch.tensor([0.4794, 0.8776, 0.0050, 1.0000]), atol=1e-4, rtol=0
    )
