"""Rules of the house that a reader could otherwise break without noticing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import foveal
from foveal.models.backbone import Backbone

ROOT = Path(foveal.__file__).parent
SHARED = {'__init__', 'backbone', 'tokens', 'distilled', 'mbconv', 'pruned'}
FAMILY_FILES = sorted(p for p in (ROOT / 'models').glob('*.py') if p.stem not in SHARED)

HOOKS = {'embed', 'step', 'finish', 'to_map', 'trunk'}
# what a family may say besides the hooks: how it is built, and facts that are its own
BUILDING = {'build', 'init_weights', 'no_weight_decay'}
# verb -> families that override it, each with its reason
ALLOWED = {
    ('beit', 'set_input_size'),  # tables of relative positions follow the grid
    ('cait', 'prune_intermediate_layers'),  # what runs on the class token is part of the head
    ('cait', 'layer_depths'),  # ... and published recipes do not count it
    ('swin_transformer', 'set_input_size'),  # windows follow the size of the image
    ('mobilenetv3', 'pool'),  # a convolution follows the pooling, and takes a map of one position
    ('mobilenetv3', 'reset_pool'),  # ... whose channels the pooling must not double
    ('mlp_mixer', 'set_input_size'),  # token mixing has a weight for every patch: another size is refused
    ('deit', 'pool'),  # two tokens are classified
}


def verbs() -> set[str]:
    """What every model can do: the public methods of `Backbone`."""
    return {name for name, value in vars(Backbone).items() if callable(value) and not name.startswith('_')}


@pytest.mark.parametrize('path', FAMILY_FILES, ids=lambda p: p.stem)
def test_a_family_overrides_hooks_only(path: Path) -> None:
    """The verbs stand once, in backbone.py: a class of a family that is a model defines none of them."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and any(
            isinstance(n, ast.FunctionDef) and n.name == 'build' for n in node.body
        ):
            defined = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
            redone = {name for name in defined & verbs() - HOOKS - BUILDING if (path.stem, name) not in ALLOWED}
            assert not redone, f'{path.name}: {node.name} overrides {redone}'


def test_the_exceptions_are_used() -> None:
    """An exception that no family needs any more goes."""
    for family, verb in ALLOWED:
        assert f'def {verb}(' in (ROOT / 'models' / f'{family}.py').read_text(), (family, verb)


@pytest.mark.parametrize('path', FAMILY_FILES, ids=lambda p: p.stem)
def test_family_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 900


@pytest.mark.parametrize('code', ['import foveal; foveal.list_models()', 'import foveal; foveal.search(params="<1e6")'])
def test_listing_imports_no_torch(code: str) -> None:
    check = (
        f'{code}; import sys; assert not {{"torch", "torchvision", "numpy"}} & set(sys.modules), sorted(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', check], check=True)


def test_public_functions_have_docstrings() -> None:
    bare = []
    for path in sorted(ROOT.rglob('*.py')):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            bare.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_')
            if public and not ast.get_docstring(node) and not overload(node):
                bare.append(f'{path.relative_to(ROOT)}:{node.name}')
    assert not bare


def overload(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == 'overload' for d in node.decorator_list)
