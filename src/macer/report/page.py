"""The page: one HTML file with everything in it."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

import macer
from macer.errors import SettingsError, needs
from macer.files.printable import printable
from macer.files.replacing import replacing
from macer.report import figures, parts
from macer.report.gallery import Gallery, build_gallery
from macer.report.looks import DASHES
from macer.report.published import gather_published
from macer.report.sources import Gathered, Source, gather

with needs("report"):
    import jinja2

PAGE_BYTES = 8_000_000
"""A larger page gets fewer pictures."""

_FOLDER = Path(__file__).parent


def write_report(
    paths: Sequence[Path],
    file: Path,
    *,
    published: Sequence[Path] = (),
    root: Path | None = None,
    votes: int = 200,
    device: str = "auto",
    title: str | None = None,
    console: Console,
) -> list[str]:
    """Write the page about some runs.

    The same runs give the same page, byte for byte, on one kind of device.

    Args:
        paths: runs' directories and files of certificates.
        file: the page to write, named .html.
        published: directories and files of published certificates to compare with.
        root: the directory of the data set, for pictures; None: where it was when the certificates were made.
        votes: noisy copies to count votes on, for each picture; 0: no votes, and no accuracy without noise.
        device: what computes the votes: auto, cpu or cuda.
        title: the page's title.
        console: where progress is shown.

    Returns:
        The warnings that are on the page.

    Raises:
        MacerError: there are no certificates, a file cannot be read, or the name of `file` does not end in .html.
        OSError: it cannot be written.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"{file}: a page's name ends in .html")
    if votes < 0:
        raise SettingsError(f"votes must not be negative, not {votes}")
    gathered = gather(paths)
    others, warnings = gather_published(published, gathered)
    warnings = [*gathered.warnings, *map(printable, warnings), *parts.left_out(gathered.main)]
    with_images = [source for source in gathered.main if parts.says_which(source.records)]
    gallery = build_gallery(with_images, root=root, votes=votes, device=device, console=console)
    content = _content(gathered, others, with_images, gallery)
    render = partial(_render, content, title=printable(title or _title(gathered)), warnings=warnings, gallery=gallery)
    text = render()
    if (excess := len(text.encode()) - PAGE_BYTES) > 0 and gallery.number_of_pictures:
        gallery.drop_pictures(excess)
        text = render()
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [*warnings, *gallery.warnings]


def _content(gathered: Gathered, others: list[Source], with_images: list[Source], gallery: Gallery) -> dict[str, Any]:
    """Return what the template shows, by the names it has there, but for what depends on the number of pictures."""
    sources = [*gathered.sources, *others]
    radii = parts.page_radii([source.records for source in sources])
    class_radii = parts.class_radii(radii, with_images)
    differences = parts.differences(gathered.main)
    return {
        "facts": parts.facts(gathered.main),
        "cards": [parts.card(source) for source in gathered.main],
        "differences": differences,
        "result": parts.result_table(sources, radii, gallery.clean),
        "soft": len(gathered.sources) > len(gathered.main),
        "with_images": with_images,
        "class_radii": class_radii,
        "class_views": parts.class_views(with_images, class_radii),
        "plots": {
            "radius-accuracy": figures.radius_accuracy(sources),
            "differences": figures.accuracy_differences(differences.pairs),
            "p-a": figures.p_a_distribution([*gathered.main, *others]),
        },
        "training": {f"training-{name}": figure for name, figure in figures.training_figures(gathered).items()},
        "cost": parts.cost_table(gathered.main),
        "exact": {
            "sound": [source.records.name for source in gathered.main if source.sound],
            "float": [source.records.name for source in gathered.main if not source.sound],
        },
        "makings": [parts.making(source) for source in gathered.main],
    }


def _title(gathered: Gathered) -> str:
    names = [source.records.name for source in gathered.main]
    shown = names if len(names) <= 3 else [*names[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _render(content: dict[str, Any], *, gallery: Gallery, **words: Any) -> str:
    """Fill in the template. All that comes from files is escaped by the template or by `_json`."""
    with needs("report"):
        from plotly.offline import get_plotlyjs  # slow to import

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [get_plotlyjs(), (_FOLDER / "page.js").read_text(encoding="utf-8")]
    plots = content["plots"] | content["training"]
    return environment.get_template("page.html").render(
        version=macer.__version__,
        policy=_policy(scripts),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        data=_json({"figures": plots, "runs": gallery.runs, "sets": gallery.pictures}),
        dashes=DASHES,
        gallery=gallery,
        **content,
        **words,
    )


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: no script runs but these, whatever a file holds, and nothing is fetched."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(content: Any) -> str:
    """Return JSON that can be part of a page: no text in it ends the element around it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
