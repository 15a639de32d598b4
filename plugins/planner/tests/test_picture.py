"""The picture of the workflow has the plan's costs."""

import pytest

from sida.config.lookup import ROOT
from tools.pictures import workflow


@pytest.mark.slow
def test_the_picture_of_the_workflow_is_current():
    """`python -m tools.pictures` writes it again."""
    assert (ROOT / "docs/workflow.svg").read_text() == workflow.picture()
