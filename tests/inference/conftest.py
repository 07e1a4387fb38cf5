"""Tokenizers without weights, and which tests share a process of xdist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

from indexer.testing import qwen_tokenizer


class RunnerScheduling(LoadGroupScheduling):
    """Sends the tests of one of vLLM's model runners to one process. They share an import of vLLM."""

    def _split_scope(self, nodeid: str) -> str:
        # xdist 3.8 writes marks of groups into the ids of tests, where pytest 9.2 does not look for them.
        runner = re.search(r"[\[-](runner-\d)", nodeid)
        return nodeid if runner is None else runner[1]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RunnerScheduling | None:
    return RunnerScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(scope="session")
def qwen_tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Qwen3-Embedding's tokenizer without weights."""
    return with_config(qwen_tokenizer.qwen_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def with_config(path: str) -> str:
    (Path(path) / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return path
