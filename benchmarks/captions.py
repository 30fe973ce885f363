"""BLEU, ROUGE-L and CIDEr-D of 2,000 captions with five references each."""

from __future__ import annotations

import itertools

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from harness import Figure, Result, Settings, Target, rates, take_turns
from sensorium.tasks.texts import Captions, bleu, cider_d, rouge_l

PICTURES, REFERENCES, WORDS = 2000, 5, 5000
PEER = "pycocoevalcap"


def measure(settings: Settings) -> Result:
    """Each metric from lists of words, ours and the reference package's."""
    candidates, references = texts()
    # The peer takes words with blanks between them.
    right = {row: [" ".join(one) for one in several] for row, several in enumerate(references)}
    written = {row: [" ".join(words)] for row, words in enumerate(candidates)}

    def ours() -> Captions:
        return Captions(candidates, references)

    sides = {
        "BLEU": lambda: bleu(ours()).total,
        "BLEU, peer": lambda: Bleu(4).compute_score(right, written, verbose=0)[0],
        "ROUGE-L": lambda: rouge_l(ours()).mean(),
        "ROUGE-L, peer": lambda: Rouge().compute_score(right, written)[0],
        "CIDEr-D": lambda: cider_d(ours()).mean(),
        "CIDEr-D, peer": lambda: Cider().compute_score(right, written)[0],
    }
    metrics = ("BLEU", "ROUGE-L", "CIDEr-D")
    apart = max(float(np.abs(sides[m]() - sides[f"{m}, peer"]()).max()) for m in metrics)
    seconds = take_turns(sides, settings.repeats)
    figures = [
        Figure(
            f"{metric}, {PICTURES:,} captions with {REFERENCES} references",
            "captions/s",
            rates(PICTURES, seconds[metric]),
            PEER,
            rates(PICTURES, seconds[f"{metric}, peer"]),
            Target("at least", 5.0),
        )
        for metric in metrics
    ]
    name = "largest difference of BLEU-1 to 4, ROUGE-L and CIDEr-D"
    figures.append(Figure(name, "", [apart], target=Target("at most", 1e-9)))
    return Result(figures, packages=(PEER,))


def texts() -> tuple[list[list[str]], list[list[list[str]]]]:
    """Sentences of 8 to 15 words of a vocabulary in which few are frequent, as in captions.

    The references of a picture share about half of their words, and its candidate is one of them with
    two words exchanged.
    """
    random = np.random.default_rng(0)
    vocabulary = np.asarray(["".join(w) for w in itertools.product("abcdefgh", repeat=5)])[:WORDS]
    candidates, references = [], []
    for _ in range(PICTURES):
        scene = _drawn(random, 15)
        several = []
        for _ in range(REFERENCES):
            length = random.integers(8, 16)
            words = np.where(random.random(length) < 0.5, scene[:length], _drawn(random, length))
            several.append(vocabulary[words].tolist())
        candidate = list(several[0])
        for word in vocabulary[_drawn(random, 2)].tolist():
            candidate[random.integers(len(candidate))] = word
        candidates.append(candidate)
        references.append(several)
    return candidates, references


def _drawn(random: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of words, the first ones most often."""
    return random.zipf(1.3, size=count) % WORDS
