"""Checked records: what they take, what they refuse and how they say so."""

import pickle
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.specs.checked import (
    Checked,
    FieldError,
    NonNegativeFloat,
    Parsed,
    PositiveFloat,
    PositiveInt,
    Within,
    defaults,
    read,
)
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import parse_bytes


class Wheel(Checked):
    """A part."""

    spokes: PositiveInt
    kind: Literal["road", "track"] = "road"


class Steel(Checked):
    """One of two that a field may hold."""

    grade: str = "4130"


class Carbon(Checked):
    """The other."""

    layers: PositiveInt = 3


class Brake(Checked, ABC):
    """One of several kinds, told apart by their words."""

    kind: str

    @abstractmethod
    def grip(self):
        """What makes it abstract."""


class RimBrake(Brake):
    """A kind."""

    kind: Literal["rim"] = "rim"
    pads: PositiveInt = 2

    def grip(self):
        return 1


class DiscBrake(RimBrake):
    """A kind below another."""

    kind: Literal["disc"] = "disc"


class Bicycle(Checked):
    """A whole with every kind of field."""

    name: str
    wheels: Annotated[tuple[Wheel, ...], Within(least=1)]
    frame: Steel | Carbon = Steel()
    gears: dict[int, PositiveFloat] = {}  # noqa: RUF012 - read into a dict of its own
    mass: Annotated[PositiveInt, Parsed(parse_bytes)] = 1
    slope: Annotated[float, Within(above=0, most=1)] | None = None
    drag: NonNegativeFloat = 0.0
    folds: bool = False
    brakes: tuple[Brake, ...] = ()


class Tandem(Bicycle):
    """Fields of the base come first."""

    riders: PositiveInt = 2


WRITTEN = {"name": "b", "wheels": [{"spokes": 32}, {"spokes": 24, "kind": "track"}]}
BICYCLE = read(Bicycle, WRITTEN)


# --- what is taken ---


def test_a_mapping_becomes_records_tuples_and_defaults():
    assert BICYCLE.wheels == (Wheel(spokes=32), Wheel(spokes=24, kind="track"))
    assert BICYCLE.frame == Steel()
    assert (BICYCLE.slope, BICYCLE.drag, BICYCLE.folds) == (None, 0.0, False)


def test_values_are_read_as_their_fields_say():
    read_in = read(
        Bicycle, {**WRITTEN, "mass": "2 KiB", "slope": "3.5e-1", "drag": 2, "gears": {"1": 2}}
    )
    assert (read_in.mass, read_in.slope, read_in.drag, read_in.gears) == (2048, 0.35, 2.0, {1: 2.0})
    assert isinstance(read_in.drag, float)


def test_a_record_of_a_union_is_taken_as_it_is():
    assert BICYCLE.model_copy(update={"frame": Carbon(layers=5)}).frame.layers == 5


def test_a_mapping_names_its_kind_below_an_abstract_class():
    written = {**WRITTEN, "brakes": [{"kind": "rim", "pads": 4}, {"kind": "disc"}]}
    assert read(Bicycle, written).brakes == (RimBrake(pads=4), DiscBrake())
    assert Bicycle(**WRITTEN, brakes=[DiscBrake()]).brakes == (DiscBrake(),)


def test_a_subclass_has_the_fields_of_its_base():
    tandem = read(Tandem, {**WRITTEN, "riders": 3})
    assert [name for name, _ in tandem][:2] == ["name", "wheels"]
    assert tandem.riders == 3
    assert defaults(Tandem)["riders"] == 2
    assert "name" not in defaults(Tandem)


def test_a_default_mapping_is_not_shared():
    first, second = read(Bicycle, WRITTEN), read(Bicycle, WRITTEN)
    first.gears[1] = 1.0
    assert second.gears == {}
    assert defaults(Bicycle)["gears"] == {}


