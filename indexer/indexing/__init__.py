"""The nightly job: compares the corpus with the published epoch, embeds what changed, records the intent.

Reaches Ray, the engine and the tables only through ``cluster``, ``inference`` and ``storage``.
"""
