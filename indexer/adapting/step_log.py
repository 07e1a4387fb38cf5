"""Loss and tokens of every training step, in a file that one process writes and another one follows."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Told(NamedTuple):
    """What is told of a step: its number from 1, its loss, and the tokens that were read for it."""

    step: int
    loss: float
    tokens: int


@dataclass
class StepLog:
    """The steps of a training. After a kill those since the last saved weights are trained, and told, once more.

    Attributes:
        path: The file.
    """

    path: Path
    _read: int = 0

    def add(self, told: Told) -> None:
        """Tells a step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            # A line of its own also after one that a kill cut.
            stream.write(f"\n{json.dumps(told)}\n")

    def follow(self) -> Iterator[Told]:
        """Steps that were told since the last look."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self._read)
            # The last line may be half written yet.
            lines = stream.read().rpartition(b"\n")[0].splitlines(keepends=True)
        self._read += sum(map(len, lines)) + bool(lines)
        for line in lines:
            with suppress(ValueError):  # an empty line, or one that a kill cut
                yield Told(*json.loads(line))
