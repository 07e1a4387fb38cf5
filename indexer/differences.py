"""What differs between two mappings, and how a message says it."""

from collections.abc import Mapping


def differing(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Keys under which two mappings hold different values, or that one of them lacks; sorted."""
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def published_and_asked(name: str, published: str, asked: str) -> str:
    """A setting with its value in the published epoch and its value now."""
    return f"{name} (published: {published}, asked: {asked})"
