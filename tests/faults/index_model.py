"""One index under test: what it is told, what it must hold, and what it is found to hold."""

import functools
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import IndexerError
from indexer.indexing.job import Rebuild
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.publishing import history
from indexer.search.published import open_published
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.testing.fakes import FakeEngine
from tests.faults.corpus_model import CorpusModel, Expected, Setup, expected
from tests.faults.epoch_content import Broken, content
from tests.support import fakes
from tests.support.local_cluster import LocalCluster

DIMENSION = 64

MAX_TOKENS = 128

SEARCHED: dict[str, Any] = {"payload": ("kind", "lang", "text"), "text_search": ("text",), "filters": ("lang",)}
"""Settings of an index with full-text search and filters."""

WIDTHS = ((64, 32), (64,), (64, 48, 32), (32,))

PAYLOADS = (("kind", "lang"), ("lang",), ("kind", "lang", "key"), ())

STORED = ("auto", "once", "copies")

WAYS_OUT = 6
"""Steps that may be asked for before an index is up to date again."""


class IndexModel:
    """An index, its corpus and the settings wanted now.

    Attributes:
        root: Folder of the index and of the corpora.
        name: Name of the index.
        setup: The settings wanted now.
        corpus: The corpus.
        known: What was found in every kept epoch when it was first seen.
        lost: Epochs that are listed and whose tables somebody replaced by other ones.
        emptied: What was found in epochs whose files have lost their content: their intents may be finished again.
        loose: Whether the corpus was changed while a run read it, so that its epoch may be of both.
    """

    def __init__(self, root: Path, name: str, model: str, drawn: random.Random, begin: Setup) -> None:
        """Writes a corpus; nothing is indexed yet."""
        self.root = root
        self.name = name
        self.setup = begin
        self.corpus = CorpusModel(root / f"corpus-{name}", drawn)
        self.known: dict[int, str] = {}
        self.lost: set[int] = set()
        self._model = model
        self.emptied: dict[int, str] = {}
        self.loose = False
        self._begun: list[Expected] = []
        self._read: dict[int, tuple[str, tuple[Any, ...]]] = {}

    @property
    def store(self) -> ControlStore:
        """The control files."""
        return ControlStore(str(self.root / "index"), self.name)

    @property
    def control(self) -> Path:
        """Folder of the control files."""
        return self.root / "index" / f"_{self.name}"

    @property
    def numbers(self) -> list[int]:
        """Epochs whose files can be read, ascending."""
        return [epoch.number for epoch in self.store.epochs()]

    def settings(self, setup: Setup | None = None) -> Settings:
        """The settings of a run; every gate that bounds a share lets all through."""
        given = setup or self.setup
        return fakes.settings(
            self.root,
            corpus={
                "uri": str(self.corpus.folder),
                "id_column": given.id_column,
                "text_columns": list(given.text_columns),
                "payload": list(given.payload),
            },
            model={"name": self._model, "max_tokens": MAX_TOKENS},
            index={
                "uri": str(self.root / "index"),
                "name": self.name,
                "widths": list(given.widths),
                "precision": given.precision,
                "text_search": list(given.text_search),
                "filters": list(given.filters),
                "metric": given.metric,
                "payload": given.stored,
            },
            run={"shard_mb": 0.0008},
            gates={"max_removed": 1.0, "max_quarantined": 1.0, "max_changed": 1.0},
        )

    def run(self, setup: Setup | None = None, *, rebuild: Rebuild = False) -> IndexerError | None:
        """One run; what it must hold is looked at if it says that it is done.

        Returns:
            Why it did not publish, if it said so.
        """
        given = setup or self.setup
        wanted = expected(self.corpus.rows, given)
        self._begun.append(wanted)
        try:
            summary = fakes.run(self.settings(given), cluster=LocalCluster(), rebuild=rebuild)
        except IndexerError as error:
            return error
        if not self.loose:
            self._compare(summary["epoch"], wanted, given)
        return None

    def settle(self, make_way: Callable[[str], bool]) -> None:
        """A plain run, and whatever way out it names, until the index is up to date.

        Args:
            make_way: Given what the run says, moves things away that are in its way; whether it did.

        Raises:
            Broken: It names none, or none helps.
        """
        said = []
        rebuild: Rebuild = False
        for _ in range(WAYS_OUT):
            refused = self.run(rebuild=rebuild)
            if refused is None:
                self._begun.clear()
                self.loose = False
                self.check()
                return
            said.append(f"{type(refused).__name__}: {refused}")
            rebuild = "always" if "--rebuild always" in str(refused) else "--rebuild" in str(refused)
            if not rebuild and not make_way(str(refused)) and not self._follow(str(refused)):
                break
        raise Broken(f"{self.name} is stuck: {' | '.join(said)}")

    def _follow(self, text: str) -> bool:
        if "resume" in text:
            history.resume(self.store)
            return True
        return "again" in text or "given up by a rollback" in text

    def call(self, name: str) -> None:
        """Gives an index of which nothing is published another name."""
        self.name = name
        self.forget({})

    def check(self) -> None:
        """Every epoch that is listed can be read and is what it was; what is new is what some run was to make."""
        numbers = self.numbers
        for number in [number for number in self.known if number not in numbers]:
            del self.known[number]
        for number in numbers:
            if number not in self.lost and not self._is_as_read(number):
                found = content(str(self.root / "index"), self.name, number)
                if number not in self.known:
                    self._recognise(number, found)
                digest = _digest(found)
                if self.known.setdefault(number, digest) != digest:
                    raise Broken(f"{self.name}: epoch {number} is no longer what it was")
                self._read[number] = digest, self._files(number)
        if numbers and numbers[-1] not in self.lost:
            open_published(str(self.root / "index"), self.name)

    def _is_as_read(self, number: int) -> bool:
        """Whether no file of an epoch's tables was written, moved or touched since all of it was read."""
        digest, files = self._read.get(number, ("", ()))
        return bool(digest) and digest == self.known.get(number) and files == self._files(number)

    def _files(self, number: int) -> tuple[Any, ...]:
        """What the file system says of the epoch's record and of every file of its tables."""
        folders = [self.root / "index" / f"{name}.lance" for name in self.store.epoch(number).versions()]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        files += (self.control / "epochs").glob(f"{number:012d}*")
        states = ((str(path), path.stat()) for path in sorted(files))
        return tuple((path, found.st_ino, found.st_size, found.st_ctime_ns) for path, found in states)

    def forget(self, known: Mapping[int, str]) -> None:
        """The folder is another one now: what epochs it has must be what they were, where they can be read at all."""
        self.lost.clear()
        self.loose = True  # what was begun then may be finished now
        self.known = dict(known)
        for number in self.numbers:
            try:
                found = _digest(content(str(self.root / "index"), self.name, number))
            except IndexerError:
                found = ""
            if not found or found != self.known.get(number, found):
                self.lost.add(number)
                self.known.pop(number, None)
            else:
                self.known[number] = found

    def _recognise(self, number: int, found: dict[str, Any]) -> None:
        again = self.store.epoch(number).description.rollback_of
        if again is not None:
            if again in self.known and self.known[again] != _digest(found):
                raise Broken(f"{self.name}: epoch {number} is not epoch {again} again")
            return
        if self.emptied.get(number) == _digest(found):
            return
        wrong = [_difference(found, wanted) for wanted in self._begun]
        if wrong and None not in wrong and not self.loose:
            raise Broken(f"{self.name}: epoch {number} is nothing that was asked for: {wrong}")

    def _compare(self, number: int, wanted: Expected, setup: Setup) -> None:
        """What a run says it has published against the corpus."""
        found = content(str(self.root / "index"), self.name, number)
        if sorted(found["tables"]) != sorted(setup.widths):
            raise Broken(f"{self.name}: epoch {number} has widths {sorted(found['tables'])}")
        layout = self.store.epoch(number).description.layout
        if (layout.precision, layout.metric, sorted(layout.payload)) != (
            setup.precision,
            setup.metric,
            sorted(setup.payload),
        ):
            raise Broken(f"{self.name}: epoch {number} has the layout {layout}")
        if setup.stored != "auto" and (setup.stored == "once") != (layout.repeated is not None):
            raise Broken(f"{self.name}: epoch {number} stores the payload with {layout.repeated} in every table")
        wrong = _difference(found, wanted)
        if wrong:
            raise Broken(f"{self.name}: epoch {number} after a run with {setup}: {wrong}")
        self.lost.discard(number)
        if self.known.setdefault(number, _digest(found)) != _digest(found):
            raise Broken(f"{self.name}: epoch {number} is no longer what it was")


