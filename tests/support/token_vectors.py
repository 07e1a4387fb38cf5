"""Indices of token vectors for tests: settings, what is published, MaxSim by NumPy."""

from pathlib import Path
from typing import Any

import numpy as np

from indexer.search.published import Published, open_published
from indexer.settings import Settings
from tests.support import fakes
from tests.support.conventions import colbert


def settings(root: Path, **sections: dict[str, Any]) -> Settings:
    """Settings of an index of ``root/corpus`` with a ColBERT in ``root/model``, which is made when missing."""
    path = root / "model"
    base: dict[str, dict[str, Any]] = {
        "corpus": {"uri": str(root / "corpus"), "payload": ["kind"]},
        "model": {"name": str(path) if path.exists() else colbert(path)},
        "index": {"uri": str(root / "index")},
        "run": {"shard_mb": 0.001, "progress": "none"},
    }
    return Settings(**{name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}})


def opened(given: Settings) -> Published:
    """The latest epoch."""
    return open_published(given.index.uri, given.index.name)


def stored(given: Settings) -> dict[tuple[str, int], np.ndarray]:
    """Published token vectors by id and chunk, each of shape (tokens, 32)."""
    rows = opened(given).read(columns=["id", "chunk", "vector"]).to_pylist()
    return {(row["id"], row["chunk"]): np.array(row["vector"], np.float32) for row in rows}


def expected(given: Settings, texts: dict[str, str]) -> dict[tuple[str, int], np.ndarray]:
    """What the fake engine gives for documents that are one chunk each, without punctuation."""
    model = fakes.model(given)
    ids = model.tokenizer.documents(list(texts.values())).ids
    found = np.split(model.engine().embed(ids), np.cumsum(ids.lengths)[:-1])
    kept = np.split(model.tokenizer.stored(ids), np.cumsum(ids.lengths)[:-1])
    return {(name, 0): vectors[mask] for name, vectors, mask in zip(texts, found, kept, strict=True)}


def max_sim(query: np.ndarray, rows: dict[tuple[str, int], np.ndarray]) -> dict[tuple[str, int], float]:
    """MaxSim of a query's vectors to each row, as its definition says."""
    return {key: float(sum(max(float(q @ v) for v in vectors) for q in query)) for key, vectors in rows.items()}


def reference_vectors(path: str, ids: list[list[int]]) -> np.ndarray:
    """Vectors of all tokens by Transformers, a linear layer and a normalisation, a sequence at a time."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    weights = load_file(Path(path) / "model.safetensors")
    bert = BertModel(BertConfig.from_pretrained(path)).eval()
    bert.load_state_dict({name.removeprefix("bert."): one for name, one in weights.items() if name.startswith("bert.")})
    with torch.no_grad():
        hidden = [bert(torch.tensor([row])).last_hidden_state[0] for row in ids]
        found = torch.nn.functional.normalize(torch.cat(hidden) @ weights["linear.weight"].T, dim=-1)
    return np.asarray(found.numpy())
