"""The layout of packed steps: the order of the sequences, their KV-cache blocks, the arrays of one step.

Only NumPy. A sequence reuses whole blocks at its beginning that it shares with the sequence before it or with one held
since an earlier call. The blocks may be written in the same step: each layer writes a step's keys and values before it
attends.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

NO_BLOCKS = np.zeros(0, np.int32)
ID_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """Sequences in the order in which they are computed.

    Attributes:
        ids: int32, shape (tokens,), in input order.
        order: int64, shape (n,): input row of each sequence.
        begins: int64, shape (n,): place of its first id.
        lengths: int32, shape (n,).
        inherited: int64, shape (n,): blocks at its beginning that it shares with the sequence before it.
        held: Numbers of the blocks after them that are held since an earlier call, by place in the order.
        second: int64, shape (n,): place of its first token of type 1, if the model is given types.
    """

    ids: np.ndarray
    order: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray
    inherited: np.ndarray
    held: Mapping[int, np.ndarray]
    second: np.ndarray | None

    @property
    def reused(self) -> np.ndarray:
        """Reused blocks of each sequence, int64, shape (n,)."""
        reused = self.inherited.copy()
        for place, numbers in self.held.items():
            reused[place] += len(numbers)
        return reused


@dataclass(frozen=True)
class Step:
    """One forward pass, laid out in host memory.

    Attributes:
        rows: int64, shape (n,): rows of the result.
        ids: int32, shape (tokens,).
        positions: int64, shape (tokens,).
        slots: int64, shape (tokens,): places in the KV cache.
        table: int32, shape (n, blocks of the longest): block numbers; meaningless behind a sequence's last block.
        lengths: int32, shape (n,), reused tokens included.
        own: int32, shape (n,): tokens that are computed.
        starts: int32, shape (n + 1,): place of each sequence's first computed token.
        types: int32, shape (tokens,), if the model is given types.
    """

    rows: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    table: np.ndarray
    lengths: np.ndarray
    own: np.ndarray
    starts: np.ndarray
    types: np.ndarray | None


@dataclass
class KvBlocks:
    """Blocks of the KV cache, and the sequences' beginnings in them.

    Attributes:
        size: Tokens of a block; 0 without a KV cache.
        count: Number of blocks; vLLM keeps the first one for padding.
    """

    size: int
    count: int
    _tables: dict[bytes, np.ndarray] = field(default_factory=dict)
    _keys: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = np.arange(self.count) > 0

    def fits(self, plan: Plan) -> bool:
        """Whether the free blocks can hold everything that the plan computes."""
        return bool((-(-plan.lengths // self.size) - plan.reused).sum() <= self._free.sum())

    def hold(self, plan: Plan, part: slice, table: np.ndarray) -> None:
        """Keeps the whole blocks of some sequences for later calls.

        Args:
            plan: All sequences.
            part: Places of those to keep.
            table: Numbers of their blocks, shape (sequences to keep, blocks of the longest).
        """
        whole = plan.lengths[part] // self.size
        keys = split(plan.ids, plan.begins[part], whole * self.size)
        for key, numbers, kept in zip(keys, table, whole.tolist(), strict=True):
            self._keep(key, numbers[:kept])

    def _keep(self, key: bytes, numbers: np.ndarray) -> None:
        """Holds blocks under a sequence's ids, as the newest entry."""
        self._tables.pop(key, None)  # insert again, so that the newest comes last
        self._tables[key] = numbers = numbers.copy()
        self._free[numbers] = False

    def release(self) -> None:
        """Frees everything but the newest sequence."""
        last = self._tables.popitem() if self._tables else None
        self._tables.clear()
        self._free = np.arange(self.count) > 0
        if last is not None:
            self._keep(*last)

    def free(self, taken: np.ndarray) -> np.ndarray:
        """Numbers of free blocks, int32, without the ones in ``taken``."""
        free = self._free
        if len(taken):
            free = free.copy()
            free[taken] = False
        return np.flatnonzero(free).astype(np.int32)

    def plan(self, ids: np.ndarray, lengths: np.ndarray, second: np.ndarray | None, *, share: bool) -> Plan:
        """Orders sequences: the longest first, or sorted by their ids if blocks are shared.

        In sorted order no earlier sequence shares more with a sequence than its neighbour does.

        Args:
            ids: Token ids of all sequences end to end, int32, shape (tokens,).
            lengths: Ids of each sequence, shape (n,).
            second: Place of the first token of type 1 in each sequence, shape (n,).
            share: Whether to share blocks.
        """
        held: dict[int, np.ndarray] = {}
        inherited = np.zeros(len(lengths), np.int64)
        begins = np.cumsum(lengths, dtype=np.int64) - lengths
        if share:
            keys = split(ids, begins, lengths)
            self._keys = sorted(self._tables)
            order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
            before = b""
            for place, row in enumerate(order.tolist()):
                inherited[place] = common = self._common(before, keys[row])
                found = self._find(keys[row])
                if len(found) > common:
                    held[place] = found[common:]
                before = keys[row]
        else:
            order = np.argsort(-lengths, kind="stable")
        second = None if second is None else np.asarray(second, np.int64)[order]
        return Plan(ids, order, begins[order], lengths[order].astype(np.int32), inherited, held, second)

    def _find(self, key: bytes) -> np.ndarray:
        """Numbers of the held blocks that cover most of a sequence's beginning; a sorted neighbour has them."""
        place = bisect_left(self._keys, key)
        near = self._keys[max(0, place - 1) : place + 1]
        return max((self._tables[other][: self._common(other, key)] for other in near), key=len, default=NO_BLOCKS)

    def _common(self, before: bytes, after: bytes) -> int:
        """Number of whole blocks that both sequences begin with; the last token of ``after`` is always computed."""
        block = ID_BYTES * self.size
        most = min(len(before), len(after) - ID_BYTES) // block
        return bisect_left(range(most), 1, key=lambda at: before[: (at + 1) * block] != after[: (at + 1) * block])


