"""What a model holds, which methods there are, what state this machine is in."""
