"""The first wall: a rule's expression is parsed by DuckDB and accepted only if every node is on a short list.

The text is never run. DuckDB turns it into a tree (``json_serialize_sql``), the tree is walked against an
allow-list that fails closed, and DuckDB's rendering of that tree is what the evaluator runs. As checker and
executor share one parser there is no difference between them to exploit.
"""

import contextlib
import functools
import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import duckdb

from vtprof_rules.rule import Expression

MAX_CHARACTERS = 1000
MAX_DEPTH = 24

FUNCTIONS = frozenset(
    {"+", "-", "*", "/", "%", "abs", "least", "greatest", "nullif", "round", "floor", "ceil"}
    | {"ln", "log10", "log2", "sqrt", "exp", "pow", "lower"}
)
"""``coalesce`` is an operator node of its own."""
CAST_TYPES = frozenset({"BOOLEAN", "INTEGER", "BIGINT", "DOUBLE", "VARCHAR"})
_LITERALS = frozenset({"INTEGER", "NUMERIC", "STRING", "BOOLEAN", "NULL_LITERAL"})
_COMPARISONS = frozenset(
    f"COMPARE_{name}"
    for name in (
        "EQUAL",
        "NOTEQUAL",
        "LESSTHAN",
        "GREATERTHAN",
        "LESSTHANOREQUALTO",
        "GREATERTHANOREQUALTO",
        "DISTINCT_FROM",
        "NOT_DISTINCT_FROM",
    )
)
_OPERATORS = frozenset({"OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE"})
_MEMBERSHIP = frozenset({"COMPARE_IN", "COMPARE_NOT_IN"})
_POSITIONS = frozenset({"query_location", "query_location_length"})
_COMMON = _POSITIONS | {"class", "type", "alias"}

Node = Mapping[str, Any]


class ExpressionError(ValueError):
    """An expression was refused; ``column`` is the character it points at, from 1, or ``None``."""

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


def parse_expression(text: str, columns: Collection[str], params: Collection[str]) -> Expression:
    """Check a scalar expression over ``columns`` and ``$params``; raise ``ExpressionError`` when it is refused."""
    prefix = _SCALAR
    select, sql = _parse(prefix, text)
    walk = _Walk(columns, params, len(prefix))
    if len(select["select_list"]) != 1:
        raise ExpressionError("one expression is expected, found a list")
    _require_bare(select, "select_list")
    walk.expression(select["select_list"][0], 0)
    return Expression(text, sql.removeprefix(prefix), frozenset(walk.columns), frozenset(walk.params))


def parse_order_by(text: str, columns: Collection[str], params: Collection[str]) -> Expression:
    """Check an ORDER BY list, each item an allowed expression with an optional ASC, DESC, NULLS FIRST or LAST."""
    prefix = _ORDER
    select, sql = _parse(prefix, text)
    walk = _Walk(columns, params, len(prefix))
    modifiers = select["modifiers"]
    if len(modifiers) != 1 or modifiers[0].get("type") != "ORDER_MODIFIER" or len(select["select_list"]) != 1:
        raise ExpressionError("only a list of expressions to order by is allowed")
    _require_bare(select, "modifiers")
    for order in modifiers[0]["orders"]:
        walk.expression(order["expression"], 0)
    return Expression(text, sql.removeprefix(prefix), frozenset(walk.columns), frozenset(walk.params))


def parse_ahead(scalars: Iterable[str], orders: Iterable[str]) -> None:
    """Have DuckDB parse many expressions and ORDER BY lists at once: in a tenth of the time that each takes alone.

    Whatever is wrong with one is told when it is parsed by itself.
    """
    wanted = [_SCALAR + text for text in scalars if _refusal(text) is None]
    wanted += [_ORDER + text for text in orders if _refusal(text) is None]
    sql = (
        "SELECT query, tree, TRY(json_deserialize_sql(tree)) FROM"
        " (SELECT query, json_serialize_sql(query) AS tree FROM (SELECT unnest(?::VARCHAR[]) AS query))"
    )
    with contextlib.suppress(duckdb.Error), _parser().cursor() as cursor:
        found = cursor.execute(sql, [wanted]).fetchall()
        _AHEAD.update({query: (tree, rendered) for query, tree, rendered in found if rendered})


