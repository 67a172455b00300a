"""Pictures of masks for people: colour masks, overlays, a legend, a contact sheet."""

from collections.abc import Sequence
from math import ceil
from typing import cast

import cv2
import numpy as np

from desertmind_seg.model.arrays import Depth, Mask, Rgb
from desertmind_seg.model.ontology import UNLABELED, Ontology

_PAPER = (250, 250, 248)
_INK = (38, 38, 42)
_FAINT = (150, 150, 150)
_WRONG_RGB = (214, 40, 40)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Below 24 pixels a row the names in a report can no longer be read.
_LEGEND_ROW_PX = (24, 42)
_CONFIDENCE_COLORS = cv2.applyColorMap(
    np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS
)[..., ::-1].copy()


def colorize(mask: Mask, ontology: Ontology) -> Rgb:
    """Paint a mask (H, W) uint8 in its classes' colours, (H, W, 3) uint8 RGB; UNLABELED black."""
    # 0.8 ms at 1280 x 720, where indexing the table takes 13 ms.
    return cast('Rgb', cv2.applyColorMap(mask, ontology.colors_rgb[:, None]))


def overlay(rgb: Rgb, mask: Mask, ontology: Ontology, alpha: float = 0.5) -> Rgb:
    """Blend a mask over its frame.

    Args:
        rgb: (H, W, 3) uint8 frame.
        mask: (H, W) uint8 class ids; UNLABELED pixels show the frame unchanged.
        ontology: the mask's class table.
        alpha: 0.0 shows only the frame, 1.0 only the mask.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f'alpha is {alpha!r}; expected 0.0 (frame only) to 1.0 (mask only)')
    if rgb.shape[:2] != mask.shape:
        raise ValueError(f'frame has shape {rgb.shape}, mask {mask.shape}; sizes must be equal')
    blended = cv2.addWeighted(rgb, 1.0 - alpha, colorize(mask, ontology), alpha, 0.0)
    cv2.copyTo(rgb, (mask == UNLABELED).view(np.uint8), blended)
    return cast('Rgb', blended)


def colorize_confidence(confidence: Mask) -> Rgb:
    """Paint a confidence (H, W) uint8 from dark blue (0) to yellow (255), (H, W, 3) uint8 RGB."""
    return cast('Rgb', cv2.applyColorMap(confidence, _CONFIDENCE_COLORS))


def colorize_depth(depth_m: Depth) -> Rgb:
    """Paint depth (H, W) float32 metres by its inverse, near is bright; without any it is black.

    Returns:
        (H, W, 3) uint8 RGB; the nearest and the farthest percent share the ends of the scale.
    """
    measured = (depth_m > 0) & np.isfinite(depth_m)
    if not measured.any():
        return np.zeros((*depth_m.shape, 3), np.uint8)
    inverse = 1.0 / np.where(measured, depth_m, 1.0)
    low, high = np.percentile(inverse[measured], (1, 99))
    # The lowest colours are nearly black, which is left to what has no depth.
    gray = np.clip(40 + (inverse - low) / max(high - low, 1e-6) * 215, 40, 255).astype(np.uint8)
    colored = np.asarray(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)
    return np.where(measured[..., None], colored, np.uint8(0))


def mark_wrong(rgb: Rgb, mask: Mask, labels: Mask) -> Rgb:
    """Show a frame in grey, and red where mask and labels differ and there is a label.

    Args:
        rgb: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids or UNLABELED.
        labels: likewise.
    """
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    marked = np.asarray(grey, np.uint8)
    wrong = (labels != mask) & (labels != UNLABELED)
    marked[wrong] = (0.35 * marked[wrong] + 0.65 * np.array(_WRONG_RGB)).astype(np.uint8)
    return marked


def legend(ontology: Ontology, height_px: int) -> Rgb:
    """Draw colour and name of every class, and of UNLABELED, in as many columns as are needed.

    Returns:
        (height_px, W, 3) uint8 RGB; W follows from the names.
    """
    entries = [(entry.name, entry.color_rgb) for entry in ontology.classes]
    entries.append(('unlabelled', (0, 0, 0)))
    smallest, largest = _LEGEND_ROW_PX
    if height_px < smallest:
        raise ValueError(f'height_px is {height_px}; a legend needs at least {smallest}')
    columns = ceil(len(entries) / (height_px // smallest))
    rows = ceil(len(entries) / columns)
    row_px = min(largest, height_px // rows)
    text_px = round(row_px * 0.36)
    swatch_px = round(row_px * 0.64)
    panels = []
    for start in range(0, len(entries), rows):
        chunk = entries[start : start + rows]
        width = swatch_px + row_px + max(_text_width(name, text_px) for name, _ in chunk)
        panel = _blank(height_px, width)
        for row, (name, color) in enumerate(chunk):
            top = row * row_px + (row_px - swatch_px) // 2
            corner = (swatch_px - 1, top + swatch_px - 1)
            cv2.rectangle(panel, (0, top), corner, color, cv2.FILLED)
            cv2.rectangle(panel, (0, top), corner, _FAINT, 1)
            baseline = row * row_px + (row_px + text_px) // 2
            _put_text(panel, name, (swatch_px + row_px // 3, baseline), text_px)
        panels.append(panel)
    return np.hstack(panels)


def contact_sheet(
    rows: Sequence[tuple[Rgb, Mask, Mask | None]],
    ontology: Ontology,
    titles: Sequence[str] | None = None,
    column_px: int = 480,
    marked: tuple[str, Sequence[Rgb | None]] | None = None,
) -> Rgb:
    """Lay frames, masks and confidences out as a grid with the legend beside it.

    Args:
        rows: (frame, mask, confidence) of each row: (H, W, 3), (H, W) and (H, W) uint8. Without a
            confidence its cell stays empty.
        ontology: the masks' class table.
        titles: one line of text a row, drawn above it.
        column_px: width of a column; frames are scaled to it.
        marked: title and pictures of a column before the confidence: one a row, (H, W, 3) uint8;
            None leaves its cell empty.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if not rows:
        raise ValueError('a contact sheet needs at least one row of (frame, mask, confidence)')
    if marked is not None and len(marked[1]) != len(rows):
        raise ValueError(f'{len(marked[1])} marked pictures for {len(rows)} rows; give one a row')
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f'{len(titles)} titles for {len(rows)} rows; give one a row, or none')
    gap = column_px // 40
    text_px = max(11, column_px // 32)
    columns = ['camera frame', 'class mask', *(marked[:1] if marked else ()), 'confidence']
    strips = [_header(columns, column_px, gap, text_px)]
    for position, (rgb, mask, confidence) in enumerate(rows):
        if titles is not None:
            strip = _blank(2 * text_px, strips[0].shape[1])
            _put_text(strip, titles[position], (0, round(1.6 * text_px)), text_px)
            strips.append(strip)
        size = (column_px, max(1, round(column_px * rgb.shape[0] / rgb.shape[1])))
        small_mask = cast('Rgb', cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
        shown = [rgb, *(marked[1][position : position + 1] if marked else ())]
        cells = [_blank(size[1], size[0]) if each is None else _fit(each, size) for each in shown]
        cells.insert(1, colorize(small_mask, ontology))
        cells.append(
            _blank(size[1], size[0])
            if confidence is None
            else colorize_confidence(_fit(confidence, size))
        )
        margin = _blank(size[1], gap)
        strips.append(np.hstack([part for cell in cells for part in (cell, margin)][:-1]))
        strips.append(_blank(gap, strips[-1].shape[1]))
    grid = np.vstack(strips)
    header_px = strips[0].shape[0]
    key = legend(ontology, max(_LEGEND_ROW_PX[0] * 3, grid.shape[0] - header_px - gap))
    height = max(grid.shape[0], header_px + key.shape[0] + gap) + gap
    sheet = _blank(height, grid.shape[1] + key.shape[1] + 4 * gap)
    sheet[gap : gap + grid.shape[0], gap : gap + grid.shape[1]] = grid
    left = grid.shape[1] + 3 * gap
    top = gap + header_px
    sheet[top : top + key.shape[0], left : left + key.shape[1]] = key
    _put_text(sheet, ontology.name, (left, gap + round(1.6 * text_px)), text_px)
    return sheet


def _header(titles: Sequence[str], column_px: int, gap: int, text_px: int) -> Rgb:
    """Draw the columns' titles, and the scale of the confidence above the last column."""
    right = len(titles) * (column_px + gap) - gap
    strip = _blank(round(2.4 * text_px), right)
    baseline = round(1.6 * text_px)
    for column, title in enumerate(titles):
        _put_text(strip, title, (column * (column_px + gap), baseline), text_px)
    bar_px = column_px // 3
    one_px = _text_width('1', text_px)
    bar_right = right - one_px - text_px // 2
    ramp = np.linspace(0, 255, bar_px).astype(np.uint8)[None].repeat(text_px, axis=0)
    painted = colorize_confidence(ramp)
    strip[baseline - text_px : baseline, bar_right - bar_px : bar_right] = painted
    _put_text(strip, '1', (right - one_px, baseline), text_px)
    zero_left = bar_right - bar_px - text_px // 2 - _text_width('0', text_px)
    _put_text(strip, '0', (zero_left, baseline), text_px)
    return strip


def _fit(image: Rgb, size: tuple[int, int]) -> Rgb:
    return cast('Rgb', cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _blank(height_px: int, width_px: int) -> Rgb:
    return np.full((height_px, width_px, 3), _PAPER, np.uint8)


def _font_scale(text_px: int) -> float:
    """Return the scale at which a capital letter of the font is `text_px` high."""
    return float(cv2.getFontScaleFromHeight(_FONT, text_px, 1))


def _text_width(text: str, text_px: int) -> int:
    (width, _), _ = cv2.getTextSize(text, _FONT, _font_scale(text_px), 1)
    return int(width)


def _put_text(image: Rgb, text: str, origin: tuple[int, int], text_px: int) -> None:
    """Write `text` with its baseline's left end at `origin` (x, y)."""
    cv2.putText(image, text, origin, _FONT, _font_scale(text_px), _INK, 1, cv2.LINE_AA)
