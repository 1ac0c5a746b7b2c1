//! The scripts, and calls to the server.

use std::sync::LazyLock;

use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, ToRedisArgs,
    aio::ConnectionLike,
};

use crate::store::redis::connections::Resend;

/// A script and the hash under which a server knows it.
#[derive(Debug)]
pub(super) struct ScriptCode {
    text: &'static str,
    hash: LazyLock<String, fn() -> String>,
}

macro_rules! code {
    ($name:ident: $($file:literal)+) => {
        pub(super) static $name: ScriptCode = ScriptCode {
            text: concat!($(include_str!($file)),+),
            hash: LazyLock::new(|| Script::new($name.text).get_hash().to_owned()),
        };
    };
}

code!(HOLD: "books.lua" "hold.lua");
code!(SETTLE: "books.lua" "soft.lua" "finish.lua" "settle.lua");
code!(ABANDON: "books.lua" "soft.lua" "finish.lua" "abandon.lua");
code!(PAY: "books.lua" "pay.lua");
code!(LIMITS: "books.lua" "soft.lua" "limits.lua");
code!(RECORD: "record.lua");
code!(CLAIM: "claim.lua");
code!(CREDIT_LINE: "credit_line.lua");
code!(TRANSACTIONS: "transactions.lua");
code!(INSTANCE: "instance.lua");

/// A command; if it calls a script, the server may have to load that first.
pub(super) struct RedisCall {
    code: Option<&'static ScriptCode>,
    command: Cmd,
    pub(super) resend: Resend,
}

impl RedisCall {
    /// A call of a script.
    pub(super) fn script(code: &'static ScriptCode, keys: &[String]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(code.hash.as_str()).arg(keys.len()).arg(keys);
        Self {
            code: Some(code),
            command,
            resend: Resend::Safe,
        }
    }

    /// A single command.
    pub(super) fn command(name: &str) -> Self {
        Self {
            code: None,
            command: redis::cmd(name),
            resend: Resend::Safe,
        }
    }

    /// Whether it may be resent without a note that it was: it may, unless set otherwise.
    pub(super) const fn resend(mut self, resend: Resend) -> Self {
        self.resend = resend;
        self
    }

    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sends it, in one round trip. If the server doesn't have the script yet, loads it and
    /// retries.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        connection: &mut (impl ConnectionLike + Send),
    ) -> Result<T, RedisError> {
        match (self.command.query_async(connection).await, self.code) {
            (Err(error), Some(code)) if is_unknown_script(&error) => {
                let mut load = redis::cmd("SCRIPT");
                let load = load.arg("LOAD").arg(code.text);
                load.exec_async(connection).await?;
                self.command.query_async(connection).await
            }
            (answer, _) => answer,
        }
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
