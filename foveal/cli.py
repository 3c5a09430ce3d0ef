"""The command line: fields of dataclasses are flags, YAML files can hold them, torch comes when it is needed."""

import importlib
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from foveal import __version__
from foveal.commands.models import ModelsConfig
from foveal.engine.config import PredictConfig, TrainConfig, ValidateConfig
from foveal.errors import near

SOURCE = "a run's folder, a checkpoint of a run, or the name of a model"
OWN_FLAGS = ('help', 'config', 'print_config')


@dataclass(frozen=True)
class Command:
    """A subcommand: its configuration, and the fields that are given without a flag: how many values, and what."""

    config: type
    summary: str
    positionals: dict[str, tuple[str | None, str]]


# each runs `run(config)` of foveal/commands/NAME.py
COMMANDS = {
    'train': Command(TrainConfig, 'train a model on labelled images', {}),
    'validate': Command(ValidateConfig, 'measure a trained model on labelled images', {'source': (None, SOURCE)}),
    'predict': Command(
        PredictConfig,
        'name what is on pictures',
        {'source': (None, SOURCE), 'images': ('+', 'image files, and folders that are searched for images')},
    ),
    'models': Command(
        ModelsConfig, 'list and search the models', {'filter': ('?', "wildcard on the name, such as 'resnet*'")}
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments after the program's name; those of the process where absent.

    Returns:
        Exit status: 0, or 2 with a message for what cannot be done. With FOVEAL_TRACEBACK=1 in the environment such
        errors are raised instead, to see where they come from.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        name = arguments[0] if arguments and arguments[0] in COMMANDS else None
        parser = build_parser()
        if name is None:
            parser.parse_args(arguments or ['--help'])
            return 0
        parsed = parser.parse_args([name, *spelled_out(name, arguments[1:])])
        values = parsed[name]
        command = COMMANDS[name]
        # an absent positional is None; every field that may be None is None by default
        given = {field.name: values[field.name] for field in fields(command.config)}
        config = command.config(**{key: value for key, value in given.items() if value is not None})
        return importlib.import_module(f'foveal.commands.{name}').run(config)
    except (ArgumentError, ValueError, OSError, ArithmeticError) as error:
        if os.environ.get('FOVEAL_TRACEBACK'):
            raise
        print(f'foveal: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser() -> ArgumentParser:
    """The parser of all commands."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        exit_on_error=False,
        prog='foveal',
        description='Image models: train, validate, predict, search.',
        version=__version__,
    )
    commands = parser.add_subcommands(required=True)
    for name, command in COMMANDS.items():
        sub = ArgumentParser(description=command.config.__doc__, allow_abbrev=False, exit_on_error=False)
        sub.add_argument('--config', action='config', help='YAML file of options; flags after it win.')
        for positional, (count, about) in command.positionals.items():
            field = next(field for field in fields(command.config) if field.name == positional)
            options: dict[str, Any] = {'nargs': count} if count else {}
            item = str if count == '+' else field.type
            sub.add_argument(positional, type=item, help=about, **options)
        sub.add_class_arguments(command.config, None, skip=set(command.positionals))
        commands.add_subcommand(name, sub, help=command.summary)
    return parser


def spelled_out(name: str, arguments: Sequence[str]) -> list[str]:
    """Flags as the parser wants them: `--batch-size` with underscores, `--download` with its value true.

    Raises:
        ValueError: A flag, or a key of a YAML file, that the command does not have; names the nearest.
    """
    config = COMMANDS[name].config
    kinds = {field.name: field.type for field in fields(config)}
    result = []
    for i, argument in enumerate(arguments):
        if not argument.startswith('--') or argument == '--':
            result.append(argument)
            continue
        flag, equals, value = argument[2:].partition('=')
        key, dot, rest = flag.partition('.')
        key = key.replace('-', '_')
        following = arguments[i + 1] if i + 1 < len(arguments) else '--'
        if kinds.get(key.removeprefix('no_')) is bool and key.startswith('no_') and key not in kinds:
            result.append(f'--{key.removeprefix("no_")}=false')
            continue
        if key not in kinds and key not in OWN_FLAGS:
            raise ValueError(f'{name} has no option --{flag}{near(key, kinds)}')
        if key == 'config':
            check_file(name, value if equals else following)
        if kinds.get(key) is bool and not equals and following not in ('true', 'false'):
            equals, value = '=', 'true'
        result.append(f'--{key}{dot}{rest}{equals}{value}')
    return result


def check_file(name: str, path: str) -> None:
    """Refuses a YAML file with keys that the command does not have."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'config file {path} does not exist')
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not YAML: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold lines of option: value')
    legal = [field.name for field in fields(COMMANDS[name].config)]
    for key in content:
        if key not in legal:
            raise ValueError(f'{path}: {name} has no option {key!r}{near(str(key), legal)}')


if __name__ == '__main__':
    sys.exit(main())
