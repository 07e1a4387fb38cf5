"""Measures an index on judged queries and recommends what to publish. Works on copies and never changes the index."""
