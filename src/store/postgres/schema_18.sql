-- The soft limits of windows that have several; NULL where none has. The smallest of each stays in its own column, which is
-- all that processes of before read and write: where they change it, the others count no more.
ALTER TABLE tollgate.budget ADD COLUMN IF NOT EXISTS thresholds TEXT;
