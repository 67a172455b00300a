"""Pictures: exact colours, blending by hand, readable legends, the layout of the contact sheet."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from desertmind_seg.model.ontology import UNLABELED, Ontology, load_ontology
from desertmind_seg.pipeline.rendering import (
    colorize,
    colorize_confidence,
    contact_sheet,
    legend,
    overlay,
)

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope='module')
def ontology() -> Ontology:
    return load_ontology('ycor-8')


@pytest.fixture
def mask() -> Image:
    """Every class once and UNLABELED, (3, 5): not square."""
    ids = np.full(15, UNLABELED, np.uint8)
    ids[:8] = range(8)
    return ids.reshape(3, 5)


def count_pixels(image: Image, color: tuple[int, int, int]) -> int:
    return int((image == np.array(color, np.uint8)).all(axis=-1).sum())


def test_colorize_is_a_look_up(ontology: Ontology, mask: Image) -> None:
    painted = colorize(mask, ontology)
    assert painted.dtype == np.uint8
    assert painted.tolist() == ontology.colors_rgb[mask].tolist()
    assert painted[0, 4].tolist() == [255, 0, 0]  # obstacle, in RGB order
    assert painted[2, 4].tolist() == [0, 0, 0]


def test_overlay_by_hand(ontology: Ontology) -> None:
    rgb = np.empty((2, 3, 3), np.uint8)
    rgb[:] = (10, 100, 200)
    mask = np.array([[4, 7, 255], [255, 4, 4]], np.uint8)  # obstacle (255, 0, 0), sky (1, 88, 255)
    blended = overlay(rgb, mask, ontology, alpha=0.25)
    # 0.75 * (10, 100, 200) + 0.25 * colour, rounded half to even by OpenCV.
    assert blended[0, 0].tolist() == [71, 75, 150]
    assert blended[0, 1].tolist() == [8, 97, 214]
    assert blended[0, 2].tolist() == blended[1, 0].tolist() == [10, 100, 200]
    assert rgb[0, 0].tolist() == [10, 100, 200]  # the frame is not touched
    assert np.array_equal(overlay(rgb, mask, ontology, alpha=0.0), rgb)


@pytest.mark.parametrize('alpha', [-0.1, 1.5, float('nan')])
def test_overlay_refuses_impossible_alpha(ontology: Ontology, alpha: float) -> None:
    with pytest.raises(ValueError, match=f'alpha is {alpha}; expected 0.0'):
        overlay(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8), ontology, alpha)


def test_overlay_refuses_another_size(ontology: Ontology) -> None:
    with pytest.raises(ValueError, match=r'frame has shape \(2, 3, 3\), mask \(3, 2\); sizes'):
        overlay(np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2), np.uint8), ontology)


def test_confidence_gets_brighter(ontology: Ontology) -> None:
    ramp = colorize_confidence(np.arange(256, dtype=np.uint8)[None])
    luminance = cv2.cvtColor(ramp, cv2.COLOR_RGB2GRAY)[0].astype(int)
    assert (np.diff(luminance) >= -1).all()
    assert luminance[-1] - luminance[0] > 150
    assert ramp[0, 0, 2] > ramp[0, 0, 1]  # dark blue, not dark red
    assert ramp[0, -1, 0] > 200 > ramp[0, -1, 2]  # yellow


@pytest.mark.parametrize(
    ('name', 'height_px'), [('ycor-8', 400), ('ycor-8', 60), ('goose-64', 300), ('nyuv2-40', 240)]
)
def test_legend_shows_every_class(name: str, height_px: int) -> None:
    ontology = load_ontology(name)
    drawn = legend(ontology, height_px)
    assert drawn.shape[0] == height_px
    for entry in ontology.classes:
        # Swatches are about 15 pixels wide at the smallest row of 24.
        assert count_pixels(drawn, entry.color_rgb) >= 12 * 12, entry.name
    assert count_pixels(drawn, (0, 0, 0)) >= 12 * 12


def test_legend_needs_room(ontology: Ontology) -> None:
    with pytest.raises(ValueError, match='height_px is 10; a legend needs at least 24'):
        legend(ontology, 10)


def test_contact_sheet_layout(ontology: Ontology) -> None:
    rgb = np.empty((90, 120, 3), np.uint8)
    rgb[:] = (12, 34, 56)
    mask = np.full((90, 120), 3, np.uint8)  # puddle
    confidence = np.full((90, 120), 255, np.uint8)
    sheet = contact_sheet([(rgb, mask, confidence), (rgb, mask, None)], ontology, column_px=240)
    cell = 240 * 180
    assert count_pixels(sheet, (12, 34, 56)) == 2 * cell
    puddles = count_pixels(sheet, (255, 0, 128))
    assert 2 * cell + 100 < puddles < 2 * cell + 2000  # and its swatch
    yellow = tuple(colorize_confidence(confidence)[0, 0].tolist())
    assert cell <= count_pixels(sheet, yellow) < cell + 500  # one row has none; and the scale
    ys, xs = np.nonzero((sheet == (12, 34, 56)).all(axis=-1))
    mask_xs = np.nonzero((sheet[ys[0]] == (255, 0, 128)).all(axis=-1))[0]
    assert xs.max() < mask_xs.min()  # frame left of mask


def test_contact_sheet_has_a_column_of_marked_frames(ontology: Ontology) -> None:
    rgb = np.zeros((90, 120, 3), np.uint8)
    mask = np.full((90, 120), 3, np.uint8)  # puddle
    confidence = np.full((90, 120), 255, np.uint8)
    rows = [(rgb, mask, confidence)] * 2
    red = np.full_like(rgb, (201, 3, 5))
    sheet = contact_sheet(rows, ontology, column_px=240, marked=('hazards', [red, None]))
    assert count_pixels(sheet, (201, 3, 5)) == 240 * 180  # the second row has none
    assert sheet.shape[1] == contact_sheet(rows, ontology, column_px=240).shape[1] + 240 + 6
    xs = np.nonzero((sheet == (201, 3, 5)).all(axis=-1))[1]
    puddle = np.nonzero((sheet[60:240] == (255, 0, 128)).all(axis=-1))[1]
    assert np.nonzero(puddle < xs.min())[0].size  # right of the mask
    with pytest.raises(ValueError, match='1 marked pictures for 2 rows'):
        contact_sheet(rows, ontology, marked=('hazards', [red]))


def test_contact_sheet_scales_rows_of_any_size(ontology: Ontology) -> None:
    rows = [
        (np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8), np.zeros((h, w), np.uint8))
        for h, w in ((64, 64), (97, 131), (720, 1280))
    ]
    titles = ['one', 'two', 'three']
    plain = contact_sheet(rows, ontology)
    titled = contact_sheet(rows, ontology, titles)
    assert titled.shape[1] == plain.shape[1]
    assert titled.shape[0] > plain.shape[0]


def test_contact_sheet_refusals(ontology: Ontology) -> None:
    row = (np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8), None)
    with pytest.raises(ValueError, match='needs at least one row'):
        contact_sheet([], ontology)
    with pytest.raises(ValueError, match='2 titles for 1 rows; give one a row'):
        contact_sheet([row], ontology, ['a', 'b'])
