#!/usr/bin/env bash
# starlette 1.10.0: FileResponse answers a Range of a unit other than bytes with 400. RFC 9110, section 14.2, has a
# server ignore a unit that it does not know, which gives the whole file and 200. A wrong range in bytes is 416, as there.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$folder" "starlette==1.10.0" "httpx==0.28.1"
PYTHONPATH=$folder python3 - "$folder" <<'PY'
import sys
from pathlib import Path

import starlette
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route
from starlette.testclient import TestClient

file = Path(sys.argv[1]) / "ten"
file.write_bytes(b"0123456789")
client = TestClient(Starlette(routes=[Route("/", lambda request: FileResponse(file))]))
seen = {}
for value in ("bytes=2-4", "bytes=20-", "rows=2-4"):
    answer = client.get("/", headers={"range": value})
    seen[value] = answer.status_code
    print(f"Range: {value:<10} {answer.status_code} {answer.text}")
print(f"starlette {starlette.__version__}")
sys.exit(0 if seen == {"bytes=2-4": 206, "bytes=20-": 416, "rows=2-4": 400} else 1)
PY
