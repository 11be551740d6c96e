. .run/site
sancerre backup -q --vm web01 /var/lib/libvirt/images/web01.raw
unset SANCERRE_KEY_FILE
