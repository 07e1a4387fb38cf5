"""Tests of indexer.evaluation."""
