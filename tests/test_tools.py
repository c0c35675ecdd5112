"""Other people's tools on every head, against the table in the documentation."""

from pathlib import Path

import pytest
from tools import TOOLS, export, rows_of

from renaissance.modeling.architectures import HEADS


PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
ROWS = rows_of(PAGE.read_text(encoding="utf-8"))


def test_the_table_has_every_tool():
    assert {name for name in ROWS if name != "tool"} == {tool.name for tool in TOOLS}
    assert all("| yes" in ROWS[tool.name] for tool in TOOLS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tool_does_what_the_table_says(tool, kind):
    if tool.versions() is None:
        pytest.skip(f"{', '.join(tool.packages)} are not all installed")
    tool.check(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("architecture", ["one-tower-text", "one-tower-vision"])
def test_one_tower_exports_with_any_batch(architecture, kind):
    export(kind, architecture)
