"""Contenders: our ways to vectors and scores, and other projects' ways."""
