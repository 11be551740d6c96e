#!/bin/sh
# Still pictures of image files on XFS, Btrfs or bcachefs, for `sancerre backup --source command`:
#
#   sancerre backup --vm web01 --source command --begin 'reflink.sh begin /vm/web01.raw' --end 'reflink.sh end /vm/web01.raw'
#
# A picture is a clone beside its file, which costs no room until one of the two is written to. The one that was saved stays until
# the next is: where it lies elsewhere than tonight's, raw files have changed, and only that is read.
#
# FREEZE and THAW, if they are set, are commands that freeze and thaw the guest, as in FREEZE='virsh domfsfreeze web01'.
# Several files are of one moment only so.
set -eu
umask 077
say() { echo "reflink.sh: $*" >&2; }
action=${1-}
[ $# -ge 2 ] || { say "usage: reflink.sh begin|end FILE…"; exit 2; }
shift

picture() { echo "$(dirname "$1")/.$(basename "$1").sancerre-$2"; }
thaw() { [ -z "${THAW-}" ] || sh -c "$THAW" >&2; }
text() { printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"; }
is_raw() { case $1 in *.qcow2) false ;; *) true ;; esac }

# The newest snapshot whose pictures are all there.
base() {
    found=
    for id in ${BACKUP_SNAPSHOTS-}; do
        for file; do
            [ -e "$(picture "$file" "$id")" ] || continue 2
        done
        found=$id
    done
    echo "$found"
}

begin() {
    if [ $# -gt 1 ] && [ -z "${FREEZE-}" ]; then
        say "several files are of one moment only while the guest is frozen: set FREEZE and THAW"
        exit 2
    fi
    for file; do
        # Of a night that was killed.
        rm -f "$(picture "$file" new)" "$(picture "$file" map)"
    done
    trap thaw EXIT
    [ -z "${FREEZE-}" ] || sh -c "$FREEZE" >&2
    for file; do
        cp --reflink=always "$file" "$(picture "$file" new)"
    done
    trap - EXIT
    thaw
    base=$(base "$@")
    number=0 disks='' since=''
    for file; do
        new=$(picture "$file" new)
        disk="\"name\": \"disk$number\", \"path\": $(text "$new")"
        if is_raw "$file"; then
            disk="$disk, \"format\": \"raw\""
            map=$(picture "$file" map)
            if [ -n "$base" ] && "${SANCERRE:-sancerre}" map -q reflink "$(picture "$file" "$base")" "$new" >"$map"; then
                disk="$disk, \"changed\": $(text "$map")"
                since=", \"since\": \"$base\""
            fi
        else
            disk="$disk, \"format\": \"qcow2\""
        fi
        disks="$disks${disks:+, }{$disk}"
        number=$((number + 1))
    done
    frozen=false
    [ -z "${FREEZE-}" ] || frozen=true
    echo "{\"disks\": [$disks], \"frozen\": $frozen$since}"
}

end() {
    # Whatever became of the other half: nothing of it may stand still.
    thaw || say "THAW failed"
    for file; do
        new=$(picture "$file" new)
        rm -f "$(picture "$file" map)"
        if [ -z "${BACKUP_SNAPSHOT-}" ]; then
            rm -f "$new"
            continue
        fi
        mv "$new" "$(picture "$file" "$BACKUP_SNAPSHOT")"
        for old in "$(picture "$file" '')"*; do
            [ "$old" = "$(picture "$file" "$BACKUP_SNAPSHOT")" ] || rm -f "$old"
        done
    done
}

case $action in
begin) begin "$@" ;;
end) end "$@" ;;
*) say "usage: reflink.sh begin|end FILE…"; exit 2 ;;
esac
