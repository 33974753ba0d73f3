"""What the Modal emulator costs, against what the machine and Modal's client take without it."""