def _difference(found: dict[str, Any], wanted: Expected) -> str | None:
    """What differs, in a few words; ``None`` where nothing does."""
    if found["quarantine"] != wanted.quarantine:
        return f"the quarantine is {found['quarantine']}, not {wanted.quarantine}"
    for width, rows in found["tables"].items():
        if rows.keys() != wanted.documents.keys():
            missing, more = wanted.documents.keys() - rows.keys(), rows.keys() - wanted.documents.keys()
            return f"width {width} lacks {sorted(missing)} and has {sorted(more)} too"
        for name, (payload, vector) in rows.items():
            texts = {text for text, allowed in wanted.documents[name] if allowed == payload}
            if not texts:
                return f"width {width}: {name} has the payload {payload}"
            exact = _vector(texts.pop())[:width]
            exact = exact / np.linalg.norm(exact)
            if not np.allclose(np.frombuffer(vector, np.float32), exact, atol=1e-3):
                return f"width {width}: {name} has another vector"
    return None


def _digest(found: dict[str, Any]) -> str:
    parts = [(width, sorted(rows.items())) for width, rows in sorted(found["tables"].items())]
    return hashlib.blake2b(repr((parts, found["quarantine"], found["words"])).encode(), digest_size=12).hexdigest()


@functools.cache
def _tokenizer(model: str) -> EmbedTokenizer:
    return EmbedTokenizer(model, MAX_TOKENS)


