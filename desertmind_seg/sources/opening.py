"""Which source a text on the command line names."""

from __future__ import annotations

import glob
from pathlib import Path
import re

from desertmind_seg.decoding.image_files import EXTENSIONS as IMAGE_EXTENSIONS
from desertmind_seg.messages.compressed_format import CompressedColors
from desertmind_seg.sources.frames import Selection, Source, SourceError
from desertmind_seg.sources.images import (
    CONVERT,
    UNREAD,
    ImageFiles,
    images_below,
    is_image,
    unread_below,
)
from desertmind_seg.sources.live import open_camera
from desertmind_seg.sources.network import open_address, shown_address
from desertmind_seg.sources.recorded import BagFrames
from desertmind_seg.sources.videos import EXTENSIONS as VIDEO_EXTENSIONS
from desertmind_seg.sources.videos import VideoFiles, is_video

_BAG_NAME = re.compile(r'\.(mcap|db3|bag)(\.zstd|\.zst)?$', re.IGNORECASE)
_ALL = Selection()


def open_source(
    text: str,
    *,
    image_topic: str | None = None,
    depth_topic: str | None = None,
    selection: Selection = _ALL,
    compressed_colors: CompressedColors = 'auto',
) -> Source:
    """Open the source that `text` names; use it in a with statement.

    Args:
        text: an image, a folder with images in it or below, a pattern such as ``a/**/*.jpg``,
            a video, a bag, the number or the device file of a camera, or an address.
        image_topic: of a bag; None for its only one.
        depth_topic: of a bag; None for none.
        selection: which frames are taken.
        compressed_colors: of a bag, as `Bag.compressed_colors`.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: it cannot be read.
        SourceError: there is no frame, the source cannot be opened, or lacks what was asked for.
        BagError: as `BagFrames`.
    """
    path = Path(text)
    is_bag = '://' not in text and _is_bag(path)
    if not is_bag and (image_topic or depth_topic):
        raise SourceError(
            f'{shown_address(text)} is no bag, but topics are given (--image, --depth)'
        )
    if text.isdecimal() and len(text) < 4:
        return open_camera(int(text), selection)
    if re.fullmatch(r'/dev/video\d+', str(path.resolve())):
        return open_camera(int(path.resolve().name.removeprefix('video')), selection)
    if '://' in text:
        return open_address(text, selection)
    if is_bag:
        return BagFrames(path, image_topic, depth_topic, selection, compressed_colors)
    if not path.exists():
        return _open_pattern(text, selection)
    if path.is_dir():
        return _open_folder(path, selection)
    if is_image(path):
        return ImageFiles(text, path.parent, [path], selection)
    if is_video(path):
        return VideoFiles(text, [path], selection)
    if path.suffix.lower() in UNREAD:
        raise SourceError(f'{path} is a picture of a kind that is not read; {CONVERT}')
    raise SourceError(
        f'{path} is neither image, video nor bag by its name; expected {_list(IMAGE_EXTENSIONS)}, '
        f'{_list(VIDEO_EXTENSIONS)}, .mcap .db3 .bag'
    )


def _list(extensions: tuple[str, ...]) -> str:
    return ' '.join(extensions)


def _is_bag(path: Path) -> bool:
    if not path.is_dir():
        return path.exists() and bool(_BAG_NAME.search(path.name) or path.name == 'metadata.yaml')
    names = [each.name for each in path.iterdir()]
    # Other things have a metadata.yaml too.
    return any(_BAG_NAME.search(name) for name in names) or (
        'metadata.yaml' in names and not images_below(path)
    )


def _open_folder(folder: Path, selection: Selection) -> ImageFiles:
    images, unread = images_below(folder), unread_below(folder)
    if images:
        source = ImageFiles(str(folder), folder, images, selection)
        if unread:
            source.losses.append(
                f'{len(unread)} pictures in {folder} are of kinds that are not read, such as '
                f'{unread[0].name}; {CONVERT}'
            )
        return source
    if unread:
        raise SourceError(
            f'{folder} holds {len(unread)} pictures of kinds that are not read, such as '
            f'{unread[0].name}, and no others; {CONVERT}'
        )
    videos = [path for path in sorted(folder.rglob('*')) if is_video(path)]
    hint = (
        f'. It holds {len(videos)} videos: name one, or give a pattern in quotes, such as '
        f"'{videos[0].parent}/*{videos[0].suffix}'"
        if videos
        else ''
    )
    raise SourceError(
        f'{folder} holds no images in any of its folders; expected files ending in '
        f'{_list(IMAGE_EXTENSIONS)}{hint}'
    )


def _open_pattern(pattern: str, selection: Selection) -> Source:
    """Open all files whose path fits a pattern of the shell; '**' is any folders."""
    if not glob.has_magic(pattern):
        raise FileNotFoundError(
            f'{pattern} does not exist; give an image or a folder of images, a pattern in quotes, '
            "a video, a bag, a camera's number such as 0, or an address such as rtsp://HOST/PATH"
        )
    found = [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    files = [path for path in found if not path.is_dir()]
    images = [path for path in files if is_image(path)]
    videos = [path for path in files if is_video(path)]
    if images and videos:
        raise SourceError(
            f'{pattern!r} fits {len(images)} images and {len(videos)} videos; expected one of '
            f'both kinds, as by the ending *{images[0].suffix}'
        )
    if images:
        return ImageFiles(pattern, _fixed_part(pattern), images, selection)
    if videos:
        return VideoFiles(pattern, videos, selection)
    raise SourceError(
        f'no image or video fits the pattern {pattern!r}; it fits {len(files)} other files and '
        f'{len(found) - len(files)} folders'
    )


def _fixed_part(pattern: str) -> Path:
    """Return the folders of a pattern before the first that is a pattern itself."""
    fixed: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
