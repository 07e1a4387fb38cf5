"""Where things are: paths, and URIs without credentials."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

SECRET = re.compile(r"(?i)key|secret|token|password|signature|sig=")
"""What a query of a URI with credentials has in it."""


def _without_secrets(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.username or parts.password or SECRET.search(parts.query):
        raise ValueError("holds credentials; they are read from the environment only, e.g. AWS_SECRET_ACCESS_KEY")
    return uri


def _absolute(uri: str) -> str:
    """Workers on a cluster run in other folders than the command."""
    return uri if "://" in uri or not uri else str(Path(uri).expanduser().absolute())


Uri = Annotated[str, AfterValidator(_without_secrets), AfterValidator(_absolute)]
"""A path, made absolute, or a URI that may be shown: one with credentials is refused, without being quoted."""
