"""Closed answers about caches, and lessons that explain them."""
