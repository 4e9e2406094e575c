import inspect
import re

import pytest

from sla_planner import errors
from sla_planner.errors import PlannerError, ProfileError, UsageError


def tree():
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PlannerError)]


def test_an_error_says_what_is_wrong_and_what_to_do():
    assert str(UsageError("--ttft 0", hint="use a number > 0")) == "--ttft 0; use a number > 0"
    assert str(UsageError("--ttft 0")) == "--ttft 0"


def test_a_profile_error_names_file_and_key_once_they_are_known():
    error = ProfileError("-3 is negative", hint="measure again", key="prefill_ttft")
    assert str(error) == "prefill_ttft: -3 is negative; measure again"
    assert str(error.in_file("raw_data.npz")) == "raw_data.npz: prefill_ttft: -3 is negative; measure again"


@pytest.mark.parametrize("kind", tree())
def test_every_exit_code_is_documented(kind):
    documented = {int(code) for code in re.findall(r"^    (\d+) ", errors.__doc__ or "", re.MULTILINE)}
    assert kind.exit_code in documented - {0}
