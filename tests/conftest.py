"""Shared by all tests: shapes in signatures are checked while tests run, and no test goes online."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from jaxtyping import install_import_hook

install_import_hook(
    [
        "sensorium.types",
        "sensorium.modalities",
        "sensorium.nn",
        "sensorium.objectives",
        "sensorium.systems",
        "sensorium.search.vectors",
        "sensorium.search.graph",
    ],
    "typecheck.check",
)

import pytest
import torch


@pytest.fixture(autouse=True)
def _quiet(tmp_path_factory, monkeypatch):
    """One thread for each test process, and a media cache of the tests' own."""
    torch.set_num_threads(1)
    monkeypatch.setenv("SENSORIUM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
