# Shared by the other scripts: packages and the build. Source it; it defines functions only.

# as_root COMMAND...: runs it as root, by sudo where need be.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "This needs root: $*" >&2
    echo "Run it as root once, or see docs/install.md for ways without root." >&2
    return 1
  fi
}

# apt_update: once a run, and only when something is to be fetched.
apt_update() {
  if [ -z "${apt_is_fresh:-}" ]; then
    as_root apt-get update -qq || return 1
    apt_is_fresh=1
  fi
}

# install_packages KIND...: installs those of packages.txt that are missing, by name.
install_packages() {
  local root kind name missing=()
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  if ! command -v dpkg-query >/dev/null; then
    echo "No dpkg here: taking the libraries as installed (docs/install.md lists them)." >&2
    return 0
  fi
  while read -r kind name; do
    case " $* " in *" $kind "*) ;; *) continue ;; esac
    # pkg-config is provided by pkgconf on newer systems.
    if [ "$name" = pkg-config ] && command -v pkg-config >/dev/null; then continue; fi
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' ||
      missing+=("$name")
  done < <(grep -v '^#' "$root/scripts/packages.txt")
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "Installing: ${missing[*]}"
  apt_update || return 1
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# build_jobs: compilers at once, by cores and by memory (about 1.5 GiB each).
build_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/MemAvailable/ {print int($2 / 1572864)}' /proc/meminfo)
  [ "$memory" -lt 1 ] && memory=1
  [ "$cores" -lt "$memory" ] && echo "$cores" || echo "$memory"
}

# build_quietly LOG COMMAND...: only the end of the log is shown when it fails.
build_quietly() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || {
    grep -nE 'error|FAILED' "$log" | head -20 >&2
    tail -20 "$log" >&2
    echo "The build failed; all of its output is in $log" >&2
    return 1
  }
}
