"""What a run would take on devices that one does not have."""
