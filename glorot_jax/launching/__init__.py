"""How parts of a sweep get onto machines: engines found, workers kept going, where all stand; launch/ is made of it."""
