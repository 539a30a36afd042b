#!/usr/bin/env bash
# Installs what is missing: Debian packages, and the project in a virtual environment.
# With the argument `test`, also what the tests need. Running it again is quick.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(apt ca-certificates conmon git gpgv iproute2 nftables python3 python3-venv runc)
extras="."
if [[ "${1:-}" == test ]]; then
  packages+=(bind9-dnsutils buildah busybox-static chromium chromium-driver curl docker-registry
    mmdebstrap notary openssl postgresql skopeo softhsm2)
  extras=".[test]"
fi

missing=()
for package in "${packages[@]}"; do
  [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  if ((EUID != 0)); then
    echo "these Debian packages are missing, and installing them needs root: ${missing[*]}" >&2
    exit 1
  fi
  echo "installing ${missing[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

if [[ ! -x .venv/bin/python ]]; then
  echo "making the virtual environment"
  "${PYTHON:-/usr/bin/python3}" -m venv .venv
fi
stamp=".venv/.installed-${1:-base}"
if [[ ! -e "$stamp" || pyproject.toml -nt "$stamp" ]]; then
  echo "installing underway and its Python packages"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$extras"
  touch "$stamp"
fi
