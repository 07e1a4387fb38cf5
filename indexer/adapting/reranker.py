"""Supervised training of a reranker on pairs and their negatives: yes or no, in the model card's prompt."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from indexer.adapting.inputs import padded
from indexer.adapting.pairs import Pair
from indexer.adapting.training import Trainer
from indexer.errors import IndexerError
from indexer.inference.checkpoint import is_unbounded
from indexer.inference.model import Reranker
from indexer.inference.pair_inputs import PairBatch
from indexer.inference.tokenizer import is_classifier, is_qwen3, text_encoder, token_id

MOST_DIFFERENCE = {"float32": 1e-4}
"""Most difference between the model's first scores and the engine's, by the engine's dtype."""

MOST_ROUNDED_DIFFERENCE = 0.05
"""The same for an engine that rounds."""


def prompts(model: Reranker, pairs: Sequence[Pair]) -> tuple[PairBatch, np.ndarray]:
    """Prompts of pairs with their own documents, and after them with their negatives.

    Args:
        model: Gives the tokenizer.
        pairs: The pairs.

    Returns:
        The prompts, and float32, shape (prompts,): 1 where the document answers.
    """
    wrong = [(pair.query, text) for pair in pairs for text in pair.negatives.values()]
    rows = [*((pair.query, pair.document) for pair in pairs), *wrong]
    labels = np.array([1.0] * len(pairs) + [0.0] * len(wrong), np.float32)
    return model.tokenizer.pairs([query for query, _ in rows], [text for _, text in rows]), labels


class RerankerTrainer(Trainer):
    """A reranker in training: a causal Qwen3-Reranker, or a cross-encoder with one output."""

    def load(self) -> Any:
        """The base as Transformers loads it."""
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        path = self.recipe.model.checkpoint.path
        kind = AutoModelForCausalLM if self._is_causal else AutoModelForSequenceClassification
        return kind.from_pretrained(path, dtype=torch.float32).to(self.device)

    def embeddings(self) -> Any:
        """The table of token vectors."""
        return self.module.get_input_embeddings()

    def check_first(self, pairs: Sequence[Pair]) -> None:
        """Compares ids and scores of the pairs with their own documents."""
        import torch

        ours, _ = prompts(self._model, [_without_negatives(pair) for pair in pairs])
        first = self.recipe.first
        if first.ids != ours.ids:
            raise IndexerError("internal error: the first batch has other token ids than the engine was given")
        logits = torch.cat([self._logits(ours, rows) for rows in self._parts(len(pairs))])
        found = logits if is_unbounded(self._model.checkpoint.path) else torch.sigmoid(logits)
        worst = float(np.abs(found.cpu().numpy() - first.results[:, 0]).max())
        most = MOST_DIFFERENCE.get(self._model.dtype, MOST_ROUNDED_DIFFERENCE)
        if not worst <= most:
            raise IndexerError(
                f"Transformers computes other scores than the engine: they differ by up to {worst:.4f} in {len(pairs)} "
                f"pairs, at most {most} is allowed; the prompt or the head of the checkpoint differ"
            )

    def learn(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """Adds the gradients of the mean cross-entropy of all prompts, or of this process's part, some at a time."""
        import torch

        batch, labels = prompts(self._model, pairs)
        ours, total = np.arange(len(labels))[self.group.rank :: self.group.size], 0.0
        share = self.group.size / len(labels)
        for at in self._parts(len(ours)):
            rows = ours[at]
            with self.autocast():
                logits = self._logits(batch, rows)
            wanted = torch.from_numpy(labels[rows]).to(self.device)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") * share
            loss.backward()
            total += float(loss.detach())
        return total, batch.ids.take(ours).tokens

    def _parts(self, count: int) -> list[np.ndarray]:
        size = self.recipe.settings.mini_batch
        return [np.arange(at, min(at + size, count)) for at in range(0, count, size)]

    def _logits(self, batch: PairBatch, rows: np.ndarray) -> Any:
        """The logit of yes less that of no, or of the only output, float32, shape (rows,)."""
        ids = batch.ids.take(rows)
        inputs = padded(ids, self.device)
        if not self._is_causal:
            if batch.second is not None:
                inputs["token_type_ids"] = _types(inputs, batch.second[rows])
            return self.module(**inputs).logits[:, 0].float()
        import torch

        hidden = self.module.model(**inputs).last_hidden_state
        last = torch.from_numpy(ids.lengths.astype(np.int64) - 1).to(self.device)
        yes, no = self._answers
        head = self.module.get_output_embeddings().weight
        return (hidden[torch.arange(len(ids), device=self.device), last] @ (head[yes] - head[no])).float()

    @property
    def _model(self) -> Reranker:
        model = self.recipe.model
        if not isinstance(model, Reranker):
            raise TypeError("internal error: an embedding model is to be trained as a reranker")
        return model

    @cached_property
    def _is_causal(self) -> bool:
        path = self.recipe.model.checkpoint.path
        return is_qwen3(path) and not is_classifier(path)

    @cached_property
    def _answers(self) -> tuple[int, int]:
        """Token ids of yes and no."""
        encoder = text_encoder(self.recipe.model.checkpoint.path)
        return token_id(encoder, "yes"), token_id(encoder, "no")


def _without_negatives(pair: Pair) -> Pair:
    return Pair(pair.query_id, pair.query, pair.document_id, pair.document, pair.source)


def _types(inputs: dict[str, Any], second: np.ndarray) -> Any:
    """Token types: 1 from the document's first token on."""
    import torch

    places = torch.arange(inputs["input_ids"].shape[1], device=inputs["input_ids"].device)
    starts = torch.from_numpy(second.astype(np.int64)).to(places.device)
    return (places >= starts[:, None]).long() * inputs["attention_mask"]
