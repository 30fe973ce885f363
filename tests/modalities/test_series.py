"""Series: what cells and files say, times in any order, values that are missing, what is refused."""

import datetime
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sensorium.data import open_data
from sensorium.data.loader import read_batches
from sensorium.modalities import series_cells, series_files
from sensorium.modalities.base import get_modality
from sensorium.modalities.series import Series, SeriesView, num_channels
from sensorium.types import BadValue, Field, Schema, UserError

SERIES = Series()
NAN = float("nan")
ROWS = [
    {"time": [0.0, 1.0, 2.0], "heart": [60, None, 80], "breath": [10.0, 12.0, 14.0]},
    {"time": [5.0, 6.0], "breath": [NAN, 12.0], "heart": [70, 70]},
]


def make(**options):
    return Field(name="vitals", modality="series", options=options)


@pytest.fixture
def field():
    return make().replace(fitted=SERIES.fit(make(), iter(ROWS)))


def decode(raw, field, **view):
    return SERIES.decode(raw, field, SeriesView(**view))


def test_fit_by_hand(field):
    # heart: 60, 80, 70, 70; breath: 10, 12, 14, 12
    assert field.fitted["channels"]["heart"] == pytest.approx({"mean": 70, "std": 50**0.5})
    assert field.fitted["channels"]["breath"] == pytest.approx({"mean": 12, "std": 2**0.5})
    assert field.fitted["step"] == 1.0
    assert num_channels(field) == 2


def test_a_spread_far_from_zero_is_still_seen():
    values = 1e6 + np.random.default_rng(0).normal(size=1000)
    fitted = SERIES.fit(make(), [values[:300], values[300:]])
    assert fitted["channels"]["0"] == pytest.approx({"mean": values.mean(), "std": values.std()})
    constant = SERIES.fit(make(), [np.full(7, 0.1), np.full(9, 0.1)])
    assert constant["channels"]["0"]["std"] == 1.0


def test_fitted_values_survive_a_schema_file(field, tmp_path):
    Schema(fields=(field,)).save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml")["vitals"].fitted == field.fitted


def test_decode_by_hand(field):
    # time in steps, heart and breath standardised, which of both are there
    found = decode(ROWS[0], field)
    high = 10 / 50**0.5
    wanted = [
        [0, -high, -(2**0.5), 1, 1],
        [1, 0, 0, 0, 1],
        [2, high, 2**0.5, 1, 1],
    ]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_collate_pads_to_the_longest_and_a_mask_tells(field):
    values, mask = SERIES.collate([decode(row, field) for row in ROWS], field, SeriesView())
    assert values.shape == (2, 3, 5) and values.dtype == torch.float32
    assert mask.tolist() == [[True] * 3, [True, True, False]]
    assert values[1, 2].eq(0).all()
    assert torch.isfinite(values).all()


def test_another_order_of_samples_and_columns_changes_nothing(field):
    shuffled = {
        "breath": [14.0, 10.0, 12.0],
        "heart": [80, 60, None],
        "time": [2.0, 0.0, 1.0],
    }
    assert np.array_equal(decode(shuffled, field), decode(ROWS[0], field))


@pytest.mark.parametrize("shift", [-1e3, 7.5, 1.7e9])
def test_a_shift_in_time_changes_nothing(field, shift):
    moved = {**ROWS[0], "time": [time + shift for time in ROWS[0]["time"]]}
    assert np.array_equal(decode(moved, field), decode(ROWS[0], field))
    long = {"time": np.arange(500.0) / 4, "heart": np.arange(500), "breath": np.arange(500)}
    moved = {**long, "time": long["time"] + 1024}
    assert np.array_equal(decode(moved, field, length=7), decode(long, field, length=7))


def test_samples_of_one_time_are_one(field):
    twice = {"time": [3, 3, 3, 4], "heart": [60, None, 80, 70], "breath": [None, 12, None, 12]}
    np.testing.assert_allclose(decode(twice, field), [[0, 0, 0, 1, 1], [1, 0, 0, 1, 1]], atol=1e-6)


