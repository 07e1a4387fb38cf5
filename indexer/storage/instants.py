"""Moments as people give them, in the units that a column of timestamps counts."""

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of a second, by Arrow's names."""

FINER = re.compile(r"[^.,]*[.,](\d{6})(\d+)")
"""Text with a fraction of a second, of which :class:`datetime` drops all digits after the sixth."""


def count(value: Any, type_: pa.TimestampType) -> Fraction:
    """How many of a column's units a moment is after 1970; no whole number if it lies between two of them.

    Args:
        value: A time or a day, or ISO 8601 text of one. Without an offset it is what a clock in the column's zone
            shows, the first time if it shows it twice.
        type_: The column's type.

    Raises:
        ValueError: The text is no time.
        TypeError: The value is none.
        LookupError: The column's zone is unknown here, and the value has no offset.
    """
    moment, finer = (datetime.fromisoformat(value), _finer(value)) if isinstance(value, str) else (value, Fraction())
    if not isinstance(moment, date):
        raise TypeError("not a time")
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001  # a day in the column's own zone
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_zone(type_.tz) if type_.tz else UTC)
    since = moment - EPOCH
    whole = timedelta(since.days, since.seconds, since.microseconds) // timedelta(microseconds=1)
    # Timestamps of pandas are datetimes with up to 999 nanoseconds more.
    finer += Fraction(getattr(moment, "nanosecond", 0), 10**9)
    return (Fraction(whole, 10**6) + finer) * UNITS[type_.unit]


def _finer(text: str) -> Fraction:
    """Seconds that the digits after the sixth of a fraction stand for."""
    found = FINER.match(text)
    return Fraction(int(found[2]), 10 ** (6 + len(found[2]))) if found else Fraction()


def _zone(name: str) -> tzinfo | None:
    """A column's time zone: an offset, or a name of the database of zones."""
    if name[0] in "+-":
        return datetime.fromisoformat(f"1970-01-01T00:00{name}").tzinfo
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):  # such as the name of a directory
        raise LookupError(name) from None
