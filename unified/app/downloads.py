"""The files that jobs made, for the browser that asked for them. Needs fastapi, which gradio brings."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from unified.app.door import owner_of
from unified.app.jobs import Jobs
from unified.app.works import CONCEPT, REPORT
from unified.errors import UserError

#: Name in the address -> path in the job's folder; nothing else of it can be asked for.
FILES = {"report.html": f"{REPORT}/report.html", "report.zip": "report.zip", CONCEPT: CONCEPT}


def application(jobs: Jobs) -> FastAPI:
    """/jobs/<id>/<name>; 404 for what is not there, or another browser's."""
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @api.get("/jobs/{id}/{name}")
    def download(id: str, name: str, request: Request) -> Response:
        try:
            job = jobs.get(id, owner_of(request.cookies))
            path = jobs.store.path(job.id) / FILES[name]
        except (UserError, KeyError):
            return PlainTextResponse("There is no such file in this browser.", status_code=404)
        if not path.is_file():
            return PlainTextResponse("The job has not made this file.", status_code=404)
        as_page = name.endswith(".html") and "download" not in request.query_params
        return FileResponse(path, filename=name, content_disposition_type="inline" if as_page else "attachment")

    return api
