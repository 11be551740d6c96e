. .run/bucket-site
mkdir .ssh
ssh-keygen -q -t ed25519 -C "" -N "" -f .ssh/id_ed25519
