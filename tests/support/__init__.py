"""Helpers of the tests: fake runs, Ray clusters, checkpoints."""
