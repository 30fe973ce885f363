"""Words of captions as the COCO caption evaluation takes them: Penn Treebank, without punctuation.

- Lower case. Clitics are words of their own (`isn't` is `is n't`, `dog's` is `dog 's`), as are the
  halves of `cannot`, `gonna`, `wanna` and the like.
- Hyphenated words, numbers, dates, fractions, addresses, acronyms and abbreviations stay whole.
- Brackets are written `-lrb-`, `-rrb-`, `-lsb-`, ... and stay: the evaluation leaves them out in
  upper case only, after making them lower case.
- Quotes, stops, commas, colons, semicolons, dashes, dots, and single `?` and `!` are left out.

Of the rules of the tokenizer that the evaluation calls, these are the ones that captions meet. Not
imitated: smileys, markup, telephone numbers, rare abbreviations, and what the next line decides. It is
made for English: where no blanks stand between words, as in Chinese, a sentence is one word.
"""

from __future__ import annotations

import re

_LEFT_OUT = frozenset(["'", '"', "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# Signs that the tokenizer writes in another way, by the plain ones that it then knows.
_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2013\u2014\u2015", " -- "),
        "\u2026": " ... ",
        "\u20ac": "$",
        "\u00a3": "#",
    }
)

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

# A full stop after these belongs to them; after those of the second list, if a number follows.
_SHORT = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri inc co corp ltd jr
    sr bros mr mrs ms dr drs prof gen col lt capt sgt rev gov sen rep st ave mt ft dept blvd rd vs etc
    calif fla ph.d
"""
_SHORT_BEFORE_NUMBER = "no nos vol fig pp ch sec"

_LETTER = r"[^\W\d_]"
# Repetitions are bounded where they could be tried anew at each character of a long text.
_TOKEN = re.compile(
    rf"""
    https?://[^\s<>"()]*[^\s<>"().,;:!?']
  | \w[\w.%+-]{{0,63}}@[\w-]{{1,63}}(?:\.[\w-]{{1,63}}){{1,8}}  # an address
  | \w(?:[\w-]{{0,62}}\.){{1,8}}(?:com|net|org|edu)\b(?:/[^\s"()]*\w)?
  | [@\#][a-z_]\w*
  | can(?=not\b) | gon(?=na\b) | got(?=ta\b) | wan(?=na\b) | lem(?=me\b) | gim(?=me\b)
  | y'(?=all\b) | 't(?=is\b|was\b)
  | \d{{1,2}}([-/])\d{{1,2}}\1\d{{2,4}}(?!\w)              # a date
  | (?:\d{{1,4}}-)?\d{{1,4}}/\d{{1,4}}(?![\w/])             # a fraction
  | [-+]?(?:\d+(?:[.,:]\d+)+|[.,]\d+)(?![\d-]) | [-+]?\d+(?![\w-]|[.:]\w)
  | (?:{"|".join(_SHORT.split())})\.(?!\w)
  | (?:{"|".join(_SHORT_BEFORE_NUMBER.split())})\.(?=\s?\d)
  | (?:{_LETTER}\.){{2,}}(?!\w) | {_LETTER}\.(?=\s+\S)     # an acronym, an initial
  | (?-i:[A-Z]+(?:[+&][A-Z]+)+)
  | {_LETTER}+?(?=n't(?!\w)) | n't(?!\w)
  | '(?:s|m|d|re|ve|ll|em)(?!\w) | '\d\ds?(?!\w) | 'n'?(?!\w)
  | (?:[dol]')?[^\W_]+(?:(?:[._-]|[!?](?={_LETTER})|(?<=\d)[,:](?=\d))[^\W_]+)*
      (?:/[^\W_]+(?:-[^\W_]+)*){{0,2}}
  | --+ | [!?]+ | \*+ | \#+ | __+ | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(text: str) -> list[str]:
    """The words of a caption."""
    found = (match.group().lower() for match in _TOKEN.finditer(text.translate(_SAME)))
    return [_BRACKETS.get(token, token) for token in found if token not in _LEFT_OUT]
