"""Bytes: what weights take, what a sequence keeps, and how its blocks grow."""
