"""The two ways to write a row of steps down are one."""

from kvsim.simulator.recorder import DECODE_ROW, STEP_COLUMNS, STEP_ROW


def test_a_row_of_decodes_is_a_row_whose_other_columns_are_zero():
    """What the decode lane leaves out must be what it has nothing to say of."""
    said = {
        "start_seconds": 1.5,
        "seconds": 0.25,
        "steps": 7,
        "sequences": 3,
        "kv_read_bytes": 11,
        "tokens": 500,
        "held_slots": 512,
        "grown_slots": 16,
    }
    whole = STEP_ROW.pack(*(said.get(name, 0) for name in STEP_COLUMNS))
    assert DECODE_ROW.pack(*said.values()) == whole
