# Builds a derivation of this set as nixpkgs' stdenv would: run by bash with the search path as its
# argument, with or without structured attributes.
set -eo pipefail
export PATH=$1 SHELL=$BASH SOURCE_DATE_EPOCH=315532800

if [ -e "${NIX_ATTRS_SH_FILE-}" ]; then
  . "$NIX_ATTRS_SH_FILE"
elif [ -e .attrs.sh ]; then
  . .attrs.sh
fi
if [[ "$(declare -p outputs 2>/dev/null)" == 'declare -A'* ]]; then
  for name in "${!outputs[@]}"; do
    export "$name=${outputs[$name]}"
  done
  if [[ "$(declare -p env 2>/dev/null)" == 'declare -A'* ]]; then
    for name in "${!env[@]}"; do
      export "$name=${env[$name]}"
    done
  fi
fi
# A list is an array with structured attributes and a string of words without.
for input in ${nativeBuildInputs[@]} ${buildInputs[@]}; do
  PATH=$input/bin:$PATH
done

runHook() {
  if declare -F "$1" >/dev/null; then "$1"; else eval "${!1-}"; fi
}

# Give scripts in the folders or files $@ the interpreters of the search path.
patchShebangs() {
  local file line words
  find "$@" -type f -perm -0100 | while read -r file; do
    IFS= read -r line <"$file" 2>/dev/null || continue
    [[ "$line" == '#!'* && "$line" != *"$NIX_STORE"* ]] || continue
    read -ra words <<<"${line#??}"
    [[ "${words[0]}" == */env ]] && words=("${words[@]:1}")
    words[0]=$(type -P "${words[0]##*/}") || continue
    sed -i "1s|.*|#!${words[*]}|" "$file"
  done
}

unpackPhase() {
  local each
  for each in ${srcs[@]:-$src}; do
    if [ -d "$each" ]; then
      cp -r --no-preserve=ownership "$each" source
      chmod -R u+w source
      cd source
    else
      tar -xf "$each"
      cd -- */
    fi
  done
}

if [ -n "${buildCommandPath-}" ]; then
  . "$buildCommandPath"
elif [ -n "${buildCommand-}" ]; then
  eval "$buildCommand"
else
  if [ -z "${dontUnpack-}" ]; then
    unpackPhase
  fi
  for phase in patch configure build check install; do
    if [ "$phase" != check ] || [ -n "${doCheck-}" ]; then
      body=${phase}Phase
      runHook "pre${phase^}"
      eval "${!body-}"
      runHook "post${phase^}"
    fi
  done
  if [ -d "$out/bin" ]; then
    patchShebangs "$out/bin"
  fi
  runHook postFixup
fi
