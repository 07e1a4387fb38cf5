"""Tests of indexer.indexing."""
