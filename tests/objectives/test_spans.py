"""Spans: by hand, put back, within budgets, drawn alike in any batch."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.objectives.spans import cut_spans, draw_spans
from sensorium.types import draws

S = 1000


def drawing(index, seed=0):
    rows = torch.as_tensor(index).numpy()[:, None]

    def draw(purpose, count):
        return torch.from_numpy(draws.uniform(purpose, seed, rows, range(count))).float()

    return draw


def put_back(cut, sentinel):
    """The sequences, if nothing of what was to be said is missing."""
    whole = []
    for read, there, said, real in zip(*cut, strict=True):
        spans = {}
        for word in said[real].tolist():
            if word >= sentinel:
                current = spans.setdefault(word, [])
            else:
                current.append(word)
        whole.append([w for word in read[there].tolist() for w in spans.get(word, [word])])
    return whole


def test_by_hand():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    real = torch.arange(7) < torch.tensor([[7], [3], [7]])
    kept = torch.tensor(
        [[1, 0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]
    ).bool()
    found = cut_spans(ids, real, kept, S)
    read = [row[mask].tolist() for row, mask in zip(found.read, found.read_mask, strict=True)]
    said = [row[mask].tolist() for row, mask in zip(found.said, found.said_mask, strict=True)]
    assert read == [[1, S, 4, 5, S + 1, 7], [S], [1, 2, 3, 4, 5, 6, 7]]
    assert said == [[S, 2, 3, S + 1, 6, S + 2], [S, 1, 2, 3, S + 1], [S]]


def sequences(rows, length, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (rows, length), generator=generator)
    lengths = torch.randint(0, length + 1, (rows, 1), generator=generator)
    return ids, torch.arange(length) < lengths


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(0, 999))
def test_what_was_cut_out_can_be_put_back(length, seed):
    ids, real = sequences(12, length, seed)
    kept = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    found = cut_spans(ids, real, kept, S)
    expected = [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]
    assert put_back(found, S) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(0, 12), st.integers(1, 12), st.integers(0, 999))
def test_budgets_are_kept(length, most_read, most_said, seed):
    ids, real = sequences(12, length, seed)
    limits = torch.full((12,), most_read), torch.full((12,), most_said)
    found = draw_spans(ids, real, drawing(range(12), seed), S, *limits)
    assert (found.read_mask.sum(1) <= most_read).all()
    said = found.said_mask.sum(1)
    assert (said <= most_said).all()
    assert (said >= 1).all()
    for row, mask in zip(found.said, found.said_mask, strict=True):
        assert row[mask][0] >= S  # it begins with a sentinel
    if most_read >= length and most_said >= 2 * length + 1:
        assert put_back(found, S) == [r[m].tolist() for r, m in zip(ids, real, strict=True)]


def test_a_long_text_begins_anywhere_but_at_its_end():
    ids = torch.arange(1, 41).expand(400, 40)
    real = torch.ones_like(ids, dtype=torch.bool)
    many = torch.full((400,), 100)
    found = draw_spans(ids, real, drawing(range(400)), S, many, torch.full((400,), 4))
    first = found.said[:, 0] - S
    assert first.max() > 3 and (first == 0).float().mean() < 0.7
    # a span that is said is one that was cut out
    for row in range(0, 400, 37):
        read = found.read[row][found.read_mask[row]].tolist()
        said = found.said[row][found.said_mask[row]].tolist()
        assert set(read).isdisjoint(word for word in said if word < S)


def test_how_much_is_kept_is_drawn_for_each_row():
    ids = torch.arange(1, 41).expand(500, 40)
    real = torch.ones_like(ids, dtype=torch.bool)
    many = torch.full((500,), 100)
    found = draw_spans(ids, real, drawing(range(500)), S, many, many)
    shares = ((found.read < S) & found.read_mask).sum(1) / 40
    assert abs(shares.mean() - 0.5) < 0.06
    assert shares.std() > 0.25  # uniform from 0 to 1: 0.289


def test_a_row_is_cut_alike_in_any_batch():
    ids, real = sequences(8, 15, 3)
    limits = torch.full((8,), 6), torch.full((8,), 5)
    whole = draw_spans(ids, real, drawing(range(8)), S, *limits)
    for row in range(8):
        one = draw_spans(
            ids[row : row + 1], real[row : row + 1], drawing([row]), S, limits[0][:1], limits[1][:1]
        )
        assert (
            one.read[0][one.read_mask[0]].tolist() == whole.read[row][whole.read_mask[row]].tolist()
        )
        assert (
            one.said[0][one.said_mask[0]].tolist() == whole.said[row][whole.said_mask[row]].tolist()
        )


def test_what_is_said_of_a_long_text_fills_its_budget_if_a_span_before_fits():
    ids = torch.arange(1, 41).expand(300, 40)
    real = torch.ones_like(ids, dtype=torch.bool)
    many, few = torch.full((300,), 100), torch.full((300,), 12)
    whole = draw_spans(ids, real, drawing(range(300)), S, many, many)
    found = draw_spans(ids, real, drawing(range(300)), S, many, few)
    for row in range(300):
        every = whole.said[row][whole.said_mask[row]].tolist()
        said = found.said[row][found.said_mask[row]].tolist()
        starts = [place for place, word in enumerate(every) if word >= S][:-1]
        first = every.index(said[0])
        assert said == every[first : first + 12]
        if len(every) > 12 and len(said) < 12:  # then no span before it would have fitted
            assert not [place for place in starts if place < first and len(every) - place <= 12]


def test_chunks_stay_or_go_as_a_whole():
    ids = torch.arange(1, 31).expand(200, 30)
    real = torch.ones_like(ids, dtype=torch.bool)
    many = torch.full((200,), 100)
    chunks = (torch.arange(30) // 5).expand(200, 30)
    found = draw_spans(ids, real, drawing(range(200)), S, many, many, chunks)
    sizes = set()
    for row in range(200):
        kept = [w for w in found.read[row][found.read_mask[row]].tolist() if w < S]
        chunk = [(w - 1) // 5 for w in kept]
        assert all(chunk.count(c) == 5 for c in chunk)
        sizes.add(len(kept))
    assert sizes == {0, 5, 10, 15, 20, 25, 30}
