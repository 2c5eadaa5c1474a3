"""Plan and execute the steps of a pipeline file, each a stage with its inputs."""