def test_dates_and_units_are_the_same_times(field):
    days = [datetime.datetime(2024, 1, 1, 0, 0, second) for second in (0, 1, 2)]
    for times in (
        [day.isoformat() for day in days],
        days,
        np.array(days, dtype="datetime64[ms]"),
        ["2024-01-01T01:00:00+01:00", "2024-01-01T00:00:01+00:00", "2024-01-01 00:00:02"],
        ["0", "1", "2.0"],
    ):
        assert np.allclose(decode({**ROWS[0], "time": times}, field), decode(ROWS[0], field))
    in_ms = field.replace(options={"unit": "ms"})
    times = [0, 1000, 2000]
    assert np.allclose(decode({**ROWS[0], "time": times}, in_ms), decode(ROWS[0], field))
    american = field.replace(options={"date_format": "%m/%d/%Y"})
    found = decode({**ROWS[0], "time": ["12/30/2023", "12/31/2023", "01/01/2024"]}, american)
    assert found[:, 0].tolist() == [0, 86400, 172800]


def test_one_sample_is_a_series(field):
    found = decode({"time": ["2024-05-01"], "heart": [70]}, field)
    assert found.tolist() == [[0, 0, 0, 1, 0]]


def test_without_times_a_sample_is_taken_each_second(field):
    found = decode({"heart": [60, 80], "breath": [12, 12]}, field)
    assert found[:, 0].tolist() == [0, 1]


def test_samples_without_any_value_are_left_out(field):
    row = {"time": [0, 1, 2], "heart": [None, 70, 70], "breath": [None, None, 12]}
    found = decode(row, field)
    assert found[:, 0].tolist() == [0, 1]  # from the first that is there


def test_a_long_series_is_averaged_in_parts_of_equal_duration():
    # 8 samples in 8 s; four parts of 7/4 s: 0 1 | 2 3 | 4 5 | 6 7
    field = make()
    raw = np.array([0.0, 2, 4, 6, 8, 10, 12, 14])
    field = field.replace(fitted={"channels": {"0": {"mean": 0.0, "std": 1.0}}, "step": 1.0})
    found = decode(raw, field, length=4)
    assert found[:, 1].tolist() == [1, 5, 9, 13]
    assert found[:, 0].tolist() == [0, 2, 4, 6]
    # A gap leaves parts without samples out; a missing value does not count.
    gap = {"time": [0, 1, 2, 98, 99, 100], "0": [1, None, 3, 5, 5, 5]}
    found = decode(gap, field, length=4)
    assert found[:, 1].tolist() == [2, 5]
    assert found[:, 0].tolist() == [0, 98]


