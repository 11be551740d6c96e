# The scripts that the drop-in names.
printf "#!/bin/sh\n" > /etc/sancerre/snapshot-web01
cp /etc/sancerre/snapshot-web01 /etc/sancerre/remove-snapshot-web01
chmod 755 /etc/sancerre/*snapshot-web01
