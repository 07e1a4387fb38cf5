"""Commands, one thin file each: parse settings, call the indexer, print a summary."""
