"""docs/from-timm.md leaves out no option, and names only options that there are."""

import pkgutil
import re
from dataclasses import fields
from pathlib import Path

import pytest

from foveal.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / 'docs' / 'from-timm.md').read_text()
OURS = {field.name for command in COMMANDS.values() for field in fields(command.config)} | {'config'}
LINES = (ROOT / 'tests' / 'reference' / 'options.txt').read_text().splitlines()
HEADINGS = {'train': '## train.py', 'validate': '## validate.py', 'inference': '## inference.py'}
HEADINGS |= {'benchmark': '## benchmark.py'}


def part(script: str) -> str:
    """What the page says of a script: its section, or the lines of the table of the other scripts."""
    heading = HEADINGS.get(script, '## Other scripts')
    return next(section for section in re.split(r'\n(?=## )', PAGE) if section.startswith(heading))


def cells(text: str, column: int) -> str:
    """A column of all tables in a text."""
    return '\n'.join(line.split(' | ')[column] for line in text.splitlines() if line.startswith('| '))


@pytest.mark.parametrize('line', [line for line in LINES if not line.startswith('#')])
def test_every_option_has_a_row(line: str) -> None:
    script, _, names = line.partition(': ')
    named = set(re.findall(r'`([\w-]+)`', cells(part(script), 0)))
    assert set(names.split()) <= named


def test_only_options_that_there_are_are_named() -> None:
    flags = {flag.partition('.')[0].replace('-', '_') for flag in re.findall(r'--([a-z][\w.-]*)', PAGE)}
    assert flags <= OURS, flags - OURS


def test_only_python_names_that_there_are_are_named() -> None:
    names = set(re.findall(r'`(foveal(?:\.\w+)+)`', PAGE))
    assert len(names) > 10
    for name in names:
        pkgutil.resolve_name(name)


def test_every_reason_is_given() -> None:
    for line in PAGE.splitlines():
        if ' | none |' in line:
            assert line.split(' | none |')[1].strip(' |'), line


def test_links_lead_somewhere() -> None:
    for link in re.findall(r'\]\(([\w./-]+)\)', PAGE):
        assert (ROOT / 'docs' / link).is_file(), link
