"""The embedded world: captioned clips of moving shapes, small models of the real classes, and an exact scorer."""
