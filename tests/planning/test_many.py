"""Plans of many points: each is what `plan` says, in the order asked, and none loses another."""

import itertools

import pandas as pd
import pytest

from kvsim import InputError, KVSimError, find_accelerator, find_model, plan, plan_many
from kvsim.planning.many import ANSWERS
from kvsim.specs.checked import defaults
from kvsim.specs.engine_options import EngineOptions

NUMBERS = [name for name in ANSWERS if name not in ("fits", "error")]


def expected(question):
    """What `plan` says of one point, in the columns of the table."""
    try:
        answer = plan(**question)
    except KVSimError as error:
        return dict.fromkeys(ANSWERS) | {"error": str(error)}
    context = answer.decode.context_len
    (at,) = [row for row in answer.concurrency if row.context_len == context]
    return {
        "fits": answer.fits,
        "weights_bytes": answer.memory.weights_bytes,
        "kv_cache_bytes": answer.memory.kv_cache_bytes,
        "kv_within_bytes": answer.kv_band.within_bytes,
        "num_blocks": answer.kv_cache.num_blocks,
        "capacity_tokens": answer.kv_cache.capacity_tokens,
        "max_concurrency": answer.kv_cache.max_concurrency,
        "at_tokens": context,
        "requests": at.requests,
        "running": at.running,
        "error": "",
    }


def rows(table):
    """The answers of a table, with None where there is nothing."""
    found = table[list(ANSWERS)].astype(object)
    return found.where(found.notna(), None).to_dict("records")


def test_every_row_is_what_plan_says_of_it():
    names = ("model", "gpu", "engine", "max_model_len")
    points = itertools.product(
        ("llama2-7b", "gpt-oss-20b", "no-such-model"),
        ("a100", "l4"),
        ("vllm", "sglang", "llama.cpp"),
        (4096, 131_072),
    )
    asked = [dict(zip(names, point, strict=True)) for point in points]
    assert rows(plan_many(asked)) == [expected(question) for question in asked]


def test_the_known_answer_of_llama2_7b_on_an_l4_and_an_a100():
    """Touvron's 6,738,415,616 parameters in fp16; 512 KiB a token, so 8 MiB a block of 16."""
    table = plan_many([{"model": "llama2-7b", "gpu": gpu} for gpu in ("l4", "a100")])
    assert table["weights_bytes"].ge(2 * 6_738_415_616).all()
    assert (table["num_blocks"] == table["kv_cache_bytes"] // 2**23).all()
    assert table["capacity_tokens"].tolist() == [16 * n for n in table["num_blocks"]]


def test_columns_index_and_order_are_those_asked():
    asked = pd.DataFrame(
        {"gpu": ["h100", "nope", "l4"], "model": "llama3.1-8b"}, index=["c", "a", "b"]
    )
    table = plan_many(asked)
    assert list(table.columns) == ["gpu", "model", *ANSWERS]
    assert list(table.index) == ["c", "a", "b"]
    pd.testing.assert_frame_equal(table[["gpu", "model"]], asked)
    assert list(asked.columns) == ["gpu", "model"]
    assert table["error"].ne("").tolist() == [False, True, False]
    assert {name: str(table[name].dtype) for name in NUMBERS} == {n: ANSWERS[n] for n in NUMBERS}


def test_an_empty_cell_is_an_argument_left_out():
    asked = pd.DataFrame(
        {
            "model": "llama2-7b",
            "gpu": "a100",
            "max_model_len": [1024, None],  # as floats, beside NaN
            "enforce_eager": pd.array([None, True], dtype="boolean"),
            "context_len": [None, 512.0],
            "retention": [None, ["window:256"]],
        }
    )
    assert rows(plan_many(asked)) == [
        expected({"model": "llama2-7b", "gpu": "a100", "max_model_len": 1024}),
        expected(
            {
                "model": "llama2-7b",
                "gpu": "a100",
                "enforce_eager": True,
                "context_len": 512,
                "retention": ["window:256"],
            }
        ),
    ]


def test_mappings_may_lack_what_others_have():
    common = {"model": "llama2-7b", "gpu": "h100"}
    asked = [common, common | {"tensor_parallel_size": 2}, common | {"kv_cache_dtype": "fp8"}]
    assert rows(plan_many(asked)) == [expected(question) for question in asked]


def test_a_model_and_a_card_may_be_objects():
    asked = [{"model": find_model("llama2-7b"), "gpu": find_accelerator("a100")}]
    assert rows(plan_many(asked)) == [expected({"model": "llama2-7b", "gpu": "a100"})]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"model": None}, "model: is empty"),
        ({"gpu": 4090}, "gpu: 4090 should be text; read the column as text"),
        ({"engine_version": 0.19}, "engine_version: 0.19 should be text; read the column as text"),
        ({"context_len": "long"}, "context_len: 'long': should be a whole number"),
        ({"context_len": 0}, "context_len: 0 tokens are no sequence"),
        ({"retention": 4096}, "retention: 4096 should be text; read the column as text"),
        ({"max_num_seqs": -1}, "max_num_seqs = -1: should be greater than 0"),
        ({"max_num_seqs": 10**30}, f"max_num_seqs: {10**30} is absurd; at most 10**15 is accepted"),
    ],
)
def test_a_row_that_cannot_be_planned_says_why_in_one_line(cells, said):
    table = plan_many([{"model": "llama2-7b", "gpu": "a100", **cells}, GOOD])
    assert table["error"].tolist() == [said, ""]
    assert table["fits"].isna().tolist() == [True, False]


GOOD = {"model": "llama2-7b", "gpu": "a100"}


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        (
            [GOOD | {"max_modle_len": 5}],
            "the column 'max_modle_len' is no argument of plan; did you mean max_model_len",
        ),
        ([GOOD, {"zzz": 1}], "the column 'zzz' is no argument of plan; see kvsim.plan"),
        ([{"model": "llama2-7b"}], "there is no column 'gpu'"),
        ([], "there is no column 'model'"),
        ([GOOD, "llama2-7b"], "row 1: 'llama2-7b' is no mapping of arguments"),
        (GOOD, "is no table of questions"),
        ("llama2-7b", "is no table of questions"),
        (5, "5 is no table of questions"),
        (pd.DataFrame([list("abc")], columns=["model", "gpu", "gpu"]), "'gpu' is given twice"),
    ],
)
def test_a_table_that_is_none_is_refused(questions, said):
    with pytest.raises(InputError) as error:
        plan_many(questions)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_rows_give_no_rows():
    table = plan_many(pd.DataFrame({"model": [], "gpu": []}))
    assert list(table.columns) == ["model", "gpu", *ANSWERS]
    assert len(table) == 0


def test_no_answer_has_the_name_of_a_question():
    assert not set(ANSWERS) & {*defaults(EngineOptions), "model", "gpu", "engine"}
