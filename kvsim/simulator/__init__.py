"""Time: a scenario's living parts, and the run that writes a recording."""
