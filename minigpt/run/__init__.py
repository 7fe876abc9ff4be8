"""Everything about files, devices, several processes and the shell."""
