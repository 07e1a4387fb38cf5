"""Tests of the commands' own code; tests of commands as a user types them are in ``tests/jobs``."""
