"""Each encoder family, in each place that it can have: the sweep of compatibility.py, against the table in the documentation."""

from pathlib import Path

import pytest
import transformers
from compatibility import FAMILIES, PLACES, documented, result


PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
DOCUMENTED = documented(PAGE)
#: Families that take more than five seconds a place.
LARGE = (
    "cvt", "dinov3_convnext", "glpn", "hgnet_v2", "ibert", "levit", "luke", "mamba2", "mobilenet_v1", "mobilenet_v2", "mobilevit",
    "mobilevitv2", "perceiver", "poolformer", "roc_bert", "sam_vision_model", "swiftformer", "textnet", "xlm-roberta-xl", "yolos",
)  # fmt: skip
CASES = [
    # The layers of most one-tower models are those of a tower, too, and so are the encoders of a dual encoder and of grids; and every
    # fourth tower stands for its neighbours.
    pytest.param(
        family,
        use,
        marks=[pytest.mark.slow] * (family in LARGE or use in ("one tower", "dual encoder", "grid") or number % 4),
    )
    for use in PLACES
    for number, family in enumerate(FAMILIES[use])
]


@pytest.mark.parametrize(("family", "use"), CASES)
def test_a_family_has_the_places_that_the_table_says(family, use):
    if (family, use) not in DOCUMENTED:
        pytest.skip(f"transformers {transformers.__version__} has a family that the table does not know")
    works, note = result(family, use)
    assert works == DOCUMENTED[family, use], note


def test_the_goals_are_met():
    works = {use: sum(DOCUMENTED[case] for case in DOCUMENTED if case[1] == use) for use in PLACES}
    text, vision = (
        sum(DOCUMENTED.get((family, "one tower"), False) for family in FAMILIES[tower])
        for tower in ("text tower", "vision tower")
    )
    assert works["text tower"] >= 40 and works["vision tower"] >= 30 and text >= 15 and vision >= 10
