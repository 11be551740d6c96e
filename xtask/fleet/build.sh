#!/usr/bin/env bash
# The virtual disks of a small hospital, made from real Debian guests, night after night.
#
#   build.sh OUT [NIGHTS]
#
# OUT/night-K/NAME.raw   sparse raw disks: MBR, one partition (ext4, NTFS on pacs01) from 1 MiB on; K from 0
# OUT/night-K/truth.tsv  guest, path, size in bytes and SHA-256 of some files inside
#
# On the last night an attacker encrypts and renames the file server's documents.
#
# Run it through `cargo xtask fleet`, which installs what it needs. Needs root and loop devices. A night that is
# complete is not built again, so an interrupted run goes on where it was. Users' work repeats from SEED; packages and
# the times inside the file systems do not.
#
# Environment: SEED (1), DISK_MB (3072), DOCUMENTS (1500), PGBENCH_SCALE (12), MIRROR (the machine's own).
set -euo pipefail

OUT=${1:?usage: build.sh OUT [NIGHTS]}
NIGHTS=${2:-4}
SEED=${SEED:-1}
DISK_MB=${DISK_MB:-3072}
DOCUMENTS=${DOCUMENTS:-1500}
PGBENCH_SCALE=${PGBENCH_SCALE:-12}

GUESTS=(web01 db01 mail01 files01 pacs01)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BASE=$OUT/.base.tar
ROOT=$OUT/.root        # where a guest's partition is mounted
LOG=$OUT/.log
LOOP=
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }

# Runs a noisy command; its output is shown only if it fails.
quietly() {
  "$@" >"$LOG" 2>&1 || { local code=$?; tail -n 20 "$LOG" >&2; return "$code"; }
}

churn() { # SEED-LABEL ARGUMENTS...
  local label=$1; shift
  python3 "$HERE/churn.py" --seed "$SEED-$label" "$@"
}

# --- disks and mounts ---------------------------------------------------------------------------------------------

file_system_of() { if [ "$1" = pacs01 ]; then echo ntfs; else echo ext4; fi; }

attach() { LOOP=$(losetup --find --show --offset 1MiB "$1"); }

detach() { if [ -n "$LOOP" ]; then losetup --detach "$LOOP"; LOOP=; fi; }

make_disk() { # GUEST IMAGE
  local guest=$1 image=$2 type=83
  [ "$(file_system_of "$guest")" = ntfs ] && type=7
  rm -f "$image"
  truncate -s "${DISK_MB}M" "$image"
  printf 'label: dos\nstart=2048, type=%s\n' "$type" | sfdisk -q "$image"
  attach "$image"
  if [ "$type" = 7 ]; then
    mkfs.ntfs --quick --quiet --label "$guest" --partition-start 2048 --sectors-per-track 63 --heads 255 "$LOOP"
  else
    mkfs.ext4 -q -L "$guest" -E lazy_itable_init=0 "$LOOP"
  fi
  detach
}

open_guest() { # GUEST IMAGE
  mkdir -p "$ROOT"
  attach "$2"
  if [ "$(file_system_of "$1")" = ntfs ]; then ntfs-3g -o big_writes "$LOOP" "$ROOT"; else mount -o discard "$LOOP" "$ROOT"; fi
}

close_guest() { umount "$ROOT"; detach; }

cleanup() {
  umount "$ROOT/dev" "$ROOT/proc" "$ROOT" 2>/dev/null || true
  detach 2>/dev/null || true
}
trap cleanup EXIT

inside() { # COMMAND...  in the open guest
  local code=0
  mount --bind /proc "$ROOT/proc"
  mount --bind /dev "$ROOT/dev"
  chroot "$ROOT" "$@" || code=$?
  umount "$ROOT/dev" "$ROOT/proc"
  return "$code"
}

install_packages() { # PACKAGE...  with this machine's package sources
  [ -e /etc/resolv.conf ] && cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
  rm -rf "$ROOT"/etc/apt/sources.list*
  cp -a /etc/apt/sources.list* "$ROOT/etc/apt/"
  cp -a /etc/apt/apt.conf.d/. "$ROOT/etc/apt/apt.conf.d/"
  quietly inside apt-get -qq update
  quietly inside apt-get -qq -y --no-install-recommends install "$@"
  quietly inside apt-get clean
}

