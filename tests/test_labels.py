"""Names of classes: the tables, and which belongs to a model."""

import re

import pytest
from torchvision.models import ResNet50_Weights

import foveal
from foveal.labels import PARTS, SUBSETS, Label, labels_of, subset_of, table


def test_imagenet_is_in_the_order_of_its_ids_with_torchvision_s_names() -> None:
    labels = table('imagenet-1k')
    ids = [label.name for label in labels]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r'n\d{8}', each) for each in ids)
    assert [label.description for label in labels] == ResNet50_Weights.IMAGENET1K_V2.meta['categories']


@pytest.mark.parametrize(
    ('index', 'label'),
    [  # as ILSVRC 2012 publishes them
        (0, Label('n01440764', 'tench')),
        (134, Label('n02012849', 'crane bird')),
        (285, Label('n02124075', 'Egyptian cat')),
        (517, Label('n03126707', 'crane')),
        (985, Label('n11939491', 'daisy')),
        (999, Label('n15075141', 'toilet tissue')),
    ],
)
def test_classes_that_everybody_knows(index: int, label: Label) -> None:
    found = table('imagenet-1k')[index]
    assert (found.name, found.description) == (label.name, label.description)


def test_tables_have_the_classes_that_they_promise() -> None:
    for name, (count, _) in SUBSETS.items():
        labels = table(name)
        assert len({label.name for label in labels}) == len(labels) == count
        assert all(label.description and label.definition for label in labels)
        in_order = labels[1000:] if name == 'imagenet-22k-ms' else labels
        assert list(in_order) == sorted(in_order, key=lambda label: label.name)
    assert table('imagenet-22k-ms')[:1000] == table('imagenet-1k')


@pytest.mark.parametrize(
    ('subset', 'index'),
    [
        ('imagenet-12k', 1424),
        ('imagenet-21k', 2167),
        ('imagenet-21k-miil', 1386),
        ('imagenet-22k', 2167),
        ('imagenet-22k-ms', 3016),
    ],
)
def test_larger_sets_number_a_class_as_published(subset: str, index: int) -> None:
    """The place of the dog, measured on timm 1.0.31; its name and meaning are WordNet's."""
    label = table(subset)[index]
    assert label.name == 'n02084071'
    assert label.description == 'dog, domestic dog, Canis familiaris'
    assert label.definition.startswith('a member of the genus Canis')


@pytest.mark.parametrize(
    ('part', 'first', 'last'),
    [  # as their authors' evaluation numbers them: github.com/hendrycks
        (
            'imagenet-a',
            [6, 11, 13, 15, 17, 22, 23, 27, 30, 37, 39, 42, 47, 50, 57, 70, 71, 76, 79, 89],
            [986, 987, 988],
        ),
        ('imagenet-r', [1, 2, 4, 6, 8, 9, 11, 13, 22, 23, 26, 29, 31, 39, 47, 63, 71, 76, 79, 84], [981, 983, 988]),
    ],
)
def test_parts_of_imagenet_have_two_hundred_of_its_classes(part: str, first: list[int], last: list[int]) -> None:
    ids = [label.name for label in table('imagenet-1k')]
    numbers = [ids.index(label.name) for label in table(part)]
    assert len(numbers) == PARTS[part][0] == 200
    assert numbers == sorted(set(numbers))
    assert (numbers[: len(first)], numbers[-len(last) :]) == (first, last)


def test_two_hundred_classes_are_not_taken_for_a_part() -> None:
    """Tiny ImageNet has as many, and others."""
    assert subset_of({'num_classes': 200}) is None


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ValueError, match=r"'imagenet-1'; did you mean 'imagenet-1k'"):
        table('imagenet-1')


@pytest.mark.parametrize(
    ('name', 'subset'),
    [
        ('resnet50.a1_in1k', 'imagenet-1k'),
        ('convnext_tiny.fb_in22k', 'imagenet-22k'),
        ('vit_small_patch14_dinov2.lvd142m', None),
    ],
)
def test_the_table_of_published_weights(name: str, subset: str | None) -> None:
    assert subset_of(foveal.get_pretrained_cfg(name)) == subset


def test_labels_of_a_model() -> None:
    model = foveal.create_model('test_resnet')
    assert labels_of(model) == table('imagenet-1k')
    model.reset_classifier(5)
    assert labels_of(model) is None, 'other classes than those of the weights'
    assert labels_of(foveal.create_model('test_resnet', num_classes=5)) is None


def test_names_in_the_record_go_first() -> None:
    said = {'num_classes': 2, 'label_names': ('n1', 'n2'), 'label_descriptions': {'n2': 'a cup'}}
    model = foveal.create_model('test_resnet', pretrained_cfg_overlay=said)
    assert labels_of(model) == (Label('n1', 'n1'), Label('n2', 'a cup'))
