"""Reports of runs: what is recorded of each, the page that shows it, and its metrics.

Reads what runs recorded; touches no table and no engine.
"""
