"""The budgets of the style guide, measured on the syntax tree: size, annotations, imports, prints.

When one of these rules hurts, change the rule here and say why; do not write around it.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 6

# What may be imported from transformers, by name: its other internals change every few weeks.
TRANSFORMERS = {
    "ALL_ATTENTION_FUNCTIONS",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "Cache",
    "CausalLMOutputWithPast",
    "DynamicCache",
    "DynamicLayer",
    "GenerationMixin",
    "GradientCheckpointingLayer",
    "PreTrainedConfig",
    "PreTrainedModel",
    "create_causal_mask",
    "logging",  # to keep its loader quiet: we check the names ourselves and raise
}

# Files that may catch everything because they hand it on: a thread's error is its consumer's.
HANDS_ON = {
    "src/longtake/video/prefetch.py",
    # tokenizers raises bare Exception for a bad file, the hub client whatever its HTTP library has
    "src/longtake/folder.py",
    # its thread serves everybody: whoever asked is told of a fault, the log has it, it goes on
    "src/longtake/serve/engine.py",
}

SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Numbers of the lines that hold code: not blank, not comment, not docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if is_docstring(node):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def functions(tree: ast.Module) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def parameters(function: Function) -> list[ast.arg]:
    """Positional parameters without the `self` or `cls` of a method."""
    named = [*function.args.posonlyargs, *function.args.args]
    return named[1:] if named and named[0].arg in ("self", "cls") else named


def size_faults(text: str, tree: ast.Module) -> Iterator[str]:
    if (count := len(text.splitlines())) > MAX_FILE_LINES:
        yield f"1: {count} lines, at most {MAX_FILE_LINES}"
    lines = code_lines(text, tree)
    for function in functions(tree):
        inside = lines & set(range(function.lineno, function.end_lineno + 1))
        if len(inside) > MAX_FUNCTION_LINES:
            yield (
                f"{function.lineno}: {function.name} has {len(inside)} code lines, "
                f"at most {MAX_FUNCTION_LINES}"
            )
        if (count := len(parameters(function))) > MAX_PARAMETERS:
            yield f"{function.lineno}: {function.name} takes {count}, at most {MAX_PARAMETERS}"


def annotation_faults(tree: ast.Module) -> Iterator[str]:
    for function in functions(tree):
        extra = [function.args.vararg, function.args.kwarg, *function.args.kwonlyargs]
        for arg in (arg for arg in [*parameters(function), *extra] if arg is not None):
            if arg.annotation is None:
                yield f"{function.lineno}: {function.name}({arg.arg}) is not annotated"
        if function.returns is None:
            yield f"{function.lineno}: {function.name} has no return annotation"


def import_faults(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if "*" in names:
                yield f"{node.lineno}: star import"
            if node.level or node.module == "longtake":
                yield f"{node.lineno}: import from the defining module, in full"
            if node.module and node.module.split(".")[0] == "transformers":
                for name in sorted(names - TRANSFORMERS):
                    yield f"{node.lineno}: transformers.{name} is not on the list"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "longtake":
                    yield f"{node.lineno}: import from the defining module, in full"
                if alias.name.split(".")[0] == "transformers":
                    yield f"{node.lineno}: import names of transformers, not the module"


def except_faults(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {name.id for name in caught if isinstance(name, ast.Name)}
            if node.type is None or names & {"Exception", "BaseException"}:
                yield f"{node.lineno}: say which errors are expected"


def print_faults(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ):
            yield f"{node.lineno}: print belongs into cli.py or commands"


def faults(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    found = [*size_faults(text, tree), *annotation_faults(tree)]
    if path.relative_to(ROOT).as_posix() not in HANDS_ON:
        found += except_faults(tree)
    if (ROOT / "src") in path.parents:
        found += import_faults(tree)
        if path.name != "cli.py" and path.parent.name != "commands":
            found += print_faults(tree)
    return [f"{path.relative_to(ROOT)}:{fault}" for fault in found]


def test_source_keeps_the_budgets() -> None:
    paths = source_files("src", "recipes", "benchmarks", "examples")
    assert ROOT / "src/longtake/types.py" in paths
    assert [fault for path in paths for fault in faults(path)] == []


def test_source_is_ascii() -> None:
    outside = [path for path in source_files("src") if not path.read_bytes().isascii()]
    assert outside == []


BODY = "".join(f"    a = {n}\n" for n in range(MAX_FUNCTION_LINES - 1))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def f() -> None:\n" + BODY + "    # why\n\n", None),
        ("def f() -> None:\n" + BODY + "    a = 0\n", "41 code lines"),
        ("a = 1\n" * 300, None),
        ("a = 1\n" * 301, "301 lines"),
        ("def f(a: int, b: int, c: int, d: int, e: int, f: int) -> None: ...", None),
        ("def f(a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> None: ...", "takes 7"),
        ("def f(a: int, *, b: int, c: int, d: int, e: int, f: int, g: int) -> None: ...", None),
        ("class A:\n    def f(self, a) -> None: ...", "f(a) is not annotated"),
        ("def f(*, a) -> None: ...", "f(a) is not annotated"),
        ("def f(**a) -> None: ...", "f(a) is not annotated"),
        ("def f(a: int): ...", "no return annotation"),
        ("from os import *", "star import"),
        ("from longtake import types", "import from the defining module"),
        ("def f() -> None:\n    import longtake", "import from the defining module"),
        ("from .types import Frames", "import from the defining module"),
        ("from longtake.types import Frames", None),
        ("from transformers import Qwen2Model", "transformers.Qwen2Model is not on the list"),
        ("from transformers.cache_utils import Cache, DynamicLayer", None),
        ("import transformers.utils", "not the module"),
        ("try:\n    a = 1\nexcept:\n    a = 2", "say which errors"),
        ("try:\n    a = 1\nexcept (OSError, Exception):\n    a = 2", "say which errors"),
        ("try:\n    a = 1\nexcept OSError:\n    a = 2", None),
        ("print(1)", "print belongs into cli.py or commands"),
    ],
)
def test_each_rule_catches_its_fault(
    text: str, fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "src" / "module.py"
    path.parent.mkdir()
    path.write_text(text)
    found = faults(path)
    assert len(found) == (fault is not None), found
    assert fault is None or fault in found[0]


def test_docstrings_do_not_count_as_code() -> None:
    text = 'def f() -> None:\n    """One.\n\n    Two.\n    """\n' + BODY
    assert list(size_faults(text, ast.parse(text))) == []
