#!/stacker/bin/sh
# Runs in "stacker chroot", where stacker lends its shell.
cat /etc/motd
