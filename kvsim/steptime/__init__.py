"""Seconds: the work of a rank, what each part of a step costs, and what binds it."""
