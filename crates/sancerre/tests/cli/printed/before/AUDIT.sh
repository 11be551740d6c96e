export SANCERRE_REPOSITORY=/srv/backup SANCERRE_PASSWORD='correct horse battery'
sancerre init --key-file /etc/sancerre/writer.key --writer hv1
sancerre key add keeper vault --out /etc/sancerre/keeper.key
for night in 1 2 3 4; do
    head -c 3000000 /dev/urandom > disk.raw
    sancerre backup --key-file /etc/sancerre/writer.key --vm web01 disk.raw
done
sancerre gc --key-file /etc/sancerre/keeper.key
sancerre forget --key-file /etc/sancerre/keeper.key web01:latest~1
sancerre gc --key-file /etc/sancerre/keeper.key
REPOSITORY=/srv/backup TRUST=$(sancerre key list --key-file /etc/sancerre/writer.key | sed -n 's/^trust anchor *//p')
unset SANCERRE_PASSWORD
