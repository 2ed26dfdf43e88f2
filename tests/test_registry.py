"""Names to policies: what is found, what is added, and what is said of what cannot be."""

import sys
from abc import ABC, abstractmethod

import pytest

from kvsim.errors import InputError, UnknownNameError
from kvsim.registry import Policies, PolicyName, Registry

FRUIT = Registry("fruit", {"pear": 1, "apple": 2})


def test_members_are_found_by_name_in_the_order_given():
    assert [FRUIT.find(name) for name in FRUIT] == [1, 2]


def test_an_unknown_name_says_the_family_and_the_nearest_member():
    with pytest.raises(UnknownNameError, match="unknown fruit 'paer'; did you mean pear"):
        FRUIT.find("paer")


def test_an_empty_registry_still_says_what_was_looked_for():
    with pytest.raises(UnknownNameError, match="unknown fruit 'pear'"):
        Registry("fruit", {}).find("pear")


# --- policies that are added ------------------------------------------------------------------


class Tree(ABC):
    sheds = False

    @abstractmethod
    def grow(self): ...

    @property
    @abstractmethod
    def height(self): ...

    @abstractmethod
    def __len__(self): ...


class Oak(Tree):
    height = 20

    def __init__(self, soil, *, acorns=3):
        self.soil, self.acorns = soil, acorns

    def grow(self):
        return "slowly"

    def __len__(self):
        return 1


class Birch(Oak):
    def __init__(self, soil, light, bark="white"):
        super().__init__(soil)
        self.light, self.bark = light, bark


@pytest.fixture
def trees():
    return Policies("tree", "tests.trees", Tree, {"oak": Oak}, arguments=1)


def test_what_is_added_is_found_and_listed(trees):
    trees.add("birch", Birch)
    assert trees.find("birch") is Birch
    assert trees.names() == ["oak", "birch"]


def test_whatever_answers_all_that_is_asked_will_do(trees):
    """It need not be derived from the interface."""
    answers = {"grow": min, "height": 1, "__len__": len, "sheds": True}
    alien = type("Alien", (), answers)
    trees.add("alien", alien)
    assert trees.find("alien") is alien


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Tree, "it lacks __len__, grow and height; derive it from tests.test_registry.Tree"),
        (type("Bush", (Tree,), {"grow": min}), "it lacks __len__ and height"),
        (dict, "it lacks grow, height and sheds"),
        (len, "it is no class"),
        (Oak("clay"), "it is no class"),
        (
            type("Elm", (Oak,), {"__init__": lambda self, soil, name: None}),
            "a parameter 'name' would hide the policy's own",
        ),
    ],
)
def test_what_lacks_something_is_refused_with_what_it_lacks(trees, policy, said):
    with pytest.raises(InputError, match="cannot be the tree 'new': ") as refused:
        trees.add("new", policy)
    assert said in str(refused.value)
    assert "new" not in trees


def test_what_makes_a_policy_is_asked_for_too():
    made = Policies("tree", "tests.trees", Tree, {}, made_by="from_seed")
    with pytest.raises(InputError, match="it lacks from_seed"):
        made.add("oak", Oak)


def test_a_name_that_is_taken_is_refused_with_its_owner(trees):
    with pytest.raises(InputError, match=r"'oak' is taken, by tests.test_registry:Oak; choose"):
        trees.add("oak", Birch)
    assert trees.find("oak") is Oak


def test_the_same_class_defined_again_takes_its_own_place(trees):
    """As when a notebook's cell is run twice."""
    versions = [type("Elm", (Oak,), {"height": height}) for height in (1, 2)]
    for version in versions:
        trees.add("elm", version)
    assert trees.find("elm").height == 2


@pytest.mark.parametrize("name", ["", "3", "two words", "a,b", "{a}", "a: b", "-x", None, 3])
def test_a_name_that_no_scenario_could_hold_is_refused(trees, name):
    with pytest.raises(InputError, match="cannot be the name of a policy"):
        trees.add(name, Birch)


# --- parameters -------------------------------------------------------------------------------


def test_parameters_are_those_that_the_simulator_does_not_give(trees):
    trees.add("birch", Birch)
    assert trees.parameters("oak") == {"acorns": False}
    assert trees.parameters("birch") == {"light": True, "bark": False}


def test_a_constructor_in_c_has_no_parameters():
    assert Policies("list", "tests.lists", object, {"list": list}).parameters("list") == {}


