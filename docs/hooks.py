"""What the website needs beyond the pages in docs/: two pages of the checkout's top, and links that stay inside it."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that forges expect at the top of a repository."""
    for name in PAGES:
        files.append(File.generated(config, name, content=(TOP / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 (by name)
    """The page with its links as the website has them: a file that is not part of it is named, not linked."""
    folder = "" if page.file.src_uri in PAGES else posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups(default="")
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = path if path in PAGES else path.removeprefix("docs/") if path.startswith("docs/") else ""
        if not inside:
            return text
        return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return _LINK.sub(link, markdown)
