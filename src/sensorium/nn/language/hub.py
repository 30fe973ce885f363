"""Causal language models of `transformers`, with their weights.

Those of Llama's shape become our own decoder, which computes the same faster. Any other keeps its own
layers: its attention is taken over by one function, so that rules, the cache and hooks work in it as
they do in ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sensorium.nn.hub import hub_errors, layers_of
from sensorium.nn.language.base import Hooks, LanguageModel, LayerMasks, LayerRule
from sensorium.nn.language.cache import Cache
from sensorium.nn.language.decoder import Decoder, DecoderConfig, grouped_attention
from sensorium.nn.masks import Rule, causal
from sensorium.types import Tokens, UserError

LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
_FILES = "config.json and model.safetensors"


def load_language_model(name: str) -> LanguageModel:
    """A published language model.

    Args:
        name: of a model on the hub, or a folder in the same layout.

    Raises:
        UserError: it cannot be loaded, has no safetensors, or does more than its layers say, so that
            it would not give its own numbers here.
    """
    from transformers import AutoModelForCausalLM

    with hub_errors(f"language model hf:{name} cannot be loaded", _FILES):
        found = AutoModelForCausalLM.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        ).eval()
    ids = torch.arange(8)[None] * 7 % found.config.vocab_size
    with torch.inference_mode():
        expected = found(input_ids=ids).logits
    if found.config.model_type in LIKE_LLAMA and not any(_windows(found.config)):
        built = _converted(found)
        if built is not None and _agrees(built, ids, expected):
            return built
    published = PublishedModel(found)
    if not _agrees(published, ids, expected):
        raise UserError(
            f"language model hf:{name} ({type(found).__name__}) does more than its layers say, and "
            "would give other numbers here. Expected a decoder of the kind of Llama, Qwen or GPT-2"
        )
    return published


def _agrees(built: LanguageModel, ids: Tensor, expected: Tensor) -> bool:
    with torch.inference_mode():
        given = built.eval().logits(built(built.words(ids)).values)
    return bool((given - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-5)


def _converted(found: Any) -> Decoder | None:
    """The same weights in our decoder; None if a tensor has no place there."""
    config = found.config
    weights: dict[str, Tensor] = found.state_dict()
    rotary = found.model.rotary_emb
    if rotary.attention_scaling != 1.0 or rotary.rope_type not in ("default", "linear", "llama3"):
        return None
    built = Decoder(
        DecoderConfig(
            vocabulary_size=config.vocab_size,
            width=config.hidden_size,
            depth=config.num_hidden_layers,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_width=found.model.layers[0].self_attn.head_dim,
            hidden=config.intermediate_size,
            max_tokens=config.max_position_embeddings,
            epsilon=config.rms_norm_eps,
            has_bias="model.layers.0.self_attn.q_proj.bias" in weights,
            has_head_norm="model.layers.0.self_attn.q_norm.weight" in weights,
            is_tied=config.tie_word_embeddings,
        )
    )
    here = {"frequencies": rotary.inv_freq, **_renamed(weights, config.num_hidden_layers)}
    if built.load_state_dict(here, strict=False) != ([], []):
        return None
    return built


def _renamed(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    found = {
        "embedding.weight": weights["model.embed_tokens.weight"],
        "norm.weight": weights["model.norm.weight"],
        "head.weight": weights["lm_head.weight"],
    }
    places = {
        "attention_norm": ("input_layernorm",),
        "query_key_value": tuple(f"self_attn.{part}_proj" for part in "qkv"),
        "query_norm": ("self_attn.q_norm",),
        "key_norm": ("self_attn.k_norm",),
        "output": ("self_attn.o_proj",),
        "feed_forward_norm": ("post_attention_layernorm",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    }
    for layer in range(depth):
        for here, there in places.items():
            for kind in ("weight", "bias"):
                names = [f"model.layers.{layer}.{part}.{kind}" for part in there]
                if names[0] in weights:
                    parts = [weights[name] for name in names]
                    found[f"layers.{layer}.{here}.{kind}"] = torch.cat(parts)
    return found


@dataclass
class _Pass:
    """What the attention of a published model needs to know while a pass is under way."""

    masks: LayerMasks
    hooks: Hooks | None


_PASS: ContextVar[_Pass] = ContextVar("pass through a published language model")


class PublishedModel(LanguageModel):
    """A causal language model of `transformers` behind our interface.

    Args:
        model: with its head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.model = model
        self.trunk = (model.base_model,)  # a tuple, so that its weights are counted once
        _register_attention()
        model.set_attn_implementation("sensorium")
        self.layers = (layers_of(model.base_model),)
        self.norm = (_final_norm(model.base_model, self.layers[0]),)
        self.width, self.num_layers = config.hidden_size, config.num_hidden_layers
        self.num_heads = config.num_attention_heads
        self.num_key_heads = getattr(config, "num_key_value_heads", None) or self.num_heads
        self.head_width = getattr(config, "head_dim", None) or self.width // self.num_heads
        self.vocabulary_size, self.max_tokens = config.vocab_size, config.max_position_embeddings
        self.windows = _windows(config)

    def embed(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The vectors of words."""
        vectors: Tensor = self.model.get_input_embeddings()(ids)
        return vectors

    def logits(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocabulary"]:
        """Scores of the word that follows."""
        scores: Tensor = self.model.get_output_embeddings()(states)
        return scores

    def final_norm(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The norm with which `forward` ends."""
        normed: Tensor = self.norm[0](states)
        return normed

    def forward(
        self,
        tokens: Tokens,
        rule: LayerRule = causal,
        cache: Cache | None = None,
        hooks: Hooks | None = None,
    ) -> Tokens:
        """All layers and the final norm."""
        if cache is not None:
            cache.note(tokens)
        masks = LayerMasks(self._windowed(rule), tokens, cache, self.num_heads)
        token = _PASS.set(_Pass(masks, hooks))
        # The model is not to make a mask of its own, which it does not if it is given one.
        placeholder = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tokens.values.device)
        try:
            with self._entering(tokens, hooks):
                states = self.trunk[0](
                    inputs_embeds=tokens.values,
                    attention_mask=placeholder,
                    position_ids=tokens.id("position"),
                    past_key_values=None if cache is None else _published_cache()(cache),
                    use_cache=cache is not None,
                ).last_hidden_state
        finally:
            _PASS.reset(token)
        return tokens.with_values(states)

    def _windowed(self, rule: LayerRule) -> LayerRule:
        if not any(self.windows):
            return rule
        rules: dict[tuple[Rule, int], Rule] = {}

        def of_layer(layer: int) -> Rule:
            asked = rule if isinstance(rule, Rule) else rule(layer)
            window = self.windows[layer]
            if window is None:
                return asked
            key = (asked, window)
            return rules.setdefault(key, asked & within_window(window))

        return of_layer

    @contextmanager
    def _entering(self, tokens: Tokens, hooks: Hooks | None) -> Iterator[None]:
        """Call the hooks before each layer."""
        if hooks is None:
            yield
            return
        handles = []
        for number, layer in enumerate(self.layers[0]):

            def enter(_: Any, args: Any, named: Any, number: int = number) -> Any:
                values = args[0] if args else named["hidden_states"]
                values = hooks.enter(number, tokens.with_values(values)).values
                return (
                    ((values, *args[1:]), named)
                    if args
                    else (args, {**named, "hidden_states": values})
                )

            handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def within_window(size: int) -> Rule:
    """A token sees those less than so many positions before it."""
    return Rule(lambda q, k: k["position"] > q["position"] - size, frozenset({"position"}))


