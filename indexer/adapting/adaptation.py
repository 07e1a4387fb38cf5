"""The steps of an adaptation, from pairs to the verdict. Each leaves a file, and a killed run goes on from the last."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from indexer.adapting import gate, judge, outcome, sources, splitting, weights
from indexer.adapting.batches import first_pairs
from indexer.adapting.gate import Measured
from indexer.adapting.inputs import TrainingBatch
from indexer.adapting.judge import Collection, Vectors
from indexer.adapting.mining import Miner, Searched
from indexer.adapting.outcome import Outcome
from indexer.adapting.pairs import Pair, from_table, sentence_transformers_lines, swift_lines, to_table, trained
from indexer.adapting.sources import Texts
from indexer.adapting.training import PAIRS, FirstBatch, Recipe
from indexer.adapting.training_worker import train
from indexer.adapting_settings import AdaptSettings
from indexer.cluster.connection import Cluster
from indexer.errors import UnusableModel
from indexer.evaluation import synthetic
from indexer.evaluation.measures import NDCG
from indexer.evaluation.remote_engine import RemoteEngine
from indexer.evaluation.synthetic import Score
from indexer.inference.model import Model, Reranker, open_model
from indexer.inference.sequences import TokenSequences
from indexer.progress import say
from indexer.search.published import Published
from indexer.storage.put_once import PutOnceFolder

FIRST = "first_batch.parquet"

LINES = {"train.jsonl": sentence_transformers_lines, "train-swift.jsonl": swift_lines}
"""Files of the trained pairs for other trainers."""

TEST = "test"


@dataclass(frozen=True)
class Adaptation:
    """An adaptation under way.

    Attributes:
        settings: The settings.
        published: The index.
        reranker: The reranker, where there is one.
        cluster: Where engines and training run.
        folder: The run's files.
        path: Directory of the run.
    """

    settings: AdaptSettings
    published: Published
    reranker: Reranker | None
    cluster: Cluster
    folder: PutOnceFolder
    path: Path

    @property
    def base(self) -> Model | Reranker:
        """The model that is adapted: the index's own."""
        return self.published.model

    @cached_property
    def trained_as(self) -> Model | Reranker:
        """The base with the limit of tokens that training has."""
        return self._shorter

    @cached_property
    def _shorter(self) -> Model:
        """The index's model with the limit of tokens that training has; long documents are cut."""
        return _shortened(self.published.model, self.settings.train.max_tokens)

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs, as an earlier try of this run wrote them, otherwise made now."""
        if PAIRS not in set(self.folder.names("")):
            self._make_pairs()
        return from_table(self.folder.get_table(PAIRS))

    @cached_property
    def test(self) -> Collection:
        """The test queries and the documents that are searched for them."""
        questions = sources.questions(self.pairs, TEST, self.published)
        return judge.of_index(self.published, questions, self.settings.gates.documents)

    @cached_property
    def validation(self) -> Collection:
        """The validation queries and the documents that are searched for them."""
        questions = sources.questions(self.pairs, "validation", self.published)
        return judge.of_index(self.published, questions, self.settings.gates.validation_documents)

    @cached_property
    def guard(self) -> Collection | None:
        """The guard collection, where there is one."""
        return judge.of_guard(self.settings.guard) if self.settings.guard else None

    @property
    def widths(self) -> list[int]:
        """The index's widths, widest first."""
        return sorted(self.published.epoch.description.layout.widths, reverse=True)

    def finish(self) -> dict[str, Any]:
        """Takes every step that is not taken yet.

        Returns:
            The summary.
        """
        recipe = self._recipe()
        train(recipe, self.cluster, self.settings.run.progress)
        checkpoints = [recipe.checkpoint(step) for step in recipe.ends]
        share, tried = self._choose_share(checkpoints)
        path = self._write(checkpoints, share, "candidate")
        base = self.judged_base()
        ours, unusable = _judged_or_refused(self, path, base)
        widths, guard = base.compared(ours)
        verdict = gate.decide(widths, guard, self.settings.gates, unusable)
        found = Outcome(
            self.settings, self.published, self.base, self.pairs, self.test, share, tried, widths, guard, verdict
        )
        summary = outcome.conclude(found, self.folder, self.path, path)
        shutil.rmtree(self.path / "training", ignore_errors=True)
        return summary

    def _make_pairs(self) -> None:
        """Makes, splits and filters pairs, finds their negatives, and writes them with the first batch's vectors."""
        texts = Texts(self.published, self.settings.titles.query if self.settings.titles else None)
        given, notes = self._given(texts)
        pairs, dropped = splitting.split(given, self.settings.split)
        miner = Miner(self.settings, texts, self.judge_of_pairs)
        with self.engine(self.published.make_engine()) as engine:
            found = miner.search(pairs, self._shorter.tokenizer, engine.embed)
        mined, counts = miner.mine(pairs, found)
        notes = {name: count for name, count in {**notes, **dropped, **counts}.items() if count}
        counted = {"pairs to train on": len(trained(mined)), **notes}
        say("; ".join(f"{count:,} {name}" for name, count in counted.items()))
        for name in (FIRST, *LINES, outcome.NOTES):
            self.folder.delete(name)  # what a run left that was killed before its pairs were complete
        self.folder.put_table(FIRST, self.first_batch(mined, found).to_table())
        for name, lines in LINES.items():
            self.folder.put(name, lines(mined).encode())
        self.folder.put(outcome.NOTES, outcome.as_json(notes))
        self.folder.put_table(PAIRS, to_table(mined))

    def _given(self, texts: Texts) -> tuple[list[Pair], dict[str, int]]:
        """Pairs from every source, not split yet."""
        pairs = [*sources.judged(self.settings, texts), *sources.titled(self.settings, texts)]
        if self.settings.synthetic is None:
            return pairs, {}
        writer = synthetic.open_writer(self.settings.synthetic, self.settings.engine)
        score = partial(self.score, self.given_reranker)
        made, notes = sources.written(texts, writer, partial(_write_queries, self, writer), score)
        return [*pairs, *made], notes

    @property
    def judge_of_pairs(self) -> Score | None:
        """What filters pairs and negatives beside cosines: the reranker, where there is one."""
        return partial(self.score, self.given_reranker) if self.reranker else None

    @property
    def given_reranker(self) -> Reranker:
        """The reranker of settings that need one."""
        if self.reranker is None:
            raise TypeError("internal error: pairs are to be scored without a reranker")
        return self.reranker

    def score(self, reranker: Reranker, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Scores of queries with documents, float32, shape (len(queries),)."""
        with RemoteEngine(self.cluster, reranker.engine, "score", self.settings.run.progress) as engine:
            return engine.score(reranker.tokenizer.pairs(queries, documents))

    def engine(self, make: Any) -> RemoteEngine:
        """Engines that embed."""
        return RemoteEngine(self.cluster, make, "embed", self.settings.run.progress)

    def first_batch(self, pairs: Sequence[Pair], found: Searched) -> FirstBatch:
        """What the engine gives for the first batch: vectors of its queries and documents."""
        chosen = first_pairs(pairs, self.settings.train.batch, self.settings.split.seed)
        batch = TrainingBatch.of(self._shorter.tokenizer, chosen)
        places = {(pair.query_id, pair.document_id): place for place, pair in enumerate(found.pairs)}
        at = [places[pair.query_id, pair.document_id] for pair in chosen]
        return FirstBatch(batch.texts, np.concatenate([found.queries[at], found.documents[at]]))

    def _recipe(self) -> Recipe:
        """What the training needs, with the first batch as the engine gave it."""
        _ = self.pairs  # they are written before the first batch is read
        first = FirstBatch.from_table(self.folder.get_table(FIRST))
        widths = tuple(sorted({*self.widths, self.published.model.checkpoint.dimension}, reverse=True))
        seed = self.settings.split.seed
        return Recipe(self.trained_as, self.settings.train, widths, seed, str(self.path), first)

    def _choose_share(self, checkpoints: Sequence[Path]) -> tuple[float, dict[float, float]]:
        """The share of the trained weights that answers the validation queries best, over all widths."""
        shares = self.settings.merge.shares
        if len(shares) == 1:
            return shares[0], {}
        tried = {}
        for share in shares:
            path = self._write(checkpoints, share, f"share-{share:g}")
            found = _measured_or_none(self, path)
            tried[share] = float(np.mean([one[NDCG].to_numpy().mean() for one in found.values()])) if found else 0.0
            queries = len(self.validation.questions.texts)
            say(f"share {share:g}: mean {NDCG} {tried[share]:.4f} on {queries} validation queries")
            shutil.rmtree(path)
        return max(tried, key=lambda share: tried[share]), tried

    def _write(self, checkpoints: Sequence[Path], share: float, name: str) -> Path:
        """Writes the checkpoints merged, this share of them against the base's weights."""
        target = self.path / name
        shutil.rmtree(target, ignore_errors=True)
        weights.write_merged(self.base.checkpoint.path, checkpoints, share, self.settings.merge.dtype, target)
        return target

    def measured(self, path: Path) -> Mapping[int, pl.DataFrame]:
        """Measures of every validation query by the model in a directory, by width."""
        model = self._candidate(path)
        with self.engine(model.engine) as engine:
            found = judge.vectors(model, engine, self.validation)
        return {width: judge.measured(self.validation, found, width) for width in self.widths}

    def _candidate(self, path: Path) -> Model:
        settings = outcome.model_settings(self.settings, self.published.model, path)
        return open_model(settings, self.settings.engine)

    def judged_base(self) -> Measured:
        """The base on the test queries at every width, and on the guard's at the widest."""
        with self.engine(self.published.make_engine()) as engine:
            found = judge.published_vectors(self.published, engine, self.test)
            guard = judge.vectors(self.published.model, engine, self.guard) if self.guard else None
        return _judged(self, found, guard)

    def judged(self, path: Path) -> Measured:
        """The model in a directory on the same queries."""
        model = self._candidate(path)
        with self.engine(model.engine) as engine:
            found = judge.vectors(model, engine, self.test)
            guard = judge.vectors(model, engine, self.guard) if self.guard else None
        return _judged(self, found, guard)


def _judged(run: Adaptation, found: Vectors, guard: Vectors | None) -> Measured:
    """Measures of the test queries at every width, and of the guard's at the widest."""
    widths = {width: judge.measured(run.test, found, width) for width in run.widths}
    if run.guard is None or guard is None:
        return Measured(widths)
    return Measured(widths, judge.measured(run.guard, guard, run.widths[0]))


def _measured_or_none(run: Adaptation, path: Path) -> Mapping[int, pl.DataFrame] | None:
    """Measures on the validation queries; none of a model that an engine refuses, as a high learning rate leaves it."""
    try:
        return run.measured(path)
    except UnusableModel as error:
        say(str(error), "WARNING")
        return None


def _judged_or_refused(run: Adaptation, path: Path, base: Measured) -> tuple[Measured, str]:
    """The candidate's measures; those of no answers, and why, where an engine refuses it."""
    try:
        return run.judged(path), ""
    except UnusableModel as error:
        return base.of_no_answers(), str(error)


def _write_queries(run: Adaptation, writer: synthetic.Writer, prompts: TokenSequences) -> list[list[int]]:
    with RemoteEngine(run.cluster, writer.engine, "write", run.settings.run.progress) as engine:
        return engine.write(prompts)


def _shortened(model: Model, limit: int | None) -> Model:
    """A model that cuts documents after so many tokens, or after its own limit."""
    update = {"max_tokens": min(limit or model.max_tokens, model.max_tokens), "overflow": "truncate"}
    return Model(model.settings.model_copy(update=update), model.engine_settings, model.revision)
