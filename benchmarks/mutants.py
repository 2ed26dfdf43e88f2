"""Small faults to plant in a module's source: what `mutation` asks the tests to notice.

One fault at one place, found in the module's tree and written into its text, so that the rest of
the file keeps its lines::

    if blocks < free:     comparison   if blocks <= free:
    rank + 1              constant     rank + 2
    members[0]            index        members[1]
    min(span, length)     extremum     max(span, length)
    a and b               connective   a or b
    layers * key          term         layers
    ceil_div(length, 16)  rounding     length // 16
    self.held -= freed    statement    pass
    if blocks:            branch       if not (blocks):

No faults are planted in what no test could or should notice: docstrings, annotations, decorators,
f-strings, ``raise`` and calls of an error, ``assert``, ``TYPE_CHECKING``, ``__all__``.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass, replace
from itertools import zip_longest
from types import CodeType

__all__ = ["OPERATORS", "Mutant", "changes_code", "mutants"]

OPERATORS = (
    "comparison",
    "constant",
    "index",
    "extremum",
    "connective",
    "term",
    "rounding",
    "statement",
    "branch",
)
_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_SWAPPED = {"min": "max", "minimum": "maximum", "ceil": "floor"}
_SWAPPED |= {there: here for here, there in _SWAPPED.items()}
_OF_TWO_TERMS = (ast.Add, ast.Mult)
_OF_ONE_TERM = (ast.Sub, ast.Div, ast.FloorDiv)


@dataclass(frozen=True)
class Mutant:
    """One fault: in `path`, the characters from `start` to `stop` become `text`.

    Parameters
    ----------
    path : str
        The module, from the root of the tree.
    operator : str
        One of `OPERATORS`.
    line : int
        Where, counted from 1.
    start, stop : int
        Offsets into the source.
    text : str
        What stands there instead.
    """

    path: str
    operator: str
    line: int
    start: int
    stop: int
    text: str

    def applied(self, source: str) -> str:
        """The module's source with the fault in it."""
        return source[: self.start] + self.text + source[self.stop :]

    def difference(self, source: str) -> tuple[str, str]:
        """The first line that differs, before and after."""
        before, after = source.splitlines(), self.applied(source).splitlines()
        pairs = zip_longest(before, after, fillvalue="")
        old, new = next(pair for pair in pairs if pair[0] != pair[1])
        return old.strip(), new.strip()


def mutants(path: str, source: str) -> list[Mutant]:
    """All faults that can be planted in a module, in the order of its lines."""
    found = _Finder(path, source)
    found.visit(ast.parse(source))
    return sorted(found.mutants, key=lambda each: (each.start, each.stop, each.text))


def changes_code(before: str, after: str) -> bool:
    """Whether two sources compile to different code; line numbers do not count."""
    return _essence(compile(before, "", "exec")) != _essence(compile(after, "", "exec"))


def _essence(code: CodeType) -> tuple[object, ...]:
    constants = tuple(
        _essence(each) if isinstance(each, CodeType) else (type(each), repr(each))
        for each in code.co_consts
    )
    return (code.co_code, code.co_names, code.co_varnames, code.co_exceptiontable, constants)


