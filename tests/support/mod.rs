//! Example servers as child processes, and clients for them: what the suites of all of them share.

#![allow(dead_code, unused_imports, reason = "each suite uses a part of it")]

mod call;
mod demo;
mod http2;
#[cfg(feature = "sqlite")]
mod keys;
mod raw;
mod server;

pub(crate) use call::{Answer, Call, Client};
pub(crate) use demo::Demo;
pub(crate) use http2::Http2;
pub(crate) use raw::{RawCall, silent};
pub(crate) use server::{Ended, Home, Launch, SECRET, Server};
