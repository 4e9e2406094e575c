"""Files on a volume, and how they get there and back, whole: the side that is next to the volume, the side that is not, and what they say."""
