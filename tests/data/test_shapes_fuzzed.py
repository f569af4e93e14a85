"""Whatever JSON stands where a part is expected, the answer is a payload or galvan's own error with file and line."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from galvan.data.columns import SHAPES, Columns
from galvan.data.rows import make_row
from galvan.data.shapes import payload
from galvan.errors import DataError
from galvan.payload import from_json, learned_text
from galvan.rundir import to_json

KEYS = st.sampled_from(["role", "content", "from", "value", "weight", "text", "type", "tool_calls", "x"])
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-200, 300)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["user", "assistant", "gpt", "[", '[{"'])
    | st.just("\ud800\0")
)
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]) | VALUE, "content": VALUE})
PART = VALUE | st.lists(MESSAGE, max_size=3) | st.lists(st.integers(-100, 300), max_size=5)


@settings(max_examples=400, deadline=None)
@given(shape=st.sampled_from(SHAPES[1:]), parts=st.lists(PART, min_size=5, max_size=5))
@example(shape=SHAPES[1], parts=['[{"role": "assistant", "content": "x"}]'] * 5)
@example(shape=SHAPES[1], parts=["[" * 100_000] * 5)
def test_any_json_gives_a_payload_or_an_error_of_ours(shape, parts):
    record = dict(zip(shape.parts, parts, strict=False))
    columns = Columns().settled(record)
    assert columns.shape == shape
    try:
        found = payload(record, columns, "f line 1")
        row = make_row(record, columns, "f line 1", "f", 1, found)
    except DataError as error:
        assert "f line 1" in str(error) and "\n" not in str(error)
        return
    assert found is not None and row.text == learned_text(found)
    from_json(json.loads(to_json(found)))