def test_a_name_gives_its_parameters_to_what_is_made(trees):
    asked = trees.find(PolicyName("oak", {"acorns": 7}))
    made = asked("clay")
    assert isinstance(made, Oak)
    assert (made.soil, made.acorns, asked.height) == ("clay", 7, 20)
    assert trees.find("oak")("clay").acorns == 3


# --- entry points -----------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that installs a distribution with entry points in ``tests.trees``."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, offers, module):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = (f"{offer} = {name}:{attribute}\n" for offer, attribute in offers.items())
        (info / "entry_points.txt").write_text("[tests.trees]\n" + "".join(lines))
        (tmp_path / f"{name}.py").write_text(module)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install


ELM = "from tests.test_registry import Oak\nclass Elm(Oak):\n    height = 9\n"


def test_a_distribution_offers_a_policy(trees, installed):
    installed("grove", {"elm": "Elm"}, ELM)
    assert trees.names() == ["oak", "elm"]
    assert "grove" not in sys.modules, "names are listed without importing anything"
    assert trees.find("elm").height == 9
    assert trees.find("elm") is trees.find("elm")
    assert trees.names() == ["oak", "elm"]


def test_a_built_in_name_is_never_looked_for_elsewhere(trees, installed, monkeypatch):
    installed("grove", {"oak": "Elm"}, ELM)
    assert trees.names() == ["oak"]
    monkeypatch.setattr("kvsim.registry.entry_points", None)
    assert trees.find("oak") is Oak


def test_a_near_name_may_be_one_that_a_distribution_offers(trees, installed):
    installed("grove", {"willow": "Elm"}, ELM)
    with pytest.raises(UnknownNameError, match="unknown tree 'wilow'; did you mean willow"):
        trees.find("wilow")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import nonsense_that_is_not", "cannot be loaded: ModuleNotFoundError: No module named "),
        ("Oak = 3", "cannot be loaded: AttributeError: module 'grove' has no attribute 'Elm'"),
        ("def", "cannot be loaded: SyntaxError: invalid syntax"),
        ("raise SystemExit('bye')", "cannot be loaded: SystemExit: bye; mend grove:Elm"),
        (
            "raise ValueError('two\\nlines')",
            "cannot be loaded: ValueError: two lines; mend grove:Elm",
        ),
        ("class Elm: pass", "cannot be used: it lacks __len__, grow, height and sheds; derive"),
    ],
)
def test_a_broken_offer_is_one_line_and_only_when_it_is_asked_for(trees, installed, module, said):
    installed("grove", {"elm": "Elm"}, module)
    assert trees.find("oak") is Oak
    assert trees.names() == ["oak", "elm"]
    with pytest.raises(InputError) as refused:
        trees.find("elm")
    assert str(refused.value).startswith(f"the tree 'elm' of grove 1.0 {said}")
    assert "\n" not in str(refused.value)


def test_a_name_that_two_distributions_offer_is_refused(trees, installed):
    installed("grove", {"elm": "Elm"}, ELM)
    installed("copse", {"elm": "Elm"}, ELM)
    with pytest.raises(InputError, match=r"of (grove|copse) 1.0 and \w+ 1.0 is offered twice"):
        trees.find("elm")


def test_a_name_that_a_distribution_offers_is_taken(trees, installed):
    installed("grove", {"elm": "Elm"}, ELM)
    with pytest.raises(InputError, match=r"the tree 'elm' is taken, by grove 1.0"):
        trees.add("elm", Birch)


def test_a_module_may_register_what_it_also_offers(trees, installed):
    installed("grove", {"elm": "Elm"}, ELM)
    from grove import Elm

    trees.add("elm", Elm)
    assert trees.find("elm") is Elm


def test_a_package_may_register_inside_what_it_hands_on(trees, installed, tmp_path, monkeypatch):
    # The class lies in grove.elms, and the entry point names grove, which imports it from there.
    installed("grove", {"elm": "Elm"}, "")
    (tmp_path / "grove.py").unlink()
    (tmp_path / "grove").mkdir()
    (tmp_path / "grove" / "__init__.py").write_text("from grove.elms import Elm\n")
    (tmp_path / "grove" / "elms.py").write_text(f"{ELM}TREES.add('elm', Elm)\n")
    monkeypatch.delitem(sys.modules, "grove.elms", raising=False)
    monkeypatch.setattr("builtins.TREES", trees, raising=False)

    assert trees.find("elm").height == 9
