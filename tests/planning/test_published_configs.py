"""Every published config at hand is read, and planned on some card."""

import pytest

import kvsim
from kvsim.errors import KVSimError

CARD = "b300"
# What is refused all the same, by the words that say why.
REFUSED = {"deepseek-ai--DeepSeek-V4.1-Flash": "is a kind of attention that kvsim does not know"}


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
    assert set(REFUSED) <= set(names)
    planned = {
        name: fits_on_some(kvsim.find_model(str(folder)))
        for name, folder in names.items()
        if name not in REFUSED
    }
    assert {name: found for name, found in planned.items() if found is not True} == {}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_in_one_line(kvsim_data, name):
    with pytest.raises(KVSimError) as refused:
        kvsim.find_model(str(kvsim_data / "reference" / "configs" / name))
    assert REFUSED[name] in str(refused.value)
    assert "\n" not in str(refused.value)
