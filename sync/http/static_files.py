"""Static files for pages: only the named file types of a folder are served."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""CSP of our own pages. It allows their own files and their own gateway, but no inline script or style."""

PAGE_HEADERS = {"Cache-Control": "no-cache", "Content-Security-Policy": PAGE_CSP}


class Assets(StaticFiles):
    """Serves the files of `folder` with one of `suffixes`. With `shared`, pages of other origins may load them."""

    def __init__(self, folder: Path, suffixes: Sequence[str], *, shared: bool = False) -> None:
        super().__init__(directory=folder, html=True)
        self._suffixes = tuple(suffixes)
        self._headers = dict(PAGE_HEADERS)
        if shared:
            self._headers |= {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Return the file, unless it has another suffix or is in a folder of tools or tests."""
        found, stat = super().lookup_path(path)
        inner = Path(path).parts[:-1]
        if (
            stat is not None
            and Path(found).is_file()
            and (not found.endswith(self._suffixes) or {"test", "tests", "scripts", "node_modules"} & set(inner))
        ):
            return "", None
        return found, stat

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file with our headers, or raise 404."""
        response = await super().get_response(path, scope)
        if response.status_code == 404 or isinstance(response, RedirectResponse):
            raise HTTPException(404)  # Starlette builds the redirect to a folder from the client's Host header
        response.headers.update(self._headers)
        return response
