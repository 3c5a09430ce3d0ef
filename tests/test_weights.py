"""Published weights, through a record that names a file, fitted to other inputs and classes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import foveal
from foveal.weights import WeightsError, adapt_input_channels


@pytest.fixture
def published(tmp_path: Path):
    """A model, and what to lay over the record so that its weights are the published ones."""
    torch.manual_seed(0)
    model = foveal.create_model('test_convnext').eval()
    save_file(model.state_dict(), tmp_path / 'model.safetensors')
    return model, {'file': str(tmp_path / 'model.safetensors')}


def test_the_weights_of_the_record_are_loaded(published) -> None:
    model, overlay = published
    x = torch.randn(1, 3, 160, 160)
    loaded = foveal.create_model('test_convnext', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))


def test_other_classes_leave_the_classifier_new(published) -> None:
    model, overlay = published
    x = torch.randn(1, 3, 160, 160)
    loaded = foveal.create_model('test_convnext', pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay).eval()
    with torch.inference_mode():
        assert loaded(x).shape == (1, 7)
        assert torch.equal(loaded.forward_features(x), model.forward_features(x))


def test_no_classes(published) -> None:
    model, overlay = published
    x = torch.randn(1, 3, 160, 160)
    loaded = foveal.create_model('test_convnext', pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(x), model.forward_head(model.forward_features(x), pre_logits=True))


def test_a_grey_image_gives_what_three_equal_channels_gave(published) -> None:
    model, overlay = published
    loaded = foveal.create_model('test_convnext', pretrained=True, in_chans=1, pretrained_cfg_overlay=overlay).eval()
    grey = torch.randn(1, 1, 160, 160)
    with torch.inference_mode():
        # the sum over channels is taken in another order: a few units in the last place, through nine blocks
        torch.testing.assert_close(loaded(grey), model(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 13])
def test_constant_images_give_the_same_in_any_number_of_channels(channels: int) -> None:
    weight = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    weight[:, 1] = weight[:, 2] = weight[:, 0]  # equal channels: their sum is kept, whatever is cut off
    adapted = adapt_input_channels(weight, channels)
    torch.testing.assert_close(adapted.sum(1), weight.sum(1), rtol=1e-12, atol=1e-12)


def test_leading_classes_are_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = foveal.create_model('test_convnext', num_classes=1001).state_dict()
    save_file(weights, tmp_path / 'model.safetensors')
    overlay = {'file': str(tmp_path / 'model.safetensors'), 'label_offset': 1}
    loaded = foveal.create_model('test_convnext', pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(loaded.head.fc.weight, weights['head.fc.weight'][1:])


def test_no_weights_is_an_error() -> None:
    with pytest.raises(WeightsError, match='no published weights'):
        foveal.create_model('test_convnext', pretrained=True, pretrained_cfg={'architecture': 'test_convnext'})


def test_without_a_network_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(WeightsError, match=r'cannot fetch model\.safetensors of timm/test_convnext'):
        foveal.create_model('test_convnext', pretrained=True, cache_dir=tmp_path)
