"""Ray's errors in one line each, without remote tracebacks."""

from ray.exceptions import RayError, RayTaskError

from indexer.errors import IndexerError, first_line, missing_package


def death(error: RayError) -> str:
    """Why a process died: the sentence of Ray's report that gives the reason."""
    lines = (line for line in str(error).splitlines() if line.startswith("The actor is dead because"))
    return next(lines, first_line(error)).split(". ")[0].rstrip(".")


def cause(error: RayTaskError) -> IndexerError:
    """The error of a task or an actor: our own as it was, a missing package, any other by its type and first line."""
    if isinstance(error.cause, IndexerError):
        return error.cause
    if isinstance(error.cause, ImportError) and (missing := missing_package(error.cause)):
        return missing
    return IndexerError(f"{type(error.cause).__name__}: {first_line(error.cause)}")
