"""What an hour of each card costs: the prices of whoever asks, over those of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError
from kvsim.specs.hardware import Price
from kvsim.specs.yaml_files import read_yaml

__all__ = ["prices_by_name", "prices_of", "read_prices"]


def prices_of(stated: Iterable[str]) -> dict[str, Price]:
    """Read prices as a command line states them, the last word winning.

    Parameters
    ----------
    stated : iterable of str
        ``CARD=PRICE``, ``CARD=LOW-HIGH``, or the name of a YAML file of such keys and values.

    Returns
    -------
    dict of str to Price
        By accelerator's name.

    Raises
    ------
    InputError
        For an unknown card, and what is no price.

    Examples
    --------
    >>> prices_of(["h100=2.49"])["H100-SXM5-80GB"].low
    2.49
    """
    found: dict[str, Price] = {}
    for text in stated:
        card, equals, price = text.partition("=")
        if equals:
            name = _card(card.strip(), f"--price {text}")
            found[name] = _price(price.strip(), f"--price {text}")
        else:
            found |= read_prices(Path(text))
    return found


def prices_by_name(prices: Mapping[str, Price | float | None]) -> dict[str, Price | None]:
    """Return prices by accelerator's name, of any name it has; a number is the price itself.

    Raises
    ------
    InputError
        For an unknown card, and what is no price.

    Examples
    --------
    >>> prices_by_name({"h100": 2.49})["H100-SXM5-80GB"].low
    2.49
    """
    return {
        _card(name, f"prices[{name!r}]"): price
        if price is None or isinstance(price, Price)
        else _price(price, f"prices[{name!r}]")
        for name, price in prices.items()
    }


def read_prices(path: Path) -> dict[str, Price]:
    """Read a YAML file of prices by card: a number, a text such as 2-3, or [low, high].

    Raises
    ------
    InputError
        For a file that cannot be read, an unknown card, and what is no price.
    """
    if not path.is_file():
        raise InputError(
            f"{str(path)!r} is neither CARD=PRICE nor a file", where="--price", fix="as h100=2.49"
        )
    content: Any = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        raise InputError("it holds no prices by card", where=str(path), fix="write h100: 2.49")
    return {
        _card(str(card), f"{path}, {card}"): _price(price, f"{path}, {card}")
        for card, price in content.items()
    }


def _card(name: str, where: str) -> str:
    try:
        return find_accelerator(name).name
    except InputError as error:
        raise InputError(error.what, where=where, fix=error.fix) from None


def _price(value: Any, where: str) -> Price:
    """A price an hour, or a range of prices."""
    numbers: list[float] = []
    for parts in (value if isinstance(value, list) else [value], str(value).split("-")):
        with suppress(TypeError, ValueError):
            numbers = numbers or [float(part) for part in parts]
    if len(numbers) not in (1, 2) or not all(0 < number < 1e9 for number in numbers):
        raise InputError(
            f"{value!r} is no price of a device and hour",
            where=where,
            fix="write a number above 0, as 2.49, or a range, as 2.2-3",
        )
    low, high = numbers[0], numbers[-1]
    if low > high:
        raise InputError(f"the range {value!r} falls", where=where, fix=f"write {high:g}-{low:g}")
    return Price(low=low, high=high)
