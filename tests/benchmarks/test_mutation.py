"""The mutation score's script: what it plants, and whether it knows a noticed fault."""

import ast
import json
import textwrap

import mutation
import pytest
from mutants import OPERATORS, Mutant, changes_code, mutants
from mutation import Outcome, Runner, Trial, as_text, draw, score
from mutation_rooms import LEFT_OUT, ROOMS, ROOT, Room, stages

TOY = """\
    def price(pieces, rate, extra=2):
        if pieces > 0 and rate:
            total = pieces * rate
            total += extra
        return max(total, 1.5)
    """


def faults(source, operator=None):
    """Lines of a module after each fault, by operator."""
    source = textwrap.dedent(source)
    found = mutants("toy.py", source)
    return [each.difference(source)[1] for each in found if operator in (None, each.operator)]


@pytest.mark.parametrize(
    ("operator", "source", "expected"),
    [
        ("comparison", "y = a < b <= c", ["y = a <= b <= c", "y = a < b < c"]),
        ("comparison", "y = a is not b", ["y = a is b"]),
        ("comparison", "y = a == b", ["y = a != b"]),
        ("comparison", "y = a in b", ["y = a not in b"]),
        ("constant", "y = 3", ["y = 4"]),
        ("constant", "y = f(2.5, 'word', True)", ["y = f(3.5, 'word', True)"]),
        ("constant", "def f(x=1): ...", ["def f(x=2): ..."]),
        ("index", "y = x[0]", ["y = x[1]"]),
        ("index", "y = x[-1]", ["y = x[-2]"]),
        ("index", "y = x[1:]", ["y = x[2:]"]),
        ("extremum", "y = min(a, b)", ["y = max(a, b)"]),
        ("extremum", "y = np.maximum(a, b)", ["y = np.minimum(a, b)"]),
        ("connective", "y = a and b or c", ["y = (a and b) and c", "y = a or b or c"]),
        ("term", "y = a + b", ["y = (a)", "y = (b)"]),
        ("term", "y = a - b", ["y = (a)"]),
        ("term", "y = (a + b) * c", ["y = (a + b)", "y = (c)", "y = ((a)) * c", "y = ((b)) * c"]),
        ("rounding", "y = ceil_div(a + 1, b)", ["y = ((a + 1) // (b))"]),
        ("rounding", "y = math.ceil(a)", ["y = math.floor(a)"]),
        ("statement", "check(a)", ["pass"]),
        ("statement", "self.a = b", ["pass"]),
        ("statement", "a += 1", ["pass"]),
        ("statement", "a = b", []),  # Python itself would notice
        ("statement", "for a in b:\n    continue", ["pass"]),
        ("statement", "del a[b]", ["pass"]),
        ("statement", "def f(a):\n    if a: return 1", ["pass"]),
        ("branch", "y = a if b else c", ["y = a if not (b) else c"]),
        ("branch", "if a:\n    b = 1", ["if not (a):"]),
    ],
)  # fmt: skip
def test_each_operator_writes_its_fault(operator, source, expected):
    assert sorted(faults(source, operator)) == sorted(expected)


