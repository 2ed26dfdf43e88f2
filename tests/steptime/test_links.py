"""Collectives of fabrics that nobody measured, and a law over the catalogue."""

import statistics

import pytest

from kvsim.catalog.accelerators import accelerator_names, find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import get_engine
from kvsim.engines.base import Deployment
from kvsim.errors import KVSimError
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import Link
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.steptime.links import NVLINK, PCIE, credible_link, fabric_links, pcie_bytes_per_s
from kvsim.steptime.model import StepLoad, StepTimeModel

SWITCHED = ("a100", "h100", "h200", "b200", "b300")


@pytest.mark.parametrize("degree", sorted(NVLINK))
def test_the_fabrics_forms_are_the_medians_of_the_measured_cards(degree):
    cards = [find_accelerator(name) for name in SWITCHED]
    links = [(card.coefficients.collectives[degree], card) for card in cards]
    known = NVLINK[degree]
    for value, found in (
        (known.seconds, [link.seconds for link, _ in links]),
        (known.share, [link.bytes_per_s / a.interconnect.bytes_per_s for link, a in links]),
        (known.large_seconds, [link.large_seconds for link, _ in links]),
        (
            known.large_share,
            [link.large_bytes_per_s / a.interconnect.bytes_per_s for link, a in links],
        ),
    ):
        assert value == pytest.approx(statistics.median(found), rel=0.02)


@pytest.mark.parametrize("degree", sorted(PCIE))
def test_pcie_is_the_rtx_pro_6000s(degree):
    card = find_accelerator("rtx-pro-6000")
    found, made = card.coefficients.collectives[degree], PCIE[degree].on(pcie_bytes_per_s(card))
    assert (made.seconds, made.bytes_per_s) == pytest.approx(
        (found.seconds, found.bytes_per_s), rel=2e-3
    )


def test_a_bridge_joins_two_and_pairs_talk_over_pcie():
    """A message of four: whole within the pair, and half of it across."""
    links = fabric_links(find_accelerator("h100-nvl"))
    pair, across, size = NVLINK[2].on(600e9), PCIE[2].on(128e9), 1e6
    assert links[2] == pair
    expected = (pair.seconds + size / pair.bytes_per_s) + (
        across.seconds + size / 2 / across.bytes_per_s
    )
    assert links[4].seconds + size / links[4].bytes_per_s == pytest.approx(expected)


def test_a_machine_without_a_way_between_its_cards_is_not_taken_for_the_fabric():
    slow, usual = (Link(seconds=1e-6, bytes_per_s=rate) for rate in (1e9, 7e9))
    assert credible_link(slow, usual) == usual
    assert credible_link(usual, slow) == usual


def pairs():
    """Every card of the catalogue with every doubling of it that holds the model."""
    for card in map(find_accelerator, accelerator_names()):
        if card.vendor == "NVIDIA":
            for model in ("llama3-8b", "qwen3-32b", "llama3.1-70b"):
                yield card, model


def throughput(card, model, tp):
    """Output tokens per second of a full batch: 128 prompt and 1,024 output tokens a sequence."""
    options = EngineOptions(tensor_parallel_size=tp, max_model_len=4096)
    engine = get_engine("vllm")
    deployment = engine.resolve(Deployment(find_model(model), card, options))
    capacity = engine.capacity(deployment, engine.budget(deployment).kv_cache_bytes)
    batch = min(deployment.options.max_num_seqs, int(capacity.logged_tokens // 640))
    if not batch:
        return 0.0
    steps = StepTimeModel.from_deployment(deployment, engine=engine)
    reads = KVReadCurve.from_model(deployment.model, deployment.kv_format, Rank(tp=tp))
    decode = steps.seconds(StepLoad(batch, batch, batch * reads.bytes_at(640)))
    prompt = steps.seconds(StepLoad(batch + 128, batch + 1, batch * reads.bytes_at(640), 8256.0))
    return batch / (decode + batch / 1024 * (prompt - decode))


def test_twice_the_cards_cost_no_more_than_a_tenth_of_the_throughput():
    """Of dense models within one server, over NVLink and PCIe."""
    fallen, compared = [], 0
    for card, model in pairs():
        found = {}
        for tp in (1, 2, 4, 8):
            try:
                found[tp] = throughput(card, model, tp)
            except KVSimError:
                continue  # does not fit
        for tp in (1, 2, 4):
            if found.get(tp) and found.get(2 * tp):
                compared += 1
                if found[2 * tp] < 0.9 * found[tp]:
                    fallen.append((card.name, model, tp, found[tp], found[2 * tp]))
    assert compared > 150
    assert fallen == []
