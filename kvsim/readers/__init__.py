"""Readers: files and hub ids in, a `ModelSpec` out."""