_model_of_vectors = ""


def use_model(model: str) -> None:
    """Says whose tokenizer the vectors of texts are made with."""
    global _model_of_vectors  # noqa: PLW0603  # one model a process
    _model_of_vectors = model


@functools.cache
def _vector(text: str) -> np.ndarray:
    return FakeEngine(DIMENSION).embed(_tokenizer(_model_of_vectors).documents([text]).ids)[0]


def other_setup(setup: Setup, drawn: random.Random) -> Setup:
    """Other settings, of which each is a correction that somebody makes one day."""
    changes: list[dict[str, Any]] = [
        {"id_column": "key" if setup.id_column == "id" else "id"},
        {"payload": setup.payload[::-1]},
        {"payload": _other_payload(setup, drawn)},
        {"text_columns": drawn.choice((("text",), ("title", "text"), ("text", "title")))},
        {"widths": drawn.choice(WIDTHS)},
        {"precision": "float16" if setup.precision == "float32" else "float32"},
        {"metric": "dot" if setup.metric == "cosine" else "cosine"},
    ]
    if "text" in setup.payload:
        changes.append({"stored": drawn.choice([kind for kind in STORED if kind != setup.stored])})
        changes.append({"text_search": () if setup.text_search else ("text",)})
        filters = drawn.choice(((), ("lang", "kind"), ("kind",)))
        changes.append({"filters": tuple(name for name in filters if name in setup.payload)})
    return replace(setup, **drawn.choice(changes))


def _other_payload(setup: Setup, drawn: random.Random) -> tuple[str, ...]:
    """Other payload columns, with those that are searched and filtered."""
    used = (*setup.text_search, *setup.filters, *(name for name in setup.payload if name == "text"))
    return tuple(dict.fromkeys((*drawn.choice(PAYLOADS), *used)))
