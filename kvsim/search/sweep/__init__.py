"""Many simulations, on the cores of this machine or on a Dask cluster, kept as they finish.

::

    space ──points──▶ tasks ──workers──▶ outcomes ──▶ ledger ──▶ answer, results
           inputs      key     pool, or              a row a run,
                               cluster               once

A run's key is the hash of all that it is made from, so a sweep that was ended anyhow goes on where
it was: what has a row in the ledger is not run again. Who runs it and in which order leaves no
trace in the rows: they are the same to the byte.
"""

from kvsim.search.sweep.answer import Sweep
from kvsim.search.sweep.runner import sweep

__all__ = ["Sweep", "sweep"]
