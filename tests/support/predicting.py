"""The prediction service on a test's database, its work taken a step at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.clock import Clock
from penstock.predictions import jobs, registry, service, uploads
from penstock.predictions.registry import Chosen
from penstock.predictions.service import Predictions
from penstock.predictions.uploads import Upload
from penstock.storage import Database, Tx
from penstock.storage.objects import Folder, Objects
from penstock.storage.objects_s3 import Bucket
from penstock.work import ledger
from penstock.work.isolate import run_one
from penstock.work.kinds import AnyKind, Claim

KEEP = 30 * 86400.0


@dataclass
class House:
    """A service without a worker: `step` is what a worker would do."""

    database: Database
    clock: Clock
    root: Path
    max_rows: int | None = None
    told: list[tuple[str, str, dict[str, Any], str]] = field(default_factory=list)
    bucket: Bucket | None = None
    made: Predictions = field(init=False)
    objects: Objects = field(init=False)

    def __post_init__(self) -> None:
        self.objects = self.bucket or Folder(self.root / "objects")
        self.made = service.build(
            database=self.database,
            clock=self.clock,
            objects=self.objects,
            emit=self._emit,
            processes=1,
            max_upload=1 << 30,
            max_rows=self.max_rows,
            keep=KEEP,
            lease=60.0,
        )

    def _emit(
        self, tx: Tx, account: str, event_type: str, payload: Mapping[str, Any], key: str
    ) -> None:
        self.told.append((account, event_type, dict(payload), key))

    @property
    def score(self) -> AnyKind:
        return self.made.kinds[0]

    @property
    def train(self) -> AnyKind:
        return self.made.kinds[1]

    async def upload(self, content: bytes, account: str = "acme") -> Upload:
        """A file that came in and was looked at."""
        upload_id, folder = await self.database.unit(lambda tx: uploads.begin(tx, account))
        with self.objects.writing(f"{folder}/content") as file:
            file.write(content)
        given = {"encoding": None, "delimiter": None, "header_row": None}
        looked = await self.made.deps.aside.run(
            "inspect:look", self.objects, f"{folder}/content", given, None, within=60.0
        )

        def complete(tx: Tx) -> Upload:
            uploads.complete(
                tx,
                upload_id,
                filename="today.csv",
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                given=given,
                looked=looked,
            )
            return uploads.get(tx, account, upload_id)

        return await self.database.unit(complete)

    async def predict(
        self, upload: Upload, *, force: bool = False, reject: bool = False
    ) -> tuple[str, bool]:
        """Ask for a prediction by the starter model; its id, and whether it is a new one."""
        chosen = registry.the_starter()
        settled = await self.settled(upload, chosen)
        return await self.database.unit(
            lambda tx: jobs.create(
                tx, upload, chosen, settled, as_of="2026-01-31", reject=reject, force=force
            )
        )

    async def settled(self, upload: Upload, chosen: Chosen) -> dict[str, Any]:
        found: dict[str, Any] = await self.made.deps.aside.run(
            "inspect:settled", self.objects, chosen.spec, upload.names, {}, {}, [], within=60.0
        )
        return found

    async def claim(self, kind: AnyKind, account: str = "acme") -> Claim | None:
        """Take one due row, as a worker does."""
        lane = f"{kind.name}:{account}"
        claimed = await self.database.unit(lambda tx: ledger.claim(tx, kind, 1, [lane]))
        return claimed.claims[0] if claimed.claims else None

    async def step(self, kind: AnyKind, account: str = "acme") -> bool:
        """One step of work, claimed and settled; False = nothing is due."""
        claim = await self.claim(kind, account)
        if claim is None:
            return False
        assert await run_one(self.database, kind, claim, self.clock)
        return True

    async def steps(self, kind: AnyKind, account: str = "acme") -> int:
        """All steps that are due; how many there were."""
        n = 0
        while await self.step(kind, account):
            n += 1
        return n

    async def prediction(self, prediction_id: str, account: str = "acme") -> jobs.Prediction:
        return await self.database.read(lambda tx: jobs.get(tx, account, prediction_id))

    def stored(self) -> list[str]:
        """The keys of all objects."""
        root = self.root / "objects"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def events(self, event_type: str) -> list[dict[str, Any]]:
        return [payload for _, kind, payload, _ in self.told if kind == event_type]
