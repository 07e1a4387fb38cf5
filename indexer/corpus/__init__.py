"""Reads corpora: files, rows, digests of rows, and shards, the unit of work. Touches no engine and no table."""