def test_a_deleted_elif_leaves_the_rest_of_its_chain():
    source = "def f(a):\n    if a:\n        b = 1\n    elif c:\n        return 2\n"
    (fault,) = [each for each in mutants("toy.py", source) if each.operator == "statement"]
    assert fault.applied(source) == "def f(a):\n    if a:\n        b = 1\n    elif False: pass\n"


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring of 1 line."""',
        "__all__ = ['a'] + ['b']",
        "y: Literal[1, 2]",
        "Word = Literal['a', 'b']",
        "raise ValueError(1 + 2)",
        "raise InputError('no', fix=min(a, b))",
        "assert a < b",
        "y = f'{a + 1} of {b}'",
        "@lru_cache(maxsize=64)\ndef f(a: Annotated[int, 3]) -> int: ...",
        "if TYPE_CHECKING:\n    y = 1",
    ],
)
def test_no_fault_is_planted_in_what_is_for_people_or_types(source):
    assert faults(source) == []


def test_every_fault_is_python_and_stands_on_its_line():
    source = textwrap.dedent(TOY)
    found = mutants("toy.py", source)
    assert {each.operator for each in found} < set(OPERATORS)
    for each in found:
        ast.parse(each.applied(source))
        assert changes_code(source, each.applied(source))
        before, _ = each.difference(source)
        assert source.splitlines()[each.line - 1].strip() == before


def test_columns_are_counted_in_characters():
    assert faults("y = 'ü' if a else 'ö' + b", "term") == [
        "y = 'ü' if a else ('ö')",
        "y = 'ü' if a else (b)",
    ]


def test_the_same_code_on_other_lines_is_the_same():
    assert not changes_code("a = 1\n", "\n\na = 1\n")
    assert not changes_code("a = 2\n", "a = 1 + 1\n")
    assert changes_code("a = 1\n", "a = 1.0\n")


# --- the runner -------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path):
    """A tree with a module, and a test that knows only what happens with pieces."""
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    (root / "toy.py").write_text(textwrap.dedent(TOY))
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['.']\n")
    test = "from toy import price\n\n\ndef test_price():\n    assert price(3, 5) == 17\n"
    (root / "tests" / "test_toy.py").write_text(test)
    return root


def trials_of(toy, *operators):
    source = (toy / "toy.py").read_text()
    found = [each for each in mutants("toy.py", source) if each.operator in operators]
    return [Trial("toys", each, [("tests/test_toy.py",)]) for each in found]


@pytest.mark.slow
def test_a_fault_that_a_test_notices_is_killed_and_another_survives(toy, tmp_path):
    trials = trials_of(toy, "term", "comparison", "extremum")
    before = (toy / "toy.py").read_text()
    outcomes = list(Runner(toy, tmp_path / "scratch", jobs=2).outcomes(trials))

    verdicts = {each.after: each.verdict for each in outcomes}
    assert verdicts == {
        "total = (pieces)": "killed",
        "total = (rate)": "killed",
        "if pieces >= 0 and rate:": "survived",
        "return min(total, 1.5)": "killed",
    }
    assert score(outcomes) == 75
    report = as_text(outcomes)
    assert "toy.py:2: comparison" in report
    assert "if pieces > 0 and rate:  ->  if pieces >= 0 and rate:" in report
    assert (toy / "toy.py").read_text() == before


@pytest.mark.slow
def test_an_endless_loop_is_killed_by_the_clock(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "SLOWER", 0.0)
    monkeypatch.setattr(mutation, "GRACE_SECONDS", 3.0)
    source = "def price(a, b):\n    while a > 0:\n        a -= 1\n    return 17\n"
    (toy / "toy.py").write_text(source)
    (outcome,) = Runner(toy, tmp_path / "scratch").outcomes(trials_of(toy, "statement"))
    assert outcome.verdict == "timed out"


@pytest.mark.slow
def test_tests_that_fail_without_a_fault_say_so(toy, tmp_path):
    trials = trials_of(toy, "extremum")
    (toy / "toy.py").write_text("def price(a, b):\n    return 0\n")
    with pytest.raises(SystemExit, match=r"without any fault, this fails: pytest tests/test_toy"):
        next(Runner(toy, tmp_path / "scratch").outcomes(trials))


def outcome(verdict, room="steptime"):
    return Outcome(room, Mutant("toy.py", "term", 3, 0, 1, "b"), "a + b", "b", verdict)


def test_what_is_known_survives_an_interrupt(monkeypatch):
    def interrupted(self, trials):
        yield outcome("killed")
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "outcomes", interrupted)
    assert mutation.run([], 1) == ([outcome("killed")], False)


@pytest.mark.parametrize(
    ("at_least", "ended", "code"), [("66", True, 0), ("67", True, 1), ("66", False, 130)]
)
def test_the_exit_code_says_whether_the_score_is_high_enough(
    monkeypatch, capsys, at_least, ended, code
):
    """Two of three are noticed."""
    found = [outcome("killed"), outcome("timed out", "arrivals"), outcome("survived")]
    monkeypatch.setattr(mutation, "draw", lambda *asked: [])
    monkeypatch.setattr(mutation, "run", lambda trials, jobs: (found, ended))
    monkeypatch.setattr(mutation.signal, "signal", lambda *asked: None)
    monkeypatch.setattr("sys.argv", ["mutation.py", "--at-least", at_least, "--format", "json"])
    assert mutation.main() == code
    told = json.loads(capsys.readouterr().out)
    assert told["score_percent"] == pytest.approx({"steptime": 50, "arrivals": 100, "all": 200 / 3})
    assert [each["verdict"] for each in told["mutants"]] == ["killed", "timed out", "survived"]
    assert told["mutants"][2] | {"verdict": ""} == {
        "room": "steptime",
        "path": "toy.py",
        "line": 3,
        "operator": "term",
        "before": "a + b",
        "after": "b",
        "verdict": "",
    }


def test_the_table_has_a_line_for_each_room_that_was_drawn():
    found = [outcome("killed"), outcome("timed out", "arrivals"), outcome("survived")]
    assert [line.split() for line in as_text(found).splitlines()[2:]] == [
        ["room", "mutants", "killed", "timed", "out", "score"],
        ["steptime", "2", "1", "0", "50.0%"],
        ["arrivals", "1", "0", "1", "100.0%"],
        ["all", "3", "1", "1", "66.7%"],
    ]


# --- the draw ---------------------------------------------------------------------------------


def test_a_seed_draws_the_same_mutants_of_the_rooms_asked_for():
    first, again, other = (draw(["retention"], 20, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {trial.mutant.path for trial in first} == {"kvsim/memory/retention.py"}
    assert len({trial.mutant for trial in first}) == 20


def test_the_tests_named_after_a_module_run_first():
    room = Room(("kvsim/simulator",), ("tests/simulator",))
    assert stages(room, "kvsim/simulator/batch.py") == [
        ("tests/simulator/test_batch.py",),
        ("tests/simulator",),
    ]
    assert stages(room, "kvsim/simulator/allocators/grow.py") == [
        ("tests/simulator/test_allocators.py",),
        ("tests/simulator",),
    ]
    assert stages(room, "kvsim/simulator/nothing.py") == [("tests/simulator",)]


def test_every_room_has_modules_and_tests():
    for room in ROOMS.values():
        for path in (*room.modules, *room.tests, *LEFT_OUT):
            assert (ROOT / path).exists(), path
