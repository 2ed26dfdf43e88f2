"""The version of this source: of what runs, whether or not it is installed."""

__version__ = "0.1.0"
