-- The oldest version of the tables whose programs work with them as they are after this step; NULL: this one.
ALTER TABLE tollgate.migration ADD COLUMN IF NOT EXISTS works_from INTEGER;
