"""Overlap of words against scikit-learn."""

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfTransformer

from sensorium.objectives.overlap import word_overlap

IDS = torch.tensor([[1, 5, 6, 2, 0], [1, 5, 7, 7, 2], [1, 8, 2, 0, 0], [1, 6, 5, 2, 0]])
COUNTED = IDS > 2


def test_it_is_the_cosine_of_tf_idf_vectors():
    counts = np.stack([np.bincount(row[row > 2].numpy(), minlength=10) for row in IDS])
    # scikit-learn adds 1 to the logarithm, so that a word of all texts still counts.
    model = TfidfTransformer(norm=None).fit(counts)
    vectors = counts * (model.idf_ - 1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = word_overlap(IDS, COUNTED, 10).numpy()
    np.testing.assert_allclose(found, vectors @ vectors.T, atol=1e-6)


def test_order_padding_and_special_tokens_do_not_matter():
    found = word_overlap(IDS, COUNTED, 10)
    assert torch.allclose(found[0, 3], torch.tensor(1.0))
    assert found[0, 2] == 0
    wide = torch.nn.functional.pad(IDS, (0, 4))
    assert torch.allclose(word_overlap(wide, wide > 2, 10), found)


def test_a_text_without_words_is_like_none():
    found = word_overlap(
        torch.tensor([[1, 2], [5, 6]]), torch.tensor([[False] * 2, [True] * 2]), 10
    )
    assert found[0].tolist() == [0, 0]
