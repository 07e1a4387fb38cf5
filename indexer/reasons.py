"""Why a document is quarantined: one code and one sentence for every reason."""

from enum import StrEnum


class QuarantineReason(StrEnum):
    """Reason a corpus row is in the quarantine. Only what cannot be embedded or told apart is."""

    NULL_ID = "null_id"
    NULL_TEXT = "null_text"
    EMPTY_TEXT = "empty_text"
    INVALID_UTF8 = "invalid_utf8"
    BAD_VALUE = "bad_value"
    MALFORMED = "malformed"
    DUPLICATE_ID = "duplicate_id"
    NO_TOKENS = "no_tokens"
    TOO_LONG = "too_long"
    BAD_VECTOR = "bad_vector"
    POISON = "poison"
    BAD_FILE = "bad_file"
    WRONG_COLUMNS = "wrong_columns"

    @property
    def description(self) -> str:
        """One sentence for the operator; never text of the document."""
        return DESCRIPTIONS[self]


DESCRIPTIONS = {
    QuarantineReason.NULL_ID: "the id is null, so the document cannot be told from others",
    QuarantineReason.NULL_TEXT: "every text column is null",
    QuarantineReason.EMPTY_TEXT: "the text is empty or only whitespace",
    QuarantineReason.INVALID_UTF8: "the id, the text or a payload value is not valid UTF-8",
    QuarantineReason.BAD_VALUE: (
        "a date, time or duration of the payload is out of the range that readers can show, an int96 timestamp has "
        "digits below a microsecond, or a value of JSON Lines or CSV is not of its column's type"
    ),
    QuarantineReason.MALFORMED: (
        "the line is no JSON object, or the row of CSV has another number of fields than the header or is misquoted"
    ),
    QuarantineReason.DUPLICATE_ID: "the id occurs with different content; no copy can be preferred",
    QuarantineReason.NO_TOKENS: "the tokenizer gives no token for the text",
    QuarantineReason.TOO_LONG: "the text has more than model.max_tokens tokens and model.overflow is quarantine",
    QuarantineReason.BAD_VECTOR: "the model gives a vector that is not finite or has no norm, twice",
    QuarantineReason.POISON: "the engine dies or hangs on this document alone",
    QuarantineReason.BAD_FILE: "the file is damaged, is not of its format, changed while it was read, or is gone",
    QuarantineReason.WRONG_COLUMNS: "the file lacks a column, or has it with another type than the first file",
}
