"""Tests of indexer.publishing."""
