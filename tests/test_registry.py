"""Names, records and search, against the facts of the published checkpoints and against themselves."""

import csv
import importlib
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import foveal
from foveal import catalog, registry
from foveal.commands.models import ModelsConfig, run
from tests import reference

PUBLISHED = {arch: (module, tags, with_weights) for arch, module, tags, with_weights in reference.rows('pretrained')}
LISTINGS = list(reference.rows('list_models'))
FAMILIES = sorted(m for m in catalog.catalog().modules if (Path(foveal.__file__).parent / f'models/{m}.py').exists())


@pytest.fixture
def own_models(monkeypatch):
    """Lets a test register models that are gone after it."""
    monkeypatch.setattr(registry, '_own', dict(registry._own))
    monkeypatch.setattr(registry.catalog(), 'archs', dict(registry.catalog().archs))


def listed(value):
    return [listed(v) for v in value] if isinstance(value, tuple) else value


def test_records_are_the_published_ones():
    for arch, (module, tags, with_weights) in PUBLISHED.items():
        assert catalog.catalog().archs[arch].module == module
        records = registry.get_arch_pretrained_cfgs(arch)
        assert list(records) == [f'{arch}.{tag}' if tag else arch for tag in tags], 'the tags, the default one first'
        for (name, record), (tag, published) in zip(records.items(), tags.items(), strict=True):
            expected = published | {'architecture': arch} | ({'tag': tag} if tag else {})
            if expected.get('hf_hub_id') == 'timm/':
                expected['hf_hub_id'] = f'timm/{name}'
            assert {key: listed(value) for key, value in record.items()} == expected, name
            assert record.has_weights == (tag in with_weights), name


def test_architectures_are_the_published_ones():
    for name, fact in reference.models().items():
        arch = catalog.catalog().archs[name]
        assert arch.params == fact['params'], name
        assert listed(arch.features) == fact['features'], name
    assert set(foveal.list_models()) == set(reference.models())


@pytest.mark.parametrize('family', FAMILIES)
def test_a_family_registers_what_its_zoo_file_names(family):
    importlib.import_module(f'foveal.models.{family}')
    registered = {n: v.cls.__name__ for n, v in registry._variants.items() if v.module == family}
    assert registered == {a.name: a.class_name for a in catalog.catalog().archs.values() if a.module == family}


@pytest.mark.parametrize('listing', LISTINGS, ids=lambda listing: json.dumps(listing['arguments']))
def test_listing_selects_what_is_published(listing):
    assert foveal.list_models(**listing['arguments']) == listing['names']


def test_listing_is_in_natural_order():
    names = foveal.list_models('resnet*')
    assert names.index('resnet18') < names.index('resnet50') < names.index('resnet101')


def test_list_pretrained_and_modules():
    assert foveal.list_pretrained('vgg1[13]') == ['vgg11.tv_in1k', 'vgg13.tv_in1k']
    assert foveal.list_modules() == sorted({module for module, *_ in PUBLISHED.values()})


@pytest.mark.parametrize(
    ('name', 'known', 'pretrained'),
    [
        ('resnet50', True, True),
        ('resnet50.a1_in1k', True, True),
        ('resnet50.nosuch', False, False),
        ('resnet5', False, False),
        ('', False, False),
        ('convnext_atto_rms', True, False),
        ('convnext_atto_rms.untrained', True, False),
        ('tv_resnet50', True, True),
    ],
)
def test_is_model(name, known, pretrained):
    assert foveal.is_model(name) is known
    assert foveal.is_model_pretrained(name) is pretrained


def test_split_name():
    assert registry.split_model_name_tag('resnet50.a1_in1k') == ('resnet50', 'a1_in1k')
    assert registry.split_model_name_tag('resnet50', no_tag='none') == ('resnet50', 'none')
    assert registry.split_model_name_tag('a.b.c') == ('a', 'b.c')
    assert registry.get_arch_name('resnet50.a1_in1k') == 'resnet50'


def test_deprecated_names_lead_to_known_ones():
    for old, new in registry.get_deprecated_models().items():
        arch, tag = registry.resolve(old)
        assert new in (arch, f'{arch}.{tag}')
        assert old not in foveal.list_models()
    assert registry.get_deprecated_models('vgg') == {}
    assert registry.get_deprecated_models('resnet')['tv_resnet50'] == 'resnet50.tv_in1k'
    assert registry.resolve('tv_resnet50.a1_in1k') == ('resnet50', 'a1_in1k')


