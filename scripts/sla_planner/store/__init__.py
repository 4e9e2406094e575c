"""Our own files on disk: profiles in, state in and out. The only room that knows their formats; every write is atomic."""
