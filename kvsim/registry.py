"""Names to policies: one table a family, and one answer to a name that is not in it.

A policy is built in, registered by a program, or offered by an installed distribution, and is
looked for in that order::

    built in ──▶ register(...) ──▶ entry point "my-lru" of the group "kvsim.evictions"
    the table     the table         read when a name is in no table, or names are listed
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import partialmethod
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from kvsim.errors import InputError, UnknownNameError

__all__ = ["Policies", "PolicyName", "Registry"]

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z][\w.-]*")


class Registry(dict[str, T]):
    """The members of one family by their names.

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
            raise UnknownNameError(self.family, name, self.names())
        return self[name]

    def names(self) -> list[str]:
        """Names of all members, in the order in which they are listed."""
        return list(self)


class PolicyName(str):
    """A policy's name, with the parameters that somebody gave it.

    It reads as the name, and equals the plain name when it has no parameters.

    Parameters
    ----------
    name : str
        The name.
    parameters : mapping, optional
        The policy's own parameters.

    Examples
    --------
    >>> chosen = PolicyName("my-lru", {"k": 2})
    >>> f"{chosen}", chosen.parameters, chosen == "my-lru", PolicyName("lru") == "lru"
    ('my-lru', {'k': 2}, False, True)
    """

    parameters: dict[str, Any]

    def __new__(cls, name: str, parameters: Mapping[str, Any] | None = None) -> PolicyName:
        """Make the name; text alone has no place for parameters."""
        made = super().__new__(cls, name)
        made.parameters = dict(parameters or {})
        return made

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, str) and str.__eq__(self, other)
        return same and self.parameters == getattr(other, "parameters", {})

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Policies(Registry[type[T]]):
    """The policies of one family: classes, to which others can add theirs.

    Parameters
    ----------
    family : str
        What its members are, in a message's words: "eviction policy".
    group : str
        Group of the entry points that offer more: "kvsim.evictions".
    interface : type
        What answers all that a policy must answer.
    members : mapping of str to class
        The built-in ones.
    made_by : str
        What makes one: its constructor, or a class method.
    arguments : int
        How many arguments kvsim hands to it; all others are the policy's own parameters.
    """

    def __init__(
        self,
        family: str,
        group: str,
        interface: type,
        members: Mapping[str, type[T]],
        *,
        made_by: str = "__init__",
        arguments: int = 0,
    ) -> None:
        super().__init__(family, members)
        self.group = group
        self.interface = interface
        self.made_by = made_by
        self.arguments = arguments

    def find(self, name: str) -> type[T]:
        """Find a policy; parameters that the name carries are given to whoever is made of it.

        Raises
        ------
        InputError
            When no policy has that name, or the one that has it cannot be loaded.
        """
        policy = self._policy(str(name))
        parameters = getattr(name, "parameters", None)
        return self._bound(policy, parameters) if parameters else policy

    def names(self) -> list[str]:
        """Names of all policies: built in, registered, and offered by distributions."""
        return list(dict.fromkeys([*self, *sorted(entry.name for entry in self._entries())]))

    def parameters(self, name: str) -> dict[str, bool]:
        """Parameters of a policy's own, and whether each must be given; raises as `find`."""
        return self._own_parameters(self._policy(str(name)))

    def add(self, name: str, policy: type[T]) -> None:
        """Add a policy.

        Raises
        ------
        InputError
            For a name that is taken or cannot be written in a scenario, and for what does not
            answer all that a policy must.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r:.60} cannot be the name of a policy",
                fix="start with a letter, then take letters, digits, '-', '_' and '.'",
            )
        problem = self._problem(policy)
        if problem:
            raise InputError(f"{policy!r:.80} cannot be the {self.family} {name!r}: {problem}")
        owner = self._owner(name, policy)
        if owner:
            raise InputError(
                f"the {self.family} {name!r} is taken, by {owner}", fix="choose another name"
            )
        self[name] = policy

    def _policy(self, name: str) -> type[T]:
        if name not in self:
            self[name] = self._loaded(name)
        return self[name]

    # ---- entry points -------------------------------------------------------------------

    def _entries(self) -> Iterable[EntryPoint]:
        return entry_points(group=self.group)

    def _loaded(self, name: str) -> type[T]:
        """Load the policy that an installed distribution offers under a name."""
        entries = [entry for entry in self._entries() if entry.name == name]
        if not entries:
            raise UnknownNameError(self.family, name, self.names())
        offered = f"the {self.family} {name!r} of {_and(map(_distribution, entries))}"
        if len(entries) > 1:
            raise InputError(f"{offered} is offered twice", fix="uninstall one of them")
        try:
            policy: type[T] = entries[0].load()
        except (Exception, SystemExit) as error:  # whatever a module raises as it is imported
            said = " ".join(str(error).split())
            raise InputError(
                f"{offered} cannot be loaded: {type(error).__name__}: {said}",
                fix=f"mend {entries[0].value}",
            ) from error
        problem = self._problem(policy)
        if problem:
            raise InputError(f"{offered} cannot be used: {problem}")
        return policy

    def _owner(self, name: str, policy: type[T]) -> str:
        """Who has the name already; "" when nobody, or a former version of the same class."""
        if name in self:
            return "" if _home(self[name]) == _home(policy) else _home(self[name])
        others = [entry for entry in self._entries() if entry.name == name]
        mine = _package(_home(policy))
        return _and(_distribution(entry) for entry in others if _package(entry.value) != mine)

    # ---- what a policy must be ----------------------------------------------------------

    def _problem(self, policy: object) -> str:
        """What keeps something from being a policy of this family, or ""."""
        home = f"{self.interface.__module__}.{self.interface.__qualname__}"
        if not isinstance(policy, type):
            return f"it is no class; derive one from {home}"
        abstract = set(getattr(policy, "__abstractmethods__", ()))
        lacks = sorted({word for word in self._asked() if not hasattr(policy, word)} | abstract)
        if lacks:
            return f"it lacks {_and(lacks)}; derive it from {home}"
        if "name" in self._own_parameters(policy):
            return "a parameter 'name' would hide the policy's own; call it something else"
        return ""

    def _asked(self) -> set[str]:
        """What a policy must answer: all that is public in the interface, or abstract."""
        bases = self.interface.__mro__[:-1]
        public = {word for base in bases for word in vars(base) if not word.startswith("_")}
        return {*public, *getattr(self.interface, "__abstractmethods__", ()), self.made_by}

    def _own_parameters(self, policy: type) -> dict[str, bool]:
        made_by = policy if self.made_by == "__init__" else getattr(policy, self.made_by, None)
        try:
            given = inspect.signature(made_by).parameters.values() if made_by else ()
        except ValueError:  # made in C
            return {}
        plain = [each for each in given if each.kind == each.POSITIONAL_OR_KEYWORD]
        own = [
            *plain[self.arguments :],
            *(each for each in given if each.kind == each.KEYWORD_ONLY),
        ]
        return {each.name: each.default is each.empty for each in own}

    def _bound(self, policy: type[T], parameters: Mapping[str, Any]) -> type[T]:
        """Return the class with its parameters given: what makes it needs them no more."""
        made_by = partialmethod(inspect.getattr_static(policy, self.made_by), **parameters)
        bound: type[T] = type(policy.__name__, (policy,), {self.made_by: made_by})
        return bound


def _home(policy: type) -> str:
    """Where a class is defined, as entry points write it."""
    return f"{policy.__module__}:{policy.__qualname__}"


def _package(home: str) -> str:
    """The outermost package: one may offer a class where it lies, or where it hands it on."""
    return re.split(r"[.:\s]", home, maxsplit=1)[0]


def _distribution(entry: EntryPoint) -> str:
    """Name of the distribution that an entry point belongs to."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "no known distribution"


def _and(words: Iterable[str]) -> str:
    *most, last = [*words] or [""]
    return f"{', '.join(most)} and {last}" if most else last
