"""What a volume is: committed states, uploads, and the working copies of containers. Nothing here is a service."""