class _Finder(ast.NodeVisitor):
    """Walks a module and notes every fault that can be planted."""

    def __init__(self, path: str, source: str) -> None:
        self.mutants: list[Mutant] = []
        self._path = path
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    # Where no fault is planted ------------------------------------------------------------

    def visit_Raise(self, node: ast.Raise) -> None:
        """An error's text is for people."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """What an assertion says is true of every run, or for the type checker."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Formats are for people."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Of a declaration only the value counts."""
        if node.value is not None:
            self._forget(node, node.target)
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visit defaults and body: not the annotations, not the decorators."""
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._visit_all(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Visit the body."""
        self._visit_all(node.body)

    # Where one is -------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> None:
        """Assignments to an attribute or an item can be forgotten; `__all__` and types are none."""
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if names & {"__all__", "__slots__"} or _is_type(node):
            return
        self._forget(node, node.targets[0])
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """An update can be forgotten."""
        self._note("statement", node, "pass")
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call can be forgotten; a docstring is none."""
        if isinstance(node.value, ast.Call):
            self._note("statement", node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """A jump can be forgotten."""
        self._note("statement", node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        """So can the end of a loop."""
        self._note("statement", node, "pass")

    def visit_Delete(self, node: ast.Delete) -> None:
        """So can a removal."""
        self._note("statement", node, "pass")

    def visit_If(self, node: ast.If) -> None:
        """A branch can be negated; an early exit or a check can be forgotten."""
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self._negate(node.test)
        if isinstance(node.body[-1], ast.Return | ast.Raise) and not node.orelse:
            self._note("statement", node, "pass")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """A choice can be negated."""
        self._negate(node.test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """A comparison can be off by its edge, or be the other one."""
        for place, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[place] = _FLIPPED[type(operator)]()
            self._note("comparison", node, ast.unparse(changed))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """All can be any."""
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._note("connective", node, ast.unparse(changed))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A number can be off by one."""
        if type(node.value) in (int, float):
            self._note("constant", node, repr(node.value + 1))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """So can an index."""
        self.visit(node.value)
        before = len(self.mutants)
        self.visit(node.slice)
        for place in range(before, len(self.mutants)):
            if self.mutants[place].operator == "constant":
                self.mutants[place] = replace(self.mutants[place], operator="index")

    def visit_Call(self, node: ast.Call) -> None:
        """The least can be the most, and up can be down."""
        name = _called(node)
        if name.endswith(("Error", "Warning")):
            return
        if name in _SWAPPED:
            operator = "rounding" if name in ("ceil", "floor") else "extremum"
            changed = copy.deepcopy(node.func)
            _rename(changed, _SWAPPED[name])
            self._note(operator, node.func, ast.unparse(changed))
        if name == "ceil_div":
            above, below = (ast.unparse(each) for each in node.args)
            self._note("rounding", node, f"(({above}) // ({below}))")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """A term of a sum or of a product can be forgotten."""
        if isinstance(node.op, _OF_TWO_TERMS):
            self._note("term", node, f"({ast.unparse(node.right)})")
        if isinstance(node.op, _OF_TWO_TERMS + _OF_ONE_TERM):
            self._note("term", node, f"({ast.unparse(node.left)})")
        self.generic_visit(node)

    def _visit_all(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self.visit(node)

    def _forget(self, node: ast.stmt, target: ast.expr) -> None:
        """Leave an assignment out, not of a local name: Python itself would notice that."""
        if isinstance(target, ast.Attribute | ast.Subscript):
            self._note("statement", node, "pass")

    def _negate(self, test: ast.expr) -> None:
        self._note("branch", test, f"not ({ast.unparse(test)})")

    def _note(self, operator: str, node: ast.expr | ast.stmt, text: str) -> None:
        start = self._offset(node.lineno, node.col_offset)
        stop = self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)
        if self._source.startswith("elif ", start):
            text = "elif False: pass"
        self.mutants.append(Mutant(self._path, operator, node.lineno, start, stop, text))

    def _offset(self, line: int, column: int) -> int:
        """Characters before a place; the tree counts columns in bytes."""
        before = self._lines[line - 1].encode()[:column].decode() if column else ""
        return self._starts[line - 1] + len(before)


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _rename(function: ast.expr, name: str) -> None:
    if isinstance(function, ast.Attribute):
        function.attr = name
    elif isinstance(function, ast.Name):
        function.id = name


def _is_type(node: ast.Assign) -> bool:
    """Whether an assignment names a type: a subscript of a type, or a union of such."""
    words = ("Annotated[", "Literal[", "Callable[", "tuple[", "dict[", "list[", "NewType(")
    return ast.unparse(node.value).startswith(words)
