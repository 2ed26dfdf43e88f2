"""Measuring a device with torch: what it is, what to time, how, and what follows from it.

::

    find_device ─▶ DeviceFacts ─▶ plan_cases ─▶ Case, Case, ...        no tensor so far
                                                  │ TorchBench.time     clock, warm-up, rotation
                                                  ▼
                    CSV ◀── Session.run ──▶ Row, Row, ...               kept as they come
                                                  │ calibrate_rows      robust fits
                                                  ▼
                                    StepCoefficients ─▶ profile YAML    for `--gpu`

Nothing here imports torch when it loads, and no setting of a device is ever changed.
"""
