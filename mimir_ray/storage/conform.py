"""Whether rows are what their schema and the accounting need."""

import pyarrow as pa
import pyarrow.compute as pc

from mimir_ray.records import STATUSES


def conform(rows: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """``rows`` in the order and types of ``schema``; only lossless casts are made.

    Raises ValueError, whose message ``what`` opens.
    """
    missing = [name for name in schema.names if name not in rows.column_names]
    extra = [name for name in rows.column_names if name not in schema.names]
    if missing or extra:
        raise ValueError(f"{what}: missing columns {missing}, unknown columns {extra}; the schema has {schema.names}")
    for field in schema:
        if not field.nullable and rows[field.name].null_count:
            raise ValueError(f"{what}: {rows[field.name].null_count} rows have no {field.name}")
    try:
        table = rows.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{what}: {error}") from None
    unknown = set(pc.unique(table["status"]).to_pylist()) - set(STATUSES)
    if unknown:
        raise ValueError(f"{what}: status {sorted(unknown)}; it must be one of {', '.join(STATUSES)}")
    ok = pc.equal(table["status"], "ok")
    unexplained = pc.not_equal(ok, pc.equal(table["reason"], ""))
    if pc.any(unexplained).as_py():
        row = table.filter(unexplained).slice(0, 1).select([schema.names[0], "status", "reason"]).to_pylist()[0]
        raise ValueError(f"{what}: {row}: an ok row has an empty reason and every other row has one")
    return table
