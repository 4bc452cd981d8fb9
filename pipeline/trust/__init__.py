"""Who signed what a store says: TUF's metadata below `trust/`, for those who read a store and for those who write to it."""
