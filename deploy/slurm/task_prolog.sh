#!/bin/sh
# TaskProlog: Slurm sets for each task what this prints.
echo export HF_ENDPOINT=http://mirror.site:8400
echo export "HF_HOME=/local/huggingface/$SLURM_JOB_UID"
