"""Accelerators: every card of the facts table, found by every name that people use."""

import csv
import os
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kvsim.catalog.accelerators import (
    accelerator_names,
    describe_accelerators,
    find_accelerator,
    siblings,
)
from kvsim.errors import InputError, KVSimError, UnknownNameError
from kvsim.specs import files
from kvsim.specs.yaml_files import data_folder
from kvsim.steptime.bands import is_measured
from kvsim.units import GIB

PROFILES = sorted(data_folder("hardware_profiles").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _no_user_folders(monkeypatch):
    monkeypatch.delenv("KVSIM_PATH", raising=False)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a profile: H200's, with some keys replaced or dropped."""
    base = yaml.safe_load((data_folder("hardware_profiles") / "h200.yaml").read_text())

    def write(name="mine.yaml", drop=(), **changes):
        content = {key: value for key, value in (base | changes).items() if key not in drop}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def problem_with(path):
    """What is wrong with a profile, in one line; "" when nothing is."""
    try:
        find_accelerator(path)
    except KVSimError as error:
        return str(error)
    return ""


# --- the catalogue ---


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("a100", "A100-SXM4-80GB"),
        ("A100-80GB", "A100-SXM4-80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),  # nvidia-smi's words
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIE-80GB"),
        ("h100", "H100-SXM5-80GB"),
        ("H100-80GB-HBM3", "H100-SXM5-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("H100 80GB", "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIE-80GB"),
        ("NVIDIA H100 NVL", "H100-NVL-94GB"),
        ("h200", "H200-SXM-141GB"),
        ("b200", "B200-SXM-180GB"),
        ("l4", "L4"),
        ("l40s", "L40S"),
        ("a10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla T4", "T4"),
        ("v100", "V100-SXM2-32GB"),
        ("Tesla V100-SXM2-16GB", "V100-SXM2-16GB"),
        ("4090", "RTX4090"),
        ("NVIDIA GeForce RTX 3090", "RTX3090"),
        ("RTX 5090 32GB", "RTX5090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000Ada"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        ("AMD Instinct MI300X", "MI300X"),
        ("tpu-v5e", "TPU-v5e"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("NVIDIA GB10", "GB10"),
        ("DGX Spark", "GB10"),
        ("NVIDIA GeForce RTX 4080", "RTX4080"),
        ("5080", "RTX5080"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA A16", "A16"),
        ("AMD Instinct MI350X", "MI350X"),
    ],
)
def test_names_that_people_and_drivers_use(asked, name):
    assert find_accelerator(asked).name == name


def test_h200_has_the_file_name_that_calibration_writes():
    assert find_accelerator(data_folder("hardware_profiles") / "h200.yaml").name == "H200-SXM-141GB"


def test_no_name_belongs_to_two_cards():
    owners = {}
    for row in describe_accelerators():
        for word in {row["name"].lower(), *row["aliases"]}:
            assert owners.setdefault(word, row["name"]) == row["name"]
        assert all(find_accelerator(word).name == row["name"] for word in row["aliases"])


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("h100", "measured"),
        ("gb300", "derived from B300-SXM-288GB"),
        ("a100-pcie-40gb", "derived from A100-SXM4-80GB"),
        ("v100", "assumed"),
    ],
)
def test_how_step_times_are_known(name, known):
    card = find_accelerator(name)
    (listed,) = [row for row in describe_accelerators() if row["name"] == card.name]
    assert card.step_times == listed["step_times"] == known
    assert is_measured(card) == (known == "measured")


def test_an_ambiguous_alias_can_name_the_other_cards():
    assert siblings(find_accelerator("a100")) == [
        "A100-PCIE-40GB",
        "A100-PCIE-80GB",
        "A100-SXM4-40GB",
    ]
    assert siblings(find_accelerator("h20")) == []  # an H200 is not an H20


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_number_of_a_profile_is_sourced_and_plausible(path):
    profile = find_accelerator(path)

    quantities = [profile.memory, profile.bandwidth, *profile.flops.values()]
    assert all(quantity.source.strip() for quantity in quantities)
    assert {quantity.confidence for quantity in quantities} <= {"high", "medium", "low"}
    # The ridge points of all serving hardware lie between 25 and 800 FLOP per byte.
    assert 25 < profile.flops_per_s("bf16") / profile.bandwidth_bytes_per_s < 800
    if profile.price:
        assert profile.price.low <= profile.price.high


@pytest.mark.parametrize("name", ["a100", "h100", "h200"])
def test_fitted_coefficients_stay_below_the_datasheet(name):
    """Findings: efficiencies are bounded to 0.3-1.0 of the datasheet."""
    profile = find_accelerator(name)
    fitted = profile.coefficients

    assert 0.3 < fitted.weight_bytes_per_s / profile.bandwidth_bytes_per_s < 1
    assert 0.3 < fitted.kv_bytes_per_s / profile.bandwidth_bytes_per_s < 1
    assert 0.3 < fitted.flops_per_s / profile.flops_per_s("bf16") < 1
    assert 0.3 < fitted.attention_flops_per_s / profile.flops_per_s("bf16") < 1
    assert fitted.source
    assert fitted.date


def test_every_row_of_the_facts_table_has_its_profile(kvsim_data):
    with (kvsim_data / "reference" / "gpu_facts.csv").open() as stream:
        rows = list(csv.DictReader(stream))

    assert len(rows) == 36
    for row in rows:
        profile = find_accelerator(row["gpu"])
        dies = 2 if row["gpu"] == "MI250X" else 1  # the device is one die of the module
        memory_gib = float(row["usable_memory_gib"].removeprefix("2 x "))

        assert profile.name == row["gpu"]
        # An engine's own log may refine the table's approximate figure.
        assert profile.memory_bytes / GIB == pytest.approx(memory_gib, rel=0.01)
        assert profile.bandwidth_bytes_per_s * dies == float(row["hbm_bw_gb_s"]) * 1e9
        for dtype, column in (("bf16", "bf16_dense_tflops"), ("fp8", "fp8_dense_tflops")):
            tflops = {key: rate.value * dies / 1e12 for key, rate in profile.flops.items()}
            assert tflops.get(dtype) == (float(row[column]) if row[column] else None)


def test_memory_is_what_engines_printed(kvsim_data):
    """Where a log states the card's total, the profile agrees to 0.02 GiB."""
    with (kvsim_data / "reference" / "kv_capacity_observed.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["gpu_mem_gib"]]

    assert len(rows) > 10
    for row in rows:
        profile = find_accelerator(row["gpu"])
        assert profile.memory_bytes / GIB == pytest.approx(float(row["gpu_mem_gib"]), abs=0.02)


# --- a user's own ---


def test_a_profile_by_path(written):
    path = written()
    assert find_accelerator(path).bandwidth_bytes_per_s == 4.8e12
    assert find_accelerator(str(path)).memory_bytes == int(139.8 * GIB)


def test_kvsim_path_comes_first_and_every_folder_counts(written, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    path = written(notes="mine", aliases=["bench-card"])
    monkeypatch.setenv("KVSIM_PATH", os.pathsep.join([str(other), str(path.parent)]))

    assert find_accelerator("mine").notes == "mine"  # by file name
    assert find_accelerator("Bench Card").notes == "mine"  # by alias
    assert find_accelerator("H200-SXM-141GB").notes == "mine"  # before the shipped one
    assert find_accelerator("a100").name == "A100-SXM4-80GB"
    assert sum(row["name"] == "H200-SXM-141GB" for row in describe_accelerators()) == 1


def test_other_yaml_in_a_users_folder_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "scenario.yaml").write_text("accelerator: a100\nmodel: llama2-7b\n")
    monkeypatch.setenv("KVSIM_PATH", str(tmp_path))

    assert find_accelerator("a100").name == "A100-SXM4-80GB"
    assert len(accelerator_names()) == len(PROFILES)


def test_a_kvsim_path_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setenv("KVSIM_PATH", "/no/such/folder")
    with pytest.raises(InputError, match="KVSIM_PATH: there is no folder '/no/such/folder'"):
        find_accelerator("a100")


# --- bad input: one line that names file, line, key and the nearest valid one ---


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(UnknownNameError) as error:
        find_accelerator("h1000")
    text = one_line(error)
    assert "h100" in text
    assert "kvsim gpus" in text


@pytest.mark.parametrize("name", ["", "  ", "---"])
def test_an_empty_name(name):
    with pytest.raises(InputError) as error:
        find_accelerator(name)
    assert "kvsim gpus" in one_line(error)


def test_an_unknown_key_names_line_and_nearest_key(written):
    path = written()
    path.write_text(path.read_text().replace("bandwidth:", "bandwith:"))
    line = path.read_text().splitlines().index("bandwith:") + 1
    with pytest.raises(InputError) as error:
        find_accelerator(path)
    text = one_line(error)
    assert f"{path}, line {line}: unknown key 'bandwith'" in text
    assert "bandwidth" in text.split("nearest valid:")[1]


def test_an_unknown_key_further_in(written):
    path = written(bandwidth={"valeu": 1e12, "value": 1e12, "source": "x"})
    with pytest.raises(InputError) as error:
        find_accelerator(path)
    assert "'bandwidth.valeu'" in one_line(error)
    assert "nearest valid: value" in str(error.value)


def test_an_unknown_key_of_one_dtype(written):
    path = written(flops={"bf16": {"value": 1e15, "source": "x", "unit": "TFLOP/s"}})
    with pytest.raises(InputError) as error:
        find_accelerator(path)
    assert "'flops.bf16.unit'" in one_line(error)
    assert "confidence" in str(error.value)


def test_a_price_range_upside_down_is_named(written):
    with pytest.raises(InputError) as error:
        find_accelerator(written(price={"low": 3.0, "high": 2.5}))
    assert "price.low = 3 is above price.high = 2.5" in one_line(error)


def test_a_missing_key(written):
    with pytest.raises(InputError) as error:
        find_accelerator(written(drop=["memory"]))
    assert "the key 'memory' is missing" in one_line(error)


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        ("layer_seconds:", "40", "coefficients.layer_seconds = 40 s is not plausible; write sec"),
        (
            "norm:",
            "2.0\n  host_seconds: 1.39",
            "coefficients.host_seconds = 1.39 s is not plausible",
        ),
        ("fp8_kv_speedup:", "180", "coefficients.fp8_kv_speedup = 180 is not plausible"),
        ("2: {seconds:", "5.0, bytes_per_s: 2.0e+11}", "coefficients.collectives.2.seconds = 5 s"),
        ("2: {seconds:", "5e-6, bytes_per_s: 200}", "collectives.2.bytes_per_s = 200 is not plau"),
        (
            "norm:",
            "2.0\n  host_costs: {sglang: {host_seconds: 3.6}}",
            "host_costs.sglang.host_seconds = 3.6 s",
        ),
        ("token_factors:", "{16: 150.0}", "coefficients.token_factors.16 = 150 is not plausible"),
        (
            "gemms:",
            "\n    fp9: {seconds: 0, bytes_per_s: 1.0e+12, flops_per_s: 1.0e+15}",
            "coefficients.gemms.fp9 is no format; nearest valid: fp8",
        ),
    ],
)
def test_an_absurd_coefficient_is_named(tmp_path, line, wrong, message):
    text = (data_folder("hardware_profiles") / "h100-sxm5-80gb.yaml").read_text("utf-8")
    path = tmp_path / "card.yaml"
    path.write_text(re.sub(f"^( *{re.escape(line)}).*$", rf"\1 {wrong}", text, flags=re.M))
    with pytest.raises(InputError) as raised:
        find_accelerator(path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "value", [-1, 0, float("nan"), float("inf"), "fast", "4.8 TB/s", 4800, 1e300, True]
)
def test_an_impossible_bandwidth(written, value):
    """4800 is GB/s by mistake: a plausible number in the wrong unit."""
    with pytest.raises(InputError) as error:
        find_accelerator(written(bandwidth={"value": value, "source": "x"}))
    assert "bandwidth.value" in one_line(error)


@pytest.mark.parametrize("value", ["80 XB", "-80 GiB", "80", "0", "nan", "9e99 GiB", 80, "80 GB s"])
def test_an_impossible_memory(written, value):
    with pytest.raises(InputError) as error:
        find_accelerator(written(memory={"value": value, "source": "x"}))
    assert "memory" in one_line(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: &x [1, 2]\nb: [*x, *x]\n", "line 1: anchors and aliases"),
        (b"name: !!python/object/apply:os.system ['true']\n", "line 1: has the tag "),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "git lfs pull"),
        (b"\x7fELF\x00\x01\x02", "binary"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"name: [1, 2\n", "line 2: is not valid YAML"),
        (b"name: a\nname: b\n", "line 2: is not valid YAML: the key 'name' is given twice"),
        (b"", "holds nothing"),
        (b"- a\n- b\n", "holds list"),
        (b"1: 2\n", "key: value"),
        (b"name: " + b"[" * 40 + b"]" * 40, "nests deeper"),
        (b"[" * 500_000, "line 1"),  # the reader's own limit or ours: whichever comes first
        (b"name: 0x" + b"f" * 1_100_000, "larger than 1,048,576 bytes"),
        (b"tdp_watts: " + b"9" * 6000, ""),
        (b"? [a, b]\n: c\n", ""),
    ],
)
def test_a_hostile_file_gives_one_line(tmp_path, content, words):
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        find_accelerator(path)
    text = one_line(error)
    assert str(path) in text
    assert words in text
    assert len(text) < 500


