"""docs/limits.md has the numbers of the code."""

import re

import pytest

from agent import pages, server, wire
from ipam import config, ranges, routes
from nodes import records
from nodes.registries import folder
from plugins.node import records as plugin_records
from plugins.tuning import conf
from policy.sources import folder as documents
from spec import child_process, jsontext, request
from tests.pure.test_docs import cells

LIMITS = {
    "a network configuration": (request.STDIN_LIMIT >> 20, jsontext.VALUES_LIMIT, jsontext.DEPTH_LIMIT),
    "a request that the agent serves": (server._MAX_REQUEST >> 10, wire.ENVIRON_LIMIT >> 10),
    "range sets; ranges": (ranges._MOST_SETS, ranges._MOST_RANGES),
    "routes of a result": (routes._MOST,),
    "requested addresses": (config._MOST,),
    "sysctls of `tuning`": (conf._MOST_SYSCTLS,),
    "a file that a configuration names": (1, plugin_records._LARGEST >> 20),
    "what a foreign plugin prints": (child_process.OUTPUT_LIMIT >> 20,),
    "calls in progress": (128, server._MAX_CALLS),
    "documents of policies in a folder": (documents.MOST, 4),
    "pages": (pages.AT_ONCE,),
    "records in a folder": (folder.MOST, folder._LARGEST >> 10),
    "a record": (records._LONGEST >> 10,),
}


@pytest.mark.parametrize("what", LIMITS)
def test_a_documented_limit_is_that_of_the_code(what: str) -> None:
    """In the units that the page has."""
    rows = dict(zip(cells("limits.md", "what"), cells("limits.md", "at most"), strict=True))
    assert re.findall(r"\d+", rows[what].replace(",", "")) == [str(number) for number in LIMITS[what]]
