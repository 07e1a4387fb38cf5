"""What Ray's errors say, in one line each, without its remote tracebacks."""

from ray.exceptions import RayError, RayTaskError

from indexer.errors import IndexerError, first_line


def death(error: RayError) -> str:
    """Why a process died, as far as Ray knows: the sentence that says so in its report."""
    lines = (line for line in str(error).splitlines() if line.startswith("The actor is dead because"))
    return next(lines, first_line(error)).split(". ")[0].rstrip(".")


def cause(error: RayTaskError) -> IndexerError:
    """What a task or an actor raised: our own errors as they were; of others the type and the first line."""
    if isinstance(error.cause, IndexerError):
        return error.cause
    return IndexerError(f"{type(error.cause).__name__}: {first_line(error.cause)}")