def test_a_path_that_is_not_there_or_not_a_file(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path / "x" / "y.yaml", f"{tmp_path}{os.sep}"):
        with pytest.raises(InputError) as error:
            find_accelerator(path)
        assert str(tmp_path) in one_line(error)


@given(content=st.binary(max_size=300))
def test_any_bytes_give_a_profile_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        find_accelerator(path)
    assert "\n" not in str(error.value)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(
    key=st.sampled_from(["name", "memory", "flops", "aliases", "price", "coefficients"]),
    value=yaml_values,
)
def test_any_value_under_a_known_key_gives_a_profile_or_one_line(tmp_path_factory, key, value):
    base = yaml.safe_load((data_folder("hardware_profiles") / "l4.yaml").read_text())
    path = tmp_path_factory.mktemp("fuzz") / "card.yaml"
    path.write_text(yaml.safe_dump(base | {key: value}), encoding="utf-8")
    assert "\n" not in problem_with(path)


# --- in a loop ---


def test_an_edited_profile_counts_in_the_same_process(written, monkeypatch):
    path = written(memory={"value": "140 GiB", "source": "a test", "confidence": "low"})
    monkeypatch.setattr(files, "_TICK_NS", -(2**62))  # remembered at once
    monkeypatch.setenv("KVSIM_PATH", str(path.parent))
    assert find_accelerator("mine").memory_bytes == 140 * GIB
    written(memory={"value": "139 GiB", "source": "a test", "confidence": "low"})
    assert find_accelerator("mine").memory_bytes == 139 * GIB
    written(aliases=["ours"])
    assert find_accelerator("ours").name == find_accelerator(path).name


def test_the_same_card_again_reads_no_file_again(monkeypatch):
    find_accelerator("a100")
    siblings(find_accelerator("a100"))
    monkeypatch.setattr(files, "_opened", None)
    assert siblings(find_accelerator("a100"))[0] == "A100-PCIE-40GB"
