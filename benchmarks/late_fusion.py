"""`late-fusion` against AutoGluon's MultiModalPredictor on the same rows in the same time.

Rows of the playground's view `attributes` without the sound: pictures of 64 pixels, captions, and a table
of six columns; eight classes. Both train encoders from scratch, since there are no pretrained weights
here: ours its own, AutoGluon a ResNet-10, a BERT of two layers and MLPs, each with a seed for each repeat.
What a model scores at best without the sound is 0.75, chance is 0.125.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

import sensorium as sm
from harness import Figure, Result, Settings, Target
from sensorium.data.dataset import Data

ROWS = {"train": 2000, "validation": 200, "test": 1000}
VIEW = "playground:attributes?size=64&" + "&".join(f"{k}={v}" for k, v in ROWS.items())
COLUMNS = ("caption", "weight", "area", "price", "material", "place", "day", "label")
SECONDS = 60
IMAGE_SIZE = 64


def measure(settings: Settings) -> Result:
    """Accuracy on the test rows, and the seconds that fitting took."""
    torch.set_num_threads(settings.threads)
    # The compiled part of torchvision may be for another build of torch than this one; it is not used
    # here, but cannot be imported unless these operators have been named.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = without_sound(sm.open(VIEW))
        tables = write_tables(data, folder)
        write_encoders(tables["train"], folder)
        for seed in range(settings.repeats):
            found["ours"].append(our_run(data, folder / f"ours-{seed}", seed))
            limit = found["ours"][-1][1]
            found["theirs"].append(their_run(tables, folder, seed, limit))
    ours, theirs = (list(zip(*runs, strict=True)) for runs in found.values())
    from autogluon.multimodal import __version__

    peer = f"AutoGluon {__version__}"
    return Result(
        [
            Figure(
                f"accuracy on {ROWS['test']:,} rows in equal time",
                "",
                ours[0],
                peer,
                theirs[0],
                Target("at least", 1.0),
            ),
            Figure("seconds of fitting", "s", ours[1], peer, theirs[1]),
        ],
        [
            "A repeat is a seed. Fitting is all that the call does, checks and files included. Ours "
            f"was given {SECONDS} s of training, AutoGluon then the seconds that ours had taken in all."
        ],
        ["autogluon.multimodal", "timm"],
    )


def without_sound(data: Data) -> Data:
    """Fields that both read."""
    unused = [data.schema[name].replace(role="ignore") for name in ("sound", "value")]
    return data.with_schema(data.schema.replace(*unused))


def write_tables(data: Data, folder: Path) -> dict[str, pd.DataFrame]:
    """The rows of each split, with pictures as files."""
    tables = {}
    for split in ROWS:
        rows = data.rows(split)
        table = pd.DataFrame(data.columns(list(COLUMNS), rows))
        paths = [folder / f"{split}-{number}.png" for number in range(len(rows))]
        for path, picture in zip(paths, data.columns(["image"], rows)["image"], strict=True):
            Image.fromarray(picture).save(path)
        table.insert(0, "image", [str(path) for path in paths])
        tables[split] = table
    return tables


def our_run(data: Data, folder: Path, seed: int) -> tuple[float, float]:
    """Accuracy and seconds of `late-fusion`."""
    begin = time.perf_counter()
    run = sm.train("late-fusion", data, out=folder, target="label", budget=f"{SECONDS}s", seed=seed)
    seconds = time.perf_counter() - begin
    return float(sm.evaluate(run).scores.metrics["accuracy"].value), seconds


def their_run(
    tables: dict[str, pd.DataFrame], folder: Path, seed: int, limit: float
) -> tuple[float, float]:
    """Accuracy and seconds of AutoGluon.

    Settings are its defaults but for what suits encoders without pretrained weights and pictures whose
    colours matter: one learning rate for all layers, a larger one, no change of colours.
    """
    from autogluon.multimodal import MultiModalPredictor

    path = folder / "autogluon"
    shutil.rmtree(path, ignore_errors=True)
    predictor = MultiModalPredictor(
        label="label", problem_type="multiclass", path=str(path), verbosity=0
    )
    begin = time.perf_counter()
    predictor.fit(
        tables["train"],
        tuning_data=tables["validation"],
        time_limit=round(limit),
        seed=seed,
        hyperparameters={
            "model.names": [
                "timm_image",
                "hf_text",
                "numerical_mlp",
                "categorical_mlp",
                "fusion_mlp",
            ],
            "model.timm_image.checkpoint_name": str(folder / "resnet"),
            "model.timm_image.image_size": IMAGE_SIZE,
            "model.hf_text.checkpoint_name": str(folder / "bert"),
            "env.num_gpus": 0,
            "env.num_workers": 0,
            "env.num_workers_inference": 0,
            "env.batch_size": 64,
            "env.per_gpu_batch_size": 64,
            "model.timm_image.train_transforms": ["resize_shorter_side", "center_crop"],
            "optim.lr": 1e-3,
            "optim.lr_choice": "single_stage",
            "optim.max_epochs": 100,
        },
    )
    seconds = time.perf_counter() - begin
    return float(predictor.evaluate(tables["test"], metrics=["accuracy"])["accuracy"]), seconds


def write_encoders(table: pd.DataFrame, folder: Path) -> None:
    """Random weights in the layouts of which AutoGluon takes its encoders."""
    import timm
    import transformers

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    (folder / "resnet").mkdir()
    torch.save(model.state_dict(), folder / "resnet" / "pytorch_model.bin")
    settings = {"architecture": "resnet10t", "num_features": model.num_features, "num_classes": 0}
    settings["pretrained_cfg"] = {
        key: value for key, value in model.pretrained_cfg.items() if isinstance(value, (int, tuple))
    }
    (folder / "resnet" / "config.json").write_text(json.dumps(settings))
    words = sorted({word for caption in table["caption"] for word in caption.lower().split()})
    (folder / "bert").mkdir()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "bert" / "vocab.txt").write_text("\n".join([*specials, *words]))
    tokenizer = transformers.BertTokenizerFast(str(folder / "bert" / "vocab.txt"))
    tokenizer.save_pretrained(folder / "bert")
    config = transformers.BertConfig(
        vocab_size=len(specials) + len(words),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
    )
    transformers.BertModel(config).save_pretrained(folder / "bert")
