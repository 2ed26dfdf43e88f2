"""The twin: a small but real decode loop in torch, run by the simulator's own objects.

::

    scenario ──▶ Setup ──▶ Scheduler + Paged allocator + Replica      the simulator's, unchanged
                               │ plan                     ▲ seconds
                               ▼                          │
                           WallClock: runs the planned step in torch and measures it

Only the clock differs from a simulation, so what the two disagree on is the step's time.
Modules here import torch at their top; `kvsim.calibrate.twin.validate` imports them when asked.
"""
