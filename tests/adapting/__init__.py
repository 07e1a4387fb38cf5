"""Tests of indexer.adapting."""
