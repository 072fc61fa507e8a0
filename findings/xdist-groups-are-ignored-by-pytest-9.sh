#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0: `--dist loadgroup` keeps no group together. xdist adds a group's name to `_nodeid` of its
# tests, and this pytest builds `nodeid` from another field; nothing says so. With pytest 8.4.2 the same tests stay together.
# A scheduler of one's own (the hook `pytest_xdist_make_scheduler`) is not touched by it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat > "$folder/test_groups.py" <<'PY'
import os, time
import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_same_process(number):
    time.sleep(0.2)
    with open("workers.txt", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PY
workers() {
    python3 -m pip install --quiet --root-user-action ignore --target "$folder/$1" "pytest==$1" "pytest-xdist==3.8.0"
    rm -f "$folder/workers.txt"
    (cd "$folder" && PYTHONPATH="$folder/$1" PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
        python3 -m pytest -q -p xdist -p no:cacheprovider -n 2 --dist loadgroup test_groups.py > log.txt)
    sort -u "$folder/workers.txt" | wc -l
}
old=$(workers 8.4.2) new=$(workers 9.2.0)
echo "pytest-xdist 3.8.0, one group of 8 tests: $old process with pytest 8.4.2, $new with pytest 9.2.0"
[ "$old" = 1 ] && [ "$new" = 2 ]
