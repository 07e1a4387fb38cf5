"""Turns an intent into a published epoch behind gates; lists, rolls back and prunes epochs.

The only package that changes what readers see. Touches no corpus file and no engine.
"""
