"""A request for a page: the language, the links of the page, and the answer with the rendered page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import attrs

from kepler_core.messages import printable
from kepler_servers.browser.headers import SECURITY_HEADERS
from kepler_servers.browser.links import endpoint
from kepler_servers.browser.texts import (
    HTML_LANGUAGES,
    LANGUAGES,
    Language,
    accepted_language,
    catalogue,
    language_named,
    text,
)
from kepler_servers.http.answer import Answer, HttpError

LANGUAGE_PARAMETER = "lang"
_MAX_PARAMETERS = 100
_MAX_NAME_CHARACTERS = 100
_MAX_HOST_CHARACTERS = 200
_BELOW_START = ("/ui/pipelines/", "/ui/jobs/")
"""Path prefixes of the pages to which the first page links."""

_PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Language",
    **SECURITY_HEADERS,
}


@attrs.frozen
class Site:
    """The pages of one server."""

    name: str
    """Key of the server's name in the catalogue of texts."""
    links: tuple[tuple[str, str], ...]
    """The links at the top of each page, as pairs: key of the link's text, and path."""

    def error_page(self, error: HttpError, environ: Mapping[str, Any]) -> Answer:
        """Return the page that reports an error."""
        view = View.of(self, environ)
        answer = view.answer("error.html.j2", error.status, message=error.message, part=error.fields.get("key"))
        return attrs.evolve(answer, headers={**answer.headers, **error.headers})


@attrs.frozen
class View:
    """The properties of a request that are needed to render the page."""

    site: Site
    language: Language
    chosen: bool
    """Whether the URL contains the language. If so, the links of the page also contain it."""
    path: str
    origin: str
    """Scheme and host of the request's URL, for command lines that the page shows."""
    query: tuple[tuple[str, str], ...]
    """Query parameters of the URL, without the language."""

    @classmethod
    def of(cls, site: Site, environ: Mapping[str, Any]) -> View:
        """Make the view for a request from the WSGI environment of the request.

        An unknown language in the URL is ignored here. The type of the route's query parameters reports the error.
        """
        try:
            query = parse_qsl(environ.get("QUERY_STRING", ""), max_num_fields=_MAX_PARAMETERS)
        except ValueError:  # the query has more than `_MAX_PARAMETERS` parameters
            query = []
        names = [value for name, value in query if name == LANGUAGE_PARAMETER]
        named = language_named(names[0]) if names else None
        host = environ.get("HTTP_HOST", "localhost")[:_MAX_HOST_CHARACTERS]
        path = environ.get("PATH_INFO", "/").encode("latin-1", "replace").decode("utf-8", "replace")
        return cls(
            site,
            named or accepted_language(environ.get("HTTP_ACCEPT_LANGUAGE", "")),
            named is not None,
            path,
            f"{environ.get('wsgi.url_scheme', 'http')}://{host}",
            tuple((name, value) for name, value in query if name != LANGUAGE_PARAMETER),
        )

    def text(self, key: str, **values: Any) -> str:
        """Return the text with a key in the language of the page."""
        return text(key, self.language, **values)

    def term(self, prefix: str, name: str) -> str:
        """Return the text for a name from a store, e.g. the name of a component.

        If there is no text with the key `prefix` + `name`, the name itself is returned.
        """
        key = prefix + name
        return self.text(key) if key in catalogue() else printable(name, _MAX_NAME_CHARACTERS)

    def href(self, *parts: str, **parameters: Any) -> str:
        """Return the URL of a page of this server. See `endpoint` for `parts`; `parameters` are query parameters.

        Parameters that are None or empty are left out.
        """
        path = endpoint(*parts)
        pairs = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
        if self.chosen:
            pairs[LANGUAGE_PARAMETER] = self.language
        return f"{path}?{urlencode(pairs)}" if pairs else path

    def place(self, path: str) -> str:
        """Return the HTML attribute `aria-current` of a link at the top of the page.

        The attribute is empty if the link leads to a part of the site that does not contain this page.
        """
        if path == self.path:
            return "page"
        below = _BELOW_START if path == "/" else (f"{path}/",)
        return "true" if self.path.startswith(below) else ""

    def language_links(self) -> list[tuple[str, str, str, bool]]:
        """Return the links to this page in all languages.

        Each link has the HTML code of the language, the name of the language, the URL, and whether the page is now
        shown in this language.
        """
        return [
            (
                HTML_LANGUAGES[language],
                name,
                f"{quote(self.path)}?{urlencode([*self.query, (LANGUAGE_PARAMETER, language)])}",
                language == self.language,
            )
            for language, name in LANGUAGES.items()
        ]

    def answer(self, template: str, status: int = 200, **values: Any) -> Answer:
        """Return the answer with a rendered template."""
        from kepler_servers.browser.rendering import render  # jinja2 is imported at the first page

        own = {"view": self, "t": self.text, "href": self.href, "html_language": HTML_LANGUAGES[self.language]}
        return Answer(status, _PAGE_HEADERS, render(template, {**own, **values}).encode())