@pytest.mark.parametrize(
    "raw",
    [
        np.array([[1.0, 2], [3, 4]]),
        [[1, 2], [3, 4]],
        "[[1, 2], [3, 4]]",
        {"0": [1, 3], "1": [2, 4]},
        '{"0": [1, 3], "1": [2, 4]}',
        [{"0": 1, "1": 2}, {"0": 3, "1": 4}],
        {"0": "[1, 3]", "1": np.array([2, 4], dtype=np.int8)},
        {"0": ["1", 3.0], "1": [2, "4"]},
    ],
)
def test_cells_of_every_kind(raw):
    field = make().replace(fitted=SERIES.fit(make(), [raw]))
    assert list(field.fitted["channels"]) == ["0", "1"]
    assert decode(raw, field)[:, 1:3].tolist() == [[-1, -1], [1, 1]]


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def parquet(columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


CSV = b"time,heart,breath\n2024-01-01 00:00:00,60,10\n2024-01-01 00:00:01,,12\n"
CSV += b"2024-01-01 00:00:02,80,14\n"


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        parquet({"time": [0.0, 1.0, 2.0], "heart": [60, None, 80], "breath": [10.0, 12.0, 14.0]}),
        npy(np.array([[60, 10.0], [NAN, 12], [80, 14]])),
        npy(np.array([[60, 10.0], [NAN, 12], [80, 14]], order="F")),
    ],
    ids=["csv", "parquet", "npy", "npy by column"],
)
def test_files_and_their_bytes(field, content, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(content)
    for raw in (path, content, {"bytes": content, "path": "a"}):
        np.testing.assert_allclose(decode(raw, field), decode(ROWS[0], field), atol=1e-6)


def test_rows_of_a_table_name_files(tmp_path):
    for place in range(8):
        (tmp_path / f"{place}.csv").write_bytes(CSV.replace(b"80", str(80 + place).encode()))
    lines = [f"{place}.csv,{'ab'[place % 2]}" for place in range(8)]
    (tmp_path / "metadata.csv").write_text("\n".join(["ecg,label", *lines, "gone.csv,a"]))
    schema = Schema(
        fields=(
            Field(name="ecg", modality="series", options={"path": True}),
            Field(name="label", modality="category", role="label"),
        )
    )
    data = open_data(tmp_path / "metadata.csv", schema=schema).fit()
    rows = data.rows("all")
    samples, faults = data.read(rows, {"ecg": SeriesView(), "label": None})
    assert len(samples) == 8
    assert [fault.field for fault in faults] == ["ecg"] and "gone.csv" in faults[0].reason


def test_list_columns_of_a_row_are_channels(tmp_path):
    table = {
        "t": [[0.0, 1.0], [0.0], None],
        "hr": [[60.0, 70.0], [80.0], None],
        "y": ["a", "b", "a"],
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    vitals = Field(name="vitals", modality="series", columns={"t": "time", "hr": "channel"})
    label = Field(name="y", modality="category", role="label")
    data = open_data(
        tmp_path / "rows.parquet", schema=Schema(fields=(vitals, label)), split="share:0.4,0.3,0.3"
    )
    fitted = SERIES.fit(vitals, data.raw(["vitals"], data.rows("all"))["vitals"])
    assert list(fitted["channels"]) == ["hr"] and fitted["step"] == 1.0
    data = data.with_schema(data.schema.replace(vitals.replace(fitted=fitted)))
    (batch,) = read_batches(data, data.rows("all"), {"vitals": SeriesView()}, batch_size=3)
    assert batch.present("vitals").tolist() == [True, True, False]
    assert batch["vitals"].mask.sum(1).tolist() == [2, 1]


def test_options_choose_columns(field):
    raw = {"t": [0, 2], "heart": [60, 80], "note": ["well", "ill"]}
    chosen = make(channels=["heart"], time="t")
    chosen = chosen.replace(fitted=SERIES.fit(chosen, [raw]))
    assert decode(raw, chosen).tolist() == [[0, -1, 1], [1, 1, 1]]
    commas = make(channels=["heart"], decimal=",")
    assert SERIES.fit(commas, [{"heart": ["1,5", "2,5"]}])["channels"]["heart"]["mean"] == 2.0
    by_place = make(channels=["1"], time="0")
    by_place = by_place.replace(fitted=SERIES.fit(by_place, [np.array([[10.0, 1], [20, 3]])]))
    assert decode(np.array([[10.0, 1], [20, 3]]), by_place).tolist() == [[0, -1, 1], [1, 1, 1]]


BAD = [
    ([], "without samples"),
    ({"time": [], "heart": []}, "without samples"),
    ({"time": [0, 1], "heart": [None, NAN], "breath": [None, None]}, "without values"),
    ({"time": [0, 1, 2], "heart": [1, 2]}, "2 and 3 samples"),
    ({"time": [0, None], "heart": [1, 2]}, "'time'.*empty or not finite"),
    ({"time": [0, float("inf")], "heart": [1, 2]}, "no finite"),
    ({"time": np.array([0, np.inf]), "heart": [1, 2]}, "'time'.*not finite"),
    ({"time": [0, "soon"], "heart": [1, 2]}, "'time'.*no date"),
    ({"time": [0, 1], "heart": [1, float("inf")]}, "'heart'.*no finite"),
    ({"time": [0, 1], "heart": np.array([1, np.inf])}, "'heart'.*not finite"),
    ({"time": [0, 1], "heart": [1, "high"]}, "'heart'.*no number"),
    ({"time": [0, 1], "heart": [1, [2]]}, "'heart'"),
    ({"time": [0, 1], "heart": 3}, "'heart'.*list"),
    ({"time": [0, 1], "pulse": [1, 2]}, "none of the channels that are known; found time, pulse"),
    ({"time": [0, 1], "heart": [1e38, -1e38], "breath": [1, 1]}, None),
    ([[1, 2, 3], [4, 5, 6]], "3 columns, where 2 channels"),
    ([1, 2, 3], "1 columns"),
    (np.zeros((2, 2, 2)), "expected numbers"),
    ([[1, 2], [3]], "expected numbers"),
    (["a", "b"], "no JSON"),
    ([10**400], "expected numbers"),
    ({"heart": [10**400], "breath": [1]}, "heart"),
    ("a.csv", "option path: true"),
    ("{", "no JSON"),
    (3, "expected numbers"),
    (b"", "empty"),
    (b"\x93NUMPY", "NPY"),
    (b"\x93NUMPY\x01\x00\x0b\x00{'descr': (\n", "NPY"),  # a header that does not end
    (npy(np.zeros((10, 2)))[:-8], "cut short"),
    (npy(np.zeros(3)).replace(b"(3,)", b"(9,)"), "cut short"),
    (npy(np.zeros(3)).replace(b"(3,)", b"(-3,)"), "NPY"),
    (b"PAR1 and no more", "cannot be read"),
    (parquet({"heart": [1.0]})[:-9], "cannot be read"),
    (b"\x00\xff\x00", "vitals"),
    (b"a,b\n1,2,3\n", "cannot be read"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD, ids=range(len(BAD)))
def test_bad_series(field, raw, reason):
    if reason is None:
        assert np.isfinite(decode(raw, field)).all()
        return
    with pytest.raises(BadValue, match=reason):
        for entry in SERIES.entries(raw, field):
            decode(entry, field)


def test_an_npy_file_with_objects_is_not_unpickled(field):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadValue, match="objects"):
        decode(file.getvalue(), field)


def test_limits(field, monkeypatch):
    monkeypatch.setattr(series_cells, "MAX_SAMPLES", 10)
    monkeypatch.setattr(series_cells, "MAX_CHANNELS", 4)
    monkeypatch.setattr(series_files, "MAX_TABLE_BYTES", 1000)
    for raw in (
        {"heart": [1.0] * 11, "breath": [1.0] * 11},
        parquet({"heart": [1.0] * 11}),
        b"heart\n" + b"1\n" * 11,
        b"heart\n" + b"1\n" * 1000,
    ):
        with pytest.raises(BadValue, match="more than"):
            decode(raw, field)
    with pytest.raises(BadValue, match="5 channels"):
        series_cells.read_series(np.zeros((2, 5)), make())


def test_values_beyond_float32_after_standardising_are_refused():
    field = make().replace(fitted=SERIES.fit(make(), [[0.0, 1e-30]]))
    with pytest.raises(BadValue, match="far outside"):
        decode([1e30], field)


def test_bad_training_rows_do_not_spoil_the_fit():
    assert SERIES.fit(make(), [*ROWS, {"time": [0], "heart": ["high"]}, "x", None]) == SERIES.fit(
        make(), ROWS
    )


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (None, 0),
        (NAN, 0),
        ({"time": None, "heart": None}, 0),
        ({"bytes": None, "path": None}, 0),
        ([None, None], 0),
        ([1.0, None], 1),
        ([b"a", b"b"], 2),
        (["[1]", None], 1),
        ([], 1),
    ],
)
def test_entries_of_a_cell(field, raw, count):
    assert len(SERIES.entries(raw, field)) == count


