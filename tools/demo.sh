#!/usr/bin/env bash
# Starts the platform, ships the guestbook, and shows that it runs and where it came from.
set -euo pipefail
cd "$(dirname "$0")/.."
underway=.venv/bin/underway

"$underway" up --detach
"$underway" ship examples/guestbook
url=$("$underway" ship examples/guestbook -o json 2>/dev/null | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["url"])')

echo
echo "The application answers at $url:"
.venv/bin/python - "$url" <<'PYTHON'
import sys, urllib.parse, urllib.request
url = sys.argv[1]
form = urllib.parse.urlencode({"name": "demo", "message": "Shipped with underway."}).encode()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
page = opener.open(url, data=form, timeout=10).read().decode()
assert "Shipped with underway." in page, page
print("  signed the guestbook and read the entry back")
PYTHON

echo
"$underway" explain deployment/guestbook
echo
echo "The platform goes on running. Next:"
echo "  $PWD/$underway status"
echo "  $PWD/$underway kubeconfig > ~/.kube/config && kubectl get all"
echo "  $PWD/$underway down"
