"""Turns an intent into a published epoch behind gates; lists, rolls back and prunes epochs."""
