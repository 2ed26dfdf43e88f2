"""Outside specs/attention and the readers, no module asks which kind of attention it has."""

import ast
from pathlib import Path

import pytest

from kvsim.specs import attention

ROOT = Path(__file__).resolve().parents[2]
KINDS = [
    each
    for each in vars(attention).values()
    if isinstance(each, type) and issubclass(each, attention.Attention)
]
CLASSES = {kind.__name__ for kind in KINDS}
# "parameters" is the word of a policy's own, too (kvsim/registry.py).
FIELDS = {name for kind in KINDS for name in kind.__annotations__} - {"kind", "parameters"}
WORDS = {kind.kind for kind in KINDS if "kind" in vars(kind)}
# Where a word or a type may be compared, and why.
ALLOWED = {
    "kvsim/calibrate/twin/blueprint.py": 1,  # the twin is one kind in torch, and refuses others
}


def names_in(node):
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} | {
        part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)
    }


def strings_in(node):
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}


def is_kind_word(node):
    """Whether it is ``x.kind`` of an attention: vLLM's page specs have kinds of their own."""
    is_kind = isinstance(node, ast.Attribute) and node.attr == "kind"
    return is_kind and not ast.unparse(node.value).endswith(("self", "spec"))


def asks_for_the_type(node):
    match node:
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, types]):
            return bool(names_in(types) & CLASSES)
        case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, name, *_]):
            return bool(strings_in(name) & FIELDS)
        case ast.MatchClass(cls=kind):
            return bool(names_in(kind) & CLASSES)
        case ast.Match(subject=subject):
            return is_kind_word(subject) and bool(strings_in(node) & WORDS)
        case ast.Compare(left=left, comparators=[*right]):
            sides = [left, *right]
            if any(map(is_kind_word, sides)):
                words = set().union(*map(strings_in, sides))
                return bool(words & WORDS) or any(isinstance(side, ast.Name) for side in sides)
            return "type" in names_in(left) and bool(names_in(node) & CLASSES)
    return False


def type_tests(source):
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if asks_for_the_type(node)]


def test_no_module_outside_specs_and_readers_asks_which_kind_it_has():
    found = {}
    for path in sorted((ROOT / "kvsim").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        tests = type_tests(path.read_text("utf-8"))
        if tests and not name.startswith(("kvsim/specs/attention/", "kvsim/readers/")):
            found[name] = tests
    assert {name: len(tests) for name, tests in found.items()} == ALLOWED, found


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(cache, SlidingAttention)",
        "isinstance(cache, attention.LatentAttention | RecurrentState)",
        "type(cache) is not FullAttention",
        "cache.kind == 'recurrent'",
        "cache.kind in ('sliding', 'chunked')",
        "attention.kind in kinds",
        "getattr(cache, 'window', None)",
        "match cache:\n    case FullAttention():\n        pass",
        "match cache.kind:\n    case 'latent':\n        pass",
    ],
)
def test_a_type_test_is_found(line):
    assert len(type_tests(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(mlp, DenseMlp)",
        "spec.kind == 'full'",
        "page.spec.kind in ('window', 'chunk')",
        "card.kind == 'kernels'",
        "getattr(options, 'dtype')",
        "cache.keeps('latent')",
    ],
)
def test_another_question_is_not(line):
    assert type_tests(line) == []
