"""Random worlds, run and judged from outside: ``python -m tests.soak --seconds 600``.

One seed draws a whole world: a scenario that somebody could have written, and what befalls its
run. `worlds` draws, `runs` lets it happen, `checkers` reads what was recorded and published, and
a seed that fails is the report of a bug.
"""
