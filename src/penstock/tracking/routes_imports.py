"""`/v1/shipments/imports`: many shipments at once, from a CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from penstock.api import bodies
from penstock.api.context import Caller, of, requires
from penstock.api.multipart import FormFile
from penstock.api.paging import Items, Paged
from penstock.api.problems import Problem
from penstock.errors import Refused
from penstock.storage import Database
from penstock.tracking import columns, imports
from penstock.tracking.deps import Deps
from penstock.tracking.models import Carrier
from penstock.tracking.problems import problem_of
from penstock.tracking.shapes import ImportView, RowError
from penstock.tracking.sheet import Fault, ToUtf8

# Beside the file, a multipart body holds boundaries and headers.
_BODY_LIMIT: Final = imports.MOST + 64 * 1024
_CHARSETS: Final = ("utf-8", "utf8", "us-ascii", "utf-16", "utf-16le", "utf-16be")
_LONGEST_NAME: Final = 200

_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": columns.TEMPLATE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "text/csv"},
                    },
                }
            },
        },
    }
}


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database = deps.database

    async def view(account: str, import_id: str) -> ImportView:
        return ImportView(**await database.read(lambda tx: imports.get(tx, account, import_id)))

    @api.post(
        "/v1/shipments/imports",
        status_code=202,
        summary="Import shipments",
        openapi_extra=_BODY,
    )
    @requires("shipments:write", body_limit=_BODY_LIMIT)
    async def import_shipments(
        request: Request,
        caller: Caller,
        carrier: Annotated[Carrier | None, Query(description="Of the rows that name none.")] = None,
    ) -> ImportView:
        """A CSV of at most 20 MiB, as it is or as the file of a form; see the template.

        The head is looked at before the answer, the rows after it. A row whose number is followed
        already changes nothing, so importing a file again is harmless.
        """
        if carrier is not None:
            try:
                deps.credentials.spec(carrier)
            except Refused as refused:
                raise problem_of(refused) from None
        content_type = of(request).headers.get(b"content-type", b"").decode("latin-1")
        form = _form(content_type)
        taking = _Taking(database, caller.account, carrier, form)
        turn, size = ToUtf8(), 0
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > (_BODY_LIMIT if form is not None else imports.MOST):
                    raise bodies.too_large(imports.MOST)
                await taking.add(turn.feed(piece if form is None else form.feed(piece)))
            if form is not None:
                form.end()
            await taking.add(turn.end())
            import_id = await taking.complete()
        except BaseException:
            await taking.discard()
            raise
        return await view(caller.account, import_id)

    @api.get("/v1/shipments/imports", summary="List imports")
    @requires("shipments:read")
    async def list_imports(page: Paged, caller: Caller) -> Items[ImportView]:
        """Newest first."""
        after = page.after(str)
        found = await database.read(
            lambda tx: imports.page(tx, caller.account, after[0] if after else None, page.limit + 1)
        )
        shown, cursor = page.of(found, lambda item: (item["import_id"],))
        return Items(items=[ImportView(**item) for item in shown], next_cursor=cursor)

    @api.get("/v1/shipments/imports/{import_id}", summary="Read an import")
    @requires("shipments:read")
    async def read_import(import_id: str, caller: Caller) -> ImportView:
        """How far it is."""
        return await view(caller.account, import_id)

    @api.get("/v1/shipments/imports/{import_id}/errors", summary="List the errors of an import")
    @requires("shipments:read")
    async def list_import_errors(import_id: str, page: Paged, caller: Caller) -> Items[RowError]:
        """The rows that could not be used, in the file's order; of more than 10,000 the first."""
        after = page.after(int)
        found = await database.read(
            lambda tx: imports.errors(
                tx, caller.account, import_id, after[0] if after else None, page.limit + 1
            )
        )
        shown, cursor = page.of(found, lambda item: (item["row"],))
        return Items(items=[RowError(**item) for item in shown], next_cursor=cursor)

    @api.post(
        "/v1/shipments/imports/{import_id}/cancel", status_code=202, summary="Cancel an import"
    )
    @requires("shipments:write")
    async def cancel_import(import_id: str, caller: Caller) -> ImportView:
        """Looks at no more rows. The shipments that were made stay; doing it again is harmless."""
        await database.unit(lambda tx: imports.cancel(tx, caller.account, import_id))
        return await view(caller.account, import_id)

    @api.get(
        "/v1/templates/shipments.csv",
        summary="Read the template of an import",
        response_class=Response,
        responses={200: {"content": {"text/csv": {}}, "description": "A head and one row."}},
    )
    @requires("shipments:read")
    async def shipments_template() -> Response:
        """A CSV with every column; `metadata.` columns are named by you."""
        return Response(
            columns.TEMPLATE,
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="shipments.csv"'},
        )


class _Taking:
    """A file on its way into the database, a part at a time."""

    def __init__(
        self, database: Database, account: str, carrier: str | None, form: FormFile | None
    ) -> None:
        self._database = database
        self._account = account
        self._carrier = carrier
        self._form = form
        self._rest = b""  # less than a part
        self._parts = 0
        self._id: str | None = None

    async def add(self, data: bytes) -> None:
        """What comes next of the file."""
        self._rest += data
        while len(self._rest) >= imports.PART:
            part, self._rest = self._rest[: imports.PART], self._rest[imports.PART :]
            await self._store(part, final=False)

    async def complete(self) -> str:
        """That was all; answers the import's id."""
        size = self._parts * imports.PART + len(self._rest)
        id_ = await self._store(self._rest, final=True)
        await self._database.unit(lambda tx: imports.complete(tx, id_, size))
        return id_

    async def discard(self) -> None:
        """Forget what was stored."""
        id_ = self._id
        if id_ is not None:
            await self._database.unit(lambda tx: imports.discard(tx, id_))

    async def _store(self, part: bytes, *, final: bool) -> str:
        id_ = self._id
        if id_ is None:
            found = columns.head(part, final=final, carrier=self._carrier)
            if isinstance(found, list):
                raise _refused(found)
            head, place = found
            filename = _shown(self._form.filename if self._form is not None else None)
            id_ = self._id = await self._database.unit(
                lambda tx: imports.begin(
                    tx, self._account, head, place, carrier=self._carrier, filename=filename
                )
            )
        stored, number = id_, self._parts
        await self._database.unit(lambda tx: imports.append(tx, stored, number, part))
        self._parts += 1
        return stored


def _form(content_type: str) -> FormFile | None:
    """How to read a body of this type; None = it is the file itself."""
    media, *parameters = content_type.lower().split(";")
    if media.strip() == "multipart/form-data":
        return FormFile(content_type)
    if media.strip() != "text/csv":
        raise Problem("not_csv", "The body is not said to be a CSV.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _CHARSETS:
            raise Problem("not_csv", "Its charset is neither UTF-8 nor UTF-16.")
    return None


def _shown(filename: str | None) -> str | None:
    """A file's name as people know it: no folders, nothing that cannot be printed."""
    if filename is None:
        return None
    last = filename.replace("\\", "/").rpartition("/")[2]
    # Half a pair and the like have no place in a text.
    kept = "".join(character for character in last if character.isprintable())
    return kept[:_LONGEST_NAME] or None


def _refused(faults: Sequence[Fault]) -> Problem:
    first = faults[0]
    return Problem(
        "validation_failed",
        first.message,
        errors=[
            {
                "message": fault.message,
                "row": fault.number,
                "code": fault.code,
                **({} if fault.column is None else {"column": fault.column}),
            }
            for fault in faults
        ],
    )
