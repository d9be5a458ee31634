#!/bin/sh
# How much of the disk is used.
df -h /data
