"""Scores pairs with a reranker, and reranks what a search finds. Runs on cluster workers."""
