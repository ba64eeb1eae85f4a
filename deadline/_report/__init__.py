"""What a block was awaiting and had done when its time was up."""
