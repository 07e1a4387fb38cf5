"""Tests, one file per module, and some end to end."""

import os
import secrets

# Ray reads these when it is first imported, which happens when test files are collected.
os.environ["RAY_AUTH_MODE"] = "token"

os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # tests start others, which join the same clusters
