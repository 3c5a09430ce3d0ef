"""The examples of the README run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / 'README.md'
EXAMPLES = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)


@pytest.mark.parametrize('code', EXAMPLES, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_example(code: str) -> None:
    exec(compile(code, 'README.md', 'exec'), {})


def test_commands_exist() -> None:
    from foveal.cli import COMMANDS

    said = set(re.findall(r'^foveal (\w+)', README.read_text(), re.MULTILINE))
    assert said <= set(COMMANDS)