def test_deprecated_name_warns_once_and_names_the_new_one():
    with pytest.warns(
        FutureWarning, match=r"'convnext_tiny_in22k' is deprecated, use 'convnext_tiny\.fb_in22k'"
    ) as seen:
        model = foveal.create_model('convnext_tiny_in22k', depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    assert len(seen) == 1
    assert model.pretrained_cfg.tag == 'fb_in22k'


def test_default_tag_and_record_of_a_name():
    assert foveal.get_pretrained_cfg('resnet50').tag == 'a1_in1k'
    assert foveal.get_pretrained_cfg('resnet50.tv_in1k').license == 'bsd-3-clause'
    assert foveal.get_pretrained_cfg('nosuch') is None
    assert foveal.get_pretrained_cfg_value('resnet50', 'input_size') == (3, 224, 224)
    assert foveal.get_pretrained_cfg_value('resnet50', 'label_offset') is None
    assert registry.get_arch_pretrained_cfgs('nosuch') == {}


def test_record_reads_as_object_and_as_mapping():
    record = foveal.get_pretrained_cfg('vit_tiny_patch16_224.augreg_in21k')
    assert record['mean'] == record.mean == record.get('mean') == (0.5, 0.5, 0.5)
    assert record['pool_size'] is None, 'model code reads it of every model'
    assert 'test_input_size' not in record
    assert record.test_input_size is None
    assert dict(record) == record.to_dict()
    assert foveal.PretrainedCfg.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert pickle.loads(pickle.dumps(record)) == record
    for key in ('test_input_size', 'nosuch', 'has_weights'):
        with pytest.raises(KeyError, match=key):
            record[key]
    with pytest.raises(AttributeError):
        record.mean = (0, 0, 0)


@pytest.mark.parametrize(
    ('call', 'said'),
    [
        (lambda: registry.resolve('resnet5o'), r"unknown model 'resnet5o'; did you mean 'resnet50"),
        (
            lambda: registry.resolve('resnet50.nosuch'),
            r"resnet50 has no weights tagged 'nosuch'; it has a1_in1k, a1h_in1k",
        ),
        (lambda: registry.find_variant('convnexttiny'), r"did you mean 'convnext_tiny"),
        (lambda: foveal.create_model('zzzzzz'), r"unknown model 'zzzzzz'"),
        (lambda: foveal.get_pretrained_cfg('resnet50.nosuch'), r'no weights tagged'),
        (lambda: foveal.get_pretrained_cfg('nosuch', allow_unregistered=False), r"unknown model 'nosuch'"),
        (lambda: foveal.get_pretrained_cfg_value('nosuch', 'mean'), r"unknown model 'nosuch'"),
        (lambda: foveal.PretrainedCfg.from_dict({'meen': 1}), r'unknown pretrained cfg field: meen; known are .*mean'),
        (lambda: foveal.register_model(name='a.b')(nn.Identity), r"cannot hold a dot, got 'a\.b'"),
        (
            lambda: registry.register('x.other', nn.Identity, convnext_tiny={}),
            r'registered by convnext, and again by other',
        ),
        (lambda: foveal.search(pramas=3), r"unknown field 'pramas' of a model; did you mean 'params'"),
        (lambda: foveal.search(sort='-size'), r"unknown field 'size' of a model"),
        (lambda: foveal.search(params='<ten'), r'params takes a number, a comparison.*got .<ten'),
        (lambda: foveal.search(params=True), r'params takes a number'),
        (lambda: foveal.search(params='3..2'), r'params: the range .3\.\.2. is empty'),
        (lambda: foveal.search(license=3), r'license takes a wildcard'),
        (lambda: foveal.search(pretrained='yes'), r'pretrained is either True or False'),
        (lambda: run(ModelsConfig(limit=0)), r'limit must be at least 1, got 0'),
    ],
)
def test_mistakes_are_named(call, said):
    importlib.import_module('foveal.models.convnext')
    with pytest.raises(ValueError, match=said):
        call()


def test_unknown_model_is_a_runtime_error_too():
    with pytest.raises(RuntimeError, match='unknown model'):
        foveal.create_model('nosuch')


@pytest.mark.usefixtures('own_models')
def test_own_function_and_class_become_models():
    @foveal.register_model
    def my_net(pretrained=False, **options):
        return nn.Linear(1, options.get('num_classes', 7), bias=pretrained)

    @foveal.register_model(
        name='my_other', cfg={'input_size': (3, 64, 64), 'tag': 'v1', 'url': 'https://example.com/w'}
    )
    class MyOther(nn.Module):
        pass

    assert foveal.list_models('my_*') == ['my_net', 'my_other']
    assert foveal.list_models('my_*', pretrained=True) == ['my_other.v1']
    assert foveal.list_models(module='test_registry') == ['my_net', 'my_other']
    assert foveal.is_model('my_net')
    assert not foveal.is_model_pretrained('my_net')
    assert foveal.get_pretrained_cfg('my_other').input_size == (3, 64, 64)
    assert [record.name for record in foveal.search('my_*', input_size='<100')] == ['my_other.v1']
    assert foveal.create_model('my_net', num_classes=3).out_features == 3
    assert isinstance(foveal.create_model('my_other'), MyOther)
    with pytest.raises(ValueError, match='my_other is built by the class MyOther, which has no weights to load'):
        foveal.create_model('my_other', pretrained=True)


@pytest.mark.usefixtures('own_models')
def test_registering_again_warns_and_replaces(monkeypatch):
    with pytest.warns(UserWarning, match='convnext_atto is registered again'):

        @foveal.register_model
        def convnext_atto(pretrained=False):  # noqa: ARG001
            return nn.Identity()

    assert isinstance(foveal.create_model('convnext_atto'), nn.Identity)
    assert foveal.list_models('convnext_atto', include_tags=True) == ['convnext_atto']
    monkeypatch.setattr(registry, '_variants', {})
    registry.register('foveal.models.convnext', nn.Identity, convnext_atto={})
    assert registry.find_variant('convnext_atto').cls is convnext_atto, 'whether the family came before or after'


def test_architectures_are_functions_of_the_models_package():
    assert foveal.models.convnext_atto(num_classes=3, depths=(1, 1, 1, 1)).num_classes == 3
    assert foveal.models.convnext is importlib.import_module('foveal.models.convnext')
    assert {'convnext_atto', 'convnext'} <= set(dir(foveal.models))
    with pytest.raises(AttributeError, match='nosuch'):
        _ = foveal.models.nosuch


@pytest.mark.parametrize(
    ('conditions', 'meets'),
    [
        ({'params': '<10e6'}, lambda r: r.params < 10e6),
        ({'params': '5e6..20e6'}, lambda r: 5e6 <= r.params <= 20e6),
        ({'input_size': 224}, lambda r: r.input_size == 224),
        ({'input_size': [256, '>= 384']}, lambda r: r.input_size == 256 or r.input_size >= 384),
        ({'num_classes': '!=1000'}, lambda r: r.num_classes != 1000),
        ({'license': 'APACHE*', 'pretrained': True}, lambda r: r.license == 'apache-2.0' and r.pretrained),
        ({'module': ['vgg', 'hrnet']}, lambda r: r.module in ('vgg', 'hrnet')),
        ({'reduction': 8, 'fixed_input_size': False}, lambda r: 8 in r.reduction and not r.fixed_input_size),
        ({'top1': '>=85'}, lambda r: r.top1 is not None and r.top1 >= 85),
        ({'measured_by': 'torchvision'}, lambda r: r.measured_by == 'torchvision' and r.top5 > r.top1),
        ({'channels': '>2048'}, lambda r: max(r.channels) > 2048),
        ({'paper': '*2301.00808'}, lambda r: r.paper == 'arXiv:2301.00808'),
    ],
)
def test_search_finds_what_meets_the_conditions(conditions, meets):
    everything = foveal.search()
    assert [r.name for r in everything] == foveal.list_models(include_tags=True)
    found = foveal.search(**conditions)
    assert 0 < len(found) < len(everything)
    assert found == [record for record in everything if meets(record)]


def test_search_sorts():
    params = [record.params for record in foveal.search('vgg*', sort='-params')]
    assert params == sorted(params, reverse=True)
    found = foveal.search(['resnet50', 'vgg11'], sort=['license', '-crop_pct'])
    known = [(record.license, -record.crop_pct) for record in found if record.license]
    assert known == sorted(known)
    assert found[-1].name == 'resnet50.bamboo', 'what is not known comes last'
    resnets = foveal.search('resnet50', sort='-top1')
    assert [r.name for r in resnets][:2] == ['resnet50.tv2_in1k', 'resnet50.tv_in1k']
    assert resnets[2].top1 is None


def test_command_prints_a_table(capsys):
    assert run(ModelsConfig(filter='convnext*', params='<5e6', sort='params', pretrained=True, limit=2)) == 0
    said = capsys.readouterr()
    head, *rows = said.out.splitlines()
    assert head.split() == ['model', 'params', 'input', 'classes', 'top-1', 'strides', 'licence', 'paper', 'weights']
    assert [row.split()[:2] for row in rows] == [
        ['convnext_zepto_rms.ra4_e3600_r224_in1k', '2.2'],
        ['convnext_zepto_rms_ols.ra4_e3600_r224_in1k', '2.2'],
    ]
    assert 'shown' in said.err


def test_command_prints_csv_and_json(capsys):
    assert run(ModelsConfig(filter='vgg11', format='csv', tags=True)) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row['name'], row['params'], row['reduction']) == ('vgg11.tv_in1k', '132863336', '1/2/4/8/16/32')
    assert run(ModelsConfig(filter='resnet50', format='json', tags=True)) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record['name'] for record in records] == foveal.list_models('resnet50', include_tags=True)


def test_command_shows_an_architecture_once(capsys):
    assert run(ModelsConfig(filter='resnet50', format='json')) == 0
    assert [record['tag'] for record in json.loads(capsys.readouterr().out)] == ['a1_in1k']


def test_command_says_when_nothing_is_found(capsys):
    assert run(ModelsConfig(params='<1')) == 1
    assert 'no model meets these conditions' in capsys.readouterr().err


def test_looking_up_imports_no_torch():
    code = (
        'import sys, foveal; from foveal.commands.models import ModelsConfig, run;'
        'foveal.list_models(); foveal.get_pretrained_cfg("resnet50"); foveal.is_model("vgg11"); dir(foveal);'
        'run(ModelsConfig(params="<2e6")); foveal.PretrainedCfg;'
        'heavy = {"torch", "torchvision", "numpy", "PIL", "jsonargparse"} & set(sys.modules); assert not heavy, heavy'
    )
    subprocess.run([sys.executable, '-W', 'error', '-c', code], check=True, capture_output=True)
