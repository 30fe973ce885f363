"""InterBERT against numbers that the released code gave.

They were recorded from a small model of the release (github.com/black4321/InterBERT, 7ccabb1), whose
weights are a function of their names, so that they can be made again here.
"""

import numpy as np
import pytest
import torch

from sensorium.modalities.text import Tokenizer
from sensorium.nn.regions import Regions
from sensorium.objectives.masked import masked_class_loss, masked_word_loss
from sensorium.objectives.matching import matching_loss
from sensorium.systems.fusion.inputs import Inputs
from sensorium.systems.fusion.interbert import InterBERT, InterBERTConfig
from sensorium.systems.fusion.interbert_weights import convert
from sensorium.types import Field, Schema, draws

WIDTH, HIDDEN, POOLED, FEATURES, CLASSES, WORDS = 16, 64, 12, 8, 3, 260

MATCH = [[0.62471169, -0.01166674], [0.97121257, 0.22363535]]
REGIONS = [
    [[0.82211816, 1.29931581, -2.03539348], [0.67641872, 1.52768433, -2.34950972]],
    [
        [-0.13276547, 0.84024680, -2.58827972],
        [-0.13299978, 0.96840906, -2.63649917],
        [0.15907946, 1.32898235, -2.53958178],
    ],
]
WORD_SCORES = [  # of the words 30, 60 and 200
    [
        [0.09055409, -0.92007607, -0.66816688],
        [0.05446178, -0.83974171, -0.79950118],
        [0.07720849, -0.61116487, -0.74420792],
        [0.00170743, -0.90638310, -0.57512826],
        [0.21682832, -0.83416539, -0.82639694],
    ],
    [
        [0.23282340, -0.62528986, -1.01243150],
        [0.42215124, -0.54086840, -1.10074008],
        [0.13498130, -0.72475225, -0.89824522],
    ],
]
LOSSES = {"words": 6.54364204, "regions": 0.70630807, "match": 0.77998722}


def shapes(joint=2, split=2):
    """Names and shapes in the release."""
    named = {
        "bert.embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "bert.embeddings.position_embeddings.weight": (512, WIDTH),
        "bert.embeddings.token_type_embeddings.weight": (2, WIDTH),
        "cls.predictions.bias": (WORDS,),
    }
    linear = {
        "bert.v_embeddings.image_embeddings": (WIDTH, FEATURES),
        "bert.v_embeddings.image_location_embeddings": (WIDTH, 5),
        "bert.t_pooler.dense": (POOLED, WIDTH),
        "bert.v_pooler.dense": (POOLED, WIDTH),
        "cls.predictions.transform.dense": (WIDTH, WIDTH),
        "cls.bi_seq_relationship": (2, POOLED),
        "cls.imagePredictions.transform.dense": (WIDTH, WIDTH),
        "cls.imagePredictions.decoder": (CLASSES, WIDTH),
        "vil_prediction": (5, POOLED),
        "vil_logit": (1, POOLED),
        "vision_logit": (1, WIDTH),
        "linguisic_logit": (1, WIDTH),
    }
    norms = [
        "bert.embeddings.LayerNorm",
        "bert.v_embeddings.LayerNorm",
        "cls.predictions.transform.LayerNorm",
        "cls.imagePredictions.transform.LayerNorm",
    ]
    layers = [f"layer.{i}" for i in range(joint + split)] + [f"v_layer.{i}" for i in range(split)]
    for layer in (f"bert.encoder.{name}" for name in layers):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear[f"{layer}.attention.{part}"] = (WIDTH, WIDTH)
        linear[f"{layer}.intermediate.dense"] = (HIDDEN, WIDTH)
        linear[f"{layer}.output.dense"] = (WIDTH, HIDDEN)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, shape in linear.items():
        named |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        named |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    return named


def weights():
    """The weights of the recording."""
    made = {}
    for name, shape in shapes().items():
        uniform = draws.uniform(name, np.arange(int(np.prod(shape))))
        made[name] = torch.from_numpy(uniform - 0.5).float().view(shape)
        if name.endswith("LayerNorm.weight"):
            made[name] += 1
    made["cls.predictions.decoder.weight"] = made["bert.embeddings.word_embeddings.weight"]
    return made


@pytest.fixture(scope="module")
def system():
    fitted = {"classes": [str(number) for number in range(CLASSES)]}
    schema = Schema(
        fields=(
            Field(name="image", modality="image", role="query"),
            Field(name="boxes", modality="boxes", of="image"),
            Field(name="things", modality="category", of="boxes", fitted=fitted),
            Field(name="caption", modality="text", role="target"),
        )
    )
    sizes = {"width": WIDTH, "heads": 4, "image_heads": 2, "joint_layers": 2, "split_layers": 2}
    sizes |= {"pooled_width": POOLED, "region_width": FEATURES}
    config = InterBERTConfig.paper().override(sizes)
    tokenizer = Tokenizer.train(["a"], WORDS)
    assert tokenizer.size == WORDS
    system = InterBERT(config, schema, tokenizer).eval()
    # What the release has not is the detector.
    missing, unexpected = system.load_state_dict(convert(weights(), 2), strict=False)
    assert not unexpected
    assert all(name.startswith(("read.encoder.", "object_head.")) for name in missing)
    return system


@pytest.fixture(scope="module")
def inputs():
    features = torch.cos(torch.arange(2 * 3 * 8, dtype=torch.float64) * 0.9).view(2, 3, 8).float()
    features[0, 2] = 0
    boxes = torch.tensor(
        [
            [[0.0, 0.0, 0.5, 0.5], [0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.0]],
            [[0.0, 0.0, 1.0, 0.5], [0.5, 0.5, 1.0, 1.0], [0.1, 0.2, 0.3, 0.8]],
        ]
    )
    real = torch.tensor([[True, True, False], [True, True, True]])
    ids = torch.tensor([[1, 30, 40, 50, 2], [1, 60, 2, 0, 0]])
    return Inputs(Regions(features, boxes, real), ids, ids > 0)


@pytest.fixture(scope="module")
def outputs(system, inputs):
    """Match, region and word scores."""
    with torch.no_grad():
        image, text = system.encode(inputs)
        words = system.word_transform(text.values) @ system.word_embedding.words.weight.T
        regions = system.region_head(system.region_transform(image.values[:, 1:]))
        return system.match_head(system.fuse(image, text)), regions, words + system.word_bias


def test_scores_are_those_of_the_release(inputs, outputs):
    match, regions, words = outputs
    torch.testing.assert_close(match, torch.tensor(MATCH), atol=1e-5, rtol=0)
    for row in range(2):
        real = inputs.regions.mask[row]
        expected = torch.tensor(REGIONS[row])
        torch.testing.assert_close(regions[row][real], expected, atol=1e-5, rtol=0)
        expected = torch.tensor(WORD_SCORES[row])
        found = words[row][inputs.mask[row]][:, [30, 60, 200]]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_losses_are_those_of_the_release(outputs):
    """The second row is a false pair: its words count, its hidden regions do not."""
    match, regions, words = outputs
    found = {
        "words": masked_word_loss(words[[0, 1], [1, 1]], torch.tensor([30, 60])),
        "regions": masked_class_loss(regions[0, :1], torch.tensor([[0.9, 0.05, 0.05]])),
    }
    is_pair = torch.tensor([True, False])
    values = {name: float(loss.value) for name, loss in found.items()}
    values["match"] = float(matching_loss(match, is_pair, match_class=0).mean())
    assert values == pytest.approx(LOSSES, abs=1e-5)
