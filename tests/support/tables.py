"""What the public tables say of a card, also when its shipped profile has been measured."""

import os
from pathlib import Path

from kvsim.calibrate.public.fit_card import fit_profile
from kvsim.catalog.accelerators import find_accelerator
from tests.support import needs


def fitted_on_tables(name):
    """The card's coefficients as fitted on vLLM's tables; shipped, or else fitted here."""
    profile = find_accelerator(name)
    if profile.coefficients.engine == "vllm":
        return profile.coefficients
    needs.need("data")  # the shipped profile is measured on the card itself
    return fit_profile(Path(os.environ["KVSIM_DATA"]) / "reference/gpu", profile).coefficients