def test_settings_that_make_no_sense():
    for options, message in (
        ({"chanels": ["a"]}, "Did you mean 'channels'"),
        ({"unit": "weeks"}, "unit"),
        ({"path": "yes"}, "path"),
    ):
        with pytest.raises(UserError, match=message):
            SERIES.check(make(**options))
    for columns, message in (
        ({"a": "chanel"}, "Did you mean 'channel'"),
        ({"a": "time", "b": "time"}, "two columns of time"),
    ):
        with pytest.raises(UserError, match=message):
            SERIES.check(Field(name="x", modality="series", columns=columns))


def test_a_list_of_many_numbers_is_no_list_of_entries():
    long, short = [[0.5 * place for place in range(20)]] * 9, [[0.5, 1.5], [2.5]]
    number, spectrum = get_modality("number"), np.zeros((9, 2))
    assert SERIES.guess("ecg", long) > number.guess("ecg", long)
    assert SERIES.guess("sizes", short) < number.guess("sizes", short)
    assert SERIES.guess("x", [spectrum]) > 0.9
    assert SERIES.guess("x", [spectrum.astype(np.uint8)]) == 0


def test_guess():
    assert SERIES.guess("ecg", [[0.1, 0.2, 0.3], [0.5, 0.1]]) > 0
    assert SERIES.guess("ecg", [{"time": [0, 1], "a": [1, 2]}]) > 0
    assert SERIES.guess("ecg", [np.zeros((5, 2))]) > 0
    assert SERIES.guess("ecg", ["a/1.csv", "a/2.csv", None]) > 0.9
    assert SERIES.guess("cloud", ["a/1.csv", "a/2.csv"]) == 0
    for values in (["a", "b"], [[1.0], [2.0]], [["cat"], ["dog"]], [{"a": 1}], [3.5], []):
        assert SERIES.guess("x", values) == 0


