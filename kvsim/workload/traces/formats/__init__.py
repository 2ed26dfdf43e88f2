"""One trace format per file."""
