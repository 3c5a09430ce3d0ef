"""The examples of the README, and of pages whose examples need nothing around them, run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / 'README.md'
PAGES = (README, ROOT / 'docs' / 'training.md')
EXAMPLES = [code for page in PAGES for code in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)]


@pytest.mark.parametrize('code', EXAMPLES, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_example(code: str) -> None:
    exec(compile(code, 'example', 'exec'), {})


def test_commands_exist() -> None:
    from foveal.cli import COMMANDS

    said = set(re.findall(r'^foveal (\w+)', README.read_text(), re.MULTILINE))
    assert said <= {name.split()[0] for name in COMMANDS}
