"""The command line: fields of dataclasses are flags, YAML files can hold them, torch comes when it is needed."""

import importlib
import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from foveal import __version__
from foveal.commands.average import AverageConfig
from foveal.commands.clean import CleanConfig
from foveal.commands.convert import ConvertConfig
from foveal.commands.data import BenchConfig, CheckConfig, PackConfig
from foveal.commands.knn import KnnConfig
from foveal.commands.lr_find import LrFindConfig
from foveal.commands.model import CardConfig
from foveal.commands.models import ModelsConfig
from foveal.commands.report import ReportConfig
from foveal.commands.schedule import ScheduleConfig
from foveal.commands.sweep import SweepConfig
from foveal.commands.verify import VerifyConfig
from foveal.engine.config import TrainConfig
from foveal.engine.judging import PredictConfig, ValidateConfig
from foveal.errors import near

SOURCE = "a run's folder, a checkpoint of a run, or the name of a model"
SEVERAL = 'or several: with commas between, wildcards, a .txt file of one a line'
DATA = 'a folder, file or named set, as --data of `foveal train`'
OUTPUT = 'folder to write to'
GROUPS = {'data': 'check a data set, pack it as shards, measure its loading'}
OWN_FLAGS = ('help', 'config', 'print_config')


@dataclass(frozen=True)
class Command:
    """A subcommand: its configuration, and the fields that are given without a flag: how many values, and what."""

    config: type
    summary: str
    positionals: dict[str, tuple[str | None, str]]


