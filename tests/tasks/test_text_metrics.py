"""Words of captions, and BLEU, ROUGE-L and CIDEr-D: equal to the reference package, and by hand."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu as ReferenceBleu
from pycocoevalcap.cider.cider import Cider as ReferenceCider
from pycocoevalcap.rouge.rouge import Rouge as ReferenceRouge

from sensorium.tasks.metrics import caption_scores
from sensorium.tasks.texts import Captions, bleu, bleu_of_sums, cider_d, rouge_l, tokenize
from sensorium.tasks.texts.rouge import longest_common

# What the tokenizer of the evaluation makes of these, without the punctuation it leaves out.
TOKENIZED = {
    "A man riding a wave.": "a man riding a wave",
    "A man's dog isn't barking; it's fine!": "a man 's dog is n't barking it 's fine",
    "don't won't can't they're we've I'll she'd": (
        "do n't wo n't ca n't they 're we 've i 'll she 'd"
    ),
    "I cannot go. Gonna eat, gotta run, wanna play, lemme": (
        "i can not go gon na eat got ta run wan na play lem me"
    ),
    "Y'all 'tis 'twas": "y' all 't is 't was",
    "two dogs' bowls; children's toys,and more": "two dogs bowls children 's toys and more",
    "A \"stop\" sign that's 'red'": "a stop sign that 's red",
    "“Quoted” text’s end – with a dash — and …": "quoted text 's end with a dash and",
    "A black-and-white t-shirt, half-eaten": "a black-and-white t-shirt half-eaten",
    "He paid $5.50 for 1,000 apples & 50% off": "he paid $ 5.50 for 1,000 apples & 50 % off",
    "A cat (very big) on [the] {mat}": "a cat -lrb- very big -rrb- on -lsb- the -rsb- -lcb- mat -rcb-",
    "and/or black/white 3/4 of 1/2": "and/or black/white 3/4 of 1/2",
    "at 5:30 p.m. or 2:30pm, 10am": "at 5:30 p.m. or 2:30 pm 10am",
    "the U.S. flag, Mr. Smith, Main St. etc.": "the u.s. flag mr. smith main st. etc.",
    "no. 5, no.": "no. 5 no",
    "wow!!! really?! yes! no?": "wow !!! really ?! yes no",
    "sat -- on the mat... really": "sat on the mat really",
    "see http://www.a.com/b?c=d or a.b@c.com @user #tag": (
        "see http://www.a.com/b?c=d or a.b@c.com @user #tag"
    ),
    "R&B from AT&T, x=y": "r&b from at&t x = y",
    "the '90s and 1950's 4x4 3.5-inch 20-30": "the '90s and 1950 's 4x4 3.5-inch 20-30",
    "5 o'clock rock 'n' roll": "5 o'clock rock 'n' roll",
    "café naïve Straße 中文 句子": "café naïve straße 中文 句子",
    "  two   spaces\tand\nlines ": "two spaces and lines",
    "": "",
    " .,;:'\"`- ": "",
}


@pytest.mark.parametrize(("text", "words"), TOKENIZED.items())
def test_words_are_those_of_the_tokenizer_of_the_evaluation(text, words):
    assert tokenize(text) == words.split()


@pytest.mark.parametrize("part", ["a%", "-.", "a@", "1/", "n't", "a.", "'", "x-"])
def test_long_texts_take_no_more_than_their_length(part):
    started = time.process_time()
    tokenize(part * 20_000)
    assert time.process_time() - started < 3


def said(text):
    return text.split()


def reference(candidates, references):
    """What the reference package makes of lists of words: BLEU of all and of rows, ROUGE-L, CIDEr-D."""
    written = {row: [" ".join(words)] for row, words in enumerate(candidates)}
    right = {row: [" ".join(words) for words in texts] for row, texts in enumerate(references)}
    total, each = ReferenceBleu(4).compute_score(right, written, verbose=0)
    rouge = ReferenceRouge().compute_score(right, written)[1]
    return total, each, rouge, ReferenceCider().compute_score(right, written)[1]


def check_equal(candidates, references):
    captions = Captions(candidates, references)
    total, each, rouge, cider = reference(candidates, references)
    np.testing.assert_allclose(bleu(captions).total, total, rtol=0, atol=1e-12)
    np.testing.assert_allclose(bleu(captions).per_row, each, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rouge_l(captions), rouge, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cider_d(captions), cider, rtol=0, atol=1e-12)


WORDS = st.lists(st.sampled_from([*"abcde", "a-long-one"]), min_size=1, max_size=14)
ROWS = st.lists(
    st.tuples(WORDS | st.just([]), st.lists(WORDS, min_size=1, max_size=5)), min_size=1, max_size=7
)


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_metrics_equal_the_reference_package(rows):
    candidates, references = (list(side) for side in zip(*rows, strict=True))
    check_equal(candidates, references)


def test_metrics_equal_the_reference_package_on_many_unequal_texts():
    random = np.random.default_rng(0)
    vocabulary = np.asarray([f"w{i}" for i in range(300)])

    def text(longest):
        return vocabulary[random.zipf(1.4, random.integers(1, longest)) % 300].tolist()

    references = [[text(30) for _ in range(random.integers(1, 7))] for _ in range(150)]
    # candidates of all degrees: copies, copies with words taken out, something else
    candidates = [
        [w for w in row[0] if random.random() < keep] if keep else text(60)
        for row, keep in zip(references, random.choice([0, 0.5, 0.8, 1], 150), strict=True)
    ]
    candidates[3], references[4] = ["w1"] * 200, [["w1", "w2"] * 150]
    check_equal(candidates, references)


def test_bleu_by_hand():
    # clipped: "the" counts twice, as often as one reference has it (Papineni et al., 2002)
    captions = Captions(
        [["the"] * 7], [[said("the cat is on the mat"), said("there is a cat on the mat")]]
    )
    assert bleu(captions).total[0] == pytest.approx(2 / 7, abs=1e-8)
    # of references of 2 and 4 words a candidate of 3 takes the shorter; one of 3 and 5 the nearer
    short = Captions([list("abc")], [[list("ab"), list("abcd")]])
    assert bleu(short).total[2] == pytest.approx(1, abs=1e-8)
    brief = Captions([list("abc")], [[list("abcde"), list("abcd")]])
    assert bleu(brief).total[2] == pytest.approx(math.exp(1 - 4 / 3), abs=1e-8)


def test_bleu_of_a_set_is_that_of_the_sums_of_its_rows():
    captions = Captions(
        [list("abcdx"), list("efgh")], [[list("abcd")], [list("efghi"), list("ef")]]
    )
    found = bleu(captions)
    # 4 + 4 of 9 words, 3 + 3 of 7 pairs, 2 + 2 of 5 triples, 1 + 1 of 3; length 9 of 4 + 5
    precisions = [8 / 9, 6 / 7, 4 / 5, 2 / 3]
    for length in range(1, 5):
        expected = math.prod(precisions[:length]) ** (1 / length)
        assert found.total[length - 1] == pytest.approx(expected, abs=1e-8)
    assert found.total[3] != pytest.approx(found.per_row[3].mean(), abs=1e-3)
    np.testing.assert_array_equal(bleu_of_sums(found.sums[:, :1]), found.per_row[:, :1])


def test_rouge_by_hand():
    # the longest common subsequence of "a b c d" and "a x c d e" is "a c d"
    captions = Captions([list("abcd")], [[list("axcde")]])
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(captions)[0] == pytest.approx(expected)


def test_rouge_takes_the_best_precision_and_the_best_recall_of_all_references():
    captions = Captions([list("abcd")], [[list("abcdefgh"), list("ab")]])
    # precision 1 with the first, recall 1 with the second
    assert rouge_l(captions)[0] == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_the_longest_common_subsequence_equals_the_slow_one(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
            )
    captions = Captions([first], [[second]])
    pairs = np.asarray([0, 1]), np.asarray([1, 0])
    assert longest_common(captions, *pairs).tolist() == [table[-1, -1]] * 2


def test_cider_by_hand():
    # Two rows. All words but "the" are in the references of one row, so log 2 is their weight; "the" has
    # none. No pair of words is shared: two of the four lengths count nothing, single words half.
    captions = Captions(
        [said("the cat sat"), said("the dog")], [[said("the cat ran")], [said("the dog")]]
    )
    # words: cat . cat / (|cat sat| |cat ran|) = 1/2; "the cat": 1 / (sqrt 2 sqrt 2); triples: nothing
    assert cider_d(captions)[0] == pytest.approx(10 * (1 / 2 + 1 / 2) / 4)
    # the same words, one pair more: only lengths of one and two words exist
    assert cider_d(captions)[1] == pytest.approx(10 * (1 + 1) / 4)


def test_cider_punishes_another_length_and_repetition():
    references = [[said("a red bird sings")], [said("some other words here")]]
    exact, longer, repeated = (
        cider_d(Captions([text.split(), ["x"]], references))[0]
        for text in ("a red bird sings", "a red bird sings now now now", "a red bird sings sings")
    )
    assert exact == pytest.approx(10)
    assert repeated < exact
    # a reference has one "sings" only, and what is beyond it counts nothing
    assert longer < exact * math.exp(-(3**2) / (2 * 36))


def test_of_one_row_alone_nothing_is_rare():
    assert cider_d(Captions([["a", "b"]], [[["a", "b"]]])).tolist() == [0]


def test_rows_can_come_in_any_order_and_references_too():
    texts = [f"a {a} {b} on the {c}".split() for a in "xy" for b in "uv" for c in "mn"]
    references = [[texts[i], texts[i - 1], texts[i - 3]] for i in range(8)]
    candidates = texts[2:] + texts[:2]
    forward = Captions(candidates, references)
    backward = Captions(candidates[::-1], [row[::-1] for row in references[::-1]])
    for metric in (rouge_l, cider_d, lambda captions: bleu(captions).per_row[3]):
        np.testing.assert_allclose(metric(forward), metric(backward)[::-1], atol=1e-12)
    np.testing.assert_allclose(bleu(forward).total, bleu(backward).total, atol=1e-12)


def test_a_row_without_references_is_refused():
    with pytest.raises(ValueError, match="row 1 has no reference"):
        Captions([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(ValueError, match="expected those of 2 rows, not of 1"):
        Captions([["a"], ["b"]], [[["a"]]])


def test_empty_texts_score_nothing_and_warn_nothing():
    captions = Captions([[], ["a"]], [[["a", "b"]], [[]]])
    assert rouge_l(captions).tolist() == cider_d(captions).tolist() == [0, 0]
    assert bleu(captions).per_row[3].max() < 1e-3


def test_scores_have_intervals_and_clusters():
    texts = ["A red cat.", "A blue dog!", "a red bird", "the green cat"]
    right = [["a red cat", "one red cat"], ["a blue dog"], ["a bird that is red"], ["a cat"]]
    scores = caption_scores(texts, right, np.array([0, 0, 1, 1]), resamples=200)
    words = Captions(
        [tokenize(text) for text in texts], [[tokenize(t) for t in row] for row in right]
    )
    assert scores.metrics["CIDEr-D"].value == pytest.approx(cider_d(words).mean())
    assert scores.metrics["ROUGE-L"].value == pytest.approx(rouge_l(words).mean())
    for length in range(1, 5):
        expected = bleu(words).total[length - 1]
        assert scores.metrics[f"BLEU-{length}"].value == pytest.approx(expected, abs=1e-12)
    # two clusters: a resample is one of them twice, or both
    of_pairs = bleu_of_sums(bleu(words).sums.reshape(10, 2, 2).sum(2))[0]
    found = scores.metrics["BLEU-1"]
    assert (found.low, found.high) == pytest.approx((of_pairs.min(), of_pairs.max()), abs=1e-8)
    assert list(scores.per_row) == ["CIDEr-D", "ROUGE-L"]
