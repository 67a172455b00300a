"""Which source a text on the command line names."""

from __future__ import annotations

import glob
from pathlib import Path
import re

from desertmind_seg.decoding.image_files import EXTENSIONS as IMAGE_EXTENSIONS
from desertmind_seg.sources.folders import Found, fitting, look_into
from desertmind_seg.sources.frames import Selection, Source, SourceError
from desertmind_seg.sources.images import CONVERT, UNREAD, ImageFiles, is_image
from desertmind_seg.sources.live import open_camera
from desertmind_seg.sources.network import open_address, shown_address
from desertmind_seg.sources.recorded import BagFrames
from desertmind_seg.sources.videos import EXTENSIONS as VIDEO_EXTENSIONS
from desertmind_seg.sources.videos import VideoFiles, is_video
from desertmind_seg.storage.recording import METADATA, holds_storage, is_storage

_ALL = Selection()


def open_source(
    text: str,
    *,
    image_topic: str | None = None,
    depth_topic: str | None = None,
    selection: Selection = _ALL,
) -> Source:
    """Open the source that `text` names; use it in a with statement.

    Args:
        text: an image, a folder with images in it or below, a pattern such as ``a/**/*.jpg``,
            a video, a bag, the number or the device file of a camera, or an address.
        image_topic: of a bag; None for its only one.
        depth_topic: of a bag; None for none.
        selection: which frames are taken.

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
            f'{shown_address(text)} is no bag, but topics are given (--image, --depth); leave '
            'them out, or give a bag: a rosbag2 folder, .mcap, .db3 or ROS 1 .bag'
        )
    if text.isdecimal() and len(text) < 4:
        return open_camera(int(text), selection)
    if re.fullmatch(r'/dev/video\d+', str(path.resolve())):
        return open_camera(int(path.resolve().name.removeprefix('video')), selection)
    if '://' in text:
        return open_address(text, selection)
    if is_bag:
        return _open_bag(path, image_topic, depth_topic, selection)
    if not path.exists():
        return _open_pattern(text, selection)
    if path.is_dir():
        return _open_folder(path, selection)
    if is_image(path):
        return ImageFiles(text, path.parent, [path], selection)
    if is_video(path):
        return VideoFiles(text, path.parent, [path], selection)
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
        return path.exists() and (is_storage(path) or path.name == METADATA)
    # Other things have a metadata.yaml too.
    return holds_storage(path) or ((path / METADATA).exists() and not look_into(path).images)


def _open_bag(
    path: Path, image_topic: str | None, depth_topic: str | None, selection: Selection
) -> BagFrames:
    source = BagFrames(path, image_topic, depth_topic, selection)
    if path.is_dir() and (beside := look_into(path).images):
        source.notes.append(
            f'{path} is taken as a bag; of its {len(beside)} images none is taken. For them give '
            f"a pattern in quotes, such as '{beside[0].parent}/*{beside[0].suffix}'"
        )
    return source


def _open_folder(folder: Path, selection: Selection) -> ImageFiles:
    found = look_into(folder)
    if not found.images:
        raise SourceError(
            f'{folder} holds no images in any of its folders; expected files ending in '
            f'{_list(IMAGE_EXTENSIONS)}'
            + ''.join(f'. It holds {each}' for each in found.others())
            + ''.join(f'. {each}' for each in found.losses)
        )
    source = ImageFiles(str(folder), folder, found.images, selection)
    source.losses += [f'{folder} holds beside images {each}' for each in found.others()]
    source.losses += found.losses
    return source


def _open_pattern(pattern: str, selection: Selection) -> Source:
    """Open all files whose path fits a pattern of the shell; '**' is any folders."""
    if not glob.has_magic(pattern):
        raise FileNotFoundError(
            f'{pattern} does not exist; give an image or a folder of images, a pattern in quotes, '
            "a video, a bag, a camera's number such as 0, or an address such as rtsp://HOST/PATH"
        )
    found = Found()
    # Of one file in a folder and a link to it the shortest way there.
    ways = sorted(fitting(pattern, found.losses), key=lambda path: (len(path.parts), path))
    real = {parent: parent.resolve() for parent in {path.parent for path in ways}}
    places = {real[path.parent] / path.name: path for path in reversed(ways)}
    files = [path for path in sorted(places.values()) if not path.is_dir()]
    found.add(files)
    if found.images and found.videos:
        raise SourceError(
            f'{pattern!r} fits {len(found.images)} images and {len(found.videos)} videos; '
            f'expected one of both kinds, as by the ending *{found.images[0].suffix}'
        )
    source: Source
    if found.images:
        source = ImageFiles(pattern, _fixed_part(pattern), found.images, selection)
    elif found.videos:
        source = VideoFiles(pattern, _fixed_part(pattern), found.videos, selection)
        found.videos = []
    else:
        raise SourceError(
            f'no image or video fits the pattern {pattern!r}; it fits {len(files)} other files '
            f'and {len(places) - len(files)} folders'
            + ''.join(f'. It fits {each}' for each in found.others())
        )
    source.losses += [f'{pattern!r} also fits {each}' for each in found.others()]
    source.losses += found.losses
    return source


def _fixed_part(pattern: str) -> Path:
    """Return the folders of a pattern before the first that is a pattern itself."""
    fixed: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
