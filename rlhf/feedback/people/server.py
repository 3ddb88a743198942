"""The web server of `plumbrule label`: one page, and four requests that it makes.

    GET  /api/session?annotator=anna        what is asked and what anna has judged
    GET  /api/question/<id>?annotator=anna  one question, its answers in anna's order
    POST /api/question/<id>                 a judgement; answered once it is on the disk
    GET  /                                  the page; page.css and page.js beside it

There is no state but the files, so the process may be killed at any moment, and two servers may
serve one folder. A judgement names the revision it saw; a stale one gets 409.

Whoever reaches the address may judge. On the loopback address that is whoever is on this machine;
any other address needs the token of the URL. A web site that the annotator visits reaches it too,
through the browser: requests whose Host is not what is served here (DNS rebinding), or whose Origin
is another, are refused. Texts reach the page as JSON and are set as text, never as HTML, and the
page may load nothing from elsewhere.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from plumbrule.data.strict_json import parse_json
from plumbrule.errors import ConfigError, DataError
from rlhf.feedback.people import judgements
from rlhf.feedback.people.judgements import AnnotatorJudgement, StaleError, annotator_name
from rlhf.feedback.people.questions import LabellingQuestion, shown_order
from rlhf.feedback.people.store_folder import journal, judgements_in, questions_in
from rlhf.feedback.people.verdicts import agreement

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ConfigError(
        f"plumbrule label needs a web server ({error}); install the extra `label`: "
        "pip install -e '.[label]'."
    ) from None

PAGE = Path(__file__).parent
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
MOST_BYTES = 64 * 1024
"""Of a request's body; ranks and a comment take less."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src "
    "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(folder: Path, annotator: str | None, host: str, port: int, command: str | None) -> None:
    """Serve the questions in `folder` until interrupted; print the address first.

    annotator: the only one who may judge; None: the page asks. command: what to give afterwards.
    Raises: ConfigError: the address can't be served. DataError: no plain name, damaged files.
    """
    only = None if annotator is None else annotator_name(annotator)
    token = None if is_loopback(host) else secrets.token_urlsafe(16)
    listening = listen(host, port)
    app = application(folder, command, only, token)
    shown = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    query = "" if token is None else f"?token={token}"
    print(f"http://{shown}:{listening.getsockname()[1]}/{query}", flush=True)
    print("Every judgement is kept at once; stop with Ctrl-C.", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        print("stopped; every judgement is kept.", flush=True)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises: ConfigError: the address is taken, or none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--host and --port (={host}:{port}) must be a free address of this machine ({error}); "
            "give others, or leave them out."
        ) from None


