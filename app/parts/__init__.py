"""Pieces that pages share; each file is one of them."""