def control_characters(text: str, allowed: str = "") -> list[str]:
    """Return the code points in ``text`` that could steer a terminal or hide text, such as ``U+001B``."""
    return sorted(
        {f"U+{ord(c):04X}" for c in text if c not in allowed and unicodedata.category(c) in _STEERING}
    )


_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


_SCALAR: Final = "SELECT "
_ORDER: Final = "SELECT 1 ORDER BY "
_AHEAD: Final[dict[str, tuple[str, str]]] = {}
"""Queries that were parsed ahead: the tree, and DuckDB's rendering of it. Each is taken once."""


def _refusal(text: str) -> str | None:
    """Say why an expression is not even parsed."""
    if not text.strip():
        return "the expression is empty"
    if len(text) > MAX_CHARACTERS:
        return f"longer than {MAX_CHARACTERS} characters"
    found = control_characters(text, allowed="\n")
    return f"control characters are not allowed: {', '.join(found)}" if found else None


def _parse(prefix: str, text: str) -> tuple[Node, str]:
    """Return the one SELECT node of ``prefix + text`` and DuckDB's rendering of it."""
    if refusal := _refusal(text):
        raise ExpressionError(refusal)
    try:
        serialized, rendered = _AHEAD.pop(prefix + text, ("", ""))
        serialized = serialized or _scalar("SELECT json_serialize_sql(?)", prefix + text)
        answer = json.loads(serialized)
        if answer["error"]:
            raise ExpressionError(_first_line(answer["error_message"]), _column(answer, len(prefix)))
        statements = answer["statements"]
        if len(statements) != 1 or statements[0]["node"].get("type") != "SELECT_NODE":
            raise ExpressionError("one scalar expression is expected, found a query or several statements")
        return statements[0]["node"], rendered or _scalar("SELECT json_deserialize_sql(?)", serialized)
    except duckdb.Error as error:
        raise ExpressionError(_first_line(str(error))) from error
    except RecursionError as error:
        raise ExpressionError(f"nested deeper than {MAX_DEPTH} levels") from error


@functools.cache
def _parser() -> duckdb.DuckDBPyConnection:
    """Return an empty database whose parser is used; opening one takes longer than all of a pack's expressions."""
    return duckdb.connect(":memory:", config={"autoload_known_extensions": "false", "threads": "1"})


def _scalar(sql: str, argument: str) -> str:
    with _parser().cursor() as cursor:  # a cursor each, so that threads do not share a result
        row = cursor.execute(sql, [argument]).fetchone()
    return str(row[0]) if row else ""


def _first_line(message: str) -> str:
    return (message.strip() or "cannot be parsed").splitlines()[0]


def _column(answer: Node, prefix_length: int) -> int | None:
    position = str(answer.get("position", ""))
    return max(1, int(position) - prefix_length + 1) if position.isdigit() else None


@functools.cache
def _bare_select() -> Node:
    node, _ = _parse("SELECT ", "1")
    return node


def _require_bare(select: Node, apart_from: str) -> None:
    """Refuse FROM, WHERE, GROUP BY, LIMIT, WITH and whatever else a SELECT can hold beside ``apart_from``."""
    bare = _bare_select()
    for key, value in select.items():
        if key in ("select_list", apart_from):
            continue
        if _without_positions(value) != _without_positions(bare.get(key)):
            raise ExpressionError(f"only a scalar expression is allowed, found {key.replace('_', ' ')}")


def _without_positions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_positions(item) for key, item in value.items() if key not in _POSITIONS}
    if isinstance(value, list):
        return [_without_positions(item) for item in value]
    return value


