"""Fits: planted coefficients come back, tables give what the findings say, bad input is named."""

import csv
import json
import math
from dataclasses import fields, replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from steptime_accuracy import leave_one_model_out

from kvsim.calibrate.fit import (
    Datasheet,
    fit_gemms,
    fit_link,
    fit_steps,
    predict,
)
from kvsim.calibrate.public.experts import engine_experts, fit_experts
from kvsim.calibrate.public.tables import GemmTable
from kvsim.calibrate.rows import StepRows, read_rows, rows_from_records
from kvsim.calibrate.shapes import LLAMA_3_8B, PUBLIC_SHAPES
from kvsim.catalog.accelerators import find_accelerator, load_accelerator
from kvsim.catalog.models import find_model
from kvsim.cli.calibrate import command
from kvsim.engines import ENGINE_NAMES, get_engine
from kvsim.engines.base import Deployment
from kvsim.errors import InputError, KVSimError
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import FrontEnd, GemmRates, StepCoefficients
from kvsim.specs.precision import kv_format
from kvsim.steptime.model import KVReadCurve, StepLoad, StepTimeModel, prefill_pairs

DATASHEET = Datasheet(3e12, 1e15)
BASE = StepCoefficients(
    engine="vllm",
    source="planted",
    date="2026-11-21",
    weight_bytes_per_s=1e12,
    flops_per_s=1e15,
    kv_bytes_per_s=1e12,
    attention_flops_per_s=1e15,
    layer_seconds=0.0,
)
PLANTED = BASE.model_copy(
    update={
        "weight_bytes_per_s": 2.4e12,
        "flops_per_s": 7e14,
        "kv_bytes_per_s": 2.2e12,
        "attention_flops_per_s": 4e14,
        "layer_seconds": 40e-6,
        "norm": 2.6,
        "head_seconds": 20e-9,
        "attention_token_seconds": 1e-9,
        "mixed_kv_factor": 1.5,
        "mixed_head_seconds": 60e-9,
    }
)


def record(shape, phase, decodes, context, chunk):
    """One step of a shape, its time left at 1 s."""
    tokens, weights = decodes + chunk, shape.layer_parameters(1) * shape.layers
    return {
        "model": shape.name,
        "phase": phase,
        "layers": shape.layers,
        "tokens": tokens,
        "sequences": decodes + (chunk > 0),
        "weight_bytes": 2.0 * weights,
        "flops": 2.0 * weights * tokens,
        "kv_bytes": 4.0 * decodes * context * shape.kv_heads * shape.head_dim * shape.layers,
        "kv_heads": shape.kv_heads * shape.layers,
        "attention_flops": 2.0 * chunk * (chunk + 1) * shape.heads * shape.head_dim * shape.layers,
        "query_tokens": float(chunk * shape.heads * shape.layers),
        "tp": 1,
        "message_bytes": 0.0,
        "seconds": 1.0,
    }


def timed(rows, rates, noise=0.0, **precision):
    """The rows under `rates`, with multiplicative noise."""
    clean = predict(rows, rates, **precision)
    factors = np.exp(noise * np.random.default_rng(7).standard_normal(len(rows)))
    columns = {column.name: getattr(rows, column.name) for column in fields(StepRows)}
    return StepRows(**{**columns, "seconds": clean * factors})


def grid():
    """Decode, prefill and mixed steps of four models: 20 each."""
    records = []
    for shape in PUBLIC_SHAPES[:4]:
        for batch in (1, 8, 64, 256):
            for context in (128, 1024, 8192):
                records.append(record(shape, "decode", batch, context, 0))
        for chunk in (64, 256, 1024, 4096):
            records.append(record(shape, "prefill", 0, 0, chunk))
            records.append(record(shape, "mixed", 32, 2048, chunk))
    return rows_from_records(records)


# --- fits ----------------------------------------------------------------------------------------


