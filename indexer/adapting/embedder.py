"""Contrastive training of an embedding model with the losses of sentence-transformers."""

from collections.abc import Sequence
from typing import Any

from indexer.adapting.group import ALONE, Group
from indexer.adapting.inputs import TrainingBatch, features, padded
from indexer.adapting.pairs import Pair
from indexer.adapting.training import Recipe, Trainer
from indexer.errors import IndexerError
from indexer.inference.model import Model

LEAST_COSINE = {"float32": 0.9999}
"""Least cosine between the model's first vectors and the engine's, by the engine's dtype."""

LEAST_ROUNDED_COSINE = 0.99
"""The same for an engine that rounds."""

MASKED_ABOVE = 0.1
"""A document of the batch is no negative where the base scores it this much above the pair (arXiv:2506.05176)."""


class EmbedderTrainer(Trainer):
    """An embedding model in training."""

    def __init__(self, recipe: Recipe, group: Group = ALONE) -> None:
        """As :class:`indexer.adapting.training.Trainer`."""
        super().__init__(recipe, group)
        self._loss = _loss(recipe, self.module, self.device, together=group.size > 1)

    def load(self) -> Any:
        """The base as sentence-transformers loads it."""
        return _loaded(self.recipe, self.device)

    def embeddings(self) -> Any:
        """The table of token vectors."""
        return self.module[0].auto_model.get_input_embeddings()

    def check_first(self, pairs: Sequence[Pair]) -> None:
        """Compares ids and vectors of queries and documents."""
        import torch

        first, ours = self.recipe.first, self._batch(pairs).texts
        if first.ids != ours:
            raise IndexerError("internal error: the first batch has other token ids than the engine was given")
        size = self.recipe.settings.mini_batch
        parts = [ours[at : at + size] for at in range(0, len(ours), size)]
        found = [self.module(padded(part, self.device))["sentence_embedding"].float().cpu() for part in parts]
        vectors = torch.nn.functional.normalize(torch.cat(found), dim=1).numpy()
        worst = float((vectors * first.results).sum(axis=1).min())
        least = LEAST_COSINE.get(self.recipe.model.dtype, LEAST_ROUNDED_COSINE)
        if not worst >= least:
            raise IndexerError(
                f"sentence-transformers computes other vectors than the engine: the worst cosine of {len(ours)} texts "
                f"is {worst:.4f}, at least {least} is needed; pooling, prompts or modules of the checkpoint differ"
            )

    def learn(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """Adds the gradients of a part of a batch; its negatives are the documents of all parts."""
        batch = self._batch(pairs, self.group)
        with self.autocast():
            loss = self._loss(features(batch, self.device), None)
        loss.backward()
        return float(loss.detach()), batch.tokens

    def _batch(self, pairs: Sequence[Pair], group: Group = ALONE) -> TrainingBatch:
        """Ids of the pairs in our own templates, or of a process's part of them."""
        model = self.recipe.model
        if not isinstance(model, Model):
            raise TypeError("internal error: a reranker is to be trained as an embedding model")
        return TrainingBatch.of(model.tokenizer, pairs, group)


def _loaded(recipe: Recipe, device: str) -> Any:
    """The base in sentence-transformers, in float32: a light update is lost in bfloat16."""
    import torch
    from sentence_transformers import SentenceTransformer

    path = recipe.model.checkpoint.path
    return SentenceTransformer(path, device=device, model_kwargs={"dtype": torch.float32})


def _loss(recipe: Recipe, model: Any, device: str, *, together: bool) -> Any:
    """The loss of all widths, with gradient caching: InfoNCE over the batch, or masked by the base's own cosines."""
    from sentence_transformers.sentence_transformer import losses

    settings = recipe.settings
    if settings.loss == "guided":
        inner = losses.CachedGISTEmbedLoss(
            model, _loaded(recipe, device), temperature=settings.temperature, mini_batch_size=settings.mini_batch,
            margin=-MASKED_ABOVE, contrast_anchors=False, contrast_positives=False, gather_across_devices=together,
        )  # fmt: skip
    else:
        inner = losses.CachedMultipleNegativesRankingLoss(
            model,
            scale=1 / settings.temperature,
            mini_batch_size=settings.mini_batch,
            gather_across_devices=together,
        )
    return losses.MatryoshkaLoss(model, inner, list(recipe.widths))
