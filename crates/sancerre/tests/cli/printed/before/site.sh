# A repository on the NAS with one night of web01, a writer's key and a keeper's; the passphrase is what a person types.
export SANCERRE_PASSWORD='correct horse battery'
export SANCERRE_REPOSITORY=/mnt/nas/backup SANCERRE_KEY_FILE=/etc/sancerre/writer.key
sancerre init -q --writer hv1 > init.txt
sancerre key add keeper vault --out /etc/sancerre/keeper.key
sancerre backup -q --vm web01 /var/lib/libvirt/images/web01.raw --attach /etc/libvirt/qemu/web01.xml
# The trust anchor that pages print.
printf 'SHA256:R+eve6otV99Xjyhsz/Z8Uknj/9UNKaTZBDdqjW51vqQ\t%s\n' "$(sed -n 's/^trust anchor *//p' init.txt)" > .placeholders
rm init.txt
