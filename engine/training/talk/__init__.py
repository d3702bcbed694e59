"""From a text to a clip of a speaking anchor: voice, mouth and gestures, all made here, none of it recorded from a
person."""