def test_planted_coefficients_come_back():
    fit = fit_steps(timed(grid(), PLANTED), DATASHEET, BASE, tiles=False)

    assert fit.error_percent < 0.1
    for name in ("weight_bytes_per_s", "kv_bytes_per_s", "flops_per_s", "layer_seconds", "norm"):
        assert getattr(fit.coefficients, name) == pytest.approx(getattr(PLANTED, name), rel=0.03)
    assert fit.coefficients.mixed_kv_factor == pytest.approx(1.5, rel=0.03)
    assert fit.coefficients.attention_flops_per_s == pytest.approx(4e14, rel=0.05)


@given(
    weight=st.floats(0.4, 0.9),
    kv=st.floats(0.4, 0.95),
    flops=st.floats(0.4, 0.95),
    layer=st.floats(20e-6, 200e-6),
)
@settings(max_examples=8)
def test_any_planted_rates_come_back_through_two_percent_of_noise(weight, kv, flops, layer):
    planted = PLANTED.model_copy(
        update={
            "weight_bytes_per_s": weight * DATASHEET.bytes_per_s,
            "kv_bytes_per_s": kv * DATASHEET.bytes_per_s,
            "flops_per_s": flops * DATASHEET.flops_per_s,
            "layer_seconds": layer,
        }
    )

    fit = fit_steps(timed(grid(), planted, noise=0.02), DATASHEET, BASE, tiles=False)

    assert fit.error_percent < 3
    truth = predict(grid(), planted)
    assert np.mean(np.abs(predict(grid(), fit.coefficients) / truth - 1)) < 0.02
    assert fit.coefficients.kv_bytes_per_s == pytest.approx(planted.kv_bytes_per_s, rel=0.1)


def test_rates_never_leave_their_share_of_the_datasheet():
    impossible = PLANTED.model_copy(
        update={"weight_bytes_per_s": 9e12, "kv_bytes_per_s": 1e11, "flops_per_s": 9e15}
    )

    fitted = fit_steps(timed(grid(), impossible), DATASHEET, BASE).coefficients

    for rate in (fitted.weight_bytes_per_s, fitted.kv_bytes_per_s):
        assert 0.3 - 1e-9 <= rate / DATASHEET.bytes_per_s <= 1.0
    assert 0.3 <= fitted.flops_per_s / DATASHEET.flops_per_s <= 1.0 + 1e-9


def test_planted_tile_factors_come_back():
    bumpy = PLANTED.model_copy(update={"token_factors": {64: 1.0, 256: 1.4, 1024: 1.0}})
    rows = timed(grid(), bumpy)

    smooth = fit_steps(rows, DATASHEET, BASE, tiles=False)
    tiled = fit_steps(rows, DATASHEET, BASE, tiles=True)

    assert tiled.error_percent < smooth.error_percent / 2
    factors = tiled.coefficients.token_factors
    assert factors[256] > 1.1 * factors[1024]


@pytest.mark.parametrize("name", ["fp8", "fp4"])
def test_planted_rates_of_a_narrow_format_come_back(name):
    """With fp8 goes what KV in fp8 gains; another format's steps find it known."""
    narrow = GemmRates(
        seconds=25e-6,
        bytes_per_s=0.85 * PLANTED.weight_bytes_per_s,
        flops_per_s=1.4 * PLANTED.flops_per_s,
        token_factors=dict.fromkeys((16, 32, 64, 128, 256, 512, 1024, 2048, 4096), 1.0),
    )
    planted = PLANTED.model_copy(update={"gemms": {name: narrow}, "fp8_kv_speedup": 1.5})
    base = PLANTED if name == "fp8" else PLANTED.model_copy(update={"fp8_kv_speedup": 1.5})

    fitted = fit_gemms(timed(grid(), planted, weights=name), base, name).coefficients

    found = fitted.gemms[name]
    assert found.bytes_per_s == pytest.approx(narrow.bytes_per_s, rel=0.02)
    assert found.flops_per_s == pytest.approx(narrow.flops_per_s, rel=0.02)
    assert found.seconds == pytest.approx(25e-6, rel=0.1)
    assert found.token_factors == pytest.approx(narrow.token_factors, rel=0.03)
    assert fitted.fp8_kv_speedup == pytest.approx(1.5, rel=0.02)
    assert fitted.weight_bytes_per_s == PLANTED.weight_bytes_per_s


