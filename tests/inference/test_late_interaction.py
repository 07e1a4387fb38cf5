"""Late-interaction checkpoints: their conventions, token ids, and vLLM's vectors beside plain Transformers'."""

import json
import string
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from indexer.errors import SettingsError
from indexer.inference.model import Model, open_model
from indexer.inference.token_inputs import LateInteractionTokenizer
from indexer.settings import EngineSettings, ModelSettings
from tests.support.conventions import colbert
from tests.support.token_vectors import reference_vectors

LEAST_COSINE = 0.9999

CLS, SEP, MASK, QUERY, DOCUMENT = 101, 102, 103, 1, 2
"""Ids in MiniLM's vocabulary; the markers are ``[unused0]`` and ``[unused1]``."""

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and nobody minds.",
    "def f(x): return x ** 2  # [unused0] [MASK]",
    "Ångström café naïve ½ русский",
    "word " * 60,
    "x",
    "!?.",
]


def model(path: str, **settings: Any) -> Model:
    return open_model(ModelSettings(name=path, **settings), EngineSettings(enforce_eager=True))


def tokenizer(path: Path, **metadata: Any) -> LateInteractionTokenizer:
    found = model(colbert(path, **metadata)).tokenizer
    assert isinstance(found, LateInteractionTokenizer)
    return found


def engine_vectors(path: str) -> tuple[list[list[list[int]]], list[np.ndarray]]:
    """Token ids and vectors of the texts as documents and as queries."""
    opened = model(path)
    engine = opened.engine()
    ids = [opened.tokenizer.documents(TEXTS).ids, opened.tokenizer.queries(TEXTS)]
    assert engine.dimension == 32
    return [part.tolist() for part in ids], [engine.embed(part) for part in ids]


def test_vllms_token_vectors_are_those_of_transformers(
    tmp_path: Path, engine_process: Executor, reference_process: Executor
) -> None:
    path = colbert(tmp_path, attend_to_mask_tokens=True)
    ids, found = engine_process.submit(engine_vectors, path).result()
    for rows, ours in zip(ids, found, strict=True):
        expected = reference_process.submit(reference_vectors, path, rows).result()
        assert ours.shape == expected.shape == (sum(map(len, rows)), 32)
        assert (ours * expected).sum(axis=1).min() >= LEAST_COSINE
        assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5


@pytest.mark.heavy
def test_documents_and_queries_have_their_markers_and_limits(tmp_path: Path) -> None:
    made = tokenizer(tmp_path)
    batch, queries = made.documents(TEXTS), made.queries(TEXTS)
    for rows, marker, most in ((batch.ids, DOCUMENT, 48), (queries, QUERY, 16)):
        assert all(row[:2].tolist() == [CLS, marker] and row[-1] == SEP for row in rows)
        assert max(map(len, rows)) == most
        assert MASK not in rows.ids, "spelled in a text, it is text"
    assert batch.truncated.tolist() == [False, False, False, True, False, False]
    assert made.truncated(TEXTS) == batch.ids


def test_queries_are_padded_only_where_the_checkpoint_attends_to_mask_tokens(tmp_path: Path) -> None:
    plain, padded = tokenizer(tmp_path / "plain"), tokenizer(tmp_path / "padded", attend_to_mask_tokens=True)
    for ours, theirs in zip(padded.queries(TEXTS), plain.queries(TEXTS), strict=True):
        assert len(ours) == 16
        assert ours[: len(theirs)].tolist() == theirs.tolist()
        assert set(ours[len(theirs) :].tolist()) <= {MASK}
    assert padded.documents(TEXTS).ids == plain.documents(TEXTS).ids


def test_vectors_of_punctuation_are_left_out(tmp_path: Path) -> None:
    made, whole = tokenizer(tmp_path / "own"), tokenizer(tmp_path / "all", mask_punctuation=False)
    ids = made.documents(["a, b.", string.punctuation]).ids
    assert made.stored(ids[:1]).tolist() == [True, True, True, False, True, False, True]
    assert made.stored(ids[1:]).sum() == 3, "[CLS], the marker and [SEP] stay"
    assert whole.stored(ids).all()


def test_conventions_are_in_the_fingerprint(tmp_path: Path) -> None:
    digests = set()
    for at, changed in enumerate(
        ({}, {"mask_punctuation": False}, {"query_maxlen": 20}, {"doc_token_id": "[unused2]"})
    ):
        digests.add(model(colbert(tmp_path / str(at), **changed)).fingerprint_digest)
    assert len(digests) == 4
    opened = model(colbert(tmp_path / "again"))
    assert (opened.max_tokens, opened.checkpoint.dimension) == (48, 32)
    assert model(opened.settings.name, max_tokens=96).max_tokens == 96, "a training length is no limit"


def test_checkpoints_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    path = colbert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(SettingsError, match=r"similarity l2 in artifact\.metadata"):
        _ = model(colbert(tmp_path / "l2", similarity="l2")).checkpoint.conventions
    with pytest.raises(SettingsError, match=r"the tokenizer has no token \[unused9999\]"):
        tokenizer(tmp_path / "marker", doc_token_id="[unused9999]")  # noqa: S106  # of a vocabulary
    colbert(tmp_path / "none")
    bare = load_file(tmp_path / "none" / "model.safetensors")
    del bare["linear.weight"]
    save_file(bare, tmp_path / "none" / "model.safetensors")
    with pytest.raises(SettingsError, match=r"needs the weight linear\.weight, and has none"):
        _ = model(str(tmp_path / "none")).checkpoint.conventions
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ColBERTModernBertModel"]}))
    with pytest.raises(SettingsError, match="ColBERTModernBertModel is a late-interaction model whose conventions"):
        _ = model(path).checkpoint.conventions
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "artifact.metadata").unlink()
    with pytest.raises(SettingsError, match=r"needs its file artifact\.metadata"):
        _ = model(path).checkpoint.conventions
