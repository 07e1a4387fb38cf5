"""Conventions of late-interaction checkpoints (ColBERT), which give a vector of every token.

The checkpoint's file ``artifact.metadata`` holds them, as Stanford's ColBERT writes it (Khattab and Zaharia 2020,
arXiv:2004.12832; Santhanam et al. 2022, arXiv:2112.01488). vLLM computes the vectors, and knows none of the rest: the
markers before queries and documents, the padding of queries, the punctuation whose vectors are left out.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from indexer.errors import SettingsError

METADATA = "artifact.metadata"
"""File with the conventions."""

PROJECTION = "linear.weight"
"""End of the name of the weight that projects every token; the entry ``dim`` of the conventions is not needed."""

ARCHITECTURE = "HF_ColBERT"
"""vLLM's name of BERT with a projection of every token."""

RELATIVES = frozenset({"ColBERTModernBertModel", "ColBERTJinaRobertaModel", "ColBERTLfm2Model"})
"""Other late-interaction models of vLLM, whose conventions are in files of other libraries."""


@dataclass(frozen=True)
class LateInteraction:
    """Conventions of a late-interaction checkpoint.

    Attributes:
        dimension: Components of a token's vector.
        query_marker: Token behind a query's first special token; ``document_marker`` likewise.
        query_tokens: Most ids of a query, special tokens included.
        document_tokens: Most ids of a document that the checkpoint was trained for.
        pads_queries: Whether shorter queries are filled with mask tokens, whose vectors are searched with too.
        skips_punctuation: Whether vectors of a document's punctuation are left out.
    """

    dimension: int
    query_marker: str
    document_marker: str
    query_tokens: int
    document_tokens: int
    pads_queries: bool
    skips_punctuation: bool

    def canonical(self) -> str:
        """All of them in one line, for a fingerprint."""
        return json.dumps(asdict(self), sort_keys=True)


def read(root: Path, architectures: Sequence[str]) -> LateInteraction | None:
    """Reads the conventions of a checkpoint; ``None`` if it is no late-interaction model.

    Args:
        root: Directory of the checkpoint.
        architectures: Entry of its ``config.json``.

    Raises:
        SettingsError: It is one, and its conventions are missing or in another library's file.
    """
    relative = next((name for name in architectures if name in RELATIVES), None)
    if relative is not None:
        raise SettingsError(
            f"model.name: {relative} is a late-interaction model whose conventions are not read; {ARCHITECTURE} with "
            f"{METADATA} is"
        )
    if ARCHITECTURE not in architectures:
        return None
    file = root / METADATA
    if not file.is_file():
        raise SettingsError(f"model.name: a late-interaction checkpoint needs its file {METADATA}, and has none")
    return _conventions(json.loads(file.read_text(encoding="utf-8")), _dimension(root))


def _dimension(root: Path) -> int:
    """Components of a token's vector: rows of the projection's weight, from the header of the weights' file."""
    for file in root.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name.endswith(PROJECTION):
                return int(tensor["shape"][0])
    raise SettingsError(f"model.name: a late-interaction checkpoint needs the weight {PROJECTION}, and has none")


def _conventions(given: dict[str, Any], dimension: int) -> LateInteraction:
    """The conventions in the file's content; what it leaves out has ColBERT's own default."""
    if given.get("similarity", "cosine") != "cosine":
        raise SettingsError(f"model.name: similarity {given['similarity']} in {METADATA} is not supported, cosine is")
    return LateInteraction(
        dimension=dimension,
        query_marker=str(given.get("query_token_id", "[unused0]")),
        document_marker=str(given.get("doc_token_id", "[unused1]")),
        query_tokens=int(given.get("query_maxlen", 32)),
        document_tokens=int(given.get("doc_maxlen", 220)),
        # Otherwise the mask tokens read the query and are not read by it. vLLM cannot hide them, and a query whose
        # tokens read them has other vectors; without them its own tokens have the reference's.
        pads_queries=bool(given.get("attend_to_mask_tokens", False)),
        skips_punctuation=bool(given.get("mask_punctuation", True)),
    )
