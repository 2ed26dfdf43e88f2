"""Catalogues: a name, an alias or a path in, a described object out."""
