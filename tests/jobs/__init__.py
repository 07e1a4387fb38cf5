"""Tests of the commands, the quickstart and the configurations."""
