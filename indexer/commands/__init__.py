"""The commands: settings and flags in, results on standard output, an exit status. Only ``jobs`` imports it."""
