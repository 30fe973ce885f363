"""Answers from rows: each step does its part, and nothing is answered from what is not relevant."""

import numpy as np
import pytest

from sensorium.search.answering import NOTHING, answer_question, best
from sensorium.search.index import Index
from sensorium.search.readers import pieces_to_answer, pieces_to_judge
from sensorium.types import UserError

QUESTION = {"text": "Which one is dark?"}


class Reads:
    """Says what it is told to, and remembers what it has read."""

    name = "stub"

    def __init__(self, text):
        self.text, self.read = text, None

    def answer(self, question, hits):
        self.read = [hit.key for hit in hits]
        return self.text


class Ranks:
    """The last of the candidates is the best."""

    name = "backwards"

    def __init__(self, top):
        self.top = top

    def scores(self, question, hits):
        return np.linspace(0, self.top, len(hits))


@pytest.fixture(scope="module")
def opened(indexed):
    index = Index(indexed)
    return index, index.model(device="cpu")


def keys(candidates):
    return [candidate.hit.key for candidate in candidates]


def test_without_a_reranker_the_best_rows_of_the_index_are_read(opened):
    index, model = opened
    reader = Reads("All of them.")
    hits = index.search(model.ask(QUESTION), limit=8)
    answered = answer_question(*opened, QUESTION, reader, candidates=8)
    assert reader.read == [hit.key for hit in hits[:3]]
    assert keys(answered.candidates) == [hit.key for hit in hits]
    assert [each.score for each in answered.candidates] == [hit.score for hit in hits]
    assert [each.number for each in answered.candidates] == [1, 2, 3, *[None] * 5]
    assert keys(answered.cited) == reader.read  # as it names none of them
    assert (answered.text, answered.read_by) == ("All of them.", "stub")


def test_a_reranker_decides_what_is_read_and_in_which_order(opened):
    index, model = opened
    hits = index.search(model.ask(QUESTION), limit=5)
    reader = Reads("It is [2], or [9], see [2].")
    answered = answer_question(*opened, QUESTION, reader, Ranks(1.0), candidates=5)
    backwards = [hit.key for hit in reversed(hits)]
    assert keys(answered.candidates) == backwards
    assert reader.read == backwards[:3]  # 1, 0.75 and 0.5; 0.25 is not likely
    assert keys(answered.cited) == [backwards[1]]  # there is no ninth
    assert [each.hit.place for each in answered.candidates] == [5, 4, 3, 2, 1]


def test_nobody_is_asked_when_nothing_is_relevant(opened):
    reader = Reads("Still, I should say it is the first.")
    answered = answer_question(*opened, QUESTION, reader, Ranks(0.49))
    assert reader.read is None and answered.text == NOTHING
    assert answered.cited == [] and answered.read_by == "" and len(answered.candidates) == 20
    nowhere = answer_question(*opened, QUESTION, reader, Ranks(1.0), where="price > 1000")
    assert nowhere.text == NOTHING and nowhere.candidates == [] and reader.read is None


def test_rows_are_found_as_search_finds_them(opened):
    index, _ = opened
    reader = Reads("")
    asked = {"text": "nr12"}
    answered = answer_question(index, None, asked, reader, mode="text", where="price < 20")
    assert reader.read == ["thing-12"] == keys(answered.candidates)
    with pytest.raises(UserError, match="no model is given"):
        answer_question(index, None, asked, reader)
    for asked in ({}, {"text": " "}, {"image": b"..."}):
        with pytest.raises(UserError, match="give the question in words"):
            answer_question(*opened, asked, reader)


def test_a_selector_may_be_any_function(opened):
    reader = Reads("[1]")
    answered = answer_question(*opened, QUESTION, reader, selector=lambda scores: [7, 0])
    found = sorted(answered.candidates, key=lambda each: each.hit.place)
    assert reader.read == [found[7].hit.key, found[0].hit.key]
    assert keys(answered.cited) == [found[7].hit.key]


def test_the_best_are_so_many_and_none_below_the_least():
    scores = np.array([0.2, 0.9, 0.5, 0.5, 0.7])
    assert best(3)(scores) == [1, 4, 2]  # of equal ones the first
    assert best(9, least=0.5)(scores) == [1, 4, 2, 3]
    assert best(9, least=0.95)(scores) == best(3)(np.array([])) == []


def test_what_is_read_is_the_picture_and_the_words_of_each_row(opened):
    index, model = opened
    found = index.search(model.ask(QUESTION), limit=29)
    hits = [hit for hit in found if hit.key in ("thing-12", "thing-3")]
    with_picture, without = sorted(hits, key=lambda hit: hit.picture is None)
    pieces = list(pieces_to_answer({**QUESTION, "image": b"picture"}, [with_picture, without]))
    at = pieces.index("[2]")
    assert pieces[:2] == ["[1]", with_picture.picture]
    assert "nr12" in pieces[2] and "price: 12.5" in pieces[3]
    assert not any(isinstance(piece, bytes) for piece in pieces[at : at + 2])  # it has none
    assert pieces[-3:-1] == [b"picture", "Question: Which one is dark?"]
    judged = list(pieces_to_judge(QUESTION, with_picture))
    assert judged[0] == with_picture.picture and "Yes or No" in judged[-1]
