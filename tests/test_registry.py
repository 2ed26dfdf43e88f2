"""Names to policies: what is found, and what is said of a name that is not there."""

import pytest

from kvsim.errors import UnknownNameError
from kvsim.registry import Registry

FRUIT = Registry("fruit", {"pear": 1, "apple": 2})


def test_members_are_found_by_name_in_the_order_given():
    assert [FRUIT.find(name) for name in FRUIT] == [1, 2]


def test_an_unknown_name_says_the_family_and_the_nearest_member():
    with pytest.raises(UnknownNameError, match="unknown fruit 'paer'; did you mean pear"):
        FRUIT.find("paer")


def test_an_empty_registry_still_says_what_was_looked_for():
    with pytest.raises(UnknownNameError, match="unknown fruit 'pear'"):
        Registry("fruit", {}).find("pear")
