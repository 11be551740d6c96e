. .run/site
sancerre backup -q --vm web01 /var/lib/libvirt/images/web01.raw
# A disk that was attacked.
cp /var/lib/libvirt/images/web01.raw web01.raw
dd if=/dev/zero of=web01.raw bs=1 seek=5000000 count=9 conv=notrunc status=none
