"""Configurations of DeepSpeed that ship with the package, for `--deepspeed zero2` and `--deepspeed zero3`."""
