. .run/site
unset SANCERRE_KEY_FILE
