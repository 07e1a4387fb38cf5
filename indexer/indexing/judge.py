"""Judges engines: one must reproduce published vectors of unchanged documents before a night embeds."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.corpus.documents import read_part
from indexer.corpus.shards import ChosenRows
from indexer.errors import BadFile, RefusedError
from indexer.indexing import worklist
from indexer.indexing.job import Job
from indexer.inference import environment
from indexer.inference.engine import Embedder
from indexer.inference.reference import Probes, Reference, probe
from indexer.inference.sequences import TokenSequences
from indexer.storage import lookups, vector_columns
from indexer.storage.control import ControlStore
from indexer.storage.description import EngineRecord
from indexer.storage.records import Epoch

WINDOWS = 8
"""Files that are sampled, at one place each: neighbouring rows cost one read of a file."""

WINDOW_ROWS = 4096

CANDIDATES = 4
"""Rows read per wanted document, since some have changed."""

LONGEST_BYTES = 1 << 20
"""Texts above this are not sampled: they would be cut, and fill this process's memory."""

TOKENS = 1 << 13
"""Cap on a sample's tokens, for less than 2 s of engine time, also of all-MiniLM-L6-v2 on two cores."""

DIGEST_COLUMNS = ["row", "text_bytes", "reason"]

KEY = (schema.ID, schema.CHUNK)


@dataclass(frozen=True)
class Judge:
    """Admits an engine to a night if it reproduces the published vectors.

    Attributes:
        name: Name of the night's engine record: the digest of the fingerprint.
        epoch: The epoch being built.
        arguments: The engine's arguments.
        reference: Published vectors; empty before the first epoch.
    """

    name: str
    epoch: int
    arguments: dict[str, object]
    reference: Reference

    def admit(self, engine: Embedder, control: ControlStore, probe_ids: list[list[int]]) -> None:
        """Compares an engine with the published vectors and with the first engine of the same night.

        Args:
            engine: The engine.
            control: Control files of the index.
            probe_ids: Token ids of the probes.

        Raises:
            RefusedError: Its vectors differ; nothing was embedded with it.
        """
        now = environment.describe(self.arguments)
        worst = self.reference.check(engine, now, "nothing was embedded")
        found = probe(engine, probe_ids)
        ours = EngineRecord(
            made_with=now,
            probe_ids=found.ids,
            probe_vectors=found.encoded(),
            published_cosine=worst if self.reference.ids else None,
            least_cosine=self.reference.least,
        )
        first = control.put_engine(self.epoch, self.name, ours)
        if first != ours:
            # A resumed night may run another vLLM than its first part, whose shards are staged already.
            known = Probes.decoded(first.probe_ids, first.probe_vectors)
            others = Reference(self.epoch, first.least_cosine, first.made_with, known.ids, list(known.vectors))
            try:
                others.check(engine, now, "an engine of this night was not used")
            except RefusedError as error:
                raise RefusedError(f"{error}; {self._way_out(control.name)}") from None

    def _way_out(self, name: str) -> str:
        """What to do if an interrupted night is to go on with another engine."""
        # The receipts too: what the first engine staged would be published beside what the other one computes.
        folders = " and ".join(f"_{name}/{kind}/{self.epoch:012d}" for kind in ("engines", "receipts"))
        return f"if the engine was changed on purpose, delete {folders} at index.uri, and the night is computed anew"


def make_judge(job: Job, unread: Collection[str]) -> Judge:
    """Draws the sample.

    Args:
        job: The run's inputs.
        unread: Names of the digests of files that could not be read.

    Returns:
        The judge of the night's engines.
    """
    gates = job.settings.gates
    least = gates.quantized_cosine if job.settings.model.quantization else gates.published_cosine
    ids: list[list[int]] = []
    vectors: list[np.ndarray] = []
    before = None
    if job.published is not None:
        ids, vectors = sample(job, job.published, unread)
        before = job.published.description.engine
    documents = len(ids)
    places = [np.flatnonzero(job.model.tokenizer.stored(TokenSequences.of([row]))) for row in ids]
    if before is not None:
        known = Probes.decoded(before.probe_ids, before.probe_vectors)
        ids, vectors = [*ids, *known.ids], [*vectors, *known.vectors]
    number = job.published.number if job.published else 0
    made_with = before.made_with if before else None
    return Judge(
        name=job.model.fingerprint_digest,
        epoch=job.epoch,
        arguments=dict(job.model.engine_settings.arguments),
        reference=Reference(number, least, made_with, ids, vectors, documents, places),
    )


