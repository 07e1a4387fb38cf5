"""The vLLM engine."""
from indexer.errors import IndexerError


class EngineDead(IndexerError):
    """dead."""


class Engine:
    """Placeholder."""
