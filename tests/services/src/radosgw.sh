#!/bin/bash
# A Ceph of one monitor, one manager and one store in memory, and its S3 gateway, on loopback.
# Arguments: an empty folder, the gateway's port, two ports for the monitor, access key, secret key.
set -euo pipefail
D=$1 PORT=$2 MON2=$3 MON1=$4 ACCESS=$5 SECRET=$6
mkdir -p "$D"/{mon,osd,mgr,rgw,log}
FSID=$(cat /proc/sys/kernel/random/uuid) OSD=$(cat /proc/sys/kernel/random/uuid)
cat >"$D/ceph.conf" <<CONF
[global]
fsid = $FSID
mon host = [v2:127.0.0.1:$MON2,v1:127.0.0.1:$MON1]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
osd crush chooseleaf type = 0
telemetry = false
run dir = $D
keyring = $D/keyring
log file = $D/log/\$name.log
admin socket = $D/\$name.asok
pid file = $D/\$name.pid
[mon]
mon data = $D/mon
mon cluster log file = $D/log/cluster.log
[mgr]
mgr data = $D/mgr
[osd]
osd data = $D/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client]
rgw frontends = beast endpoint=127.0.0.1:$PORT
rgw data = $D/rgw
CONF
CONF="-c $D/ceph.conf" AS="--setuser root --setgroup root"
ceph-authtool --create-keyring "$D/keyring" --gen-key -n mon. --cap mon 'allow *'
for name in client.admin client.rgw mgr.x osd.0; do
    ceph-authtool "$D/keyring" --gen-key -n $name --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
done
monmaptool --create --fsid "$FSID" --addv a "[v2:127.0.0.1:$MON2,v1:127.0.0.1:$MON1]" "$D/monmap"
ceph-mon --mkfs -i a --monmap "$D/monmap" --keyring "$D/keyring" $CONF $AS
ceph-mon -i a $CONF $AS
ceph $CONF auth import -i "$D/keyring"
ceph-mgr -i x $CONF $AS
ceph $CONF osd new "$OSD"
ceph-osd -i 0 $CONF --mkfs --osd-uuid "$OSD" $AS
ceph-osd -i 0 $CONF $AS
radosgw -n client.rgw $CONF $AS
for _ in $(seq 300); do
    (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && break
    sleep 0.2
done
radosgw-admin $CONF user create --uid test --display-name test --access-key "$ACCESS" --secret-key "$SECRET"