class _Walk:
    """Visits every node of a tree, refusing what is not on the list, and collects the names it met."""

    def __init__(self, columns: Collection[str], params: Collection[str], offset: int) -> None:
        self.columns: set[str] = set()
        self.params: set[str] = set()
        self._known_columns = columns
        self._known_params = params
        self._offset = offset
        self._visitors: dict[str, Callable[[Node, int], None]] = {
            "COLUMN_REF": self._column_ref,
            "CONSTANT": self._constant,
            "PARAMETER": self._parameter,
            "COMPARISON": self._comparison,
            "CONJUNCTION": self._conjunction,
            "BETWEEN": self._between,
            "OPERATOR": self._operator,
            "CASE": self._case,
            "CAST": self._cast,
            "FUNCTION": self._function,
        }

    def expression(self, node: Node, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._refused(node, f"nested deeper than {MAX_DEPTH} levels")
        visitor = self._visitors.get(node["class"])
        if visitor is None:
            raise self._refused(node, f"{node['class'].lower()} is not allowed in a rule")
        if node["alias"]:
            raise self._refused(node, "a name after the expression is not allowed")
        visitor(node, depth + 1)

    def _refused(self, node: Node, message: str) -> ExpressionError:
        location = node.get("query_location")
        # DuckDB marks an unknown place with the largest unsigned integer.
        known = isinstance(location, int) and self._offset <= location < self._offset + MAX_CHARACTERS
        return ExpressionError(
            message, location - self._offset + 1 if known and location is not None else None
        )

    def _only(self, node: Node, *keys: str) -> None:
        """Refuse a node with anything in it that the allow-list does not know about."""
        for key, value in node.items():
            if value and key not in _COMMON and key not in keys:
                raise self._refused(
                    node, f"{key.replace('_', ' ')} is not allowed in {node['class'].lower()}"
                )

    def _column_ref(self, node: Node, _depth: int) -> None:
        self._only(node, "column_names")
        name = ".".join(node["column_names"])
        if name not in self._known_columns:
            raise self._refused(node, f"unknown name {name!r}")
        self.columns.add(name)

    def _constant(self, node: Node, _depth: int) -> None:
        self._only(node, "literal")
        if node["literal"]["kind"] not in _LITERALS:
            raise self._refused(node, f"a constant of kind {node['literal']['kind']} is not allowed")

    def _parameter(self, node: Node, _depth: int) -> None:
        self._only(node, "identifier")
        if node["identifier"] not in self._known_params:
            raise self._refused(node, f"unknown parameter ${node['identifier']}")
        self.params.add(node["identifier"])

    def _comparison(self, node: Node, depth: int) -> None:
        self._only(node, "left", "right")
        self._require_type(node, _COMPARISONS)
        self.expression(node["left"], depth)
        self.expression(node["right"], depth)

    def _conjunction(self, node: Node, depth: int) -> None:
        self._only(node, "children")
        self._require_type(node, {"CONJUNCTION_AND", "CONJUNCTION_OR"})
        self._all(node["children"], depth)

    def _between(self, node: Node, depth: int) -> None:
        self._only(node, "input", "lower", "upper")
        self._require_type(node, {"COMPARE_BETWEEN"})
        self._all([node["input"], node["lower"], node["upper"]], depth)

    def _operator(self, node: Node, depth: int) -> None:
        self._only(node, "children")
        self._require_type(node, _OPERATORS | _MEMBERSHIP)
        if node["type"] in _MEMBERSHIP and any(c["class"] != "CONSTANT" for c in node["children"][1:]):
            raise self._refused(node, "IN takes constants only")
        self._all(node["children"], depth)

    def _case(self, node: Node, depth: int) -> None:
        self._only(node, "case_checks", "else_expr")
        for check in node["case_checks"]:
            self._all([check["when_expr"], check["then_expr"]], depth)
        self.expression(node["else_expr"], depth)

    def _cast(self, node: Node, depth: int) -> None:
        self._only(node, "child", "try_cast", "type_expr")
        target = node["type_expr"]
        self._only(target, "type_name", "qualified_name")
        name = str(target["type_name"])
        if name.upper() not in CAST_TYPES or target["qualified_name"]["path"] != [name]:
            raise self._refused(node, f"a cast to {name} is not allowed")
        self.expression(node["child"], depth)

    def _function(self, node: Node, depth: int) -> None:
        self._only(node, "function_name", "is_operator", "arguments", "order_bys", "qualified_name")
        name = node["function_name"]
        if name not in FUNCTIONS or node["qualified_name"]["path"] != [name]:
            raise self._refused(node, f"function {name!r} is not allowed")
        if node["order_bys"]["orders"] or any(argument["name"] for argument in node["arguments"]):
            raise self._refused(node, f"function {name!r} takes plain arguments only")
        self._all([argument["expression"] for argument in node["arguments"]], depth)

    def _require_type(self, node: Node, allowed: Collection[str]) -> None:
        if node["type"] not in allowed:
            raise self._refused(node, f"{node['type'].lower()} is not allowed in a rule")

    def _all(self, nodes: list[Node], depth: int) -> None:
        for node in nodes:
            self.expression(node, depth)
