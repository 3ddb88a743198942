"""The report of a run: one self-contained HTML page, and the same story in Markdown.

`contents` gathers what a page shows from the run's record and the files that its artifacts hold,
known by name and never by stage: `comparisons.json`, `metrics.json`, `report_card.json`,
`metrics.jsonl`, `samples.jsonl`, `notes.json`, `card.json`. `page.html` and `page.md` are Jinja
templates; charts are SVG made in `figures.py`, so the page needs no network, script or image file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbrule.report.contents import gather


def render_report(
    record: Mapping[str, Any],
    folders: Mapping[str, Path],
    rollouts: Mapping[str, str | None] | None = None,
) -> tuple[str, str]:
    """Return (html, markdown) of a run's report.

    Args: record: what `run.json` holds. folders: node name -> its artifact's folder. rollouts: node
    that keeps rollouts -> the file of its page beside the report; None: it has none.
    """
    import jinja2
    import markupsafe

    here = Path(__file__).parent
    page = gather(record, folders) | {"rollouts": dict(rollouts or {})}

    def fill(name: str, escape: bool) -> str:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(here),
            autoescape=escape,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
        # a browser breaks a long name at these signs only when it is told so
        environment.filters["breakable"] = lambda name: markupsafe.Markup(
            re.sub("([/_:])", r"\1<wbr>", str(markupsafe.escape(name)))
        )
        return environment.get_template(name).render(**page)

    return fill("page.html", True), fill("page.md", False)
