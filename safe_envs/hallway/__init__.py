"""A cluttered hallway of walls, poles or motion-captured humanoids, seen by a robot with a depth camera."""
