"""The ways to vectors and scores that are compared: ours and others."""
