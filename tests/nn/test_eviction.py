"""Which cache entries stay and what they take in, against slow loops over heads and entries in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.nn.language.eviction import CachePolicy, attention_received, choose, shrink

TENTHS = CachePolicy()


def shares(important, recent, **settings):
    return CachePolicy(important=important, recent=recent, **settings)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flags(seed, *shape, share=0.5):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def slow_received(queries, keys, mask, scale, real):
    """One softmax at a time; a query head asks the key head of its group."""
    batch, heads, num_queries, _ = queries.shape
    key_heads, num_keys = keys.shape[1:3]
    mask = mask.expand(batch, heads, num_queries, num_keys)
    received = torch.zeros(batch, key_heads, num_keys, dtype=torch.float64)
    seers = torch.zeros(batch, key_heads, num_keys, dtype=torch.long)
    for b in range(batch):
        for h in range(heads):
            group = h // (heads // key_heads)
            for i in range(num_queries):
                seen = mask[b, h, i].nonzero().flatten()
                if real[b, i] and len(seen):
                    products = keys[b, group, seen].double() @ queries[b, h, i].double()
                    received[b, group, seen] += (products * scale).softmax(0)
                    seers[b, group, seen] += 1
    return received, seers


def slow_choose(scores, media, real, policy):
    """The rule of the released code for one row: which entries each head keeps."""
    places = real.nonzero().flatten().tolist()
    important, recent = (int(len(places) * s + 1e-9) for s in (policy.important, policy.recent))
    whole = policy.important + policy.recent >= 1 or important + recent >= len(places)
    if whole or not any(media[p] for p in places):
        return [places] * len(scores)
    last = places[len(places) - recent :]
    others = places[: len(places) - recent]
    text = [p for p in others if not media[p]]
    room = important if policy.strict else max(important, len(text))
    kept = []
    for of_head in scores.tolist():

        def rank(place, of_head=of_head):
            is_sink = places.index(place) < policy.sinks
            is_first = policy.text_first and not media[place]
            return (0 if is_first else 1 if is_sink else 2, -of_head[place])

        kept.append(sorted(sorted(others, key=rank)[:room] + last))
    return kept


def slow_merge(keys, values, kept, merge):
    """Section 3.3 for one head in float64, one evicted entry after another."""
    keys, values = keys.double(), values.double()
    evicted = [p for p in range(len(keys)) if p not in kept]
    taken = {c: [] for c in kept}
    for o in evicted:
        cosines = [torch.cosine_similarity(keys[o], keys[c], 0).item() for c in kept]
        best = max(range(len(kept)), key=cosines.__getitem__)
        taken[kept[best]].append((o, cosines[best]))
    merged = []
    for of in (keys, values):
        for c in kept:
            total = of[c].clone()
            for o, cosine in taken[c]:
                total += {
                    "averaged": of[o],
                    "weighted": cosine * of[o],
                    "pivotal": (of[o] + of[c]) / 2,
                }[merge]
            merged.append(total / (len(taken[c]) + 1))
    return torch.stack(merged[: len(kept)]), torch.stack(merged[len(kept) :])


def causal_mask(real):
    length = real.shape[1]
    return torch.ones(length, length).tril().bool() & real[:, None, None, :]


@given(
    seed=st.integers(0, 1000),
    key_heads=st.sampled_from([1, 2, 4]),
    at_once=st.sampled_from([1, 40, 2**24]),
    kind=st.sampled_from(["causal", "any", "one for all", "by head"]),
)
@settings(max_examples=40, deadline=None)
def test_attention_is_summed_over_the_queries_and_heads_that_see_a_key(
    seed, key_heads, at_once, kind
):
    queries, keys = draw(2, 4, 5, 3, seed=seed), draw(2, key_heads, 7, 3, seed=seed + 1)
    real = flags(seed, 2, 5, share=0.8)
    mask = {
        "causal": torch.ones(5, 7).tril(2).bool().expand(2, 1, 5, 7),
        "any": flags(seed, 2, 1, 5, 7),  # some queries see nothing
        "one for all": flags(seed, 2, 1, 1, 7),
        "by head": flags(seed, 2, 4, 5, 7),
    }[kind]
    received, seers = attention_received(queries, keys, mask, 0.7, real, at_once)
    slow, slow_seers = slow_received(queries, keys, mask, 0.7, real)
    assert received.dtype == torch.float32
    torch.testing.assert_close(received.double(), slow, rtol=1e-5, atol=1e-6)
    assert torch.equal(seers, slow_seers)


def test_the_whole_attention_matrix_is_never_held():
    biggest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal biggest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                biggest = max(biggest, out.numel())
            return out

    length = 512
    real = torch.ones(1, length, dtype=torch.bool)
    queries, keys = draw(1, 2, length, 4), draw(1, 2, length, 4, seed=1)
    mask = causal_mask(real)
    with Watch():
        attention_received(queries, keys, mask, 1.0, real, at_once=2**14)
    assert biggest == 2**14 < length**2


@given(
    seed=st.integers(0, 1000),
    important=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
    recent=st.sampled_from([0.0, 0.04, 0.1, 0.4, 0.5]),
    text_first=st.booleans(),
    strict=st.booleans(),
    sinks=st.sampled_from([0, 4]),
    share=st.sampled_from([0.0, 0.3, 0.9]),
)
@settings(max_examples=80, deadline=None)
def test_the_entries_that_stay(seed, important, recent, text_first, strict, sinks, share):
    scores = draw(3, 2, 30, seed=seed).abs()
    media = flags(seed, 3, 30, share=share)
    real = flags(seed + 1, 3, 30, share=0.9)
    real[2] = True
    policy = CachePolicy(
        important=important, recent=recent, sinks=sinks, text_first=text_first, strict=strict
    )
    chosen = choose(scores, media, real, policy)
    for row in range(3):
        kept = chosen.kept[row][:, chosen.kept_mask[row]].tolist()
        evicted = chosen.evicted[row][:, chosen.evicted_mask[row]].tolist()
        expected = slow_choose(scores[row], media[row], real[row], policy)
        for of_head, gone, slow in zip(kept, evicted, expected, strict=True):
            if slow:
                assert of_head == slow
            else:
                assert len(of_head) == 1  # something must be there to merge into
            assert sorted(of_head + gone) == real[row].nonzero().flatten().tolist()
    if not strict:
        chosen_text = [real[r] & ~media[r] for r in range(3)]
        if text_first:
            for row, text in enumerate(chosen_text):
                for of_head in chosen.kept[row][:, chosen.kept_mask[row]]:
                    assert set(text.nonzero().flatten().tolist()) <= set(of_head.tolist())


def test_counts_of_the_released_code():
    """The nominal 20 % means little where there is much text."""
    media = torch.zeros(1, 3000, dtype=torch.bool)
    media[:, 35 : 35 + 576] = True
    chosen = choose(draw(1, 2, 3000), media, torch.ones_like(media), TENTHS)
    assert chosen.kept.shape == (1, 2, 2424)

    media = torch.zeros(1, 1300, dtype=torch.bool)
    media[:, 10:586] = media[:, 620:1196] = True
    chosen = choose(draw(1, 2, 1300), media, torch.ones_like(media), TENTHS)
    assert chosen.kept.shape == (1, 2, 260)


def test_a_strict_budget_may_evict_text_but_not_before_media():
    media = torch.zeros(1, 100, dtype=torch.bool)
    media[:, 20:60] = True
    scores = torch.arange(100.0).expand(1, 1, 100)
    strict = shares(0.1, 0.1, strict=True)
    chosen = choose(scores, media, torch.ones_like(media), strict)
    # The best of the 50 text entries outside the window; the images would be worth more than half of them.
    assert chosen.kept[0, 0].tolist() == list(range(80, 100))
    chosen = choose(-scores, media, torch.ones_like(media), strict)
    assert chosen.kept[0, 0].tolist() == [*range(10), *range(90, 100)]


def test_a_window_of_no_entries_is_empty():
    media = torch.ones(1, 9, dtype=torch.bool)
    scores = torch.tensor([[[0.0, 1, 2, 9, 8, 3, 4, 5, 6]]])
    chosen = choose(scores, media, torch.ones_like(media), shares(0.23, 0.1))
    assert chosen.kept.tolist() == [[[3, 4]]]


def test_text_alone_and_a_full_budget_keep_everything():
    scores = draw(2, 2, 11)
    media = torch.zeros(2, 11, dtype=torch.bool)
    media[1, 2:9] = True
    real = torch.ones(2, 11, dtype=torch.bool)
    chosen = choose(scores, media, real, shares(0.1, 0.1, text_first=False, strict=True))
    assert chosen.kept_mask.sum(1).tolist() == [11, 2]
    chosen = choose(scores, media, real, shares(0.5, 0.5))
    assert chosen.kept_mask.sum(1).tolist() == [11, 11] and not chosen.evicted.shape[2]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_ranking_is_in_float32_whatever_the_cache_is_in(kind):
    """Sums of attention that differ by less than half precision can tell are told apart."""
    queries, keys = draw(1, 2, 300, 8).to(kind), draw(1, 2, 300, 8, seed=1).to(kind)
    media = torch.ones(1, 300, dtype=torch.bool)
    media[:, :20] = False
    real = torch.ones_like(media)
    received, _ = attention_received(queries, keys, causal_mask(real), 8**-0.5, real)
    slow, _ = slow_received(queries, keys, causal_mask(real), 8**-0.5, real)
    torch.testing.assert_close(received.double(), slow, rtol=1e-5, atol=1e-6)
    chosen = choose(received, media, real, TENTHS)
    assert chosen.kept[0].tolist() == slow_choose(slow[0], media[0], real[0], TENTHS)
    # What a handicap in half precision would do: the images' scores tie.
    handicapped = (received.half() - 65516 * media.half())[0, 0, 20:270]
    assert len(set(handicapped.tolist())) < 10


@pytest.mark.parametrize("merge", ["averaged", "weighted", "pivotal"])
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_merges_equal_the_slow_ones(merge, at_once):
    keys, values = draw(2, 2, 40, 6), draw(2, 2, 40, 6, seed=1)
    media = flags(3, 2, 40, share=0.8)
    real = torch.ones_like(media)
    real[1, :9] = False
    chosen = choose(draw(2, 2, 40, seed=2), media, real, shares(0.2, 0.1))
    new_keys, new_values = shrink(keys, values, chosen, merge, at_once=at_once)
    for row in range(2):
        places = real[row].nonzero().flatten()
        for head in range(2):
            mask = chosen.kept_mask[row]
            kept = [places.tolist().index(p) for p in chosen.kept[row, head, mask].tolist()]
            slow = slow_merge(keys[row, head, places], values[row, head, places], kept, merge)
            for fast, expected in zip((new_keys, new_values), slow, strict=True):
                torch.testing.assert_close(
                    fast[row, head, mask].double(), expected, rtol=1e-5, atol=1e-5
                )


def by_hand(merge, **options):
    """Entries 0 and 1 stay; 2 and 3 resemble 0 (cosines 0.8 and 1), 4 resembles 1 (cosine 0.6)."""
    keys = torch.tensor([[1.0, 0], [0, 1], [4, 3], [2, 0], [-4, 3]])[None, None]
    values = torch.tensor([[10.0, 0], [20, 0], [0, 10], [6, 2], [0, 100]])[None, None]
    scores = torch.tensor([[[5.0, 4, 3, 2, 1]]])
    media = torch.ones(1, 5, dtype=torch.bool)
    chosen = choose(scores, media, media, shares(0.4, 0.0))
    return shrink(keys, values, chosen, merge, **options)


@pytest.mark.parametrize(
    ("merge", "keys", "values"),
    [
        (None, [[1, 0], [0, 1]], [[10, 0], [20, 0]]),
        ("averaged", [[7 / 3, 1], [-2, 2]], [[16 / 3, 4], [10, 50]]),
        (
            "weighted",
            [[(1 + 0.8 * 4 + 2) / 3, 0.8 * 3 / 3], [-1.2, 1.4]],
            [[16 / 3, (8 + 2) / 3], [10, 30]],
        ),
        ("pivotal", [[(1 + 2.5 + 1.5) / 3, 0.5], [-1, 1.5]], [[23 / 3, 2], [15, 25]]),
    ],
)
def test_merges_by_hand(merge, keys, values):
    new_keys, new_values = by_hand(merge)
    torch.testing.assert_close(new_keys[0, 0], torch.tensor(keys, dtype=torch.float32))
    torch.testing.assert_close(new_values[0, 0], torch.tensor(values, dtype=torch.float32))


def test_evicted_entries_that_resemble_nothing_can_be_left_out():
    """Their mean cosine is 0.8, so the one at 0.6 goes; a mean includes those that stay."""
    keys, values = by_hand("averaged", alike_only=True)
    torch.testing.assert_close(keys[0, 0], torch.tensor([[7 / 3, 1], [0, 1]]))
    torch.testing.assert_close(values[0, 0], torch.tensor([[16 / 3, 4], [20, 0]]))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_entries_into_which_nothing_is_merged_stay_to_the_bit(kind):
    keys, values = draw(1, 1, 40, 6).to(kind), draw(1, 1, 40, 6, seed=1).to(kind)
    keys[:, :, 20:] = keys[:, :, :1] * torch.linspace(1, 2, 20, dtype=kind)[:, None]
    scores = torch.arange(40.0, 0, -1)[None, None]
    media = torch.ones(1, 40, dtype=torch.bool)
    chosen = choose(scores, media, media, shares(0.5, 0.0))
    new_keys, new_values = shrink(keys, values, chosen, "pivotal")
    assert new_keys.dtype == new_values.dtype == kind
    assert torch.equal(new_keys[:, :, 1:], keys[:, :, 1:20])
    assert torch.equal(new_values[:, :, 1:], values[:, :, 1:20])
    assert not torch.equal(new_values[:, :, 0], values[:, :, 0])
