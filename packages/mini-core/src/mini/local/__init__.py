"""The local backend: worker processes, threads or the calling thread, on this machine."""
