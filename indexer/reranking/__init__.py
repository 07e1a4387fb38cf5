"""Scores pairs with a reranker, and re-ranks the hits of searches. Runs on cluster workers.

Reads published tables through ``search``; writes scores only.
"""
