"""Write the files that come from tables in the code, and one API page for each folder of it.

    python docs/generate.py        # `make docs` does it first

Needs the runtime, not torch.
"""

from collections.abc import Callable
from pathlib import Path

from desertmind_seg.node.parameters import config_yaml, parameters_page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'desertmind_seg'
API = ROOT / 'docs' / 'api'

# Path below the root -> what returns its text. These files are committed, so that they can be read
# without a build; test/unit/test_docs.py compares them.
WRITERS: dict[str, Callable[[], str]] = {
    'config/seg.yaml': config_yaml,
    'docs/parameters.md': parameters_page,
}


def api_page(folder: Path) -> str:
    """Return the page of the modules that lie in `folder`, as reStructuredText for autodoc."""
    package = '.'.join(folder.relative_to(ROOT).parts)
    title = 'Commands' if folder == PACKAGE else folder.name
    blocks = [f'{title}\n{"=" * len(title)}', f'.. automodule:: {package}']
    for path in sorted(folder.glob('*.py')):
        if path.stem != '__init__':
            blocks += [
                f'{path.stem}\n{"-" * len(path.stem)}',
                f'.. automodule:: {package}.{path.stem}\n   :members:\n   :show-inheritance:',
            ]
    return '\n\n'.join(blocks) + '\n'


def api_pages() -> dict[Path, str]:
    """Return the text of each API page; not committed, as every change of the code changes it."""
    folders = {path.parent for path in PACKAGE.rglob('*.py')}
    return {
        API / f'{"_".join(folder.relative_to(ROOT).parts)}.rst': api_page(folder)
        for folder in folders
    }


def main() -> None:
    """Write all of them; remove API pages of folders that are gone."""
    for path, text in WRITERS.items():
        (ROOT / path).write_text(text(), encoding='utf-8')
    API.mkdir(exist_ok=True)
    pages = api_pages()
    for old in set(API.glob('*.rst')) - set(pages):
        old.unlink()
    for page, text in pages.items():
        page.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
