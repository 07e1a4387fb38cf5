"""Tests of indexer.inference."""
