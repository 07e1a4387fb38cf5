"""Which ways to search are evaluated side by side."""

from indexer.evaluation.configurations import Configuration, listed
from indexer.evaluation_settings import CompareSettings

WIDTHS = [384, 192, 96]


def test_every_width_is_listed_in_every_way_and_the_narrower_ones_are_rescored_at_the_widest() -> None:
    settings = CompareSettings(vector_indices=["IVF_PQ"])
    found = listed(settings, WIDTHS[::-1], "float32", reranked=False)
    ways = [{"precision": "float16"}, {}, {"index": "IVF_PQ"}, {"mode": "hybrid"}]
    expected = {Configuration(width, **{"precision": "float32", **way}) for width in WIDTHS for way in ways}
    for index in ("none", "IVF_PQ"):
        expected |= {Configuration(width, "float32", index, rescored=384) for width in WIDTHS[1:]}
    assert set(found) == expected | {Configuration(96, "float32", mode="text")}
    assert len(found) == len(set(found))
    assert found[0] == Configuration(384, "float32"), "the reference"
