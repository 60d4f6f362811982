"""What several test modules use: processes under test, clients, small inputs."""
