"""Demonstrations on this machine: the quickstart's corpus, and some nights in small."""
