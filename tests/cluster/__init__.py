"""Tests of indexer.cluster."""
