"""Names to policies: one table a family, and one answer to a name that is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from kvsim.errors import UnknownNameError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(dict[str, T]):
    """The policies of one family by the names that scenarios give them.

    Parameters
    ----------
    family : str
        What its members are, in a message's words: "scheduler".
    members : mapping of str to T
        The members, in the order in which they are listed.

    Examples
    --------
    >>> Registry("fruit", {"pear": 1}).find("pear")
    1
    """

    def __init__(self, family: str, members: Mapping[str, T]) -> None:
        super().__init__(members)
        self.family = family

    def find(self, name: str) -> T:
        """Find a member by name.

        Raises
        ------
        UnknownNameError
            When no member has that name.
        """
        if name not in self:
            raise UnknownNameError(self.family, name, self)
        return self[name]
