"""Answers questions from the published tables of one epoch. Reads only."""