def test_rows_that_are_all_alike_are_too_few():
    rows = timed(grid(), PLANTED)
    alike = rows.where(np.arange(len(rows)) == 0)
    many = StepRows(**{f.name: np.repeat(getattr(alike, f.name), 40) for f in fields(StepRows)})
    with pytest.raises(InputError, match="40 rows of 1 kinds are too few to fit"):
        fit_steps(many, DATASHEET, PLANTED)


def test_narrow_formats_stay_as_many_times_bf16s():
    narrow = GemmRates(seconds=1e-5, bytes_per_s=1e12, flops_per_s=5e14)
    base = PLANTED.model_copy(
        update={"gemms": {"fp8": narrow}, "weight_bytes_per_s": 1e12, "flops_per_s": 2.5e14}
    )
    fitted = fit_steps(timed(grid(), PLANTED), DATASHEET, base).coefficients
    assert fitted.gemms["fp8"].bytes_per_s == pytest.approx(fitted.weight_bytes_per_s, rel=1e-3)
    assert fitted.gemms["fp8"].flops_per_s == pytest.approx(2 * fitted.flops_per_s, rel=1e-3)
    assert fitted.gemms["fp8"].seconds == 1e-5


def test_a_model_left_out_is_judged_by_the_others():
    rows = timed(grid(), PLANTED)
    slow = np.where(rows.model == "Llama-2-7B", 1.5, 1.0)
    columns = {column.name: getattr(rows, column.name) for column in fields(StepRows)}
    odd = StepRows(**{**columns, "seconds": rows.seconds * slow})

    errors = leave_one_model_out(
        odd, lambda part: fit_steps(part, DATASHEET, BASE, tiles=False).coefficients
    )

    assert set(errors) == set(rows.models())
    assert errors["Llama-2-7B"] > 25
    assert min(errors.values()) < 15


def test_a_planted_link_comes_back_in_both_regimes():
    def seconds(size):
        return 5e-6 + size / 1e11 if size < 2**23 else 40e-6 + size / 2e11

    link = fit_link({2**power: seconds(2**power) for power in range(8, 31)})

    assert link.large_from_bytes == 2**23
    assert (link.seconds, link.bytes_per_s) == pytest.approx((5e-6, 1e11), rel=1e-3)
    assert (link.large_seconds, link.large_bytes_per_s) == pytest.approx((40e-6, 2e11), rel=1e-3)


def test_the_columns_and_the_model_state_the_same_formula():
    # fit.predict (columns) against StepTimeModel (one step): the maths stands in both.
    model, card = find_model("llama3.1-8b"), find_accelerator("h100")
    rates = card.coefficients
    steps = StepTimeModel.from_deployment(Deployment(model, card, EngineOptions()))
    reads = KVReadCurve.from_model(model, kv_format("bf16"))
    head = 2.0 * LLAMA_3_8B.vocab_size * LLAMA_3_8B.hidden_size
    for phase, decodes, context, chunk in (
        ("decode", 32, 1000, 0),
        ("prefill", 0, 0, 777),
        ("mixed", 32, 1000, 512),
    ):
        one = record(LLAMA_3_8B, phase, decodes, context, chunk)
        one["weight_bytes"] = steps.cost(StepLoad(1, 1)).weight_seconds * rates.weight_bytes_per_s
        one["flops"] += head * one["sequences"]
        load = StepLoad(
            tokens=decodes + chunk,
            sequences=one["sequences"],
            kv_read_bytes=decodes * reads.bytes_at(context) if decodes else 0.0,
            prefill_pairs=prefill_pairs(model, 0, chunk),
        )
        # the model charges a prompt's first token as if it decoded: a few microseconds
        expected = predict(rows_from_records([one]), rates)[0]
        cost = steps.cost(load)  # no kernel without a matrix is in the tables
        kernels = cost.seconds - cost.elementwise_seconds
        assert kernels == pytest.approx(expected, rel=2e-3)


