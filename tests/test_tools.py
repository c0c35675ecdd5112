"""Other people's tools on every kind of model, against the table in the documentation."""

from pathlib import Path

import pytest
from conftest import ARCHITECTURES
from tools import COLUMNS, TOOLS, rows_of


PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
ROWS = rows_of(PAGE.read_text(encoding="utf-8"))


def test_the_table_has_every_tool_and_says_what_was_tried():
    assert {name for name in ROWS if name != "tool"} == {tool.name for tool in TOOLS}
    for tool in TOOLS:
        _, _, done, models, *works, note = (cell.strip() for cell in ROWS[tool.name].strip("|").split(" | "))
        assert (done, models, note) == (tool.done, tool.models(), tool.note)
        assert works == [tool.answer if any(map(tool.kinds_of, column)) else "" for column in COLUMNS.values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "architecture", "kind"),
    [
        pytest.param(tool, architecture, kind, id=f"{tool.name}-{architecture}-{kind}")
        for tool in TOOLS
        for architecture in (*ARCHITECTURES, "dual-encoder")
        for kind in tool.kinds_of(architecture)
    ],
)
def test_a_tool_does_what_the_table_says(tool, architecture, kind):
    if tool.versions() is None:
        pytest.skip(f"{', '.join(tool.packages)} are not all installed")
    tool.check(architecture, kind)
