"""Where a job's command runs: on which of a machine's GPUs, on which nodes of a cluster."""
