"""Tests of indexer.corpus."""
