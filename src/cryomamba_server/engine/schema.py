"""Tables of the job store. A change here needs a step in ``migrations/versions``."""

from __future__ import annotations

import sqlalchemy as sa

#: The revision that these tables are; the newest one in ``migrations/versions``.
REVISION = "r0003"

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

#: One row for each job: its record, and what the engine needs to run it. Values of the vocabulary
#: are JSON as `cryomamba_core.wire` writes it, times are ISO 8601 in UTC.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("grid", sa.Text, nullable=False),
    sa.Column("source_name", sa.Text, nullable=False),
    sa.Column("source_root", sa.Text, comment="folder below which links to the source are not followed, or null"),
    sa.Column("progress", sa.Text),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("started_at", sa.String(40)),
    sa.Column("finished_at", sa.String(40)),
    sa.Column("error", sa.Text),
    sa.Column("artifacts", sa.Text, nullable=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, comment="workers that were started on it"),
    sa.Column("attempts_before", sa.Integer, nullable=False, comment="those before the user's last retry"),
    sa.Column("device", sa.Text, comment="the slot of an active job"),
    sa.Column("executor", sa.Text, comment="with token: the worker's handle, once it is started"),
    sa.Column("token", sa.Text),
    sa.Column("worker_seq", sa.Integer, nullable=False, comment="last event of this attempt that is taken in"),
    sa.Column("last_seq", sa.Integer, nullable=False, comment="number of the job's last event"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("queue_order", sa.Integer, nullable=False, comment="ascending in the order of submission"),
    sa.Column("served", sa.Integer, nullable=False, comment="ascending in the order of starts; 0 before the first"),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_digest", sa.String(64), comment="of the request that came with the key"),
    sa.UniqueConstraint("owner", "idempotency_key"),
    sa.Index(None, "owner", "id"),
    sa.Index(None, "owner", "served"),
    sa.Index(None, "state", "queue_order"),
)

#: What listeners hear: every change of state, and the newest progress and preview of each job.
events = sa.Table(
    "events",
    metadata,
    sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("worker_seq", sa.Integer, comment="the worker's own number; null for an event of the engine"),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("job_id", "attempt", "worker_seq"),
)

#: Files that were sent, one row for each owner of the same content.
files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("key", sa.Text, nullable=False, comment="where the storage has it"),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("last_used_at", sa.String(40), comment="by a job, or sent again; null before the first time"),
)

#: What is known to be of no use any more and is still to be removed; see `cryomamba_server.engine.removals`.
removals = sa.Table(
    "removals",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True, comment="a job's id, or a key in the storage"),
)

#: Files on their way. A complete upload keeps its row until it expires, so that completing twice is no error.
uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("part_size", sa.Integer, nullable=False),
    sa.Column("fingerprint", sa.Text),
    sa.Column("sha256", sa.String(64), comment="as announced, or null"),
    sa.Column("key", sa.Text, nullable=False, comment="where the storage will have it"),
    sa.Column("token", sa.Text, comment="of the storage's open write; null once it is committed"),
    sa.Column("file_id", sa.String(64), comment="once it is complete"),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("touched_at", sa.String(40), nullable=False, comment="when the last part came"),
    sa.Index(None, "owner", "fingerprint"),
    sa.Index(None, "touched_at"),
)

#: Parts that are durable.
upload_parts = sa.Table(
    "upload_parts",
    metadata,
    sa.Column("upload_id", sa.String(36), sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)

#: Tokens that were made; the tokens themselves are not kept.
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False, comment="separated by spaces"),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("expires_at", sa.String(40), nullable=False),
    sa.Column("revoked_at", sa.String(40)),
    sa.Index(None, "subject"),
)
