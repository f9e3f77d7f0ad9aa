"""The first wall: what a rule's expression may say, and that nothing else gets past the checker."""

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_rules import expressions
from vtprof_rules.expressions import ExpressionError, parse_expression, parse_order_by

COLUMNS = frozenset({"a", "b", "c", "name", "flag"})
PARAMS = frozenset({"limit", "kind"})

# Each with a row (a, b, c, name, flag) = (6.0, 3.0, NULL, 'Vllm', true), $limit = 5 and $kind = 'vllm',
# and the value that arithmetic gives.
ACCEPTED = [
    ("a", 6.0),
    ("a >= 6", True),
    ("a > $limit AND b <= 3", True),
    ("a > $limit OR c > 1", True),
    ("c > 1", None),
    ("NOT flag", False),
    ("a <> b", True),
    ("a BETWEEN 1 AND 6", True),
    ("b NOT BETWEEN 1 AND 6", False),
    ("lower(name) = $kind", True),
    ("name IN ('vllm', 'Vllm')", True),
    ("name NOT IN ('vllm', 'sglang')", True),
    ("c IS NULL", True),
    ("a IS NOT NULL", True),
    ("c IS DISTINCT FROM a", True),
    ("CASE WHEN a > 5 THEN 1 ELSE 2 END", 1),
    ("CASE a WHEN 6 THEN 10 END", 10),
    ("CAST(a AS INTEGER)", 6),
    ("b::DOUBLE", 3.0),
    ("TRY_CAST(name AS DOUBLE)", None),
    ("a * (1 - 1.0 / b)", 4.0),
    ("-a % 4", -2.0),
    ("coalesce(c, a)", 6.0),
    ("nullif(a, 6)", None),
    ("least(a, b, 9) + greatest(a, b)", 9.0),
    ("abs(-a) + round(b) + floor(2.5) + ceil(2.5)", 14.0),
    ("sqrt(a * 6) + pow(b, 2) + exp(0) + ln(1) + log10(100) + log2(8)", 21.0),
    ("1e1 + a -- a comment is only a comment", 16.0),
]

REFUSED = [
    "", "  \n", "a,b", "*", "facts.*", "COLUMNS('a')", "unknown_name", "A", "main.facts.a", "facts.a",
    "a AS b", "(SELECT 1)", "a IN (SELECT 1)", "EXISTS (SELECT 1)", "a = ANY (SELECT 1)", "a IN (b)",
    "1 FROM facts", "a WHERE flag", "a LIMIT 1", "a ORDER BY b", "a GROUP BY a", "a UNION SELECT 1",
    "a HAVING flag", "a QUALIFY flag", "a USING SAMPLE 1", "1; DROP TABLE facts", "1; SELECT 1",
    "1) FROM read_csv('/etc/passwd') --", "sum(a)", "count(*)", "max(a) FILTER (WHERE flag)",
    "row_number() OVER ()", "sum(a) OVER (ORDER BY b)", "x -> x + 1", "list_transform([1], lambda x: x)",
    "[a, b]", "{'k': a}", "a[1]", "name[1:2]", "'x' || name", "repeat('x', 1000000000)", "name LIKE '%'",
    "name ~ 'x'", "regexp_matches(name, '(x+)+y')", "getvariable('a')", "current_setting('threads')",
    "current_date", "now()", "random()", "getenv('HOME')", "query('SELECT 1')", "read_text('/etc/passwd')",
    "nextval('s')", "sleep_ms(1000)", "try(a)", "if(flag, 1, 2)", "name COLLATE nocase", "'1'::json",
    "a::INTEGER[]", "CAST(a AS DECIMAL(9, 2))", "DATE '2020-01-01'", "INTERVAL 1 DAY", "'x'::regclass",
    "main.abs(a)", "abs(DISTINCT a)", "abs(a ORDER BY b)", "abs(x := a)", "$other", "$1", "?", "#1",
    "a := 1", "DEFAULT", "factorial(20)", "a ** 2", "NOT " * 100 + "flag", "-(" * 100 + "a" + ")" * 100,
    "a + " * 400 + "a", "a\x00", "a\x1b[2J", "a\u202e", "a\ud800", "DROP TABLE facts", "ATTACH 'x'",
    "FROM facts", "VALUES (1)", "PIVOT facts ON a", "SUMMARIZE facts",
]  # fmt: skip


def run(sql: str, params: frozenset[str]) -> object:
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            "CREATE TABLE facts AS SELECT 6.0::DOUBLE a, 3.0::DOUBLE b, NULL::DOUBLE c, 'Vllm' AS name, true AS flag"
        )
        values = {"limit": 5, "kind": "vllm"}
        row = connection.execute(
            f"SELECT {sql} FROM facts", {name: values[name] for name in params} or None
        ).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(("text", "value"), ACCEPTED)
def test_an_ordinary_expression_is_accepted_and_keeps_its_meaning(text: str, value: object) -> None:
    expression = parse_expression(text, COLUMNS, PARAMS)
    found = run(expression.sql, expression.params)
    assert found == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_hostile_or_odd_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text, COLUMNS, PARAMS)


def test_names_and_parameters_are_reported() -> None:
    expression = parse_expression("a > $limit AND lower(name) = $kind", COLUMNS, PARAMS)
    assert (expression.columns, expression.params) == ({"a", "name"}, {"limit", "kind"})


def test_a_refusal_points_at_the_column_of_the_culprit() -> None:
    with pytest.raises(ExpressionError, match="function 'sum' is not allowed") as refused:
        parse_expression("a > 1 AND sum(b) > 2", COLUMNS, PARAMS)
    assert refused.value.column == 11


@pytest.mark.parametrize("text", ["a", "a DESC", "a * b DESC NULLS LAST, name", "abs(a) DESC"])
def test_an_order_by_list_is_accepted(text: str) -> None:
    assert parse_order_by(text, COLUMNS, PARAMS).sql


@pytest.mark.parametrize(
    "text", ["a LIMIT 1", "ALL", "(SELECT 1)", "a; SELECT 1", "random()", "a OFFSET 2", "a DESC, sum(b)", ""]
)
def test_an_order_by_list_holds_nothing_else(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_order_by(text, COLUMNS, PARAMS)


def test_a_node_with_an_unknown_filled_field_is_refused() -> None:
    """A later DuckDB may add fields to a node: the walk must fail closed, not look past them."""
    walk = expressions._Walk(COLUMNS, PARAMS, 0)
    node = {
        "class": "CONSTANT",
        "type": "VALUE_CONSTANT",
        "alias": "",
        "literal": {"kind": "INTEGER"},
        "new_in_3": "x",
    }
    with pytest.raises(ExpressionError, match="new in 3"):
        walk.expression(node, 0)


_WORDS = st.sampled_from(
    ["a", "b", "name", "$limit", "1", "'x'", "(", ")", ",", ";", "AND", "NOT", ">", "=", "+", "->", "SELECT", "FROM",
     "facts", "sum", "abs", "read_text", "*", "--", "/*", "CASE", "END", "::", "[", "]", "LIMIT", "UNION", "COLLATE", "OVER"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=80), st.lists(_WORDS, max_size=14).map(" ".join)))
@settings(max_examples=300, deadline=None)
def test_random_text_is_refused_or_runs_on_the_one_row_alone(text: str) -> None:
    try:
        expression = parse_expression(text, COLUMNS, PARAMS)
    except ExpressionError:
        return
    assert expression.columns <= COLUMNS
    assert expression.params <= PARAMS
    assert parse_expression(expression.sql, COLUMNS, PARAMS).sql == expression.sql
