export SANCERRE_PASSWORD='correct horse battery'
export SANCERRE_REPOSITORY=/mnt/nas/backup
sancerre init -q --key-file /etc/sancerre/writer.key --writer hv1
for night in 1 2 3 4 5; do
    sancerre backup -q --key-file /etc/sancerre/writer.key --vm web01 /var/lib/libvirt/images/web01.raw
done
cat > /etc/sancerre/bucket.conf <<END
SANCERRE_REPOSITORY=s3://hospital-backup
SANCERRE_KEY_FILE=/etc/sancerre/bucket-keeper.key
AWS_ENDPOINT=https://s3.example.com
AWS_REGION=eu-central-1
AWS_ACCESS_KEY_ID=KEEPER_ID
AWS_SECRET_ACCESS_KEY=KEEPER_SECRET
END
(set -a; . /etc/sancerre/bucket.conf
unset SANCERRE_KEY_FILE
sancerre init -q --key-file hv.key --writer hv1
sancerre key add keeper vault --out /etc/sancerre/bucket-keeper.key
sancerre backup -q --key-file hv.key --vm web01 /var/lib/libvirt/images/web01.raw)
# Locks are asked for to the second: what was written in this one need not be locked for longer.
sleep 1.1
unset SANCERRE_REPOSITORY
