"""Cards of published weights, and the records of every tag as models are built from them."""

import json
from pathlib import Path

import pytest
import torch

import foveal
from foveal.cli import main
from foveal.commands.model import lines
from foveal.registry import catalog
from tests import reference

PUBLISHED = {arch: (module, tags) for arch, module, tags, _ in reference.rows('pretrained')}
IMPLEMENTED = {path.stem for path in (Path(foveal.__file__).parent / 'models').glob('*.py')}


def test_every_tag_of_every_implemented_family_resolves_to_its_published_record() -> None:
    count = 0
    for arch, (module, tags) in PUBLISHED.items():
        for tag, published in tags.items() if module in IMPLEMENTED else ():
            name = f'{arch}.{tag}' if tag else arch
            record = json.loads(json.dumps(foveal.get_pretrained_cfg(name).to_dict()))
            expected = {'architecture': arch, **({'tag': tag} if tag else {}), **published}
            if expected.get('hf_hub_id') == 'timm/':
                expected['hf_hub_id'] = f'timm/{name}'
            assert record == expected, name
            count += 1
    assert count > 900


@pytest.mark.parametrize('module', sorted(IMPLEMENTED & {module for module, _ in PUBLISHED.values()}))
def test_a_model_is_built_as_the_record_of_its_tag_says(module: str) -> None:
    """For each family, the tags that say the most different things: classes and size of input."""
    seen = set()
    for arch, (family, tags) in PUBLISHED.items():
        for tag, record in tags.items() if family == module else ():
            said = record['num_classes'], tuple(record['input_size']), record.get('fixed_input_size', False)
            if said in seen or not tag or len(seen) > 5:
                continue
            seen.add(said)
            with torch.device('meta'):
                model = foveal.create_model(f'{arch}.{tag}')
            assert model.num_classes == record['num_classes']
            assert list(model.input_shape) == record['input_size']
    assert seen


def test_cards_of_everything_can_be_made() -> None:
    for arch in catalog().archs.values():
        for tag in arch.weights:
            card = dict(lines(arch, tag, arch.cfg(tag)))
            assert all(text for title, text in card.items() if title != 'tags'), (arch.name, tag)
            assert {'model', 'input', 'classes', 'preprocessing', 'weights'} <= card.keys()


def test_a_card_says_what_is_published(capsys: pytest.CaptureFixture) -> None:
    assert main(['model', 'resnet50.a1_in1k']) == 0
    said = ' '.join(capsys.readouterr().out.split())
    for fact in (
        '25.6 M', '224 x 224, 3 channels', '288 x 288', 'bicubic, crop 0.95 (center)', 'mean 0.485 0.456 0.406',
        '2048 channels at 1/32', 'apache-2.0', 'arXiv:2110.00476', 'hf-hub:timm/resnet50.a1_in1k', 'tv2_in1k',
    ):  # fmt: skip
        assert fact in said


def test_a_card_as_json(capsys: pytest.CaptureFixture) -> None:
    assert main(['model', 'resnet50', '--format', 'json']) == 0
    card = json.loads(capsys.readouterr().out)
    assert card['name'] == 'resnet50.a1_in1k'
    assert card['mean'] == [0.485, 0.456, 0.406]
    assert card['features'][-1] == {'channels': 2048, 'reduction': 32}


def test_an_unknown_model_has_no_card(capsys: pytest.CaptureFixture) -> None:
    assert main(['model', 'resnet5o']) == 2
    assert "did you mean 'resnet50" in capsys.readouterr().err
