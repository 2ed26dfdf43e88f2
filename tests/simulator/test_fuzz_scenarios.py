"""Whatever a scenario or a profile says, it is read, or refused in one line."""

import copy

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.catalog.accelerators import load_accelerator
from kvsim.simulator.loading import load_scenario, scenario_names
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.yaml_files import data_folder, read_yaml
from tests.support.needs import examples
from tests.support.refusals import read_or_refused

SCENARIOS = [read_yaml(data_folder("scenarios") / f"{name}.yaml") for name in scenario_names()]
PROFILES = [
    read_yaml(data_folder("hardware_profiles") / f"{name}.yaml")
    for name in ("h200", "a40", "l4", "rtx4090")
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            "10min",
            "80 GiB",
            "9" * 400,
            "1e999",
            "yes",
            "1:30",
            10**18,
            2**63,
            1e300,
            1e-300,
            "paged",
        ]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("kind"), inner)
    ),
    max_leaves=5,
)


def places(content, prefix=()):
    """Every place in a mapping, innermost included."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        yield (*prefix, key)
        if isinstance(value, dict | list):
            yield from places(value, (*prefix, key))


@st.composite
def mutated(draw, contents):
    """Return real content in which a few places hold something else, or nothing."""
    content = copy.deepcopy(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(content))
        if not there:
            break
        *outer, key = draw(st.sampled_from(there))
        holder = content
        for step in outer:
            holder = holder[step]
        if draw(st.booleans()):
            holder[key] = draw(values)
        else:
            del holder[key]
    return content


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "fuzzed.yaml"


@settings(max_examples=examples(400))
@given(content=mutated(SCENARIOS))
def test_a_mutated_scenario(file, content):
    file.write_text(yaml.safe_dump(content), encoding="utf-8", errors="replace")
    scenario, line = read_or_refused(load_scenario, file)
    assert isinstance(scenario, Scenario) or str(file) in line


@settings(max_examples=examples(400))
@given(content=mutated(PROFILES))
def test_a_mutated_profile(file, content):
    file.write_text(yaml.safe_dump(content), encoding="utf-8", errors="replace")
    profile, line = read_or_refused(load_accelerator, file)
    assert isinstance(profile, AcceleratorProfile) or str(file) in line


@settings(max_examples=examples(200))
@given(content=st.binary(max_size=200))
@pytest.mark.parametrize("reader", [load_scenario, load_accelerator])
def test_any_bytes(file, reader, content):
    file.write_bytes(content)
    assert str(file) in read_or_refused(reader, file)[1]
