"""The table of rooms in CONTRIBUTING.md is the tree: what it lists is there, all is listed."""

import re
from pathlib import Path

from tests.test_layers import LAYERS, ROOMS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
ROW = re.compile(r"^\| `(\w+)/?` \| ([a-z ]+) \| (.+?) \| (.*?) \|$", re.MULTILINE)


def listed():
    """Every room of the table with its layer and the modules and folders named in its row."""
    return {
        name: (layer, set(re.findall(r"`([\w.]+)/?`", modules)))
        for name, layer, _, modules in ROW.findall(PAGE)
    }


def there(name):
    """What stands in a room: its modules, and its folders with a slash left out."""
    folder = ROOT / "kvsim" / name
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in folder.glob("*/__init__.py")}


def test_the_table_has_every_room_in_its_order_and_layer():
    table = {name: layer for name, (layer, _) in listed().items()}
    assert list(table.items()) == [(room.name, room.layer) for room in ROOMS]
    assert set(table.values()) == set(LAYERS)


def test_every_module_is_listed_and_every_listed_module_exists():
    assert {name: modules for name, (_, modules) in listed().items()} == {
        room.name: there(room.name) for room in ROOMS
    }


def test_the_tests_mirror_the_rooms():
    """A room of many files has a folder of tests; what else has one is no room."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    rooms = {room.name for room in ROOMS if (ROOT / "kvsim" / room.name).is_dir()}
    assert rooms <= folders
    assert folders - rooms == {"app", "benchmarks", "browser", "docs", "engine_oracle", "soak"}
