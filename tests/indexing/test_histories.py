"""Random histories of a real index: whatever a run does by what changed alone is what it does in full.

Files come, go, are cut anew and cannot be read for a night; documents are copied, moved, repaid, quarantined, mended;
settings change; epochs are rolled back. Every night compares, sums up and finds equal texts in both ways, and publishes
what the corpus has. Fake engine, no Ray.
"""

import random
from collections import Counter
from pathlib import Path

import pytest

from indexer.indexing import changes, equal_texts, sandbox, worklist
from indexer.publishing import history, identity
from indexer.storage import commits
from tests.faults import index_model, ways
from tests.faults.corpus_model import Setup
from tests.faults.index_model import SEARCHED, STORED, IndexModel, other_setup
from tests.support.checkpoints import tokenizer_only
from tests.support.reading import ReaderHere

pytestmark = pytest.mark.heavy

NIGHTS = 6

CORRECTED = 0.3
"""Share of the nights in which settings change. The other events likewise have a share."""

ROLLED_BACK = 0.15

UNREADABLE = 0.25

CUT = 30
"""Bytes that a damaged file lacks at its end."""


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often runs went every way."""
    for place, name in ((changes, "_of_changed_files"), (equal_texts, "_known"), (identity, "_updated")):
        monkeypatch.setattr(place, name, getattr(place, name))
    for place, name in ((identity, "FEW"), *((commits, name) for name in ("LOOKED_UP", "looked_up", "_addresses"))):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(sandbox, "_start", ReaderHere)
    for name in ("SMALLEST_SHARD", "FEWEST_DOCUMENTS"):
        monkeypatch.setattr(worklist, name, 1)
    counts: Counter[str] = Counter()
    ways.install(lambda way: counts.update([way]))
    return counts


def play(root: Path, seed: int) -> None:
    """One history; raises where something does not hold."""
    drawn = random.Random(seed)
    path = tokenizer_only(root, index_model.DIMENSION)
    index_model.use_model(path)
    begin = Setup(**SEARCHED if seed % 2 else {}, stored=STORED[seed % len(STORED)])
    model = IndexModel(root, "docs", path, drawn, begin)
    for _ in range(NIGHTS):
        for _ in range(drawn.choice((0, 1, 1, 2, 3))):
            model.corpus.edit()
        if drawn.random() < CORRECTED:
            model.setup = other_setup(model.setup, drawn)
        if model.numbers and drawn.random() < ROLLED_BACK:
            history.rollback(str(root / "index"), model.store, drawn.choice(model.numbers))
        if drawn.random() < UNREADABLE:
            _without_a_file(model, drawn)
        model.settle(lambda _: False)


def _without_a_file(model: IndexModel, drawn: random.Random) -> None:
    """A night in which one file cannot be read. What it had stays published, so that the epoch is of no corpus."""
    file = model.corpus.folder / drawn.choice(sorted(model.corpus.files))
    content = file.read_bytes()
    file.write_bytes(content[:-CUT])
    model.loose = True
    model.run()
    model.check()
    model.loose = False
    file.write_bytes(content)


def play_all(root: Path, seeds: range, gone: Counter[str]) -> None:
    """Histories, each in a folder of its own."""
    for seed in seeds:
        (root / str(seed)).mkdir()
        play(root / str(seed), seed)
    print(dict(gone))
    assert min(gone[way] for way in ways.BY_CHANGES) > 0
    assert gone["compared by changes"] > NIGHTS * len(seeds) / 4


def test_histories_of_a_real_index_are_the_same_in_both_ways(tmp_path: Path, gone: Counter[str]) -> None:
    play_all(tmp_path, range(2), gone)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", [100, 200])
def test_many_histories_of_a_real_index_are_the_same_in_both_ways(
    tmp_path: Path, gone: Counter[str], first: int
) -> None:
    play_all(tmp_path, range(first, first + 50), gone)
