# What every page finds: the folders of a host, a guest's disk that stands still, and its definition.
umask 022
mkdir -p /srv /mnt/nas /etc/sancerre /etc/cron.d /etc/libvirt/qemu /var/lib/libvirt/images /var/lib/node_exporter/textfile
chmod 700 /etc/sancerre
mkdir -p .guest/etc .guest/srv/share
echo web01 > .guest/etc/hostname
head -c 9000000 /dev/urandom > .guest/srv/share/plan.xlsx
mkfs.ext4 -q -d .guest /var/lib/libvirt/images/web01.raw 64M
echo '<domain/>' > /etc/libvirt/qemu/web01.xml