# --- the guests ---------------------------------------------------------------------------------------------------

make_base() {
  say "base system"
  quietly mmdebstrap --variant=important \
    --include=ca-certificates,openssh-server,python3-minimal,linux-image-cloud-amd64 \
    bookworm "$BASE.part" ${MIRROR:+"$MIRROR"} --format=tar
  mv "$BASE.part" "$BASE"
}

# Runs COMMAND as the database's owner while the server runs.
with_database() {
  quietly inside sh -c "pg_ctlcluster 15 main start && su postgres -c '$1'; code=\$?; pg_ctlcluster 15 main stop; exit \$code"
}

furnish() { # GUEST  the first night's contents
  local guest=$1
  if [ "$guest" = pacs01 ]; then
    churn "$guest-0" --documents $((DOCUMENTS / 2)) "$ROOT/Users/Public/Documents"
    return
  fi
  tar -xf "$BASE" -C "$ROOT"
  echo "$guest" >"$ROOT/etc/hostname"
  case $guest in
    web01) install_packages nginx-light python3-pip php-cli ;;
    db01) install_packages postgresql postgresql-contrib
      with_database "createdb clinic && pgbench -q -i -s $PGBENCH_SCALE clinic" ;;
    mail01) install_packages postfix-lmdb
      churn "$guest-0" --mail 6000 "$ROOT/var/mail/new" ;;
    files01) churn "$guest-0" --documents "$DOCUMENTS" "$ROOT/srv/share" ;;
  esac
}

live() { # GUEST NIGHT  one day of work
  local guest=$1 night=$2
  case $guest in
    web01)
      case $night in 1) install_packages git less ;; 2) install_packages vim-nox ;; esac
      churn "$guest-$night" --log 200000 "$ROOT/var/log/nginx/access.log" ;;
    db01) with_database "pgbench -n -c 2 -t 4000 clinic" ;;
    mail01) churn "$guest-$night" --mail 600 "$ROOT/var/mail/new" ;;
    files01)
      if [ "$night" = $((NIGHTS - 1)) ]; then
        churn "$guest-$night" --attack "$ROOT/srv/share"
      else
        churn "$guest-$night" --edit 60 --documents 40 "$ROOT/srv/share"
      fi ;;
    pacs01) churn "$guest-$night" --edit 20 --documents 20 "$ROOT/Users/Public/Documents" ;;
  esac
}

# Every 97th file under 4 MiB, at most 40 of a guest, another choice each night.
truth() { # GUEST NIGHT
  local path
  (cd "$ROOT" && find . -xdev -type f -size -4M | sort) |
    awk -v night="$2" 'NR % 97 == night % 97 && n++ < 40' |
    while IFS= read -r path; do
      printf '%s\t%s\t%s\t%s\n' "$1" "${path#.}" "$(stat -c %s "$ROOT/$path")" "$(sha256sum <"$ROOT/$path" | cut -d' ' -f1)"
    done
}

build_night() { # NIGHT
  local night=$1 folder=$OUT/night-$1 guest image
  mkdir -p "$folder"
  : >"$folder/truth.part"
  for guest in "${GUESTS[@]}"; do
    say "night $night: $guest"
    image=$folder/$guest.raw
    if [ "$night" = 0 ]; then make_disk "$guest" "$image"; else cp --sparse=always "$OUT/night-$((night - 1))/$guest.raw" "$image"; fi
    open_guest "$guest" "$image"
    if [ "$night" = 0 ]; then furnish "$guest"; else live "$guest" "$night"; fi
    truth "$guest" "$night" >>"$folder/truth.part"
    close_guest
  done
  mv "$folder/truth.part" "$folder/truth.tsv" # last: marks the night as complete
}

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd); BASE=$OUT/.base.tar; ROOT=$OUT/.root; LOG=$OUT/.log
[ -e "$BASE" ] || make_base
for ((night = 0; night < NIGHTS; night++)); do
  [ -e "$OUT/night-$night/truth.tsv" ] || build_night "$night"
done
say "done"
du -sh "$OUT"/night-*
