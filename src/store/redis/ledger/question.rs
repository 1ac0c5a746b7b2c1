//! The scripts, and questions to the server.

use std::sync::LazyLock;

use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, ToRedisArgs,
    aio::ConnectionLike,
};

use crate::store::redis::connections::Repeat;

/// A script, and the name under which a server knows it.
#[derive(Debug)]
pub(super) struct Code {
    text: &'static str,
    hash: LazyLock<String, fn() -> String>,
}

macro_rules! code {
    ($name:ident: $($file:literal)+) => {
        pub(super) static $name: Code = Code {
            text: concat!($(include_str!($file)),+),
            hash: LazyLock::new(|| Script::new($name.text).get_hash().to_owned()),
        };
    };
}

code!(HOLD: "books.lua" "hold.lua");
code!(SETTLE: "books.lua" "finish.lua" "settle.lua");
code!(ABANDON: "books.lua" "finish.lua" "abandon.lua");
code!(PAY: "books.lua" "pay.lua");
code!(LIMITS: "books.lua" "limits.lua");
code!(RECORD: "record.lua");
code!(CLAIM: "claim.lua");
code!(LINE: "line.lua");
code!(MOVES: "moves.lua");
code!(INSTANCE: "instance.lua");

/// A command, of which the server may have to be taught the script first.
pub(super) struct Question {
    code: Option<&'static Code>,
    command: Cmd,
    pub(super) repeat: Repeat,
}

impl Question {
    /// A call of a script.
    pub(super) fn script(code: &'static Code, keys: &[String]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(code.hash.as_str()).arg(keys.len()).arg(keys);
        Self {
            code: Some(code),
            command,
            repeat: Repeat::Safe,
        }
    }

    /// One command.
    pub(super) fn command(name: &str) -> Self {
        Self {
            code: None,
            command: redis::cmd(name),
            repeat: Repeat::Safe,
        }
    }

    /// Whether it may be put twice without being told so: it may, unless set.
    pub(super) const fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    /// Asks, in one round trip. A server that doesn't have the script yet is handed it.
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
