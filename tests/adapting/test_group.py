"""Parts of a batch that several processes train on."""

from indexer.adapting.group import ALONE, Group


def test_parts_are_equally_long_and_share_nothing() -> None:
    parts = [Group(rank, 3).part(range(11)) for rank in range(3)]
    assert [list(part) for part in parts] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert list(ALONE.part(range(5))) == [0, 1, 2, 3, 4]
