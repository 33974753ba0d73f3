"""mini-modal against Modal's own client, on the same emulator."""
