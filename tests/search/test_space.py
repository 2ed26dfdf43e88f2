"""A space: its points in order, and what is wrong with one, with the line that says so."""

import pytest

from kvsim import InputError, Space, load_scenario

FILE = """\
scenario: peer-w
set: {workload.requests: 50}
vary:
  accelerator: [a100, h100]
  engine.tensor_parallel_size: [1, 2, 4]
seeds: 3
"""


def test_a_scenario_in_place_of_a_space_says_what_a_space_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="peer-w: is a scenario, and a space is a file that"):
        Space.read("peer-w")


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a space's file, with one text in place of another."""

    def write(old="", new=""):
        assert old in FILE
        path = tmp_path / "space.yaml"
        path.write_text(FILE.replace(old, new) if old else FILE)
        return path

    return write


def test_points_are_all_combinations_the_last_key_fastest(written):
    space = Space.read(written())
    points = list(space.points())
    cards = [point.values["accelerator"] for point in points]
    degrees = [point.values["engine.tensor_parallel_size"] for point in points]
    assert cards == ["a100"] * 3 + ["h100"] * 3
    assert degrees == [1, 2, 4] * 2
    assert (len(space), space.seeds) == (6, 3)
    for point in points:
        assert point.scenario.workload.requests == 50
        assert point.scenario.accelerator == point.values["accelerator"]
        assert (
            point.scenario.engine.tensor_parallel_size
            == (point.values["engine.tensor_parallel_size"])
        )


def test_a_point_is_found_by_its_number(written):
    space = Space.read(written())
    assert [space.values(n) for n in range(len(space))] == [p.values for p in space.points()]


def test_flags_are_keys(written):
    space = Space.read(written("engine.tensor_parallel_size", "tp"))
    assert [p.scenario.engine.tensor_parallel_size for p in space.points()] == [1, 2, 4, 1, 2, 4]


def test_seeds_are_the_scenarios_own_where_none_are_said():
    scenario = load_scenario("peer-w", {"run.replications": 4})
    assert Space(scenario, {"tp": [1, 2]}).seeds == 4


def test_a_scenario_is_relative_to_the_spaces_file(written, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(load_scenario("peer-w").to_yaml())
    path = written("peer-w", "mine.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert Space.read(path).scenario.folder == tmp_path


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("a100, h100", "a100, a100", 4, "the value 'a100' is given twice"),
        ("engine.tensor", "engine.tenser", 5, "nearest valid: tensor_parallel_size"),
        ("[1, 2, 4]", "[1, 0]", 5, "engine.tensor_parallel_size = 0: should be greater than 0"),
        ("[1, 2, 4]", "[1, null]", 5, "null is no value to vary"),
        ("[1, 2, 4]", "[]", 3, "engine.tensor_parallel_size needs a list of values"),
        ("[1, 2, 4]", "2", 5, "should be a list"),
        ("accelerator: [a100, h100]", "tp: [1]", 5, "varied twice: tp is the same"),
        ("engine.tensor_parallel_size", "run.seed", 5, "seeds says which runs a point has"),
        ("engine.tensor_parallel_size", "seed", 5, "seeds says which runs a point has"),
        ("workload.requests: 50", "replications: 5", 2, "seeds says which runs a point has"),
        ("workload.requests: 50", "workload.requests: -1", 2, "should be at least 1"),
        ("workload.requests: 50", "gpu: l4", 2, "vary accelerator takes its place"),
        ("seeds: 3", "seeds: 0", 6, "should be greater than 0"),
        ("seeds: 3", "sedes: 3", 6, "nearest valid: seeds"),
        ("scenario: peer-w", "scenario: peer-x", 1, "unknown scenario 'peer-x'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(written, old, new, line, said):
    path = written(old, new)
    with pytest.raises(InputError) as refused:
        list(Space.read(path).points())
    assert str(refused.value).startswith(f"{path}, line {line}")
    assert said in str(refused.value)


def test_an_empty_space_is_refused(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("scenario: peer-w\nvary: {}\n")
    with pytest.raises(InputError, match="line 2: vary: nothing to vary"):
        Space.read(path)


def test_negative_seeds_are_refused():
    with pytest.raises(InputError, match="-1 runs of a point answer nothing"):
        Space(load_scenario("peer-w"), {"tp": [1]}, seeds=-1)


def test_seeds_beyond_63_bits_are_refused():
    scenario = load_scenario("peer-w", {"run.seed": 2**63 - 2})
    assert len(Space(scenario, {"tp": [1]}, seeds=2)) == 1
    with pytest.raises(InputError, match="3 seeds from 9223372036854775806 on are more than 63"):
        Space(scenario, {"tp": [1]}, seeds=3)