def sample(job: Job, published: Epoch, unread: Collection[str]) -> tuple[list[list[int]], list[np.ndarray]]:
    """Token ids and published vectors of unchanged documents, spread over lengths.

    Args:
        job: The run's inputs.
        published: The epoch that holds the vectors.
        unread: Names of the digests of files that could not be read.

    Returns:
        Token ids, and the vectors of each at the widest stored width, float32, shape (its vectors, width); one chunk or
        more of at most ``gates.published_documents`` documents.
    """
    texts = _unchanged_texts(job, published, unread)
    chosen = _spread(sorted(texts, key=lambda name: len(texts[name])), job.settings.gates.published_documents)
    tokens = job.model.tokenizer.documents([texts[name] for name in chosen])
    widest = published.tables[0]
    rows = lookups.lookup(job.settings.index.uri, widest.name, widest.version, chosen, [*KEY, schema.VECTOR])
    keys = zip(*(rows[name].to_pylist() for name in KEY), strict=True)
    stored = dict(zip(keys, vector_columns.each(rows[schema.VECTOR]), strict=True))
    ids: list[list[int]] = []
    vectors: list[np.ndarray] = []
    left = TOKENS
    # In random order, so that a sample cut at the limit has all lengths.
    for at in random.Random(job.epoch).sample(range(len(tokens.ids)), len(tokens.ids)):  # noqa: S311  # a sample
        vector = stored.get((chosen[int(tokens.row[at])], int(tokens.chunk[at])))
        if vector is not None and (len(tokens.ids[at]) <= left or not ids):
            ids.append(tokens.ids[at].tolist())
            vectors.append(vector)
            left -= len(tokens.ids[at])
    return ids, vectors


def _unchanged_texts(job: Job, published: Epoch, unread: Collection[str]) -> dict[str, str]:
    """Texts by id of some documents whose text equals the published one."""
    texts: dict[str, str] = {}
    hashes: dict[str, bytes] = {}
    for window in _windows(job, unread):
        try:
            batches = list(read_part(job.corpus, window.part(0, len(window.rows))))
        except BadFile:
            continue  # the file changed since it was listed: workers will report it
        for batch in batches:
            texts |= dict(zip(batch.ids, batch.texts, strict=True))
            hashes |= dict(zip(batch.ids, batch.content_hash.to_pylist(), strict=True))
    narrow = published.tables[-1]
    columns = [schema.ID, schema.CONTENT_HASH]
    rows = lookups.lookup(job.settings.index.uri, narrow.name, narrow.version, list(texts), columns)
    same = {
        name
        for name, digest in zip(rows[schema.ID].to_pylist(), rows[schema.CONTENT_HASH].to_pylist(), strict=True)
        if hashes[name] == digest
    }
    return {name: text for name, text in texts.items() if name in same}


def _windows(job: Job, unread: Collection[str]) -> Iterator[ChosenRows]:
    """Usable rows, ascending, and their text bytes, at one place of some files each, spread over lengths."""
    draw = random.Random(job.epoch)  # noqa: S311  # a sample, not a secret
    files = [file for file in job.corpus.files if job.corpus.digest_name(file) not in unread]
    drawn = draw.sample(files, min(WINDOWS, len(files)))
    for file in drawn:
        digest = job.store.digests.read(job.corpus.digest_name(file), [*DIGEST_COLUMNS, *worklist.IDENTITY])
        is_usable = pc.and_(pc.is_null(digest["reason"]), pc.less_equal(digest["text_bytes"], LONGEST_BYTES))
        usable: pa.Table = digest.filter(is_usable).sort_by("row")
        if usable.num_rows:
            start = draw.randrange(max(1, usable.num_rows - WINDOW_ROWS + 1))
            window = usable.slice(start, WINDOW_ROWS).sort_by("text_bytes")
            most = CANDIDATES * job.settings.gates.published_documents // len(drawn) + 1
            chosen = window.take(_spread(range(window.num_rows), most)).sort_by("row")
            text_bytes = chosen["text_bytes"].to_numpy()
            identity = chosen.select(worklist.IDENTITY)
            yield ChosenRows(file, chosen["row"].to_numpy(), text_bytes, np.zeros_like(text_bytes), identity)


ItemT = TypeVar("ItemT")


def _spread(items: Sequence[ItemT], most: int) -> list[ItemT]:
    """At most ``most`` items at even distances, the first and the last included."""
    places = np.linspace(0, max(len(items) - 1, 0), min(most, len(items))).round().astype(int)
    return [items[place] for place in np.unique(places)]
