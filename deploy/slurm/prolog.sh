#!/bin/sh
# Prolog, as root on each node before a job: the folder of the user on the node's own disk.
exec install --directory --mode 700 --owner "$SLURM_JOB_UID" "/local/huggingface/$SLURM_JOB_UID"
