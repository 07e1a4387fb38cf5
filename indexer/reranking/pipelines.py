"""The two pipelines of a scoring run: queries to candidates, and pairs to scores."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.cluster.pipeline import Pipeline
from indexer.inference.engine import Embedder, Scorer
from indexer.inference.model import Model, Reranker
from indexer.inference.pair_inputs import PairBatch
from indexer.inference.sequences import TokenSequences
from indexer.progress import Stopwatch
from indexer.reranking import pairs
from indexer.reranking.pairs import RowRange
from indexer.reranking.results import CANDIDATE_SCHEMA, RESULT_SCHEMA, TABLE, PartReceipt, ResultFolder
from indexer.search import modes, query_vectors
from indexer.search.hits import SPAN, Hit
from indexer.search.modes import SearchOptions
from indexer.search.published import Published
from indexer.settings import PairsSettings, QueriesSettings
from indexer.storage import tables
from indexer.storage.vector_columns import QueryVectors

CHUNK_COLUMN = "chunk"


@dataclass
class QueriesInFlight:
    """Queries of a shard between their file and their candidates."""

    ids: list[str]
    queries: list[str]
    instructions: list[str | None]
    tokens: TokenSequences
    unusable: int
    vectors: QueryVectors = field(default_factory=lambda: np.empty((0, 0), np.float32))


class SearchPipeline(Pipeline[RowRange, Embedder | None, QueriesInFlight, PartReceipt]):
    """Queries to candidates: embed, search, write a part that the reranker reads."""

    def __init__(self, output: str, settings: QueriesSettings, published: Published, model: Model | None) -> None:
        """Starts the engine; to search by words alone there is none.

        Args:
            output: Folder of the run.
            settings: Columns of the queries, and how to search.
            published: The index.
            model: The index's own model, ``None`` to search by words alone.
        """
        self._folder = ResultFolder(output)
        self._settings = settings
        self._published = published
        self._tokenizer = None if model is None else model.tokenizer
        super().__init__(_no_engine if model is None else published.make_engine(model))

    def _read(self, piece: RowRange, watch: Stopwatch) -> QueriesInFlight:
        """Reads and tokenises the usable queries of a shard."""
        with watch("read"):
            table = pairs.read(piece)
            ids, queries = (
                pairs.strings(table, name) for name in (self._settings.id_column, self._settings.text_column)
            )
            tasks = _instructions(table, self._settings.instruction_column)
        usable = [(name, query, task) for name, query, task in zip(ids, queries, tasks, strict=True) if name and query]
        texts, chosen = [query for _, query, _ in usable], [task for *_, task in usable]
        with watch("tokenise"):
            tokens = TokenSequences.of([]) if self._tokenizer is None else self._tokenizer.queries(texts, chosen)
        return QueriesInFlight([name for name, *_ in usable], texts, chosen, tokens, table.num_rows - len(usable))

    def _compute(self, held: QueriesInFlight, watch: Stopwatch) -> None:
        """Embeds the queries, if there is an engine."""
        if self._engine is not None:
            with watch("engine"):
                held.vectors = query_vectors.of_engine(self._engine.embed(held.tokens), held.tokens)

    def _store(self, piece: RowRange, held: QueriesInFlight, watch: Stopwatch) -> PartReceipt:
        """Searches, writes the candidates and puts the receipt."""
        with watch("search"):
            found = _candidates(held, self._search(held))
        with watch("store"):
            part = self._folder.put_part("search", piece.shard_id, found)
        receipt = PartReceipt(
            shard_id=piece.shard_id,
            rows=part.num_rows,
            unscored=held.unusable,
            truncated=0,
            tokens=held.tokens.tokens,
            cached_tokens=0,
            fragments=[],
            seconds=watch.seconds,
        )
        return self._folder.receipts("search").put(receipt)

    def _search(self, held: QueriesInFlight) -> Iterator[list[Hit]]:
        """Candidates of each query."""
        chosen, snapshot = self._settings, self._published.snapshot
        options = search_options(chosen, snapshot.epoch.description.text_columns)
        return modes.find(snapshot, held.queries, held.vectors, chosen.candidates, options, per_document=False)


def _no_engine() -> None:
    """Stands in for the start of an engine."""


def search_options(queries: QueriesSettings, text_columns: Sequence[str]) -> SearchOptions:
    """How candidates are found: without payload, since the reranker looks texts up by id."""
    # Words choose a document's chunk by its text.
    columns = [*SPAN, *text_columns] if queries.mode == "text" else []
    return SearchOptions(queries.mode, queries.width, oversample=queries.oversample, columns=columns)


def _candidates(held: QueriesInFlight, found: Iterable[Sequence[Hit]]) -> pa.Table:
    """Candidates of all queries as a table of :data:`CANDIDATE_SCHEMA`."""
    rows = [
        (name, query, task, hit.id, hit.chunk, hit.vector_score)
        for name, query, task, hits in zip(held.ids, held.queries, held.instructions, found, strict=True)
        for hit in hits
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(CANDIDATE_SCHEMA)
    return pa.table(
        [pa.array(list(c), f.type) for c, f in zip(columns, CANDIDATE_SCHEMA, strict=True)], CANDIDATE_SCHEMA
    )


@dataclass
class PairsInFlight:
    """Pairs of a shard between their file and their scores.

    Attributes:
        table: The rows as read.
        order: Rows with a query and a document, sorted by query so that equal queries are neighbours.
        batch: Their prompts.
        scores: float32, shape (rows,); NaN for a row without a score.
        cached_tokens: Tokens of the prompts that came from the cache.
    """

    table: pa.Table
    order: list[int]
    batch: PairBatch
    scores: np.ndarray
    cached_tokens: int = 0


class ScorePipeline(Pipeline[RowRange, Scorer, PairsInFlight, PartReceipt]):
    """Pairs to scores."""

    def __init__(
        self,
        output: str,
        settings: PairsSettings,
        published: Published | None,
        reranker: Reranker,
        *,
        ranked: bool,
    ) -> None:
        """Starts the engine.

        Args:
            output: Folder of the run.
            settings: Columns of the pairs.
            published: The index that document ids refer to.
            reranker: Gives the tokenizer and the engine.
            ranked: Whether the pairs are candidates of a search, whose results are ranked and also go to a table.
        """
        self._output = output
        self._folder = ResultFolder(output)
        self._settings = settings
        self._published = published
        self._tokenizer = reranker.tokenizer
        self._ranked = ranked
        super().__init__(reranker.engine)

    def _read(self, piece: RowRange, watch: Stopwatch) -> PairsInFlight:
        """Reads pairs, looks up documents, and tokenises usable pairs, sorted by task and query."""
        with watch("read"):
            table = pairs.read(piece)
            queries = pairs.strings(table, self._settings.query_column)
            tasks = _instructions(table, self._settings.instruction_column)
            documents = self._documents(table)
        usable = [
            (row, query, document, task)
            for row, (query, document, task) in enumerate(zip(queries, documents, tasks, strict=True))
            if query is not None and document is not None
        ]
        usable.sort(key=lambda pair: (pair[3] or "", pair[1]))
        with watch("tokenise"):
            batch = self._tokenizer.pairs(
                [query for _, query, _, _ in usable],
                [document for _, _, document, _ in usable],
                [task for *_, task in usable],
            )
        return PairsInFlight(table, [row for row, *_ in usable], batch, np.full(table.num_rows, np.nan, np.float32))

    def _documents(self, table: pa.Table) -> list[str | None]:
        """Text of every row's document: its own column, or looked up in the index by id."""
        chosen = self._settings
        if chosen.document_column is not None:
            return pairs.strings(table, chosen.document_column)
        ids = pairs.strings(table, str(chosen.document_id_column))
        known = [name for name in ids if name is not None]
        if self._published is None:
            raise TypeError("ids of documents need an index")
        found = self._published.texts(known, table[CHUNK_COLUMN].to_pylist() if self._ranked else None)
        texts = iter(found)
        return [None if name is None else next(texts) for name in ids]

    def _compute(self, held: PairsInFlight, watch: Stopwatch) -> None:
        """Scores the pairs; notes the tokens that came from the cache."""
        before = self._engine.cached_tokens
        with watch("engine"):
            held.scores[held.order] = self._engine.score(held.batch.ids, held.batch.second)
        held.cached_tokens = self._engine.cached_tokens - before

    def _store(self, piece: RowRange, held: PairsInFlight, watch: Stopwatch) -> PartReceipt:
        """Writes the scored part, stages it if results are ranked, and puts the receipt."""
        truncated = np.zeros(held.table.num_rows, bool)
        truncated[held.order] = held.batch.truncated
        part = held.table.append_column("score", pa.array(held.scores, from_pandas=True))
        part = part.append_column("truncated", pa.array(truncated))
        with watch("store"):
            part = self._folder.put_part("score", piece.shard_id, _ranked(part) if self._ranked else part)
            fragments = tables.stage(self._output, TABLE, part) if self._ranked and part.num_rows else []
        receipt = PartReceipt(
            shard_id=piece.shard_id,
            rows=part.num_rows,
            unscored=part["score"].null_count,
            truncated=pc.sum(part["truncated"]).as_py() or 0,
            tokens=held.batch.ids.tokens,
            cached_tokens=held.cached_tokens,
            fragments=fragments,
            seconds=watch.seconds,
        )
        return self._folder.receipts("score").put(receipt)


def _ranked(part: pa.Table) -> pa.Table:
    """Results in the order of their queries, each query's best first; pairs without a score come last."""
    ids = part["query_id"].to_pylist()
    first = {name: place for place, name in reversed(list(enumerate(ids)))}
    scores = np.nan_to_num(part["score"].to_numpy(), nan=-np.inf)
    order = np.lexsort((-scores, [first[name] for name in ids]))
    places = dict.fromkeys(first, 0)
    ranks = []
    for row in order:
        places[ids[row]] += 1
        ranks.append(places[ids[row]])
    ordered = part.take(pa.array(order)).append_column("rank", pa.array(ranks, pa.int32()))
    return ordered.select(RESULT_SCHEMA.names).cast(RESULT_SCHEMA)


def _instructions(table: pa.Table, column: str | None) -> list[str | None]:
    """Instruction of every row, ``None`` without a column for it."""
    return [None] * table.num_rows if column is None else pairs.strings(table, column)
