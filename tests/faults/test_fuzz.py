"""A small part of ``make fuzz``."""

from tests.faults import fuzz


def test_every_row_and_every_file_has_a_fate() -> None:
    counts = fuzz.run(3 * fuzz.ROWS, 2 * fuzz.FILES)
    assert counts["corpora"] == 5
    assert counts["mutated files"] == 100
    assert counts["indexed"] > 1000
    assert counts["bad_file"] > 20
    assert {"null_text", "invalid_utf8"} <= counts.keys()