def _windows(config: Any) -> list[int | None]:
    """For each layer, how far back it looks; None for all the way."""
    size = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [size if kind == "sliding_attention" else None for kind in kinds]


def _final_norm(trunk: nn.Module, layers: nn.ModuleList) -> nn.Module:
    """What stands beside the layers and is a norm; the last, if another follows the embedding."""
    (owner,) = (module for module in trunk.modules() if layers in module.children())
    beside = [module for module in owner.children() if "norm" in type(module).__name__.lower()]
    return beside[-1] if beside else nn.Identity()


@lru_cache
def _register_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register("sensorium", _attend)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What a published model's layers call for their attention."""
    under_way = _PASS.get()
    layer = module.layer_idx
    masks, scale = under_way.masks, scaling or query.shape[-1] ** -0.5
    if under_way.hooks is not None and under_way.hooks.looks_at_attention:
        under_way.hooks.attend(layer, query, key, masks.exact(layer), scale)
    attended = grouped_attention(query, key, value, masks[layer], scale)
    return attended.transpose(1, 2).contiguous(), None


@lru_cache
def _published_cache() -> Any:
    """The class behind which published models find our cache."""
    from transformers import Cache as TheirCache

    class Published(TheirCache):
        def __init__(self, cache: Cache) -> None:
            super().__init__(layers=[])
            self.cache = cache

        def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Any:
            return self.cache.extend(layer, key, value)

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return self.cache.layers[layer_idx].length

    return Published
