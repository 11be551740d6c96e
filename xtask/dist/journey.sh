#!/bin/bash
# Inside a fresh Debian: a package is installed, upgraded, removed and purged, as an administrator would do it.
#
#   journey.sh OLD.deb NEW.deb
#
# A systemctl of our own says what it was asked for: there is no service manager in here.
set -euo pipefail
OLD=$1 NEW=$2
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
ASKED=/tmp/asked

say() { printf '  %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
asked() { grep -qF -- "$1" "$ASKED" || fail "systemctl was not asked: $1"; }
# Runs a noisy command; its output is shown only if it fails.
quietly() { "$@" >/tmp/log 2>&1 || { local code=$?; cat /tmp/log >&2; fail "$* ended with $code"; }; }
version() { dpkg-query -W -f='${Version}' sancerre; }

mkdir -p /run/systemd/system
# In the place of the real one: apt gives the scripts of packages a search path of its own.
quietly dpkg-divert --local --rename --add /usr/bin/systemctl
printf '#!/bin/sh\necho "$@" >> %s\n' "$ASKED" > /usr/bin/systemctl
chmod 755 /usr/bin/systemctl
: > "$ASKED"

say "install $OLD"
quietly apt-get install -y --no-install-recommends "$OLD"
asked daemon-reload
if grep -qE 'start|enable' "$ASKED"; then fail "the installation started something"; fi
sancerre --version
first=$(version)
quietly dpkg --verify sancerre
[[ $(stat -c %a /etc/sancerre) == 700 && $(stat -c %a /etc/sancerre/example.conf) == 600 ]] || fail "others can look at the keys"
quietly systemd-analyze verify --man=no /usr/lib/systemd/system/sancerre-backup@.service /usr/lib/systemd/system/sancerre-backup@.timer
bash -n /usr/share/bash-completion/completions/sancerre
zcat /usr/share/man/man1/sancerre-backup.1.gz | grep -q '^\.TH sancerre-backup 1' || fail "no manual page of backup"

say "init and backup"
mkdir -p /srv/disks
head -c 9000000 /dev/urandom > /srv/disks/web01.raw
truncate -s 64M /srv/disks/web01.raw
( umask 077; echo "a passphrase of the test" > /etc/passphrase )
export SANCERRE_REPOSITORY=/srv/backup SANCERRE_PASSWORD_FILE=/etc/passphrase
sancerre init --key-file /etc/sancerre/writer.key
sancerre backup --key-file /etc/sancerre/writer.key --vm web01 /srv/disks/web01.raw
cp /etc/sancerre/example.conf /etc/sancerre/web01.conf
echo "# seen by the administrator" >> /etc/sancerre/example.conf
mkdir -p /var/lib/sancerre /var/cache/sancerre/index /etc/systemd/system/timers.target.wants
touch /var/lib/sancerre/web01.prom
ln -s /usr/lib/systemd/system/sancerre-backup@.timer /etc/systemd/system/timers.target.wants/sancerre-backup@web01.timer

say "upgrade to $NEW"
: > "$ASKED"
quietly apt-get install -y --no-install-recommends "$NEW"
[[ $(version) != "$first" ]] || fail "it is still $first"
dpkg --compare-versions "$(version)" gt "$first" || fail "$(version) is not above $first"
if grep -qE 'stop|restart' "$ASKED"; then fail "the upgrade stopped something"; fi
grep -q "seen by the administrator" /etc/sancerre/example.conf || fail "the upgrade changed an edited file"
sancerre backup --key-file /etc/sancerre/writer.key --vm web01 /srv/disks/web01.raw
sancerre restore web01:latest:disk0 --target /srv/restored.raw
cmp /srv/disks/web01.raw /srv/restored.raw
sancerre check --key-file /etc/sancerre/writer.key

say "remove"
: > "$ASKED"
quietly apt-get remove -y sancerre
asked "stop sancerre-backup@*.timer"
asked daemon-reload
[[ ! -e /usr/bin/sancerre && ! -e /usr/lib/systemd/system/sancerre-backup@.timer ]] || fail "the program is still there"
[[ -s /etc/sancerre/example.conf && -s /etc/sancerre/writer.key && -s /etc/sancerre/web01.conf ]] || fail "remove took a configuration"

say "install again, and read what was left"
quietly apt-get install -y --no-install-recommends "$NEW"
sancerre snapshots --key-file /etc/sancerre/writer.key | grep -q web01 || fail "the repository is not read"

say "purge"
quietly apt-get purge -y sancerre
[[ ! -e /etc/sancerre/example.conf && ! -e /var/lib/sancerre && ! -e /var/cache/sancerre ]] || fail "purge left files of the package"
[[ ! -L /etc/systemd/system/timers.target.wants/sancerre-backup@web01.timer ]] || fail "purge left a link to a unit that is gone"
[[ -s /etc/sancerre/writer.key && -s /etc/sancerre/web01.conf ]] || fail "purge took a key or a configuration of the administrator"
[[ -d /srv/backup ]] || fail "purge took the repository"
if dpkg-query -W -f='${db:Status-Abbrev}' sancerre 2>/dev/null | grep -q '^[ir]'; then fail "dpkg still knows the package"; fi
say "ok"
