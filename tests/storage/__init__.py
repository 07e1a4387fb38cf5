"""Tests of indexer.storage."""
