"""What all augmentations share: normalization, arrays, and a generator of a sample's own."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from tasks.data.augment import MEAN_PIXEL, as_array, as_tensor, normalize
from tasks.data.dataloader import seeded_rng


def test_normalized_bytes_are_torchvisions_normalisation():
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    theirs = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    before = images.clone()
    assert torch.allclose(normalize(images), theirs(images), atol=1e-5)
    assert torch.equal(images, before)
    fill = torch.tensor(MEAN_PIXEL, dtype=torch.uint8).view(3, 1, 1)
    assert normalize(fill).abs().max() < 0.01  # the padding is the mean


def test_normalization_leaves_images_of_floats_alone():
    images = torch.full((3, 2, 2), 100.0)
    normalize(images)
    assert (images == 100).all()


def test_arrays_and_tensors_of_any_strides_are_the_same_pixels():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    for each in (image, image.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        pixels = as_array(each)
        assert pixels.flags.c_contiguous and pixels.shape == (5, 7, 3)
        assert (pixels[2, 4] == image[:, 2, 4].numpy()).all()
        assert torch.equal(as_tensor(pixels), image)
    flipped = as_tensor(pixels[:, ::-1])
    assert flipped.is_contiguous() and torch.equal(flipped, image.flip(-1))


def test_what_is_drawn_depends_on_the_words_alone_and_leaves_no_trace():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    torch.set_num_threads(2)

    def draw(seed: int) -> Tensor:
        with seeded_rng("x", seed):
            assert torch.get_num_threads() == 1
            return torch.rand(4)

    a, b, c = draw(1), draw(1), draw(2)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == 2
    with pytest.raises(KeyError), seeded_rng("x", 1):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == 2
