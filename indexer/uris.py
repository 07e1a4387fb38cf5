"""Where things are: paths, and URIs without credentials, which are shown nowhere."""

import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints

QUERY_KEYS = frozenset(
    "allow_bucket_creation allow_bucket_deletion allow_delayed_open check_directory_existence_before_creation "
    "endpoint_override force_virtual_addressing project_id region retry_limit_seconds scheme "
    "tls_verify_certificates".split()
)
"""Keys of a URI's query that say how to reach a store, and nothing secret (Arrow's S3 and GCS filesystems)."""

WITH_PORTS = frozenset({"http", "https", "hdfs", "viewfs"})
"""Schemes whose authority is a host; an object store's is a bucket, without a port."""

AZURE_PLACE = re.compile(r"[a-z0-9-]{3,63}@[a-z0-9]{3,24}\.(?:dfs|blob)\.core\.windows\.net")
"""A container of an Azure account, as ``abfss://`` names it; neither can be a secret."""

CREDENTIALS = "holds credentials; they are read from the environment only, e.g. AWS_SECRET_ACCESS_KEY"


SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's variable that every process of a job submitted with ``ray job submit`` has."""


def check_uri(uri: str) -> str:
    """Refuses a URI that may hold credentials, without quoting it.

    How a secret looks does not help: AWS's hold slashes, so that a part of one looks like a path.
    Only what cannot be one passes: a bucket, or a host with a port, a path, and known keys in the query.

    Args:
        uri: A URI, or a path, in which nothing is refused but the form ``s3:/...``.

    Returns:
        The same.

    Raises:
        ValueError: It may hold credentials, or cannot be read as a URI.
    """
    if "://" not in uri:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", uri) and not Path(uri).exists():
            raise ValueError("is a URI with one slash; write two after the colon")
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise ValueError("is no URI that can be read") from None
    is_azure = parts.scheme in {"abfs", "abfss"} and AZURE_PLACE.fullmatch(parts.netloc)
    if not is_azure and ("@" in parts.netloc or "%" in parts.netloc):
        raise ValueError(CREDENTIALS)
    host, colon, port = parts.netloc.partition(":")
    if colon and not (parts.scheme in WITH_PORTS and host and port.isdecimal()):
        raise ValueError(CREDENTIALS)
    for part in parts.query.split("&"):
        # Without "=" it is the rest of a glob: s3://bucket/part-?.parquet.
        key, equals, value = part.partition("=")
        if equals and (key not in QUERY_KEYS or "@" in value):
            raise ValueError(CREDENTIALS)
    return uri


def shown(uri: str) -> str:
    """A path as it is; of a URI the scheme only, since URIs are quoted in no error."""
    scheme, is_uri, _ = uri.partition("://")
    return f"the {scheme} URI" if is_uri else uri


def _absolute(uri: str) -> str:
    """Workers on a cluster run in other folders than the command."""
    if "://" in uri or not uri:
        return uri
    path = Path(uri).expanduser()
    # The folder of a submitted job is a copy in Ray's temporary folder, on one node, and is deleted.
    if SUBMITTED in os.environ and not path.is_absolute():
        raise ValueError(
            "is a relative path, and a submitted job runs in a temporary folder of one node; give a URI, or an "
            "absolute path that every node sees"
        )
    return str(path.absolute())


Uri = Annotated[str, AfterValidator(check_uri), AfterValidator(_absolute)]
"""A path, made absolute, or a URI without credentials."""

HttpUri = Annotated[str, StringConstraints(pattern=r"^https?://[^/]"), AfterValidator(check_uri)]
"""The address of a server, without credentials."""
