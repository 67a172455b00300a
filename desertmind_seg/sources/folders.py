"""What lies in a folder of images: the images, and what is not taken together with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
import glob
import os
from pathlib import Path
import re

from desertmind_seg.model.errors import listed
from desertmind_seg.sources.images import CONVERT, UNREAD, is_image
from desertmind_seg.sources.videos import is_video
from desertmind_seg.storage.recording import is_storage

# So many files are named in one sentence.
_MAX_NAMES = 5


@dataclass
class Found:
    """Files by what they are, by their names.

    Attributes:
        images: that are read.
        unread: pictures of kinds that are not read, but for those that a camera wrote beside an
            image of the same name.
        videos: GIFs too.
        bags: their files.
        losses: what cannot be looked into, one sentence each.
    """

    images: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    bags: list[Path] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)

    def add(self, files: Iterable[Path]) -> Found:
        """Sort files in; returns itself."""
        for path in files:
            if is_image(path):
                self.images.append(path)
            elif path.suffix.lower() in UNREAD:
                self.unread.append(path)
            elif is_video(path):
                self.videos.append(path)
            elif is_storage(path):
                self.bags.append(path)
            elif path.is_symlink() and not path.exists():
                self.losses.append(f'{path} is a link to {path.readlink()}, which is not there')
        read = {path.with_suffix('') for path in self.images}
        self.unread = [path for path in self.unread if path.with_suffix('') not in read]
        return self

    def others(self) -> list[str]:
        """Say of what is no image how much there is, and how to get frames of it."""
        said = []
        if self.unread:
            said.append(
                f'{len(self.unread)} pictures of kinds that are not read ({_named(self.unread)}); '
                f'{CONVERT}'
            )
        if self.videos:
            first = self.videos[0]
            said.append(
                f'{len(self.videos)} videos ({_named(self.videos)}): give them one by one, or by '
                f"a pattern in quotes, such as '{first.parent}/*{first.suffix}'"
            )
        if self.bags:
            said.append(
                f'{len(self.bags)} files of bags ({_named(self.bags)}): give the bags one by one'
            )
        return said


def look_into(folder: Path) -> Found:
    """Sort what is in a folder and below, without names that begin with a dot.

    Linked folders are followed, and each folder is gone through once: by its own name where it
    lies in `folder`, else by that of the first link to it.
    """
    found = Found()
    return found.add(
        here / name
        for here, names in _folders(folder, found.losses)
        for name in names
        if not name.startswith('.')
    )


def fitting(pattern: str, losses: list[str]) -> list[Path]:
    """Find files and folders by a pattern of the shell.

    Args:
        pattern: '**' is any folders, gone through as by `look_into`: glob's own follows links that
            lead back for 40 rounds each.
        losses: gets what cannot be looked into.
    """
    any_folders = re.search(r'(?:^|(?<=/))\*\*(?:/|$)', pattern)
    if any_folders is None:
        return [Path(each) for each in glob.glob(pattern)]  # noqa: PTH207
    rest = pattern[any_folders.end() :] or '*'
    return [
        path
        for top in fitting(pattern[: any_folders.start()] or '.', losses)
        for folder, _ in _folders(top, losses)
        for path in fitting(f'{glob.escape(str(folder))}/{rest}', losses)
    ]


def _folders(folder: Path, losses: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and those below, each with the names of its files."""
    root = folder.resolve()
    seen = {root}

    def unreadable(err: OSError) -> None:
        losses.append(f'{err.filename} cannot be looked into: {err.strerror}')

    for parent, subfolders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        here = Path(parent)
        places = [here / name for name in sorted(subfolders) if not name.startswith('.')]
        subfolders.clear()
        for place in places:
            real = place.resolve()
            if real in root.parents:
                losses.append(f'{place} is a link to {real}, in which it lies: not followed')
            elif real not in seen and not (place.is_symlink() and _is_met(real, root)):
                seen.add(real)
                subfolders.append(place.name)
        yield here, sorted(names)


def _is_met(real: Path, root: Path) -> bool:
    """Whether a folder is below `root` by itself, and is not hidden there."""
    return real.is_relative_to(root) and not any(
        part.startswith('.') for part in real.relative_to(root).parts
    )


def _named(paths: list[Path]) -> str:
    return listed([path.name for path in paths], _MAX_NAMES)
