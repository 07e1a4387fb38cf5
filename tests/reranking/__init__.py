"""Tests of indexer.reranking."""
