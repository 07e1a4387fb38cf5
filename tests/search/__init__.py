"""Tests of indexer.search."""
