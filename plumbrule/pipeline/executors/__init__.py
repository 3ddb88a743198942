"""Who builds the nodes of a graph: this process, others of this machine, Ray, or Slurm."""
