"""What two texts have in common: metrics of captions and answers as pure functions of words."""

from sensorium.tasks.texts.answers import answer_accuracy, normalise_answer, says_yes
from sensorium.tasks.texts.bleu import Bleu, bleu, bleu_of_sums
from sensorium.tasks.texts.captions import Captions
from sensorium.tasks.texts.cider import cider_d
from sensorium.tasks.texts.rouge import rouge_l
from sensorium.tasks.texts.tokenization import tokenize

__all__ = [
    "Bleu",
    "Captions",
    "answer_accuracy",
    "bleu",
    "bleu_of_sums",
    "cider_d",
    "normalise_answer",
    "rouge_l",
    "says_yes",
    "tokenize",
]
