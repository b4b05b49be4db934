#!/usr/bin/env bash
# Install what the external tests need from the system's packages, where that is allowed. What
# cannot be installed is skipped by its tests.
# SWarp is called SWarp by Debian and may be called swarp elsewhere.
set -u
there() { command -v "$1" >/dev/null 2>&1; }
if { there SWarp || there swarp; } && there source-extractor; then exit 0; fi
if [ "$(id -u)" = 0 ] && there apt-get; then
  export DEBIAN_FRONTEND=noninteractive
  timeout 300 apt-get update -qq || true
  timeout 600 apt-get install -y -qq swarp source-extractor || true
fi
exit 0