def application(
    folder: Path, command: str | None = None, only: str | None = None, token: str | None = None
) -> Starlette:
    """Return the web application.

    only: the one annotator who may judge. token: what all but the files of the page must show.
    """
    questions = {q.id: q for q in questions_in(folder)}

    def who(given: Any) -> str:
        name = annotator_name(str(given or only or ""))
        if only not in (None, name):
            raise DataError(f"annotator (={name}) must be {only}, for whom this page is served.")
        return name

    async def session(request: Request) -> Response:
        name = request.query_params.get("annotator") or only
        found = await run_in_threadpool(progress, folder, questions, who(name) if name else None)
        return JSONResponse({**found, "only": only, "command": command})

    async def ask(request: Request) -> Response:
        name = who(request.query_params.get("annotator"))
        question = questions.get(request.path_params["id"])
        if question is None:
            return JSONResponse({"error": "no such question"}, 404)
        return JSONResponse(await run_in_threadpool(as_shown, folder, question, name))

    async def judge(request: Request) -> Response:
        body = await read_body(request)
        name = who(body.get("annotator"))
        given = {k: v for k, v in body.items() if k in ("ranks", "comment")}
        judgement = judgements.from_row(
            {"question": request.path_params["id"], "annotator": name, **given}
        )
        judgements.require_fit(judgement, questions)
        seen = body.get("revision")
        if type(seen) is not int:
            raise DataError(f"revision (={seen!r:.20}) must be the whole number that was seen.")
        try:
            await run_in_threadpool(keep, folder, judgement, seen)
        except StaleError:
            error = "this question was judged under this name meanwhile"
            return JSONResponse({"error": error}, 409)
        return JSONResponse(await run_in_threadpool(progress, folder, questions, name))

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / FILES[request.url.path])

    async def refused(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            problem = objection(request, token)
            refusal = None if problem is None else JSONResponse({"error": problem}, 403)
        except DataError as error:
            refusal = JSONResponse({"error": str(error)}, 400)
        answer = refusal or await call(request)
        answer.headers.update(HEADERS)
        return answer

    return Starlette(
        routes=[
            *(Route(path, page) for path in FILES),
            Route("/api/session", session),
            Route("/api/question/{id}", ask),
            Route("/api/question/{id}", judge, methods=["POST"]),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={DataError: refused},
    )


def objection(request: Request, token: str | None) -> str | None:
    """Return why a request is refused, or None.

    Without a token the Host must be a name of this machine alone; its port may be a tunnel's. With
    one, this machine may have any name, and a site that has rebound its own lacks the token.
    Raises: DataError: a Host or Origin that is no address at all.
    """
    given, origin = request.headers.get("host", ""), request.headers.get("origin")
    if set(given) & set("/\\@?#"):
        raise DataError(f"Host (={given!r:.60}) must be a host and a port.")
    host = address("Host", f"//{given}").hostname or ""
    if token is None and not is_loopback(host):
        return f"Host (={given:.60}) is not what is served here"
    if origin is not None and address("Origin", origin).netloc != given:
        return f"Origin (={origin:.60}) is another site"
    if token is None or request.url.path in ("/page.css", "/page.js"):
        return None
    shown = request.headers.get("x-token") or request.query_params.get("token", "")
    return None if secrets.compare_digest(shown.encode(), token.encode()) else "a token is needed"


def address(header: str, text: str) -> SplitResult:
    """Return the parts of a header's address. Raises: DataError: it is none."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # parsed only when it is asked for
    except ValueError:
        raise DataError(f"{header} (={text!r:.60}) must be an address.") from None
    return parts


async def read_body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises: DataError: it is too long, not JSON by type and content, or no object.
    """
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise DataError("Content-Type must be application/json.")  # else no browser asks us first
    text = b""
    async for part in request.stream():
        text += part
        if len(text) > MOST_BYTES:
            raise DataError(f"a judgement must be at most {MOST_BYTES} bytes; shorten the comment.")
    try:
        body = parse_json(text)
    except ValueError as error:
        raise DataError(f"a judgement must be a JSON object ({error}).") from None
    if not isinstance(body, dict):
        raise DataError("a judgement must be a JSON object.")
    return body


def keep(folder: Path, judgement: AnnotatorJudgement, seen: int) -> None:
    """Append a judgement to its annotator's file, with the time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    judgements.append(journal(folder, judgement.annotator), judgement._replace(at=now), seen)


def progress(
    folder: Path, questions: dict[str, LabellingQuestion], annotator: str | None
) -> dict[str, Any]:
    """Return what is asked, what an annotator has judged, and how far the people agree so far.

    agreement: share of pairs of answers that the annotator and any other judged alike, of the
    questions that both ranked; None where there are none.
    """
    said = judgements_in(folder)
    own = said.get(annotator or "", {})
    others = [theirs for name, theirs in said.items() if name != annotator]
    shared = [(own[q].ranks, theirs[q].ranks) for theirs in others for q in own if q in theirs]
    return {
        "annotator": annotator,
        "questions": list(questions),
        "judged": [q for q in questions if q in own],
        "people": len([name for name in said if said[name]]),
        "agreement": agreement(shared),
    }


def as_shown(folder: Path, question: LabellingQuestion, annotator: str) -> dict[str, Any]:
    """Return a question as the page shows it, and what its annotator says of it now.

    answers: [number, text] in the order of the page. Nothing says where an answer comes from, or
    that a question was asked before.
    """
    said = judgements.read_journal(journal(folder, annotator))
    now = said.get(question.id, AnnotatorJudgement(question.id, annotator, None, revision=0))
    return {
        "id": question.id,
        "messages": [{"role": m.role, "content": m.content} for m in question.messages],
        "passages": list(question.passages),
        "answers": [[k, question.answers[k]] for k in shown_order(question, annotator)],
        "revision": now.revision,
        "ranks": now.ranks,
        "cant_say": now.revision > 0 and now.ranks is None,
        "comment": now.comment,
    }
