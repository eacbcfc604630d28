from __future__ import annotations

import numpy as np
import pytest

from sptcore.errors import UsageError
from sptcore.viz.heatmap import COLORMAPS, STYLES, Layer, choose_layers, colours, heat_map, overlay, upsample


def layer(mask: list[list[int]], stride: int, frame: tuple[int, int], block: int = 1) -> Layer:
    return Layer(np.array(mask, bool), stride, 3, block, frame)


def test_a_token_covers_its_stride_in_pixels() -> None:
    one = layer([[1, 0], [0, 1]], 16, (32, 32))
    grown = upsample(one, 32, 32)
    assert np.array_equal(grown, np.kron(one.mask, np.ones((16, 16), bool)))


@pytest.mark.parametrize(("height", "width"), [(20, 30), (75, 101), (31, 33), (1, 40)])
def test_upsampling_equals_a_look_at_each_pixel(height: int, width: int) -> None:
    """A frame that is no multiple of the stride, shown larger, equal and smaller than the model saw it."""
    rng = np.random.default_rng(0)
    frame = (31, 45)
    mask = rng.random((3, 4)) < 0.5  # batch padding: one row and one column more than the image has
    one = Layer(mask, 16, 3, 1, frame)
    for y in range(height):
        for x in range(width):
            row = int((y + 0.5) * frame[0] / height) // 16
            column = int((x + 0.5) * frame[1] / width) // 16
            assert upsample(one, height, width)[y, x] == mask[row, column]


def test_the_heat_map_is_the_mean_of_the_masks() -> None:
    """Fig. 5: two blocks of stride 2 and one of stride 4 on a 4 x 4 image, by hand."""
    layers = [
        layer([[1, 0], [0, 0]], 2, (4, 4)),
        layer([[1, 1], [0, 0]], 2, (4, 4), 2),
        layer([[1]], 4, (4, 4), 3),
    ]
    expected = np.array([[3, 3, 2, 2], [3, 3, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]]) / 3
    assert np.allclose(heat_map(layers, 4, 4), expected, atol=1e-7)
    assert heat_map(layers, 4, 4).dtype == np.float32
    with pytest.raises(ValueError, match="no layers"):
        heat_map([], 4, 4)


def test_the_ratio_leaves_batch_padding_out() -> None:
    one = layer([[1, 0, 1], [0, 0, 1]], 16, (17, 30))
    assert one.inside.shape == (2, 2)
    assert one.ratio == 0.25
    assert one.name == "3.1"


def test_blocks_are_chosen_by_their_number() -> None:
    layers = [layer([[1]], 16, (16, 16), block) for block in (1, 2, 3)]
    assert choose_layers(layers, "sum") == [layers]
    assert choose_layers(layers, "all") == [[one] for one in layers]
    assert choose_layers(layers, "3,1") == [[layers[2]], [layers[0]]]


@pytest.mark.parametrize("blocks", ["4", "0", "x", "1,", "-1", ""])
def test_a_block_that_is_not_there_is_refused(blocks: str) -> None:
    layers = [layer([[1]], 16, (16, 16), block) for block in (1, 2, 3)]
    with pytest.raises(UsageError, match="no such block") as caught:
        choose_layers(layers, blocks)
    assert "1 to 3" in str(caught.value.hint)


@pytest.mark.parametrize("name", COLORMAPS)
def test_colour_maps_are_rgb_and_clip(name: str) -> None:
    strip = colours(np.array([[-1.0, 0.0, 1.0, 2.0]], np.float32), name)[0]
    assert strip.shape == (4, 3)
    assert (strip[0] == strip[1]).all()
    assert (strip[2] == strip[3]).all()


def test_turbo_goes_from_dark_blue_to_red() -> None:
    low, high = colours(np.array([[0.15, 0.9]], np.float32), "turbo")[0].astype(int)
    assert low[2] > low[0]
    assert high[0] > high[2]


@pytest.mark.parametrize("style", STYLES)
def test_every_style_tells_selected_from_dropped(style: str) -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    picture = overlay(image, [layer([[1, 0], [0, 0]], 32, (64, 64))], style=style)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert (image == 128).all()
    kept, dropped = picture[16, 16].astype(int), picture[48, 48].astype(int)
    assert np.abs(kept - dropped).sum() > 30


def test_opacity_0_heat_is_the_image_and_1_the_colours() -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    layers = [layer([[1, 0, 1], [0, 0, 0]], 16, (32, 48))]
    assert np.array_equal(overlay(image, layers, opacity=0), image)
    assert np.array_equal(overlay(image, layers, opacity=1), colours(heat_map(layers, 32, 48), "turbo"))


def test_mask_style_keeps_what_was_selected() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    picture = overlay(image, [layer([[1, 0], [0, 0]], 32, (64, 64))], style="mask", opacity=0.75)
    assert (picture[4:24, 4:24] == 200).all()
    assert (picture[40:60, 40:60] == 50).all()
    assert not (picture[0, 40:] > 50).any()  # no line along the frame


def test_dots_stand_at_the_centres_of_kept_tokens_of_the_finest_grid() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    layers = [layer([[0, 1], [0, 0]], 32, (64, 64), 2), layer([[1, 0, 0, 0], *[[0] * 4] * 3], 16, (64, 64))]
    picture = overlay(image, layers, style="dots")
    lit = {(y, x) for y in range(8, 64, 16) for x in range(8, 64, 16) if picture[y, x].any()}
    assert lit == {(8, 8), (8, 40), (8, 56), (24, 40), (24, 56)}


@pytest.mark.parametrize(
    ("settings", "hint"),
    [({"style": "heart"}, "did you mean 'heat'?"), ({"colormap": "turbu"}, "did you mean 'turbo'?")],
)
def test_unknown_words_are_usage_errors(settings: dict[str, str], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        overlay(np.zeros((4, 4, 3), np.uint8), [layer([[1]], 4, (4, 4))], **settings)
    assert caught.value.hint == hint


def test_opacity_outside_0_to_1_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="opacity"):
        overlay(np.zeros((4, 4, 3), np.uint8), [layer([[1]], 4, (4, 4))], opacity=50)
