"""Checks values against signatures while tests run."""

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception


def check(function):
    """`beartype`, but for functions that speak of `Self`, which it knows in whole classes only."""
    try:
        return beartype(function)
    except BeartypeDecorHintPep673Exception:
        return function
