"""A package, lest the `tests` that ciw installs beside itself be imported in its place."""
