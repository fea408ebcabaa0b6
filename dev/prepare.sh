# What dev/check, dev/demo and dev/test share; sourced, at the project's root.

say() {
  echo "${0##*/}: $*" >&2
}

fail() {
  say "$@"
  exit 2
}

# Print the comment at the top of the program.
print_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "dev/${0##*/}"
}

# Announce a shell command and run it as root, or say who can run it. What it prints is shown only if
# it fails: apt has a hundred lines for twenty packages.
run_as_root() {
  local output as_root=sudo request="ask the administrator of this machine to run: $1"
  ((UID == 0)) && as_root=
  [[ -z "$as_root" ]] || type -P sudo >/dev/null || fail "$request"
  say "running as root (40 MB to download, no service is started): $1"
  output=$($as_root sh -c "$1" 2>&1) && return
  echo "$output" >&2
  [[ -z "$as_root" ]] && fail "that failed"
  fail "$request"
}

# Tell whether this user can build in the Nix store; otherwise print what stands in the way.
check_store() {
  local socket=${NIX_DAEMON_SOCKET_PATH:-/nix/var/nix/daemon-socket/socket} user
  user=$(id -un)
  if ((UID == 0)) || [[ "${NIX_REMOTE:-daemon}" != daemon || -w "$socket" || -w /nix/store ]]; then
    return
  elif [[ -w /nix && ! -e /nix/store ]]; then
    return # Nix makes the rest
  elif [[ ! -e /nix ]]; then
    echo missing
  elif [[ ! -d "${socket%/*}" ]]; then
    echo "/nix belongs to $(stat -c %U /nix), and no Nix daemon runs that would serve $user:" \
      "use sudo dev/${0##*/}, or ask the administrator for nix-setup-systemd and the group nix-users"
  elif getent group nix-users >/dev/null && ! id -Gn | grep -qw nix-users; then
    echo "the Nix daemon serves the group nix-users only: ask the administrator of this machine to" \
      "run: adduser $user nix-users; then log in again"
  else
    echo "the Nix daemon does not run: ask the administrator of this machine to start it"
  fi
}

# Have Python, Nix and a store to build in, and the Debian packages given; or end with one line that
# says what is missing. Packages that would start services are never installed.
prepare() {
  local folder obstacle command= missing=("$@")
  for folder in /nix/var/nix/profiles/default ~/.local/state/nix/profile ~/.nix-profile; do
    [[ ! -x $folder/bin/nix-build ]] || PATH=$folder/bin:$PATH
  done
  type -P python3 >/dev/null || missing+=(python3)
  type -P nix-build >/dev/null || missing+=(nix-bin)
  obstacle=$(check_store)
  [[ "$obstacle" == "" || "$obstacle" == missing ]] || fail "$obstacle"
  if ((${#missing[@]} > 0)); then
    type -P apt-get >/dev/null || fail "missing, and there is no apt-get to install it: ${missing[*]}"
    command="apt-get -q update && DEBIAN_FRONTEND=noninteractive"
    command+=" apt-get -q install --yes --no-install-recommends ${missing[*]}"
  fi
  # A store that belongs to its only user needs no daemon.
  [[ "$obstacle" != missing ]] ||
    command+="${command:+ && }install --directory --owner=$(id -un) /nix"
  [[ -z "$command" ]] || run_as_root "$command"
  # As an ordinary user Nix 2.10 and later take a store in the home unless this folder is there.
  ((UID == 0)) || [[ ! -w /nix ]] || mkdir -p /nix/var/nix
  check_devices
  set_nix_config
}

# Tell whether nixpkgs and its binary cache answer within a few seconds.
has_nixpkgs() {
  python3 - <<'END' 2>/dev/null
import urllib.request

for url in ("https://cache.nixos.org/nix-cache-info", "https://github.com/NixOS/nixpkgs"):
    urllib.request.urlopen(url, timeout=3).close()
END
}

# Add to the machine's own settings what Nix needs to build here.
set_nix_config() {
  settings=() # those that Nix needs whenever it runs here
  if [[ -z "${NIX_REMOTE-}" && -w /nix/store || ! -e /nix/store ]]; then
    # Without a daemon, as in a container, there may be no users to build as, and the machine may
    # not allow what sandboxes are made of.
    ((UID != 0)) || getent group nixbld >/dev/null || settings+=("build-users-group =")
    unshare --user true 2>/dev/null || settings+=("sandbox = false")
  fi
  NIX_CONFIG=${NIX_CONFIG-}$(printf '\n%s' "${settings[@]}")
  if ! has_nixpkgs; then
    # Else each command waits for a cache that does not answer.
    NIX_CONFIG+=$'\n'"substituters ="
  fi
  export NIX_CONFIG
}

# Have Nix work by hand as it does here, and flakes too: write the user's nix.conf, or say what is
# missing from the one that is there.
keep_settings() {
  local file=${XDG_CONFIG_HOME:-$HOME/.config}/nix/nix.conf setting shown missing=()
  [[ $(nix-instantiate --eval -E 'builtins ? getFlake') == true ]] ||
    settings+=("experimental-features = nix-command flakes")
  for setting in "${settings[@]}"; do
    grep -qsxF "$setting" "$file" || missing+=("$setting")
  done
  ((${#missing[@]} > 0)) || return 0
  shown=$(printf '; %s' "${missing[@]}")
  if [[ ! -e $file ]] && mkdir -p "${file%/*}" 2>/dev/null &&
    printf '%s\n' "${missing[@]}" 2>/dev/null >"$file"; then
    say "wrote $file, which Nix by hand needs here: ${shown:2}"
  else
    say "for Nix by hand, write these lines into $file: ${shown:2}"
  fi
}

# End with one line if the machine lacks what Nix builds with.
check_devices() {
  [[ -e /proc/self ]] || fail "/proc is missing: mount -t proc proc /proc"
  python3 -c 'import os; os.openpty()' 2>/dev/null ||
    fail "pseudo terminals are missing, in which Nix runs builds: mount -t devpts devpts /dev/pts"
}

# Have the Python packages of the tests, pinned in dev/requirements.txt, first in PATH.
prepare_python() {
  python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "needs Python 3.11 or later, with venv (on Debian: apt-get install python3-venv)"
  # Named after what is in it: checkouts with other requirements, tested at the same time, keep theirs.
  venv=${XDG_CACHE_HOME:-$HOME/.cache}/nixery-test-python-$(sha256sum dev/requirements.txt | head -c 12)
  mkdir -p "${venv%/*}"
  exec 9>"$venv.lock"
  flock 9
  if [[ ! -e "$venv/complete" ]]; then
    say "installing the Python packages of dev/requirements.txt in $venv, 70 MB to download"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r dev/requirements.txt
    touch "$venv/complete"
  fi
  exec 9>&-
  PATH=$venv/bin:$PATH
  # Unpacked images are large. (Not in pyproject.toml: older versions of pytest refuse the setting.)
  export PYTEST_ADDOPTS="-o tmp_path_retention_policy=failed ${PYTEST_ADDOPTS-}"
}

# Check formatting, linting and types.
check_sources() {
  ruff check
  ruff format --check
  mypy
}
