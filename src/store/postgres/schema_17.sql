-- To which budgets a correction gave something back, as JSON; '' for none, NULL in older rows.
ALTER TABLE tollgate.credit ADD COLUMN IF NOT EXISTS budgets TEXT;
