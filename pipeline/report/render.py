"""HTML from the templates beside this file. Whatever is no markup is escaped."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: object) -> Markup:
    """A template of that name, filled; values that are Markup already go in as they are."""
    return Markup(_TEMPLATES.get_template(template).render(**values))
