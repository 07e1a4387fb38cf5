"""What a command writes into a log, where standard error is no terminal."""

import re

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) (.*)")


def error_line(written: str) -> str:
    """The text of a log that is one error and nothing else, without its time and level."""
    found = LINE.fullmatch(written.removesuffix("\n"))
    assert found is not None, written
    assert found[1] == "ERROR", written
    return found[2]