def test_a_gemm_between_the_tables_sizes_is_bilinear():
    def time(m, n, k):
        return 1e-6 + 1e-9 * m + 2e-12 * n * k

    sizes = (1024, 2048, 4096)
    table = GemmTable({(m, n, k): time(m, n, k) for m in (1, 8) for n in sizes for k in sizes})

    assert table.seconds(4, 1536, 3000) == pytest.approx(time(4, 1536, 3000))
    assert table.seconds(1, 6000, 1024) == pytest.approx(time(1, 6000, 1024))
    assert table.seconds(1, 9000, 1024) is None
    assert table.seconds(16, 1024, 1024) is None


# --- routed experts ------------------------------------------------------------------------------


def moe_table(folder, start, bandwidth, rate, engine="vllm"):
    """A table whose times are planted, of one shape: 64 experts, 4 a token.

    Beside them, times of kernels of two matrices an expert, which count for nothing.
    """
    rows = []
    for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096):
        for tp in (1, 2, 4):
            parameters = 3 * 2048 * 1024 / tp
            touched = 64 * (1 - (1 - 4 / 64) ** tokens)
            each = tokens * 4 / touched
            tiles = touched * -(-(each - 1e-9) // 16) * 16
            read, computed = 2 * touched * parameters / bandwidth, 2 * tiles * parameters / rate
            rows.append(
                {
                    "moe_dtype": "bfloat16", "num_tokens": tokens, "hidden_size": 2048,
                    "inter_size": 1024, "topk": 4, "num_experts": 64, "moe_tp_size": tp,
                    "moe_ep_size": 1, "distribution": "power_law_1.2",
                    "latency": 1e3 * (start + math.hypot(read, computed)),
                    "kernel_source": f"{engine}_fused_moe",
                }
            )  # fmt: skip
            rows.append({**rows[-1], "latency": 1.0, "kernel_source": "moe_torch_flow_nongated"})
    place = folder / "aisimulate/h100_sxm/moe" / engine / "0.1"
    place.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(place / "moe_perf.parquet")


def test_planted_rates_of_experts_come_back(tmp_path):
    moe_table(tmp_path, 25e-6, 2e12, 3e14)
    (found,) = fit_experts(tmp_path, "h100_sxm", find_accelerator("h100")).values()
    assert found.rates.seconds == pytest.approx(25e-6, rel=0.01)
    assert found.rates.bytes_per_s == pytest.approx(2e12, rel=0.01)
    assert found.rates.flops_per_s == pytest.approx(3e14, rel=0.02)
    assert (found.rows, found.error_percent) == (36, pytest.approx(0, abs=0.2))


def test_engines_with_tables_of_experts_have_their_own_fitted(tmp_path):
    moe_table(tmp_path, 25e-6, 2e12, 3e14)
    moe_table(tmp_path, 50e-6, 1e12, 3e14, engine="trtllm")
    found = engine_experts(tmp_path, "h100_sxm", find_accelerator("h100"))
    assert list(found) == ["tensorrt-llm"]
    assert found["tensorrt-llm"]["bf16"].seconds == pytest.approx(50e-6, rel=0.01)


def test_a_card_without_tables_of_experts_has_none_fitted(tmp_path):
    assert fit_experts(tmp_path, "h100_sxm", find_accelerator("h100")) == {}


# --- the command and its errors ------------------------------------------------------------------


HEADER = ",".join(field.name for field in fields(StepRows)).encode() + b"\n"


def write_rows(path, rows, **changes):
    names = [column.name for column in fields(StepRows)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for index in range(len(rows)):
            row = {name: getattr(rows, name)[index] for name in names}
            writer.writerow({**row, **(changes if index == 2 else {})})
    return path


def test_measured_steps_become_a_profile_that_works(tmp_path):
    planted = PLANTED.model_copy(update={"kv_bytes_per_s": 2.0e12})
    rows = write_rows(tmp_path / "steps.csv", timed(grid(), planted))
    output = tmp_path / "mine.yaml"

    arguments = ["fit", "--gpu", "h100", "--rows", str(rows), "-o", str(output)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)

    assert result.exit_code == 0
    assert "80 rows, 0.0 % off" in result.output
    assert f"written to {output}" in result.stderr
    assert yaml.safe_load(result.stdout).keys() == {"coefficients"}
    fitted = load_accelerator(output).coefficients
    assert fitted.kv_bytes_per_s == pytest.approx(2.0e12, rel=0.03)
    assert (fitted.source, fitted.date) == ("rows of steps.csv", date.today().isoformat())


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_nothing_is_added_to_steps_that_were_measured_whole(tmp_path, engine):
    """A prompt's step and a decode step of each engine cost what the fit says of their rows."""
    output = tmp_path / "mine.yaml"
    fitted_from(tmp_path, timed(grid(), PLANTED), "-o", str(output))
    model, card = find_model("llama3.1-8b"), load_accelerator(output)
    steps = StepTimeModel.from_deployment(Deployment(model, card), engine=get_engine(engine))
    for load in (StepLoad(512, 1), StepLoad(32, 32)):
        cost = steps.cost(load)
        bare = cost.layer_seconds + cost.roofline_seconds + cost.kv_seconds
        assert cost.seconds == pytest.approx(bare + cost.prefill_attention_seconds, rel=1e-12)
    assert steps.front_end == FrontEnd()
    assert "host: in the steps of steps.csv" in steps.provenance


def fitted_from(tmp_path, rows, *more):
    """Run ``kvsim calibrate fit --rows`` on these rows."""
    path = write_rows(tmp_path / "steps.csv", rows)
    arguments = ["fit", "--gpu", "h100", "--rows", str(path), *more]
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_poor_fit_says_so(tmp_path):
    poor = fitted_from(tmp_path, timed(grid(), PLANTED, noise=0.4))
    assert "warning: the fit misses its own rows by" in poor.stderr
    assert "over 20 %: do not trust what is simulated with it" in poor.stderr
    assert yaml.safe_load(poor.stdout)["coefficients"]["error_percent"] > 20
    assert fitted_from(tmp_path, timed(grid(), PLANTED, noise=0.05)).stderr == ""


def test_a_fit_is_told_as_json(tmp_path):
    rows = timed(grid(), PLANTED, noise=0.4)
    said = json.loads(fitted_from(tmp_path, rows, "--format", "json").stdout)
    block = yaml.safe_load(fitted_from(tmp_path, rows).stdout)["coefficients"]
    assert (said["accelerator"], said["rows"]) == ("H100-SXM5-80GB", len(rows))
    assert said["coefficients"]["kv_bytes_per_s"] == pytest.approx(
        block["kv_bytes_per_s"], rel=1e-3
    )
    assert said["error_percent"] == pytest.approx(block["error_percent"], abs=0.1)
    assert len(said["warnings"]) == 1
    # One rank in bf16 says nothing of links, of fp8 and of experts, and everything of the rest.
    assert {"collectives", "fp8_kv_speedup"} <= set(said["kept"])
    assert not {"kv_bytes_per_s", "weight_bytes_per_s", "error_percent"} & set(said["kept"])
    assert said["output"] is None


@pytest.mark.parametrize("factor", [20.0, 0.2])
def test_times_that_no_such_card_takes_are_refused_and_written_nowhere(tmp_path, factor):
    rows = timed(grid(), PLANTED)
    slow = replace(rows, seconds=rows.seconds * factor)
    output = tmp_path / "mine.yaml"
    with pytest.raises(InputError) as refused:
        fitted_from(tmp_path, slow, "-o", str(output))
    assert str(refused.value).startswith(
        f"{tmp_path / 'steps.csv'}: no step times of this accelerator fit: the nearest are "
    )
    assert str(refused.value).endswith("that --gpu is what they were measured on")
    assert not output.exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("seconds", "", "line 4: seconds = '': should be a finite number"),
        ("seconds", "-1", "line 4: seconds = '-1': should be at least 0"),
        ("seconds", "nan", "line 4: seconds = 'nan': should be a finite number"),
        ("seconds", "9" * 5000, "line 4: seconds = '999"),
        ("seconds", "1,2", "line 4: seconds = '1,2': should be a finite number"),
        ("layers", "True", "line 4: layers = 'True': should be a finite number"),
        ("model", "a\nb", "line 5: model = 'a\\nb' is not plain text"),
        ("seconds", "4000", "line 4: seconds = 4000 is not a step time; write seconds, not"),
        ("weight_bytes", "13.5", "bytes/s is not plausible; write bytes"),
        ("flops", "1e30", "FLOP/s is not plausible"),
        ("phase", "thinking", "phase = 'thinking' is unknown; write decode, prefill, mixed"),
        ("tokens", "0", "are at least 1"),
    ],
)
def test_a_bad_cell_is_named_with_its_line(tmp_path, column, value, message):
    path = write_rows(tmp_path / "steps.csv", timed(grid(), PLANTED), **{column: value})
    if column == "weight_bytes":
        path = write_rows(path, timed(grid(), PLANTED), weight_bytes=value, kv_bytes="0")

    with pytest.raises(InputError) as raised:
        read_rows(path)

    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        (b"", "line 1: no column model"),
        (b"model,phase\nx,decode\n", "no column layers, tokens"),
        (b"\xff\xfe\x00\x01", "cannot be read as text"),
        (HEADER, "no rows below the header"),
        (HEADER.replace(b"layers", b"layer"), "no column layers; near it stands 'layer'"),
        (HEADER.replace(b"flops", b"tp", 1), "no column flops"),
        (HEADER.rstrip() + b",tp\n", "line 1: the column 'tp' is there twice"),
        (HEADER + b"m,decode\n", "line 2: 2 cells under a header of 14"),
        (HEADER + b"m,decode" + b",1" * 13, "line 2: 15 cells under a header of 14"),
        (HEADER + b'"m,decode\n', r"line 2: not a readable CSV \(unexpected end of data\)"),
        (b"\0" * 9, "is a binary file"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, message):
    path = tmp_path / "steps.csv"
    if text is not None:
        path.write_bytes(text)

    with pytest.raises(InputError, match=message):
        read_rows(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h100"], "give either --tables FOLDER or --rows FILE"),
        (["--gpu", "h100", "--tables", "nowhere"], "nowhere: no such folder"),
        (["--gpu", "h10", "--tables", "."], "unknown accelerator 'h10'"),
        (["--gpu", "mi300x", "--tables", "."], "no table reader knows"),
        (["--gpu", "h100", "--tables", "."], "no gemm_h100_sxm_\\*.csv; there are no tables"),
    ],
)
def test_a_command_that_cannot_work_says_why(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(KVSimError, match=message):
        CliRunner().invoke(command, ["fit", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r", "\n\n"])
def test_lines_may_end_as_on_any_system(tmp_path, ending):
    path = write_rows(tmp_path / "steps.csv", timed(grid(), PLANTED))
    lines = path.read_text().splitlines()
    path.write_bytes(ending.join(lines).encode())
    assert len(read_rows(path)) == len(grid())
    path.write_bytes(ending.join([*lines[:9], lines[9].replace("decode", "dream")]).encode())
    line = 10 if len(ending.replace("\r\n", "\n")) == 1 else 19
    with pytest.raises(InputError, match=f"line {line}: phase = 'dream' is unknown"):
        read_rows(path)


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="3 rows are too few to fit"):
        fit_steps(grid().where(np.arange(len(grid())) < 3), DATASHEET, BASE)