# --- what is refused: the dotted key, the value, the rule ---


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ({"nam": "x"}, ("nam",), "unknown key 'nam'; nearest valid: name"),
        ({"wheels": [{"spoke": 1}]}, ("wheels", 0, "spoke"), "unknown key 'wheels.0.spoke'"),
        ({"wheels": [{}]}, ("wheels", 0, "spokes"), "the key 'wheels.0.spokes' is missing"),
        ({"wheels": []}, ("wheels",), "wheels = (): should be at least 1"),
        ({"wheels": 3}, ("wheels",), "wheels = 3: should be a list"),
        ({"wheels": [4]}, ("wheels", 0), "wheels.0 = 4: should be a mapping"),
        ({"wheels": [{"spokes": 0}]}, ("wheels", 0, "spokes"), "= 0: should be greater than 0"),
        ({"wheels": [{"spokes": 1.5}]}, ("wheels", 0, "spokes"), "should be a whole number"),
        ({"wheels": [{"spokes": True}]}, ("wheels", 0, "spokes"), "should be a whole number"),
        (
            {"wheels": [{"spokes": 1, "kind": "x"}]},
            ("wheels", 0, "kind"),
            "should be 'road' or 'track'",
        ),
        ({"gears": {"a": 1}}, ("gears", "a"), "gears.a = 'a': should be a whole number"),
        ({"gears": {1: -1}}, ("gears", 1), "gears.1 = -1.0: should be greater than 0"),
        ({"gears": [1]}, ("gears",), "should be a mapping"),
        ({"mass": "3 stone"}, ("mass",), "mass = '3 stone': '3 stone' is not a size"),
        ({"slope": 1.01}, ("slope",), "should be at most 1"),
        ({"slope": "steep"}, ("slope",), "should be a finite number"),
        ({"drag": float("nan")}, ("drag",), "should be a finite number"),
        ({"drag": 10**400}, ("drag",), "should be a finite number"),
        ({"drag": -0.1}, ("drag",), "should be at least 0"),
        ({"drag": True}, ("drag",), "should be a finite number"),
        ({"folds": 1}, ("folds",), "folds = 1: should be true or false"),
        ({"name": 7}, ("name",), "name = 7: should be text"),
        ({"brakes": [{}]}, ("brakes", 0, "kind"), "the key 'brakes.0.kind' is missing"),
        (
            {"brakes": [{"kind": "drum"}]},
            ("brakes", 0, "kind"),
            "brakes.0.kind = 'drum': should be 'rim' or 'disc'",
        ),
        (
            {"brakes": [{"kind": "disc", "pads": 0}]},
            ("brakes", 0, "pads"),
            "brakes.0.pads = 0: should be greater than 0",
        ),
        ({"name": None}, ("name",), "name = None: should be text"),
    ],
)
def test_a_wrong_field_is_placed_and_explained(change, place, message):
    with pytest.raises(FieldError) as error:
        read(Bicycle, WRITTEN | change)
    assert error.value.place == place
    assert message in str(error.value)


def test_python_gets_the_same_checks():
    with pytest.raises(FieldError, match="spokes = -1: should be greater than 0"):
        Wheel(spokes=-1)
    with pytest.raises(FieldError, match="the key 'spokes' is missing"):
        Wheel()
    with pytest.raises(FieldError, match="nearest valid: spokes"):
        Wheel(spoke=1)
    with pytest.raises(FieldError, match="should be greater than 0"):
        Wheel(spokes=1).model_copy(update={"spokes": 0})


def test_a_field_error_is_one_that_both_the_command_line_and_pydantic_catch():
    assert issubclass(FieldError, InputError)
    assert issubclass(FieldError, ValueError)


def test_something_else_than_a_mapping_is_refused():
    with pytest.raises(FieldError, match="should be a mapping"):
        read(Wheel, [1, 2], ("wheel",))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def attempt(content):
    """A bicycle, or why there is none."""
    try:
        return read(Bicycle, content)
    except FieldError as error:
        return error


@given(name=st.sampled_from([*defaults(Bicycle), "name", "wheels"]), value=anything)
@example(name="gears", value={"a\nb": 1})
def test_any_value_is_read_or_refused_in_one_line(name, value):
    made = attempt({**WRITTEN, name: value})
    if isinstance(made, FieldError):
        assert made.place[0] == name
        assert "\n" not in str(made)
    else:
        assert read(Bicycle, made.model_dump()) == made


# --- records are values ---


def test_a_record_is_frozen_equal_by_value_and_hashable():
    assert Wheel(spokes=32) == Wheel(spokes=32) != Wheel(spokes=31)
    assert len({Wheel(spokes=32), Wheel(spokes=32), Wheel(spokes=31)}) == 2
    assert Steel() != Carbon()
    with pytest.raises(AttributeError, match="frozen"):
        BICYCLE.name = "other"


def test_a_record_survives_pickling():
    assert pickle.loads(pickle.dumps(BICYCLE)) == BICYCLE


def test_a_dump_reads_back_and_leaves_out_what_it_is_told_to():
    assert read(Bicycle, BICYCLE.model_dump(mode="json", exclude={"frame"})) == BICYCLE
    assert BICYCLE.model_dump(exclude_defaults=True) == {
        "name": "b",
        "wheels": ({"spokes": 32}, {"spokes": 24, "kind": "track"}),
    }
    assert "slope" not in BICYCLE.model_dump(exclude_none=True)
    assert isinstance(BICYCLE.model_dump(mode="json")["wheels"], list)


def test_a_record_prints_as_it_is_written():
    assert repr(Wheel(spokes=32)) == "Wheel(spokes=32, kind='road')"


def test_every_engine_option_may_be_left_out():
    assert dict(EngineOptions()) == defaults(EngineOptions)