# each runs `run(config)` of foveal/commands/NAME.py; of two words, the function of the second
COMMANDS = {
    'train': Command(TrainConfig, 'train a model on labelled images', {}),
    'sweep': Command(SweepConfig, 'train with every combination of options, or random ones', {}),
    'lr-find': Command(LrFindConfig, 'find a learning rate to train with', {}),
    'schedule': Command(ScheduleConfig, 'show the learning rate over a run', {}),
    'validate': Command(
        ValidateConfig, 'measure trained models on labelled images', {'source': (None, f'{SOURCE}; {SEVERAL}')}
    ),
    'verify': Command(
        VerifyConfig, 'run a validation again and say what differs', {'result': (None, 'a .json file of results')}
    ),
    'knn': Command(KnnConfig, "judge a model's features by neighbours and a linear probe", {'source': (None, SOURCE)}),
    'predict': Command(
        PredictConfig,
        'name what is on pictures',
        {'source': (None, SOURCE), 'images': ('+', 'image files, folders, wildcards; or a data set')},
    ),
    'report': Command(ReportConfig, 'make the report of a run, or compare several', {'runs': ('+', "runs' folders")}),
    'data check': Command(CheckConfig, 'find out what is in a data set, and what is wrong', {'data': (None, DATA)}),
    'data pack': Command(PackConfig, 'write a data set as shards', {'data': (None, DATA), 'output': (None, OUTPUT)}),
    'data bench': Command(BenchConfig, 'measure what limits the loading of a data set', {'data': (None, DATA)}),
    'average': Command(
        AverageConfig,
        'average the weights of checkpoints',
        {'inputs': ('+', "checkpoints, weights files, or runs' folders")},
    ),
    'clean': Command(
        CleanConfig,
        'cut a checkpoint down to its weights',
        {'source': (None, 'a checkpoint or folder of a run, or a weights file')},
    ),
    'models': Command(
        ModelsConfig, 'list and search the models', {'filter': ('?', "wildcard on the name, such as 'resnet*'")}
    ),
    'model': Command(
        CardConfig, 'show the card of a model', {'name': (None, 'name of a model, with or without a tag')}
    ),
    'convert': Command(
        ConvertConfig,
        'convert weights to safetensors under our names',
        {'source': (None, 'file of weights'), 'output': (None, 'file ending in .safetensors, or a folder')},
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
        parser = build_parser()
        name, config = parse(arguments, parser)
        if name is None:
            parser.parse_args(arguments or ['--help'])
            return 0
        module, _, function = name.replace('-', '_').partition(' ')
        return getattr(importlib.import_module(f'foveal.commands.{module}'), function or 'run')(config)
    except (ArgumentError, ValueError, OSError, ArithmeticError, ModuleNotFoundError) as error:
        if os.environ.get('FOVEAL_TRACEBACK'):
            raise
        print(f'foveal: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parse(arguments: Sequence[str], parser: ArgumentParser) -> tuple[str | None, Any]:
    """The command that arguments ask for, and its configuration; None and None where they begin with no command.

    Raises:
        ArgumentError, ValueError, OSError: They cannot be understood.
    """
    name = command_name(arguments)
    if name is None:
        return None, None
    words = name.split()
    values = parser.parse_args([*words, *spelled_out(name, arguments[len(words) :])])
    for word in words:
        values = values[word]
    config = COMMANDS[name].config
    # an absent positional is None; every field that may be None is None by default
    given = {field.name: values[field.name] for field in fields(config)}
    return name, config(**{key: value for key, value in given.items() if value is not None})


def command_name(arguments: Sequence[str]) -> str | None:
    """The command that arguments begin with, of one word or of two.

    Raises:
        ValueError: The second word of a command of two is missing or unknown.
    """
    if not arguments:
        return None
    if (second := ' '.join(arguments[:2])) in COMMANDS:
        return second
    seconds = [name.split()[1] for name in COMMANDS if name.startswith(f'{arguments[0]} ')]
    if seconds and arguments[1:2] not in (['--help'], ['-h']):
        raise ValueError(f'{second!r} is no command{near(" ".join(arguments[1:2]), seconds)}')
    return arguments[0] if arguments[0] in COMMANDS else None


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
    groups: dict[str, Any] = {}
    for name, command in COMMANDS.items():
        sub = ArgumentParser(description=command.config.__doc__, allow_abbrev=False, exit_on_error=False)
        sub.add_argument('--config', action='config', help='YAML file of options; flags after it win.')
        for positional, (count, about) in command.positionals.items():
            field = next(field for field in fields(command.config) if field.name == positional)
            options: dict[str, Any] = {'nargs': count} if count else {}
            item = str if count == '+' else field.type
            sub.add_argument(positional, type=item, help=about, **options)
        sub.add_class_arguments(command.config, None, skip=set(command.positionals))
        first, _, second = name.partition(' ')
        if second and first not in groups:
            group = ArgumentParser(description=GROUPS[first], allow_abbrev=False, exit_on_error=False)
            commands.add_subcommand(first, group, help=GROUPS[first])
            groups[first] = group.add_subcommands(required=True)
        (groups[first] if second else commands).add_subcommand(second or first, sub, help=command.summary)
    return parser


def spelled_out(name: str, arguments: Sequence[str]) -> list[str]:
    """Flags as the parser wants them: `--batch-size` with underscores, `--download` with its value true,
    lists in brackets.

    Raises:
        ValueError: A flag, or a key of a YAML file, that the command does not have; names the nearest.
    """
    config = COMMANDS[name].config
    kinds = {field.name: field.type for field in fields(config)}
    result = []
    for i, argument in enumerate(arguments):
        if not argument.startswith('--') or argument == '--':
            item = item_of(kinds, arguments[i - 1]) if i and '=' not in arguments[i - 1] else None
            result.append(argument if item is None else as_list(argument, item))
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
        if equals and (item := item_of(kinds, argument)):
            value = as_list(value, item)
        result.append(f'--{key}{dot}{rest}{equals}{value}')
    return result


def item_of(kinds: dict[str, Any], flag: str) -> type | None:
    """What the option of a flag is a list of; None where it is no list."""
    kind = kinds.get(flag.removeprefix('--').partition('=')[0].replace('-', '_')) if flag.startswith('--') else None
    return get_args(kind)[0] if get_origin(kind) is list else None


def as_list(value: str, item: type) -> str:
    """A value such as `100,200` as the list that YAML reads."""
    if value.startswith('['):
        return value
    return json.dumps(value.split(',')) if item is str else f'[{value}]'


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
