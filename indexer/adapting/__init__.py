"""Trains the index's model on pairs of its own corpus, and adopts the result only where it is better.

Reads published tables through ``search`` and judges through ``evaluation``; changes no index.
"""
