"""A page's whole state, as a table of fields, in the URL.

::

    FIELDS = (Choice("model", "Model", "llama3.1-8b", options=model_names), ...)

    state = PageState("plan", FIELDS)      reads the URL, or what this visitor left here
    model = state.ask("model")             draws the widget, returns its value
    state.publish()                        writes every value that is not its default back

A value in a link may be anything: what a field does not accept is reported on the page and
replaced by the default. Nobody else's file, path or network name can be asked for by a link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import streamlit as st

from app.parts.words import nearest, plain

__all__ = ["Choice", "Count", "Field", "Flag", "PageState", "Pick", "Several", "Share", "Words"]

LONGEST_VALUE = 500


class BadValueError(ValueError):
    """A value in a link that its field does not accept; the message is for the reader."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One value of a page: its name in the URL, its words and its default."""

    key: str
    label: str
    default: Any = None
    help: str | None = None

    def parse(self, text: str) -> Any:
        """Read the value from a link.

        Raises
        ------
        BadValueError
            When it is not one.
        """
        raise NotImplementedError

    def write(self, value: Any) -> str:
        """Write the value into a link; `parse` reads it back."""
        return str(value)

    def widget(self, key: str, **settings: Any) -> Any:
        """Draw the widget whose value lives at ``st.session_state[key]``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Choice(Field):
    """One of some names.

    Parameters
    ----------
    options : callable
        Returns the names.
    spellings : callable, optional
        Returns other spellings, lower case, with the name that each means.
    show : callable
        Words for a name.
    empty : str or None
        Words for no choice at all; None: there must be one.
    """

    options: Callable[[], Sequence[str]]
    spellings: Callable[[], Mapping[str, str]] = dict
    show: Callable[[str], str] = str
    empty: str | None = None

    def parse(self, text: str) -> str:
        """Accept a name in any letter case, or another spelling of it."""
        return _known(text, self)

    def widget(self, key: str, **settings: Any) -> Any:
        """A select box: typing searches it."""
        options = settings.pop("options", None) or self.options()
        labels = dict(zip(options, settings.pop("labels", ()), strict=False))
        if self.empty is None and st.session_state[key] not in options:
            st.session_state[key] = self.default if self.default in options else options[0]
        return st.selectbox(
            self.label,
            options,
            index=None if self.empty else 0,
            key=key,
            help=self.help,
            format_func=lambda name: labels.get(name) or self.show(name),
            placeholder=settings.pop("placeholder", self.empty),
            **settings,
        )


@dataclass(frozen=True, kw_only=True)
class Pick(Choice):
    """One of a few names, all in sight."""

    def widget(self, key: str, **settings: Any) -> Any:
        """A row of buttons, of which one is down."""
        return st.segmented_control(
            self.label,
            self.options(),
            required=True,
            key=key,
            help=self.help,
            format_func=self.show,
            **settings,
        )


@dataclass(frozen=True, kw_only=True)
class Several(Field):
    """Some of some names, in the order in which they were chosen; see `Choice`."""

    options: Callable[[], Sequence[str]]
    spellings: Callable[[], Mapping[str, str]] = dict
    show: Callable[[str], str] = str
    most: int = 8
    default: tuple[str, ...] = ()

    def parse(self, text: str) -> list[str]:
        """Read names between commas."""
        names = [_known(part.strip(), self) for part in text.split(",") if part.strip()]
        if len(names) > self.most:
            raise BadValueError(
                f"{len(names)} values of {self.key}, and at most {self.most} are shown"
            )
        return list(dict.fromkeys(names))

    def write(self, value: Sequence[str]) -> str:
        """Join the names with commas."""
        return ",".join(value)

    def widget(self, key: str, **settings: Any) -> Any:
        """A multi-select box: typing searches it."""
        options = settings.pop("options", None) or self.options()
        chosen = [name for name in st.session_state[key] if name in options]
        if chosen != list(st.session_state[key]):
            st.session_state[key] = chosen
        return tuple(
            st.multiselect(
                self.label,
                options,
                key=key,
                help=self.help,
                format_func=self.show,
                max_selections=self.most,
                select_all=False,
                **settings,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Count(Field):
    """A whole number, or None where the default is None (an engine's own default)."""

    least: int = 1
    most: int = 10**12
    step: int = 1
    slider: bool = False
    placeholder: str = "engine's default"

    def parse(self, text: str) -> int:
        """Read a whole number within the limits."""
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise BadValueError(f"{text[:30]!r} is not a whole number")
        if not self.least <= int(text) <= self.most:
            raise BadValueError(f"{text} is not from {self.least:,} to {self.most:,}")
        return int(text)

    def widget(self, key: str, **settings: Any) -> Any:
        """A slider, or a number box."""
        limits = {
            "min_value": settings.pop("least", self.least),
            "max_value": settings.pop("most", self.most),
        }
        placeholder = settings.pop("placeholder", self.placeholder)
        words = {"key": key, "help": self.help, **settings}
        if self.slider:
            st.session_state[key] = min(limits["max_value"], st.session_state[key])
            return st.slider(self.label, **limits, step=self.step, format="localized", **words)
        empty = {"value": None, "placeholder": placeholder} if self.default is None else {}
        return st.number_input(self.label, **limits, step=self.step, **empty, **words)


@dataclass(frozen=True, kw_only=True)
class Share(Field):
    """A number within limits, or None where the default is None."""

    least: float = 0.0
    most: float = 1.0
    step: float = 0.01

    def parse(self, text: str) -> float:
        """Read a finite number within the limits."""
        try:
            value = float(text)
        except ValueError:
            raise BadValueError(f"{text[:30]!r} is not a number") from None
        if not self.least <= value <= self.most:  # also refuses nan
            raise BadValueError(f"{text[:30]} is not from {self.least:g} to {self.most:g}")
        return value

    def widget(self, key: str, **settings: Any) -> Any:
        """A number box."""
        placeholder = settings.pop("placeholder", "engine's default")
        empty = {"value": None, "placeholder": placeholder} if self.default is None else {}
        return st.number_input(
            self.label,
            min_value=self.least,
            max_value=self.most,
            step=self.step,
            format="%g",
            key=key,
            help=self.help,
            **empty,
            **settings,
        )


@dataclass(frozen=True, kw_only=True)
class Flag(Field):
    """On or off."""

    default: bool = False

    def parse(self, text: str) -> bool:
        """Read 1 or 0."""
        if text not in ("0", "1"):
            raise BadValueError(f"{text[:30]!r} is neither 1 nor 0")
        return text == "1"

    def write(self, value: bool) -> str:
        """1 or 0."""
        return str(int(value))

    def widget(self, key: str, **settings: Any) -> Any:
        """A toggle."""
        return st.toggle(self.label, key=key, help=self.help, **settings)


@dataclass(frozen=True, kw_only=True)
class Words(Field):
    """A line of text; whoever reads it must check it."""

    default: str = ""
    longest: int = 200

    def parse(self, text: str) -> str:
        """Accept what is short enough."""
        if len(text) > self.longest:
            raise BadValueError(f"{len(text)} characters, and {self.longest} are accepted")
        return text

    def widget(self, key: str, **settings: Any) -> Any:
        """A text box."""
        return st.text_input(
            self.label, max_chars=self.longest, key=key, help=self.help, **settings
        )


def _known(text: str, choice: Choice | Several) -> str:
    """The option that a text means."""
    options = choice.options()
    means = {name.lower(): name for name in options} | dict(choice.spellings())
    name = means.get(text.lower())
    if name in options:
        return str(name)
    close = nearest(text, list(means))
    hint = f"; did you mean {', '.join(means[name] for name in close)}?" if close else ""
    raise BadValueError(f"unknown {choice.key} {text[:60]!r}{hint}")


@dataclass
class PageState:
    """The values of one page for one visitor.

    Parameters
    ----------
    page : str
        The page's name.
    fields : sequence of Field
        Its table; keys are unique.
    """

    SHOWN: ClassVar[str] = "page shown"

    page: str
    fields: Sequence[Field]
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_key = {each.key: each for each in self.fields}
        self._asked: dict[str, Any] = {}
        self._seed()
        for problem in self.problems:
            st.warning(plain(f"This link is not quite right: {problem}"))

    def ask(self, key: str, **settings: Any) -> Any:
        """Draw the widget of a field where the script stands, and return its value."""
        here, each = self._key(key), self._by_key[key]
        if here not in st.session_state:
            st.session_state[here] = self._saved.get(key, each.default)
        self._asked[key] = each.widget(here, **settings)
        return self._asked[key]

    def keep(self, key: str) -> Any:
        """Return the value of a field whose widget is folded away, and leave it in the link."""
        each = self._by_key[key]
        value = st.session_state.get(self._key(key), self._saved.get(key, each.default))
        self._asked[key] = _as_tuple(value)
        return self._asked[key]

    def set(self, key: str, value: Any) -> None:
        """Give a field another value; only from a callback, before the script runs."""
        st.session_state[self._key(key)] = value

    def publish(self) -> None:
        """Write the values into the URL, and remember them for when the visitor returns."""
        st.session_state[self._key("saved")] = {**self._saved, **self._asked}
        link = {
            key: self._by_key[key].write(value)
            for key, value in self._asked.items()
            if value is not None and value != self._by_key[key].default
        }
        if st.query_params.to_dict() != link:
            st.query_params.from_dict(link)
        st.session_state[self._key("link")] = link

    # ---- reading ----------------------------------------------------------------------------

    @property
    def _saved(self) -> dict[str, Any]:
        saved: dict[str, Any] = st.session_state.get(self._key("saved"), {})
        return saved

    def _key(self, key: str) -> str:
        return f"{self.page}:{key}"

    def _seed(self) -> None:
        """Fill the widgets from the URL when the visitor arrives, or goes back to an old link.

        Between the two the URL is this page's own writing, and it may be one click late: a
        widget that has just been moved counts for more.
        """
        link = st.query_params.to_dict()
        arrived = st.session_state.get(self.SHOWN) != self.page
        st.session_state[self.SHOWN] = self.page
        if arrived and not link:
            self._fill(self._saved)
        elif arrived or (link != st.session_state.get(self._key("link")) and not self._moved()):
            self._fill(self._read(link))

    def _moved(self) -> bool:
        """Whether a widget differs from what was last published."""
        session, saved = st.session_state, self._saved
        return any(
            self._key(key) in session and _as_tuple(session[self._key(key)]) != _as_tuple(value)
            for key, value in saved.items()
        )

    def _fill(self, values: Mapping[str, Any]) -> None:
        for key, each in self._by_key.items():
            st.session_state[self._key(key)] = values.get(key, each.default)
        st.session_state[self._key("saved")] = dict(values)

    def _read(self, link: Mapping[str, str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, text in link.items():
            if key not in self._by_key:
                close = nearest(key, list(self._by_key))
                hint = f"; did you mean {', '.join(close)}?" if close else ""
                self.problems.append(f"this page has no setting {key[:60]!r}{hint}")
                continue
            try:
                values[key] = self._by_key[key].parse(text[:LONGEST_VALUE])
            except BadValueError as error:
                self.problems.append(f"{key}: {error}")
        return values


def _as_tuple(value: Any) -> Any:
    """Several names in one form: a widget may give a list."""
    return tuple(value) if isinstance(value, list) else value
