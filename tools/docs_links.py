"""Read a built site as a browser would: every link and anchor leads somewhere, and nothing is fetched from elsewhere.

python tools/docs_links.py out/site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
PASSIVE = {"canonical", "next", "prev", "edit"}
"""Kinds of <link> that a browser does not load."""


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        for name in ("href", "src"):
            if name in known and known.get("rel") not in PASSIVE:
                self.links.append((known[name], (tag, name) in FETCHED))


def faults(folder: Path) -> list[str]:
    """A sentence on each link that leads nowhere, and on each file that a page would fetch from elsewhere."""
    pages: dict[Path, _Page] = {}
    for path in sorted(folder.rglob("*.html")):
        pages[path.resolve()] = _Page()
        pages[path.resolve()].feed(path.read_text(encoding="utf-8"))
    found = []
    for path, page in pages.items():
        where = path.relative_to(folder.resolve())
        for link, is_fetched in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if is_fetched and parts.scheme != "data":
                    found.append(f"{where} fetches {link}")
                continue
            if where.name == "404.html" and link.startswith("/"):
                target = folder.resolve() / link.lstrip("/").partition("#")[0].partition("?")[0]
            else:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{where}: {link} leads nowhere")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {link} names a heading that is not there")
    return sorted(set(found))


def main() -> int:
    """Exit status 1 where a link is broken."""
    folder = Path(sys.argv[1])
    found = faults(folder)
    print(*found, f"{len(list(folder.rglob('*.html')))} pages, {len(found)} broken links", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
