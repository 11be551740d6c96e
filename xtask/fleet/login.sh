#!/usr/bin/env bash
# A small Debian that starts from its own disk, by a boot loader, and says "login:" on its serial console.
#
#   login.sh DISK
#
# `cargo xtask bench live` runs it as root. Environment: MIRROR (the machine's own).
set -euo pipefail

DISK=${1:?usage: login.sh DISK}
ROOT=$DISK.root
LOG=$DISK.log
export LC_ALL=C
trap 'rm -rf "$ROOT"' EXIT
rm -rf "$ROOT"

mmdebstrap --variant=minbase --include=linux-image-cloud-amd64,systemd-sysv,udev,dbus,login,openssh-server,grub-pc-bin,grub2-common \
  bookworm "$ROOT" ${MIRROR:+"$MIRROR"} >"$LOG" 2>&1 || { tail -n 20 "$LOG" >&2; exit 1; }

mkdir -p "$ROOT/boot/grub"
cat >"$ROOT/boot/grub/grub.cfg" <<'END'
linux /vmlinuz root=/dev/vda1 console=ttyS0 quiet
initrd /initrd.img
boot
END
echo '/dev/vda1 / ext4 rw 0 1' >"$ROOT/etc/fstab"
# In software on a busy machine a start takes minutes: no console is given up meanwhile.
mkdir -p "$ROOT/etc/systemd/system.conf.d"
printf '[Manager]\nDefaultTimeoutStartSec=900s\n' >"$ROOT/etc/systemd/system.conf.d/slow.conf"
chroot "$ROOT" grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/core.img \
  biosdisk part_msdos ext2 normal linux

rm -f "$DISK.part"
truncate -s 2G "$DISK.part"
printf 'label: dos\nstart=2048, type=83\n' | sfdisk -q "$DISK.part"
mkfs.ext4 -q -F -E offset=1048576,lazy_itable_init=0 -d "$ROOT" "$DISK.part" 2047M
# The first sector, but its table, and right behind it what that looks for there.
dd if="$ROOT/usr/lib/grub/i386-pc/boot.img" of="$DISK.part" bs=440 count=1 conv=notrunc status=none
dd if="$ROOT/boot/grub/core.img" of="$DISK.part" bs=512 seek=1 conv=notrunc status=none
mv "$DISK.part" "$DISK"
rm -f "$LOG"
