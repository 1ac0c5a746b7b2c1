-- Of the tokens read, those that came from a cache, and those that were written to one.
ALTER TABLE tollgate.usage ADD COLUMN cached_tokens BIGINT, ADD COLUMN cache_write_tokens BIGINT;
