"""Splits pairs into those trained on, validated on and judged by, so that nothing that judges was trained on."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from indexer.adapting.pairs import Pair, Split, key, names
from indexer.adapting_settings import SplitSettings
from indexer.errors import CorpusError

LEAST_TRAINED = 2
"""Pairs below which there is no batch."""


@dataclass(frozen=True)
class HeldOut:
    """Documents of validation and test, which training must not see.

    Attributes:
        known: What they are known by, as :func:`indexer.adapting.pairs.names` gives it.
    """

    known: frozenset[str]

    def has(self, document_id: str, text: str) -> bool:
        """Whether a document is held out, under its own id or as an equal text."""
        return not names(document_id, text).isdisjoint(self.known)


def split(pairs: Sequence[Pair], settings: SplitSettings) -> tuple[list[Pair], dict[str, int]]:
    """Draws the split by query, then drops what training would share with the rest.

    Args:
        pairs: All pairs. Where some are for the test already, no other is drawn for it.
        settings: Shares and seed.

    Returns:
        The pairs with their split, and counts of those dropped. A query is in one split with all its pairs, equal texts
        count as one query; a document of validation or test is in no pair that is trained on.

    Raises:
        CorpusError: Too few are left to train, to validate or to judge.
    """
    given = [pair for pair in pairs if pair.split == "test"]
    drawn = _drawn([pair for pair in pairs if pair.split != "test"], settings, 0.0 if given else settings.test)
    found = [*given, *(replace(pair, split=drawn[key(pair.query)]) for pair in pairs if pair.split != "test")]
    asked = {key(pair.query) for pair in given}
    out = held_out(found)
    dropped: Counter[str] = Counter()
    kept = []
    for pair in found:
        reason = "" if pair.split == "test" else _reason(pair, asked, out)
        dropped[reason] += 1
        if not reason:
            kept.append(pair)
    _check(kept, dropped)
    return kept, {reason: count for reason, count in dropped.items() if reason}


def held_out(pairs: Sequence[Pair]) -> HeldOut:
    """The documents that answer a query of validation or test."""
    chosen = [pair for pair in pairs if pair.split != "train" and pair.grade > 0]
    return HeldOut(frozenset(chain.from_iterable(names(pair.document_id, pair.document) for pair in chosen)))


def _drawn(pairs: Sequence[Pair], settings: SplitSettings, test: float) -> Mapping[str, Split]:
    """Split of each query by its key, the same for the same seed wherever the pairs come from."""
    order = sorted({key(pair.query) for pair in pairs}, key=lambda name: _hash(settings.seed, name))
    tested = round(test * len(order))
    validated = tested + max(1, round(settings.validation * len(order)))
    found: dict[str, Split] = dict.fromkeys(order, "train")
    found |= dict.fromkeys(order[:validated], "validation")
    return found | dict.fromkeys(order[:tested], "test")


def _hash(seed: int, name: str) -> str:
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).hexdigest()


def _reason(pair: Pair, asked: set[str], out: HeldOut) -> str:
    """Why a pair that does not judge cannot stay."""
    if key(pair.query) in asked:
        return "pairs whose query is a test query"
    if pair.split == "train" and out.has(pair.document_id, pair.document):
        return "pairs whose document is one of validation or test"
    return ""


def _check(kept: Sequence[Pair], dropped: Counter[str]) -> None:
    """Refuses splits with too few pairs, and says where pairs went."""
    counts = Counter(pair.split for pair in kept if pair.grade > 0)
    least: dict[Split, int] = {"train": LEAST_TRAINED, "validation": 1, "test": 1}
    for name, number in least.items():
        if counts[name] < number:
            reasons = "".join(f"; {count} {reason}" for reason, count in dropped.items() if reason)
            raise CorpusError(
                f"{counts[name]} pairs are left for {name}, at least {number} needed{reasons}: give more queries, or "
                "another share in [split]"
            )
