"""Tests of configs: manifests, images, schedulers, monitoring."""
