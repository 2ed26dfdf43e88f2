"""Every published config at hand is read, and planned on some card."""

import kvsim
from kvsim.errors import KVSimError

CARD = "b300"
# Of 61 none is refused; one that is belongs here, with the reason.
REFUSED: set[str] = set()


def fits_on_some(model):
    """Whether 8, 16 or 1 of the card hold it: heads need not divide by 16, nor groups by 8."""
    refusals = []
    for ranks in (8, 16, 1):
        try:
            plan = kvsim.plan(model, CARD, tensor_parallel_size=ranks, max_model_len=4096)
        except KVSimError as error:
            refusals.append(str(error))
            continue
        if plan.fits:
            return plan.concurrency[-1].requests >= 1
    return refusals


def test_every_config_is_read_and_planned(kvsim_data):
    folders = sorted((kvsim_data / "reference" / "configs").glob("*--*"))
    assert len(folders) > 60
    names = {folder.name: folder for folder in folders}
    assert set(names) >= REFUSED
    planned = {
        name: fits_on_some(kvsim.find_model(str(folder)))
        for name, folder in names.items()
        if name not in REFUSED
    }
    assert {name: found for name, found in planned.items() if found is not True} == {}
