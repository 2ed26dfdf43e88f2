"""The parts of a plan: its types, and the pure functions that fill them."""
