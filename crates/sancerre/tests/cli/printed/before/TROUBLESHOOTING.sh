. .run/site
sancerre init -q -r other --key-file /srv/other.key --writer hv1
qemu-img convert -q -O qcow2 /var/lib/libvirt/images/web01.raw /srv/web01.img
truncate -s 0 /srv/empty.raw
# A pack that rots.
pack=$(find /mnt/nas/backup/zones/default/packs -name "00000000-*")
chmod u+w "$pack"
dd if=/dev/zero of="$pack" bs=1 seek=5000 count=9 conv=notrunc status=none
echo notes > /srv/notes.txt
