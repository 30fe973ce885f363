"""Answers: the normal form of the VQA evaluation, soft accuracy, and who says yes too often."""

import numpy as np
import pytest

from sensorium.tasks.intervals import Metric
from sensorium.tasks.metrics import answer_scores
from sensorium.tasks.texts import answer_accuracy, normalise_answer, says_yes


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        ("  A red\tcar \n", "red car"),
        ("The Two dogs", "2 dogs"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("im", "im"),
        ("well", "well"),
        ("man's", "man's"),
        # a sign is a blank where it stands between letters, and nothing where a blank is beside it
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("black, white", "black white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("what?!", "what"),
        # a comma between digits takes all signs away
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        # full stops stay before digits
        ("2.5", "2.5"),
        ("p.m.", "pm"),
        ("no. 5", "no 5"),
        ("a", ""),
        ("", ""),
        ("Один", "один"),
    ],
)
def test_the_normal_form_of_an_answer(answer, expected):
    assert normalise_answer(answer) == expected


@pytest.mark.parametrize("answer", ["Yes.", "The Two t-shirts", "yall'd've", "1,000 dogs"])
def test_the_normal_form_stays_as_it_is(answer):
    once = normalise_answer(answer)
    assert normalise_answer(once) == once


@pytest.mark.parametrize(
    ("same", "expected"),
    # the mean over the nine that are left: of 10, `same` have same - 1 others and 10 - same have same
    [(0, 0), (1, 0.3), (2, (2 / 3 + 8 * 2 / 3) / 10), (3, (3 * 2 / 3 + 7) / 10), (4, 1), (10, 1)],
)
def test_soft_accuracy_against_ten_people(same, expected):
    people = ["The dog."] * same + [f"cat {i}" for i in range(10 - same)]
    found = answer_accuracy("dog", people)
    assert found == pytest.approx(expected)
    left_out = [
        min(1, sum(normalise_answer(a) == "dog" for j, a in enumerate(people) if j != i) / 3)
        for i in range(10)
    ]
    assert found == pytest.approx(np.mean(left_out))


def test_one_of_several_answers_is_enough_unless_they_are_of_ten_people():
    assert answer_accuracy("two", ["2"]) == 1
    assert answer_accuracy("sofa", ["couch", "Sofa"]) == 1
    assert answer_accuracy("chair", ["couch", "Sofa"]) == 0
    assert answer_accuracy("sofa", ["couch", "Sofa"] * 5) == 1
    assert answer_accuracy("sofa", ["sofa", *["couch"] * 9]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("yes", True),
        ("No", False),
        ("no, there is none", False),
        ("There is not a cat. Yes.", False),
        ("Yes. Not one, but two.", True),
        ("nothing", True),
        ("", True),
    ],
)
def test_an_answer_says_yes_unless_its_first_sentence_denies(answer, yes):
    assert says_yes(answer) is yes


def values(scores):
    return {key: metric.value for key, metric in scores.metrics.items()}


def test_accuracy_overall_and_by_kind():
    answers = ["Red.", "blue", "a two", "3"]
    right = [["red"], ["red"], ["2"], ["4", "5"]]
    kinds = np.array(["colour", "colour", "count", "count"])
    scores = answer_scores(answers, right, kinds, np.array([5, 5, 6, 6]))
    assert values(scores) == {"accuracy": 0.5, "accuracy/colour": 0.5, "accuracy/count": 0.5}
    assert scores.per_row["accuracy"].tolist() == [1, 0, 1, 0]
    assert scores.per_row["accuracy/count"].tolist() == [1, 0]
    assert scores.groups["accuracy/count"].tolist() == [6, 6]
    assert scores.counts["accuracy/count/questions"] == 2
    # both groups have the accuracy 0.5, and are drawn as a whole
    assert scores.metrics["accuracy"] == Metric(0.5, 0.5, 0.5)


def test_yes_and_no_are_scored_as_a_detector_of_what_is_there():
    #          hit, hit, missed, made up, made up, made up, rightly denied, a colour
    answers = ["Yes, a cat.", "yes", "no", "yes", "It is.", "yes", "There is no cat.", "red"]
    right = [["yes"]] * 3 + [["no"]] * 4 + [["red"]]
    kinds = np.array(["exists"] * 7 + ["colour"])
    scores = values(answer_scores(answers, right, kinds))
    assert scores["yes_no_accuracy/exists"] == pytest.approx(3 / 7)
    assert scores["yes_no_precision/exists"] == pytest.approx(2 / 5)
    assert scores["yes_no_recall/exists"] == pytest.approx(2 / 3)
    assert scores["yes_no_F1/exists"] == pytest.approx(2 * 0.4 * (2 / 3) / (0.4 + 2 / 3))
    assert scores["yes_share/exists"] == pytest.approx(5 / 7)
    # word for word, "Yes, a cat." is not the answer
    assert scores["accuracy/exists"] == pytest.approx(1 / 7)
    assert not any("colour" in key for key in scores if key.startswith("yes_"))


def test_who_always_denies_has_no_precision_but_a_recall():
    scores = answer_scores(["no", "no"], [["yes"], ["no"]])
    assert scores.metrics["yes_no_precision"] == Metric(None)
    assert values(scores)["yes_no_recall"] == 0
    assert values(scores)["yes_share"] == 0
    assert "yes_no_F1" not in answer_scores(["no"], [["maybe"]]).metrics


def test_of_ten_people_most_decide_whether_it_is_there():
    people = ["yes"] * 6 + ["no"] * 3 + ["maybe"]
    scores = values(answer_scores(["yes", "yes"], [people, ["no"] * 10]))
    assert scores["yes_no_precision"] == 0.5
    assert scores["accuracy"] == pytest.approx((1 + 0) / 2)


def test_lengths_that_differ_are_refused():
    with pytest.raises((ValueError, TypeError), match=r"references: expected 2, not 1"):
        answer_scores(["a", "b"], [["a"]])
    with pytest.raises((ValueError, TypeError), match=r"kinds: expected 2, not 1"):
        answer_scores(["a", "b"], [["a"], ["b"]], np.array(["x"]))
