"""Causal language models that read any vectors beside words: our own, and those of `transformers`."""

from sensorium.nn.language.base import Hooks, LanguageModel, Recorder
from sensorium.nn.language.cache import Cache
from sensorium.nn.language.compression import Eviction, cache_policy
from sensorium.nn.language.decoder import Decoder, DecoderConfig
from sensorium.nn.language.generation import Generation, Said, generate, likelihoods
from sensorium.nn.language.hub import load_language_model

__all__ = [
    "Cache",
    "Decoder",
    "DecoderConfig",
    "Eviction",
    "Generation",
    "Hooks",
    "LanguageModel",
    "Recorder",
    "Said",
    "cache_policy",
    "generate",
    "likelihoods",
    "load_language_model",
]
