#!/usr/bin/env bash
# Install what the external tests need from the system's packages, where that is allowed.
# SWarp is called SWarp by Debian and may be called swarp elsewhere.
set -u
{ command -v SWarp || command -v swarp; } >/dev/null && command -v sbatch >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && apt-get install -y -qq swarp slurm-client || true
fi
exit 0
