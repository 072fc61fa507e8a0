"""What Serve configuration files name: the application, and the files themselves."""
