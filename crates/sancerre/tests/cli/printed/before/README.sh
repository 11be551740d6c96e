cp /var/lib/libvirt/images/web01.raw .
