-- Of a call of which nobody told what it used; NULL like false: what processes of before write.
ALTER TABLE tollgate.usage ADD COLUMN usage_is_missing BOOLEAN;
