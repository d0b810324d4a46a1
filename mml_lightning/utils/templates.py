"""Pages and pictures from the templates of the package: whatever is put into one is text, unless it came from one.

render("page.html", title="<b>")    # &lt;b&gt; stands on the page
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parents[1] / "templates"


def render(template: str, **values: Any) -> Markup:
    """The text of a file of `templates/` with its values, escaped unless they are `Markup`. A name that the template
    asks for and does not get is an error."""
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
