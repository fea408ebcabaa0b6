# What dev/demo and dev/test share: sourced, at the project's root. Afterwards Nix is there and can
# build.

say() {
  echo "${0##*/}: $*" >&2
}

# Install Debian packages.
install() {
  local sudo=()
  if ! type -P apt-get >/dev/null; then
    say "missing, and there is no apt-get to install them: $*"
    exit 2
  fi
  say "installing $*"
  ((UID == 0)) || sudo=(sudo)
  "${sudo[@]}" apt-get -q update >&2
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q install --yes --no-install-recommends "$@" >&2
}

# Install the Debian packages of missing programs: need PROGRAM:PACKAGE ...
need() {
  local each missing=()
  for each in "$@"; do
    PATH=$PATH:/usr/sbin type -P "${each%%:*}" >/dev/null || missing+=("${each##*:}")
  done
  ((${#missing[@]} == 0)) || install "${missing[@]}"
}

# Tell whether nixpkgs and its binary cache answer within a few seconds.
reach_nixpkgs() {
  python3 - <<'END' 2>/dev/null
import urllib.request

for url in ("https://cache.nixos.org/nix-cache-info", "https://github.com/NixOS/nixpkgs"):
    urllib.request.urlopen(url, timeout=3).close()
END
}

# The second brings users to build as.
type -P nix-build >/dev/null || install nix-bin nix-setup-systemd

# Settings go on top of the machine's own, which stay as they are.
if ! reach_nixpkgs; then
  # Else each command waits for a cache that does not answer.
  NIX_CONFIG="${NIX_CONFIG-}"$'\n'"substituters ="
fi
if ((UID == 0)) && [[ -z "${NIX_REMOTE-}" ]]; then
  # Without a daemon, as in a container, there may be no users to build as, and the machine may not
  # allow what sandboxes are made of.
  getent group nixbld >/dev/null || NIX_CONFIG="${NIX_CONFIG-}"$'\n'"build-users-group ="
  unshare --user true 2>/dev/null || NIX_CONFIG="${NIX_CONFIG-}"$'\n'"sandbox = false"
fi
export NIX_CONFIG
