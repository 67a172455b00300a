"""Pictures and videos as sections of a page."""

import base64
from collections.abc import Mapping, Sequence

import cv2
from markupsafe import Markup
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.arrays import packed_colors
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.page import Section
from desertmind_seg.reports.tables import class_name

# A photograph of 640 x 360 takes 25 KB; the same quality as JPEG 40.
_WEBP_QUALITY = 80
# A mask has not more, and keeps them to the last pixel: 640 x 360 take 6 KB. Depth has 216.
_FEW_COLORS = 128


def image_uri(rgb: npt.NDArray[np.uint8]) -> str:
    """Return a (H, W, 3) uint8 RGB image as a data URI: WebP, or PNG with all its few colours."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    kind = 'png' if np.unique(packed_colors(rgb)).size <= _FEW_COLORS else 'webp'
    options = [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY] if kind == 'webp' else []
    _, encoded = cv2.imencode(f'.{kind}', bgr, options)
    return f'data:image/{kind};base64,' + base64.b64encode(encoded.tobytes()).decode()


def video_section(title: str, filename: str, note: str = '') -> Section:
    """Show a video that lies beside the page."""
    body = Markup(
        '<figure class="video"><video controls loop muted playsinline preload="metadata" '
        'src="{}"></video><figcaption>{}</figcaption></figure>'
    ).format(filename, filename)
    return Section(title, body, note)


def frames_section(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8] | None]]],
    ontology: Ontology,
    note: str = '',
    marks: Mapping[str, tuple[int, int, int]] | None = None,
) -> Section:
    """Show several pictures of each frame as a grid, under a legend of the classes.

    Each opens large where it is touched. A slider above a row moves its other pictures aside, so
    that the first one, the camera's, shows below them.

    Args:
        title: heading of the section.
        columns: what each picture of a row is.
        rows: caption and pictures, (H, W, 3) uint8 RGB, one a column; None where a frame has none.
        ontology: class table of the legend.
        note: text below the title.
        marks: what else is in the pictures -> its colour, before the classes in the legend.
    """
    colors = {**(marks or {}), **{entry.name: entry.color_rgb for entry in ontology.classes}}
    legend = Markup('').join(
        Markup('<span>{}</span>').format(class_name(name, color)) for name, color in colors.items()
    )
    figures = Markup('').join(
        Markup(
            '<figure class="frame"><figcaption>{}</figcaption>{}<div class="strip">{}</div>'
            '</figure>'
        ).format(
            caption,
            _SLIDER.format(columns[0], caption) if _are_alike(pictures) else '',
            Markup('').join(
                _picture(caption, column, rgb)
                for column, rgb in zip(columns, pictures, strict=True)
            ),
        )
        for caption, pictures in rows
    )
    body = Markup('<div class="legend">{}</div>{}').format(legend, figures)
    return Section(title, body, note)


_SLIDER = Markup(
    '<label class="slider">slide to: {} <input type="range" min="0" max="100" value="0" '
    'aria-label="how much of the camera to show: {}"></label>'
)


def _are_alike(pictures: Sequence[npt.NDArray[np.uint8] | None]) -> bool:
    """Say whether all are of one view, so that one may lie on the other."""
    shapes = {rgb.shape for rgb in pictures if rgb is not None}
    return len(pictures) > 1 and pictures[0] is not None and len(shapes) == 1


def _picture(caption: str, column: str, rgb: npt.NDArray[np.uint8] | None) -> Markup:
    if rgb is None:
        shown = Markup('<p class="none">this frame has none</p>')
    else:
        height, width = rgb.shape[:2]
        shown = Markup(
            '<button type="button"><img src="{}" alt="{}: {}" width="{}" height="{}"></button>'
        ).format(image_uri(rgb), caption, column, width, height)
    return Markup('<figure>{}<figcaption>{}</figcaption></figure>').format(shown, column)
