"""Faults: kills, poison, lost machines, faulty object stores, hostile input."""
