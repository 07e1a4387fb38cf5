"""The commands: settings and flags in, results on standard output, an exit status.

``jobs`` and the console script ``qwen3-index`` start them; nothing of the package imports them.
"""
