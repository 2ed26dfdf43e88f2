"""A recording, judged: tables, statistics, shares of the pool, time bins, files."""
