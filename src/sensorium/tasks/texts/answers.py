"""Answers to questions about pictures: when two say the same, and when one says yes.

Normalised and compared as in the VQA evaluation (Antol et al., 2015, arXiv 1505.00468; Goyal et al.,
2017, arXiv 1612.00837), except that answers are normalised even where all people gave the same one,
so that "Yes." is right there, too, and that any number of full stops is left out.

Whether an answer says yes is read as POPE does (Li et al., 2023, arXiv 2305.10355).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PEOPLE = 10
"""Answers that a question has where people may disagree."""

_ENOUGH = 3
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_STOP = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

# Written without one of their apostrophes these mean the same, and are no other word.
_WITH_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd
    you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for place in range(len(word))
    if word[place] == "'"
}


def normalise_answer(answer: str) -> str:
    """An answer in the form in which answers are compared.

    Lower case, without articles; number words up to ten are digits; contractions have their
    apostrophes. A sign that stands beside a blank somewhere in the answer is left out, as are all
    signs if there is a comma between digits (`1,000`); another one becomes a blank. Full stops are left
    out unless a digit follows.
    """
    text = " ".join(answer.split())
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    signs: dict[str, str | int | None] = {
        sign: "" if in_number or f"{sign} " in text or f" {sign}" in text else " "
        for sign in _SIGNS
    }
    text = _STOP.sub("", text.translate(str.maketrans(signs)))
    numbered = [_NUMBERS.get(word, word) for word in text.lower().split()]
    words = [_CONTRACTIONS.get(word, word) for word in numbered if word not in _ARTICLES]
    return " ".join(words)


def answer_accuracy(answer: str, references: Sequence[str]) -> float:
    """How right an answer is, from 0 to 1.

    Against the answers of ten people: the mean over all nine of them of min(1, how many said it / 3).
    Else 1 if it is one of the references.
    """
    said = normalise_answer(answer)
    same = sum(normalise_answer(reference) == said for reference in references)
    if len(references) != PEOPLE:
        return float(same > 0)
    with_one_left_out = same * min(_ENOUGH, same - 1) + (PEOPLE - same) * min(_ENOUGH, same)
    return with_one_left_out / (_ENOUGH * PEOPLE)


def says_yes(answer: str) -> bool:
    """Whether an answer to a yes/no question is no denial: no "no" or "not" in its first sentence."""
    words = answer.partition(".")[0].replace(",", "").lower().split()
    return not {"no", "not"} & set(words)


__all__ = ["PEOPLE", "answer_accuracy", "normalise_answer", "says_yes"]
