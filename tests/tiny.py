"""One small model a family: what the tests of the verbs run on."""

from typing import Any

VIT: dict[str, Any] = dict(img_size=64, patch_size=16, embed_dim=48, depth=4, num_heads=3, num_classes=11)

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    'beit': ('beit_base_patch16_224', VIT),
    'cait': ('cait_xxs24_224', VIT),
    'convnext': ('test_convnext', dict(num_classes=11)),
    'deit': ('deit_tiny_distilled_patch16_224', VIT),
    'densenet': ('densenet121', dict(block_config=(2, 2, 2, 2), growth_rate=8, num_classes=11)),
    'efficientnet': ('test_efficientnet', dict(num_classes=11)),
    'hrnet': ('hrnet_w18_small', dict(num_classes=11)),
    'mlp_mixer': ('mixer_s32_224', dict(img_size=64, embed_dim=48, num_blocks=4, num_classes=11)),
    'mobilenetv3': ('lcnet_035', dict(num_classes=11)),
    'nfnet': ('test_nfnet', dict(num_classes=11)),
    'regnet': ('regnetx_002', dict(num_classes=11)),
    'resnet': ('test_resnet', dict(num_classes=11)),
    'swin_transformer': (
        'swin_tiny_patch4_window7_224',
        dict(img_size=64, window_size=4, embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), num_classes=11),
    ),
    'vgg': ('vgg11', dict(hidden_size=32, num_classes=11)),
    'vision_transformer': ('vit_tiny_patch16_224', VIT),
}
