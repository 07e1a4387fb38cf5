"""The commands of ``indexer.commands`` as modules of a checkout, a few lines each, and demonstrations."""