def split(ids: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """Each sequence's ids, int32, as bytes."""
    flat = np.ascontiguousarray(ids, np.int32).view(np.uint8).data
    spans = zip((begins * ID_BYTES).tolist(), ((begins + lengths) * ID_BYTES).tolist(), strict=True)
    return [bytes(flat[begin:end]) for begin, end in spans]


def lay_out(plan: Plan, part: slice, size: int, free: np.ndarray, taken: np.ndarray, ramp: np.ndarray) -> Step:
    """Lays out one step.

    Args:
        plan: All sequences.
        part: Places of the step's sequences.
        size: Tokens of a KV-cache block; 0 without a KV cache.
        free: Numbers of blocks to write, int32.
        taken: Numbers of the blocks that the first sequence reuses, int32.
        ramp: 0, 1, 2 and so on, int64, at least as many as the step has tokens.

    Returns:
        The step.
    """
    lengths, inherited = plan.lengths[part], plan.inherited[part].copy()
    inherited[0] = 0
    held = {0: taken} | {at - part.start: plan.held[at] for at in plan.held if part.start < at < part.stop}
    given = np.zeros(len(lengths), np.int64)
    given[list(held)] = [len(numbers) for numbers in held.values()]
    reused = (inherited + given) * size
    own = (lengths - reused).astype(np.int32)
    starts = np.zeros(len(own) + 1, np.int32)
    np.cumsum(own, out=starts[1:])
    ramp = ramp[: starts[-1]]
    positions = np.repeat(reused - starts[:-1], own)
    positions += ramp
    index = np.repeat(plan.begins[part], own)
    index += positions
    if size:
        written = -(-own // size)
        numbers = free[: written.sum()]
        slots = _slots(own, written, numbers, size, ramp)
        table = block_table(written, inherited, numbers, given, np.concatenate(list(held.values())))
    else:
        slots, table = np.zeros(len(ramp), np.int64), np.zeros((len(own), 1), np.int32)
    second = None if plan.second is None else np.repeat(plan.second[part], own)
    return Step(
        rows=plan.order[part],
        ids=plan.ids.take(index),
        positions=positions,
        slots=slots,
        table=table,
        lengths=lengths,
        own=own,
        starts=starts,
        types=None if second is None else (positions >= second).astype(np.int32),
    )


def _slots(own: np.ndarray, written: np.ndarray, numbers: np.ndarray, size: int, ramp: np.ndarray) -> np.ndarray:
    """Place in the KV cache of every computed token; blocks are filled in order."""
    filled = np.full(len(numbers), size)
    filled[np.cumsum(written) - 1] = own - (written - 1) * size
    slots = np.repeat(numbers.astype(np.int64) * size - (np.cumsum(filled) - filled), filled)
    slots += ramp
    return slots


def block_table(
    written: np.ndarray, inherited: np.ndarray, numbers: np.ndarray, given: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Numbers of the blocks that each sequence of a step reads.

    Args:
        written: Blocks that each sequence writes, shape (n,).
        inherited: Blocks at its beginning that it reuses from the sequence before, shape (n,).
        numbers: Numbers of the blocks that are written, in order.
        given: Blocks between both that it reuses from earlier calls, shape (n,).
        held: Numbers of the blocks in ``given``, in order.

    Returns:
        int32, shape (n, blocks of the longest); meaningless behind a sequence's last block.
    """
    flat = numbers
    if len(held):
        parts = np.stack([given, written], axis=1).ravel()
        ours = np.repeat(np.arange(len(parts)) % 2 == 1, parts)
        flat = np.empty(len(ours), np.int32)
        flat[ours], flat[~ours] = numbers, held
    columns = np.arange((inherited + given + written).max())
    first = np.cumsum(given + written) - given - written - inherited
    source = np.arange(len(written))[:, None]
    if inherited.any():
        # A block comes from the last sequence that does not reuse its column.
        source = np.maximum.accumulate(np.where(columns >= inherited[:, None], source, -1))
    return flat[np.minimum(first[source] + columns, len(flat) - 1)]
