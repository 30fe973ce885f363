"""A training step of the dual encoder against CLIP in `transformers` and in `open_clip`.

ViT-B/32 at full size, random weights (the same in ours and in that of `transformers`), 16 pairs of the
playground with captions of about ten words, as long as those of COCO. A step is forward, backward and
a fused AdamW, in float32; reading and preparing the pictures is not part of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import Tensor, nn

import sensorium as sm
from harness import Figure, Result, Settings, Target, rates, take_turns
from sensorium.modalities.text import Tokenizer
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.types import Batch

VIEW = "playground:scenes?objects=2-3&caption=dense&size=224"
BATCH_SIZE, NUM_BATCHES = 16, 4
NUM_IDS, TOKENS = 49408, 77
STUBS = Path(__file__).parent / "stubs"

Step = Callable[[], Any]


def measure(settings: Settings) -> Result:
    """Pairs a second of each."""
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        ours, clip, batches = build(Path(folder))
    prepared = [theirs_of(batch, ours) for batch in batches]
    same = loss_difference(ours, clip, batches[0], prepared[0][1])
    name = f"transformers {transformers.__version__}"
    peers: dict[str, Step] = {
        "padded to 77": steps_of(clip, transformers_loss, [full for full, _ in prepared]),
        "padded to the longest": steps_of(
            clip, transformers_loss, [short for _, short in prepared]
        ),
    }
    packages, skipped = [], []
    try:
        peers["open_clip"] = open_clip_steps([full for full, _ in prepared])
        packages.append("open_clip_torch")
    except ImportError as error:
        skipped.append(f"open_clip: {error}")
    sides = {"ours": steps_of(ours, our_loss, batches)} | peers
    seconds = take_turns(sides, settings.repeats)
    pairs = {side: rates(BATCH_SIZE, each) for side, each in seconds.items()}
    goals = {"padded to 77": 1.5, "padded to the longest": 1.0, "open_clip": 1.5}
    figures = [
        Figure(
            "ViT-B/32, the peer padded to 77"
            if side == "open_clip"
            else f"ViT-B/32, the peer {side}",
            "pairs/s",
            pairs["ours"],
            side if side == "open_clip" else name,
            pairs[side],
            Target("at least", goals[side]),
        )
        for side in peers
    ]
    figures.append(
        Figure(
            "difference of the losses before the first step, as a share",
            "",
            [same],
            target=Target("at most", 1e-4),
        )
    )
    lengths = torch.cat([batch["caption"].mask.sum(1) for batch in batches]).float()
    longest = [batch["caption"].values.shape[1] for batch in batches]
    note = (
        f"Captions have {lengths.mean():.1f} tokens on average; batches are {min(longest)} to "
        f"{max(longest)} long. Forward, backward and fused AdamW in float32."
    )
    return Result(figures, [note], packages, skipped)


def build(folder: Path) -> tuple[DualEncoder, nn.Module, list[Batch]]:
    """Our system and CLIPModel with the same random weights, and batches of the playground."""
    data = sm.open(VIEW)
    rows = data.rows("train")[: BATCH_SIZE * NUM_BATCHES]
    build_tokenizer(data.columns(["caption"], rows)["caption"]).save(folder)
    text = {"bos_token_id": NUM_IDS - 2, "eos_token_id": NUM_IDS - 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=text)  # the defaults are ViT-B/32
    torch.manual_seed(0)
    clip = transformers.CLIPModel(config)
    clip.save_pretrained(folder)
    ours = DualEncoder.from_clip(str(folder), data.schema)
    views = ours.views()
    batches = []
    for first in range(0, len(rows), BATCH_SIZE):
        samples, _ = data.read(rows[first : first + BATCH_SIZE], views)
        batches.append(data.collate(samples, views))
    return ours.train(), clip.train(), batches


def build_tokenizer(texts: list[str], num_ids: int = NUM_IDS) -> Tokenizer:
    """A word is a token; start and end are the last ids, as they are in CLIP's."""
    words = dict.fromkeys(word for text in texts for word in text.replace(",", " , ").split())
    ids = {word: number for number, word in enumerate(["<unknown>", "<pad>", *words])}
    ids |= {"<start>": num_ids - 2, "<end>": num_ids - 1}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unknown>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [(token, ids[token]) for token in ("<start>", "<end>")]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=ends
    )
    specials = {"pad": "<pad>", "cls": "<start>", "sep": "<end>", "mask": None}
    return Tokenizer(backend, specials, literal=True)


def theirs_of(batch: Batch, ours: DualEncoder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A batch as CLIPModel takes it: padded to 77 tokens, and to the longest caption."""
    caption = batch["caption"]
    missing = (0, TOKENS - caption.values.shape[1])
    pixels = ours.query.encoder.pixels(batch["image"].values)
    short = {
        "input_ids": caption.values,
        "attention_mask": caption.mask.long(),
        "pixel_values": pixels.contiguous(),
    }
    full = short | {
        "input_ids": nn.functional.pad(caption.values, missing, value=1),
        "attention_mask": nn.functional.pad(caption.mask.long(), missing),
    }
    return full, short


def our_loss(system: nn.Module, batch: Batch) -> Tensor:
    """As the trainer asks for it."""
    return system(batch)["contrast"].value


def transformers_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """As CLIPModel gives it."""
    return model(**inputs, return_loss=True).loss


def steps_of(model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], inputs: list[Any]) -> Step:
    """A function that takes one step, on the next batch each time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    turn: Iterator[Any] = cycle(inputs)

    def step() -> None:
        loss(model, next(turn)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@torch.no_grad()
def loss_difference(ours: nn.Module, clip: nn.Module, batch: Batch, inputs: Any) -> float:
    """Whether both compute the same."""
    wanted = float(transformers_loss(clip, inputs))
    return abs(float(our_loss(ours, batch)) - wanted) / wanted


def open_clip_steps(inputs: list[dict[str, Tensor]]) -> Step:
    """open_clip's ViT-B/32 with its own loss, on the same pictures and ids, random weights."""
    # It imports torchvision for transforms that are not used here; transformers, which would look
    # for it as well, is imported already.
    sys.path.insert(0, str(STUBS))
    import open_clip
    from open_clip.loss import ClipLoss

    criterion = ClipLoss()
    model = open_clip.create_model("ViT-B-32-quickgelu").train()

    def loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        image, text, scale = model(inputs["pixel_values"], inputs["input_ids"])[:3]
        return criterion(image, text, scale)

    return steps_of(model, loss, inputs)
