# The same in the bucket, with two nights, by the hypervisor's credentials; the sheet's code is what a person types.
(
    export SANCERRE_REPOSITORY=s3://hospital-backup SANCERRE_KEY_FILE=/etc/sancerre/writer.key
    export SANCERRE_PASSWORD='correct horse battery' AWS_ENDPOINT=https://s3.example.com AWS_REGION=eu-central-1
    export AWS_ACCESS_KEY_ID=HYPERVISOR_ID AWS_SECRET_ACCESS_KEY=HYPERVISOR_SECRET
    sancerre init -q --writer hv1 > init.txt
    sancerre key add keeper vault --out keeper.key
    for night in 1 2; do
        sancerre backup -q --vm web01 /var/lib/libvirt/images/web01.raw --attach /etc/libvirt/qemu/web01.xml
    done
    printf 'SHA256:R+eve6otV99Xjyhsz/Z8Uknj/9UNKaTZBDdqjW51vqQ\t%s\n' "$(sed -n 's/^trust anchor *//p' init.txt)" > .placeholders
    sancerre key paper | sed -n 's/^ *\(AGE-SECRET-KEY-.*\)/\1/p' > .typed
    rm init.txt keeper.key
)
