"""Tokenizers without weights."""

import json
from pathlib import Path

import pytest

from indexer.testing import qwen_tokenizer


@pytest.fixture(scope="session")
def qwen_tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Qwen3-Embedding's tokenizer without weights."""
    return with_config(qwen_tokenizer.qwen_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def with_config(path: str) -> str:
    (Path(path) / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return path
