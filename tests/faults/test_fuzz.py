"""A small part of ``make fuzz``."""

import pytest

from tests.faults import fuzz, fuzz_types

pytestmark = pytest.mark.usefixtures("reading_process")


def test_every_row_and_every_file_has_a_fate() -> None:
    counts = fuzz.run(3 * fuzz.ROWS, 2 * fuzz.FILES)
    assert counts["corpora"] == 5
    assert counts["mutated files"] == 100
    assert counts["indexed"] > 1000
    assert counts["bad_file"] > 20
    assert {"null_text", "invalid_utf8"} <= counts.keys()


def test_values_of_every_type_are_equal_or_quarantined() -> None:
    counts = fuzz_types.run(2 * fuzz_types.ROWS, first_seed=5)
    assert counts["typed rows"] == 2 * fuzz_types.ROWS
    assert counts["invalid_utf8"]
