-- The window that rolls: as words, because a budget has none or all of it. NULL: it never had a limit of one.
ALTER TABLE tollgate.budget ADD COLUMN rolling TEXT;
