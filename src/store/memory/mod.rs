//! The engine in this process's memory: nothing survives a restart.
