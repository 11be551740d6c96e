# Typed at the terminal.
export SANCERRE_PASSWORD='correct horse battery'
