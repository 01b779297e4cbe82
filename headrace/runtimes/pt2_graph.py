"""Whether the graph of a torch.export archive (``models/model.json``) is data only.

Every string in it is judged by where it stands; see `pt2_audit` for why.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9_.]*", re.ASCII)
"""Pasted into generated source, such text can neither call nor quote anything."""

_IDENTIFIER_KEYS = frozenset({"name", "as_name", "forward_arg_names"})
_ARGUMENT_KEYS = frozenset({"as_string", "as_strings"})
"""Free text, but only as arguments of nodes: generated source holds their repr. A string that
is an input of the whole graph is pasted into a guard without one."""

_FREE_METADATA = frozenset({"stack_trace", "nn_module_stack", "torch_fn", "custom", "from_node"})
"""Kept beside a node for a reader; parsed as JSON at most."""

_NAMED_OPERATORS = frozenset(
    "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ "
    "lshift rshift getitem".split()
)
_HIGHER_ORDER = frozenset({"cond", "while_loop", "wrap_with_set_grad_enabled"}) | frozenset(
    {"wrap_with_autocast"}
)
_ATEN_WITH_FILES = frozenset({"from_file", "save"})

_EXPRESSION = re.compile(
    r"""(?: [A-Za-z_]\w* | '[A-Za-z]\w*' | '[-+]?[\d.]+(?:[eE][-+]?\d+)?'
          | \d+(?:\.\d*)?(?:[eE][-+]?\d+)? | [-+*/%(),=<>!&|~] | [ ] )+""",
    re.VERBOSE | re.ASCII,
)
_EXPRESSION_WORDS = frozenset(
    "Symbol Integer Float Rational Mul Add Pow Mod Max Min Abs Eq Ne Equality Unequality "
    "Relational StrictLessThan LessThan StrictGreaterThan GreaterThan Lt Le Gt Ge And Or Not "
    "Piecewise ExprCondPair BooleanTrue BooleanFalse true false True False floor ceiling "
    "FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift "
    "RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt "
    "RoundDecimal ToFloat Identity IsNonOverlappingAndDenseIndicator "
    "positive integer negative nonnegative real zero finite precision evaluate".split()
)
_SYMBOL = re.compile(r"z?[suf]\d+|zu?f?\d+|u\d+", re.ASCII)

_TREE_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"}) | {
    "collections.OrderedDict"
}

_GUARD_TEXT = re.compile(r"[\w \[\]'().,<>=!+*/%&|~-]*", re.ASCII)
_GUARD_NODES = (
    ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Subscript,
    ast.Attribute, ast.Call, ast.Name, ast.Load, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
_GUARD_NAMES = frozenset({"L", "max", "min", "Max", "Min", "Mod", "PythonMod", "FloorDiv"})
_GUARD_METHODS = frozenset({"size", "stride", "storage_offset"})


def why_code(value: Any, key: str = "", in_node: bool = False) -> str | None:
    """Why JSON `value`, found under `key`, may run code; None where it cannot."""
    if isinstance(value, dict):
        if key == "metadata":
            return _why_metadata(value)
        for name, inner in value.items():
            if not is_name(name):
                return f"has the key {_clip(name)}"
            if name in ("as_custom_obj", "custom_obj"):
                return "holds a custom object"
            if reason := why_code(inner, name, in_node or name == "nodes"):
                return reason
    elif isinstance(value, list):
        for inner in value:
            if reason := why_code(inner, key, in_node):
                return reason
    elif isinstance(value, str) and not (
        (in_node and key in _ARGUMENT_KEYS) or _is_harmless(value, key)
    ):
        return f"has {key} {_clip(value)}"
    return None


def _is_harmless(text: str, key: str) -> bool:
    if key == "expr_str":
        return _is_expression(text)
    if key in ("target", "as_operator"):
        return _is_operator(text)
    if key in ("in_spec", "out_spec"):
        return text == "" or _is_tree(text)
    if key == "guards_code":
        return _is_guard(text)
    if key == "torch_version":
        return re.fullmatch(r"[\w.+-]*", text, re.ASCII) is not None
    if key in _IDENTIFIER_KEYS:
        return is_name(text) and (text == "" or text.isidentifier())
    return is_name(text)


def is_name(text: str) -> bool:
    """Whether `text` is letters, digits, underscores and dots, and names no dunder."""
    return _NAME.fullmatch(text) is not None and not any(
        part.startswith("__") and part.endswith("__") for part in text.split(".")
    )


def _is_expression(text: str) -> bool:
    """What sympy.srepr writes: constructors, symbols and numbers; no attribute, no other word."""
    if not _EXPRESSION.fullmatch(text):
        return False
    words = re.findall(r"(?<!['\w.])[A-Za-z_]\w*(?!')", text, re.ASCII)
    quoted = re.findall(r"'([A-Za-z]\w*)'", text, re.ASCII)
    return all(word in _EXPRESSION_WORDS or _SYMBOL.fullmatch(word) for word in words) and all(
        _SYMBOL.fullmatch(word) for word in quoted
    )


def _is_operator(target: str) -> bool:
    module, _, rest = target.partition(".")
    if module == "_operator":
        return rest in _NAMED_OPERATORS
    if module == "math":
        return re.fullmatch(r"[a-z][a-z0-9]*", rest, re.ASCII) is not None
    if re.fullmatch(r"torch\._?sym_[a-z_]+", target, re.ASCII):
        return not target.endswith("_")
    if match := re.fullmatch(r"torch\.ops\.higher_order\.(\w+)", target, re.ASCII):
        return match[1] in _HIGHER_ORDER
    if match := re.fullmatch(r"torch\.ops\.(aten|prims)\.(\w+)\.(\w+)", target, re.ASCII):
        return match[2] not in _ATEN_WITH_FILES and _is_overload(*match.groups())
    return False


@functools.cache
def _is_overload(namespace: str, operator: str, overload: str) -> bool:
    """Whether the path ends at an operator, and not at some method on the way."""
    import torch

    packet = getattr(getattr(torch.ops, namespace), operator, None)
    return isinstance(packet, torch._ops.OpOverloadPacket) and isinstance(
        getattr(packet, overload, None), torch._ops.OpOverload
    )


def _is_tree(text: str) -> bool:
    """A treespec of tuples, lists and dicts; other types may import modules."""
    try:
        version, tree = json.loads(text)
        return isinstance(version, int) and _is_subtree(tree)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _is_subtree(tree: dict[str, Any]) -> bool:
    if tree["type"] not in _TREE_TYPES:
        return False
    context = tree["context"]
    keys = json.loads(context) if isinstance(context, str) else context
    if keys is not None and not (
        isinstance(keys, list) and all(isinstance(k, str) and is_name(k) for k in keys)
    ):
        return False
    return all(_is_subtree(child) for child in tree["children_spec"])


def _is_guard(text: str) -> bool:
    """A comparison of sizes, such as ``L['x'].size()[1] == L['mask'].size()[1]``."""
    if not _GUARD_TEXT.fullmatch(text):
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _GUARD_NODES) and _is_guard_node(node) for node in ast.walk(tree))


def _is_guard_node(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _GUARD_NAMES
        case ast.Attribute(attr=name):
            return name in _GUARD_METHODS
        case ast.Constant(value=str() as text):
            return is_name(text)
        case ast.Call(func=func, keywords=keywords):
            return isinstance(func, ast.Name | ast.Attribute) and not keywords
    return True


def _why_metadata(metadata: dict[str, Any]) -> str | None:
    for key, text in metadata.items():
        if key == "source_fn_stack":
            # Resolved by getattr below torch, never called.
            if not isinstance(text, str) or not re.fullmatch(r"[\w.,;]*", text, re.ASCII):
                return f"has the metadata {key} {_clip(text)}"
        elif key not in _FREE_METADATA or not isinstance(text, str):
            return f"has the metadata {_clip(key)}"
    return None


def _clip(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "…"
