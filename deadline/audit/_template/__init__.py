"""Reading a template: its nodes, intrinsics, and the worlds that its parameters make."""
