"""What the trained model reads: our own token ids, padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from indexer.adapting.group import ALONE, Group
from indexer.adapting.pairs import Pair
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.sequences import TokenSequences

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainingBatch:
    """Token ids of one step, made by the tokenizer that also indexes.

    Attributes:
        queries: Ids of the queries in their template.
        documents: Ids of their documents, in the same order.
        negatives: Ids of all pairs' hard negatives; the number differs from batch to batch.
    """

    queries: TokenSequences
    documents: TokenSequences
    negatives: TokenSequences

    @classmethod
    def of(cls, tokenizer: EmbedTokenizer, pairs: Sequence[Pair], group: Group = ALONE) -> Self:
        """Tokenises a process's part of pairs and of their negatives; long texts are cut."""
        ours = group.part(pairs)
        return cls(
            tokenizer.queries([pair.query for pair in ours]),
            tokenizer.truncated([pair.document for pair in ours]),
            tokenizer.truncated(group.part([text for pair in pairs for text in pair.negatives.values()])),
        )

    @property
    def texts(self) -> TokenSequences:
        """Queries and documents, without negatives."""
        return TokenSequences.join([self.queries, self.documents])

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.texts.tokens + self.negatives.tokens


def padded(sequences: TokenSequences, device: str) -> dict[str, "torch.Tensor"]:
    """Sequences as a model of Transformers takes them, padded on the right.

    Args:
        sequences: At least one.
        device: Where the tensors go.

    Returns:
        ``input_ids``, ``attention_mask`` and ``token_type_ids``: int64, shape (n, longest). Padding is masked, so that
        its id does not matter.
    """
    import torch

    longest = int(sequences.lengths.max())
    ids = torch.zeros((len(sequences), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype("int64"))
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def features(batch: TrainingBatch, device: str) -> list[dict[str, Any]]:
    """The batch as losses of sentence-transformers take it: queries, documents, and negatives if there are any."""
    parts = [batch.queries, batch.documents, *([batch.negatives] if len(batch.negatives) else [])]
    return [padded(part, device) for part in parts]
