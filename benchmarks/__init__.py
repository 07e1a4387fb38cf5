"""Measurements: each module is a script that prints ratios from one run, and one JSON object last."""
