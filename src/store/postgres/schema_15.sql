-- Kinds of tokens, searches and a tier, for the calls that have any. As text: JSONB accepts no NUL, and no name may keep a
-- settlement out.
ALTER TABLE tollgate.usage ADD COLUMN IF NOT EXISTS details TEXT;