def inked(picture):
    return (np.asarray(picture) < 250).any(2)


def test_show_draws_a_line_for_each_channel(field):
    both = inked(SERIES.show(ROWS[0], field))
    assert both.shape == (96, 256)
    assert both.sum() > 200
    one = inked(SERIES.show({"heart": [1, 2, 3]}, make()))
    assert 150 < one.sum() < both.sum()
    assert inked(SERIES.show([5.0], make())).any()  # a point
    assert inked(SERIES.show(np.arange(3000.0), make())).any(0).sum() > 240
    decoded = decode(ROWS[0], field)
    assert np.array_equal(inked(SERIES.show(decoded, field)), both)
    rising = inked(SERIES.show([0.0, 1.0], make()))
    assert rising[:20, -20:].any() and not rising[:20, :20].any()


def test_json_text_may_hold_nothing_that_is_a_number():
    for cell in (json.dumps(["a"]), "null", "true", '"x"', "[NaN, NaN]"):
        with pytest.raises(BadValue):
            SERIES.decode(cell, make().replace(fitted=SERIES.fit(make(), [[1.0]])), SeriesView())


@pytest.mark.filterwarnings("ignore")
def test_what_is_damaged_is_taken_or_refused(field):
    rng = np.random.default_rng(0)
    whole = [CSV, npy(np.ones((3, 2))), parquet({"heart": [1.0, None], "time": ["2024", "2025"]})]
    for content in [content for content in whole for _ in range(150)]:
        damaged = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(0, len(damaged), 3)
        damaged[places] = rng.integers(0, 256, 3)
        raw = damaged.tobytes()[: rng.integers(1, 2 * len(damaged))]
        try:
            found = decode(raw, field)
        except BadValue:
            continue
        assert np.isfinite(found).all() and found.shape[1] == 5
